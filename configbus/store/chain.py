"""The chain of hashes through releases and the audit log, held against what the tables say now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from configbus.store.connect import Place, sql
from configbus.store.judges import replaced_judges
from configbus.store.releases import newest_head, pruned_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection

NEWEST = """
    SELECT r.revision, r.epoch, r.chain, count(*) OVER () AS releases,
           (SELECT count(*) FROM {schema}.audit_line WHERE environment = :environment) AS lines
    FROM {schema}.release AS r WHERE r.environment = :environment AND r.chain IS NOT NULL AND r.revision >= :pruned
    ORDER BY r.revision DESC LIMIT 1"""
BROKEN = "SELECT what, number, at, why FROM {schema}.broken_chain(:environment)"
HASH_OF = "SELECT chain FROM {schema}.release WHERE environment = :environment AND revision = :revision"
HAS_HASH = """
    SELECT true FROM {schema}.release WHERE environment = :environment AND chain = :hash AND revision >= :pruned"""

REPLACED = "is not what this version of configbus makes: it says nothing of history"


@dataclass(frozen=True, slots=True)
class Break:
    """A line of the audit log, or a release, that is not what was written; `number` is its id or revision. Or a
    function that judges both, and is not what it should be.
    """

    what: Literal["function", "line", "release"]
    number: int | None
    at: datetime | None
    why: str


@dataclass(frozen=True, slots=True)
class Witness:
    """A hash that was noted outside of Postgres, and where; with the release that it is of, where that is known."""

    hash: str
    where: str
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """How far history is chained, its newest hash, and what is broken in it, the first break first. What was before
    the revision `pruned` is known only as far as it held then.
    """

    revision: int
    pruned: int
    hash: str
    releases: int
    lines: int
    broken: tuple[Break, ...]


def verify_chain(connection: Connection, place: Place, witnesses: Iterable[Witness]) -> Chain:
    """Compute the whole chain anew, by functions that were not replaced. A witness tells of an end that was cut.

    Raises UnknownEnvironment.
    """
    broken = [Break("function", None, None, f"{name} {REPLACED}") for name in replaced_judges(connection, place.schema)]
    newest_head(connection, place)
    pruned = pruned_until(connection, place)
    given: dict[str, Any] = {"environment": place.environment, "pruned": pruned}
    newest = connection.execute(sql(NEWEST, place.schema), given).one_or_none()
    if not broken:
        broken = [Break(*row) for row in connection.execute(sql(BROKEN, place.schema), given)]
    for witness in witnesses:
        if witness.revision is None:
            if not connection.scalar(sql(HAS_HASH, place.schema), given | {"hash": witness.hash}):
                known = f" from revision {pruned} on, where history begins" if pruned else ""
                broken.append(Break("release", None, None, f"none{known} has the hash of {witness.where}"))
            continue
        if witness.revision < pruned:
            continue
        if connection.scalar(sql(HASH_OF, place.schema), given | {"revision": witness.revision}) != witness.hash:
            broken.append(Break("release", witness.revision, None, f"it is gone, or not what {witness.where} says"))
    if newest is None:
        return Chain(0, 0, "", 0, 0, tuple(broken))
    return Chain(newest.revision, pruned, newest.chain, newest.releases, newest.lines, tuple(broken))
