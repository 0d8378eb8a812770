"""`configbus verify` and `configbus epoch raise`, as an operator runs them."""

from __future__ import annotations

import json
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from shell import QuickShell, Shell

from configbus import ConfigBus
from configbus.author import Author

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = "configbus:{production}:block:trading"


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    shell = QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=redis_url)
    assert shell("set", "trading.score_threshold=0.8").returncode == 0
    return shell


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def bypass(shell: Shell, statement: str) -> None:
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode())


def test_where_everything_is_the_same_it_says_so(shell: Shell) -> None:
    done = shell("verify")
    assert (done.returncode, done.stdout) == (0, "active rows, release tables and Redis are the same, and valid\n")
    assert shell("verify", "--json").stdout == ""


def test_what_differs_is_shown_field_by_field_and_put_right_on_demand(shell: Shell, client: Any) -> None:
    client.hset(BLOCK, mapping={"score_threshold": '"0.999"', "stray": "1"})
    bypass(shell, "UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")
    found = shell("verify")
    assert found.returncode == 8
    assert [line.split() for line in found.stdout.splitlines()] == [
        ["where", "block", "field", "found", "expected", "repaired"],
        ["postgres", "risk", "max_order_attempts", "9", "3", "no"],
        ["redis", "trading", "score_threshold", '"0.999"', '"0.800"', "no"],
        ["redis", "trading", "stray", "1", "no"],
    ]
    assert client.hget(BLOCK, "stray") == "1"

    done = shell("verify", "--repair", "--json")
    assert done.returncode == 0
    assert {(line["where"], line["field"], line["repaired"]) for line in map(json.loads, done.stdout.splitlines())} == {
        ("postgres", "max_order_attempts", True),
        ("redis", "score_threshold", True),
        ("redis", "stray", True),
    }
    assert client.hget(BLOCK, "score_threshold") == '"0.800"'
    assert client.hget("configbus:{production}:block:risk", "max_order_attempts") == "9"
    assert shell("verify").returncode == 0
    actions = [json.loads(line)["action"] for line in shell("audit", "--json", "-n", "3").stdout.splitlines()]
    assert sorted(actions[:2]) == ["drift", "repair"]


def test_an_emptied_redis_is_one_finding(shell: Shell, client: Any) -> None:
    client.flushall()
    found = shell("verify")
    assert found.returncode == 8
    assert "lay_down" in found.stdout
    assert shell("verify", "--repair").returncode == 0
    assert client.hget(BLOCK, "score_threshold") == '"0.800"'


def test_content_that_workers_refuse_is_named_and_cannot_be_repaired(shell: Shell) -> None:
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        connection.execute(
            "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'"
        )
    done = shell("verify", "--repair")
    assert done.returncode == 8
    assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [["redis", "@head"], ["model", "trading"]]
    (finding,) = map(json.loads, shell("verify", "--json").stdout.splitlines())
    assert finding["field"].startswith("drawdown_reduction_tiers")
    assert finding["found"] == "[7]"
    assert not finding["repaired"]


def test_a_change_on_its_way_to_redis_is_no_difference(shell: Shell) -> None:
    servers = {name: shell.environ[f"CONFIGBUS_{name.upper()}"] for name in ("database_url", "redis_url")}
    ended = threading.Event()

    def write() -> None:
        with Author.connect(**servers, environment="production") as author:
            for number in count():
                author.set({"risk.max_order_attempts": 3 + number % 6})
                if ended.wait(0.02):
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = [shell("verify") for _ in range(25)]
    finally:
        ended.set()
        thread.join()
    assert {done.returncode for done in found} == {0}, [done.stdout for done in found if done.returncode]


def test_a_redis_of_another_epoch_has_no_lag(shell: Shell) -> None:
    assert shell("epoch", "raise").returncode == 0
    bypass(shell, "UPDATE configbus.environment SET epoch = epoch - 1000")
    done = shell("status")
    assert done.returncode == 8
    assert "in step      no, Redis follows a newer epoch\n" in done.stdout
    assert json.loads(shell("status", "--json").stdout)["lag"] is None


def test_a_restore_is_followed_after_a_new_epoch(shell: Shell, client: Any) -> None:
    before = int(client.hget("configbus:{production}:head", "epoch"))
    with ConfigBus.connect(redis_url=shell.environ["CONFIGBUS_REDIS_URL"], environment="production") as bus:
        bypass(shell, "UPDATE configbus.environment SET system = '7399999999999999999'")
        refused = shell("set", "trading.score_threshold=0.9")
        assert refused.returncode == 5
        assert "configbus epoch raise" in refused.stderr
        done = shell("epoch", "raise", "--reason", "restored on a new server")
        assert done.returncode == 0
        assert int(done.stdout) > before
        assert client.hget("configbus:{production}:head", "epoch") == done.stdout.strip()
        assert shell("audit", "--verify").returncode == 0, "nothing is gone: the same release is in another epoch"
        assert shell("set", "trading.score_threshold=0.9").returncode == 0
        bus.wait_for(3)
        assert bus.epoch == int(done.stdout)
    (line,) = [
        line for line in map(json.loads, shell("audit", "--json").stdout.splitlines()) if line["action"] == "epoch"
    ]
    assert (line["reason"], line["performed_by"]) == ("restored on a new server", "ana")
    assert line["old"]["epoch"] == before


def test_without_redis_no_epoch_is_begun(shell: Shell) -> None:
    done = shell("epoch", "raise", CONFIGBUS_REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 6
    assert shell("verify", CONFIGBUS_REDIS_URL="redis://127.0.0.1:1/0").returncode == 6
    assert shell("verify").returncode == 0
