"""Postgres as the simulated world knows it: servers, the releases on each, and what was lost when."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from configbus import wire
from configbus.protocol import Reading
from configbus.store.releases import FullState, Published
from configbus.wire import Entry, Head, Mark, Position
from simulator.blocks import Content, texts

if TYPE_CHECKING:
    from collections.abc import Mapping

BUS = "5e1ec7ed0b05"
SYSTEM = "7412589630147852369"
BEGAN = 1_700_000_000
"""Seconds since 1970 on the servers' clocks when the world begins."""


class PostgresDown(Exception):
    """The server does not answer."""


@dataclass(slots=True, eq=False)
class Truth:
    """A state that a server committed: when, and when it was lost; at once, if that server was not the truth then."""

    at: float
    head: Head
    entries: dict[str, Entry]
    releases: tuple[Published, ...]
    """All that led to it."""
    lost: float = math.inf
    hidden: bool = False
    """Redis did not hold it any more when it was lost: nothing but workers knew of it then."""


@dataclass(slots=True)
class Record:
    """What all servers together ever committed. `losses` are set-backs and failovers, `raises` the new epochs: when,
    and on which server. One by a relay that knew too little to get above the lost one must be followed by another,
    and does not count.
    """

    truths: dict[Position, list[Truth]] = field(default_factory=dict)
    contents: dict[Mark, Content | None] = field(default_factory=dict)
    large: set[Head] = field(default_factory=set)
    """Releases that do not fit into their announcement."""
    losses: list[float] = field(default_factory=list)
    raises: list[tuple[float, Postgres]] = field(default_factory=list)
    servers: list[Postgres] = field(default_factory=list)


class Postgres:
    """One server. `deposed` and `fenced` say from when on another one is the truth, and nobody reaches this one."""

    def __init__(self, record: Record, partner_limit: int, line: list[Truth], timeline: int = 1) -> None:
        self.record = record
        self.timeline = timeline
        self.down_until = 0.0
        self.deposed = math.inf
        self.fenced = math.inf
        self.line = line
        self._partner_limit = partner_limit
        record.servers.append(self)
        if not line:
            self._add(0.0, Head(BUS, SYSTEM, BEGAN * 1000 + timeline, 0, wire.EMPTY_STATE), {}, ())

    @property
    def truth(self) -> Truth:
        return self.line[-1]

    @property
    def head(self) -> Head:
        return self.line[-1].head

    @property
    def entries(self) -> dict[str, Entry]:
        return self.line[-1].entries

    def answers(self, now: float) -> bool:
        return self.down_until <= now < self.fenced

    def newest(self) -> FullState:
        return FullState(self.head, tuple(self.entries.values()))

    def reading(self, lag: int = 0) -> Reading:
        """The newest state as a worker that starts from Postgres gets it; from a standby that lags, an older one."""
        truth = self.line[max(len(self.line) - 1 - lag, 0)]
        index = {name: str(entry.mark) for name, entry in truth.entries.items()}
        blocks = {name: wire.entry_fields(entry) for name, entry in truth.entries.items()}
        return Reading(0, truth.head.fields(), index, blocks)

    def releases_after(self, until: Head, after: int, limit: int) -> tuple[Published, ...]:
        return self.truth.releases[after : min(until.revision, after + limit)]

    def state_at(self, revision: int) -> str:
        """The state after a release; that of nothing where there is no such release."""
        releases = self.truth.releases
        return releases[revision - 1].head.state if 0 < revision <= len(releases) else wire.EMPTY_STATE

    def commit(self, now: float, changes: Mapping[str, Content | None]) -> Published:
        """One transaction that gives these blocks these values; the first on a later timeline begins an epoch."""
        before, held = self.head, self.entries
        epoch, revision = before.epoch, before.revision + 1
        if self.timeline > epoch % 1000:
            epoch = epoch - epoch % 1000 + self.timeline
        made = {}
        for name, values in changes.items():
            others = sorted(changes.keys() - {name})
            partners = "*" if len(others) > self._partner_limit else others
            made[name] = _entry(name, revision, partners, values)
            self.record.contents[made[name].mark] = values
        old = [held[name].mark.digest for name in made if name in held]
        state = wire.xor(before.state, old + [entry.mark.digest for entry in made.values()])
        head = Head(BUS, SYSTEM, epoch, revision, state)
        release = Published(head, before.state, instant(now), tuple(made[name] for name in sorted(made)))
        self._add(now, head, held | made, (*self.truth.releases, release))
        return release

    def raise_epoch(self, now: float, expected: int, above: int) -> bool:
        """Begin a new history above everything named, unless somebody did since `expected` was read."""
        head = self.head
        if head.epoch != expected:
            return False
        seconds = max(int(BEGAN + now), head.epoch // 1000 + 1, above // 1000 + 1)
        raised = Head(BUS, SYSTEM, seconds * 1000 + self.timeline, head.revision, head.state)
        if raised.epoch > max(position.epoch for position in self.record.truths):
            self.record.raises.append((now, self))
        self._add(now, raised, self.entries, self.truth.releases)
        return True

    def holds_epochs(self, steps: int) -> bool:
        """Whether an epoch began in the last steps."""
        return self.line[-1 - steps].head.epoch != self.head.epoch

    def set_back(self, now: float, steps: int) -> None:
        """An older backup of this database takes its place, epoch included."""
        gone, self.line = self.line[-steps:], self.line[:-steps]
        self._lose(now, gone)

    def promote_standby(self, now: float, lost: int) -> Postgres:
        """A standby that has not seen the last commits takes over; this server goes on until it is fenced."""
        self.deposed = now
        stays = len(self.line) - lost
        self._lose(now, self.line[stays:])
        return Postgres(self.record, self._partner_limit, self.line[:stays], self.timeline + 1)

    def _lose(self, now: float, gone: list[Truth]) -> None:
        self.record.losses.append(now)
        for truth in gone:
            truth.lost = min(truth.lost, now)

    def _add(self, now: float, head: Head, entries: dict[str, Entry], releases: tuple[Published, ...]) -> None:
        truth = Truth(now, head, entries, releases, now if now >= self.deposed else math.inf)
        self.line.append(truth)
        self.record.truths.setdefault(head.position, []).append(truth)


def instant(now: float) -> str:
    return f"2025-01-01T00:00:{now:09.6f}Z"


def _entry(name: str, revision: int, partners: list[str] | str, values: Content | None) -> Entry:
    fields = {"@revision": str(revision), "@with": json.dumps(partners)}
    fields |= {"@retired": "true"} if values is None else texts(values)
    ordered = sorted(fields.items(), key=lambda pair: (len(pair[0]), pair[0]))
    return wire.make_entry(name, ordered, wire.digest_of(name, wire.entry_text(fields.items())))
