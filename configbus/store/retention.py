"""Retention: history that is older than an age is taken away, by the schema's owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from configbus.errors import Conflict
from configbus.store.connect import Limits, Place, sql
from configbus.store.judges import replaced_judges

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import Connection

PRUNE = """
    SELECT revision, releases, lines, archived, calls
    FROM {schema}.prune(:environment, clock_timestamp() - :age, :anyway)"""
LIMITS = Limits(connect=3.0, lock=3.0, statement=3600.0)


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much was taken away, and the oldest revision whose contents are known in full now; 0 where all are."""

    revision: int
    releases: int
    lines: int
    rows: int
    calls: int


def prune(connection: Connection, place: Place, age: timedelta, *, anyway: bool = False) -> Pruned:
    """Take away what is older than the age and not needed to know what held since then, in the caller's transaction.

    Raises Conflict where history is not what was written, or what judges that was replaced, unless it is to be done
    anyway: it would not show any more.
    """
    if not anyway and (judges := replaced_judges(connection, place.schema)):
        raise Conflict(
            f"{', '.join(judges)} is not what this version of configbus makes: whether history of {place.environment} "
            "is what was written is not known, and pruning would hide it"
        )
    given = {"environment": place.environment, "age": age, "anyway": anyway}
    return Pruned(*connection.execute(sql(PRUNE, place.schema), given).one())
