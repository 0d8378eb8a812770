"""`ConfigBus`: the driver for programs with threads. One thread follows, one looks at the head.

Callbacks run in a thread per subscription, never on the receiving path.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import select
import socket
import threading
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from configbus import protocol
from configbus.change import Change, Pending, changes_between, read_target
from configbus.errors import Closed, ConfigBusError, NotInTime, Unavailable
from configbus.lastgood_file import LastGoodWriter
from configbus.link import Link, pushed
from configbus.poll import Poll
from configbus.protocol import ANSWER_SECONDS, DONE, Failed
from configbus.reads import Reads, check_callback, now, offer_changes, plan, reached, read_store, report
from configbus.subscription import Subscription
from configbus.wire import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from configbus.block import Block
    from configbus.follow import Follower
    from configbus.reads import Plan
    from configbus.snapshot import Snapshot, State
    from configbus.wire import Release

    Callback = Callable[[Change[Any]], object]

C = TypeVar("C", bound="Callback")

RESTART_SECONDS = 0.5
_buses: weakref.WeakSet[ConfigBus] = weakref.WeakSet()
"""Those of this process, for its children."""


class ConfigBus(Reads):
    """A typed copy of the active configuration, kept current by a thread. Make one with `connect`.

    In a child made by fork it connects by itself when it is first used there, and calls each subscription anew with
    what is there; the parent's is left alone.
    """

    def __init__(self, the_plan: Plan) -> None:
        self._plan = the_plan
        self._started = False
        self._subscriptions: list[Subscription] = []
        self._watchers: list[Callable[[State, State], object]] = []
        self._prepare(the_plan.follower())
        _buses.add(self)

    def _prepare(self, follower: Follower) -> None:
        """Everything that belongs to one process alone: locks, queues, connections, threads not begun yet."""
        self._pid = os.getpid()
        self._follower = follower
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._inbox: deque[protocol.Event] = deque()
        url = self._plan.settings.require("redis_url")
        name = self._plan.settings.worker
        self._push = Link(url, worker=name)
        self._poll = Poll(self._plan, self._post)
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._tickets = 0
        self._handed_over = 0
        self._refreshers: dict[int, queue.SimpleQueue[str | None]] = {}
        self._writer = LastGoodWriter(self._plan.file) if self._plan.file is not None else None
        self._threads = [
            threading.Thread(target=target, name=f"configbus-{name}", daemon=True)
            for name, target in (("follow", self._follow), ("poll", self._poll.run))
        ]

    @classmethod
    def connect(
        cls,
        *,
        follow: Iterable[str] | None = None,
        require: str | None = None,
        start_timeout: float = 5.0,
        listed: bool = True,
        **options: Any,
    ) -> Self:
        """A bus that stands on Redis, else on Postgres (where `database_url` is set), else on the models' defaults.

        `follow` names blocks and domains (`"trading"`, `"strategy/*"`; everything by default). Returns within
        `start_timeout` seconds; raises NotReady where `require` ("known" or "live") is not met by then. Unless
        `listed` is false it keeps a hash in Redis that says where it stands: `configbus workers` shows it.
        Further options are settings: `redis_url`, `environment`, `namespace`, `domains`, `worker`, ...
        """
        bus = cls(plan(follow, require, start_timeout, options, listed=listed))
        bus._start()
        return bus

    @overload
    def on_change(self, target: str | type[Block]) -> Callable[[C], Subscription]: ...
    @overload
    def on_change(self, target: str | type[Block], callback: Callback) -> Subscription: ...
    def on_change(self, target: str | type[Block], callback: Callback | None = None) -> Any:
        """Call back with a Change for what is there now, and whenever it changes; also as a decorator.

        `target` is `"*"`, a class, a domain, a block (`"trading"`), all keys (`"strategy/*"`), or a field
        (`"trading.score_threshold"`). Returns a subscription with `cancel()`.
        """
        if callback is None:
            return lambda function: self.on_change(target, function)
        check_callback(callback, 1, coroutines=False)
        pending = Pending(read_target(target, self._plan.catalogue))
        self._wake_up()
        with self._changed:
            self._refuse_closed("on_change")
            subscription = Subscription(pending, callback, f"{target}", self._forget, self._plan.logger)
            self._subscriptions.append(subscription)
            for change in changes_between(None, self._snapshot):
                subscription.offer(change)
        return subscription

    def on_state(self, callback: Callable[[State, State], object]) -> None:
        """Call back with old and new state whenever the state changes."""
        check_callback(callback, 2, coroutines=False)
        self._wake_up()
        self._refuse_closed("on_state")
        self._watchers.append(callback)
        self._watch(callback)

    def wait_for(self, release: Release | int, timeout: float = 5.0) -> None:
        """Return once this bus shows the release (or revision) or a later one.

        Raises NotInTime (a TimeoutError), or Rejected where this worker holds a block of it back.
        """
        deadline = now() + timeout
        self._wake_up()
        with self._changed:
            while not reached(self, release):
                self._refuse_closed("wait_for")
                if not self._changed.wait(max(0.0, deadline - now())) and not reached(self, release):
                    raise NotInTime(
                        f"{release} did not arrive within {timeout} s; at revision {self.revision}, {self.state}"
                    )

    def refresh(self, timeout: float = 5.0) -> None:
        """Look at Redis now and return when that is done. Raises Unavailable or NotInTime."""
        self._wake_up()
        self._refuse_closed("refresh")
        answer: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with self._changed:
            self._tickets += 1
            self._refreshers[self._tickets] = answer
        self._nudge()
        try:
            fault = answer.get(timeout=timeout)
        except queue.Empty:
            raise NotInTime(f"Redis was not read within {timeout} s; the state is {self.state}") from None
        if fault is not None:
            raise Unavailable("Redis", fault)

    @property
    def closed(self) -> bool:
        """Whether the bus was closed: it still serves its last values, but follows nothing any more."""
        return self._closing.is_set()

    def close(self) -> None:
        """Follow no more; reads go on serving the last values. May be called twice, and from a callback."""
        if self._sleeps:
            self._snapshot, self._vouched = self._parents, None
            self._closing.set()
            return
        with self._changed:
            if self._closing.is_set():
                return
            self._closing.set()
            self._vouched = None
            subscriptions = list(self._subscriptions)
            self._changed.notify_all()
        for subscription in subscriptions:
            subscription.cancel()
        self._answer_refreshers(self._tickets, "the bus was closed")
        self._poll.end()
        self._nudge()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(2 * ANSWER_SECONDS)
        self._poll.drop()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _watch(self, callback: Callable[[State, State], object]) -> None:
        threading.Thread(
            target=self._watch_state, args=(callback, self.state), name="configbus-state", daemon=True
        ).start()

    # In a child made by fork.

    def _sleep_in_child(self) -> None:
        """Threads are gone, locks may be held for ever, connections are the parent's: do nothing until it is used."""
        if self._sleeps:
            self._asleep = threading.RLock()
            return
        for connection in (self._push, self._wake, self._waker):
            connection.close()
        self._poll.drop()
        self._changed = threading.Condition()
        ended = self._closing.is_set() or not self._started
        self._closing = threading.Event()
        if ended:
            self._closing.set()
            return
        self._threads = []
        self._parents = self.__dict__.pop("_snapshot")
        self._asleep = threading.RLock()

    @property
    def _sleeps(self) -> bool:
        return "_asleep" in self.__dict__ and "_snapshot" not in self.__dict__

    def _wake_up(self) -> None:
        """In a child made by fork this is a first use, which replaces locks: to be called before any is taken."""
        if self._sleeps:
            _ = self._snapshot

    def _wake_in_child(self) -> None:
        parent, settings = self._follower, self._plan.settings
        worker = f"{settings.worker.removesuffix(f':{self._pid}')}:{os.getpid()}"
        self._plan = replace(self._plan, settings=replace(settings, worker=worker))
        self._prepare(self._plan.follower(parent))
        self._snapshot = self._parents
        for subscription in self._subscriptions:
            subscription.restart(Pending(subscription.target), self._plan.logger)
        for change in changes_between(None, self._snapshot):
            for subscription in self._subscriptions:
                subscription.offer(change)
        for callback in self._watchers:
            self._watch(callback)
        for thread in self._threads:
            thread.start()

    def __getattr__(self, name: str) -> Any:
        if name == "_snapshot" and "_asleep" in self.__dict__:
            with self._asleep:
                if "_snapshot" not in self.__dict__:
                    self._wake_in_child()
                return self.__dict__["_snapshot"]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _start(self) -> None:
        for thread in self._threads:
            thread.start()
        deadline = now() + self._plan.start_timeout
        with self._changed:
            while not (self._started and self._plan.is_ready(self)):
                remaining = deadline - now()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            else:
                return
        error = self._plan.not_ready(self if self._started else None)
        self.close()
        raise error

    def _forget(self, subscription: Subscription) -> None:
        with self._changed:
            self._subscriptions = [kept for kept in self._subscriptions if kept is not subscription]

    def _refuse_closed(self, action: str) -> None:
        if self._closing.is_set():
            raise Closed(f"{action}: the bus is closed; connect a new one")

    def _post(self, event: protocol.Event) -> None:
        self._inbox.append(event)
        self._nudge()

    def _nudge(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._waker.send(b".")

    # The follower's thread.

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                self._drive()
            except Exception:
                self._plan.logger.exception("follower_failed")
                self._closing.wait(RESTART_SECONDS)
        self._push.close()
        self._wake.close()
        self._waker.close()

    def _drive(self) -> None:
        self._follower.now = now()
        steps = self._follower.run()
        command = next(steps)
        while not self._closing.is_set():
            event = self._perform(command)
            command = steps.send((event, now()))

    def _perform(self, command: protocol.Command) -> protocol.Event:
        match command:
            case protocol.Receive(until):
                return self._receive(until)
            case protocol.Adopt(snapshot):
                self._adopt(snapshot)
            case protocol.Vouch(since):
                with self._changed:
                    self._vouched = since
                    self._changed.notify_all()
                if self._writer is not None:
                    self._writer.vouch(now() - since)
            case protocol.Look():
                self._poll.look(now())
            case protocol.Say(presence):
                self._poll.say(presence)
            case protocol.Subscribe() | protocol.Ping() | protocol.Read() | protocol.ReadStore():
                return self._ask(command)
            case protocol.Wait(shortest, longest):
                return self._pause(random.uniform(shortest, longest))  # noqa: S311  # jitter, not a secret
            case protocol.Refreshed(ticket, fault):
                self._answer_refreshers(ticket, fault)
            case protocol.Keep(state):
                if self._writer is not None:
                    self._writer.keep(state)
            case protocol.Report():
                report(command, self._plan)
        return DONE

    def _ask(self, command: protocol.Subscribe | protocol.Ping | protocol.Read | protocol.ReadStore) -> protocol.Event:
        try:
            match command:
                case protocol.Subscribe(seconds):
                    self._push.close()
                    self._push.limit(seconds)
                    self._push.send(("SUBSCRIBE", self._plan.keys.channel))
                case protocol.Ping():
                    self._push.send(("PING",))
                case protocol.Read(names, seconds):
                    return self._poll.read(names, seconds)
                case protocol.ReadStore(seconds):
                    return read_store(self._plan.settings, seconds)
        except (ConfigBusError, Malformed) as error:
            return Failed(str(error))
        return DONE

    def _wanted_refresh(self) -> protocol.Refresh | None:
        if self._tickets == self._handed_over:
            return None
        self._handed_over = self._tickets
        return protocol.Refresh(self._handed_over)

    def _answer_refreshers(self, ticket: int, fault: str | None) -> None:
        with self._changed:
            due = [number for number in self._refreshers if number <= ticket]
            answers = [self._refreshers.pop(number) for number in due]
        for answer in answers:
            answer.put(fault)

    def _pause(self, seconds: float) -> protocol.Event:
        until = now() + seconds
        while not self._closing.is_set() and (remaining := until - now()) > 0:
            if (refresh := self._wanted_refresh()) is not None:
                return refresh
            self._sleep([self._wake.fileno()], remaining)
        return DONE

    def _sleep(self, descriptors: list[int], seconds: float) -> None:
        """Until one of the descriptors can be read, somebody nudges, or the time is over."""
        poller = select.poll()
        for descriptor in descriptors:
            poller.register(descriptor, select.POLLIN)
        poller.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _receive(self, until: float) -> protocol.Event:
        try:
            descriptors = [self._wake.fileno(), self._push.fileno()]
            while not self._closing.is_set():
                if (refresh := self._wanted_refresh()) is not None:
                    return refresh
                if self._inbox:
                    return self._inbox.popleft()
                if self._push.readable():
                    return pushed(self._push.receive())
                if (remaining := until - now()) <= 0:
                    return protocol.Nothing()
                self._sleep(descriptors, remaining)
        except ConfigBusError as error:
            return protocol.Lost(str(error))
        return protocol.Nothing()

    def _adopt(self, snapshot: Snapshot) -> None:
        with self._changed:
            before = self._snapshot if self._started else None
            self._snapshot = snapshot
            self._started = True
            offer_changes(before, snapshot, self._subscriptions)
            self._changed.notify_all()

    def _watch_state(self, callback: Callable[[State, State], object], told: State) -> None:
        while True:
            with self._changed:
                while (state := self.state) is told and not self._closing.is_set():
                    self._changed.wait(self.seconds_to_expiry)
                if self._closing.is_set():
                    return
            try:
                callback(told, state)
            except Exception:
                self._plan.logger.exception("callback_failed", state=str(state), revision=self.revision)
            told = state


def _sleep_in_child() -> None:
    for bus in list(_buses):
        bus._sleep_in_child()  # noqa: SLF001  # of this very module


os.register_at_fork(after_in_child=_sleep_in_child)
