"""Redis as the simulated world knows it: hashes, a clock of its own, and connections that can die or fall silent."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from configbus.protocol import Arrived, Event, Pong, Subscribed
from configbus.wire import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.clock import Clock
    from simulator.network import Network
    from simulator.scripts import Data, Script

KEYS = Keys("configbus", "production")


class Broken(Exception):
    """The connection is gone, or there is nobody to connect to."""


class WrongType(Exception):
    """A hash was asked for, and the key holds something else."""


@dataclass(slots=True)
class Path:
    """The way of one client to Redis. While it is cut nothing passes; what was on its way is lost, or `held` back."""

    cut_until: float = 0.0
    holds: bool = False


class Line:
    """A connection as its client has it. A silent one swallows everything, and neither side is told."""

    def __init__(self, path: Path) -> None:
        self.alive = True
        self.silent = False
        self.path = path


class Push(Line):
    """A connection that messages come over; `notify` is called when something is there to be read."""

    def __init__(self, path: Path, notify: Callable[[], None]) -> None:
        super().__init__(path)
        self.queue: deque[Event] = deque()
        self.last_arrival = 0.0
        self._notify = notify

    def arrive(self, event: Event) -> None:
        if self.alive and not self.silent:
            self.queue.append(event)
            self._notify()

    def kill(self) -> None:
        self.alive = False
        self._notify()


class Redis:
    """One server. Its data may be swapped under its clients' feet, its connections only broken."""

    def __init__(self, clock: Clock, network: Network) -> None:
        self.data: Data = {}
        self.down_until = 0.0
        self.hung_until = 0.0
        self.offset = 1_735_689_600_000_000
        self._clock = clock
        self._network = network
        self._lines: list[Line] = []
        self._subscribers: list[Push] = []
        self._incarnation = 0

    @property
    def time(self) -> int:
        """TIME, in microseconds."""
        return int(self._clock.now * 1_000_000) + self.offset

    @property
    def up(self) -> bool:
        return self._clock.now >= self.down_until

    def connect(self, line: Line) -> Line:
        if not self.up or self.is_cut(line):
            raise Broken("connection refused")
        self._lines.append(line)
        return line

    @property
    def hangs(self) -> float:
        """Seconds until it answers again."""
        return max(self.hung_until - self._clock.now, 0.0)

    def reach(self, line: Line) -> None:
        """Nothing, if a command sent over this connection now would be received."""
        if not line.alive or line.silent or not self.up or self.is_cut(line):
            raise Broken("connection lost")

    def is_cut(self, line: Line) -> bool:
        return self._clock.now < line.path.cut_until

    def drop(self, line: Line) -> None:
        """Break a connection; its client sees it at the next use."""
        line.alive = False
        if line in self._lines:
            self._lines.remove(line)
        if isinstance(line, Push):
            if line in self._subscribers:
                self._subscribers.remove(line)
            line.kill()

    def drop_all(self) -> None:
        self._incarnation += 1
        for line in list(self._lines):
            self.drop(line)

    def subscribe(self, push: Push) -> None:
        if hangs := self.hangs:
            self._clock.after(hangs, lambda: self.subscribe(push))
        elif push.alive and self.up and not self.is_cut(push):
            self._subscribers.append(push)
            self._network.carry(push, Subscribed(), whole=True)

    def ping(self, push: Push) -> None:
        if hangs := self.hangs:
            self._clock.after(hangs, lambda: self.ping(push))
        elif push.alive and self.up and not self.is_cut(push):
            self._network.carry(push, Pong(), whole=True)

    def hash(self, key: str) -> dict[str, str]:
        """HGETALL. Raises WrongType."""
        value = self.data.get(key, {})
        if isinstance(value, str):
            raise WrongType(f"WRONGTYPE {key} is not a hash")
        return dict(value)

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str]) -> list[str]:
        """A script's answer. Broken where none comes in time: then it runs later, unless Redis restarts before."""
        if late := max(self.hangs, self._network.lateness()):
            self._clock.after(late, partial(self._run_late, self._incarnation, script, keys, arguments))
            raise Broken("no answer in time")
        return self._run(script, keys, arguments)

    def _run_late(self, incarnation: int, script: Script, keys: Sequence[str], arguments: Sequence[str]) -> None:
        if incarnation == self._incarnation:
            with suppress(Broken):
                self._run(script, keys, arguments)

    def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[str]) -> list[str]:
        try:
            answer, messages = script(self.data, keys, arguments)
        except TypeError as wrong:
            raise Broken(str(wrong)) from wrong
        for message in messages:
            self.publish(message.encode())
        return answer

    def publish(self, data: bytes) -> None:
        for push in self._subscribers:
            if not push.silent and (push.path.holds or not self.is_cut(push)):
                self._network.carry(push, Arrived(data))
