"""Buses for tests of programs that use configbus: values in memory, no server, no thread, no network.

    bus = fake_bus({"trading.score_threshold": "0.8", "strategy/market_maker.parameters.size": 1200})
    run_the_code_under_test(bus)
    bus.set_values({"trading.score_threshold": "0.9"})
    with bus.with_values({"risk.max_drawdown_pct": 15}): ...

They are a ConfigBus and an AsyncConfigBus to whoever takes one, and read, validate and tell of
changes by the same code. What only Postgres checks, `table_checks` in SQL, is not checked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import threading
from collections.abc import Mapping
from datetime import UTC
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, overload

from configbus import aio, client
from configbus.aio import AsyncConfigBus
from configbus.catalogue import load_catalogue
from configbus.change import Change, Pending, changes_between, read_target
from configbus.client import ConfigBus
from configbus.difference import same
from configbus.errors import Closed, Conflict, InvalidValue, NotInTime, Problem
from configbus.names import split_path
from configbus.reads import Offered, Reads, check_callback, offer_changes, reached
from configbus.settings import load_settings
from configbus.snapshot import Adopted, Snapshot, State
from configbus.values import default_texts, texts_of
from configbus.values import with_values as block_with
from configbus.wire import Mark, Position, Release

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from configbus.block import Block, Domain

    Callback = Callable[[Change[Any]], object]
    StateCallback = Callable[[State, State], object]

C = TypeVar("C", bound="Callback")
S = TypeVar("S", bound=Offered)

EPOCH = 1


def fake_bus(values: Mapping[str, Any] | None = None, *, domains: Iterable[str] | str | None = None) -> FakeBus:
    """A bus on the models' defaults and the given values, at revision 1.

    Paths are those of `Author.set`, and a block's name may stand with a mapping of its fields:
    `{"strategy/market_maker": {"parameters.size": 1200}}`. Naming a keyed block makes it exist, with `{}`
    on its defaults. `domains` are modules, by default those of CONFIGBUS_DOMAINS.
    Raises InvalidValue, UnknownBlock and UnknownField just as an author does, and SettingsError.
    """
    return FakeBus(values, domains)


def fake_async_bus(
    values: Mapping[str, Any] | None = None, *, domains: Iterable[str] | str | None = None
) -> FakeAsyncBus:
    """The same for asyncio programs; it may be made where no loop runs."""
    return FakeAsyncBus(values, domains)


class _InMemory(Reads, Generic[S]):
    """What both fakes share: the values, how a test changes them, and what is known of the state."""

    def __init__(self, values: Mapping[str, Any] | None, domains: Iterable[str] | str | None) -> None:
        self._catalogue = load_catalogue(domains_of(domains))
        self._listeners: list[S] = []
        self._watchers: list[StateCallback] = []
        self._pretended = State.LIVE
        self._finished = False
        nothing: dict[str, Adopted] = {}
        self._snapshot = self._snapshot_at(0, nothing)
        self._put({domain.name: {} for domain in self._catalogue if not domain.keyed} | dict(values or {}))

    @classmethod
    def connect(cls, **_options: Any) -> NoReturn:
        """There is nothing to connect to."""
        raise TypeError(f"{cls.__name__} connects to nothing: make one with fake_bus() or fake_async_bus()")

    @property
    def state(self) -> State:
        """LIVE, unless `set_state` said otherwise; STALE once closed."""
        return self._pretended

    @property
    def age(self) -> float:
        """0 while the state says that the copy is current, else infinite."""
        return 0.0 if self._pretended in (State.LIVE, State.PARTIAL) else math.inf

    @property
    def closed(self) -> bool:
        """Whether the bus was closed."""
        return self._finished

    @property
    def seconds_to_expiry(self) -> float | None:
        return None

    def _put(self, values: Mapping[str, Any]) -> Release:
        self._refuse_closed("set_values")
        return self._release(self._validated(values))

    def _retire(self, name: str) -> Release:
        self._refuse_closed("retire")
        if not self._catalogue.locate(name).keyed:
            raise Conflict(f"{name!r} has no keys and always has a value: only a keyed block can be retired")
        self.block(name)
        return self._release({name: None})

    def _put_back(self, before: Snapshot) -> None:
        """Make a release with everything as it was; a bus that was closed meanwhile stays as it is."""
        if not self._finished:
            gone = dict.fromkeys(self._snapshot.adopted.keys() - before.adopted.keys())
            self._release(gone | {name: was.block for name, was in before.adopted.items()})

    def _pretend(self, state: State) -> State:
        self._refuse_closed("set_state")
        before, self._pretended = self._pretended, state
        return before

    def _finish(self) -> None:
        self._finished = True
        self._pretended = State.STALE
        self._watchers.clear()

    def _refuse_closed(self, action: str) -> None:
        if self._finished:
            raise Closed(f"{action}: the bus is closed; make a new one")

    def _pending(self, target: str | type[Block]) -> Pending:
        """What a new subscription has not seen yet, which is everything there is."""
        self._refuse_closed("on_change")
        pending = Pending(read_target(target, self._catalogue))
        for change in changes_between(None, self._snapshot):
            pending.offer(change)
        return pending

    def _late(self, release: Release | int, timeout: float) -> Exception:
        return NotInTime(f"{release} did not arrive within {timeout} s; at revision {self.revision}, {self.state}")

    def _validated(self, values: Mapping[str, Any]) -> dict[str, Block]:
        """The blocks that these values make. Raises one InvalidValue for all that is wrong with them."""
        by_block: dict[str, list[tuple[list[str], Any]]] = {}
        for path, value in values.items():
            name, parts = split_path(path)
            domain = self._catalogue.locate(name)
            whole = not parts and isinstance(value, Mapping)
            within = [(below.split("."), part) for below, part in value.items()] if whole else [(parts, value)]
            for below, _ in within:
                self._catalogue.require_field(domain, below[0] if below else "")
            by_block.setdefault(name, []).extend(within)
        blocks: dict[str, Block] = {}
        found: list[Problem] = []
        for name in sorted(by_block):
            domain, present = self._catalogue.locate(name), self._present(name)
            texts = texts_of(present, set(domain.model.model_fields)) if present else default_texts(domain)
            try:
                blocks[name] = _as_stored(domain, block_with(domain, name, texts, by_block[name]))
            except InvalidValue as error:
                found += error.problems
        if found:
            raise InvalidValue(found)
        return blocks

    def _release(self, blocks: Mapping[str, Block | None]) -> Release:
        """Make these blocks the current ones, where they differ; the callbacks are still to be told."""
        before = self._snapshot
        changed = {name: block for name, block in blocks.items() if not same(self._present(name), block)}
        if not changed:
            return Release(before.revision, before.epoch, ())
        revision = before.revision + 1
        fresh = {name: Adopted(block, Mark(revision, "")) for name, block in changed.items()}
        self._snapshot = self._snapshot_at(revision, {**before.adopted, **fresh})
        offer_changes(before, self._snapshot, self._listeners)
        return Release(revision, EPOCH, tuple(sorted(changed)))

    def _present(self, name: str) -> Block | None:
        adopted = self._snapshot.adopted.get(name)
        return None if adopted is None else adopted.block

    def _snapshot_at(self, revision: int, adopted: dict[str, Adopted]) -> Snapshot:
        position = Position(EPOCH, revision)
        return Snapshot(position, "redis", MappingProxyType(adopted), MappingProxyType({}), self._catalogue)


class _Called(client.Subscription):
    """A subscription whose callback is called by whoever changes the values, in order and never within itself."""

    def __init__(self, pending: Pending, callback: Callback, siblings: list[_Called]) -> None:
        self._pending = pending
        self._callback = callback
        self._siblings = siblings
        self._calling = False
        siblings.append(self)

    def offer(self, change: Change[Any]) -> None:
        self._pending.offer(change)

    def cancel(self) -> None:
        """Call no more."""
        if self in self._siblings:
            self._siblings.remove(self)

    def call(self) -> list[Exception]:
        """Tell the callback of all it has not seen; what it raised."""
        if self._calling:
            return []
        failures: list[Exception] = []
        self._calling = True
        try:
            while self in self._siblings and (change := self._pending.take()) is not None:
                try:
                    self._callback(change)
                except Exception as error:  # noqa: BLE001  # it rises once everybody was told, as on a real bus
                    failures.append(error)
        finally:
            self._calling = False
        return failures


class FakeBus(_InMemory[_Called], ConfigBus):
    """A ConfigBus in memory; make one with `fake_bus`.

    Callbacks run in the thread that changes the values, before the call that changes them returns; what they
    raise rises from there. Change the values from one thread at a time; reads and `wait_for` are for any.
    """

    def __init__(self, values: Mapping[str, Any] | None, domains: Iterable[str] | str | None) -> None:
        super().__init__(values, domains)
        self._changed = threading.Condition()

    def set_values(self, values: Mapping[str, Any]) -> Release:
        """Make a release with these values, whose paths and errors are those of `fake_bus`, and tell the callbacks.

        Where no value differs nothing happens: the release returned is the current one, without blocks.
        """
        release = self._put(values)
        self._tell()
        return release

    def retire(self, name: str) -> Release:
        """Take a keyed block away. Raises UnknownBlock, and Conflict for a block without a key."""
        release = self._retire(name)
        self._tell()
        return release

    @contextlib.contextmanager
    def with_values(self, values: Mapping[str, Any]) -> Iterator[Release]:
        """`set_values` for a block of code; afterwards everything is as it was before, which is a release, too."""
        before = self._snapshot
        try:
            yield self.set_values(values)
        finally:
            self._put_back(before)
            self._tell()

    def set_state(self, state: State) -> None:
        """Show this state, and tell the callbacks of `on_state`; the values stay as they are."""
        if (before := self._pretend(state)) is not state:
            for callback in list(self._watchers):
                callback(before, state)

    @overload
    def on_change(self, target: str | type[Block]) -> Callable[[C], client.Subscription]: ...
    @overload
    def on_change(self, target: str | type[Block], callback: Callback) -> client.Subscription: ...
    def on_change(self, target: str | type[Block], callback: Callback | None = None) -> Any:
        """As ConfigBus.on_change, but the callback is called for what is there before this returns."""
        if callback is None:
            return lambda function: self.on_change(target, function)
        check_callback(callback, 1, coroutines=False)
        subscription = _Called(self._pending(target), callback, self._listeners)
        _rise(subscription.call())
        return subscription

    def on_state(self, callback: StateCallback) -> None:
        """Call back with old and new state whenever `set_state` changes it."""
        check_callback(callback, 2, coroutines=False)
        self._refuse_closed("on_state")
        self._watchers.append(callback)

    def wait_for(self, release: Release | int, timeout: float = 5.0) -> None:
        """Return once another thread's `set_values` has made the release; at once where it is there already."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished or reached(self, release), timeout)
        if not reached(self, release):
            self._refuse_closed("wait_for")
            raise self._late(release, timeout)

    def refresh(self, timeout: float = 5.0) -> None:  # noqa: ARG002  # of the interface; there is nothing to wait for
        """Nothing can be newer than what is here. Raises Closed."""
        self._refuse_closed("refresh")

    def close(self) -> None:
        """As ConfigBus.close: reads go on serving the last values."""
        self._finish()
        self._listeners.clear()
        with self._changed:
            self._changed.notify_all()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
        _rise([failure for subscription in list(self._listeners) for failure in subscription.call()])


class _Awaited(aio.Subscription):
    """A subscription whose callback may be a coroutine function, called in a task for each change."""

    def __init__(self, pending: Pending, callback: Callback, siblings: list[aio.Subscription]) -> None:
        super().__init__(pending, siblings)
        self.callback = callback

    def take(self) -> Change[Any] | None:
        """What the callback is to be told of next, unless it is running."""
        return self._pending.take() if self.task is None or self.task.done() else None


class FakeAsyncBus(_InMemory[aio.Subscription], AsyncConfigBus):
    """An AsyncConfigBus in memory; make one with `fake_async_bus`, and use it in `async with` where you like.

    What changes the values is awaited, and returns when all callbacks, coroutines too, have been told; what they
    raise rises from there, and what the first call of a new callback raises from the next thing awaited
    (`refresh()` serves). Within a callback these calls return without waiting.
    """

    def __init__(self, values: Mapping[str, Any] | None, domains: Iterable[str] | str | None) -> None:
        super().__init__(values, domains)
        self._moved = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    async def set_values(self, values: Mapping[str, Any]) -> Release:
        """As FakeBus.set_values."""
        release = self._put(values)
        await self._told()
        return release

    async def retire(self, name: str) -> Release:
        """As FakeBus.retire."""
        release = self._retire(name)
        await self._told()
        return release

    @contextlib.asynccontextmanager
    async def with_values(self, values: Mapping[str, Any]) -> AsyncIterator[Release]:
        """As FakeBus.with_values, in `async with`."""
        before = self._snapshot
        try:
            yield await self.set_values(values)
        finally:
            self._put_back(before)
            await self._told()

    async def set_state(self, state: State) -> None:
        """As FakeBus.set_state."""
        if (before := self._pretend(state)) is not state:
            for callback in self._watchers:
                self._begin(callback, before, state)
            await self._told()

    @overload
    def on_change(self, target: str | type[Block]) -> Callable[[C], aio.Subscription]: ...
    @overload
    def on_change(self, target: str | type[Block], callback: Callback) -> aio.Subscription: ...
    def on_change(self, target: str | type[Block], callback: Callback | None = None) -> Any:
        """As AsyncConfigBus.on_change."""
        if callback is None:
            return lambda function: self.on_change(target, function)
        check_callback(callback, 1, coroutines=True)
        subscription = _Awaited(self._pending(target), callback, self._listeners)
        self._tell()
        return subscription

    async def changes(self, target: str | type[Block] = "*") -> AsyncIterator[Change[Any]]:
        """As AsyncConfigBus.changes; nobody waits for a slow reader."""
        subscription = aio.Subscription(self._pending(target), self._listeners)
        try:
            while (change := await subscription.next()) is not None:
                yield change
        finally:
            subscription.cancel()

    def on_state(self, callback: StateCallback) -> None:
        """Call back, or await, with old and new state whenever `set_state` changes it."""
        check_callback(callback, 2, coroutines=True)
        self._refuse_closed("on_state")
        self._watchers.append(callback)

    async def wait_for(self, release: Release | int, timeout: float = 5.0) -> None:  # noqa: ASYNC109  # the twin's name
        """Return once another task's `set_values` has made the release; at once where it is there already."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not (self._finished or reached(self, release)):
                    await self._moved.wait()
        if not reached(self, release):
            self._refuse_closed("wait_for")
            raise self._late(release, timeout)

    async def refresh(self, timeout: float = 5.0) -> None:  # noqa: ARG002, ASYNC109  # of the interface
        """Return when all callbacks have been told of what is there."""
        self._refuse_closed("refresh")
        await self._told()

    async def close(self) -> None:
        """As AsyncConfigBus.close: reads go on, and callbacks that wait for something are cancelled."""
        self._finish()
        for subscription in list(self._listeners):
            subscription.cancel()
        for call in self._calls:
            if call is not asyncio.current_task():
                call.cancel()
        await self._told()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    def _tell(self) -> None:
        """Call every callback that has something to hear and is not running."""
        for subscription in list(self._listeners):
            if isinstance(subscription, _Awaited) and (change := subscription.take()) is not None:
                subscription.task = self._begin(subscription.callback, change)

    async def _told(self) -> None:
        """Wait until every callback has been told; raise what they raised. Within a callback, do not wait."""
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        self._tell()
        if asyncio.current_task() in self._calls:
            return
        while self._calls:
            await asyncio.wait(self._calls)
        failures, self._failures = self._failures, []
        _rise(failures)

    def _begin(self, callback: Callable[..., object], *told: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(_call(callback, *told), name="configbus-fake")
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if task.cancelled():
            return
        if (failure := task.exception()) is not None:
            self._failures.append(failure)
        self._tell()


async def _call(callback: Callable[..., object], *told: Any) -> None:
    outcome = callback(*told)
    if inspect.isawaitable(outcome):
        await outcome


def _rise(failures: Sequence[BaseException]) -> None:
    """Raise what callbacks raised: the one error, or several as a group."""
    if len(failures) > 1:
        raise BaseExceptionGroup("callbacks failed", failures)
    for failure in failures:
        raise failure


def domains_of(domains: Iterable[str] | str | None) -> tuple[str, ...]:
    """These modules, else those of CONFIGBUS_DOMAINS: no other setting matters to a bus in memory."""
    named = {name: value for name, value in os.environ.items() if name.startswith("CONFIGBUS_DOMAINS")}
    return load_settings(named, domains=domains, actor="test", worker="test").domains


def _as_stored(domain: Domain, block: Block) -> Block:
    """The block as Postgres gives it back: decimals with all their places, times in UTC."""
    kept: dict[str, Any] = {}
    for column in domain.columns:
        value = getattr(block, column.name)
        if value is None:
            continue
        if column.kind == "numeric":
            kept[column.name] = type(value)(f"{value:.{column.places}f}")
        elif column.kind == "timestamp":
            kept[column.name] = value.astimezone(UTC)
    return block.model_copy(update=kept)
