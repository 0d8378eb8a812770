"""Servers, a relay and ten workers, each in processes of their own, so that any of them can be hurt."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import redis
from waiting import until

from configbus import wire
from configbus.link import Link, reading_commands, reading_of
from configbus.reads import now
from faults.checker import check, delays
from faults.history import read_active, read_commits, read_life, with_lost
from faults.load import Load, by_author, by_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from configbus.embedded import EmbeddedPostgres, EmbeddedValkey
    from faults.checker import Times
    from faults.history import Commit, Life

KEYS = wire.Keys("configbus", "production")
TESTS = Path(__file__).parents[1]
COMPLAINTS = ("Traceback", "never retrieved", "relay_failed", "follower_failed", "was never awaited")
STRATEGY_TROUBLE = "RuntimeError: strategy trouble"
END_SECONDS = 15.0
HOLD_SECONDS = 5.0


class Process:
    """A child that ends with its holder; what it says goes to files."""

    def __init__(self, directory: Path, name: str, command: list[str], environ: dict[str, str]) -> None:
        self.name = name
        self.killed = False
        self._out, self._err = directory / f"{name}.out", directory / f"{name}.err"
        launcher = ["setpriv", "--pdeathsig=KILL", "--"] if shutil.which("setpriv") else []
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self.popen = subprocess.Popen(
                [*launcher, sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environ,
                cwd=TESTS.parent,
            )

    @property
    def said(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def log(self) -> str:
        return self._err.read_text()

    def wait_for(self, word: str, times: int = 1) -> None:
        """Return once the word was said, on either stream."""
        until(lambda: "\n".join([*self.said, self.log]).count(word) >= times or self.popen.poll() is not None)
        assert self.popen.poll() is None, self.log

    def tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        self.killed = True
        self.popen.kill()
        self.popen.wait()

    def end(self, number: signal.Signals | None = None) -> None:
        """Close its stdin, or send a signal, and wait for the end, a good one unless the test killed it; killed if it
        does not come to it.
        """
        if self.popen.poll() is None:
            self.send(signal.SIGCONT)
            if number is not None:
                self.send(number)
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        try:
            self.popen.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        assert self.killed or self.popen.returncode == 0, f"{self.name}: {self.popen.returncode}\n{self.log}"

    def holds(self) -> dict[str, int]:
        """How many threads and descriptors it has at this moment."""
        places = {"threads": "task", "descriptors": "fd"}
        return {what: len(list(Path(f"/proc/{self.popen.pid}/{place}").iterdir())) for what, place in places.items()}

    def seconds_of_cpu(self) -> float:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Cluster:
    """One environment on servers of its own, and the processes around it."""

    def __init__(self, directory: Path, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, database: str) -> None:
        self.directory = directory
        self.postgres = postgres
        self.valkey = valkey
        self.database_url = f"{postgres.url.rpartition('/')[0]}/{database}"
        self.signing_keys = ""
        self.relays: list[Process] = []
        self.workers: list[Process] = []
        self.streams: list[Process] = []
        self.heals: list[float] = []
        self.hurts: list[float] = []
        self.repaired = 0.0
        self._lives: dict[str, list[str]] = {}
        self._relays_held: list[dict[str, int]] = []
        """By the relays that ran when all was well for the first time."""

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments for an author or, without the database, a bus."""
        servers = {"database_url": self.database_url, "redis_url": self.valkey.url}
        return servers | {"environment": "production", "signing_keys": self.signing_keys or None}

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url, decode_responses=True)

    def start_relay(self, **more: str) -> Process:
        """A relay that has begun its work."""
        relay = self.spawn_relay(**more)
        relay.wait_for("relay_started")
        return relay

    def spawn_relay(self, **more: str) -> Process:
        servers = {"CONFIGBUS_DATABASE_URL": self.database_url, "CONFIGBUS_REDIS_URL": self.valkey.url}
        environ = self._environ(**servers | more)
        relay = Process(self.directory, f"relay{len(self.relays)}", ["-m", "configbus", "relay"], environ)
        self.relays.append(relay)
        return relay

    def start_workers(
        self,
        *,
        redis_url: str = "",
        each: int = 5,
        apart: int = 0,
        ready: bool = True,
        prefix: str = "",
        drivers: tuple[str, ...] = ("thread", "asyncio"),
        **more: str,
    ) -> None:
        """A process with so many workers for each driver, and so many of each driver with a process to itself."""
        groups = [(driver, [f"{prefix}{driver}{number}" for number in range(each)]) for driver in drivers]
        groups += [(driver, [f"{prefix}{driver}-apart{number}"]) for driver in drivers for number in range(apart)]
        environ = self._environ(
            CONFIGBUS_REDIS_URL=redis_url or self.valkey.url, HISTORY_DIRECTORY=str(self.directory), **more
        )
        started = []
        for driver, names in groups:
            if names:
                command = ["-m", "faults.worker", driver, *names]
                started.append(Process(self.directory, f"process-{names[0]}", command, environ))
                self._lives[started[-1].name] = names
        self.workers += started
        if ready:
            for worker in started:
                worker.wait_for("ready")

    def start_stream(self, count: int, per_second: int) -> Process:
        """Made-up releases, one after another, in a process of their own."""
        environ = self._environ(CONFIGBUS_REDIS_URL=self.valkey.url)
        stream = Process(self.directory, "stream", ["-m", "faults.stream", str(count), str(per_second)], environ)
        self.streams.append(stream)
        return stream

    def load(self, count: int = 200, *, raw: bool = False) -> Load:
        """So many activations at 40/s, by an author or by plain SQL."""
        return Load(by_sql(self.database_url) if raw else by_author(self.settings), count)

    def hurt(self) -> None:
        """A fault begins at this instant; needed where one follows another."""
        self.hurts.append(now())

    def healed(self) -> float:
        """The fault is over at this instant."""
        self.heals.append(now())
        return self.heals[-1]

    def healed_within(self, holds: Callable[[], object], seconds: float, fault: str = "") -> None:
        """Return once something is so; AssertionError unless that was within the time after the last fault."""
        try:
            until(holds, seconds)
        except AssertionError as late:
            raise AssertionError(f"{fault}: not put right within {seconds} s") from late
        taken = now() - self.heals[-1]
        assert taken <= seconds, fault
        self.repaired = max(self.repaired, taken)

    def head(self) -> int:
        """The newest revision in Postgres."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute("SELECT revision FROM configbus.environment WHERE name = 'production'").fetchall()
        return int(rows[0][0])

    def lives(self) -> list[Life]:
        """What the workers wrote down so far."""
        return [read_life(self.directory / f"{name}.jsonl") for names in self._lives.values() for name in names]

    def settle(self, seconds: float = 10.0) -> None:
        """Return once every worker holds the head of Postgres, says so and has told its application."""
        revision = self.head()
        for worker in self.workers:
            before = len(worker.said)
            worker.tell(f"settle {revision} {seconds}")
            until(lambda worker=worker, before=before: len(worker.said) > before, seconds + 5)  # type: ignore[misc]  # mypy infers no default of a lambda
            assert worker.said[-1] == "settled", f"{worker.name} at revision {revision}: {worker.said[-1]}"
        self._relays_held = self._relays_held or [relay.holds() for relay in self._running_relays()]

    def end_workers(self) -> list[Life]:
        """End all workers, which are forgotten then; what they wrote down."""
        return [life for worker in list(self.workers) for life in self.end_worker(worker)]

    def end_worker(self, worker: Process) -> list[Life]:
        """The same for one process of them."""
        worker.end()
        self._check_log(worker)
        self.workers.remove(worker)
        names = self._lives.pop(worker.name)
        return [read_life(self.directory / f"{name}.jsonl", killed=worker.killed) for name in names]

    def finish(self, limit: float, settle_seconds: float = 10.0, lost: Iterable[Commit] = ()) -> Times:
        """End everything, judge all that was written down, and return how long it took to be current again.

        `lost` are releases that workers may have seen, and that Postgres does not hold any more.
        """
        self.settle(settle_seconds)
        for relay in self._running_relays():
            self._check_holds(relay)
        for worker in self.workers:
            worker.end()
        for relay in self.relays:
            relay.end(signal.SIGTERM)
        for process in [*self.workers, *self.relays]:
            self._check_log(process)
        if fault := redis_fault(self.valkey.url):
            raise AssertionError(f"Redis holds what does not fit together: {fault}")
        commits = read_commits(self.database_url)
        revisions = sorted({commit.position.revision for commit in commits})
        assert revisions == list(range(1, revisions[-1] + 1))
        commits = with_lost(commits, lost)
        assert commits[-1].values == read_active(self.database_url)
        return check(commits, self.lives(), self.heals, limit, self.hurts)

    def delays(self) -> list[float]:
        """From commit to callback, sorted."""
        return delays(read_commits(self.database_url), self.lives())

    def close(self) -> None:
        for process in [*self.workers, *self.relays, *self.streams]:
            if process.popen.poll() is None:
                process.send(signal.SIGCONT)
                process.kill()
            if process.popen.stdin is not None and not process.popen.stdin.closed:
                process.popen.stdin.close()

    def _running_relays(self) -> list[Process]:
        return [relay for relay in self.relays if relay.popen.poll() is None]

    def _check_holds(self, relay: Process) -> None:
        """Whatever it went through, it has no more than a relay needs, apart from what it has for a moment."""
        most = {what: max(held[what] for held in self._relays_held) for what in ("threads", "descriptors")}
        try:
            until(lambda: all(number <= most[what] for what, number in relay.holds().items()), HOLD_SECONDS)
        except AssertionError:
            raise AssertionError(f"{relay.name} holds {relay.holds()}, and relays had {most}") from None

    def _check_log(self, process: Process) -> None:
        told = sum(process.log.count(complaint) for complaint in COMPLAINTS)
        assert told == process.log.count(STRATEGY_TROUBLE), f"{process.name}:\n{process.log}"

    def _environ(self, **variables: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
        ours = {"CONFIGBUS_ENVIRONMENT": "production"}
        if self.signing_keys:
            ours["CONFIGBUS_SIGNING_KEYS"] = self.signing_keys
        return clean | ours | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | variables


def last_for(seconds: float) -> None:
    """How long a fault lasts."""
    threading.Event().wait(seconds)


def redis_fault(url: str) -> str | None:
    """What does not fit together in Redis at one moment: head, index and the hashes of the blocks."""
    link = Link(url)
    try:
        names = tuple(reading_of(link.call(*reading_commands(KEYS, ())), ()).index)
        reading = reading_of(link.call(*reading_commands(KEYS, names)), names)
        if not reading.head:
            return None if not reading.index else "an index without a head"
        head, index = wire.read_head(reading.head), wire.read_index(reading.index)
        if wire.xor(wire.EMPTY_STATE, (mark.digest for mark in index.values())) != head.state:
            return "the index does not add up to the head"
        torn = [name for name in names if wire.read_entry(name, reading.blocks[name]).mark != index[name]]
    except wire.Malformed as fault:
        return str(fault)
    else:
        return f"blocks that do not fit the index: {torn}" if torn else None
    finally:
        link.close()


def note_times(row: str, fault: str, limit: float, times: Times, repaired: float | None = None) -> None:
    """Append what was measured to the file of CONFIGBUS_FAULT_TIMES, one JSON line per row.

    Seconds after the fault until no worker lagged, until all said so and, where it is known, until the servers
    themselves were right again.
    """
    if path := os.environ.get("CONFIGBUS_FAULT_TIMES"):
        facts = {"row": row, "fault": fault, "limit": limit}
        measured = {"caught_up": round(times.caught_up, 3), "live": round(times.live, 3)}
        if repaired is not None:
            measured["repaired"] = round(repaired, 3)
        with Path(path).open("a", encoding="utf8") as file:
            file.write(json.dumps(facts | measured) + "\n")
