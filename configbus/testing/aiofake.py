"""The fake of an AsyncConfigBus: callbacks run in the loop, each in its turn."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from configbus.aio import AsyncConfigBus
from configbus.aiosubscription import Subscription
from configbus.reads import check_callback, reached
from configbus.testing.memory import InMemory, raise_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from configbus.block import Block
    from configbus.change import Change, Pending
    from configbus.snapshot import Rejection, State
    from configbus.testing.memory import Callback, StateCallback
    from configbus.wire import Release


C = TypeVar("C", bound="Callback")


class _Awaited(Subscription):
    """A subscription whose callback may be a coroutine function, called in a task for each change."""

    def __init__(self, pending: Pending, callback: Callback, siblings: list[Subscription]) -> None:
        super().__init__(pending, siblings)
        self.callback = callback

    def take(self) -> Change[Any] | None:
        """What the callback is to be told of next, unless it is running."""
        return self._pending.take() if self.task is None or self.task.done() else None


class FakeAsyncBus(InMemory[Subscription], AsyncConfigBus):
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

    async def set_state(self, state: State, *, held: Mapping[str, Rejection] | None = None) -> None:
        """As FakeBus.set_state."""
        if (before := self._pretend(state, held)) is not state:
            for callback in self._watchers:
                self._begin(callback, before, state)
            await self._told()

    @overload
    def on_change(self, target: str | type[Block]) -> Callable[[C], Subscription]: ...
    @overload
    def on_change(self, target: str | type[Block], callback: Callback) -> Subscription: ...
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
        subscription = Subscription(self._pending(target), self._listeners)
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
        raise_all(failures)

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
