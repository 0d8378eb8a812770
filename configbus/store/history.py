"""Reading what was: releases, a block's history, the audit log, the content at a revision or an instant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from configbus.difference import Differences, differences
from configbus.errors import InvalidValue, Problem, UnknownRevision
from configbus.jsontext import members, readable
from configbus.names import block_name, split_block
from configbus.store.connect import Place, sql
from configbus.store.releases import newest_head, pruned_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from uuid import UUID

    from sqlalchemy import Connection, RowMapping

HISTORY = """
    SELECT b.name, b.revision, r.released_at, r.actor, r.reason, r.source, b.content::text AS content,
           (b.envelope ->> '@version')::int AS version, (b.envelope ->> '@id')::uuid AS row_id
    FROM {schema}.release_block AS b JOIN {schema}.release AS r USING (environment, revision)
    WHERE b.environment = :environment AND b.name = :name ORDER BY b.revision DESC LIMIT :limit"""
RELEASE = """
    SELECT revision, epoch, released_at, actor, reason, source, state FROM {schema}.release
    WHERE environment = :environment AND revision = :revision"""
RELEASED = """
    SELECT b.name, b.revision, b.content::text AS content, before.content::text AS old
    FROM {schema}.release_block AS b LEFT JOIN LATERAL (
        SELECT content FROM {schema}.release_block AS earlier
        WHERE earlier.environment = b.environment AND earlier.name = b.name AND earlier.revision < b.revision
        ORDER BY earlier.revision DESC LIMIT 1) AS before ON true
    WHERE b.environment = :environment AND b.revision = :revision ORDER BY b.name COLLATE "C" """
AT = """
    SELECT named.name, named.newest, b.revision, b.content::text AS content, b.envelope ->> '@name' AS title
    FROM ({names}) AS named LEFT JOIN LATERAL (
        SELECT * FROM {schema}.release_block AS b
        WHERE b.environment = :environment AND b.name = named.name AND b.revision <= :revision
        ORDER BY b.revision DESC LIMIT 1) AS b ON true ORDER BY named.name COLLATE "C" """
CHANGED_SINCE = """
    SELECT name, max(revision) AS newest FROM {schema}.release_block
    WHERE environment = :environment AND revision > :revision AND {scope} GROUP BY name"""
CONTENT_AT = AT.replace("{names}", "SELECT CAST(:name AS text) AS name, NULL AS newest")
CHANGED_AT = AT.replace("{names}", CHANGED_SINCE.replace("{scope}", "true"))
CHANGED_OF_AT = AT.replace("{names}", CHANGED_SINCE.replace("{scope}", "name = ANY(:names)"))
EVER = "SELECT DISTINCT name FROM {schema}.release_block WHERE environment = :environment AND name = ANY(:names)"
OF_DOMAIN = """
    SELECT DISTINCT name FROM {schema}.release_block
    WHERE environment = :environment AND (name = :domain OR starts_with(name, :domain || '/'))"""
AT_INSTANT = """
    SELECT (SELECT revision FROM {schema}.release WHERE environment = :environment AND released_at <= :at
            ORDER BY released_at DESC, revision DESC LIMIT 1) AS revision, clock_timestamp() AS now,
           (SELECT min(released_at) FROM {schema}.release AS r JOIN {schema}.environment AS e ON e.name = r.environment
            WHERE r.environment = :environment AND r.revision >= e.pruned) AS first"""
AUDIT = """
    SELECT id, performed_at, config_table, key, config_id, action, performed_by, reason, source_ip, user_agent,
           changed_fields, old_values::text AS old_values, new_values::text AS new_values
    FROM {schema}.config_audit_log WHERE environment = :environment"""
AUDIT_ALL = AUDIT + " ORDER BY id DESC LIMIT :limit"
AUDIT_BLOCK = AUDIT + " AND config_table = :table AND key = :key ORDER BY id DESC LIMIT :limit"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """What one release did to one block. Version and id are those of the row, None where it was retired. Where what was
    before is `pruned`, there are no changes to show.
    """

    block: str
    revision: int
    released_at: datetime
    actor: str
    reason: str | None
    source: str
    version: int | None
    row_id: UUID | None
    retired: bool
    changes: Differences
    pruned: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """One release in full: by whom, when, why, and what it changed in which block."""

    revision: int
    epoch: int
    released_at: datetime
    actor: str
    reason: str | None
    source: str
    state: str
    blocks: dict[str, Differences]
    retired: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit log. For an activation `old` is what was live before it."""

    id: int
    performed_at: datetime
    block: str
    row_id: UUID
    action: str
    performed_by: str
    reason: str | None
    source_ip: str | None
    user_agent: str | None
    changed_fields: tuple[str, ...]
    old: dict[str, Any] | None
    new: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Content:
    """What was live of a block at a revision: JSON texts by field, None where it did not exist.

    `newest` is the last revision that changed it, where that was asked for.
    """

    block: str
    newest: int | None
    title: str | None
    texts: dict[str, str] | None

    @property
    def key(self) -> str:
        return split_block(self.block)[1]


def block_history(connection: Connection, place: Place, name: str, limit: int) -> list[HistoryEntry]:
    """The last releases that changed a block, newest first."""
    given = {"environment": place.environment, "name": name, "limit": limit + 1}
    rows = connection.execute(sql(HISTORY, place.schema), given).mappings().all()
    pruned = pruned_until(connection, place)
    return [_history_entry(row, older, pruned) for row, older in zip_longest(rows, rows[1:])][:limit]


def release_record(connection: Connection, place: Place, revision: int) -> ReleaseRecord:
    """One release. Raises UnknownRevision, also for that which everything before was pruned from."""
    where = {"environment": place.environment, "revision": existing_revision(connection, place, revision)}
    if revision == pruned_until(connection, place):
        raise UnknownRevision(f"what revision {revision} changed is not known any more: all before it was pruned")
    row = connection.execute(sql(RELEASE, place.schema), where).mappings().one()
    blocks, retired = {}, []
    for block in connection.execute(sql(RELEASED, place.schema), where):
        blocks[block.name] = differences(_values(block.old), _values(block.content))
        if block.content is None:
            retired.append(block.name)
    return ReleaseRecord(**row, blocks=blocks, retired=tuple(retired))


def audit_entries(connection: Connection, place: Place, block: tuple[str, str] | None, limit: int) -> list[AuditEntry]:
    """The last lines of the audit log, newest first; of one block, given as its table and key, or of all."""
    given = {"environment": place.environment, "limit": limit}
    if block is None:
        rows = connection.execute(sql(AUDIT_ALL, place.schema), given).mappings()
    else:
        rows = connection.execute(
            sql(AUDIT_BLOCK, place.schema), given | dict(zip(("table", "key"), block, strict=True))
        ).mappings()
    return [_audit_entry(row) for row in rows]


def content_at(connection: Connection, place: Place, name: str, revision: int) -> Content:
    """What was live of a block at a revision."""
    given = {"environment": place.environment, "name": name, "revision": revision}
    return _content(connection.execute(sql(CONTENT_AT, place.schema), given).mappings().one())


def content_before(connection: Connection, place: Place, name: str, moment: datetime) -> Content | None:
    """What was live of a block at an instant; nothing where there was no release yet, None where it was pruned."""
    given = {"environment": place.environment, "at": moment}
    revision = connection.execute(sql(AT_INSTANT, place.schema), given).one().revision or 0
    return content_at(connection, place, name, revision) if revision >= pruned_until(connection, place) else None


def changed_since(
    connection: Connection, place: Place, revision: int, names: Sequence[str] | None
) -> Iterator[Content]:
    """What was live at a revision, for each block that changed after it: of these names, or of all."""
    given = {"environment": place.environment, "revision": revision, "names": names}
    rows = connection.execute(sql(CHANGED_AT if names is None else CHANGED_OF_AT, place.schema), given)
    return map(_content, rows.mappings())


def ever_released(connection: Connection, place: Place, names: Sequence[str]) -> set[str]:
    """Those of the names that some release holds."""
    return set(connection.scalars(sql(EVER, place.schema), {"environment": place.environment, "names": list(names)}))


def released_of(connection: Connection, place: Place, domain: str) -> list[str]:
    """The names of a domain's blocks that some release holds."""
    return list(connection.scalars(sql(OF_DOMAIN, place.schema), {"environment": place.environment, "domain": domain}))


def revision_at(connection: Connection, place: Place, moment: int | datetime) -> int:
    """The revision that was the newest at an instant, or the revision itself. Raises UnknownRevision, InvalidValue."""
    if not isinstance(moment, datetime):
        return existing_revision(connection, place, moment)
    if moment.tzinfo is None:
        raise InvalidValue([Problem("instant", f"{moment.isoformat()} has no zone; add one, such as Z or +01:00")])
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise InvalidValue([Problem("instant", f"{moment.isoformat()} is out of range in UTC")]) from None
    row = connection.execute(sql(AT_INSTANT, place.schema), {"environment": place.environment, "at": moment}).one()
    if moment > row.now:
        raise InvalidValue([Problem("instant", f"{_told(moment)} lies in the future")])
    if row.revision is None:
        newest_head(connection, place)
        oldest = "oldest release that is kept" if pruned_until(connection, place) else "first release"
        began = f"its {oldest} is of {_told(row.first)}" if row.first else "it has none yet"
        raise UnknownRevision(f"{place.environment} had no release at {_told(moment)}; {began}")
    return existing_revision(connection, place, int(row.revision))


def existing_revision(connection: Connection, place: Place, revision: int) -> int:
    """The revision, if there is such a release. Raises UnknownRevision."""
    newest = newest_head(connection, place).revision
    if isinstance(revision, bool) or not isinstance(revision, int):
        raise InvalidValue([Problem("revision", f"{revision!r} is neither a revision nor an instant")])
    if not 1 <= revision <= newest:
        raise UnknownRevision(f"{place.environment} has no revision {revision}; the newest is {newest}")
    check_kept(connection, place, revision)
    return revision


def check_kept(connection: Connection, place: Place, revision: int) -> None:
    """Raises UnknownRevision where the contents at a revision were pruned."""
    if revision < (oldest := pruned_until(connection, place)):
        where = {"environment": place.environment, "revision": oldest}
        released_at = connection.execute(sql(RELEASE, place.schema), where).one().released_at
        raise UnknownRevision(
            f"revision {revision} of {place.environment} was pruned; the oldest that is known in full is {oldest},"
            f" of {_told(released_at)}"
        )


def _told(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _history_entry(row: RowMapping, older: RowMapping | None, pruned: int) -> HistoryEntry:
    facts = dict(row)
    content = facts.pop("content")
    before = _values(older["content"]) if older is not None else None
    first = older is None and row["revision"] <= pruned
    changes = differences(before, _values(content)) if not first else {}
    return HistoryEntry(block=facts.pop("name"), **facts, retired=content is None, changes=changes, pruned=first)


def _audit_entry(row: RowMapping) -> AuditEntry:
    facts = dict(row)
    block = block_name(facts.pop("config_table").removesuffix("_config"), facts.pop("key"))
    return AuditEntry(
        block=block,
        row_id=facts.pop("config_id"),
        old=_values(facts.pop("old_values")),
        new=_values(facts.pop("new_values")),
        changed_fields=tuple(facts.pop("changed_fields") or ()),
        **facts,
    )


def _content(row: RowMapping) -> Content:
    return Content(
        row["name"], row["newest"], row["title"], members(row["content"]) if row["content"] is not None else None
    )


def _values(content: str | None) -> dict[str, Any] | None:
    return {field: readable(text) for field, text in members(content).items()} if content is not None else None
