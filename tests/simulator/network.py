"""What happens to messages on their way: delays, and while faults are on losses, repetitions, reorderings, damage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from configbus.protocol import Arrived, Event

if TYPE_CHECKING:
    from random import Random

    from simulator.clock import Clock
    from simulator.server import Push


@dataclass(slots=True)
class Odds:
    """How likely each fault is, per message or script."""

    lost: float = 0.0
    repeated: float = 0.0
    reordered: float = 0.0
    damaged: float = 0.0
    late: float = 0.0


class Network:
    """Carries what is pushed; a connection keeps its order unless a fault says otherwise."""

    def __init__(self, clock: Clock, random: Random, odds: Odds) -> None:
        self.odds = odds
        self._clock = clock
        self._random = random

    def delay(self) -> float:
        """One way, in seconds."""
        chance = self._random.random()
        return 0.0002 + 0.002 * chance if chance < 0.97 else 0.05 * self._random.random()

    def lateness(self) -> float:
        """Seconds by which a script's answer misses its time limit, and the script comes to run; mostly none."""
        return 2 * self._random.random() if self._random.random() < self.odds.late else 0.0

    def carry(self, push: Push, event: Event, *, whole: bool = False) -> None:
        random, odds = self._random, self.odds
        if not whole and random.random() < odds.lost:
            return
        if not whole and isinstance(event, Arrived) and random.random() < odds.damaged:
            event = Arrived(self._damaged(event.data))
        if not whole and random.random() < odds.reordered:
            self._clock.after(0.4 * random.random(), lambda: push.arrive(event))
            return
        push.last_arrival = max(push.last_arrival, self._clock.now + self.delay(), push.path.cut_until)
        self._clock.at(push.last_arrival, lambda: push.arrive(event))
        if not whole and random.random() < odds.repeated:
            self._clock.after(1.5 * random.random(), lambda: push.arrive(event))

    def _damaged(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        if self._random.random() < 0.3:
            return data[:at]
        return data[:at] + bytes([self._random.choice(b'0123456789abcdef"{},:\xff')]) + data[at + 1 :]
