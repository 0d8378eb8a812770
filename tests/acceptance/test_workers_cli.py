"""`configbus workers` and `--wait`, as an operator runs them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from relays import running_relay
from shell import QuickShell, Shell
from waiting import until

from configbus import ConfigBus
from configbus.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "configbus:{production}:"


@pytest.fixture
def servers(database_url: str, redis_url: str) -> dict[str, Any]:
    return {"database_url": database_url, "redis_url": redis_url, "environment": "production"}


@pytest.fixture
def shell(servers: dict[str, Any], tmp_path: Path) -> Iterator[Shell]:
    """A relay and two workers run: one of everything, and one of `discovery` alone."""
    worker = {name: servers[name] for name in ("redis_url", "environment")}
    with (
        running_relay(load_settings({}, **servers)),
        ConfigBus.connect(**worker, worker="alpha", require="live"),
        ConfigBus.connect(**worker, worker="beta", follow=["discovery"], require="live"),
        redis.Redis.from_url(servers["redis_url"]) as client,
    ):
        until(lambda: client.zcard(f"{PREFIX}workers") == 2)
        urls = {f"CONFIGBUS_{name.upper()}": servers[name] for name in ("database_url", "redis_url")}
        yield QuickShell(tmp_path, **urls)


def sql(shell: Shell, statement: str) -> None:
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        connection.execute(statement.encode())


def test_set_waits_for_those_who_follow_it(shell: Shell) -> None:
    done = shell("set", "risk.max_order_attempts=4", "--wait", "5")
    assert done.returncode == 0, done.stderr
    revision, receipt = done.stdout.splitlines()
    assert revision == "2"
    assert receipt.startswith("applied by 1 of 1 workers, median ")
    assert receipt.endswith("; 1 more follow none of its blocks")

    told = json.loads(shell("set", "risk.max_order_attempts=5", "--wait", "5", "--json").stdout)
    assert (told["revision"], told["applied"]) == (3, True)
    assert [(one["worker"], one["outcome"]) for one in told["workers"]] == [
        ("alpha", "applied"),
        ("beta", "not followed"),
    ]
    assert 0 < told["workers"][0]["latency"] < 5

    nothing = shell("set", "risk.max_order_attempts=5", "--wait", "5")
    assert (nothing.returncode, nothing.stdout) == (0, "3\n")


def test_activate_retire_and_rollback_wait_too(shell: Shell) -> None:
    draft = json.loads(shell("draft", "risk", "max_order_attempts=6", "--json").stdout)["id"]
    for command in (["activate", draft], ["rollback", "risk", "--to", "1"]):
        done = shell(*command, "--wait", "5")
        assert (done.returncode, done.stdout.count("applied by 1 of 1 workers")) == (0, 1), done.stderr
    assert "--wait" in shell("retire", "--help").stdout


def test_a_worker_that_refuses_or_lags_is_named_with_exit_status_9(shell: Shell, servers: dict[str, Any]) -> None:
    sql(shell, "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'")
    until(lambda: json.loads(shell("status", "--json").stdout)["redis"]["revision"] == 2)
    until(lambda: "partial" in shell("workers").stdout)
    refused = shell("set", "trading.max_slippage_entry_bps=77", "--wait", "5")
    assert refused.returncode == 3, refused.stdout  # what no model admits is not built upon
    held = shell("rollback", "trading", "--to", "1", "--wait", "5")
    assert held.returncode == 0, held.stdout

    with redis.Redis.from_url(servers["redis_url"]) as client:
        client.zadd(f"{PREFIX}workers", {"hung": 10**18})
        client.hset(f"{PREFIX}worker:hung", mapping=client.hgetall(f"{PREFIX}worker:alpha"))
    lags = shell("set", "risk.max_order_attempts=4", "--wait", "0.2")
    assert lags.returncode == 9
    assert [line.split()[:4] for line in lags.stdout.splitlines()] == [
        ["4"],
        ["applied", "by", "1", "of"],
        ["worker", "outcome", "revision", "block"],
        ["hung", "missing", "3", "it"],
    ]
    assert json.loads(shell("set", "risk.max_order_attempts=5", "--wait", "0", "--json").stdout)["applied"] is False


def test_workers_are_shown_with_what_is_wrong(shell: Shell, servers: dict[str, Any]) -> None:
    found = [json.loads(line) for line in shell("workers", "--json").stdout.splitlines()]
    assert [(one["worker"], one["state"], one["revision"], one["behind"], one["why"]) for one in found] == [
        ("alpha", "live", 1, 0, ""),
        ("beta", "live", 1, 0, ""),
    ]
    assert found[1]["follows"] == ["discovery"]
    sql(shell, "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'")
    until(lambda: shell("workers").stdout.count(" 2 ") >= 2)
    with redis.Redis.from_url(servers["redis_url"]) as client:
        client.zadd(f"{PREFIX}workers", {"gone": (client.time()[0] - 60) * 1_000_000, "long gone": 1})
        client.zadd(f"{PREFIX}workers", {"hung": 10**18})
        facts = client.hgetall(f"{PREFIX}worker:alpha") | {b"revision": b"1", b"state": b"stale", b"held": b"{}"}
        client.hset(f"{PREFIX}worker:hung", mapping=facts)
    by_name = {one["worker"]: one for one in map(json.loads, shell("workers", "--json").stdout.splitlines())}
    assert by_name["alpha"]["state"] == "partial"
    assert by_name["alpha"]["why"].startswith("trading: drawdown_reduction_tiers.0 ")
    assert by_name["alpha"]["held"]["trading"]["revision"] == 2
    assert by_name["gone"]["state"] == "gone"
    assert by_name["gone"]["why"].startswith("not heard of for 6")
    until(lambda: "long gone" not in shell("workers").stdout, 8.0)
    assert "not heard of for 6" in shell("workers").stdout
    assert by_name["hung"]["behind"] == 1
    assert 0 < by_name["hung"]["behind_seconds"] < 60
    assert by_name["hung"]["why"] == "it cannot vouch for its copy: is a relay running?"
    shown = shell("workers").stdout.splitlines()
    assert shown[0].split() == ["worker", "state", "revision", "behind", "applied", "host", "pid", "version", "why"]
    assert "1 releases" not in shown[-1]
    assert "1 release, " in shown[-1]


def test_watching_shows_them_again_until_stopped(shell: Shell) -> None:
    process = shell.start("workers", "--watch", "--json")
    assert process.stdout is not None
    assert [json.loads(next(process.stdout))["worker"] for _ in range(4)] == ["alpha", "beta", "alpha", "beta"]
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")


def test_where_redis_is_down_the_release_stands_and_nobody_can_tell(shell: Shell) -> None:
    done = shell("set", "risk.max_order_attempts=9", "--wait", "1", "--redis-url", "redis://127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (9, "2\n")
    assert "revision 2 is live and goes to the workers; who has it cannot be told: Redis" in done.stderr
    assert "Traceback" not in done.stderr
