"""An environment with many blocks and a long history: how long an author's and a reader's calls take.

    .venv/bin/python benchmarks/scale.py [BLOCKS [RELEASES]]

Embedded Postgres and Valkey, a relay in this process. BLOCKS keyed blocks are made in one release, then
RELEASES releases of one block each by plain SQL. Medians of five, in milliseconds; the same calls stand
beside them as they were with the blocks alone.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from configbus.author import Author
from configbus.cli.migrating import prepare
from configbus.client import ConfigBus
from configbus.embedded import EmbeddedPostgres, EmbeddedValkey
from configbus.relay import Relay
from configbus.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
BATCH = 1_000
MAKE = """
    INSERT INTO configbus.lane_config (environment, key, name, status)
    SELECT 'development', 'K' || n, 'first', 'active' FROM generate_series(1, %s) AS n"""
RELEASE = """
DO $$ BEGIN
    FOR n IN {first}..{last} LOOP
        UPDATE configbus.lane_config SET threshold = 0.0001 * (1 + n % 9000)
        WHERE status = 'active' AND key = 'K' || (1 + n % {blocks});
        COMMIT;
    END LOOP;
END $$"""


def main() -> None:
    blocks, releases = (int(given) for given in (*sys.argv[1:], "10000", "100000")[:2])
    with (
        tempfile.TemporaryDirectory(prefix="configbus-") as directory,
        EmbeddedPostgres(Path(directory, "postgres")) as postgres,
        EmbeddedValkey(Path(directory, "valkey")) as valkey,
    ):
        given = {"database_url": postgres.url, "redis_url": valkey.url, "environment": "development"}
        measure(load_settings({}, **given, domains="configbus.domains,lanes", actor="bench"), blocks, releases)


def measure(settings: Settings, blocks: int, releases: int) -> None:
    prepare(settings)
    stop = threading.Event()
    relay = Relay(settings, stop)
    relay.bring_up()
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        with psycopg.connect(settings.require("database_url"), autocommit=True) as connection:
            print(f"made {blocks} blocks in one release: {timed(lambda: connection.execute(MAKE, [blocks])):.0f} ms")
            show(settings, f"{blocks} blocks, 1 release")
            started = time.perf_counter()
            for first in range(0, releases, BATCH):
                last = min(first + BATCH, releases) - 1
                connection.execute(RELEASE.format(first=first, last=last, blocks=blocks))
            print(f"made {releases} releases by SQL: {time.perf_counter() - started:.0f} s")
            show(settings, f"{blocks} blocks, {releases} releases")
    finally:
        stop.set()
        thread.join()


def show(settings: Settings, title: str) -> None:
    print(f"\n{title}")
    with Author(settings) as author:
        newest = author.set({}).revision
        started = time.perf_counter()
        with ConfigBus.connect(redis_url=settings.redis_url, domains=settings.domains, require="live") as bus:
            print(f"  {'start of a worker, live':32} {1000 * (time.perf_counter() - started):9.1f}")
            line("history lane/K7", lambda: author.history("lane/K7"))
            line("list", author.blocks)
            line("audit lane/K7", lambda: author.audit("lane/K7"))
            line("set of one value", lambda: author.set({"lane/K7.slow_bars": 1000 + time.time_ns() % 1000}))
            line(
                "set of 100 blocks",
                lambda: author.set({f"lane/K{n}.slow_bars": 1000 + time.time_ns() % 1000 for n in range(1, 101)}),
            )
            line("rollback of one block", lambda: author.rollback(["lane/K7"], to=newest))
            line("rollback --all of 100 blocks", lambda: author.rollback(all=True, to=newest))
            print(f"  {'rollback --all to revision 2':32} {timed(lambda: author.rollback(all=True, to=2)):9.1f}")
            head = author.set({}).revision
            print(f"  {'the same, until a worker has it':32} {timed(lambda: bus.wait_for(head, timeout=60)):9.1f} more")


def line(title: str, call: Callable[[], object]) -> None:
    print(f"  {title:32} {statistics.median(timed(call) for _ in range(ROUNDS)):9.1f}")


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
