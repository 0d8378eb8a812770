"""One run: Postgres, Redis, authors, relays and workers under faults by seed, then a while of quiet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Literal

from configbus.follow import Follower
from configbus.publication import differences
from configbus.snapshot import Selection
from simulator import blocks, scripts
from simulator.clock import Clock
from simulator.disk import Disk
from simulator.driver import Driver
from simulator.faults import trouble
from simulator.history import History, Life
from simulator.network import Network, Odds
from simulator.poll import Poll
from simulator.postgres import Postgres, Record
from simulator.publishers import Publisher, author
from simulator.relays import Relay
from simulator.server import KEYS, Path, Redis

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.catalogue import Catalogue
    from configbus.protocol import Reading
    from configbus.publication import Difference
    from configbus.wire import Position
    from simulator.scripts import Script

QUIET_SECONDS = 6.5
REPAIRED_SECONDS = 3.0
"""After the last fault Redis holds everything: a relay needs one comparison, and one more behind a late script."""
START_SECONDS = 1.0

Memory = Literal["file", "no file", "old file"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a mutant may replace."""

    follower: type[Follower] = Follower
    poll: type[Poll] = Poll
    publisher: type[Publisher] = Publisher
    relay: type[Relay] = Relay
    publish: Script = scripts.publish
    stamp: Script = scripts.stamp


@dataclass(slots=True)
class Worker:
    """A place where a worker's program runs, again and again."""

    name: str
    catalogue: Catalogue
    selection: Selection
    has_store: bool
    keeps: bool
    disk: Disk
    path: Path
    driver: Driver | None = None


class World:
    """Everything that lives in one run, and what can be done to it."""

    def __init__(self, seed: int, parts: Parts) -> None:
        self.random = Random(seed)  # noqa: S311  # the same seed is the same world
        self.clock = Clock()
        self.network = Network(self.clock, self.random, self._odds())
        self.record = Record()
        self.postgres = Postgres(self.record, self.random.choice((1, 32, 32)), [])
        self.redis = Redis(self.clock, self.network)
        self.history = History(seed, self.record)
        self.duration = self.random.uniform(4, 9)
        self.lost: Position | None = None
        self.copies: list[scripts.Data] = []
        self.relays: list[Relay] = []
        self._parts = parts
        self.workers = [self._worker(f"worker {number}") for number in range(self.random.choice((2, 3)))]

    @property
    def left(self) -> float:
        """Seconds until the faults must be over."""
        return max(self.duration - self.clock.now, 0.0)

    @property
    def redis_must_stay(self) -> bool:
        """Whether Redis alone knows a history above that of Postgres, which was set back, or which an old primary
        began: if Redis is set back, too, nobody can know.
        """
        position, epoch = self.postgres.head.position, self.postgres.head.epoch
        return (self.lost is not None and position <= self.lost) or any(
            server.head.epoch > epoch for server in self.record.servers
        )

    def tell(self, who: str, what: str, facts: object = None) -> None:
        self.history.events.append((self.clock.now, who, what, facts))

    def release(
        self,
        names: list[str],
        content: Callable[[str, Random], blocks.Content | None] = blocks.content,
    ) -> None:
        """A transaction that changes these blocks, and its author's own attempt to publish; some authors still write
        to an old primary. A server that is down is written to when it is back.
        """
        server = self.postgres
        zombies = [old for old in self.record.servers if old is not server and old.answers(self.clock.now)]
        if zombies and len(names) > 1 and self.random.random() < 0.5:
            server = self.random.choice(zombies)
        if not server.answers(self.clock.now):
            self.clock.at(server.down_until, partial(self.release, names, content))
            return
        held = server.entries
        changes = {name: content(name, self.random) for name in names}
        changes = {name: value for name, value in changes.items() if value is not None or name in held}
        changes = {name: value for name, value in changes.items() if value is not None or not held[name].retired}
        if changes:
            release = server.commit(self.clock.now, changes)
            self.tell("postgres" if server is self.postgres else "zombie", f"release {release.head.revision}", changes)
            if self.random.random() < 0.1:
                self.record.large.add(release.head)
            self.clock.spawn(author(self._publisher(server), release, self.random))

    def promote(self, server: Postgres) -> None:
        """Another server is the truth from now on. Relays of its own find it, and some of the old one's."""
        for relay in self.relays:
            if self.random.random() < 0.3:
                relay.publisher.server = server
        self.postgres = server
        self._add_relay()

    def fence(self, server: Postgres) -> None:
        """Nobody reaches this server any more; its relays are sent to the one that is the truth, or end."""
        server.fenced = self.clock.now
        self.tell("world", "fenced", f"the primary of timeline {server.timeline}")
        for relay in self.relays:
            if relay.publisher.server is server:
                relay.publisher.server = self.postgres
                relay.ended = self.random.random() < 0.5

    def restart(self, worker: Worker, memory: Memory = "file") -> None:
        """The worker's program begins anew: with the file that the one before left, none, or an older one."""
        if worker.driver is not None:
            worker.driver.end(closed=self.random.random() < 0.5)
        if memory == "no file" or (memory == "old file" and not worker.disk.put_back()):
            worker.disk.lose()
        found = worker.disk.read() if worker.keeps else None
        base = worker.disk.file.shown if found is not None and worker.disk.file is not None else None
        life = Life(worker.name, worker.catalogue, worker.selection, worker.keeps, found, base)
        self.history.lives.append(life)
        self.tell(worker.name, "starts", found and f"from a file of {found.head.position}")
        by = self.clock.now + self.random.uniform(0.3, 3)
        follower = self._parts.follower(
            worker.catalogue,
            worker.selection,
            by if self.random.random() < 0.7 else None,
            has_store=worker.has_store,
            last_good=found,
            last_good_at=by,
            keeps=worker.keeps,
        )
        poll = self._parts.poll(self.clock, self.random, self.network, self.redis, worker.path)
        worker.driver = Driver(
            self.clock, self.random, self.network, poll, self._store, worker.disk, follower, life, self.history
        )

    def run(self) -> History:
        self.release(["trading", "risk", *self.random.choice(([], ["strategy/alpha"]))])
        for _ in range(self.random.choice((1, 1, 2))):
            self._add_relay()
        for worker in self.workers:
            self.clock.after(self.random.uniform(0, START_SECONDS), partial(self.restart, worker))
        trouble(self)
        self.clock.run(self.duration)
        self.history.quiet = self.clock.now
        self.network.odds = Odds()
        self.tell("world", "quiet")
        self.clock.run(self.duration + REPAIRED_SECONDS)
        self.history.differences = self._differences()
        self.clock.run(self.duration + QUIET_SECONDS)
        self.history.end = self.clock.now
        self.history.truth = self.postgres.truth
        return self.history

    def _differences(self) -> list[Difference]:
        """What is wrong in Redis."""
        truth = self.postgres.truth
        head, index = (self._hash(key) for key in (KEYS.head, KEYS.index))
        return list(
            differences(
                truth.head, truth.entries, head, index, {name: self._hash(KEYS.block(name)) for name in truth.entries}
            )
        )

    def _hash(self, key: str) -> dict[str, str]:
        found = self.redis.data.get(key, {})
        return found if isinstance(found, dict) else {"": "not a hash"}

    def _add_relay(self) -> None:
        publisher = self._publisher(self.postgres)
        self.relays.append(relay := self._parts.relay(self.clock, publisher, self._parts.stamp, self.tell))
        self.clock.after(min(self.random.expovariate(3), self.left), partial(self.clock.spawn, relay.run()))

    def _publisher(self, server: Postgres) -> Publisher:
        return self._parts.publisher(self.clock, self.random, server, self.redis, self._pause, self._parts.publish)

    def _store(self) -> Reading | None:
        """What a worker reads that starts from Postgres: from any server, or a standby that lags; not from one that
        just began a history which nobody else knows of.
        """
        answering = [
            server
            for server in self.record.servers
            if server.answers(self.clock.now) and server.head.epoch <= self.postgres.head.epoch
        ]
        if not answering or self.random.random() < 0.4:
            return None
        return self.random.choice(answering).reading(self.random.choice((0, 0, 0, 1, 2)))

    def _odds(self) -> Odds:
        rate = self.random.choice((0.0, 0.0, 0.1, 0.4))
        return Odds(*(rate * self.random.random() for _ in range(5)))

    def _pause(self) -> float:
        """Between two steps of a publisher: hardly any time, or seconds for one that was stopped."""
        random = self.random.random()
        if random < 0.02 and self.left:
            return min(4 * self.random.random(), self.left)
        return 0.0002 + 0.003 * random

    def _worker(self, name: str) -> Worker:
        random = self.random
        catalogue = random.choice((blocks.EASY, blocks.STRICT))
        patterns = random.choice(
            (None, None, ["trading", "strategy/*"], ["risk", "strategy/alpha"], ["trading", "risk"])
        )
        disk = Disk(self.clock, random)
        has_store, keeps = random.random() < 0.5, random.random() < 0.7
        return Worker(name, catalogue, Selection(catalogue, patterns), has_store, keeps, disk, Path())


def simulate(seed: int, parts: Parts | None = None) -> History:
    """The history of the world that this seed makes."""
    return World(seed, parts or Parts()).run()
