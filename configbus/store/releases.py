"""Reading the release tables: the outbox, the history, and the newest state of an environment.

All texts come from here as Postgres made them; nothing on the way to Redis needs a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from configbus.errors import Conflict, UnknownEnvironment, UnknownRevision
from configbus.names import near
from configbus.store.connect import HURRY, Place, sql
from configbus.wire import EMPTY_STATE, Entry, Head, make_entry, xor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

HEAD = """
    SELECT e.bus, e.system, e.epoch, e.revision, r.state, r.chain FROM {schema}.environment AS e
    LEFT JOIN {schema}.release AS r ON r.environment = e.name AND r.revision = e.revision
    WHERE e.name = :environment"""
ENTRY = """
    b.name, b.digest,
    ARRAY(SELECT key FROM jsonb_each(b.envelope || coalesce(b.content, '{}'))) AS fields,
    ARRAY(SELECT value::text FROM jsonb_each(b.envelope || coalesce(b.content, '{}'))) AS texts"""
PRUNED = "SELECT pruned FROM {schema}.environment WHERE name = :environment"
STATE_AT = "SELECT state FROM {schema}.release WHERE environment = :environment AND revision = :revision"
MINE = """
    SELECT xid = pg_current_xact_id() AND began = transaction_timestamp() FROM {schema}.release
    WHERE environment = :environment AND revision = :revision"""
AGE = """
    SELECT extract(epoch FROM clock_timestamp() - released_at) FROM {schema}.release
    WHERE environment = :environment AND revision = :revision"""
CAPTURE_NOW = """
    SET CONSTRAINTS {schema}.capture_insert, {schema}.capture_update, {schema}.capture_delete IMMEDIATE;
    SET CONSTRAINTS {schema}.seal IMMEDIATE"""
"""All captures first, the one seal behind them, as at commit: with ALL, every capture would seal anew."""
NEWEST = """
    SELECT {entry} FROM {schema}.newest(:environment) AS b""".replace("{entry}", ENTRY)
AFTER = """
    SELECT r.revision, r.epoch, r.state, r.prev, r.chain, {schema}.instant(r.released_at) AS released_at, {entry}
    FROM {schema}.release AS r JOIN {schema}.release_block AS b USING (environment, revision)
    WHERE r.environment = :environment AND r.revision > :after AND r.revision <= :until
        AND r.revision >= (SELECT pruned FROM {schema}.environment WHERE name = :environment)
    ORDER BY r.revision, b.name""".replace("{entry}", ENTRY)


@dataclass(frozen=True, slots=True)
class Published:
    """One release as it goes to Redis: the head after it, the state before it, its time, its entries, and the hash of
    the history up to it.
    """

    head: Head
    prev: str
    at: str
    entries: tuple[Entry, ...]
    chain: str = ""


@dataclass(frozen=True, slots=True)
class FullState:
    """Everything that holds at a head, and the hash of the history up to it."""

    head: Head
    entries: tuple[Entry, ...]
    chain: str = ""


def advanced(state: FullState, releases: Sequence[Published], head: Head) -> FullState | None:
    """The state at a head, from an earlier one and the releases in between; None where they do not lead there."""
    if not releases or releases[-1].head != head or releases[0].prev != state.head.state:
        return None
    entries = {entry.name: entry for entry in state.entries}
    entries |= {entry.name: entry for release in releases for entry in release.entries}
    if xor(EMPTY_STATE, [entry.mark.digest for entry in entries.values()]) != head.state:
        return None
    return FullState(head, tuple(entries.values()), releases[-1].chain)


def newest_head(connection: Connection, place: Place) -> Head:
    """The head of Postgres. Raises UnknownEnvironment."""
    return _newest(connection, place)[0]


def _newest(connection: Connection, place: Place) -> tuple[Head, str]:
    """The head, and the hash of the history up to it."""
    row = connection.execute(sql(HEAD, place.schema), {"environment": place.environment}).one_or_none()
    if row is None:
        known = connection.scalars(sql("SELECT name FROM {schema}.environment", place.schema)).all()
        raise UnknownEnvironment(
            f"there is no environment {place.environment!r} in this database; set it up with: configbus migrate",
            near(place.environment, known),
        )
    return Head(row.bus, row.system, row.epoch, row.revision, row.state or EMPTY_STATE), row.chain or ""


def pruned_until(connection: Connection, place: Place) -> int:
    """The oldest revision whose contents are known in full; 0 where nothing was pruned."""
    given = {"environment": place.environment}
    return int(connection.scalar(sql(PRUNED, place.schema), given) or 0)


def state_at(connection: Connection, place: Place, head: Head) -> str:
    """The state at the revision of a head: its own where that was pruned, that of nothing where there is no release."""
    if head.revision < pruned_until(connection, place):
        return head.state
    given = {"environment": place.environment, "revision": head.revision}
    return connection.scalar(sql(STATE_AT, place.schema), given) or EMPTY_STATE


def timeline_of(connection: Connection, place: Place) -> int:
    """The timeline of the server: it rises when a standby is promoted. Raises what Postgres says on a standby."""
    return int(connection.scalar(sql("SELECT {schema}.timeline()", place.schema)) or 0)


def check_server(connection: Connection, place: Place, head: Head) -> None:
    """Raises Conflict where the environment came here from another server, by a restore or a copy."""
    if connection.scalar(sql("SELECT {schema}.server()", place.schema)) != head.system:
        raise Conflict(
            f"environment {place.environment} comes from another Postgres server, restored or copied: if this one is "
            "to be the truth from now on, say so with: configbus epoch raise"
        )


def raise_epoch(connection: Connection, place: Place, expected: int, above: int, reason: str) -> int | None:
    """Begin a new history above all epochs named; its epoch, or None where the epoch was not the expected one any more:
    somebody else began one.
    """
    given = {"environment": place.environment, "expected": expected, "above": above, "reason": reason}
    call = sql("SELECT {schema}.raise_epoch(:environment, :expected, :above, :reason)", place.schema)
    raised: int | None = connection.scalar(call, given)
    return raised


def newest_state(connection: Connection, place: Place) -> FullState:
    """Head and entries of one moment, read in a transaction of its own."""
    with connection.begin():
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        head, chain = _newest(connection, place)
        rows = connection.execute(sql(NEWEST, place.schema), {"environment": place.environment})
        return FullState(head, tuple(_entry(row) for row in rows), chain)


def releases_after(connection: Connection, place: Place, head: Head, after: int, limit: int) -> list[Published]:
    """At most `limit` releases behind `after`, none beyond `head`, in order. What was pruned is left out."""
    bounds = {"environment": place.environment, "after": after, "until": min(head.revision, after + limit)}
    rows = connection.execute(sql(AFTER, place.schema), bounds)
    found = []
    for _, group in groupby(rows, key=lambda row: row.revision):
        entries = list(group)
        first = entries[0]
        at_head = Head(head.bus, head.system, first.epoch, first.revision, first.state)
        found.append(Published(at_head, first.prev, first.released_at, tuple(map(_entry, entries)), first.chain or ""))
    return found


def age_of_release(connection: Connection, place: Place, revision: int) -> float:
    """Seconds since a release was made, by the clock of Postgres. Raises UnknownRevision."""
    given = {"environment": place.environment, "revision": revision}
    age = connection.scalar(sql(AGE, place.schema), given)
    if age is None:
        raise UnknownRevision(f"there is no revision {revision} in {place.environment}")
    return float(age)


def own_release(connection: Connection, place: Place) -> Published | None:
    """The release of the current transaction, captured now instead of at commit; None if it changed nothing live."""
    connection.execute(text(HURRY))
    connection.execute(sql(CAPTURE_NOW, place.schema))
    head = newest_head(connection, place)
    mine = connection.scalar(sql(MINE, place.schema), {"environment": place.environment, "revision": head.revision})
    if not mine:
        return None
    return releases_after(connection, place, head, head.revision - 1, 1)[0]


def _entry(row: Any) -> Entry:
    return make_entry(row.name, list(zip(row.fields, row.texts, strict=True)), row.digest)
