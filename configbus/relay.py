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

from configbus.errors import ConfigBusError, Unavailable
from configbus.link import Link
from configbus.log import log
from configbus.publisher import Publisher, instant
from configbus.store.connect import Place, connect_listener, connected, driver_url, translated
from configbus.store.releases import newest_head
from configbus.wire import Keys, bookmark

if TYPE_CHECKING:
    import threading

    import psycopg
    from sqlalchemy import Connection

    from configbus.settings import Settings
    from configbus.wire import Head

LOOK_SECONDS = 0.1
STAMP_SECONDS = 0.5
PAUSE_SECONDS = 0.2

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
        self._publisher = Publisher(self._link, self._keys, self._place)
        self._published: Head | None = None
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
        bell.execute(pgsql.SQL("LISTEN {}").format(pgsql.Identifier(self._settings.schema)))
        if not self._fault:
            log.info("relay_started", environment=self._keys.environment)
        stamp_at = 0.0
        while not self._stop.is_set():
            try:
                self._look(connection)
                if time.monotonic() >= stamp_at:
                    stamp_at = time.monotonic() + STAMP_SECONDS
                    self._stamp(connection)
                self._recovered()
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
            with translated():
                self._published = self._publisher.bring_up(connection)

    def _stamp(self, connection: Connection) -> Head:
        """Redis' clock first, then Postgres, then the stamp: one connection to Redis, which a Link never swaps."""
        ((seconds, micros),) = self._link.call(("TIME",))
        with translated(), connection.begin():
            head = newest_head(connection, self._place)
        stamp = str(int(seconds) * 1_000_000 + int(micros))
        arguments = [stamp, head.bus, str(head.epoch), str(head.revision), head.state]
        answer = self._link.script(
            SHA, SCRIPT, [self._keys.head], [*arguments, self._keys.channel, bookmark(head, instant())]
        )
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
