"""Commits that wait for a standby which is not there: whoever made one ends, and says that nobody knows."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from relays import running_relay
from shell import QuickShell
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Psql

    from configbus.settings import Settings

TOLD = "whether the change was made is not known"
BLOCK = "configbus:{production}:block:risk"
PROBE = b"SELECT pg_logical_emit_message(true, '', '')"
WAITS = "SELECT wait_event IS NOT DISTINCT FROM 'SyncRep' FROM pg_stat_activity WHERE pid = %s"
OVER = "SELECT state = 'idle' OR wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = %s"


@pytest.fixture
def alone(published: Settings, administrator: Psql, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Gives what lets every later commit in the database of the test wait for a standby that there is not."""
    url = published.require("database_url")
    monkeypatch.setattr("configbus.store.connect.COMMIT_SECONDS", 0.5)

    def commits_wait() -> bool:
        with closing(psycopg.connect(url, autocommit=True)) as probe:
            probe.pgconn.send_query(PROBE)
            pid = [probe.info.backend_pid]
            until(lambda: administrator.execute(OVER, pid).fetchall() == [(True,)])
            return administrator.execute(WAITS, pid).fetchall() == [(True,)]

    def leave_alone() -> None:
        with psycopg.connect(url, autocommit=True) as operator:
            operator.execute(f"ALTER DATABASE {operator.info.dbname} SET synchronous_commit = on".encode())
        administrator.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        administrator.execute("SELECT pg_reload_conf()")
        until(commits_wait)

    yield leave_alone
    administrator.execute("ALTER SYSTEM RESET synchronous_standby_names")
    administrator.execute("SELECT pg_reload_conf()")


def bypass(url: str) -> None:
    with psycopg.connect(url) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")


COMMANDS: dict[str, list[str]] = {
    "an author": ["set", "risk.max_order_attempts=5"],
    "a pruning": ["prune", "--keep", "0s"],
    "a new epoch": ["epoch", "raise"],
    "a release of what bypassed triggers": ["verify", "--repair"],
    "a line about a repair of Redis": ["verify", "--repair"],
    "a migration": ["migrate", "--environment", "staging"],
}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_command_whose_commit_waits_ends_and_says_so(
    what: str, published: Settings, redis_url: str, tmp_path: Path, alone: Callable[[], None]
) -> None:
    url = published.require("database_url")
    shell = QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=url, CONFIGBUS_REDIS_URL=redis_url)
    assert shell("set", "risk.max_order_attempts=4").returncode == 0
    if what == "a release of what bypassed triggers":
        bypass(url)
    if what == "a line about a repair of Redis":
        with redis.Redis.from_url(redis_url) as client:
            client.hset(BLOCK, "max_order_attempts", "9")
    alone()
    done = shell(*COMMANDS[what])
    assert done.returncode not in (0, 8)
    assert TOLD in done.stderr
    assert ("idempotency key" in done.stderr) == (what == "an author")


def test_a_relay_whose_commit_waits_says_so_and_goes_on(
    published: Settings, alone: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    bypass(published.require("database_url"))
    alone()
    with running_relay(published):
        until(lambda: any("relay_waits" in r.message and TOLD in r.message for r in caplog.records))
