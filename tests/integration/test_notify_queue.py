"""A full queue of notifications fails no change, delays none, and is told."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from conftest import prepare_template
from relays import running_relay
from waiting import until

from configbus import ConfigBus, wire
from configbus.author import Author
from configbus.embedded import EmbeddedPostgres
from configbus.reads import now
from configbus.relay import QUEUE_SHARE
from configbus.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

FILLINGS = 3
"""Of their three warnings the second in length counts: a busy machine holds up one of them now and then."""
EDITS = 7
"""While the queue is full, each time; the limit holds for the median of all."""
TOLD_SECONDS = 2.0
DELIVERED_SECONDS = 0.3
ATTEMPTS = "UPDATE configbus.risk_config SET max_order_attempts = %s WHERE status = 'active'"


def fill(admin: psycopg.Connection[Any]) -> None:
    """Until nothing goes in any more."""
    for size in (7000, 100, 1):
        for _ in range(400):
            admin.execute(
                "SELECT pg_notify('something', repeat('x', %s) || n) FROM generate_series(1, 20) AS n", [size]
            )


def seen_empty(admin: psycopg.Connection[Any], redis_url: str) -> None:
    """Return once the queue is empty and the relay has looked at it, which it does before it repairs Redis.

    Nobody is signalled of what the aborted transaction that filled it left there: the next bell is for that, too.
    """

    def usage() -> float:
        ((share,),) = admin.execute("SELECT pg_notification_queue_usage()").fetchall()
        return float(share)

    until(lambda: usage() < QUEUE_SHARE)
    admin.execute("SELECT pg_notify('something', '')")
    until(lambda: usage() < 0.1)
    key = wire.Keys("configbus", "production").block("risk")
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(2):  # the first repair may end a look that began before
            client.delete(key)
            until(lambda: client.exists(key))


def test_a_full_queue_fails_no_change_and_is_told_each_time_it_fills(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> int:
        return sum("notify_queue_fills" in record.message for record in caplog.records)

    with EmbeddedPostgres(tmp_path, durable=False) as postgres, psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
    told, delivered = [], []
    with EmbeddedPostgres(tmp_path, durable=False) as postgres, psycopg.connect(postgres.url, autocommit=True) as admin:
        prepare_template(postgres.url)
        servers: dict[str, Any] = {"redis_url": redis_url, "environment": "production"}
        settings = load_settings({}, database_url=postgres.url, **servers, actor="ana")
        with (
            running_relay(settings),
            Author(settings) as author,
            ConfigBus.connect(**servers, require="live") as bus,
        ):
            for filling in range(1, FILLINGS + 1):
                with psycopg.connect(postgres.url) as idle:
                    idle.execute("LISTEN something")
                    idle.commit()
                    idle.execute("SELECT 1")
                    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="too many notifications"):
                        fill(admin)
                    full = now()
                    until(lambda: warnings() >= filling)  # noqa: B023  # called at once
                    told.append(now() - full)
                    for _ in range(EDITS):
                        release = author.set({"risk.max_order_attempts": 7})
                        bus.wait_for(release)
                        admin.execute(ATTEMPTS, [8])
                        committed = now()
                        bus.wait_for(release.revision + 1)
                        delivered.append(now() - committed)
                        assert bus.get("risk.max_order_attempts") == 8
                seen_empty(admin, redis_url)
            assert not any("publish_left_to_relay" in record.message for record in caplog.records)
    assert warnings() == FILLINGS
    assert median(told) <= TOLD_SECONDS, told
    assert median(delivered) <= DELIVERED_SECONDS, sorted(delivered)
