"""The author: owns the transaction that changes configuration, publishes right after it, rings the bell.

with Author.connect(actor="ana") as author:
    release = author.set({"trading.score_threshold": "0.8"}, reason="volatility")
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from configbus.catalogue import Catalogue, load_catalogue
from configbus.errors import ConfigBusError, Conflict, InvalidValue, Problem, Superseded
from configbus.link import Link
from configbus.log import log
from configbus.names import split_block, split_path
from configbus.publisher import Publisher
from configbus.settings import Settings, load_settings
from configbus.store.connect import Place, is_retriable, make_engine, translated
from configbus.store.releases import newest_head, own_release
from configbus.store.versions import begin_authoring, lock_active, replace_active
from configbus.values import as_json, valid_content, with_values
from configbus.wire import Keys, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection

    from configbus.store.releases import Published

PUBLISH_SECONDS = 0.5
"""Longest wait for one answer of Redis after a commit; the relay does what could not be done in it."""
ATTEMPTS = 4


class Author:
    """Changes configuration of one environment. Make one with `Author.connect`; not to be shared by threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalogue: Catalogue = load_catalogue(settings.domains)
        self._engine = make_engine(settings.require("database_url"))
        self._place = Place(settings.schema, settings.environment)
        self._publisher = None
        if settings.redis_url:
            link = Link(settings.redis_url, PUBLISH_SECONDS)
            self._publisher = Publisher(link, Keys(settings.namespace, settings.environment), self._place)

    @classmethod
    def connect(cls, **options: Any) -> Self:
        """An author by settings: `actor`, `database_url`, `redis_url`, `environment`, ... Raises SettingsError.

        Without a Redis URL it publishes nothing itself; the relay does.
        """
        return cls(load_settings(**options))

    def set(self, changes: Mapping[str, Any], reason: str | None = None) -> Release:
        """Put values at paths such as `trading.score_threshold`, all in one release.

        Values that are in force already change nothing; if none differs, the current release is
        returned, without blocks. Raises InvalidValue, UnknownBlock, UnknownField, Conflict, Unavailable.
        """
        by_block = self._by_block(changes)
        as_json(reason, "reason")

        def write(connection: Connection) -> None:
            found: list[Problem] = []
            for name in sorted(by_block):
                domain, key = self._catalogue.locate(name), split_block(name)[1]
                row = lock_active(connection, self._place, domain, key)
                try:
                    block = with_values(domain, name, row.content, by_block[name])
                except InvalidValue as error:
                    found += error.problems
                    continue
                if block != valid_content(domain, row.content):
                    changed = {parts[0] for parts, _ in by_block[name]}
                    replace_active(connection, self._place, domain, row, block, changed)

            if found:
                raise InvalidValue(found)

        return self._release(write, reason)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()
        if self._publisher is not None:
            self._publisher.link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _by_block(self, changes: Mapping[str, Any]) -> dict[str, list[tuple[list[str], Any]]]:
        found: dict[str, list[tuple[list[str], Any]]] = {}
        for path, value in changes.items():
            name, parts = split_path(path)
            domain = self._catalogue.locate(name)
            self._catalogue.require_field(domain, parts[0] if parts else "")
            found.setdefault(name, []).append((parts, value))
        return found

    def _release(self, write: Callable[[Connection], None], reason: str | None) -> Release:
        """Run the writes in a transaction, publish what it released, and ring the bell for the relay."""
        with translated(), self._engine.connect() as connection:
            for _ in range(ATTEMPTS):
                try:
                    release, at = self._commit(connection, write, reason)
                except DBAPIError as error:
                    if is_retriable(error):
                        continue
                    raise
                if release is not None and self._publisher is not None:
                    self._publish(connection, self._publisher, release)
                return at
        raise Conflict("the transaction met deadlocks again and again; try later")

    def _commit(
        self, connection: Connection, write: Callable[[Connection], None], reason: str | None
    ) -> tuple[Published | None, Release]:
        with connection.begin():
            begin_authoring(connection, self._settings.actor, reason, publishes=self._publisher is not None)
            write(connection)
            published = own_release(connection, self._place)
            head = published.head if published else newest_head(connection, self._place)
        names = tuple(entry.name for entry in published.entries) if published else ()
        return published, Release(head.revision, head.epoch, names)

    def _publish(self, connection: Connection, publisher: Publisher, release: Published) -> None:
        """Publish right after commit, then ring the bell. The release stands, whatever happens here."""
        with _left_to_relay(release):
            if not publisher.publish(release):
                publisher.bring_up(connection)
        with _left_to_relay(release), connection.begin():
            connection.execute(
                text("SELECT pg_notify(:channel, :environment)"),
                {"channel": self._place.schema, "environment": self._place.environment},
            )


@contextmanager
def _left_to_relay(release: Published) -> Iterator[None]:
    """What fails after a commit is logged, never raised; only that this Postgres is superseded must be told."""
    try:
        with translated():
            yield
    except Superseded:
        raise
    except ConfigBusError as error:
        log.warning("publish_left_to_relay", revision=release.head.revision, reason=str(error))
    except Exception:
        log.exception("publish_left_to_relay", revision=release.head.revision)
