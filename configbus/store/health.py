"""What Postgres tells of itself: version, rights, environments, tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from configbus import migrations
from configbus.store.connect import Place, sql

if TYPE_CHECKING:
    from sqlalchemy import Connection

READS = ("environment", "release", "release_block", "config_audit_log", "audit_line", "migration")
"""Besides the tables of domains."""
CALLS = ("capture_drift", "raise_epoch", "record_repair")
"""What a relay calls that nobody may who was not granted it."""
ROLE = "SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user"
USABLE = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = :schema"
UNREADABLE = """
    SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
    WHERE nspname = :schema AND NOT has_table_privilege(pg_class.oid, 'SELECT') AND (relname = ANY(:names) OR EXISTS (
        SELECT FROM pg_trigger AS t JOIN pg_proc AS f ON f.oid = tgfoid
        WHERE tgrelid = pg_class.oid AND proname = 'capture' AND pronamespace = n.oid))
    ORDER BY relname"""
UNCALLABLE = """
    SELECT proname FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace
    WHERE nspname = :schema AND proname = ANY(:names) AND NOT has_function_privilege(pg_proc.oid, 'EXECUTE')
    ORDER BY proname"""
TABLES = """
    SELECT relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = :schema ORDER BY relname"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a table, as the statistics estimate them."""

    name: str
    live: int
    dead: int


@dataclass(frozen=True, slots=True)
class Rights:
    """What the role may not do: `missing` is what every part needs, `uncallable` what a relay calls besides."""

    role: str
    is_superuser: bool
    missing: str
    uncallable: list[str]


def schema_version(connection: Connection, place: Place) -> tuple[str, str]:
    """The version of the schema, and the newest that this code knows."""
    found = connection.scalar(sql("SELECT version_num FROM {schema}.migration", place.schema))
    versions = Path(next(iter(migrations.__path__)), "versions")
    return str(found), max(path.name.partition("_")[0] for path in versions.glob("[0-9]*.py"))


def rights(connection: Connection, place: Place) -> Rights:
    """The rights of the role, from the catalogs, which every role may read. Nothing is said of what is not there."""
    role, superuser = connection.execute(text(ROLE)).one()
    if connection.scalar(text(USABLE), {"schema": place.schema}) is False:
        return Rights(role, superuser, f"use the schema {place.schema}", [])
    unreadable = connection.scalars(text(UNREADABLE), {"schema": place.schema, "names": list(READS)}).all()
    uncallable = connection.scalars(text(UNCALLABLE), {"schema": place.schema, "names": list(CALLS)}).all()
    return Rights(role, superuser, f"read {', '.join(unreadable)}" if unreadable else "", list(uncallable))


def environments(connection: Connection, place: Place) -> list[str]:
    """Those that were set up in this database."""
    return list(connection.scalars(sql("SELECT name FROM {schema}.environment ORDER BY name", place.schema)))


def tables(connection: Connection, place: Place) -> list[Table]:
    """All tables of the schema."""
    return [Table(*row) for row in connection.execute(text(TABLES), {"schema": place.schema})]


def ring(connection: Connection, channel: str) -> None:
    """Ring a bell of one's own."""
    connection.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})
