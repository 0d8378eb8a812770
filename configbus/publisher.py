"""The publisher: brings Redis up to the head of Postgres, in order, whoever else does so at the same time.

Each step is one compare-and-set script, so that publishing is idempotent and several publishers
cannot harm each other. Release tables and Redis meet here and nowhere else.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configbus.errors import ConfigBusError, Conflict, HistoryLost, Superseded
from configbus.log import log
from configbus.publication import Verdict, fault_of, is_lost, judge
from configbus.store.connect import translated
from configbus.store.releases import (
    FullState,
    Published,
    newest_head,
    newest_state,
    releases_after,
    state_at,
    timeline_of,
)
from configbus.wire import (
    SEEN_FIELDS,
    Entry,
    Head,
    Keys,
    Malformed,
    Position,
    announcement,
    bookmark,
    entry_fields,
    of_database,
    read_head,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from sqlalchemy import Connection

    from configbus.link import Link
    from configbus.signing import Keyring
    from configbus.store.connect import Place

BATCH = 100
REPLAY_LIMIT = 500
"""Missing releases beyond which the whole state is laid down instead."""
ATTEMPTS = 20
SCAN_COUNT = "1000"

SCRIPT = (Path(__file__).parent / "publish.lua").read_text(encoding="utf8")
SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Found:
    """The head as Redis has it: the very bytes, for compare-and-set, and the fields, empty where there is none."""

    seen: bytes
    fields: dict[str, str]


class Publisher:
    """Publishes one environment over one connection to Redis, signed where there are keys for that."""

    def __init__(self, link: Link, keys: Keys, place: Place, ring: Keyring | None = None) -> None:
        self.link = link
        self.keys = keys
        self.ring = ring
        self._database = link.database
        self._place = place

    def judge(self, found: Found, truth: Head) -> tuple[Verdict, Head | None]:
        """The verdict on a head that was found, and the head if it is a whole one."""
        return judge(found.fields, truth, self.ring)

    def is_ours(self, found: Found) -> bool:
        """Whether this process may write over a head: not without keys over one that is signed."""
        return self.ring is not None or not found.fields.get("signature")

    def bookmark(self, head: Head) -> str:
        """The message that says only where the head is."""
        return self._signed(bookmark(head, instant()))

    def publish(self, release: Published) -> bool:
        """Publish one release, if Redis stands at the one before it; True if Redis holds it now. Raises Unavailable."""
        answer, found = self._next(release)
        if answer == "published":
            return True
        return self.judge(found, release.head)[0] in (Verdict.DONE, Verdict.AHEAD)

    @contextmanager
    def left_to_relay(self, release: Published) -> Iterator[None]:
        """What fails after a commit is logged, never raised; only that this Postgres is superseded must be told."""
        logger = log.bind(environment=self.keys.environment, revision=release.head.revision)
        try:
            with translated():
                yield
        except Superseded:
            raise
        except ConfigBusError as error:
            logger.warning("publish_left_to_relay", reason=str(error))
        except Exception:
            logger.exception("publish_left_to_relay")

    def bring_up(self, connection: Connection) -> Head:
        """Publish whatever was missing when it was called, and return the head that Redis stands at: releases that come
        meanwhile are left to the next call.

        Raises Superseded, HistoryLost, Unavailable, or Conflict where somebody else's data is in the way.
        """
        due: Head | None = None
        for _ in range(ATTEMPTS):
            found = self.look()
            with connection.begin():
                truth = newest_head(connection, self._place)
                timeline = timeline_of(connection, self._place)
                verdict, head = self.judge(found, truth)
                then = state_at(connection, self._place, head) if head is not None else ""
            if head is not None and is_lost(verdict, head, truth, timeline, then):
                raise HistoryLost(truth.epoch, truth.revision, head.epoch, head.revision)
            if not self.is_ours(found):
                raise Conflict(
                    f"{self.keys.head} is signed, and CONFIGBUS_SIGNING_KEYS is not set here: a relay that has the keys"
                    f" publishes. To go on without signatures: redis-cli HDEL {self.keys.head!r} signature"
                )
            due = due or truth
            match verdict:
                case Verdict.DONE:
                    return truth
                case Verdict.REPLAY if head is not None and head.position >= due.position:
                    return head
                case Verdict.REPLAY if head is not None and truth.revision - head.revision <= REPLAY_LIMIT:
                    if not self._replay(connection, truth, head):
                        self.lay_down(connection, found)
                case Verdict.REPLAY | Verdict.LAY_DOWN:
                    self.lay_down(connection, found)
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
                return self.judge(found, release.head)[0] in (Verdict.DONE, Verdict.AHEAD)
        return True

    def _next(self, release: Published) -> tuple[str, Found]:
        head, index = release.head, dict[str, str]()
        if self.ring is not None:
            before, index = self.read_index()
            try:
                if (behind := read_head(before)).position != Position(head.epoch, head.revision - 1):
                    return "not yet", Found(b"", before)
                self.ring.check_index(behind, before, index)
            except Malformed:
                return "damaged", Found(b"", before)
            index |= {entry.name: str(entry.mark) for entry in release.entries}
        expected = f"{head.bus}:{head.epoch}:{head.revision - 1}:{release.prev}{':signed' if self.ring else ''}"
        message = self._signed(announcement(head, release.prev, release.at, release.entries))
        answer, found = self._run("next", expected.encode(), message, head, release.entries, [], release.chain, index)
        if answer == "published":
            log.info(
                "release_published",
                environment=self.keys.environment,
                revision=head.revision,
                blocks=len(release.entries),
            )
        return answer, found

    def lay_down(self, connection: Connection, found: Found) -> bool:
        """Replace everything with the newest state, unless the head is not the one that was found any more."""
        state = newest_state(connection, self._place)
        if self.judge(found, state.head)[0] in (Verdict.AHEAD, Verdict.DIVERGED, Verdict.SUPERSEDED):
            return False
        names = {self.keys.block(entry.name).encode() for entry in state.entries}
        stray = [key for key in self._block_keys() if key not in names]
        answer = self._lay("full", state, state.entries, found, stray)
        if answer == "published":
            log.warning(
                "state_laid_down",
                environment=self.keys.environment,
                revision=state.head.revision,
                blocks=len(state.entries),
                strays=len(stray),
                reason=fault_of(found.fields, self.ring),
            )
        return answer == "published"

    def rewrite(self, state: FullState, damaged: Collection[str], found: Found, *, index: bool) -> bool:
        """Lay down these blocks of a state anew, with `index` also head and index, and away with those of them that are
        not in it, unless the head is not the one that was found any more.
        """
        entries = [entry for entry in state.entries if index or entry.name in damaged]
        if not index:
            return self._lay("repair", state, entries, found, [], damaged) == "published"
        stray = {self.keys.block(name).encode() for name in damaged}
        stray -= {self.keys.block(entry.name).encode() for entry in entries}
        return self._lay("index", state, entries, found, sorted(stray), damaged) == "published"

    def _lay(
        self,
        mode: str,
        state: FullState,
        entries: Iterable[Entry],
        found: Found,
        stray: list[bytes],
        whole: Collection[str] | None = None,
    ) -> str:
        """Lay down what was damaged; workers that took something else look again."""
        message = self._signed(bookmark(state.head, instant(), repaired=True))
        index = {entry.name: str(entry.mark) for entry in state.entries}
        return self._run(mode, found.seen, message, state.head, entries, stray, state.chain, index, whole)[0]

    def read_index(self) -> tuple[dict[str, str], dict[str, str]]:
        """Head and index of one moment."""
        *_, (head, index) = self.link.call(
            ("MULTI",), ("HGETALL", self.keys.head), ("HGETALL", self.keys.index), ("EXEC",)
        )
        return fields_of(head), fields_of(index)

    def _run(
        self,
        mode: str,
        expected: bytes,
        message: str,
        head: Head,
        entries: Iterable[Entry],
        stray: list[bytes],
        chain: str,
        index: Mapping[str, str],
        whole: Collection[str] | None = None,
    ) -> tuple[str, Found]:
        """Of entries that are not `whole` the index alone is written; None: all are."""
        facts = head.fields() | {"published_at": instant(), "chain": chain}
        if self.ring is not None:
            facts |= {"signature": self.ring.of_head(head), "index_signature": self.ring.of_index(head, chain, index)}
        fields = [part for pair in facts.items() for part in pair]
        arguments: list[str | bytes] = [mode, expected, self.keys.channel, message, str(len(fields)), *fields]
        keys: list[str | bytes] = [self.keys.head, self.keys.index]
        for entry in entries:
            content = entry_fields(entry) if whole is None or entry.name in whole else {}
            if content and self.ring is not None:
                content["@signature"] = self.ring.of_block(head.bus, entry)
            pairs = [part for pair in content.items() for part in pair]
            arguments += [entry.name, str(entry.mark), str(len(pairs)), *pairs]
            keys.append(self.keys.block(entry.name))
        answer, *found = self.link.script(SHA, SCRIPT, [*keys, *stray], arguments)
        return answer.decode(), _found(found)

    def look(self) -> Found:
        """The head as Redis has it now."""
        ((kind,), values, needs) = self.link.call(("TYPE", self.keys.head)), [], None
        if kind in (b"hash", b"none"):
            ((*values, needs),) = self.link.call(("HMGET", self.keys.head, *SEEN_FIELDS, "needs"))
        return _found(values, needs)

    def _signed(self, message: str) -> str:
        message = of_database(message, self._database)
        return message if self.ring is None else self.ring.signed(message)

    def _block_keys(self) -> list[bytes]:
        cursor, found = b"0", list[bytes]()
        pattern = self.keys.block("*")
        while True:
            ((cursor, keys),) = self.link.call(("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT))
            found += keys
            if cursor == b"0":
                return found


def fields_of(reply: Any) -> dict[str, str]:
    """A hash as text; what is none has one field that says so."""
    if isinstance(reply, Exception):
        return {"": "not a hash"}
    texts = [part.decode(errors="replace") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def instant() -> str:
    """Now, as every time on the wire: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _found(values: list[bytes | None], needs: bytes | None = None) -> Found:
    """What HMGET or the script brought; anything but all the fields means that the key is no hash."""
    if len(values) != len(SEEN_FIELDS):
        return Found(b"not a hash", {"head": "not a hash"})
    present = {field: value for field, value in zip(SEEN_FIELDS, values, strict=True) if value is not None}
    fields = {field: value.decode(errors="replace") for field, value in present.items()}
    if needs is not None:
        fields["needs"] = needs.decode(errors="replace")
    return Found(b"\n".join(value or b"" for value in values), fields)
