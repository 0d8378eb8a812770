"""A full queue of notifications fails no change, delays none, and is told."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from conftest import prepare_template
from relays import running_relay
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.embedded import EmbeddedPostgres
from configbus.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def fill(admin: psycopg.Connection[Any]) -> None:
    """Until nothing goes in any more."""
    for size in (7000, 100, 1):
        for _ in range(400):
            admin.execute(
                "SELECT pg_notify('something', repeat('x', %s) || n) FROM generate_series(1, 20) AS n", [size]
            )


def test_a_full_queue_fails_no_change_and_is_told(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedPostgres(tmp_path, durable=False) as postgres, psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
    with EmbeddedPostgres(tmp_path, durable=False) as postgres, psycopg.connect(postgres.url, autocommit=True) as admin:
        prepare_template(postgres.url)
        admin.execute("CREATE TABLE filler (n int)")
        settings = load_settings(
            {}, database_url=postgres.url, redis_url=redis_url, environment="production", actor="ana"
        )
        with running_relay(settings), psycopg.connect(postgres.url) as idle, Author(settings) as author:
            idle.execute("LISTEN something")
            idle.commit()
            idle.execute("SELECT 1")
            with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="too many notifications"):
                fill(admin)
            until(lambda: any("notify_queue_fills" in record.message for record in caplog.records))
            with ConfigBus.connect(redis_url=redis_url, environment="production", require="live") as bus:
                bus.wait_for(author.set({"risk.max_order_attempts": 8}))
                started = time.monotonic()
                admin.execute("UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")
                bus.wait_for(3)
                assert time.monotonic() - started < 1.0
            assert not any("publish_left_to_relay" in record.message for record in caplog.records)
    assert sum("notify_queue_fills" in record.message for record in caplog.records) == 1
