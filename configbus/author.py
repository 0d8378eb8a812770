"""The author: owns the transaction that changes configuration, publishes right after it, rings the bell.

    with Author.connect(actor="ana") as author:
        release = author.set({"trading.score_threshold": "0.8"}, reason="volatility")
        draft = author.draft("risk", {"max_drawdown_pct": 15})
        author.activate(draft.id, expect=draft.version)

Every call is one transaction: it is done as a whole or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

from configbus.difference import same
from configbus.errors import Conflict, InvalidValue, Problem, SettingsError
from configbus.link import Link
from configbus.log import log
from configbus.names import split_block, split_path
from configbus.publisher import Publisher
from configbus.reader import Reader
from configbus.receipt import await_receipt
from configbus.rollback import roll_back
from configbus.store import versions
from configbus.store.connect import answered, retried, sql, translated
from configbus.store.history import content_before, revision_at
from configbus.store.idempotency import conclude_call, digest_of_call, earlier_call
from configbus.store.releases import age_of_release, newest_head, own_release
from configbus.store.versions import NewRow
from configbus.values import as_value, default_texts, put_texts, valid_content, with_values
from configbus.wire import Keys, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Connection

    from configbus.block import Domain
    from configbus.receipt import Receipt
    from configbus.settings import Settings
    from configbus.store.releases import Published
    from configbus.store.versions import VersionRow

    Assignments = list[tuple[list[str], Any]]

PUBLISH_SECONDS = 0.5
"""Longest wait for one answer of Redis after a commit; the relay does what could not be done in it."""
LONGEST_NAME = 100
SAME_CALL = "give the same call with the same idempotency key again"

T = TypeVar("T")


class Author(Reader):
    """Changes configuration of one environment, and reads it. Not to be shared by threads.

    Calls that make a release take an `idempotency_key`: the same call with the same key again, after a lost
    answer for instance, changes nothing and returns what the first one did; another call with it is a Conflict.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._publisher = None
        if settings.redis_url:
            link = Link(settings.redis_url, PUBLISH_SECONDS)
            keys = Keys(settings.namespace, settings.environment)
            self._publisher = Publisher(link, keys, self._place, settings.keyring)

    @classmethod
    def connect(cls, **options: Any) -> Self:
        """An author by settings: `actor`, `database_url`, `redis_url`, `environment`, ... Raises SettingsError.

        Without a Redis URL it publishes nothing itself; the relay does.
        """
        return super().connect(**options)

    def set(
        self, changes: Mapping[str, Any], reason: str | None = None, *, idempotency_key: str | None = None
    ) -> Release:
        """Put values at paths such as `trading.score_threshold`, all in one release.

        Values that are in force already change nothing; if none differs, the current release is
        returned, without blocks. Raises InvalidValue, UnknownBlock, UnknownField, Conflict, Unavailable.
        """
        by_domain = self._by_domain(changes)

        def write(connection: Connection) -> None:
            found: list[Problem] = []
            for name in sorted(by_domain):
                found += self._put(connection, self._catalogue.domain(name), by_domain[name])
            if found:
                raise InvalidValue(found)

        return self._release(write, ["set", dict(changes)], reason, idempotency_key)

    def draft(
        self, block: str, values: Mapping[str, Any] | None = None, *, base: str | UUID | None = None, name: str = ""
    ) -> VersionRow:
        """Prepare a draft: a copy of the base with values put in by field (`score_threshold`, `parameters.size`).

        The base is `active`, `default` or the id of a row of the domain; where none is given the active row or,
        for a key that holds nothing yet, the defaults. A draft is valid or it is not made. Without a name one
        is made. Raises InvalidValue, UnknownBlock, UnknownField, UnknownVersion, Conflict.
        """
        domain, key = self._locate(block)
        given = [self._below(domain, path, value) for path, value in (values or {}).items()]
        _check_text("name", name)
        if len(name) > LONGEST_NAME:
            raise InvalidValue([Problem("name", f"it has {len(name)} characters, {LONGEST_NAME} are allowed")])

        def write(connection: Connection) -> VersionRow:
            version, texts = self._base(connection, domain, block, base)
            texts = put_texts(domain, texts, with_values(domain, block, texts, given), given)
            rows = [NewRow(key, version + 1, texts, name)]
            (made,) = versions.insert_rows(connection, self._place, domain, "draft", rows)
            return versions.locate_row(connection, self._place, self._catalogue, made)[1]

        return self._transact(write)

    def edit(self, row_id: str | UUID, values: Mapping[str, Any], *, expect: int | None = None) -> VersionRow:
        """Put values into a draft. `expect` is the version it was read at: another one is a Conflict."""

        def write(connection: Connection) -> VersionRow:
            domain, row = self._lock_draft(connection, row_id, expect, "edited")
            given = [self._below(domain, path, value) for path, value in values.items()]
            texts = put_texts(domain, row.texts, with_values(domain, row.block, row.texts, given), given)
            if texts == row.texts:
                return row
            versions.update_content(connection, self._place, domain, row.id, texts)
            return versions.locate_row(connection, self._place, self._catalogue, row.id)[1]

        return self._transact(write)

    def discard(self, row_id: str | UUID) -> VersionRow:
        """Delete a draft; the audit log keeps its values. Returns it as it was."""

        def write(connection: Connection) -> VersionRow:
            domain, row = self._lock_draft(connection, row_id, None, "discarded")
            versions.delete_row(connection, self._place, domain, row.id)
            return row

        return self._transact(write)

    def activate(
        self,
        row_id: str | UUID,
        *,
        expect: int | None = None,
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> Release:
        """Make a draft the active row of its block; the one before it is archived.

        `expect` is the version the draft was read at: another one is a Conflict. Raises Conflict for a row that is
        no draft, UnknownVersion, and InvalidValue for one that its domain does not allow (any more).
        """

        def write(connection: Connection) -> None:
            domain, row = versions.locate_row(connection, self._place, self._catalogue, row_id)
            active = versions.lock_active(connection, self._place, domain, [split_block(row.block)[1]])
            domain, row = self._lock_draft(connection, row.id, expect, "activated")
            with_values(domain, row.block, row.texts, [])
            self._warn_of_undone(connection, row, active)
            versions.set_status(connection, self._place, domain, [was.id for was in active.values()], "archived")
            versions.set_status(connection, self._place, domain, [row.id], "active")

        if idempotency_key is not None:
            row_id = self.version(row_id).id
        return self._release(write, ["activate", row_id, expect], reason, idempotency_key)

    def retire(self, block: str, *, reason: str | None = None, idempotency_key: str | None = None) -> Release:
        """Take a keyed block away: its active row is archived without a successor. Raises UnknownBlock, Conflict."""
        domain, key = self._locate(block)
        if not domain.keyed:
            raise Conflict(f"{block!r} has no keys and always has an active row: only a keyed block can be retired")

        def write(connection: Connection) -> None:
            active = versions.lock_active(connection, self._place, domain, [key])
            if not active:
                raise versions.no_active_row(connection, self._place, domain, key)
            versions.set_status(connection, self._place, domain, [active[key].id], "archived")

        return self._release(write, ["retire", block], reason, idempotency_key)

    def rollback(
        self,
        blocks: Sequence[str] = (),
        *,
        to: int | datetime,
        all: bool = False,  # noqa: A002  # the name that callers know
        reason: str | None = None,
        idempotency_key: str | None = None,
    ) -> Release:
        """A new release with the contents of an earlier one: of these blocks, or of everything with `all=True`.

        `to` is a revision, or an instant with its zone, for the newest revision at it. Keyed blocks that did not
        exist then are retired; singletons that did not are left, with a warning in the log. Without a reason it
        says what was rolled back to. Raises UnknownRevision, UnknownBlock, and InvalidValue naming every value
        that today's bounds refuse; then nothing is done.
        """
        names = [blocks] if isinstance(blocks, str) else list(blocks)
        if bool(names) == all:
            raise InvalidValue([Problem("blocks", "name the blocks to roll back, or ask for all of them")])
        revision = self._read(lambda connection: revision_at(connection, self._place, to))

        def write(connection: Connection) -> None:
            roll_back(connection, self._place, self._catalogue, None if all else names, revision)

        request = ["rollback", "*" if all else sorted(names), revision]
        return self._release(write, request, reason or f"rollback to revision {revision}", idempotency_key)

    def receipt(self, release: Release, timeout: float = 2.0) -> Receipt:
        """Who has a release: waits until every worker that is there has it or holds it back, at most `timeout` seconds.

        Needs a Redis URL. Raises SettingsError, UnknownRevision, Unavailable.
        """
        if (publisher := self._publisher) is None:
            raise SettingsError("CONFIGBUS_REDIS_URL is not set: workers say there what they have")
        age = self._read(lambda connection: age_of_release(connection, self._place, release.revision))
        return await_receipt(publisher.link, publisher.keys, release, age, timeout)

    def close(self) -> None:
        super().close()
        if self._publisher is not None:
            self._publisher.link.close()

    def _by_domain(self, changes: Mapping[str, Any]) -> dict[str, dict[str, Assignments]]:
        """What is to be put where: by domain, then key."""
        found: dict[str, dict[str, Assignments]] = {}
        for path, value in changes.items():
            block, parts = split_path(path)
            domain, key = self._locate(block)
            self._catalogue.require_field(domain, parts[0] if parts else "", block)
            found.setdefault(domain.name, {}).setdefault(key, []).append((parts, value))
        return found

    def _below(self, domain: Domain, path: str, value: Any) -> tuple[list[str], Any]:
        parts = path.split(".")
        self._catalogue.require_field(domain, parts[0])
        return parts, value

    def _put(self, connection: Connection, domain: Domain, given: dict[str, Assignments]) -> list[Problem]:
        """Replace the active rows of a domain's blocks by key, where values differ; what forbids it."""
        active = versions.lock_active(connection, self._place, domain, list(given))
        found: list[Problem] = []
        replaced, rows = [], []
        for key in sorted(given):
            if (row := active.get(key)) is None:
                raise versions.no_active_row(connection, self._place, domain, key)
            try:
                block = with_values(domain, row.block, row.texts, given[key])
            except InvalidValue as error:
                found += error.problems
                continue
            if not same(block, valid_content(domain, row.texts)):
                texts = put_texts(domain, row.texts, block, given[key])
                replaced.append(row.id)
                rows.append(NewRow(key, row.version + 1, texts, row.name, row.description))
        if not found:
            versions.replace_active(connection, self._place, domain, replaced, rows)
        return found

    def _base(
        self, connection: Connection, domain: Domain, block: str, base: str | UUID | None
    ) -> tuple[int, dict[str, str]]:
        """Version and content that a draft begins with."""
        key = split_block(block)[1]
        active = versions.find_active(connection, self._place, domain, key) if base in (None, "active") else None
        if active is not None:
            return active.version, dict(active.texts)
        if base == "active" or (base is None and not domain.keyed):
            raise versions.no_active_row(connection, self._place, domain, key)
        if base in (None, "default"):
            newest_head(connection, self._place)
            row = versions.default_row(connection, self._place, domain, key)
            if row is not None:
                return row.version, dict(row.texts)
            former = versions.former_rows(connection, self._place, domain, [key])
            return former[key].version if key in former else 0, default_texts(domain)
        row = self._row_of(connection, domain, base)
        return row.version, dict(row.texts)

    def _lock_draft(
        self, connection: Connection, row_id: str | UUID, expect: int | None, verb: str
    ) -> tuple[Domain, VersionRow]:
        """A draft, locked. Raises Conflict for a row of another status, or at another version than expected."""
        domain, row = versions.locate_row(connection, self._place, self._catalogue, row_id, lock=True)
        if row.status != "draft":
            raise Conflict(
                f"row {row.short_id} of {row.block} is {row.status}, and only a draft can be {verb}; "
                f"for a draft with its values: configbus draft {row.block} --from {row.short_id}"
            )
        if expect is not None and expect != row.version:
            raise Conflict(
                f"draft {row.short_id} of {row.block} is at version {row.version}, and version {expect} was expected; "
                f"{row.updated_by} changed it last: look at it, then try again"
            )
        return domain, row

    def _warn_of_undone(self, connection: Connection, draft: VersionRow, active: Mapping[str, VersionRow]) -> None:
        """Say which values that others made live since the draft was made go back to what they were before."""
        for row in active.values():
            if row.activated_at is None or row.activated_at <= draft.created_at:
                continue
            content = content_before(connection, self._place, row.block, draft.created_at)
            before = draft.texts if content is None else content.texts or {}
            undone = [
                field
                for field, text in row.texts.items()
                if text != before.get(field) and draft.texts.get(field) == before.get(field)
            ]
            if undone:
                log.warning(
                    "activation_undoes",
                    environment=self._place.environment,
                    block=row.block,
                    fields=", ".join(undone),
                    hint=f"others changed them since the draft was made: configbus diff {row.block} {row.short_id}",
                )

    def _transact(self, write: Callable[[Connection], T]) -> T:
        """Run writes that release nothing in a transaction of their own."""
        with translated(), self._engine.connect() as connection:

            def commit() -> T:
                with connection.begin() as transaction:
                    versions.begin_authoring(connection, self._settings.actor, None, publishes=False)
                    made = write(connection)
                    with answered(connection, SAME_CALL):
                        transaction.commit()
                return made

            return retried(commit)

    def _release(
        self, write: Callable[[Connection], None], request: list[Any], reason: str | None, key: str | None
    ) -> Release:
        """Run the writes in a transaction, publish what it released, and ring the bell for the relay."""
        _check_text("reason", reason or "")
        digest = digest_of_call(request, reason, key) if key is not None else ""
        with translated(), self._engine.connect() as connection:
            release, at = retried(lambda: self._commit(connection, write, reason, key, digest))
            if release is not None and self._publisher is not None:
                self._publish(connection, self._publisher, release)
            return at

    def _commit(
        self,
        connection: Connection,
        write: Callable[[Connection], None],
        reason: str | None,
        key: str | None,
        digest: str,
    ) -> tuple[Published | None, Release]:
        with connection.begin() as transaction:
            actor = self._settings.actor
            versions.begin_authoring(connection, actor, reason, publishes=self._publisher is not None)
            if key is not None and (made := earlier_call(connection, self._place, key, digest, actor)) is not None:
                return None, made
            write(connection)
            published = own_release(connection, self._place)
            head = published.head if published else newest_head(connection, self._place)
            names = tuple(entry.name for entry in published.entries) if published else ()
            release = Release(head.revision, head.epoch, names)
            if key is not None:
                conclude_call(connection, self._place, key, release)
            with answered(connection, SAME_CALL):
                transaction.commit()
        return published, release

    def _publish(self, connection: Connection, publisher: Publisher, release: Published) -> None:
        """Publish right after commit, then ring the bell. The release stands, whatever happens here."""
        with publisher.left_to_relay(release):
            if not publisher.publish(release):
                publisher.bring_up(connection)
        with publisher.left_to_relay(release), connection.begin():
            connection.execute(sql("SELECT {schema}.ring(:of)", self._place.schema), {"of": self._place.environment})


def _check_text(what: str, text: str) -> None:
    """Raises InvalidValue unless this is a text that Postgres can hold."""
    if not isinstance(as_value(text, what), str):
        raise InvalidValue([Problem(what, f"{text!r} is not a text")])
