"""What Postgres tells of itself: version, rights, tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from configbus import migrations
from configbus.store.connect import Place, quoted, sql

if TYPE_CHECKING:
    from sqlalchemy import Connection

READS = ("environment", "release", "release_block", "config_audit_log")
MISSING = "SELECT name FROM unnest(CAST(:tables AS text[])) AS name WHERE NOT has_table_privilege(name, 'SELECT')"
TABLES = """
    SELECT relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = :schema ORDER BY relname"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a table, as the statistics estimate them."""

    name: str
    live: int
    dead: int


def schema_version(connection: Connection, place: Place) -> tuple[str, str]:
    """The version of the schema, and the newest that this code knows."""
    found = connection.scalar(sql("SELECT version_num FROM {schema}.migration", place.schema))
    versions = Path(next(iter(migrations.__path__)), "versions")
    return str(found), max(path.name.partition("_")[0] for path in versions.glob("[0-9]*.py"))


def rights(connection: Connection, place: Place) -> tuple[bool, list[str]]:
    """Whether the role is a superuser, and what it may not do that every part needs."""
    superuser = connection.scalar(text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
    asked = {"tables": [f"{quoted(place.schema)}.{name}" for name in READS]}
    missing = connection.scalars(text(MISSING), asked)
    return bool(superuser), [f"read {name}" for name in missing]


def tables(connection: Connection, place: Place) -> list[Table]:
    """All tables of the schema."""
    return [Table(*row) for row in connection.execute(text(TABLES), {"schema": place.schema})]


def ring(connection: Connection, channel: str) -> None:
    """Ring a bell of one's own."""
    connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})
