"""What stands between an installation and its promises: looked at once, from outside, each finding with its remedy."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from configbus.catalogue import load_catalogue
from configbus.errors import ConfigBusError, Unavailable, UnknownEnvironment
from configbus.link import Link, hashes, looking_commands, reading_of
from configbus.publication import Verdict, judge
from configbus.receipt import clock_of, find_workers
from configbus.snapshot import LIVE_SECONDS, State
from configbus.store import health
from configbus.store.connect import Place, connect_listener, connected, translated
from configbus.store.drift import find_drift
from configbus.store.releases import check_server, newest_state
from configbus.verification import refused_by_models
from configbus.wire import Keys, Malformed, read_index, read_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from configbus.presence import Worker
    from configbus.settings import Settings
    from configbus.store.releases import FullState

Level = Literal["ok", "warning", "error"]
BELL_SECONDS = 0.5
OFFSET_SECONDS = 1.0
DEAD_SHARE, DEAD_LEAST = 0.3, 20_000
"""Of a table's rows that may be dead, from so many on."""
SHOWN = 5
WORKERS_SHOWN = 100
SCAN_COUNT = "1000"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` is empty where nothing is to be done."""

    level: Level
    about: str
    found: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything. What keeps it from looking is a finding, too."""
    keys, place = Keys(settings.namespace, settings.environment), Place(settings.schema, settings.environment)
    state: FullState | None = None
    if not settings.database_url:
        yield Finding("error", "postgres", "CONFIGBUS_DATABASE_URL is not set", "set it")
    else:
        try:
            with translated(), connected(settings.database_url) as connection:
                schema = _schema(connection, place)
                yield schema
                if schema.level == "ok":
                    state = newest_state(connection, place)
                    yield Finding("ok", "postgres", f"revision {state.head.revision} of epoch {state.head.epoch}")
                    yield from _postgres(connection, settings, place, state)
        except ConfigBusError as error:
            yield Finding("error", "postgres", str(error), _remedy(error))
    if not settings.redis_url:
        yield Finding("error", "redis", "CONFIGBUS_REDIS_URL is not set", "set it")
        return
    with closing(Link(settings.redis_url)) as link:
        try:
            yield from _redis(link, settings, keys, state)
        except ConfigBusError as error:
            yield Finding("error", "redis", str(error), _remedy(error))


def _remedy(error: ConfigBusError) -> str:
    if isinstance(error, Unavailable):
        return "see what the message says"
    return "configbus migrate" if isinstance(error, UnknownEnvironment) else "see docs/operate.md"


def _schema(connection: Connection, place: Place) -> Finding:
    """Nothing else can be looked at in a schema of another version."""
    with connection.begin():
        version, newest = health.schema_version(connection, place)
    if version == newest:
        return Finding("ok", "schema", f"version {version}")
    remedy = "configbus migrate" if version < newest else "upgrade this configbus"
    return Finding("error", "schema", f"version {version}, this configbus has {newest}", remedy)


def _postgres(connection: Connection, settings: Settings, place: Place, state: FullState) -> Iterator[Finding]:
    try:
        with connection.begin():
            check_server(connection, place, state.head)
    except ConfigBusError as error:
        yield Finding("error", "epoch", str(error), "configbus epoch raise")
    with connection.begin():
        superuser, missing = health.rights(connection, place)
    if missing:
        yield Finding("error", "rights", f"this role may not {', '.join(missing)}", "configbus grants relay")
    elif superuser:
        yield Finding("warning", "rights", "this role is a superuser", "configbus grants prints what suffices")
    else:
        yield Finding("ok", "rights", "enough to read, and no superuser's")
    yield _bell(settings)
    with connection.begin():
        drift = find_drift(connection, place)
        tables = health.tables(connection, place)
    if drift:
        blocks = _some([block.block for block in drift])
        yield Finding("error", "drift", f"changed behind the triggers: {blocks}", "a relay releases them, or verify")
    for table in tables:
        if table.dead > DEAD_LEAST and table.dead > DEAD_SHARE * (table.live + table.dead):
            found = f"{table.name} has {table.dead} dead rows beside {table.live}"
            yield Finding("warning", "bloat", found, f"VACUUM {table.name}; is a transaction open for long?")
    refused = list(refused_by_models(state.entries, load_catalogue(settings.domains)))
    for entry, refusal in refused[:SHOWN]:
        found = f"{entry.name}: {refusal.field} {refusal.reason}"
        yield Finding("error", "content", found, "workers hold it back: put it right, or roll back")


def _bell(settings: Settings) -> Finding:
    """Whether a NOTIFY is heard: behind a pooler in transaction mode it is not."""
    channel = f"{settings.schema}_doctor"
    with closing(connect_listener(settings.require("database_url"))) as bell:
        try:
            bell.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            with connected(settings.require("database_url")) as connection, connection.begin():
                health.ring(connection, channel)
            heard = list(bell.notifies(timeout=BELL_SECONDS, stop_after=1))
        except psycopg.Error as error:
            return Finding("warning", "listen", str(error), "plain SQL waits for the relay's look, a tenth of a second")
    if heard:
        return Finding("ok", "listen", "a bell is heard")
    found = "no bell is heard: a pooler is between"
    return Finding("warning", "listen", found, "give the relay a direct URL; until then it looks ten times a second")


def _redis(link: Link, settings: Settings, keys: Keys, state: FullState | None) -> Iterator[Finding]:
    local, clock = time.time(), clock_of(link) / 1_000_000
    yield Finding("ok", "redis", "answers")
    if abs(clock - local) > OFFSET_SECONDS:
        found = f"its clock is {clock - local:+.1f} s from this host's"
        yield Finding("warning", "clock", found, "synchronise the clocks; freshness is told by Redis' alone")
    yield from _memory(link)
    reading = reading_of(link.call(*looking_commands(keys)), ())
    if not reading.head:
        yield Finding("error", "head", "there is none", "start a relay: configbus relay")
        return
    yield from _head(reading.head, reading.time, settings, state)
    try:
        index = read_index(hashes(link, [keys.index])[0])
    except Malformed as error:
        yield Finding("error", "index", str(error), "a relay repairs it; is one running?")
        index = {}
    known = {keys.head, keys.index, keys.workers, *map(keys.block, index)}
    orphans = [key for key in _keys(link, keys) if key not in known and not key.startswith(keys.worker(""))]
    if orphans:
        yield Finding("warning", "keys", f"nobody's: {_some(orphans)}", "delete them, or move what put them there")
    yield from _workers(link, keys)


def _memory(link: Link) -> Iterator[Finding]:
    try:
        ((memory),) = link.call(("INFO", "memory"))
    except Unavailable as error:
        yield Finding("warning", "memory", str(error), "look as a user who may: configbus acl operator")
        return
    facts = dict(line.split(":", 1) for line in memory.decode().splitlines() if ":" in line)
    policy = facts.get("maxmemory_policy", "")
    if policy.startswith("allkeys"):
        found = f"maxmemory-policy is {policy}: Redis throws blocks away when its memory is full"
        yield Finding("warning", "eviction", found, "CONFIG SET maxmemory-policy noeviction, or a Redis of its own")
    else:
        yield Finding("ok", "eviction", policy or "unknown")


def _head(fields: Any, clock: int, settings: Settings, state: FullState | None) -> Iterator[Finding]:
    stamp = read_stamp(fields)
    age = None if stamp is None else (clock - stamp) / 1_000_000
    if age is None or not 0 <= age < LIVE_SECONDS:
        found = "never stamped" if age is None else f"stamped {age:.1f} s ago"
        yield Finding("error", "relay", found, "start a relay, or see its log: workers are stale")
    else:
        yield Finding("ok", "relay", f"stamped the head {age:.1f} s ago")
    if not fields.get("signature"):
        remedy = "set CONFIGBUS_SIGNING_KEYS, see docs/security.md"
        yield Finding(
            "error" if settings.signing_keys else "warning", "signing", "what is in Redis is not signed", remedy
        )
    if state is None:
        return
    verdict, _ = judge(fields, state.head, settings.keyring)
    if verdict not in (Verdict.DONE, Verdict.REPLAY):
        yield Finding("error", "head", verdict.value, "a relay puts it right, or says why not: see its log")


def _workers(link: Link, keys: Keys) -> Iterator[Finding]:
    clock, workers = find_workers(link, keys)
    findings = [finding for worker in workers if (finding := _worker(worker, clock, keys))]
    yield from findings[:WORKERS_SHOWN]
    if more := findings[WORKERS_SHOWN:]:
        worst: Level = "error" if any(finding.level == "error" for finding in more) else "warning"
        yield Finding(worst, "worker", f"so it is with {len(more)} more", "configbus workers shows them all")
    if workers:
        yield Finding("ok", "workers", f"{len(workers)} are known")


def _worker(worker: Worker, clock: int, keys: Keys) -> Finding | None:
    presence = worker.presence
    if presence is None:
        remedy = f"is it running? if no worker has this name: ZREM {keys.workers} NAME"
        return Finding("warning", "worker", f"{worker.name}: {worker.silence(clock)}", remedy)
    if presence.held:
        why = "; ".join(f"{name}: {held.field} {held.reason}" for name, held in list(presence.held.items())[:SHOWN])
        return Finding("error", "worker", f"{worker.name} holds back {why}", "mend the value, or upgrade the worker")
    if presence.state is not State.LIVE:
        return Finding("warning", "worker", f"{worker.name} is {presence.state}", "is a relay running?")
    return None


def _keys(link: Link, keys: Keys) -> Iterator[str]:
    cursor = b"0"
    while True:
        ((cursor, found),) = link.call(("SCAN", cursor, "MATCH", f"{keys.prefix}*", "COUNT", SCAN_COUNT))
        yield from (key.decode(errors="replace") for key in found)
        if cursor == b"0":
            return


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
