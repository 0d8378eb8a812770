"""The driver of the simulated world: performs a follower's commands with virtual time, as the real drivers do."""

from __future__ import annotations

import traceback
from collections import deque
from typing import TYPE_CHECKING

from configbus import protocol
from configbus.protocol import DONE, Done, Event, Failed
from simulator.history import Vouched
from simulator.server import Broken, Push

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from random import Random

    from configbus.follow import Follower
    from simulator.clock import Clock
    from simulator.disk import Disk
    from simulator.history import History, Life
    from simulator.network import Network
    from simulator.poll import Poll

    Answer = Generator[float, None, Event]

RESTART_SECONDS = 0.5


class Driver:
    """One life of a worker. Nothing of it happens while it is paused, nor after it has ended."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        network: Network,
        poll: Poll,
        store: Callable[[], protocol.Reading | None],
        disk: Disk,
        follower: Follower,
        life: Life,
        history: History,
    ) -> None:
        self.redis = poll.redis
        self.follower = follower
        self.life = life
        self.push: Push | None = None
        self.poll = poll
        self.paused_until = 0.0
        self._clock = clock
        self._random = random
        self._network = network
        self._store = store
        self._disk = disk
        self._history = history
        self._inbox: deque[Event] = deque()
        self._waiting: float | None = None
        self._timer: float | None = None
        self._rest: object | None = None
        self._handed_over = 0
        self._began = 0.0
        self._ended = False
        self._start()

    def end(self, *, closed: bool) -> None:
        """The program is over: closed it writes what waits to be written, killed it does not."""
        self._ended = True
        if self.life.keeps:
            self._disk.end(closed=closed)
        self.life.end = self._clock.now
        for line in (self.push, self.poll.line):
            if line is not None:
                self.redis.drop(line)

    def pause(self, seconds: float) -> None:
        self.paused_until = self._clock.now + seconds
        self._clock.at(self.paused_until, self._notice)

    def refresh(self) -> None:
        self.life.asked.append(self._clock.now)
        if self._clock.now >= self.paused_until:
            self._wake()
            if self._rest is not None:
                self._rise(self._rest)

    def _start(self) -> None:
        self.follower.now = self._clock.now
        self._steps = self.follower.run()
        self._drive(lambda: next(self._steps))

    def _drive(self, step: Callable[[], protocol.Command]) -> None:
        """Go on from one command to the next until one takes time."""
        try:
            command = step()
            while (event := self._perform(command)) is not None:
                command = self._steps.send((event, self._clock.now))
        except Exception:  # noqa: BLE001  # whatever leaks is written down and fails the run
            self.life.leaks.append((self._clock.now, traceback.format_exc(limit=-3, chain=False)))
            self._later(RESTART_SECONDS, self._start)

    def _resume(self, event: Event) -> None:
        self._drive(lambda: self._steps.send((event, self._clock.now)))

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        self._at(self._clock.now + delay, action)

    def _at(self, instant: float, action: Callable[[], None]) -> None:
        def act() -> None:
            if self._ended:
                return
            if self._clock.now < self.paused_until:
                self._clock.at(self.paused_until, act)
            else:
                action()

        self._clock.at(instant, act)

    def _tell(self, what: str, facts: object = None) -> None:
        self._history.events.append((self._clock.now, self.life.name, what, facts))

    def _perform(self, command: protocol.Command) -> Event | None:
        """The outcome, or None if it comes later."""
        match command:
            case protocol.Receive(until):
                return self._receive(until)
            case protocol.Vouch(since):
                self.life.vouches.append(Vouched(self._clock.now, since, len(self.life.adoptions)))
                self._disk.vouch(since)
                self._tell("vouch", since)
            case protocol.Adopt(snapshot):
                self.life.adoptions.append((self._clock.now, snapshot))
                self._tell("adopt", snapshot)
            case protocol.Keep(state):
                shown = self.life.adoptions[-1][1]
                self.life.kept.append((self._clock.now, shown, state))
                self._disk.keep(state, shown)
            case protocol.Look():
                self._answer(self.poll.look(protocol.ANSWER_SECONDS), self._post)
            case protocol.Ping():
                return self._ping()
            case protocol.Read(names, seconds):
                self._began = self._clock.now
                self._answer(self.poll.read(names, seconds), self._resume)
                return None
            case protocol.ReadStore(seconds):
                self._answer(self._reading_store(seconds), self._resume)
                return None
            case protocol.Subscribe(seconds):
                self._answer(self._subscribing(seconds), self._resume)
                return None
            case protocol.Wait(shortest, longest):
                return self._wait(self._random.uniform(shortest, longest))
            case protocol.Refreshed(ticket, fault):
                self.life.answers.append((ticket, fault, self._began))
                self._tell(f"refreshed {ticket}", fault)
            case protocol.Report(_, event, facts):
                self._tell(event, facts)
        return DONE

    def _answer(self, steps: Answer, to: Callable[[Event], None]) -> None:
        """Let a question take its time."""

        def go_on() -> None:
            try:
                delay = next(steps)
            except StopIteration as end:
                to(end.value)
            else:
                self._later(delay, go_on)

        go_on()

    def _wait(self, seconds: float) -> Event | None:
        if (refresh := self._wanted()) is not None:
            return refresh
        self._rest = rest = object()
        self._later(seconds, lambda: self._rise(rest))
        return None

    def _rise(self, rest: object) -> None:
        """End a rest, unless it has ended already."""
        if rest is self._rest:
            self._rest = None
            self._resume(self._wanted() or DONE)

    def _wanted(self) -> protocol.Refresh | None:
        if self._handed_over == len(self.life.asked):
            return None
        self._handed_over = len(self.life.asked)
        return protocol.Refresh(self._handed_over)

    def _receive(self, until: float) -> Event | None:
        self._waiting = None
        if (refresh := self._wanted()) is not None:
            return refresh
        if self._inbox:
            return self._inbox.popleft()
        if self.push is None or (not self.push.alive and not self.push.queue):
            return protocol.Lost("closed by the server")
        if self.push.queue:
            return self.push.queue.popleft()
        if until <= self._clock.now:
            return protocol.Nothing()
        self._waiting = until
        if until != self._timer:
            self._timer = until
            self._at(until, lambda: self._wake(until))
        return None

    def _wake(self, until: float | None = None) -> None:
        """Receive again, if that is what is waited for; a timer only for its own instant."""
        if self._waiting is None or (until is not None and until != self._waiting):
            return
        event = self._receive(self._waiting)
        if event is not None:
            self._resume(event)

    def _notice(self) -> None:
        if not self._ended and self._clock.now >= self.paused_until:
            self._wake()

    def _post(self, event: Event) -> None:
        self._inbox.append(event)
        self._notice()

    def _subscribing(self, seconds: float) -> Answer:
        if self.push is not None:
            self.redis.drop(self.push)
        self.push = push = Push(self.poll.path, self._notice)
        yield self._network.delay()
        try:
            self.redis.connect(push)
        except Broken as broken:
            yield self._random.choice((0.0, seconds))
            return Failed(str(broken))
        self._clock.after(self._network.delay(), lambda: self.redis.subscribe(push))
        return DONE

    def _ping(self) -> Done | Failed:
        push = self.push
        if push is None or not push.alive:
            return Failed("connection lost")
        self._clock.after(self._network.delay(), lambda: self.redis.ping(push))
        return DONE

    def _reading_store(self, seconds: float) -> Answer:
        yield self._network.delay()
        reading = self._store()
        if reading is None:
            yield self._random.choice((0.0, seconds))
            return Failed("Postgres does not answer")
        yield self._network.delay()
        return reading
