"""The relay: publishes whatever its bell or its own look at Postgres shows, and says how fresh Redis is.

Any number of relays may run at once; none of them matters to an author, who publishes right after
commit. A relay is what makes plain SQL edits, and releases whose author died, arrive.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql as pgsql
from sqlalchemy import text

from configbus.catalogue import load_catalogue
from configbus.errors import ConfigBusError, Conflict, HistoryLost, Unavailable
from configbus.link import Link
from configbus.log import log
from configbus.publication import Verdict
from configbus.publisher import Publisher
from configbus.repair import Repair
from configbus.store.connect import Place, begun, connect_listener, connected, driver_url, translated, watched
from configbus.store.drift import capture_drift, find_drift, queue_usage
from configbus.store.releases import check_server, newest_head, raise_epoch
from configbus.verification import refused_by_models
from configbus.wire import Keys

if TYPE_CHECKING:
    import threading

    import psycopg
    from sqlalchemy import Connection

    from configbus.publication import Difference
    from configbus.settings import Settings
    from configbus.store.releases import FullState
    from configbus.wire import Head, Mark

LOOK_SECONDS = 0.1
STAMP_SECONDS = 0.5
PAUSE_SECONDS = 0.2
HANG_SECONDS = 60.0
"""After which a session of Postgres that says nothing at all is given up."""
COMPARE_SECONDS = 0.6
COMPARE_SHARE = 0.1
"""Of the relay's time that comparing may take: with very many blocks it is done less often. The faster one of the last
two counts: whatever held up a single one is no reason to look away.
"""
COMPARE_AT_LEAST_SECONDS = 60.0
QUEUE_SHARE = 0.5
"""Of Postgres' queue of notifications: nothing rings from there on."""
RAISES, RAISES_SECONDS = 3, 600.0
"""More new epochs than these within that time are two databases that take turns, not a restore."""
TOLD_LENGTH = 500
"""Characters of what was repaired that the log shows; the audit log has more."""
NOTE_SECONDS = 60.0
"""Between two hashes of history in the log."""

SCRIPT = (Path(__file__).parent / "stamp.lua").read_text(encoding="utf8")
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Relay:
    """Serves one environment until `stop` is set."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._keys = Keys(settings.namespace, settings.environment)
        self._place = Place(settings.schema, settings.environment)
        self._url = settings.require("database_url")
        driver_url(self._url)
        self._link = Link(settings.require("redis_url"))
        self._publisher = Publisher(self._link, self._keys, self._place, settings.keyring)
        self._repair = Repair(self._publisher, self._place)
        self._raised: list[float] = []
        self._lost: set[str] = set()
        self._locked = False
        self._queue_told = False
        self._judged: set[Mark] = set()
        self._catalogue = load_catalogue(settings.domains)
        self._noted, self._note_at = "", 0.0
        self._published: Head | None = None
        self._compare_took = 0.0
        self._fault = ""

    def run(self) -> None:
        """Publish until stopped; an unreachable server is waited for, any other error is logged and survived."""
        while not self._stop.is_set():
            try:
                with connected(self._url) as connection, closing(connect_listener(self._url)) as bell:
                    self._serve(connection, bell)
            except ConfigBusError as error:
                self._say(error)
            except Exception:
                log.exception("relay_failed", environment=self._keys.environment)
            self._stop.wait(PAUSE_SECONDS)
        self._link.close()

    def bring_up(self) -> Head:
        """Publish what is missing once, and stamp the head. Raises what keeps it from that."""
        with connected(self._url) as connection:
            self._publisher.bring_up(connection)
            return self._stamp(connection)

    def _serve(self, connection: Connection, bell: psycopg.Connection[tuple[object, ...]]) -> None:
        with translated():
            bell.execute(pgsql.SQL("LISTEN {}").format(pgsql.Identifier(self._settings.schema)))
        if not self._fault:
            log.info("relay_started", environment=self._keys.environment)
        stamp_at = compare_at = 0.0
        with watched(connection, HANG_SECONDS) as hear:
            with translated(), connection.begin():
                check_server(connection, self._place, newest_head(connection, self._place))
            while not self._stop.is_set():
                hear()
                try:
                    self._look(connection)
                    if time.monotonic() >= stamp_at:
                        stamp_at = time.monotonic() + STAMP_SECONDS
                        self._stamp(connection)
                        self._recovered()
                    if time.monotonic() >= compare_at:
                        compare_at = self._compare(connection)
                except Unavailable as error:
                    if error.server != "Redis":
                        raise
                    self._say(error)
                    self._published = None
                with translated():
                    for _ in bell.notifies(timeout=LOOK_SECONDS, stop_after=1):
                        pass

    def _look(self, connection: Connection) -> None:
        with translated(), connection.begin():
            head = newest_head(connection, self._place)
        if head != self._published:
            try:
                with translated():
                    self._published = self._publisher.bring_up(connection)
            except HistoryLost as lost:
                self._begin_epoch(connection, lost)

    def _catches_up(self, connection: Connection, head: Head) -> bool:
        """Publish what Redis lacks; whether it then holds at least this head, in the same history."""
        self._published = None
        self._look(connection)
        now = self._published
        return now is not None and now.epoch == head.epoch and now.revision >= head.revision

    def _begin_epoch(self, connection: Connection, lost: HistoryLost) -> None:
        """Postgres was set back below what workers hold: a new epoch makes them follow it."""
        now = time.monotonic()
        self._raised = [at for at in self._raised if at > now - RAISES_SECONDS]
        if len(self._raised) >= RAISES:
            raise Conflict(
                f"{RAISES} new epochs within {RAISES_SECONDS / 60:.0f} minutes: another database publishes to these "
                f"keys, or CONFIGBUS_REDIS_URL is wrong. Stop one of them, then restart this relay. ({lost})"
            )
        with translated(), begun(connection):
            raised = raise_epoch(connection, self._place, lost.epoch, lost.found_epoch, str(lost))
        if raised is not None:
            self._raised.append(now)
            log.error("epoch_raised", environment=self._keys.environment, epoch=raised, reason=str(lost))

    def _compare(self, connection: Connection) -> float:
        """Release what bypassed the triggers, put right what differs in Redis, name what workers refuse; when to do so
        again.
        """
        started = time.monotonic()
        self._release_drift(connection)
        with translated(), connection.begin():
            self._warn_of_queue(queue_usage(connection))
        with translated():
            wrong = self._repair.repair(connection)
            state = self._repair.state(connection)
        entries = state.entries
        self._note_chain(state)
        for entry, refusal in refused_by_models((e for e in entries if e.mark not in self._judged), self._catalogue):
            log.error(
                "block_invalid",
                environment=self._keys.environment,
                block=entry.name,
                revision=entry.mark.revision,
                field=refusal.field,
                reason=refusal.reason,
                exc_info=refusal.error,
            )
        self._judged = {entry.mark for entry in entries}
        self._tell_repaired([difference for difference in wrong or () if not difference.renewal])
        if renewed := [difference for difference in wrong or () if difference.renewal]:
            log.info("signatures_renewed", environment=self._keys.environment, count=len(renewed))
        ended = time.monotonic()
        if wrong is None:
            return ended + LOOK_SECONDS
        took = min(ended - started, self._compare_took)
        self._compare_took = ended - started
        return max(started + min(max(took / COMPARE_SHARE, COMPARE_SECONDS), COMPARE_AT_LEAST_SECONDS), ended)

    def _release_drift(self, connection: Connection) -> None:
        """Release what bypassed the triggers; left for later where a table is locked, so that all else goes on."""
        try:
            with translated(), connection.begin():
                connection.execute(text("SET LOCAL lock_timeout = '100ms'"))
                drift = find_drift(connection, self._place)
        except Conflict as error:
            if not self._locked:
                log.warning("drift_not_looked_for", environment=self._keys.environment, reason=str(error))
            self._locked = True
            return
        self._locked = False
        if any(not block.lost for block in drift):
            with translated(), begun(connection):
                released = capture_drift(connection, self._place)
            log.warning("drift_released", environment=self._keys.environment, blocks=", ".join(released))
        lost = {block.block for block in drift if block.lost}
        if lost - self._lost:
            log.error("active_row_missing", environment=self._keys.environment, blocks=", ".join(sorted(lost)))
        self._lost = lost

    def _note_chain(self, state: FullState) -> None:
        """Keep the hash of history where the owner of the database cannot change it: at first, then once a minute."""
        if state.chain not in ("", self._noted) and time.monotonic() >= self._note_at:
            self._noted, self._note_at = state.chain, time.monotonic() + NOTE_SECONDS
            facts = {"revision": state.head.revision, "chain": state.chain}
            log.info("history_noted", environment=self._keys.environment, **facts)

    def _tell_repaired(self, wrong: list[Difference]) -> None:
        by_place: dict[str, list[Difference]] = {}
        for difference in wrong:
            by_place.setdefault(difference.where, []).append(difference)
        for where, here in by_place.items():
            fields = ", ".join(difference.field for difference in here)
            changes = ", ".join(f"{each.field} {each.found} -> {each.expected}" for each in here)
            log.warning(
                "redis_repaired",
                environment=self._keys.environment,
                where=where,
                fields=fields[:TOLD_LENGTH],
                changes=changes[:TOLD_LENGTH],
            )

    def _warn_of_queue(self, usage: float) -> None:
        """Bells that nobody hears: nothing is lost, and plain SQL waits for the relay's own look."""
        if usage >= QUEUE_SHARE and not self._queue_told:
            log.warning(
                "notify_queue_fills",
                environment=self._keys.environment,
                usage=round(usage, 2),
                hint="a session that listens stays in a transaction: see pg_stat_activity, and end it",
            )
        self._queue_told = usage >= QUEUE_SHARE

    def _stamp(self, connection: Connection) -> Head:
        """Redis' clock and head first, then Postgres, then what Redis lacks of that, then the stamp: one connection to
        Redis, which a Link never swaps. A head of another history is looked after first.
        """
        ((seconds, micros),) = self._link.call(("TIME",))
        found = self._publisher.look()
        with translated(), connection.begin():
            head = newest_head(connection, self._place)
        match self._publisher.judge(found, head)[0] if self._publisher.is_ours(found) else None:
            case Verdict.DONE:
                pass
            case Verdict.REPLAY if self._catches_up(connection, head):
                pass
            case _:
                self._published = None
                return head
        stamp = str(int(seconds) * 1_000_000 + int(micros))
        arguments = [stamp, head.bus, str(head.epoch), str(head.revision), head.state, self._keys.channel]
        arguments.append(self._publisher.bookmark(head))
        if (ring := self._publisher.ring) is not None:
            arguments.append(ring.of_stamp(head, int(stamp)))
        answer = self._link.script(SHA, SCRIPT, [self._keys.head], arguments)
        if answer != b"stamped":
            self._published = None
            if answer != b"behind":
                log.warning(
                    "stamp_refused",
                    environment=self._keys.environment,
                    revision=head.revision,
                    reason=answer.decode(),
                )
        return head

    def _say(self, error: ConfigBusError) -> None:
        """Log a fault when it begins or changes, not at every look."""
        if str(error) != self._fault:
            self._fault = str(error)
            log.warning("relay_waits", environment=self._keys.environment, reason=self._fault)

    def _recovered(self) -> None:
        if self._fault:
            self._fault = ""
            log.info("relay_recovered", environment=self._keys.environment)
