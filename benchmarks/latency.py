"""Commit to callback: how long after its release was made a worker's callback runs, in other processes.

    .venv/bin/python benchmarks/latency.py [ACTIVATIONS]

Durable embedded Postgres, Valkey, a relay process, one worker process per driver. The clock starts at
`released_at`, taken by Postgres under the lock just before the commit is flushed, and stops in the
callback: both on this machine's wall clock. The bare durable commit of the same run stands beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from configbus import AsyncConfigBus, Change, ConfigBus
from configbus.author import Author
from configbus.cli.migrating import prepare
from configbus.cli.up import exports
from configbus.embedded import EmbeddedPostgres, EmbeddedValkey
from configbus.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

PACE_SECONDS = 0.02
DRIVERS = ("thread", "asyncio")
EDIT = "UPDATE configbus.trading_config SET max_slippage_exit_bps = %s WHERE status = 'active'"


def work(driver: str) -> None:
    """Be a worker: print revision and instant of each callback, until stdin ends."""

    def tell(change: Change[Any]) -> None:
        sys.stdout.write(json.dumps([change.revision, time.time()]) + "\n")
        sys.stdout.flush()

    async def follow() -> None:
        async with AsyncConfigBus.connect(require="live") as bus:
            bus.on_change("trading", tell)
            await asyncio.to_thread(sys.stdin.read)

    if driver == "asyncio":
        asyncio.run(follow())
        return
    with ConfigBus.connect(require="live") as bus:
        bus.on_change("trading", tell)
        sys.stdin.read()


class Worker:
    """A worker process and the instants at which its callback saw each revision."""

    def __init__(self, driver: str, variables: dict[str, str]) -> None:
        command = [sys.executable, __file__, "work", driver]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | variables
        )
        self.seen: dict[int, float] = {}
        self.last = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            revision, at = json.loads(line)
            with self.last:
                self.seen[revision] = at
                self.last.notify_all()

    def until(self, revision: int) -> None:
        with self.last:
            assert self.last.wait_for(lambda: max(self.seen, default=0) >= revision, 30)

    def end(self) -> None:
        self.process.communicate()


def measure(activations: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with EmbeddedPostgres(place / "postgres") as postgres, EmbeddedValkey(place / "valkey") as valkey:
            settings = load_settings({}, database_url=postgres.url, redis_url=valkey.url, environment="bench")
            prepare(settings)
            variables = exports(settings) | {"CONFIGBUS_LOG_LEVEL": "ERROR"}
            relay = subprocess.Popen([sys.executable, "-m", "configbus", "relay"], env=os.environ | variables)
            workers = {driver: Worker(driver, variables) for driver in DRIVERS}
            try:
                _run(settings, workers, activations)
            finally:
                for worker in workers.values():
                    worker.end()
                relay.terminate()
                relay.wait()


def _run(settings: Settings, workers: dict[str, Worker], activations: int) -> None:
    for worker in workers.values():
        worker.until(1)
    with psycopg.connect(settings.require("database_url"), autocommit=True) as connection, Author(settings) as author:
        connection.execute("CREATE TABLE bare (number int)")
        bare = _timed(lambda number: connection.execute("INSERT INTO bare VALUES (%s)", [number]), activations)
        calls = {
            "set": _timed(lambda number: author.set({"trading.max_slippage_exit_bps": number + 1000}), activations),
            "sql": _timed(lambda number: connection.execute(EDIT, [number + 5000]), activations),
        }
        for worker in workers.values():
            worker.until(2 * activations + 1)
        rows = connection.execute("SELECT revision, extract(epoch FROM released_at) FROM configbus.release")
        released = {revision: float(at) for revision, at in rows}
    print(f"bare durable commit: {_shown(bare)}")
    for number, (route, duration) in enumerate(calls.items()):
        print(f"{route}: the call itself {_shown(duration)}")
        revisions = range(2 + number * activations, 2 + (number + 1) * activations)
        for driver, worker in workers.items():
            took = [worker.seen[revision] - released[revision] for revision in revisions if revision in worker.seen]
            print(f"{route} -> callback, {driver}: {_shown(took)} ({len(took)} seen)")


def _timed(action: Callable[[int], object], times: int) -> list[float]:
    took = []
    for number in range(times):
        time.sleep(PACE_SECONDS)
        begin = time.perf_counter()
        action(number)
        took.append(time.perf_counter() - begin)
    return took


def _shown(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"median {statistics.median(ordered) * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms"


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(sys.argv[2])
    else:
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
