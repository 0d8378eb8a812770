"""`configbus up` and `configbus demo`: everything on this machine, and nothing left behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from shell import line_with
from waiting import until

from configbus import ConfigBus, State

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 40.0


class Up:
    """`configbus up` on a directory, and the variables that it wrote."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
        foreign = {"PGSSLMODE": "require", "PGSERVICE": "nope", "PGOPTIONS": "-c nonsense"}
        self.process = process = subprocess.Popen(
            [sys.executable, "-m", "configbus", "up", "--data-dir", str(self.directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=clean | foreign,
        )
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        env = self.directory / "env"
        lines = (line.removeprefix("export ").split("=", 1) for line in env.read_text().splitlines())
        return {name: value.strip("'") for name, value in lines}

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def servers(self) -> list[str]:
        """Server processes that still run on this directory."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                ended = "\nState:\tZ" in status.read_text()
                command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                cwd = str((status.parent / "cwd").readlink())
            except OSError:
                continue
            if not ended and str(self.directory) in command + cwd and ("postgres" in command or "valkey" in command):
                found.append(command)
        return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path / "data")
    yield up
    if up.process is not None and up.process.poll() is None:
        up.end(signal.SIGTERM)


def run(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "configbus", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | variables, timeout=PATIENCE, check=False
    )


@pytest.mark.timeout(120)
def test_up_serves_a_worker_and_its_data_survive(up: Up) -> None:
    variables = up.start()
    assert (up.directory / "env").stat().st_mode & 0o077 == 0
    with ConfigBus.connect(
        redis_url=variables["CONFIGBUS_REDIS_URL"],
        environment=variables["CONFIGBUS_ENVIRONMENT"],
        require="live",
    ) as bus:
        assert bus.state is State.LIVE
        assert run(variables, "set", "risk.max_order_attempts=7").stdout == "2\n"
        with psycopg.connect(variables["CONFIGBUS_DATABASE_URL"]) as connection:
            connection.execute("UPDATE configbus.risk_config SET drawdown_lookback_days = 9 WHERE status = 'active'")
        bus.wait_for(3)
        assert (bus.get("risk.max_order_attempts"), bus.get("risk.drawdown_lookback_days")) == (7, 9)
    second = run({}, "up", "--data-dir", str(up.directory))
    assert second.returncode == 1
    assert "in use" in second.stderr
    assert (up.directory / "env").exists()
    assert up.end(signal.SIGTERM) == 0
    assert not up.servers()
    assert not (up.directory / "env").exists()

    again = up.start() | {"PGSSLMODE": "require"}
    assert run(again, "get", "risk.drawdown_lookback_days").stdout == "9\n"
    assert run(again, "status").returncode == 0
    assert up.end(signal.SIGINT) == 0
    assert not up.servers()

    up.start()
    assert up.end(signal.SIGHUP) == 0
    assert not up.servers()
    assert not (up.directory / "env").exists()


@pytest.mark.timeout(120)
def test_up_killed_leaves_no_server_and_loses_nothing(up: Up) -> None:
    variables = up.start()
    assert run(variables, "set", "risk.max_order_attempts=7").returncode == 0
    up.end(signal.SIGKILL)
    until(lambda: not up.servers())
    assert run(up.start(), "get", "risk.max_order_attempts").stdout == "7\n"


@pytest.mark.timeout(120)
def test_the_demo_ends_by_itself_with_every_worker_where_postgres_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "configbus", "demo"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PGSSLMODE": "require", "PGSERVICE": "nope", "PGOPTIONS": "-c nonsense"},
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = (
        "trading.score_threshold: Input should be less than or equal to 1",
        "must sum to 1",
        "score_threshold           0.750   0.900",
        "rollback --all --to 2",
        "worker-3  asyncio  0.800      15.00     grid 20 lots  6         live",
        '"@with"',
        "Redis holds the same again",
        "worker-5  asyncio  0.800      15.00     grid 20 lots  6         live",
        "Every worker stands where Postgres stands.",
    )
    at = [done.stdout.find(step) for step in steps]
    assert -1 not in at, done.stdout
    assert at == sorted(at), "the steps are out of order"
    assert "\x1b" not in done.stdout
    assert not done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(120)
def test_a_demo_in_a_terminal_has_colours_and_killed_leaves_nothing_running(tmp_path: Path) -> None:
    marker = {"TMPDIR": str(tmp_path), "TERM": "xterm-256color"}
    terminal, screen = pty.openpty()
    demo = subprocess.Popen([sys.executable, "-m", "configbus", "demo"], stdout=screen, env=os.environ | marker)
    os.close(screen)
    with os.fdopen(terminal, encoding="utf8") as shown:
        lines = [next(shown)]
        while "worker-4" not in lines[-1]:
            lines.append(next(shown))
        demo.kill()
        demo.wait()
    assert any("\x1b[1m" in line and "threshold" in line for line in lines)
    until(lambda: not left(tmp_path))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("shown", "signals"),
    [
        ("Starting", [signal.SIGINT, signal.SIGINT, signal.SIGINT]),
        ("1. The start", [signal.SIGTERM, signal.SIGTERM]),
        ("$ configbus set", [signal.SIGHUP, signal.SIGHUP]),
    ],
    ids=[
        "ctrl-c before the servers are there",
        "sigterm twice before workers are",
        "a closed terminal",
    ],
)
def test_a_demo_that_is_ended_leaves_nothing_and_says_nothing(
    tmp_path: Path, shown: str, signals: list[signal.Signals]
) -> None:
    """Signals go to the whole group, as those of a terminal do."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "configbus", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert demo.stdout is not None
    line_with(demo, demo.stdout, shown)
    for number in signals:
        os.killpg(demo.pid, number)
    _, complaints = demo.communicate(timeout=PATIENCE)
    assert (demo.returncode, complaints) == (130, "")
    assert not left(tmp_path)
    assert not list(tmp_path.iterdir())


def left(directory: Path) -> list[str]:
    """Processes that still run and were started with this directory for temporary files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ, status = (process / "environ").read_bytes(), (process / "status").read_text()
        except OSError:
            continue
        if f"TMPDIR={directory}".encode() in environ and "\nState:\tZ" not in status:
            found.append((process / "cmdline").read_text())
    return found
