"""Comparing Redis with Postgres, field by field, and putting right what differs there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from configbus.publication import Verdict, differences, judge
from configbus.publisher import fields_of
from configbus.store.drift import record_repair
from configbus.store.releases import newest_head, newest_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from configbus.publication import Difference
    from configbus.publisher import Publisher
    from configbus.store.connect import Place
    from configbus.store.releases import FullState

CHUNK = 500
"""Blocks that are read from Redis in one transaction."""
RECORD_SECONDS = 60.0
"""Between two lines of the audit log about one block: something may damage it for ever, and the log only grows."""


class Repair:
    """Compares one environment and repairs it. The state of Postgres is read again only after a release."""

    def __init__(self, publisher: Publisher, place: Place) -> None:
        self._publisher = publisher
        self._place = place
        self._state: FullState | None = None
        self._recorded: dict[str, float] = {}

    def state(self, connection: Connection) -> FullState:
        """Everything that holds in Postgres now."""
        with connection.begin():
            head = newest_head(connection, self._place)
        if self._state is None or self._state.head != head:
            self._state = newest_state(connection, self._place)
        return self._state

    def compare(self, connection: Connection) -> list[Difference] | None:
        """What differs in Redis from Postgres; None where it does not stand where Postgres does. Raises Unavailable."""
        state = self.state(connection)
        if self._publisher.judge(self._publisher.look(), state.head)[0] is not Verdict.DONE:
            return None
        return self._compare(state)

    def _compare(self, state: FullState) -> list[Difference] | None:
        """None where Redis does not stand where this state does, any more; it must have stood there before."""
        entries = {entry.name: entry for entry in state.entries}
        head, index, blocks = self._read(list(entries))
        if judge(head, state.head, self._publisher.ring)[0] is not Verdict.DONE:
            return None
        return list(differences(state.head, entries, head, index, blocks, self._publisher.ring))

    def repair(self, connection: Connection) -> list[Difference] | None:
        """Put right what differs in Redis, record it in the audit log, and return what it was; None where a release
        came in between: then it is to be tried again soon.
        """
        state, found = self.state(connection), self._publisher.look()
        wrong = self._compare(state)
        if not wrong:
            return wrong
        entries = {entry.name: entry for entry in state.entries}
        damaged = [entries[name] for name in dict.fromkeys(difference.where for difference in wrong) if name in entries]
        whole = any(difference.where not in entries and not difference.renewal for difference in wrong)
        publisher = self._publisher
        if not (publisher.lay_down(connection, found) if whole else publisher.rewrite(state, damaged, found)):
            return None
        now = time.monotonic()
        due = [
            each
            for each in wrong
            if not each.renewal and now - self._recorded.get(each.where, -RECORD_SECONDS) >= RECORD_SECONDS
        ]
        self._recorded |= {each.where: now for each in due}
        with connection.begin():
            record_repair(connection, self._place, due, entries)
        return wrong

    def _read(self, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, str]]]:
        """Index and blocks, and then the head: while that is the same, so was all that was read before it."""
        keys = self._publisher.keys
        blocks: dict[str, dict[str, str]] = {}
        for first in range(0, len(names), CHUNK):
            chunk = names[first : first + CHUNK]
            commands = [("HGETALL", keys.block(name)) for name in chunk]
            *_, replies = self._publisher.link.call(("MULTI",), *commands, ("EXEC",))
            blocks |= zip(chunk, map(fields_of, replies), strict=True)
        *_, (index, head) = self._publisher.link.call(
            ("MULTI",), ("HGETALL", keys.index), ("HGETALL", keys.head), ("EXEC",)
        )
        return fields_of(head), fields_of(index), blocks
