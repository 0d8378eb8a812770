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
HELD = '{{"risk": {{"revision": {0}, "field": "x", "reason": "y", "last_good": {1}}}}}'
MANY = "".join(f'"risk/{number}": {{}}, ' for number in range(100_000))
UNREADABLE = {
    "held of a revision that is no number": {"held": HELD.format("Infinity", 1)},
    "held of a revision of 5000 digits": {"held": HELD.format("9" * 5000, 1)},
    "held at a nested revision": {"held": HELD.format(1, "[" * 700 + "]" * 700)},
    "held that is nested deeper than can be read": {"held": "[" * 100_000},
    "held blocks without end": {"held": f'{{{MANY}"risk": {{}}}}'},
    "an instant of 4000 digits": {"applied_at": "9" * 4000},
    "a revision of 4300 digits": {"revision": "-" + "9" * 4300},
    "an epoch with a sign": {"epoch": "+1"},
    "a state of its own": {"state": "x" * 5000},
    "follows that is no list": {"follows": "{}"},
}


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


@pytest.fixture
def stranger(shell: Shell, servers: dict[str, Any]) -> Iterator[Any]:
    """Somebody with the rights of a worker, and no more."""
    with redis.Redis.from_url(servers["redis_url"], decode_responses=True) as admin:
        admin.execute_command(*shell("acl", "worker", "--user", "stranger").stdout.split(), ">secret")
        address = servers["redis_url"].rpartition("@")[2]
        with redis.Redis.from_url(f"redis://stranger:secret@{address}", decode_responses=True) as client:
            yield client
        admin.acl_deluser("stranger")


def told_of(shell: Shell, worker: str) -> dict[str, Any] | None:
    """What `workers` tells of one, while it tells of the other two, and briefly."""
    done, table = shell("workers", "--json"), shell("workers")
    assert (done.returncode, table.returncode) == (0, 0), done.stderr + table.stderr
    assert len(done.stdout) + len(table.stdout) < 10_000
    found = {one["worker"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert (found["alpha"]["state"], found["beta"]["state"]) == ("live", "live")
    assert found.keys() <= {"alpha", "beta", worker}
    return found.get(worker)


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
    assert (nothing.returncode, nothing.stdout) == (0, "3\napplied by 2 of 2 workers\n"), nothing.stderr
    assert json.loads(shell("set", "risk.max_order_attempts=5", "--wait", "5", "--json").stdout)["applied"] is True


def test_who_cannot_be_waited_for_is_told_and_never_taken_for_everybody(shell: Shell, servers: dict[str, Any]) -> None:
    done = shell("set", "risk.max_order_attempts=4", "--wait", "1", CONFIGBUS_REDIS_URL="")
    assert (done.returncode, "CONFIGBUS_REDIS_URL is not set" in done.stderr) == (2, True)
    assert shell("get", "risk.max_order_attempts").stdout == "3\n", "it was refused before anything was done"
    elsewhere = f"{servers['redis_url'].rpartition('/')[0]}/5"
    done = shell("set", "risk.max_order_attempts=4", "--wait", "1", CONFIGBUS_REDIS_URL=elsewhere)
    assert done.returncode == 9
    assert done.stdout.splitlines() == ["2", "no worker was heard of: does CONFIGBUS_REDIS_URL point to theirs?"]
    done = shell("set", "risk.max_order_attempts=5", "--wait", "1", "--json", CONFIGBUS_REDIS_URL=elsewhere)
    told = json.loads(done.stdout)
    assert (done.returncode, told["applied"], told["workers"]) == (9, False, [])


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
    again = shell("set", "risk.max_order_attempts=3", "--wait", "0")
    assert (again.returncode, "alpha" in again.stdout) == (9, True), "it changes nothing, and alpha holds trading back"
    refused = shell("set", "trading.max_slippage_entry_bps=77", "--wait", "5")
    assert refused.returncode == 3, refused.stdout  # what no model admits is not built upon
    held = shell("rollback", "trading", "--to", "1", "--wait", "5")
    assert held.returncode == 0, held.stdout

    with redis.Redis.from_url(servers["redis_url"]) as client:
        client.zadd(f"{PREFIX}workers", {"hung": client.time()[0] * 1_000_000})
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
        client.zadd(f"{PREFIX}workers", {"hung": client.time()[0] * 1_000_000})
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
    with redis.Redis.from_url(servers["redis_url"]) as client:
        client.zadd(f"{PREFIX}workers", {"hung": client.time()[0] * 1_000_000})
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


@pytest.mark.parametrize("said", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_no_worker_says_of_itself_is_told_of_that_one_alone(
    shell: Shell, stranger: Any, said: dict[str, str]
) -> None:
    stranger.zadd(f"{PREFIX}workers", {"ghost": stranger.time()[0] * 1_000_000})
    with redis.Redis.from_url(shell.environ["CONFIGBUS_REDIS_URL"], decode_responses=True) as client:
        stranger.hset(f"{PREFIX}worker:ghost", mapping=client.hgetall(f"{PREFIX}worker:alpha") | said)
    ghost = told_of(shell, "ghost")
    assert ghost is not None
    assert ghost["state"] == "unknown"
    assert ghost["why"].startswith("what it says of itself cannot be read: ")
    examined = shell("doctor", "--json")
    assert examined.returncode == 0, examined.stderr
    assert "ghost: what it says of itself cannot be read" in examined.stdout
    done = shell("set", "risk.max_order_attempts=4", "--wait", "0.2")
    assert done.returncode == 9, done.stderr
    assert "applied by 1 of 2 workers" in done.stdout
    assert len(done.stdout) < 1000


@pytest.mark.parametrize("score", ["inf", "-inf", 9e17, 1e300, 1e15 + 1, 5])
def test_a_name_of_another_time_is_no_worker_that_is_waited_for(shell: Shell, stranger: Any, score: Any) -> None:
    stranger.zadd(f"{PREFIX}workers", {"ghost": score})
    ghost = told_of(shell, "ghost")
    assert ghost is None or (ghost["state"], ghost["held"]) == ("gone", {})
    if score == 9e17:  # the one that is ahead of us, and a number
        assert ghost is not None
        assert ghost["why"].endswith(" s ahead of Redis' clock")
    examined = shell("doctor", "--json")
    assert examined.returncode == 0, examined.stderr
    done = shell("set", "risk.max_order_attempts=4", "--wait", "5")
    assert (done.returncode, done.stdout.count("applied by 1 of 1 workers")) == (0, 1), done.stderr


def test_where_a_stranger_took_the_place_of_the_names_it_is_told_what_to_delete(shell: Shell, stranger: Any) -> None:
    with redis.Redis.from_url(shell.environ["CONFIGBUS_REDIS_URL"]) as admin:
        stranger.delete(f"{PREFIX}workers")
        stranger.hset(f"{PREFIX}workers", "a", "b")
        remedy = f"DEL {PREFIX}workers, and the workers write it again"
        seen = shell("workers")
        assert (seen.returncode, seen.stdout) == (6, "")
        assert "no worker can be seen" in seen.stderr
        assert remedy in seen.stderr
        done = shell("set", "risk.max_order_attempts=4", "--wait", "1")
        assert (done.returncode, done.stdout) == (9, "2\n")
        assert "configbus: revision 2 is live and goes to the workers; who has it cannot be told" in done.stderr
        assert remedy in done.stderr
        assert remedy in shell("doctor", "--json").stdout
        admin.delete(f"{PREFIX}workers")
    until(lambda: "alpha" in shell("workers").stdout, 8.0)


def test_doctor_names_a_hundred_of_very_many_workers(shell: Shell, stranger: Any) -> None:
    heard = (stranger.time()[0] - 60) * 1_000_000
    stranger.zadd(f"{PREFIX}workers", {f"gone {number}": heard for number in range(150)})
    findings = [json.loads(line) for line in shell("doctor", "--json").stdout.splitlines()]
    found = [finding["found"] for finding in findings if finding["about"] == "worker"]
    assert len(found) == 101
    assert found[-1] == "so it is with 50 more"
