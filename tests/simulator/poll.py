"""The poll connection of a simulated worker: questions, and answers that come later, too late, or never."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configbus.protocol import Failed, Looked, LookFailed, Reading
from simulator.server import KEYS, Broken, Line, WrongType

if TYPE_CHECKING:
    from collections.abc import Generator
    from random import Random

    from simulator.clock import Clock
    from simulator.network import Network
    from simulator.server import Path, Redis

SLOW_ANSWERS = 0.05
"""Share of them, and none of these takes as long as 0.4 s one way."""


class Poll:
    """Opened at the first question and after a fault; `generation` counts openings."""

    def __init__(self, clock: Clock, random: Random, network: Network, redis: Redis, path: Path) -> None:
        self.path = path
        self.line: Line | None = None
        self.generation = 0
        self.redis = redis
        self._clock = clock
        self._random = random
        self._network = network

    def look(self, seconds: float) -> Generator[float, None, Looked | LookFailed]:
        asked = self._clock.now
        try:
            reading, generation = yield from self._ask((), seconds)
        except (Broken, WrongType) as fault:
            return LookFailed(str(fault))
        return Looked(asked, generation, reading.time, reading.head)

    def read(self, names: tuple[str, ...], seconds: float) -> Generator[float, None, Reading | Failed]:
        try:
            reading, _ = yield from self._ask(names, seconds)
        except (Broken, WrongType) as fault:
            return Failed(str(fault))
        return reading

    def _ask(self, names: tuple[str, ...], seconds: float) -> Generator[float, None, tuple[Reading, int]]:
        """What is read, and over which connection."""
        if self.line is None:
            try:
                self.line = self.redis.connect(Line(self.path))
            except Broken:
                yield seconds if self._clock.now < self.path.cut_until else 0.0
                raise
            self.generation += 1
        line, generation = self.line, self.generation
        try:
            yield self.delay()
            yield from self._hang(seconds)
            self.redis.reach(line)
            reading = yield from self.capture(names)
            yield self.delay()
            self.redis.reach(line)
        except Broken:
            yield seconds if line.silent or self.redis.is_cut(line) else 0.0
            self.redis.drop(line)
            if self.line is line:
                self.line = None
            raise
        return reading, generation

    def capture(self, names: tuple[str, ...]) -> Generator[float, None, Reading]:
        """One MULTI: everything of one moment."""
        yield from ()
        redis = self.redis
        blocks = {name: redis.hash(KEYS.block(name)) for name in names}
        return Reading(redis.time, redis.hash(KEYS.head), redis.hash(KEYS.index), blocks)

    def delay(self) -> float:
        delay = self._network.delay()
        return delay if self._random.random() >= SLOW_ANSWERS else 0.4 * self._random.random()

    def _hang(self, seconds: float) -> Generator[float, None, None]:
        if hangs := self.redis.hangs:
            yield min(hangs, seconds)
        if hangs > seconds:
            raise Broken("no answer in time")
