"""The processes beside the demo, its relay and its workers, and what the workers say that they hold."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import typer

from configbus.cli.output import show_table
from configbus.cli.up import exports
from configbus.errors import ConfigBusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from configbus.settings import Settings
    from configbus.wire import Position

SHOWN = ("trading.score_threshold", "risk.max_drawdown_pct")
COLUMNS = ("worker", "driver", "threshold", "drawdown", "strategies", "revision", "state", "after")
PATIENCE_SECONDS = 15.0
INTERRUPTED = 130
"""The exit status of a demo that was told to stop, the one that a shell shows for Ctrl-C."""


class DemoFailed(ConfigBusError):
    """What the demo shows did not happen."""


@dataclass
class Worker:
    """A worker process, and the newest line it printed."""

    name: str
    driver: str
    told: dict[str, Any] = field(default_factory=dict)

    def read(self, lines: Iterable[str]) -> None:
        """Take in what the worker prints until it ends; what it did not print itself is left."""
        for line in lines:
            with contextlib.suppress(ValueError):
                if isinstance(told := json.loads(line), dict):
                    self.told = told


class Workers:
    """A relay and workers as processes of their own, ended with the block."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._processes: list[subprocess.Popen[str]] = []
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        self._start("relay")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def add(self, name: str, driver: str) -> None:
        """Start one more worker, on a thread or in an asyncio loop."""
        worker = Worker(name, driver)
        process = self._start("work", driver, name)
        threading.Thread(target=worker.read, args=(process.stdout,), daemon=True).start()
        self._workers.append(worker)

    def show(self, position: Position, released_at: float | None = None) -> None:
        """Wait until every worker is live at this position, then print what each holds.

        `released_at` is when the release was made, in seconds since 1970: it times the way to the callbacks.
        """
        here = (position.epoch, position.revision, "live")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(_stand(worker) == here for worker in self._workers):
            if time.monotonic() > deadline:
                raise DemoFailed(f"not every worker is at {position}: {[worker.told for worker in self._workers]}")
            pause(self._stop)
        show_table(COLUMNS, [_row(worker, released_at) for worker in self._workers])

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "configbus.cli.demo_process", str(os.getpid()), *arguments]
        environ = variables(self._settings)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True)
        self._processes.append(process)
        return process


def pause(stop: threading.Event) -> None:
    """Wait a moment. Ends the demo where it was told to stop, at a place where nothing is half begun."""
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)
    time.sleep(0.01)  # not stop.wait(), whose lock a signal handler would wait for in vain


def variables(settings: Settings) -> dict[str, str]:
    """The environment of a process that belongs to the demo."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
    ours = {"CONFIGBUS_LOG_LEVEL": settings.log_level, "CONFIGBUS_ACTOR": settings.actor or ""}
    return foreign | exports(settings) | ours


def _stand(worker: Worker) -> tuple[Any, ...]:
    return tuple(worker.told.get(name) for name in ("epoch", "revision", "state"))


def _row(worker: Worker, released_at: float | None) -> list[Any]:
    told = worker.told
    return [
        worker.name,
        worker.driver,
        *(told[path] for path in SHOWN),
        ", ".join(f"{key} {lots} lots" for key, lots in told["strategies"].items()),
        told["revision"],
        told["state"],
        f"{(told['at'] - released_at) * 1000:.1f} ms" if released_at else "",
    ]
