"""`configbus migrate`: the frame by Alembic, the domain tables by the factory, the first rows.

Everything happens in the caller's one transaction: a migration is there as a whole or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import inspect, text

from configbus import migrations
from configbus.errors import MigrationRefused
from configbus.store.connect import quoted, sql
from configbus.store.evolution import evolve
from configbus.store.generations import record_generation
from configbus.store.releases import CAPTURE_NOW
from configbus.store.tables import naming_checks, table_ddl

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from configbus.catalogue import Catalogue

LOCK = "SELECT pg_advisory_xact_lock(hashtext('configbus migrate'), hashtext(:schema))"
LOCK_SECONDS = 60
"""For which a migration waits for another one; for a table it waits no longer than anybody."""
DOMAIN_TABLES = """
    SELECT DISTINCT c.relname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
    WHERE t.tgfoid = '{schema}.capture'::regproc"""
LATER_RELEASES = "SELECT count(*) FROM {schema}.release WHERE reason IS DISTINCT FROM 'migrate'"
LATER_ROWS = """
    SELECT count(*) FROM {schema}.{table}
    WHERE NOT (status IN ('default', 'active') AND version = 1 AND key = '')"""
FIRST_ROWS = {"default": "System Defaults", "active": "Active Configuration"}


def migrate(connection: Connection, catalogue: Catalogue, schema: str, environment: str) -> list[str]:
    """Bring the schema up to this version and catalogue, and the environment to its first rows.

    Returns what was done, a line each; nothing when all was there already.
    """
    _lock(connection, schema)
    connection.execute(text("SELECT set_config('configbus.reason', 'migrate', true)"))
    connection.execute(sql("CREATE SCHEMA IF NOT EXISTS {schema}", schema))
    done = _upgrade_frame(connection, schema)
    present = set(inspect(connection).get_table_names(schema=schema))
    for domain in catalogue:
        if domain.table not in present:
            with naming_checks(domain):
                for statement in table_ddl(domain, schema):
                    connection.execute(statement)
            done.append(f"table {domain.table}")
    done += evolve(connection, [domain for domain in catalogue if domain.table in present], schema)
    for domain in catalogue:
        record_generation(connection, domain, schema)
    done += _environment(connection, schema, environment)
    for domain in catalogue:
        if not domain.keyed:
            done += _first_rows(connection, domain.table, schema, environment)
    if catalogue.domains:
        # Not left to the commit, whose answer is waited for no longer than a standby may take.
        connection.execute(sql(CAPTURE_NOW, schema))
    return done


def downgrade(connection: Connection, schema: str, revision: str) -> None:
    """Take the schema back to an Alembic revision, `base` for nothing at all.

    MigrationRefused while there is more than the first rows: going down would lose it.
    """
    _lock(connection, schema)
    if not inspect(connection).has_table("release", schema=schema):
        raise MigrationRefused(f"there is nothing of configbus in schema {schema!r}")
    connection.execute(sql("LOCK TABLE {schema}.release IN EXCLUSIVE MODE", schema))
    tables = connection.scalars(sql(DOMAIN_TABLES, schema)).all()
    kept = sum(
        connection.scalar(sql(statement, schema, table)) or 0
        for statement, table in [(LATER_RELEASES, ""), *((LATER_ROWS, table) for table in tables)]
    )
    if kept:
        raise MigrationRefused(
            f"schema {schema!r} holds more than the first rows ({kept} releases or rows): going down would lose them. "
            f"Take a dump and drop the schema by hand if that is meant.",
        )
    if revision == "base":
        for table in tables:
            connection.execute(sql("DROP TABLE {schema}.{table} CASCADE", schema, table))
    try:
        alembic.command.downgrade(_alembic(connection, schema), revision)
    except alembic.util.CommandError as error:
        raise MigrationRefused(f"{revision!r} is not a revision to go down to ({error}); base is nothing") from error


def _lock(connection: Connection, schema: str) -> None:
    limit = connection.scalar(text("SELECT current_setting('lock_timeout')"))
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
    connection.execute(text(LOCK), {"schema": schema})
    connection.execute(text("SELECT set_config('lock_timeout', :limit, true)"), {"limit": limit})


def _upgrade_frame(connection: Connection, schema: str) -> list[str]:
    before = _frame_version(connection, schema)
    alembic.command.upgrade(_alembic(connection, schema), "head")
    after = _frame_version(connection, schema)
    return [] if before == after else [f"frame {after}"]


def _frame_version(connection: Connection, schema: str) -> str | None:
    if not inspect(connection).has_table("migration", schema=schema):
        return None
    version: str | None = connection.scalar(sql("SELECT version_num FROM {schema}.migration", schema))
    return version


def _alembic(connection: Connection, schema: str) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes.update(connection=connection, schema=schema, quoted_schema=quoted(schema))
    return config


def _environment(connection: Connection, schema: str, environment: str) -> list[str]:
    made = connection.execute(
        sql(
            "INSERT INTO {schema}.environment (name, epoch)"
            " VALUES (:name, floor(extract(epoch FROM clock_timestamp()))::bigint * 1000"
            " + ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint)"
            " ON CONFLICT DO NOTHING",
            schema,
        ),
        {"name": environment},
    )
    return [f"environment {environment}"] if made.rowcount else []


def _first_rows(connection: Connection, table: str, schema: str, environment: str) -> list[str]:
    done = []
    for status, name in FIRST_ROWS.items():
        made = connection.execute(
            sql(
                "INSERT INTO {schema}.{table} (environment, name, status)"
                " SELECT :environment, :name, CAST(:status AS {schema}.config_status) WHERE NOT EXISTS ("
                "SELECT FROM {schema}.{table} WHERE environment = :environment"
                " AND status = CAST(:status AS {schema}.config_status))",
                schema,
                table,
            ),
            {"environment": environment, "name": name, "status": status},
        )
        if made.rowcount:
            done.append(f"{status} row of {table}")
    return done
