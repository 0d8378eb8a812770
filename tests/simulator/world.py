"""One run: Postgres, Redis, authors, relays and workers under faults by seed, then a while of quiet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from configbus.follow import Follower
from configbus.snapshot import Selection
from simulator import blocks, scripts
from simulator.clock import Clock
from simulator.driver import Driver
from simulator.faults import trouble
from simulator.history import History, Life
from simulator.network import Network, Odds
from simulator.poll import Poll
from simulator.postgres import Postgres
from simulator.publishers import Publisher, Relay, author
from simulator.server import Redis

if TYPE_CHECKING:
    from configbus.catalogue import Catalogue
    from simulator.scripts import Script

QUIET_SECONDS = 9.0
START_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a mutant may replace."""

    follower: type[Follower] = Follower
    poll: type[Poll] = Poll
    relay: type[Relay] = Relay
    publish: Script = scripts.publish
    stamp: Script = scripts.stamp


class Worker:
    """A place where a worker's program runs, again and again."""

    def __init__(self, name: str, catalogue: Catalogue, patterns: list[str] | None, *, has_store: bool) -> None:
        self.name = name
        self.catalogue = catalogue
        self.selection = Selection(catalogue, patterns)
        self.has_store = has_store
        self.driver: Driver | None = None


class World:
    """Everything that lives in one run, and what can be done to it."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.random = Random(seed)  # noqa: S311  # the same seed is the same world
        self.clock = Clock()
        self.network = Network(self.clock, self.random, self._odds())
        self.postgres = Postgres(partner_limit=self.random.choice((1, 32, 32)))
        self.redis = Redis(self.clock, self.network)
        self.history = History(seed, self.postgres)
        self.duration = self.random.uniform(4, 9)
        self.faulty = True
        self.damaged = False
        self.relays = [
            parts.relay(self.clock, self.publisher(parts), parts.stamp) for _ in range(self.random.choice((1, 1, 2)))
        ]
        self.workers = [self._worker(f"worker {number}") for number in range(self.random.choice((2, 3)))]
        self.copies: list[scripts.Data] = []
        self._parts = parts

    @property
    def left(self) -> float:
        """Seconds until the faults must be over."""
        return max(self.duration - self.clock.now, 0.0)

    def tell(self, who: str, what: str, facts: object = None) -> None:
        self.history.events.append((self.clock.now, who, what, facts))

    def publisher(self, parts: Parts) -> Publisher:
        return Publisher(self.clock, self.random, self.postgres, self.redis, self._pause, parts.publish)

    def release(self, names: list[str]) -> None:
        """A transaction that changes these blocks, and its author's own attempt to publish."""
        held = self.postgres.entries
        changes = {name: blocks.content(name, self.random) for name in names}
        changes = {name: value for name, value in changes.items() if value is not None or name in held}
        changes = {name: value for name, value in changes.items() if value is not None or not held[name].retired}
        if changes:
            release = self.postgres.commit(self.clock.now, changes)
            self.tell("postgres", f"release {release.head.revision}", changes)
            if self.random.random() < 0.1:
                self.postgres.large.add(release.head.position)
            self.clock.spawn(author(self.publisher(self._parts), release, self.random))

    def start(self, worker: Worker) -> None:
        """The worker's program begins anew."""
        if worker.driver is not None:
            worker.driver.end()
        life = Life(worker.name, worker.catalogue, worker.selection)
        self.history.lives.append(life)
        self.tell(worker.name, "starts")
        ready_by = self.clock.now + self.random.uniform(0.5, 4) if self.random.random() < 0.7 else None
        follower = self._parts.follower(worker.catalogue, worker.selection, ready_by, has_store=worker.has_store)
        poll = self._parts.poll(self.clock, self.random, self.network, self.redis)
        worker.driver = Driver(self.clock, self.random, self.network, poll, self.postgres, follower, life, self.history)

    def run(self) -> History:
        self.release(["trading", "risk", *self.random.choice(([], ["strategy/alpha"]))])
        for relay in self.relays:
            self.clock.after(self.random.expovariate(3), partial(self.clock.spawn, relay.run()))
        for worker in self.workers:
            self.clock.after(self.random.uniform(0, START_SECONDS), partial(self.start, worker))
        trouble(self)
        self.clock.run(self.duration)
        self._calm()
        self.clock.run(self.duration + QUIET_SECONDS)
        self.history.end = self.clock.now
        return self.history

    def _calm(self) -> None:
        """The faults stop. What no publisher repairs yet, an operator does: by emptying Redis."""
        self.faulty = False
        self.history.quiet = self.clock.now
        self.network.odds = Odds()
        self.redis.up, self.redis.hung_until = True, 0.0
        if self.damaged:
            self.redis.data.clear()
        self.tell("world", "quiet", "Redis emptied" if self.damaged else None)

    def _odds(self) -> Odds:
        rate = self.random.choice((0.0, 0.0, 0.1, 0.4))
        return Odds(*(rate * self.random.random() for _ in range(5)))

    def _pause(self) -> float:
        """Between two steps of a publisher: hardly any time, or seconds for one that was stopped."""
        random = self.random.random()
        if self.faulty and random < 0.02:
            return min(4 * self.random.random(), self.left)
        return 0.0002 + 0.003 * random

    def _worker(self, name: str) -> Worker:
        catalogue = self.random.choice((blocks.EASY, blocks.STRICT))
        patterns = self.random.choice(
            (None, None, ["trading", "strategy/*"], ["risk", "strategy/alpha"], ["trading", "risk"])
        )
        return Worker(name, catalogue, patterns, has_store=self.random.random() < 0.5)


def simulate(seed: int, parts: Parts | None = None) -> History:
    """The history of the world that this seed makes."""
    return World(seed, parts or Parts()).run()
