"""Comparing Redis with Postgres, field by field, and putting right what differs there."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from configbus.publication import Verdict, differences, judge
from configbus.publisher import fields_of
from configbus.store.connect import begun
from configbus.store.drift import record_repair
from configbus.store.releases import advanced, newest_head, newest_state, releases_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection

    from configbus.publication import Difference
    from configbus.publisher import Publisher
    from configbus.store.connect import Place
    from configbus.store.releases import FullState
    from configbus.wire import Entry, Head

CHUNK = 500
"""Blocks that are read from Redis in one transaction."""
ATTEMPTS = 20
"""To find Redis and Postgres at one head while both go on."""
BATCH = 100
"""Releases behind the state that was read last, beyond which it is read anew as a whole."""
RECORD_SECONDS, RECORDS = 60.0, 20
"""Lines of the audit log about one block within that time: something may damage it for ever, and the log only grows."""


class Repair:
    """Compares one environment and repairs it. Postgres is read as a whole once, then release by release."""

    def __init__(self, publisher: Publisher, place: Place) -> None:
        self._publisher = publisher
        self._place = place
        self._state: FullState | None = None
        self._recorded: dict[tuple[str, int], float] = {}

    def state(self, connection: Connection) -> FullState:
        """Everything that holds in Postgres now."""
        with connection.begin():
            state = self._advanced(connection, newest_head(connection, self._place))
        self._state = state or newest_state(connection, self._place)
        return self._state

    def _state_of(self, connection: Connection, found: Mapping[str, str]) -> FullState | None:
        """What Postgres held at the head that was found in Redis; None where that is not of its history, or older than
        what was read already.
        """
        with connection.begin():
            newest = newest_head(connection, self._place)
            verdict, head = judge(found, newest, self._publisher.ring)
            if head is None or verdict not in (Verdict.DONE, Verdict.REPLAY):
                return None
            at = newest if verdict is Verdict.DONE else head
            state = self._advanced(connection, at)
        if state is None and (self._state is None or self._state.head.position < at.position):
            state = newest_state(connection, self._place)
        self._state = state or self._state
        return state if state is not None and state.head == at else None

    def _advanced(self, connection: Connection, head: Head) -> FullState | None:
        """The state at a head, from the one that was read last; None where no releases lead there."""
        state = self._state
        if state is None or state.head == head:
            return state
        return advanced(state, releases_after(connection, self._place, head, state.head.revision, BATCH), head)

    def compare(self, connection: Connection) -> list[Difference] | None:
        """What differs in Redis from Postgres; None where it does not stand where Postgres does. Raises Unavailable."""
        with connection.begin():
            newest = newest_head(connection, self._place)
        if self._publisher.judge(self._publisher.look(), newest)[0] is not Verdict.DONE:
            return None
        return self._differences(connection)

    def _differences(self, connection: Connection) -> list[Difference] | None:
        """The same while releases go on: Postgres as it was at the head in Redis; head and index are of one moment, and
        each block is judged only at the revision that the index gives it when it is read.
        """
        head, index = self._publisher.read_index()
        state = self._state_of(connection, head)
        if state is None:
            return None
        entries = {entry.name: entry for entry in state.entries}
        return list(differences(state.head, entries, head, index, self._read_blocks(entries), self._publisher.ring))

    def repair(self, connection: Connection) -> list[Difference] | None:
        """Put right what differs in Redis, record it in the audit log, and return what it was; None where releases came
        in between: then it is to be tried again soon.
        """
        wrong = self._differences(connection)
        if not wrong:
            return wrong
        blocks = {each.field if each.where == "@index" else each.where for each in wrong}
        index = any(each.where.startswith("@") and not each.renewal for each in wrong)
        for _ in range(ATTEMPTS):
            found = self._publisher.look()
            state = self._state_of(connection, found.fields)
            if state is not None and self._publisher.rewrite(state, blocks, found, index=index):
                self._record(connection, wrong, state)
                return wrong
        return None

    def _record(self, connection: Connection, wrong: list[Difference], state: FullState) -> None:
        """In the audit log: what was not recorded a short while ago."""
        now = time.monotonic()
        self._recorded = {each: at for each, at in self._recorded.items() if now - at < RECORD_SECONDS}
        lines = Counter(where for where, _ in {(where, at) for (where, _), at in self._recorded.items()})
        keys = {(each.where, hash(each)): each for each in wrong if not each.renewal and lines[each.where] < RECORDS}
        due = {key: each for key, each in keys.items() if key not in self._recorded}
        self._recorded |= dict.fromkeys(due, now)
        if not due:
            return
        with begun(connection):
            record_repair(connection, self._place, due.values(), {entry.name: entry for entry in state.entries})

    def _read_blocks(self, entries: Mapping[str, Entry]) -> dict[str, dict[str, str]]:
        """Of each block that stands in the index at its revision and digest, what its hash holds at that moment."""
        keys, names, blocks = self._publisher.keys, list(entries), dict[str, dict[str, str]]()
        for first in range(0, len(names), CHUNK):
            chunk = names[first : first + CHUNK]
            commands = [("HGETALL", keys.block(name)) for name in chunk]
            *_, (marks, *replies) = self._publisher.link.call(
                ("MULTI",), ("HMGET", keys.index, *chunk), *commands, ("EXEC",)
            )
            if isinstance(marks, Exception):
                continue
            for name, mark, reply in zip(chunk, marks, replies, strict=True):
                if mark == str(entries[name].mark).encode():
                    blocks[name] = fields_of(reply)
        return blocks
