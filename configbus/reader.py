"""The reader: what Postgres holds now and held before, for people and programs that ask.

with Reader.connect() as reader:
    for entry in reader.history("trading"): ...
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import text

from configbus.catalogue import Catalogue, load_catalogue
from configbus.difference import Differences, differences
from configbus.errors import InvalidValue, Problem, UnknownVersion
from configbus.jsontext import readable
from configbus.names import REVISION, split_block
from configbus.settings import Settings, load_settings
from configbus.store import history, versions
from configbus.store.chain import verify_chain
from configbus.store.connect import Place, make_engine, translated
from configbus.store.releases import newest_head
from configbus.values import default_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from sqlalchemy import Connection

    from configbus.block import Domain
    from configbus.store.chain import Chain, Witness
    from configbus.store.history import AuditEntry, HistoryEntry, ReleaseRecord
    from configbus.store.versions import BlockSummary, VersionRow

ENTRIES = 20
"""How many of the newest entries are given where no number is asked for."""

T = TypeVar("T")


class Reader:
    """Reads one environment in Postgres. Make one with `Reader.connect`; not to be shared by threads.

    Each call sees one moment. All raise UnknownBlock, UnknownEnvironment and Unavailable.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._catalogue: Catalogue = load_catalogue(settings.domains)
        self._engine = make_engine(settings.require("database_url"))
        self._place = Place(settings.schema, settings.environment)

    @classmethod
    def connect(cls, **options: Any) -> Self:
        """By settings: `database_url`, `environment`, `domains`, ... Raises SettingsError."""
        return cls(load_settings(**options))

    def blocks(self) -> list[BlockSummary]:
        """Every block that has an active row or drafts, by name."""
        return self._read(lambda connection: versions.summaries(connection, self._place, self._catalogue))

    def active(self, block: str) -> VersionRow:
        """The active row of a block."""
        domain, key = self._locate(block)
        return self._read(lambda connection: versions.active_row(connection, self._place, domain, key))

    def version(self, row_id: str | UUID) -> VersionRow:
        """One version row, by its id or a unique beginning of it. Raises UnknownVersion."""
        return self._read(lambda connection: versions.locate_row(connection, self._place, self._catalogue, row_id)[1])

    def versions(self, block: str, limit: int = ENTRIES) -> list[VersionRow]:
        """The rows of a block with their status, the last changed first."""
        domain, key = self._locate(block)
        _check_limit(limit)

        def read(connection: Connection) -> list[VersionRow]:
            rows = versions.rows_of(connection, self._place, domain, key, limit)
            if not rows:
                raise versions.no_active_row(connection, self._place, domain, key)
            return rows

        return self._read(read)

    def history(self, block: str, limit: int = ENTRIES) -> list[HistoryEntry]:
        """The releases that changed a block, newest first: who, when, why, what."""
        domain, key = self._locate(block)
        _check_limit(limit)

        def read(connection: Connection) -> list[HistoryEntry]:
            found = history.block_history(connection, self._place, block, limit)
            if not found:
                raise versions.no_active_row(connection, self._place, domain, key)
            return found

        return self._read(read)

    def release(self, revision: int) -> ReleaseRecord:
        """One release with everything that it changed. Raises UnknownRevision."""
        return self._read(lambda connection: history.release_record(connection, self._place, revision))

    def diff(
        self, block: str, a: int | datetime | str | UUID, b: int | datetime | str | UUID = "active"
    ) -> Differences:
        """What differs in a block from `a` to `b`: each a revision, an instant, `active`, `default` or a row's id.

        Raises UnknownRevision, UnknownVersion. A block that did not exist at a revision, or is retired, has no fields.
        """
        domain, _ = self._locate(block)

        def read(connection: Connection) -> Differences:
            old, new = (self._texts(connection, domain, block, which) for which in (a, b))
            shown = ({name: readable(value) for name, value in texts.items()} for texts in (old, new))
            return differences(*shown)

        return self._read(read)

    def verify_chain(self, witnesses: Sequence[Witness] = ()) -> Chain:
        """Whether history and audit log are what was written: the hashes of all releases, computed anew."""
        return self._read(lambda connection: verify_chain(connection, self._place, witnesses))

    def now(self) -> datetime:
        """The instant by the clock of Postgres, which is that of all releases."""
        at: datetime = self._read(lambda connection: connection.scalars(text("SELECT clock_timestamp()")).one())
        return at

    def audit(self, block: str | None = None, limit: int = ENTRIES) -> list[AuditEntry]:
        """The newest lines of the audit log, newest first; of one block, or of all."""
        _check_limit(limit)
        domain, key = self._locate(block) if block is not None else (None, "")

        def read(connection: Connection) -> list[AuditEntry]:
            where = (domain.table, key) if domain is not None else None
            found = history.audit_entries(connection, self._place, where, limit)
            if not found and domain is not None:
                raise versions.no_active_row(connection, self._place, domain, key)
            if not found:
                newest_head(connection, self._place)
            return found

        return self._read(read)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _locate(self, block: str) -> tuple[Domain, str]:
        return self._catalogue.locate(block), split_block(block)[1]

    def _read(self, read: Callable[[Connection], T]) -> T:
        with translated(), self._engine.connect() as connection, connection.begin():
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            return read(connection)

    def _texts(self, connection: Connection, domain: Domain, block: str, which: Any) -> dict[str, str]:
        """The content that something stands for: `active`, `default`, an id, a revision or an instant."""
        key = split_block(block)[1]
        if which == "active":
            active = versions.find_active(connection, self._place, domain, key)
            if active is None and not history.ever_released(connection, self._place, [block]):
                raise versions.no_active_row(connection, self._place, domain, key)
            return dict(active.texts) if active is not None else {}
        if which == "default":
            row = versions.default_row(connection, self._place, domain, key)
            return dict(row.texts) if row is not None else default_texts(domain)
        if isinstance(which, (int, datetime)):
            revision = history.revision_at(connection, self._place, which)
            return history.content_at(connection, self._place, block, revision).texts or {}
        try:
            return dict(self._row_of(connection, domain, which).texts)
        except UnknownVersion:
            if not REVISION.fullmatch(str(which)):
                raise
            return self._texts(connection, domain, block, int(which))

    def _row_of(self, connection: Connection, domain: Domain, which: Any) -> VersionRow:
        """A row of this domain by id. Raises UnknownVersion."""
        found, row = versions.locate_row(connection, self._place, self._catalogue, which)
        if found is not domain:
            raise UnknownVersion(f"row {row.short_id} is one of {row.block}, not of {domain.name}")
        return row


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise InvalidValue([Problem("limit", f"is {limit}, but must be 1 or more")])
