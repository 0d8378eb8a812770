"""The revisions of the frame lead up and down, and leave nothing of each other behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from configbus.catalogue import load_catalogue
from configbus.store.connect import LONG, connected
from configbus.store.schema import downgrade, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

Psql = psycopg.Connection[tuple[Any, ...]]

FUNCTIONS = "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'configbus'::regnamespace ORDER BY proname, oid"
COLUMNS = """
    SELECT c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'configbus'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 3"""


@pytest.fixture
def operator(empty_database_url: str) -> Iterator[Psql]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def frame(operator: Psql) -> tuple[list[Any], list[Any]]:
    return operator.execute(FUNCTIONS).fetchall(), operator.execute(COLUMNS).fetchall()


def migrated(url: str) -> list[str]:
    with connected(url, LONG) as connection, connection.begin():
        return migrate(connection, load_catalogue(["configbus.domains"]), "configbus", "production")


def test_the_frame_goes_down_to_the_first_one_and_up_again(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    newest = frame(operator)

    with connected(empty_database_url) as connection, connection.begin():
        downgrade(connection, "configbus", "0001")
    first = frame(operator)

    then, now = dict(first[0]), dict(newest[0])
    assert {name for name in now if name in then and then[name] != now[name]} == {"audit", "capture", "seal"}
    assert {"lock_environment", "raise_epoch", "drift", "capture_drift", "newest"} <= now.keys() - then.keys()
    assert not then.keys() - now.keys()
    assert set(first[1]) < set(newest[1])
    assert {row[0] for row in set(newest[1]) - set(first[1])} == {
        "domain",
        "domain_pkey",
        "idempotency",
        "idempotency_pkey",
        "release_time",
        "config_audit_log_block",
        "audit_line",
        "audit_line_pending",
        "audit_line_pkey",
        "audit_line_release",
        "environment",
        "release",
    }
    operator.execute("UPDATE configbus.trading_config SET score_threshold = 0.1 WHERE status = 'active'")
    assert operator.execute("SELECT max(revision) FROM configbus.release").fetchone() == (2,)

    assert migrated(empty_database_url) == ["frame 0007"]
    assert frame(operator) == newest
    assert operator.execute("SELECT max(revision) FROM configbus.release").fetchone() == (2,)
