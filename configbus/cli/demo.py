"""`configbus demo`: a tour of what configbus does, by real commands on servers of its own, ended by itself."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import redis
import typer

from configbus.cli import EXIT_STATUS
from configbus.cli.demo_workers import (
    INTERRUPTED,
    PATIENCE_SECONDS,
    SHOWN,
    DemoFailed,
    Workers,
    pause,
    variables,
)
from configbus.cli.migrating import prepare
from configbus.cli.options import settings_of
from configbus.cli.output import cell
from configbus.cli.running import told_to_stop
from configbus.errors import ConfigBusError, InvalidValue
from configbus.jsontext import read_value
from configbus.wire import Keys, Position

if TYPE_CHECKING:
    from configbus.author import Author
    from configbus.settings import Settings

DRIVERS = {"worker-1": "thread", "worker-2": "thread", "worker-3": "asyncio", "worker-4": "asyncio"}
STRATEGY = "strategy/grid"
SQL_EDIT = "UPDATE configbus.trading_config SET score_threshold = 0.75 WHERE status = 'active' AND environment = 'demo'"


def demo() -> None:
    """Show everything in about half a minute: embedded servers, a relay, workers. Exit status 0 if all came true."""
    from configbus.embedded import without_libpq_variables

    stop = threading.Event()
    with (
        told_to_stop(lambda *_: stop.set()),
        without_libpq_variables(),
        tempfile.TemporaryDirectory(prefix="configbus-demo-") as directory,
    ):
        try:
            _show(Path(directory), stop)
        except ConfigBusError:
            if stop.is_set():
                raise typer.Exit(INTERRUPTED) from None
            raise


def _show(place: Path, stop: threading.Event) -> None:
    from configbus.author import Author
    from configbus.embedded import EmbeddedPostgres, EmbeddedValkey

    typer.echo("Starting Postgres and Valkey from wheels, a relay, and four workers ...")
    with EmbeddedPostgres(place / "postgres") as postgres, EmbeddedValkey(place / "valkey") as valkey:
        settings = settings_of(
            database_url=postgres.url,
            redis_url=valkey.url,
            environment="demo",
            namespace="configbus",
            schema="configbus",
            domains="configbus.domains,configbus.cli.demo_domain",
            actor="ana",
            log_level="ERROR",
        )
        prepare(settings)
        with Workers(settings, stop) as workers, Author(settings) as author:
            for name, driver in DRIVERS.items():
                workers.add(name, driver)
            _Tour(settings, author, workers, stop).go()


class _Tour:
    """The steps; after each of them every worker must stand where Postgres stands."""

    def __init__(self, settings: Settings, author: Author, workers: Workers, stop: threading.Event) -> None:
        self._settings = settings
        self._author = author
        self._workers = workers
        self._stop = stop
        self._environment = variables(settings)
        self._keys = Keys(settings.namespace, settings.environment)
        self._redis = redis.Redis.from_url(settings.require("redis_url"), decode_responses=True)
        self._steps = 0

    def go(self) -> None:
        self._changes()
        self._refusals()
        self._draft()
        self._rollback()
        self._strategy()
        self._lost_redis()
        self._late_worker()
        self._end()

    def _changes(self) -> None:
        self._step("The start", "Four processes hold what `migrate` made: the defaults of the models.")
        self._all_at(1, timed=False)

        self._step(
            "One release", "Values of two blocks, in one transaction: no worker ever sees one without the other."
        )
        typer.echo("`after` is the time from the lock in Postgres to the worker's callback.")
        self._run("set", "trading.score_threshold=0.8", "risk.max_drawdown_pct=15", "--reason", "volatility")
        self._all_at(2)

        self._step("A plain SQL edit", "Nobody called configbus: triggers made a release of it, the relay pushes it.")
        self._say(f'psql -c "{SQL_EDIT}"')
        self._edit_by_sql()
        self._all_at(3)

    def _refusals(self) -> None:
        self._step("What is refused", "A value out of bounds, then values that do not fit together.")
        self._run("set", "trading.score_threshold=1.7", status=EXIT_STATUS[InvalidValue])
        self._run("set", "scoring.wallet_score_weight=0.9", status=EXIT_STATUS[InvalidValue])
        typer.echo("Nothing changed anywhere:")
        self._all_at(3, timed=False)

    def _draft(self) -> None:
        self._step("A draft", "Prepared beside the active version, looked at, then activated.")
        told = self._run("draft", "trading", "score_threshold=0.9", "max_concurrent_positions=3", "--name", "cautious")
        row = told.split()[0]
        self._run("diff", "trading", "active", row)
        self._run("activate", row, "--reason", "thin market")
        self._all_at(4)

    def _rollback(self) -> None:
        self._step("Back to an instant", "The contents of then, as a new release: nothing is erased.")
        self._run("history", "trading")
        self._run("rollback", "--all", "--to", cell(self._author.release(2).released_at), "--reason", "as it was")
        self._all_at(5)

    def _strategy(self) -> None:
        self._step("A strategy appears", "A keyed block is made while the workers run, and they are told of it.")
        row = self._run("draft", STRATEGY, "lots=20").split()[0]
        self._run("activate", row)
        self._all_at(6)
        name = self._keys.block(STRATEGY)
        self._say(f"redis-cli hgetall {name!r}")
        for number, text in enumerate(chain(*self._redis.hgetall(name).items()), 1):
            typer.echo(f"{number:>2}) {json.dumps(text)}")

    def _lost_redis(self) -> None:
        self._step("Redis loses everything", "The workers keep their values; the relay writes all of it again.")
        blocks = [self._keys.block(name) for name in ("trading", "risk", STRATEGY)]
        before = [self._redis.hgetall(name) for name in blocks]
        self._say("redis-cli flushall")
        self._redis.flushall()
        start = time.monotonic()
        while [self._redis.hgetall(name) for name in blocks] != before:
            if time.monotonic() > start + PATIENCE_SECONDS:
                raise DemoFailed("Redis was not filled again")
            pause(self._stop)
        typer.echo(f"Redis holds the same again, {time.monotonic() - start:.1f} s later.")
        self._all_at(6, timed=False)

    def _late_worker(self) -> None:
        self._step("A worker joins late", "It reads everything at once, and is live like the others.")
        self._workers.add("worker-5", "asyncio")
        self._all_at(6, timed=False)

    def _end(self) -> None:
        self._step("What Postgres says", "Every worker is held against the active rows.")
        self._run("history", "trading")
        self._compare()
        typer.echo("\nEvery worker stands where Postgres stands.")

    def _step(self, title: str, meaning: str) -> None:
        self._steps += 1
        typer.secho(f"\n{self._steps}. {title}", bold=True)
        typer.echo(meaning)

    def _say(self, command: str) -> None:
        typer.secho(f"$ {command}", fg=typer.colors.CYAN)

    def _run(self, *arguments: str, status: int = 0) -> str:
        """Run a command as a person would, show what it says, and return it."""
        pause(self._stop)
        self._say(shlex.join(["configbus", *arguments]))
        command = [sys.executable, "-m", "configbus", *arguments]
        sys.stdout.flush()
        captured = subprocess.PIPE if arguments[0] == "draft" else None
        done = subprocess.run(
            command,
            stdout=captured,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment,
            start_new_session=True,
            check=False,
        )
        typer.echo(done.stdout or "", nl=False)
        if done.returncode != status:
            raise DemoFailed(f"configbus {arguments[0]} ended with {done.returncode} instead of {status}")
        return done.stdout or ""

    def _edit_by_sql(self) -> None:
        import psycopg

        with psycopg.connect(self._settings.require("database_url")) as connection:
            connection.execute(SQL_EDIT)

    def _all_at(self, revision: int, *, timed: bool = True) -> None:
        """Wait until every worker shows the release and show it, with the time from the lock to the callbacks."""
        release = self._author.release(revision)
        at = release.released_at.timestamp() if timed else None
        self._workers.show(Position(release.epoch, release.revision), at)

    def _compare(self) -> None:
        """Hold every worker's values against the active rows in Postgres."""
        rows = {block: self._author.active(block).texts for block in ("trading", "risk", STRATEGY)}
        truth = {path: str(read_value(rows[block][name])) for path in SHOWN for block, _, name in [path.partition(".")]}
        strategies = {STRATEGY.partition("/")[2]: read_value(rows[STRATEGY]["lots"])}
        for worker in self._workers:
            if worker.told != worker.told | truth | {"strategies": strategies}:
                raise DemoFailed(f"{worker.name} holds {worker.told}, Postgres {truth} and {strategies}")
