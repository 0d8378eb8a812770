"""Version rows: finding the active one, locking it, and putting another in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, text, update

from configbus.errors import Conflict, UnknownBlock
from configbus.names import block_name
from configbus.store.connect import Place, sql
from configbus.store.releases import newest_head
from configbus.store.tables import config_table

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Connection

    from configbus.block import Block, Domain

LOCK_ATTEMPTS = 200
ACTIVE = (
    "SELECT t.id, t.name, t.version, {schema}.content(t) AS content FROM {schema}.{table} AS t"
    " WHERE environment = :environment AND key = :key AND status = 'active'"
)


@dataclass(frozen=True, slots=True)
class ActiveRow:
    """The active row of a block; `content` is canonical, by field."""

    id: UUID
    name: str
    version: int
    content: dict[str, Any]


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
        raise UnknownBlock(
            f"{block_name(domain.name, key)!r} has no active row in {place.environment}; "
            f"configbus migrate makes the first rows of {domain.name}"
        )
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
    return ActiveRow(row.id, row.name, row.version, row.content) if row is not None else None


def replace_active(
    connection: Connection, place: Place, domain: Domain, key: str, row: ActiveRow, block: Block
) -> None:
    """Archive the active row, then put a new active row with this content in its place."""
    table = config_table(domain, place.schema)
    connection.execute(update(table).where(table.c.id == row.id).values(status="archived"))
    connection.execute(
        insert(table).values(
            environment=place.environment,
            key=key,
            name=row.name,
            status="active",
            version=row.version + 1,
            **column_values(domain, block),
        )
    )


def column_values(domain: Domain, block: Block) -> dict[str, Any]:
    """A block's values as its columns take them."""
    nested = {column.name for column in domain.columns if column.kind == "json"}
    documents = json.loads(block.model_dump_json(include=nested)) if nested else {}
    plain = {column.name: getattr(block, column.name) for column in domain.columns if column.name not in nested}
    return plain | documents
