"""What workers wrote down while something was broken, and what Postgres held: material for the checker."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from configbus.domains import DiscoveryConfig, RiskConfig, TradingConfig
from configbus.reads import now
from configbus.wire import Position

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from configbus.block import Block

Values = dict[str, dict[str, Any]]
"""The whole values of the three domains, as JSON, by block name."""

MODELS: dict[str, type[Block]] = {"trading": TradingConfig, "risk": RiskConfig, "discovery": DiscoveryConfig}

RELEASES = "SELECT revision, epoch, released_at FROM configbus.release WHERE environment = 'production' ORDER BY 1"
CONTENTS = (
    "SELECT revision, name, content::text FROM configbus.release_block"
    " WHERE environment = 'production' AND name = ANY(%s) ORDER BY revision"
)
RAISES = (
    "SELECT (new_values ->> 'epoch')::bigint, performed_at FROM configbus.config_audit_log"
    " WHERE environment = 'production' AND action = 'epoch' ORDER BY 1"
)
ACTIVE = (
    "SELECT configbus.content(t)::text FROM configbus.{}_config AS t"
    " WHERE status = 'active' AND environment = 'production'"
)


@dataclass(frozen=True, slots=True)
class Commit:
    """A release: when it was committed, and everything that Postgres holds from then on."""

    at: float
    position: Position
    values: Values


@dataclass(frozen=True, slots=True)
class Adoption:
    """A snapshot that a worker took, from this instant on."""

    at: float
    position: Position
    origin: str
    held: tuple[str, ...]
    values: Values


@dataclass(frozen=True, slots=True)
class Call:
    """A callback begins (`enter`) or is over."""

    at: float
    enter: bool
    subscription: str
    block: str
    revision: int
    values: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """The application was told that the state changed."""

    at: float
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker said of itself at an instant: its state, and after that where it stood."""

    at: float
    state: str
    position: Position


@dataclass(slots=True)
class Life:
    """One worker from its connection to its end; `left` are threads, descriptors and tasks that outlived it, which
    only one that the test `killed` does not write down.
    """

    worker: str
    adoptions: list[Adoption] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    killed: bool = False


def read_life(path: Path, *, killed: bool = False) -> Life:
    """A life from its lines."""
    life = Life(path.stem, killed=killed)
    for line in path.read_text(encoding="utf8").splitlines():
        match json.loads(line):
            case ["adoption", at, epoch, revision, origin, held, values]:
                life.adoptions.append(Adoption(at, Position(epoch, revision), origin, tuple(held), values))
            case ["enter", at, subscription, block, revision, values]:
                life.calls.append(Call(at, True, subscription, block, revision, values))
            case ["leave", at, subscription, block, revision]:
                life.calls.append(Call(at, False, subscription, block, revision))
            case ["told", at, old, new]:
                life.told.append(Told(at, old, new))
            case ["sample", at, state, epoch, revision]:
                life.samples.append(Sample(at, state, Position(epoch, revision)))
            case ["left", left]:
                life.left = left
            case other:
                raise AssertionError(f"{path.name} holds {other!r}")
    return life


def read_commits(database_url: str) -> list[Commit]:
    """Every release of Postgres, and every epoch begun by hand or by a relay, in order; instants are on the clock of
    the workers.
    """
    with psycopg.connect(database_url) as connection:
        releases = connection.execute(RELEASES).fetchall()
        contents = connection.execute(CONTENTS, [list(MODELS)]).fetchall()
        raises = connection.execute(RAISES).fetchall()
    offset = time.time() - now()
    by_revision: dict[int, Values] = {}
    for revision, name, content in contents:
        by_revision.setdefault(revision, {})[name] = as_workers_read(name, content)
    commits: list[Commit] = []
    for revision, epoch, released_at in releases:
        before = commits[-1].values if commits else {}
        values = before | by_revision.get(revision, {})
        commits.append(Commit(released_at.timestamp() - offset, Position(epoch, revision), values))
    for epoch, raised_at in raises:
        last = [commit for commit in commits if commit.position.epoch < epoch][-1]
        place = Position(epoch, last.position.revision)
        commits.append(Commit(raised_at.timestamp() - offset, place, last.values))
    return sorted(commits, key=lambda commit: commit.position)


def with_lost(commits: Iterable[Commit], lost: Iterable[Commit]) -> list[Commit]:
    """Both in order: a release that Postgres lost is what workers saw at its position."""
    known = {commit.position: commit for commit in [*commits, *lost]}
    return [known[position] for position in sorted(known)]


def read_active(database_url: str) -> Values:
    """What stands in the tables themselves, whatever the releases say."""
    with psycopg.connect(database_url) as connection:
        rows = {name: connection.execute(ACTIVE.format(name).encode()).fetchall() for name in MODELS}
    return {name: as_workers_read(name, content) for name, ((content,),) in rows.items()}


def as_workers_read(name: str, content: str) -> dict[str, Any]:
    """Content of Postgres as a worker writes down its values."""
    return MODELS[name].model_validate_json(content, strict=True).model_dump(mode="json")
