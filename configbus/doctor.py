"""What stands between an installation and its promises: looked at once, from outside, each finding with its remedy."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import psycopg

from configbus.catalogue import load_catalogue
from configbus.errors import ConfigBusError, Unavailable
from configbus.link import Link, hashes, reading_commands, reading_of
from configbus.publication import Verdict, judge
from configbus.receipt import clock_of, find_workers
from configbus.signing import KEY_ID, Unsigned, read_keys
from configbus.snapshot import LIVE_SECONDS, State
from configbus.store import health
from configbus.store.connect import Place, connect_listener, connected, quoted, translated
from configbus.store.drift import find_drift
from configbus.store.releases import check_server, newest_state
from configbus.verification import refused_by_models
from configbus.wire import EMPTY_STATE, Keys, Malformed, NotUnderstood, read_head, read_index, read_stamp, xor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from configbus.adoption import Refusal
    from configbus.presence import Worker
    from configbus.settings import Settings
    from configbus.snapshot import Rejection
    from configbus.store.releases import FullState
    from configbus.wire import Entry, Head

Level = Literal["ok", "warning", "error"]
BELL_SECONDS = 0.5
OFFSET_SECONDS = 1.0
DEAD_SHARE, DEAD_LEAST = 2, 10_000
"""How many dead rows beside each live one are too many, from so many dead ones on."""
SHOWN = 5
SAVES = ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
WORKERS_SHOWN = 100
"""Also of the blocks that only workers refuse: what they say of themselves may be anything."""
SCAN_COUNT = "1000"
LONG_TRANSACTIONS = "SELECT pid, xact_start, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 min'"
REMEDIES = {
    Verdict.LAY_DOWN: "a relay lays it down: is one running? or by hand: configbus verify --repair",
    Verdict.SUPERSEDED: "point CONFIGBUS_DATABASE_URL at the new primary",
    Verdict.AHEAD: "look again; if it stays, Postgres was set back: docs/operate.md, Backup and restore",
    Verdict.DIVERGED: "a relay begins a new epoch, or by hand: configbus epoch raise",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` is empty where nothing is to be done."""

    level: Level
    about: str
    found: str
    remedy: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything. What keeps it from looking is a finding, too."""
    examination = _Examination(settings)
    if settings.database_url:
        yield from _guarded("postgres", examination.postgres(settings.database_url))
    else:
        yield Finding("error", "postgres", "CONFIGBUS_DATABASE_URL is not set", "set it")
    if settings.redis_url:
        yield from _guarded("redis", examination.redis(settings.redis_url))
    else:
        yield Finding("error", "redis", "CONFIGBUS_REDIS_URL is not set", "set it")
    yield from examination.content()


def _guarded(about: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """What is found, and at the end what keeps from finding more."""
    try:
        with translated():
            yield from findings
    except Unavailable as error:
        yield Finding("error", about, str(error), "see what the message says")
    except ConfigBusError as error:
        yield Finding("error", about, str(error), "put right what the message names; see docs/operate.md")


class _Examination:
    """One look at everything; what an early part finds spares a later one to tell of the same cause again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys(settings.namespace, settings.environment)
        self._place = Place(settings.schema, settings.environment)
        self._state: FullState | None = None
        self._is_unknown = False
        self._is_stamped = False
        self._is_whole = False
        self._refused: list[tuple[Entry, Refusal]] = []
        self._holders: dict[str, list[tuple[str, Rejection]]] = {}

    def postgres(self, url: str) -> Iterator[Finding]:
        """What can be seen in Postgres."""
        place = self._place
        with connected(url) as connection:
            with connection.begin():
                rights = health.rights(connection, place)
            if rights.missing:
                remedy = f"as the owner: configbus grants reader --user {rights.role} | psql; of a relay: grants relay"
                yield Finding("error", "rights", f"this role may not {rights.missing}", remedy)
                return
            schema = _schema(connection, place)
            yield schema
            if schema.level != "ok":
                return
            with connection.begin():
                known = health.environments(connection, place)
            if place.environment not in known:
                self._is_unknown = True
                yield _unknown(place.environment, known)
                return
            self._state = state = newest_state(connection, place)
            yield Finding("ok", "postgres", f"revision {state.head.revision} of epoch {state.head.epoch}")
            yield _rights(rights)
            yield from _guarded("epoch", _server(connection, place, state.head))
            yield from _guarded("listen", _bell(self._settings))
            yield from _guarded("drift", _drift(connection, place))
            yield from _guarded("bloat", _bloat(connection, place))
            catalogue = load_catalogue(self._settings.domains)
            self._refused = list(refused_by_models(state.entries, catalogue))

    def redis(self, url: str) -> Iterator[Finding]:
        """What can be seen in Redis."""
        with closing(Link(url)) as link:
            local, clock = time.time(), clock_of(link) / 1_000_000
            yield Finding("ok", "redis", "answers")
            if abs(clock - local) > OFFSET_SECONDS:
                found = f"its clock is {clock - local:+.1f} s from this host's"
                yield Finding("warning", "clock", found, "synchronise the clocks; freshness is told by Redis' alone")
            yield from _memory(link)
            yield from _guarded("head", self._published(link))
            if self._state is not None and self._is_whole:
                yield from _guarded("keys", self._orphans(link, self._state))
            yield from _guarded("workers", self._workers(link))

    def content(self) -> Iterator[Finding]:
        """Blocks that are refused: by the models here, or by workers."""
        for entry, refusal in self._refused[:SHOWN]:
            count = len(self._holders.pop(entry.name, ()))
            held = f"; {_holding(count)} it back" if count else ""
            found = f"{entry.name}: {refusal.field} {refusal.reason}{held}"
            yield Finding("error", "content", found, "workers hold it back: put it right, or roll back")
        if more := [entry.name for entry, _ in self._refused[SHOWN:]]:
            yield Finding("error", "content", f"so it is with {_some(more)}", "configbus verify shows them all")
        for block in sorted(self._holders.keys() - set(more))[:WORKERS_SHOWN]:
            (_, why), *_ = holders = self._holders[block]
            names = _some([name for name, _ in holders])
            found = f"{_holding(len(holders))} back {block}: {why.field} {why.reason} ({names})"
            yield Finding("error", "worker", found, "mend the value, or upgrade these workers")

    def _published(self, link: Link) -> Iterator[Finding]:
        """The head and the index, of one moment."""
        *_, (clock, head_reply, index_reply) = link.call(*reading_commands(self._keys, ()))
        try:
            reading = reading_of([[clock, head_reply]], ())
            head = read_head(reading.head) if reading.head else None
        except NotUnderstood as fault:
            yield Finding("error", "head", f"a newer configbus wrote the head: {fault}", "upgrade this one")
            return
        except Malformed as fault:
            found = f"the head in Redis is damaged: {fault}"
            remedy = f"a relay lays it down: is one running? if it stays damaged: DEL {self._keys.head}"
            yield Finding("error", "head", found, remedy)
            return
        if head is None:
            if not self._is_unknown:
                yield Finding("error", "head", "there is none", "start a relay: configbus relay")
            return
        if self._state is not None and head.bus != self._state.head.bus:
            yield Finding(
                "error",
                "head",
                f"another installation uses these keys: its bus is {head.bus}, ours {self._state.head.bus}",
                "give one of them another CONFIGBUS_NAMESPACE or CONFIGBUS_ENVIRONMENT, or this one its own"
                " CONFIGBUS_REDIS_URL; if the other is gone for good, delete the head and restart the workers",
            )
            return
        yield self._stamp(reading.head, reading.time)
        signing = _signing(self._settings, head, reading.head)
        if signing is not None:
            yield signing
        if self._state is not None and (signing is None or signing.level != "error"):
            verdict, _ = judge(reading.head, self._state.head, self._settings.keyring)
            if verdict not in (Verdict.DONE, Verdict.REPLAY):
                remedy = REMEDIES.get(verdict, "a relay says in its log what it does about it")
                yield Finding("error", "head", verdict.value, remedy)
        try:
            index = reading_of([[clock, index_reply]], ()).head
            _check_index(head, index)
            if signing is None and (ring := self._settings.keyring) is not None:
                ring.check_index(head, reading.head, index)
            self._is_whole = True
        except Malformed as fault:
            found = f"the index in Redis is damaged: {fault}"
            yield Finding("error", "index", found, "a relay lays it down; without one: configbus verify --repair")

    def _stamp(self, fields: Mapping[str, str], clock: int) -> Finding:
        stamp = read_stamp(fields)
        age = None if stamp is None else (clock - stamp) / 1_000_000
        self._is_stamped = age is not None and 0 <= age < LIVE_SECONDS
        found = "never stamped the head" if age is None else f"stamped the head {age:.1f} s ago"
        if self._is_stamped:
            return Finding("ok", "relay", found)
        return Finding("error", "relay", found, "start a relay, or see its log: workers are stale")

    def _orphans(self, link: Link, state: FullState) -> Iterator[Finding]:
        """Keys below the prefix that nobody has; the index is read behind them, which names what came in between."""
        found = list(_keys(link, self._keys))
        (index,) = hashes(link, [self._keys.index])
        blocks = {*index, *(entry.name for entry in state.entries)}
        known = {self._keys.head, self._keys.index, self._keys.workers, *map(self._keys.block, blocks)}
        orphans = [key for key in found if key not in known and not key.startswith(self._keys.worker(""))]
        if index and orphans:
            yield Finding("warning", "keys", f"nobody's: {_some(orphans)}", "delete them, or move what put them there")

    def _workers(self, link: Link) -> Iterator[Finding]:
        clock, workers = find_workers(link, self._keys)
        for worker in workers:
            if worker.presence is not None:
                for block, why in worker.presence.held.items():
                    self._holders.setdefault(block, []).append((worker.name, why))
        findings = [finding for worker in workers if (finding := self._worker(worker, clock))]
        yield from findings[:WORKERS_SHOWN]
        if more := findings[WORKERS_SHOWN:]:
            yield Finding("warning", "worker", f"so it is with {len(more)} more", "configbus workers shows them all")
        if workers:
            yield Finding("ok", "workers", f"{len(workers)} are known")

    def _worker(self, worker: Worker, clock: int) -> Finding | None:
        presence = worker.presence
        if presence is None:
            remedy = f"is it running? if no worker has this name: ZREM {self._keys.workers} NAME"
            return Finding("warning", "worker", f"{worker.name}: {worker.silence(clock)}", remedy)
        told_already = presence.state is State.STALE and not self._is_stamped
        if presence.state is State.LIVE or presence.held or told_already:
            return None
        return Finding("warning", "worker", f"{worker.name} is {presence.state}", "does Redis answer from its host?")


def _schema(connection: Connection, place: Place) -> Finding:
    """Nothing else can be looked at in a schema of another version."""
    with connection.begin():
        version, newest = health.schema_version(connection, place)
    if version == newest:
        return Finding("ok", "schema", f"version {version}")
    remedy = "configbus migrate" if version < newest else "upgrade this configbus"
    return Finding("error", "schema", f"version {version}, this configbus has {newest}", remedy)


def _unknown(environment: str, known: list[str]) -> Finding:
    if not known:
        return Finding("error", "environment", "none was set up in this database", "configbus migrate")
    found = f"there is no {environment!r} in this database; there are: {', '.join(known)}"
    remedy = f"set CONFIGBUS_ENVIRONMENT to one of them; if {environment!r} is to be a new one: configbus migrate"
    return Finding("error", "environment", found, remedy)


def _rights(rights: health.Rights) -> Finding:
    if rights.is_superuser:
        return Finding("warning", "rights", "this role is a superuser", "configbus grants prints what suffices")
    if rights.uncallable:
        found = f"enough to read; a relay could not run with this role: it may not call {_some(rights.uncallable)}"
        remedy = f"if it is a relay's, as the owner: configbus grants relay --user {rights.role} | psql"
        return Finding("warning", "rights", found, remedy)
    return Finding("ok", "rights", "enough to read and for a relay, and no superuser's")


def _server(connection: Connection, place: Place, head: Head) -> Iterator[Finding]:
    try:
        with connection.begin():
            check_server(connection, place, head)
    except ConfigBusError as error:
        yield Finding("error", "epoch", str(error), "configbus epoch raise")


def _bell(settings: Settings) -> Iterator[Finding]:
    """Whether a NOTIFY is heard: behind a pooler in transaction mode it is not."""
    channel = f"{settings.schema}_doctor"
    with closing(connect_listener(settings.require("database_url"))) as bell:
        try:
            bell.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            with connected(settings.require("database_url")) as connection, connection.begin():
                health.ring(connection, channel)
            heard = list(bell.notifies(timeout=BELL_SECONDS, stop_after=1))
        except psycopg.Error as error:
            remedy = "plain SQL waits for the relay's look, a tenth of a second"
            yield Finding("warning", "listen", str(error), remedy)
            return
    if heard:
        yield Finding("ok", "listen", "a bell is heard")
        return
    found = "no bell is heard: perhaps a pooler is between"
    yield Finding("warning", "listen", found, "give the relay a direct URL; until then it looks ten times a second")


def _drift(connection: Connection, place: Place) -> Iterator[Finding]:
    with connection.begin():
        drift = find_drift(connection, place)
    if drift:
        blocks = _some([block.block for block in drift])
        yield Finding("error", "drift", f"changed behind the triggers: {blocks}", "a relay releases them, or verify")


def _bloat(connection: Connection, place: Place) -> Iterator[Finding]:
    with connection.begin():
        tables = health.tables(connection, place)
    for table in tables:
        if table.dead > DEAD_LEAST and table.dead > DEAD_SHARE * table.live:
            found = f"{table.name} has {table.dead} dead rows beside {table.live}"
            remedy = f"VACUUM {quoted(place.schema)}.{quoted(table.name)}; -- if they stay: {LONG_TRANSACTIONS}"
            yield Finding("warning", "bloat", found, remedy)


def _memory(link: Link) -> Iterator[Finding]:
    try:
        replies = link.call(("INFO", "memory"), ("INFO", "replication"), ("INFO", "persistence"))
    except Unavailable as error:
        yield Finding("warning", "memory", str(error), "look as a user who may: configbus acl operator")
        return
    lines = [line for reply in replies for line in reply.decode(errors="replace").splitlines()]
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    if facts.get("role") == "slave":
        found = f"it is a replica of {facts.get('master_host')}:{facts.get('master_port')}, and takes no writes"
        yield Finding("error", "replica", found, "point CONFIGBUS_REDIS_URL at the primary: publish to that")
    if failed := [f"{name} {facts[name]}" for name in SAVES if facts.get(name, "ok") != "ok"]:
        found = f"it cannot save ({', '.join(failed)}), and may take no writes"
        remedy = "give its disk room and its directory back; or CONFIG SET stop-writes-on-bgsave-error no"
        yield Finding("error", "persistence", found, remedy)
    else:
        saved = "it writes an append-only file" if facts.get("aof_enabled") == "1" else "it saves snapshots, or nothing"
        yield Finding("ok", "persistence", f"{saved}: a relay lays down what a restart loses")
    used, most, policy = (facts.get(name, "") for name in ("used_memory", "maxmemory", "maxmemory_policy"))
    if policy.startswith("allkeys"):
        found = f"maxmemory-policy is {policy}: Redis throws blocks away when its memory is full"
        yield Finding("warning", "eviction", found, "CONFIG SET maxmemory-policy noeviction, or a Redis of its own")
        return
    yield Finding("ok", "eviction", policy or "unknown")
    if used.isdecimal() and most.isdecimal() and 0 < int(most) <= int(used):
        found = f"its memory is full, {used} of {most} bytes: it takes no writes"
        yield Finding("error", "memory", found, "raise its maxmemory, or give configbus a Redis of its own")


def _signing(settings: Settings, head: Head, fields: Mapping[str, str]) -> Finding | None:
    """What is wrong with the signature of a head, where there are keys, or one."""
    ring, signature = settings.keyring, fields.get("signature", "")
    key_id = signature.partition(":")[0]
    shown = key_id if KEY_ID.fullmatch(key_id) else repr(key_id[:40])
    remedy = "give all relays, authors and workers the same CONFIGBUS_SIGNING_KEYS, see docs/security.md"
    if ring is None:
        if not signature:
            remedy = "set CONFIGBUS_SIGNING_KEYS, see docs/security.md"
            return Finding("warning", "signing", "what is in Redis is not signed", remedy)
        found = f"what is in Redis is signed with key {shown}, and CONFIGBUS_SIGNING_KEYS is not set here"
        return Finding("warning", "signing", found, remedy)
    try:
        ring.check_head(head, fields)
    except Unsigned as fault:
        if not signature:
            found = "what is in Redis is not signed: its relays and authors lack CONFIGBUS_SIGNING_KEYS, set here"
        elif key_id not in read_keys(settings.signing_keys or ""):
            found = f"the head is signed with key {shown}, which is not in CONFIGBUS_SIGNING_KEYS"
        else:
            found = str(fault)
        return Finding("error", "signing", found, remedy)
    return None


def _check_index(head: Head, fields: Mapping[str, str]) -> None:
    """Raises Malformed."""
    index = read_index(fields)
    if head.state != EMPTY_STATE and not index:
        raise Malformed("there is none")
    if xor(EMPTY_STATE, (mark.digest for mark in index.values())) != head.state:
        raise Malformed("it does not add up to the head's state")


def _keys(link: Link, keys: Keys) -> Iterator[str]:
    cursor = b"0"
    while True:
        ((cursor, found),) = link.call(("SCAN", cursor, "MATCH", f"{keys.prefix}*", "COUNT", SCAN_COUNT))
        yield from (key.decode(errors="replace") for key in found)
        if cursor == b"0":
            return


def _holding(count: int) -> str:
    return "1 worker holds" if count == 1 else f"{count} workers hold"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
