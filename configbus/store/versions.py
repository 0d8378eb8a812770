"""Version rows: finding the active one, locking it, and putting another in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, insert, select, text, update

from configbus.errors import Conflict, UnknownBlock
from configbus.names import block_name, near
from configbus.store.connect import Place, sql
from configbus.store.releases import newest_head
from configbus.store.tables import config_table
from configbus.wire import members

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from configbus.block import Block, Domain

LOCK_ATTEMPTS = 200
KEYS = "SELECT key FROM {schema}.{table} WHERE environment = :environment AND status = 'active'"
COPIED = ("environment", "key", "name", "description")
ACTIVE = (
    "SELECT t.id, t.name, t.version, {schema}.content(t)::text AS content FROM {schema}.{table} AS t"
    " WHERE environment = :environment AND key = :key AND status = 'active'"
)


@dataclass(frozen=True, slots=True)
class ActiveRow:
    """The active row of a block; `content` holds the canonical JSON text of each field."""

    id: UUID
    name: str
    version: int
    content: dict[str, str]


def begin_authoring(connection: Connection, actor: str, reason: str | None, *, publishes: bool) -> None:
    """Say for this transaction who writes and why, and limit how long it may wait for locks."""
    settings = {
        "configbus.actor": actor,
        "configbus.reason": reason or "",
        "configbus.source": "author",
        "configbus.publishes": "on" if publishes else "",
        "lock_timeout": "4s",
        "statement_timeout": "10s",
    }
    calls = ", ".join(f"set_config('{name}', :p{number}, true)" for number, name in enumerate(settings))
    connection.execute(text(f"SELECT {calls}"), {f"p{number}": value for number, value in enumerate(settings.values())})


def active_row(connection: Connection, place: Place, domain: Domain, key: str) -> ActiveRow:
    """The active row of a block. Raises UnknownBlock, or UnknownEnvironment."""
    row = _select_active(connection, place, domain, key, ACTIVE)
    if row is None:
        newest_head(connection, place)
        wanted = f"{block_name(domain.name, key)!r} has no active row in {place.environment}"
        if not domain.keyed:
            raise UnknownBlock(f"{wanted}; configbus migrate makes the first rows of {domain.name}")
        keys = connection.scalars(sql(KEYS, place.schema, domain.table), {"environment": place.environment})
        raise UnknownBlock(wanted, [block_name(domain.name, other) for other in near(key, keys)])
    return row


def lock_active(connection: Connection, place: Place, domain: Domain, key: str) -> ActiveRow:
    """The active row of a block, locked until the transaction ends. Raises UnknownBlock.

    A row that another author replaced while we waited is not the active one any more: look again.
    """
    for _ in range(LOCK_ATTEMPTS):
        row = _select_active(connection, place, domain, key, ACTIVE + " FOR UPDATE")
        if row is not None:
            return row
        active_row(connection, place, domain, key)
    raise Conflict(f"{block_name(domain.name, key)!r} changes too fast to be locked; try again")


def _select_active(connection: Connection, place: Place, domain: Domain, key: str, statement: str) -> ActiveRow | None:
    where = {"environment": place.environment, "key": key}
    row = connection.execute(sql(statement, place.schema, domain.table), where).one_or_none()
    return ActiveRow(row.id, row.name, row.version, members(row.content)) if row is not None else None


def replace_active(
    connection: Connection, place: Place, domain: Domain, row: ActiveRow, block: Block, changed: set[str]
) -> None:
    """Archive the active row and activate a new one, a copy in which the changed fields are those of the block.

    What is not changed is copied by Postgres, so that no digit of it goes through Python.
    """
    table = config_table(domain, place.schema)
    connection.execute(update(table).where(table.c.id == row.id).values(status="archived"))
    values = {"status": "active", "version": row.version + 1} | column_values(domain, block, changed)
    copied = [column for column in COPIED if column not in values]
    copied += [column.name for column in domain.columns if column.name not in values]
    given = [bindparam(None, value, type_=table.c[name].type) for name, value in values.items()]
    source = select(*given, *(table.c[name] for name in copied)).where(table.c.id == row.id)
    connection.execute(insert(table).from_select([*values, *copied], source, include_defaults=False))


def column_values(domain: Domain, block: Block, names: set[str]) -> dict[str, Any]:
    """These fields of a block as their columns take them."""
    dumped = json.loads(block.model_dump_json(include=names)) if names else {}
    plain = {column.name for column in domain.columns if column.kind in ("numeric", "timestamp", "uuid")}
    return {name: getattr(block, name) if name in plain else value for name, value in dumped.items()}
