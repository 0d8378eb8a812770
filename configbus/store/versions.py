"""Version rows: finding, locking and writing them.

Content goes in and out as the JSON text of each field, so that no digit of it passes through a float.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import text

from configbus.errors import Conflict, UnknownBlock, UnknownVersion
from configbus.jsontext import members, readable
from configbus.names import block_name, near
from configbus.store.connect import HURRY, Place, quoted, sql
from configbus.store.releases import newest_head
from configbus.wire import entry_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from configbus.block import Domain
    from configbus.catalogue import Catalogue

LOCK_ATTEMPTS = 200
SHORT = 8
"""Characters of an id that people are shown; any unique beginning names a row."""
ID = re.compile(r"[0-9a-f]{1,32}", re.ASCII)
ROWS = """
    SELECT _row.id, _row.environment, _row.key, _row.name, _row.status::text AS status, _row.version, _row.description,
           _row.created_at, _row.created_by, _row.updated_at, _row.updated_by, _row.activated_at, _row.activated_by,
           {schema}.content(_row)::text AS content
    FROM {schema}.{table} AS _row WHERE """
ACTIVE = ROWS + "_row.environment = :environment AND _row.status = 'active' AND _row.key = ANY(:keys)"
DEFAULT = (
    ROWS
    + "_row.environment = :environment AND _row.status = 'default' AND _row.key = :key ORDER BY _row.created_at LIMIT 1"
)
OF_BLOCK = (
    ROWS
    + "_row.environment = :environment AND _row.key = :key"
    + " ORDER BY _row.updated_at DESC, _row.version DESC LIMIT :limit"
)
SUMMARIES = """
    SELECT key, (array_agg(id) FILTER (WHERE status = 'active'))[1], max(version) FILTER (WHERE status = 'active'),
           max(name) FILTER (WHERE status = 'active'), max(activated_at) FILTER (WHERE status = 'active'),
           max(activated_by) FILTER (WHERE status = 'active'), count(*) FILTER (WHERE status = 'draft')
    FROM {schema}.{table} WHERE environment = :environment AND status IN ('active', 'draft')
    GROUP BY key ORDER BY key COLLATE "C" """
BY_ID = ROWS + "_row.id = :id"
KEYS = "SELECT key FROM {schema}.{table} WHERE environment = :environment AND status = 'active'"
WITH_ID = "SELECT '{domain}' AS domain, id, environment FROM {schema}.{table} WHERE id BETWEEN :low AND :high"
INSERT = """
    INSERT INTO {schema}.{table} (environment, status, {columns})
    SELECT :environment, CAST(:status AS {schema}.config_status), {columns}
    FROM jsonb_populate_recordset(NULL::{schema}.{table}, CAST(:rows AS jsonb)) RETURNING id"""
UPDATE = """
    UPDATE {schema}.{table} SET ({columns}) = (
        SELECT {columns} FROM jsonb_populate_record(NULL::{schema}.{table}, CAST(:row AS jsonb)))
    WHERE id = :id"""
FORMER = """
    SELECT key, max(version) FILTER (WHERE status = 'archived' AND activated_at IS NOT NULL) AS version,
           array_agg(name) FILTER (WHERE status <> 'archived') AS names
    FROM {schema}.{table} WHERE environment = :environment AND key = ANY(:keys) GROUP BY key"""
SET_STATUS = """
    UPDATE {schema}.{table} SET status = CAST(:status AS {schema}.config_status) WHERE id = ANY(:ids)"""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One row of a domain's table: a complete block with its status.

    `texts` holds the JSON text of each field, exactly as Postgres made it; `content` is their values,
    decimals as texts.
    """

    id: UUID
    block: str
    environment: str
    name: str
    status: str
    version: int
    description: str | None
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    activated_at: datetime | None
    activated_by: str | None
    texts: Mapping[str, str]

    @property
    def content(self) -> dict[str, Any]:
        """The values by field, as JSON has them."""
        return {field: readable(value) for field, value in self.texts.items()}

    @property
    def short_id(self) -> str:
        """The beginning of the id that people are shown."""
        return self.id.hex[:SHORT]


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """A block and its active row, None in each part of it where it has drafts only."""

    block: str
    id: UUID | None
    version: int | None
    name: str | None
    activated_at: datetime | None
    activated_by: str | None
    drafts: int


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to be written. An empty name lets the database make one."""

    key: str
    version: int
    texts: Mapping[str, str]
    name: str = ""
    description: str | None = None


@dataclass(frozen=True, slots=True)
class FormerRows:
    """Of a block without an active row: the highest version that it had live, and the names that are taken."""

    version: int
    names: tuple[str, ...]


def begin_authoring(connection: Connection, actor: str, reason: str | None, *, publishes: bool) -> None:
    """Say for this transaction who writes, why, and whether he publishes it himself."""
    settings = {
        "configbus.actor": actor,
        "configbus.reason": reason or "",
        "configbus.source": "author",
        "configbus.publishes": "on" if publishes else "",
    }
    calls = ", ".join(f"set_config('{name}', :p{number}, true)" for number, name in enumerate(settings))
    connection.execute(text(f"SELECT {calls}"), {f"p{number}": value for number, value in enumerate(settings.values())})


def find_active(connection: Connection, place: Place, domain: Domain, key: str) -> VersionRow | None:
    """The active row of a block, if there is one."""
    rows = _select(connection, place, domain, ACTIVE, {"environment": place.environment, "keys": [key]})
    return rows[0] if rows else None


def active_row(connection: Connection, place: Place, domain: Domain, key: str) -> VersionRow:
    """The active row of a block. Raises UnknownBlock, or UnknownEnvironment."""
    if (row := find_active(connection, place, domain, key)) is None:
        raise no_active_row(connection, place, domain, key)
    return row


def no_active_row(connection: Connection, place: Place, domain: Domain, key: str) -> UnknownBlock:
    """Why there is none, naming similar keys. Raises UnknownEnvironment where that is the reason."""
    newest_head(connection, place)
    name = block_name(domain.name, key)
    wanted = f"{name!r} has no active row in {place.environment}"
    if not domain.keyed:
        return UnknownBlock(f"{wanted}; configbus migrate makes the first rows of {domain.name}")
    keys = connection.scalars(sql(KEYS, place.schema, domain.table), {"environment": place.environment})
    return UnknownBlock(
        f"{wanted}; configbus draft {name} prepares one", [block_name(domain.name, other) for other in near(key, keys)]
    )


def summaries(connection: Connection, place: Place, catalogue: Catalogue) -> list[BlockSummary]:
    """Every block that has an active row or drafts, by name. Raises UnknownEnvironment."""
    newest_head(connection, place)
    found = []
    for domain in sorted(catalogue, key=lambda domain: domain.name):
        rows = connection.execute(sql(SUMMARIES, place.schema, domain.table), {"environment": place.environment})
        found += [BlockSummary(block_name(domain.name, key), *facts) for key, *facts in rows]
    return found


def former_rows(connection: Connection, place: Place, domain: Domain, keys: Sequence[str]) -> dict[str, FormerRows]:
    """What there is of blocks that have no active row, by key."""
    given = {"environment": place.environment, "keys": list(keys)}
    rows = connection.execute(sql(FORMER, place.schema, domain.table), given)
    return {row.key: FormerRows(row.version or 0, tuple(row.names or ())) for row in rows}


def default_row(connection: Connection, place: Place, domain: Domain, key: str) -> VersionRow | None:
    """The row that holds the defaults of a block, if there is one."""
    rows = _select(connection, place, domain, DEFAULT, {"environment": place.environment, "key": key})
    return rows[0] if rows else None


def rows_of(connection: Connection, place: Place, domain: Domain, key: str, limit: int) -> list[VersionRow]:
    """The rows of a block whatever their status, the last changed first."""
    return _select(connection, place, domain, OF_BLOCK, {"environment": place.environment, "key": key, "limit": limit})


def lock_active(connection: Connection, place: Place, domain: Domain, keys: Sequence[str]) -> dict[str, VersionRow]:
    """The active rows of blocks by key, in order of their names, locked until the transaction ends.

    A row that another author replaced while we waited is not the active one any more: look again.
    Keys without an active row are left out.
    """
    where = {"environment": place.environment, "keys": sorted(set(keys))}
    for _ in range(LOCK_ATTEMPTS):
        rows = _select(connection, place, domain, ACTIVE + ' ORDER BY _row.key COLLATE "C" FOR UPDATE', where)
        connection.execute(text(HURRY))
        found = {row.block.partition("/")[2]: row for row in rows}
        if len(found) == len(where["keys"]):
            return found
        now = connection.scalars(sql(KEYS + " AND key = ANY(:keys)", place.schema, domain.table), where)
        if found.keys() == set(now):
            return found
    raise Conflict(f"blocks of {domain.name!r} change too fast to be locked; try again")


def locate_row(
    connection: Connection, place: Place, catalogue: Catalogue, given: str | UUID, *, lock: bool = False
) -> tuple[Domain, VersionRow]:
    """The row of an id, or of its unique beginning. Raises UnknownVersion."""
    digits = str(given).strip().lower().replace("-", "")
    if not ID.fullmatch(digits):
        raise UnknownVersion(f"{str(given)[:40]!r} is not the id of a version row, nor its beginning")
    bounds = {"low": UUID(digits.ljust(32, "0")), "high": UUID(digits.ljust(32, "f"))}
    parts = [WITH_ID.replace("{domain}", domain.name).replace("{table}", quoted(domain.table)) for domain in catalogue]
    matches = connection.execute(sql(" UNION ALL ".join(parts), place.schema), bounds).all()
    found = [match for match in matches if match.environment == place.environment]
    if not found and matches:
        raise UnknownVersion(f"row {given} belongs to {matches[0].environment!r}, not to {place.environment!r}")
    if not found:
        newest_head(connection, place)
        raise UnknownVersion(f"{place.environment} has no version row {str(given)!r}; see: configbus list BLOCK")
    if len(found) > 1:
        listed = ", ".join(sorted(match.id.hex[: len(digits) + 4] for match in found[:5]))
        raise UnknownVersion(f"{len(found)} rows begin with {given}: {listed} ...; give more of the id")
    domain = catalogue.domain(found[0].domain)
    rows = _select(connection, place, domain, BY_ID + (" FOR UPDATE" if lock else ""), {"id": found[0].id})
    if not rows:
        raise UnknownVersion(f"row {given} was deleted just now")
    return domain, rows[0]


def insert_rows(
    connection: Connection, place: Place, domain: Domain, status: str, rows: Iterable[NewRow]
) -> list[UUID]:
    """Write new rows with this status; their ids, in order."""
    documents = []
    for row in rows:
        lifecycle = {"key": row.key, "name": row.name, "description": row.description, "version": row.version}
        texts = {name: json.dumps(value) for name, value in lifecycle.items()} | dict(row.texts)
        documents.append(entry_text(texts.items()))
    columns = ("key", "name", "description", "version", *(column.name for column in domain.columns))
    given = {"environment": place.environment, "status": status, "rows": f"[{', '.join(documents)}]"}
    return list(connection.scalars(sql(INSERT, place.schema, domain.table, columns), given))


def replace_active(
    connection: Connection, place: Place, domain: Domain, replaced: Iterable[UUID], rows: Sequence[NewRow]
) -> None:
    """Archive these active rows, then activate new ones."""
    set_status(connection, place, domain, replaced, "archived")
    if rows:
        insert_rows(connection, place, domain, "active", rows)


def set_status(connection: Connection, place: Place, domain: Domain, ids: Iterable[UUID], status: str) -> None:
    """Move rows along their lifecycle."""
    if given := list(ids):
        connection.execute(sql(SET_STATUS, place.schema, domain.table), {"ids": given, "status": status})


def update_content(
    connection: Connection, place: Place, domain: Domain, row_id: UUID, texts: Mapping[str, str]
) -> None:
    """Put the content of a row."""
    columns = tuple(column.name for column in domain.columns)
    given = {"row": entry_text(texts.items()), "id": row_id}
    connection.execute(sql(UPDATE, place.schema, domain.table, columns), given)


def delete_row(connection: Connection, place: Place, domain: Domain, row_id: UUID) -> None:
    """Take a row away; the audit log keeps its values."""
    connection.execute(sql("DELETE FROM {schema}.{table} WHERE id = :id", place.schema, domain.table), {"id": row_id})


def _select(
    connection: Connection, place: Place, domain: Domain, statement: str, given: dict[str, Any]
) -> list[VersionRow]:
    found = []
    for row in connection.execute(sql(statement, place.schema, domain.table), given).mappings():
        facts = dict(row)
        texts = members(facts.pop("content"))
        found.append(VersionRow(block=block_name(domain.name, facts.pop("key")), texts=texts, **facts))
    return found
