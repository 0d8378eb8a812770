"""The publisher: brings Redis up to the head of Postgres, in order, whoever else does so at the same time.

Each step is one compare-and-set script, so that publishing is idempotent and several publishers
cannot harm each other. Release tables and Redis meet here and nowhere else.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from configbus.errors import Conflict, Superseded
from configbus.log import log
from configbus.publication import Verdict, judge
from configbus.store.releases import Published, newest_head, newest_state, releases_after
from configbus.wire import HEAD_FIELDS, Entry, Head, Keys, announcement, bookmark, entry_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from configbus.link import Link
    from configbus.store.connect import Place

BATCH = 100
REPLAY_LIMIT = 500
"""Missing releases beyond which the whole state is laid down instead."""
ATTEMPTS = 20
SCAN_COUNT = "1000"

SCRIPT = (Path(__file__).parent / "publish.lua").read_text(encoding="utf8")
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class Publisher:
    """Publishes one environment over one connection to Redis."""

    def __init__(self, link: Link, keys: Keys, place: Place) -> None:
        self.link = link
        self.keys = keys
        self._place = place

    def publish(self, release: Published) -> bool:
        """Publish one release, if Redis stands at the one before it; True if Redis holds it now.

        Raises Superseded if Redis follows a newer history, Unavailable if it does not answer.
        """
        answer, found = self._next(release)
        if answer == "published":
            return True
        verdict, head = judge(found, release.head)
        if verdict is Verdict.SUPERSEDED and head is not None:
            raise Superseded(release.head.epoch, head.epoch)
        return verdict is Verdict.DONE

    def bring_up(self, connection: Connection) -> Head:
        """Publish whatever is missing and return the head that Redis stands at or beyond.

        Raises Superseded, Unavailable, or Conflict where somebody else's data is in the way.
        """
        for _ in range(ATTEMPTS):
            with connection.begin():
                truth = newest_head(connection, self._place)
            found = self._found()
            verdict, head = judge(found, truth)
            match verdict:
                case Verdict.DONE:
                    return truth
                case Verdict.REPLAY if head is not None and truth.revision - head.revision <= REPLAY_LIMIT:
                    if not self._replay(connection, truth, head):
                        self._lay_down(connection, found)
                case Verdict.REPLAY | Verdict.LAY_DOWN:
                    self._lay_down(connection, found)
                case Verdict.SUPERSEDED if head is not None:
                    raise Superseded(truth.epoch, head.epoch)
                case _:
                    raise Conflict(f"{self.keys.head} cannot be published to: {verdict.value}")
        raise Conflict(f"{self.keys.head} changes faster than it can be published to")

    def _replay(self, connection: Connection, truth: Head, head: Head) -> bool:
        """Publish a batch of missing releases; False if what Redis holds is not what they build on."""
        with connection.begin():
            releases = releases_after(connection, self._place, truth, head.revision, BATCH)
        for release in releases:
            answer, found = self._next(release)
            if answer == "damaged":
                return False
            if answer != "published":
                return judge(found, release.head)[0] is not Verdict.REPLAY
        return True

    def _next(self, release: Published) -> tuple[str, dict[str, str]]:
        head = release.head
        expected = f"{head.bus}:{head.epoch}:{head.revision - 1}:{release.prev}"
        message = announcement(head, release.prev, release.at, release.entries)
        answer, found = self._run("next", expected, message, head, release.entries, [])
        if answer == "published":
            log.info(
                "release_published",
                environment=self.keys.environment,
                revision=head.revision,
                blocks=len(release.entries),
            )
        return answer, found

    def _lay_down(self, connection: Connection, found: dict[str, str]) -> None:
        state = newest_state(connection, self._place)
        names = {self.keys.block(entry.name) for entry in state.entries}
        stray = [key for key in self._block_keys() if key not in names]
        expected = (
            "\n".join(found.get(field, "") for field in HEAD_FIELDS) if "not a hash" not in found else "not a hash"
        )
        answer, _ = self._run("full", expected, bookmark(state.head, instant()), state.head, state.entries, stray)
        if answer == "published":
            log.warning(
                "state_laid_down",
                environment=self.keys.environment,
                revision=state.head.revision,
                blocks=len(state.entries),
                strays=len(stray),
            )

    def _run(
        self, mode: str, expected: str, message: str, head: Head, entries: Iterable[Entry], stray: list[str]
    ) -> tuple[str, dict[str, str]]:
        fields = [part for pair in (head.fields() | {"published_at": instant()}).items() for part in pair]
        arguments = [mode, expected, self.keys.channel, message, str(len(fields)), *fields]
        keys = [self.keys.head, self.keys.index]
        for entry in entries:
            pairs = [part for pair in entry_fields(entry).items() for part in pair]
            arguments += [entry.name, str(entry.mark), str(len(pairs)), *pairs]
            keys.append(self.keys.block(entry.name))
        answer, *found = self.link.script(SHA, SCRIPT, keys + stray, arguments)
        return answer.decode(), _head_fields(found)

    def _found(self) -> dict[str, str]:
        """The head's fields as they are; a single `not a hash` where the key is of another type."""
        kind, values = self.link.call(("TYPE", self.keys.head)), []
        if kind[0] in (b"hash", b"none"):
            (values,) = self.link.call(("HMGET", self.keys.head, *HEAD_FIELDS))
            return _head_fields(values)
        return {"not a hash": kind[0].decode()}

    def _block_keys(self) -> list[str]:
        cursor, found = b"0", []
        pattern = self.keys.block("*").translate({ord(mark): f"\\{mark}" for mark in "[]?"})
        while True:
            ((cursor, keys),) = self.link.call(("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT))
            found += [key.decode(errors="surrogateescape") for key in keys]
            if cursor == b"0":
                return found


def instant() -> str:
    """Now, as every time on the wire: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _head_fields(values: list[bytes | None]) -> dict[str, str]:
    texts = [(value or b"").decode(errors="replace") for value in values]
    if len(texts) != len(HEAD_FIELDS):
        return {"not a hash": ""}
    return dict(zip(HEAD_FIELDS, texts, strict=True)) if any(texts) else {}
