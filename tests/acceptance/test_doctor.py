"""`configbus doctor`, on what is well and on what is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from poolers import PGBOUNCER, pgbouncer
from relays import running_relay
from shell import QuickShell, Shell
from waiting import until

from configbus import ConfigBus
from configbus.settings import load_settings
from configbus.store.connect import connected
from configbus.store.schema import downgrade

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "configbus:{production}:"


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    return QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=redis_url)


@pytest.fixture
def relay(database_url: str, redis_url: str) -> Iterator[None]:
    settings = load_settings({}, database_url=database_url, redis_url=redis_url, environment="production")
    with running_relay(settings), redis.Redis.from_url(redis_url) as client:
        until(lambda: client.hget(f"{PREFIX}head", "asof") is not None)
        yield


def told(shell: Shell, status: int, **variables: str) -> dict[str, dict[str, Any]]:
    """Its findings by what they are about, which must lead to this exit status."""
    done = shell("doctor", "--json", **variables)
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stderr
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(finding["remedy"] for finding in findings if finding["level"] != "ok")
    return {finding["about"]: finding for finding in findings}


@pytest.mark.usefixtures("relay")
def test_where_all_is_well_nothing_is_an_error(shell: Shell) -> None:
    found = told(shell, 0)
    assert {about for about, finding in found.items() if finding["level"] == "ok"} == {
        "postgres", "schema", "listen", "redis", "eviction", "relay",
    }  # fmt: skip
    assert {about for about, finding in found.items() if finding["level"] == "warning"} == {"rights", "signing"}
    lines = shell("doctor").stdout.splitlines()
    assert lines[0].split() == ["level", "about", "found", "remedy"]


def test_without_a_relay_it_says_so(shell: Shell) -> None:
    assert told(shell, 1)["head"]["remedy"] == "start a relay: configbus relay"


@pytest.mark.usefixtures("relay")
def test_what_is_wrong_in_redis_is_named(shell: Shell, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.set(f"{PREFIX}notes", "x")
        found = told(shell, 0)
        client.config_set("maxmemory-policy", "noeviction")
        assert "allkeys-lru" in found["eviction"]["found"]
        assert found["keys"]["found"] == f"nobody's: {PREFIX}notes"
        client.delete(f"{PREFIX}notes")


@pytest.mark.usefixtures("relay")
def test_content_and_workers_that_refuse_it_are_named(shell: Shell, redis_url: str) -> None:
    with ConfigBus.connect(redis_url=redis_url, environment="production", worker="alpha", require="live") as bus:
        with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as operator:
            operator.execute(
                "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'"
            )
        until(lambda: "trading" in bus.held)
        until(lambda: "worker" in {json.loads(line)["about"] for line in shell("doctor", "--json").stdout.splitlines()})
        found = told(shell, 1)
    assert found["content"]["found"].startswith("trading: drawdown_reduction_tiers")
    assert found["worker"]["found"].startswith("alpha holds back trading: drawdown_reduction_tiers")


@pytest.mark.usefixtures("relay")
def test_what_is_wrong_in_postgres_is_named(shell: Shell) -> None:
    url = shell.environ["CONFIGBUS_DATABASE_URL"]
    with psycopg.connect(url) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("DELETE FROM configbus.risk_config WHERE status = 'active'")
    assert told(shell, 1)["drift"]["found"] == "changed behind the triggers: risk"


@pytest.mark.usefixtures("relay")
@pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer on this machine: doctor behind a real pooler is not tried")
def test_a_pooler_that_no_bell_comes_through_is_named(shell: Shell, tmp_path: Path) -> None:
    with pgbouncer(shell.environ["CONFIGBUS_DATABASE_URL"], tmp_path) as url:
        found = told(shell, 0, CONFIGBUS_DATABASE_URL=url)
    assert found["listen"] == {
        "level": "warning",
        "about": "listen",
        "found": "no bell is heard: a pooler is between",
        "remedy": "give the relay a direct URL; until then it looks ten times a second",
    }


def test_an_older_schema_is_named(shell: Shell) -> None:
    with connected(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection, connection.begin():
        downgrade(connection, "configbus", "0005")
    found = told(shell, 1)
    assert (found["schema"]["level"], found["schema"]["remedy"]) == ("error", "configbus migrate")
    assert "postgres" not in found


def test_servers_that_do_not_answer_are_findings(shell: Shell) -> None:
    found = told(shell, 1, CONFIGBUS_REDIS_URL="redis://127.0.0.1:1/0")
    assert found["redis"]["level"] == "error"
    assert found["postgres"]["level"] == "ok"
    found = told(shell, 1, CONFIGBUS_DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert "Connection refused" in found["postgres"]["found"]
    assert found["redis"]["level"] == "ok"
    found = told(shell, 1, CONFIGBUS_DATABASE_URL="", CONFIGBUS_REDIS_URL="")
    assert found["redis"]["remedy"] == found["postgres"]["remedy"] == "set it"
