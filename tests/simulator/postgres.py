"""Postgres as the simulated world knows it: releases of one environment, in commit order, and what held when."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from configbus import wire
from configbus.protocol import Reading
from configbus.store.releases import FullState, Published
from configbus.wire import Entry, Head, Mark, Position
from simulator.blocks import Content, texts

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Commit:
    """When a position came into being, and when a failover lost it."""

    at: float
    position: Position
    lost: float = math.inf


class Postgres:
    """The truth. `partner_limit` is the number of partners above which `@with` names everything."""

    bus = "5e1ec7ed0b05"
    system = "7412589630147852369"

    def __init__(self, partner_limit: int) -> None:
        self.epoch = 1_700_000_000_001
        self._histories: dict[int, list[Published]] = {self.epoch: []}
        self.states: dict[Position, dict[str, Entry]] = {Position(self.epoch, 0): {}}
        self.contents: dict[Mark, Content | None] = {}
        self.commits: list[Commit] = []
        self.large: set[Position] = set()
        """Releases that do not fit into their announcement."""
        self._partner_limit = partner_limit

    @property
    def releases(self) -> list[Published]:
        return self._histories[self.epoch]

    @property
    def head(self) -> Head:
        state = self.releases[-1].head.state if self.releases else wire.EMPTY_STATE
        return Head(self.bus, self.system, self.epoch, len(self.releases), state)

    @property
    def entries(self) -> dict[str, Entry]:
        return self.states[self.head.position]

    def newest(self) -> FullState:
        return FullState(self.head, tuple(self.entries.values()))

    def reading(self) -> Reading:
        """The newest state as a worker that starts from Postgres gets it."""
        index = {name: str(entry.mark) for name, entry in self.entries.items()}
        return Reading(
            0, self.head.fields(), index, {name: wire.entry_fields(entry) for name, entry in self.entries.items()}
        )

    def releases_after(self, until: Head, after: int, limit: int) -> list[Published]:
        return self.releases[after : min(until.revision, after + limit)]

    def commit(self, now: float, changes: Mapping[str, Content | None]) -> Published:
        """One transaction that gives these blocks these values."""
        before, revision = self.head, len(self.releases) + 1
        held = self.entries
        made = {}
        for name, values in changes.items():
            others = sorted(changes.keys() - {name})
            partners = "*" if len(others) > self._partner_limit else others
            made[name] = _entry(name, revision, partners, values)
            self.contents[made[name].mark] = values
        old = [held[name].mark.digest for name in made if name in held]
        state = wire.xor(before.state, old + [entry.mark.digest for entry in made.values()])
        head = Head(self.bus, self.system, self.epoch, revision, state)
        release = Published(head, before.state, instant(now), tuple(made[name] for name in sorted(made)))
        self.releases.append(release)
        self.states[head.position] = held | made
        self.commits.append(Commit(now, head.position))
        return release

    def released(self, position: Position) -> list[Published]:
        """The releases that led to a position."""
        return self._histories[position.epoch][: position.revision]

    def promote(self, now: float, lost: int) -> None:
        """A standby that has not seen the last releases takes over, and the epoch rises at once."""
        stays = len(self.releases) - lost
        kept, gone = self.releases[:stays], {release.head.position for release in self.releases[stays:]}
        entries = self.states[kept[-1].head.position] if lost else self.entries
        for commit in self.commits:
            if commit.position in gone:
                commit.lost = now
        self.epoch += 1
        self._histories[self.epoch] = kept
        self.states[self.head.position] = entries
        self.commits.append(Commit(now, self.head.position))


def instant(now: float) -> str:
    return f"2025-01-01T00:00:{now:09.6f}Z"


def _entry(name: str, revision: int, partners: list[str] | str, values: Content | None) -> Entry:
    fields = {"@revision": str(revision), "@with": json.dumps(partners)}
    fields |= {"@retired": "true"} if values is None else texts(values)
    ordered = sorted(fields.items(), key=lambda pair: (len(pair[0]), pair[0]))
    return wire.make_entry(name, ordered, wire.digest_of(name, wire.entry_text(fields.items())))
