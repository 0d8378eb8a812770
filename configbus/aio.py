"""`AsyncConfigBus`: the driver for asyncio programs. Everything runs in the program's own loop.

A reader thread beside a busy loop would starve for seconds; a task in the loop waits for a few
chunks of work at most. Plain callbacks must therefore be quick; slow ones are coroutines.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from configbus import protocol
from configbus.aiolink import AsyncLink
from configbus.aiopoll import AsyncPoll
from configbus.aiosubscription import Subscription, is_cancelled
from configbus.change import Change, Pending, changes_between, read_target
from configbus.errors import Closed, ConfigBusError, NotInTime, Unavailable
from configbus.lastgood_file import LastGoodWriter
from configbus.link import pushed
from configbus.protocol import ANSWER_SECONDS, DONE, Failed
from configbus.reads import Reads, check_callback, now, offer_changes, plan, reached, read_store, report
from configbus.wire import Malformed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable

    from configbus.block import Block
    from configbus.reads import Plan
    from configbus.snapshot import Snapshot, State
    from configbus.wire import Release

    Callback = Callable[[Change[Any]], object]

C = TypeVar("C", bound="Callback")
T = TypeVar("T")

RESTART_SECONDS = 0.5
DRAIN_TURNS = 4
"""Turns of the loop in which bytes that wait in a socket become a message."""


class AsyncConfigBus(Reads):
    """A typed copy of the active configuration, kept current by a task. Make one with `connect`.

    In a child made by fork it is closed, as its event loop is: connect another one there.
    """

    def __init__(self, the_plan: Plan) -> None:
        self._plan = the_plan
        url = the_plan.settings.require("redis_url")
        name = the_plan.settings.worker
        self._push = AsyncLink(url, name)
        self._poll = AsyncPoll(the_plan)
        self._started = False
        self._closed = False
        self._inbox: deque[protocol.Event] = deque()
        self._reading: asyncio.Task[Any] | None = None
        self._nudged: asyncio.Future[None] | None = None
        self._turned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tickets = 0
        self._handed_over = 0
        self._refreshers: dict[int, asyncio.Future[str | None]] = {}
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._follower = the_plan.follower()
        self._writer = LastGoodWriter(the_plan.file) if the_plan.file is not None else None
        _buses.add(self)

    @classmethod
    def connect(
        cls,
        *,
        follow: Iterable[str] | None = None,
        require: str | None = None,
        start_timeout: float = 5.0,
        listed: bool = True,
        **options: Any,
    ) -> Connecting[Self]:
        """Await it for a bus, or use it in `async with`; see ConfigBus.connect for what it stands on and raises."""
        return Connecting(cls, plan(follow, require, start_timeout, options, listed=listed))

    @overload
    def on_change(self, target: str | type[Block]) -> Callable[[C], Subscription]: ...
    @overload
    def on_change(self, target: str | type[Block], callback: Callback) -> Subscription: ...
    def on_change(self, target: str | type[Block], callback: Callback | None = None) -> Any:
        """Call back with a Change for what is there now, and whenever it changes; also as a decorator.

        Callbacks may be coroutine functions; plain ones must be quick. Targets as in ConfigBus.on_change.
        """
        if callback is None:
            return lambda function: self.on_change(target, function)
        check_callback(callback, 1, coroutines=True)
        subscription = self._subscribe(target)
        subscription.task = self._spawn(subscription.call(callback, self._plan.logger))
        return subscription

    async def changes(self, target: str | type[Block] = "*") -> AsyncIterator[Change[Any]]:
        """What is there now, then every change, until the bus is closed; a slow reader sees the latest per block."""
        subscription = self._subscribe(target)
        try:
            while (change := await subscription.next()) is not None:
                yield change
        finally:
            subscription.cancel()

    def on_state(self, callback: Callable[[State, State], object]) -> None:
        """Call back, or await, with old and new state whenever the state changes."""
        check_callback(callback, 2, coroutines=True)
        self._refuse_closed("on_state")
        self._spawn(self._watch_state(callback, self.state))

    async def wait_for(self, release: Release | int, timeout: float = 5.0) -> None:  # noqa: ASYNC109  # the twin's name
        """Return once this bus shows the release (or revision) or a later one.

        Raises NotInTime (a TimeoutError), or Rejected where this worker holds a block of it back.
        """
        deadline = now() + timeout
        while not reached(self, release):
            self._refuse_closed("wait_for")
            if (remaining := deadline - now()) <= 0:
                raise NotInTime(
                    f"{release} did not arrive within {timeout} s; at revision {self.revision}, {self.state}"
                )
            await asyncio.wait([self._turned], timeout=remaining)

    async def refresh(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109  # the twin's name
        """Look at Redis now and return when that is done. Raises Unavailable or NotInTime."""
        self._refuse_closed("refresh")
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._tickets += 1
        self._refreshers[self._tickets] = answer
        self._nudge()
        try:
            fault = await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise NotInTime(f"Redis was not read within {timeout} s; the state is {self.state}") from None
        if fault is not None:
            raise Unavailable("Redis", fault)

    @property
    def closed(self) -> bool:
        """Whether the bus was closed: it still serves its last values, but follows nothing any more."""
        return self._closed

    async def close(self) -> None:
        """Follow no more; reads go on serving the last values. May be called twice, and from a callback.

        Callbacks that wait for something are cancelled.
        """
        if self._closed:
            return
        self._closed = True
        self._vouched = None
        for subscription in list(self._subscriptions):
            subscription.cancel()
        self._turn()
        own = asyncio.current_task()
        others = [task for task in self._tasks if task is not own]
        for task in others:
            task.cancel()
        self._nudge()
        self._answer_refreshers(self._tickets, "the bus was closed")
        if self._writer is not None:
            self._writer.end()  # even if this very call is cancelled
        if others:
            await asyncio.wait(others, timeout=2 * ANSWER_SECONDS)
        await self._poll.leave()
        await self._hang_up()
        if self._writer is not None:
            await asyncio.to_thread(self._writer.close)

    async def _hang_up(self) -> None:
        await self._drop_reading()
        await self._push.close()
        await self._poll.close()

    async def start(self) -> None:
        """What `connect` awaits: follow, and return once there is something to stand on. Raises NotReady."""
        self._spawn(self._follow())
        deadline = now() + self._plan.start_timeout
        while not (self._started and self._plan.is_ready(self)):
            if (remaining := deadline - now()) <= 0:
                error = self._plan.not_ready(self if self._started else None)
                await self.close()
                raise error
            await asyncio.wait([self._turned], timeout=remaining)

    def _subscribe(self, target: str | type[Block]) -> Subscription:
        self._refuse_closed("on_change")
        subscription = Subscription(Pending(read_target(target, self._plan.catalogue)), self._subscriptions)
        for change in changes_between(None, self._snapshot):
            subscription.offer(change)
        return subscription

    def _refuse_closed(self, action: str) -> None:
        if self._closed:
            raise Closed(f"{action}: the bus is closed; connect a new one")

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name="configbus")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _post(self, ask: Callable[[T], Awaitable[protocol.Event]], what: T) -> None:
        self._inbox.append(await ask(what))
        self._nudge()

    def _nudge(self, _done: object = None) -> None:
        if self._nudged is not None and not self._nudged.done():
            self._nudged.set_result(None)

    def _turn(self) -> None:
        """Wake whoever waits for a new snapshot or state."""
        turned, self._turned = self._turned, asyncio.get_running_loop().create_future()
        turned.set_result(None)

    async def _follow(self) -> None:
        """Until the bus is closed, or its event loop ends and cancels every task."""
        try:
            while not self._closed:
                try:
                    await self._drive()
                except Exception:
                    self._plan.logger.exception("follower_failed")
                    await asyncio.sleep(RESTART_SECONDS)
        finally:
            await self._hang_up()

    async def _drive(self) -> None:
        self._follower.now = now()
        steps = self._follower.run()
        command = next(steps)
        while not self._closed:
            event = await self._perform(command)
            command = steps.send((event, now()))

    async def _perform(self, command: protocol.Command) -> protocol.Event:
        match command:
            case protocol.Receive(until):
                return await self._receive(until)
            case protocol.Adopt(snapshot):
                self._adopt(snapshot)
            case protocol.Vouch(since):
                self._vouched = since
                self._turn()
                if self._writer is not None:
                    self._writer.vouch(now() - since)
            case protocol.Look():
                self._spawn(self._post(self._poll.look, now()))
            case protocol.Say(presence):
                self._spawn(self._post(self._poll.say, presence))
            case protocol.Subscribe() | protocol.Ping() | protocol.Read() | protocol.ReadStore():
                return await self._ask(command)
            case protocol.Wait(shortest, longest):
                return await self._pause(random.uniform(shortest, longest))  # noqa: S311  # jitter, not a secret
            case protocol.Refreshed(ticket, fault):
                self._answer_refreshers(ticket, fault)
            case protocol.Keep(state):
                if self._writer is not None:
                    self._writer.keep(state)
            case protocol.Report():
                report(command, self._plan)
        return DONE

    async def _ask(
        self, command: protocol.Subscribe | protocol.Ping | protocol.Read | protocol.ReadStore
    ) -> protocol.Event:
        try:
            match command:
                case protocol.Subscribe(seconds):
                    await self._drop_reading()
                    await self._push.close()
                    await self._push.send(("SUBSCRIBE", self._plan.keys.channel), seconds=seconds)
                case protocol.Ping():
                    await self._push.send(("PING",))
                case protocol.Read(names, seconds):
                    return await self._poll.read(names, seconds)
                case protocol.ReadStore(seconds):
                    return await asyncio.to_thread(read_store, self._plan.settings, seconds)
        except (ConfigBusError, Malformed) as error:
            return Failed(str(error))
        return DONE

    async def _receive(self, until: float) -> protocol.Event:
        drained = False
        while True:
            if (refresh := self._wanted_refresh()) is not None:
                return refresh
            if self._inbox:
                return self._inbox.popleft()
            if self._reading is None:
                self._reading = asyncio.create_task(self._push.receive(), name="configbus-push")
                self._reading.add_done_callback(self._nudge)
            if self._reading.done():
                done, self._reading = self._reading, None
                error = done.exception()
                if isinstance(error, ConfigBusError):
                    return protocol.Lost(str(error))
                return pushed(done.result())
            remaining = until - now()
            if self._closed:
                return protocol.Nothing()
            if remaining > 0:
                await self._sleep(remaining)
            elif drained:
                return protocol.Nothing()
            else:
                for _ in range(DRAIN_TURNS):
                    await asyncio.sleep(0)
                drained = True

    def _wanted_refresh(self) -> protocol.Refresh | None:
        if self._tickets == self._handed_over:
            return None
        self._handed_over = self._tickets
        return protocol.Refresh(self._handed_over)

    def _answer_refreshers(self, ticket: int, fault: str | None) -> None:
        for number in [number for number in self._refreshers if number <= ticket]:
            if not (answer := self._refreshers.pop(number)).done():
                answer.set_result(fault)

    async def _pause(self, seconds: float) -> protocol.Event:
        until = now() + seconds
        while not self._closed and (remaining := until - now()) > 0:
            if (refresh := self._wanted_refresh()) is not None:
                return refresh
            await self._sleep(remaining)
        return DONE

    async def _sleep(self, seconds: float) -> None:
        """Until nudged, or for so many seconds."""
        self._nudged = asyncio.get_running_loop().create_future()
        timer = asyncio.get_running_loop().call_later(seconds, self._nudge)
        try:
            await self._nudged
        finally:
            timer.cancel()

    async def _drop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    def _adopt(self, snapshot: Snapshot) -> None:
        before = self._snapshot if self._started else None
        self._snapshot = snapshot
        self._started = True
        offer_changes(before, snapshot, self._subscriptions)
        self._turn()

    async def _watch_state(self, callback: Callable[[State, State], object], told: State) -> None:
        while True:
            while (state := self.state) is told:
                await asyncio.wait([self._turned], timeout=self.seconds_to_expiry)
            try:
                outcome = callback(told, state)
                if inspect.isawaitable(outcome):
                    await outcome
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                self._plan.logger.exception("callback_failed", state=str(state), revision=self.revision)
            except Exception:
                self._plan.logger.exception("callback_failed", state=str(state), revision=self.revision)
            told = state


A = TypeVar("A", bound=AsyncConfigBus)


class Connecting(Generic[A]):
    """What `AsyncConfigBus.connect` returns: awaited it is a bus, in `async with` it is one that is closed behind."""

    def __init__(self, cls: type[A], the_plan: Plan) -> None:
        self._cls = cls
        self._plan = the_plan
        self._bus: A | None = None

    def __await__(self) -> Generator[Any, None, A]:
        return self._connect().__await__()

    async def __aenter__(self) -> A:
        self._bus = await self._connect()
        return self._bus

    async def __aexit__(self, *_error: object) -> None:
        if self._bus is not None:
            await self._bus.close()

    async def _connect(self) -> A:
        bus = self._cls(self._plan)
        try:
            await bus.start()
        except BaseException:
            await bus.close()
            raise
        return bus


_buses: weakref.WeakSet[AsyncConfigBus] = weakref.WeakSet()


def _end_in_child() -> None:
    for bus in list(_buses):
        bus._closed, bus._vouched = True, None  # noqa: SLF001  # of this very module


os.register_at_fork(after_in_child=_end_in_child)
