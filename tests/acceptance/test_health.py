"""What a container's health check is told: the exit status, one line on stderr, or JSON."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from shell import PATIENCE, QuickShell, Shell, line_with
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD = "configbus:{production}:head"
NOWHERE = "redis://:hunter2@127.0.0.1:1/0"
RAISE = "UPDATE configbus.risk_config SET max_order_attempts = max_order_attempts + 1 WHERE status = 'active'"


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    return QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=redis_url)


@contextmanager
def relay_of(shell: Shell) -> Iterator[None]:
    """A relay runs, and Redis is where Postgres is."""
    process = shell.start("relay")
    try:
        assert process.stderr is not None
        line_with(process, process.stderr, "relay_started")
        until(lambda: shell("health").returncode == 0)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def told(shell: Shell, **variables: str) -> tuple[int, str]:
    """Exit status and reason of one health check; the reason is one line, the same on stderr and in JSON."""
    done = shell("health", "--json", **variables)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() == {"healthy", "reason"}
    assert found["healthy"] is (done.returncode == 0)
    assert done.stderr == (f"configbus: {found['reason']}\n" if done.returncode else "")
    return done.returncode, found["reason"] or ""


def test_with_a_relay_it_is_healthy(shell: Shell) -> None:
    with relay_of(shell):
        done = shell("health")
        assert (done.returncode, done.stdout, done.stderr) == (0, "healthy\n", "")
        assert json.loads(shell("health", "--json").stdout) == {"healthy": True, "reason": None}


def test_before_any_relay_it_is_not_and_says_what_to_do(shell: Shell) -> None:
    done = shell("health")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "nothing was published yet" in done.stderr
    assert "configbus relay" in done.stderr


def test_without_its_relay_it_soon_is_not(shell: Shell) -> None:
    with relay_of(shell):
        pass
    until(lambda: shell("health").returncode == 1)
    status, reason = told(shell)
    assert status == 1
    assert "stamp" in reason
    assert "configbus relay" in reason


def test_behind_postgres_it_is_not_however_fresh(shell: Shell) -> None:
    with relay_of(shell):
        pass
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        connection.execute(RAISE)
    status, reason = told(shell)
    assert status == 1
    assert "revision 1, Postgres at epoch" in reason
    assert "revision 2;" in reason


def test_what_a_second_look_finds_well_is_healthy(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause between two looks is when Redis catches up."""
    paused = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        assert shell("set", "risk.max_order_attempts=9").returncode == 0
        with redis.Redis.from_url(shell.environ["CONFIGBUS_REDIS_URL"]) as client:
            seconds, micros = client.time()
            client.hset(HEAD, "asof", seconds * 1_000_000 + micros)

    monkeypatch.setattr(time, "sleep", pause)
    assert told(shell) == (0, "")
    assert paused == [1.0]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("revision", "99", "damaged"), ("asof", "soon", "no stamp"), ("asof", str(10**17), "stamp")],
    ids=["a head that does not fit its check", "no stamp", "a stamp of the future"],
)
def test_a_head_that_workers_would_not_trust_is_not_healthy(shell: Shell, field: str, value: str, words: str) -> None:
    with relay_of(shell):
        pass
    with redis.Redis.from_url(shell.environ["CONFIGBUS_REDIS_URL"]) as client:
        client.hset(HEAD, field, value)
    status, reason = told(shell)
    assert status == 1
    assert words in reason


def test_an_environment_that_is_not_set_up_is_named(shell: Shell) -> None:
    status, reason = told(shell, CONFIGBUS_ENVIRONMENT="staging")
    assert status == 1
    assert "staging" in reason
    assert "configbus migrate" in reason


@pytest.mark.parametrize(
    ("variables", "servers"),
    [
        ({"CONFIGBUS_REDIS_URL": NOWHERE}, {"Redis"}),
        ({"CONFIGBUS_DATABASE_URL": "postgresql://x:hunter2@127.0.0.1:1/x"}, {"Postgres"}),
        (
            {"CONFIGBUS_DATABASE_URL": "postgresql://x:hunter2@127.0.0.1:1/x", "CONFIGBUS_REDIS_URL": NOWHERE},
            {"Postgres", "Redis"},
        ),
    ],
    ids=["Redis", "Postgres", "both"],
)
def test_a_server_that_is_down_is_exit_status_6(shell: Shell, variables: dict[str, str], servers: set[str]) -> None:
    status, reason = told(shell, **variables)
    assert status == 6
    assert {server for server in ("Postgres", "Redis") if f"{server} is not available" in reason} == servers
    assert "hunter2" not in reason


def test_servers_that_keep_silent_do_not_keep_it_waiting(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        status, reason = told(shell, CONFIGBUS_DATABASE_URL="postgresql://x@/x?" + "&".join([f"host={host}"] * 3))
        assert time.monotonic() - begun < 3
    assert status == 6
    assert "Postgres is not available: no answer within 2.2 s" in reason


def test_a_setting_that_is_missing_is_named(shell: Shell) -> None:
    done = shell("health", CONFIGBUS_REDIS_URL="")
    assert done.returncode == 2
    assert "CONFIGBUS_REDIS_URL is not set" in done.stderr
