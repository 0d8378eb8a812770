"""The commands as a person runs them: processes, exit status, stdout and stderr."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from shell import PATIENCE, QuickShell, Shell, line_with
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    return QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=redis_url)


@pytest.fixture
def relay(shell: Shell) -> Iterator[subprocess.Popen[str]]:
    process = shell.start("relay")
    assert process.stderr is not None
    line_with(process, process.stderr, "relay_started")
    yield process
    process.terminate()
    process.communicate(timeout=PATIENCE)


def test_get_prints_values_blocks_and_nested_parts(shell: Shell) -> None:
    assert shell("get", "trading.score_threshold").stdout == "0.700\n"
    assert shell("get", "trading.daily_loss_limit_enabled").stdout == "true\n"
    assert shell("get", "trading.drawdown_reduction_tiers.1.threshold_pct").stdout == "10\n"
    assert "max_drawdown_pct = 20.00\n" in shell("get", "risk").stdout
    found = json.loads(shell("get", "risk", "--json").stdout)
    assert found["value"]["max_order_attempts"] == 3
    assert found["version"] == 1


def test_get_of_what_cannot_be_read_is_a_clear_error(shell: Shell) -> None:
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        connection.execute(
            "UPDATE configbus.trading_config SET drawdown_reduction_tiers = %s::jsonb WHERE status = 'active'",
            ["[" * 1500 + "]" * 1500],
        )
    done = shell("get", "trading.drawdown_reduction_tiers")
    assert done.returncode == 3
    assert "trading.drawdown_reduction_tiers" in done.stderr
    assert "Traceback" not in done.stderr
    assert shell("set", "trading.drawdown_reduction_tiers=[]").returncode == 0


def test_set_prints_the_revision_and_makes_one_release(shell: Shell, redis_url: str) -> None:
    done = shell("set", "trading.score_threshold=0.8", "risk.max_drawdown_pct=15", "--reason", "volatility")
    assert (done.returncode, done.stdout) == (0, "2\n")
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.hget("configbus:{production}:block:trading", "score_threshold") == '"0.800"'
        assert client.hget("configbus:{production}:head", "revision") == "2"
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        audit = connection.execute(
            "SELECT old_values ->> 'score_threshold', new_values ->> 'score_threshold', performed_by, reason"
            " FROM configbus.config_audit_log WHERE config_table = 'trading_config' AND action = 'activate'"
            " ORDER BY id DESC LIMIT 1"
        ).fetchone()
    assert audit == ("0.700", "0.800", "ana", "volatility")


def test_set_with_json_tells_release_and_blocks(shell: Shell) -> None:
    told = json.loads(shell("set", "risk.max_order_attempts=5", "--json", "--by", "bob").stdout)
    assert (told["revision"], told["blocks"]) == (2, ["risk"])
    again = shell("set", "risk.max_order_attempts=5")
    assert (again.returncode, again.stdout) == (0, "2\n")
    assert "nothing differs" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["set", "trading.score_threshold=1.7"], 3, ["trading.score_threshold", "less than or equal to 1"]),
        (["set", "trading.score_threshold=NaN"], 3, ["trading.score_threshold", "finite"]),
        (["set", "trading.score_threshold=\u0660.\u0665"], 3, ["plain digits"]),
        (["set", "risk.max_order_attempts=many"], 3, ["risk.max_order_attempts", "not a number"]),
        (["set", "risk.max_order_attempts=true"], 3, ["risk.max_order_attempts", "integer"]),
        (["set", "trading.min_position_sol=5"], 3, ["min_position_sol must not be above max_position_sol"]),
        (["set", "trading.score_treshold=0.8"], 4, ["score_threshold"]),
        (["set", "tradin.score_threshold=0.8"], 4, ["trading"]),
        (["set", "trading=0.8"], 4, ["trading.FIELD"]),
        (["set", "trading.score_threshold"], 2, ["PATH=VALUE"]),
        (["migrate", "--down", "nonsense"], 5, ["nonsense", "base"]),
        (["get", "risk.nope"], 4, ["risk", "nope"]),
        (["get", "trading.score_threshold.deeper"], 4, ["deeper"]),
        (["set", "risk.max_order_attempts=5", "-e", "staging"], 4, ["staging", "configbus migrate"]),
        (["get", "risk", "-e", "Prod uction"], 2, ["CONFIGBUS_ENVIRONMENT"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_bad_input_gets_a_clear_error_and_changes_nothing(
    shell: Shell, arguments: list[str], status: int, words: list[str]
) -> None:
    done = shell(*arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    for word in words:
        assert word in done.stderr
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection:
        row = connection.execute("SELECT count(*), max(revision) FROM configbus.release").fetchone()
    assert row == (1, 1)


def test_postgres_down_is_exit_status_6_without_the_password(shell: Shell) -> None:
    done = shell("set", "risk.max_order_attempts=5", CONFIGBUS_DATABASE_URL="postgresql://x:hunter2@127.0.0.1:1/x")
    assert done.returncode == 6
    assert "Postgres is not available" in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


def test_redis_down_after_the_commit_is_a_warning_not_a_failure(shell: Shell) -> None:
    done = shell("set", "risk.max_order_attempts=5", CONFIGBUS_REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert "publish_left_to_relay" in done.stderr
    assert "hunter2" not in done.stderr
    assert shell("get", "risk.max_order_attempts").stdout == "5\n"


def test_logs_in_json_are_one_object_per_line_and_say_whose_they_are(shell: Shell) -> None:
    shell.environ["CONFIGBUS_LOG_FORMAT"] = "json"
    relay = shell.start("relay")
    assert relay.stderr is not None
    heard = [line_with(relay, relay.stderr, "relay_started")]
    done = shell("set", "risk.max_order_attempts=5", CONFIGBUS_REDIS_URL="redis://:hunter2@127.0.0.1:1/0")
    heard += [line_with(relay, relay.stderr, "release_published"), *done.stderr.splitlines()]
    relay.terminate()
    heard += relay.communicate(timeout=PATIENCE)[1].splitlines()
    lines = [json.loads(line) for line in heard]
    assert {line["event"] for line in lines} >= {"relay_started", "release_published", "publish_left_to_relay"}
    assert all({"at", "level", "event"} <= line.keys() for line in lines)
    assert {line["environment"] for line in lines} == {"production"}
    assert {line["revision"] for line in lines if line["event"].startswith(("release", "publish"))} == {2}


def test_a_setting_that_is_missing_is_named(shell: Shell) -> None:
    done = shell("get", "risk", CONFIGBUS_DATABASE_URL="")
    assert done.returncode == 2
    assert "CONFIGBUS_DATABASE_URL is not set" in done.stderr


def test_a_relay_without_a_database_does_not_wait_for_one(shell: Shell) -> None:
    done = shell("relay", CONFIGBUS_DATABASE_URL="")
    assert done.returncode == 2
    assert "CONFIGBUS_DATABASE_URL" in done.stderr


def test_a_misspelt_variable_is_warned_about(shell: Shell) -> None:
    done = shell("get", "risk", CONFIGBUS_ENVIROMENT="staging")
    assert done.returncode == 0
    assert "CONFIGBUS_ENVIRONMENT" in done.stderr


@pytest.mark.usefixtures("relay")
def test_status_compares_postgres_and_redis(shell: Shell, redis_url: str) -> None:
    until(lambda: shell("status").returncode == 0)
    found = json.loads(shell("status", "--json").stdout)
    assert found["in_step"] is True
    assert found["lag"] == 0
    assert found["redis"]["age"] < 3
    assert "in step      yes" in shell("status").stdout
    assert shell("status", CONFIGBUS_REDIS_URL="redis://127.0.0.1:1/0").returncode == 6
    assert redis_url


def test_status_without_anything_published_is_a_difference(shell: Shell) -> None:
    done = shell("status")
    assert done.returncode == 8
    assert "nothing was published yet" in done.stdout


@pytest.mark.usefixtures("relay")
def test_watch_prints_a_line_per_change_as_a_worker_sees_it(shell: Shell) -> None:
    watch = shell.start("watch", "trading.score_threshold", "--json")
    assert watch.stderr is not None
    assert watch.stdout is not None
    line_with(watch, watch.stderr, "watching")
    shell("set", "risk.max_order_attempts=5")
    shell("set", "trading.score_threshold=0.8")
    told = json.loads(watch.stdout.readline())
    assert (told["block"], told["revision"], told["fields"]) == (
        "trading",
        3,
        {"score_threshold": ["0.700", "0.800"]},
    )
    watch.send_signal(signal.SIGINT)
    stdout, stderr = watch.communicate(timeout=PATIENCE)
    assert (watch.returncode, stdout) == (0, "")
    assert "Traceback" not in stderr


def test_migrate_makes_another_environment_and_twice_changes_nothing(shell: Shell) -> None:
    first = shell("migrate", "-e", "staging")
    assert first.returncode == 0
    assert "environment staging" in first.stdout
    assert shell("migrate", "-e", "staging").stdout == "nothing to do\n"
    assert shell("get", "trading.score_threshold", "-e", "staging").stdout == "0.700\n"


def test_migrate_down_to_nothing_and_up_again(shell: Shell) -> None:
    assert shell("migrate", "--down", "base").returncode == 0
    refused = shell("get", "risk")
    assert refused.returncode == 6
    assert "configbus migrate" in refused.stderr
    assert shell("migrate").returncode == 0
    assert shell("set", "risk.max_order_attempts=5").stdout == "2\n"
    too_much = shell("migrate", "--down", "base")
    assert too_much.returncode == 5
    assert "more than the first rows" in too_much.stderr


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (">&-", "configbus: stdout is closed"),
        pytest.param(
            ">/dev/full",
            "configbus: [Errno 28] No space left on device",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it"),
        ),
    ],
)
def test_a_stdout_that_takes_nothing_is_told_in_a_line(target: str, told: str) -> None:
    command = ["/bin/sh", "-c", f'exec "$0" -m configbus domains {target}', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{told}\n")


@pytest.mark.parametrize("module", ["typer", "psycopg"], ids=["at the start", "by a command"])
def test_ctrl_c_while_modules_are_imported_ends_it_silently(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("import signal; signal.raise_signal(signal.SIGINT)", encoding="utf8")
    done = Shell(tmp_path, CONFIGBUS_DATABASE_URL="postgresql://127.0.0.1:1/none")("get", "risk")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_without_arguments_it_says_what_there_is(shell: Shell) -> None:
    shown = shell("--help").stdout
    for command in ("up", "demo", "migrate", "relay", "get", "set", "watch", "status"):
        assert f" {command} " in shown
    assert shell("nonsense").returncode == 2
