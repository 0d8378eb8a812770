"""What it costs that workers say where they stand: the same fleet listed, and not listed.

    .venv/bin/python benchmarks/presence.py [WORKERS [ROUNDS [SECONDS]]]

A relay process and, in each round, nobody, then WORKERS in one process, half threads and half asyncio, not listed,
then the same listed: at rest for SECONDS, then with activations, slow enough for each to be told of by itself. Medians
per worker, less what there was with nobody; of activations, what is above rest. At last receipts of 50 workers.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from configbus import AsyncConfigBus, ConfigBus
from configbus.author import Author
from configbus.cli.migrating import prepare
from configbus.cli.up import exports
from configbus.embedded import EmbeddedPostgres, EmbeddedValkey
from configbus.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACTIVATIONS, PACE_SECONDS, SETTLE_SECONDS = 20, 0.5, 5.0
RECEIPTS, RECEIPT_WORKERS = 20, 50
MODES = ("unlisted", "listed")
FACTS = ("commands", "bytes to Redis", "bytes from Redis", "CPU of Redis, us", "CPU of workers, us")
Counts = tuple[float, ...]


async def work(mode: str, workers: int) -> None:
    """Be a fleet: for each revision on stdin print, once all workers have it, the seconds of CPU spent."""
    listed, half = mode == "listed", workers // 2
    async with AsyncExitStack() as stack:
        threads = [stack.enter_context(ConfigBus.connect(worker=f"thread{n}", listed=listed)) for n in range(half)]
        connecting = [AsyncConfigBus.connect(worker=f"asyncio{n}", listed=listed) for n in range(workers - half)]
        tasks = [await stack.enter_async_context(one) for one in connecting]
        while line := await asyncio.to_thread(sys.stdin.readline):
            for thread in threads:
                await asyncio.to_thread(thread.wait_for, int(line))
            for task in tasks:
                await task.wait_for(int(line))
            print(time.process_time(), flush=True)


@contextmanager
def running(settings: Settings, mode: str, workers: int) -> Iterator[Callable[[int], Counts]]:
    """A fleet in a process of its own, as a function that gives each of FACTS once all workers have a revision."""
    command = [sys.executable, __file__, "work", mode, str(workers)]
    pipe = subprocess.PIPE
    with (
        redis.Redis.from_url(settings.require("redis_url")) as client,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as process,
    ):
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def count(revision: int) -> Counts:
            stdin.write(f"{revision}\n")
            spent = float(stdout.readline())
            info = client.info("all")
            calls = sum(facts["calls"] for name, facts in info.items() if name.startswith("cmdstat_"))
            cpu = info["used_cpu_user"] + info["used_cpu_sys"]
            return calls, info["total_net_input_bytes"], info["total_net_output_bytes"], 1e6 * cpu, 1e6 * spent

        count(1)
        time.sleep(SETTLE_SECONDS)
        yield count


def measure(settings: Settings, author: Author, mode: str, workers: int, seconds: int) -> tuple[Counts, Counts]:
    """Counts per second at rest, and per activation above that."""
    with running(settings, mode, workers) as count:
        began, first = time.perf_counter(), count(1)
        time.sleep(seconds)
        middle, second = time.perf_counter(), count(1)
        for number in range(ACTIVATIONS):
            revision = author.set({"trading.max_slippage_exit_bps": 1000 + number}).revision
            time.sleep(PACE_SECONDS)
        ended, third = time.perf_counter(), count(revision)
    rest = tuple((b - a) / (middle - began) for a, b in zip(first, second, strict=True))
    busy = ((b - a - (ended - middle) * rate) / ACTIVATIONS for a, b, rate in zip(second, third, rest, strict=True))
    return rest, tuple(busy)


def compare(settings: Settings, author: Author, workers: int, rounds: int, seconds: int) -> None:
    found: dict[str, list[list[Counts]]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        base = measure(settings, author, "nobody", 0, seconds)
        for mode in MODES:
            phases = zip(measure(settings, author, mode, workers, seconds), base, strict=True)
            found[mode].append([tuple((a - b) / workers for a, b in zip(*phase, strict=True)) for phase in phases])
    print(f"{workers} workers, {rounds} rounds: {seconds} s at rest, {ACTIVATIONS} activations {PACE_SECONDS} s apart")
    for phase, title in enumerate(("at rest, per second", "per activation, above rest")):
        print(f"\n{title:28} {'unlisted':>9} {'listed':>9} {'ratio':>6}")
        for number, fact in enumerate(FACTS):
            unlisted, listed = (statistics.median(one[phase][number] for one in found[mode]) for mode in MODES)
            ratio = f"{listed / unlisted:6.2f}" if unlisted > listed / 50 else "     -"
            print(f"  {fact:26} {unlisted:9.1f} {listed:9.1f} {ratio}")


def receipts(settings: Settings, author: Author) -> None:
    taken: tuple[list[float], list[float]] = ([], [])
    with running(settings, "listed", RECEIPT_WORKERS):
        for number in range(RECEIPTS):
            time.sleep(PACE_SECONDS)
            release = author.set({"trading.max_slippage_exit_bps": 2000 + number})
            for times in taken:
                began = time.perf_counter()
                author.receipt(release)
                times.append(1000 * (time.perf_counter() - began))
    first, again = (f"median {statistics.median(times):.1f} ms, {max(times):.1f} at most" for times in taken)
    print(f"\nreceipt of {RECEIPT_WORKERS} workers: {first}; asked for once more: {again}")


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="configbus-") as directory,
        EmbeddedPostgres(Path(directory, "postgres")) as postgres,
        EmbeddedValkey(Path(directory, "valkey")) as valkey,
    ):
        settings = load_settings({}, database_url=postgres.url, redis_url=valkey.url, environment="bench")
        prepare(settings)
        os.environ.update(exports(settings), CONFIGBUS_LOG_LEVEL="ERROR")
        command = [sys.executable, "-m", "configbus", "relay"]
        with Author(settings) as author, subprocess.Popen(command) as relay:
            try:
                compare(settings, author, *map(int, sys.argv[1:]), *(20, 3, 15)[len(sys.argv) - 1 :])
                receipts(settings, author)
            finally:
                relay.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        asyncio.run(work(sys.argv[2], int(sys.argv[3])))
    else:
        main()
