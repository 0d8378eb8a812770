"""`configbus demo`: the main job on servers of its own, shown step by step, ended by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import typer

from configbus.cli.migrating import prepare
from configbus.cli.options import settings_of
from configbus.cli.up import exports
from configbus.errors import ConfigBusError, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from configbus.author import Author
    from configbus.settings import Settings

WORKERS = {"worker-1": "thread", "worker-2": "thread", "worker-3": "asyncio", "worker-4": "asyncio"}
SHOWN = ("trading.score_threshold", "risk.max_drawdown_pct")
PATIENCE_SECONDS = 10.0
SQL_EDIT = "UPDATE configbus.trading_config SET score_threshold = 0.75 WHERE status = 'active' AND environment = 'demo'"


class DemoFailed(ConfigBusError):
    """A worker did not end where Postgres is."""


@dataclass
class _Worker:
    """A worker process, and the newest line it printed."""

    name: str
    kind: str
    told: dict[str, Any] = field(default_factory=dict)

    def read(self, lines: Iterable[str]) -> None:
        """Take in what the worker prints until it ends."""
        for line in lines:
            self.told = json.loads(line)


def demo() -> None:
    """Embedded servers, a relay, four workers; every change is seen by all of them. Exit status 0 if so."""
    from configbus.author import Author
    from configbus.embedded import EmbeddedPostgres, EmbeddedValkey

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="configbus-demo-") as directory:
        place = Path(directory)
        typer.echo("Starting Postgres and Valkey from wheels, a relay, and four workers ...")
        with EmbeddedPostgres(place / "postgres") as postgres, EmbeddedValkey(place / "valkey") as valkey:
            settings = settings_of(
                database_url=postgres.url,
                redis_url=valkey.url,
                environment="demo",
                namespace="configbus",
                schema="configbus",
                domains="configbus.domains",
                actor="demo",
                log_level="ERROR",
            )
            prepare(settings)
            with _processes(settings) as workers, Author(settings) as author:
                _tour(settings, author, workers)


def _tour(settings: Settings, author: Author, workers: list[_Worker]) -> None:
    _all_at(workers, 1, "the start: what `migrate` made, the defaults of the models", None)

    typer.echo("\n$ configbus set trading.score_threshold=0.8 --reason volatility")
    release = author.set({"trading.score_threshold": "0.8"}, reason="volatility")
    _all_at(workers, release.revision, "an activation", settings)

    typer.echo(f'\n$ psql -c "{SQL_EDIT}"')
    _edit_by_sql(settings)
    _all_at(workers, release.revision + 1, "a plain SQL edit, pushed by the relay", settings)

    typer.echo("\n$ configbus set trading.score_threshold=1.7")
    try:
        author.set({"trading.score_threshold": "1.7"})
    except InvalidValue as refusal:
        typer.echo(f"refused: {refusal}")
    else:
        raise DemoFailed("an invalid value was accepted")
    _all_at(workers, release.revision + 1, "a refused value: nothing changed anywhere", None)

    typer.echo("\n$ configbus set trading.score_threshold=0.65 risk.max_drawdown_pct=15")
    release = author.set({"trading.score_threshold": "0.65", "risk.max_drawdown_pct": 15}, reason="calm again")
    _all_at(workers, release.revision, "a release of both blocks at once", settings)

    _show_hash(settings)
    _compare(settings, workers)
    typer.echo("\nEvery worker stands where Postgres stands.")


@contextmanager
def _processes(settings: Settings) -> Iterator[list[_Worker]]:
    """The relay and the workers, as processes of their own, ended with the block."""
    started = [_start(settings, "relay")]
    workers = [_Worker(name, kind) for name, kind in WORKERS.items()]
    try:
        for worker in workers:
            process = _start(settings, "work", worker.kind, worker.name)
            started.append(process)
            Thread(target=worker.read, args=(process.stdout,), daemon=True).start()
        yield workers
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
    command = [sys.executable, "-m", "configbus.cli.demo_process", str(os.getpid()), *arguments]
    environment = foreign | exports(settings) | {"CONFIGBUS_LOG_LEVEL": settings.log_level}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _all_at(workers: list[_Worker], revision: int, title: str, timed: Settings | None) -> None:
    """Wait until every worker shows the revision, then print what each holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(worker.told.get("revision") == revision for worker in workers):
        if time.monotonic() > deadline:
            raise DemoFailed(f"revision {revision} did not reach every worker: {[w.told for w in workers]}")
        time.sleep(0.01)
    committed = _committed_at(timed, revision) if timed else None
    rows = [
        [
            worker.name,
            worker.kind,
            *(worker.told[path] for path in SHOWN),
            f"{worker.told['epoch']}/{worker.told['revision']}",
            f"{(worker.told['at'] - committed) * 1000:.1f} ms" if committed else "",
        ]
        for worker in workers
    ]
    _table(title, ["worker", "driver", *SHOWN, "position", "commit to callback"], rows)


def _table(title: str, headings: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _edit_by_sql(settings: Settings) -> None:
    import psycopg

    with psycopg.connect(settings.require("database_url")) as connection:
        connection.execute(SQL_EDIT)


def _committed_at(settings: Settings, revision: int) -> float:
    """When the release was made, under the lock, by Postgres' clock: this machine's."""
    from configbus.store.connect import connected, sql

    statement = "SELECT extract(epoch FROM released_at) FROM {schema}.release WHERE environment = :e AND revision = :r"
    with connected(settings.require("database_url")) as connection:
        found = connection.scalar(sql(statement, settings.schema), {"e": settings.environment, "r": revision})
        return float(found)


def _hash(settings: Settings, name: str) -> Iterator[tuple[str, str]]:
    from configbus.link import Link
    from configbus.wire import Keys

    link = Link(settings.require("redis_url"))
    key = Keys(settings.namespace, settings.environment).block(name)
    (reply,) = link.call(("HGETALL", key))
    link.close()
    texts = [part.decode() for part in reply]
    return zip(texts[::2], texts[1::2], strict=True)


def _show_hash(settings: Settings) -> None:
    typer.echo("\n$ redis-cli hgetall configbus:{demo}:block:trading")
    for number, (name, value) in enumerate(_hash(settings, "trading")):
        typer.echo(f'{2 * number + 1:>2}) "{name}"')
        typer.echo(f"{2 * number + 2:>2}) {json.dumps(value)}")


def _compare(settings: Settings, workers: list[_Worker]) -> None:
    """Hold every worker's values against Postgres, the active rows and the head."""
    from configbus.catalogue import load_catalogue
    from configbus.store.connect import Place, connected
    from configbus.store.releases import newest_head
    from configbus.store.versions import active_row
    from configbus.wire import read_value

    place, catalogue = Place(settings.schema, settings.environment), load_catalogue(settings.domains)
    with connected(settings.require("database_url")) as connection:
        head = newest_head(connection, place)
        truth = {
            f"{domain.name}.{name}": str(read_value(text))
            for domain in catalogue
            for name, text in active_row(connection, place, domain, "").texts.items()
        }
    for worker in workers:
        held = [worker.told["epoch"], worker.told["revision"], *(worker.told[path] for path in SHOWN)]
        if held != [head.epoch, head.revision, *(truth[path] for path in SHOWN)]:
            raise DemoFailed(f"{worker.name} holds {worker.told}, Postgres is at revision {head.revision}")
