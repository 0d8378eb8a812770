"""Relays: the steps of the product's relay and of its repair, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configbus.publication import Verdict, differences, judge
from configbus.relay import COMPARE_SECONDS, LOOK_SECONDS, PAUSE_SECONDS, RAISES, STAMP_SECONDS
from configbus.repair import ATTEMPTS
from configbus.store.releases import advanced
from configbus.wire import bookmark
from simulator.postgres import PostgresDown, instant
from simulator.publishers import BATCH, HistoryLost, Publisher, Steps, Stopped
from simulator.server import KEYS, Broken

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.publication import Difference
    from configbus.store.releases import FullState
    from configbus.wire import Head
    from simulator.clock import Clock
    from simulator.scripts import Script


class Relay:
    """Looks at Postgres, brings Redis up, stamps its head, compares and repairs, for ever or until it is ended."""

    def __init__(self, clock: Clock, publisher: Publisher, stamp: Script, tell: Callable[..., None]) -> None:
        self.publisher = publisher
        self.ended = False
        self._clock = clock
        self._stamp_script = stamp
        self._tell = tell
        self._published: Head | None = None
        self._state: FullState | None = None
        self._raised = 0

    def run(self) -> Steps[None]:
        while not self.ended:
            try:
                yield from self._serve()
            except (PostgresDown, Stopped, Broken):
                yield PAUSE_SECONDS

    def _serve(self) -> Steps[None]:
        stamp_at = compare_at = 0.0
        while not self.ended:
            try:
                yield from self._look()
                if self._clock.now >= stamp_at:
                    stamp_at = self._clock.now + STAMP_SECONDS
                    yield self.publisher.pause()
                    yield from self.stamp()
                if self._clock.now >= compare_at:
                    yield self.publisher.pause()
                    yield from self.repair()
                    compare_at = self._clock.now + COMPARE_SECONDS
            except Broken:
                self._published = None
            yield LOOK_SECONDS

    def _look(self) -> Steps[None]:
        if self.publisher.postgres.head != self._published:
            try:
                self._published = yield from self.publisher.bring_up()
            except HistoryLost as lost:
                self.begin_epoch(lost)

    def begin_epoch(self, lost: HistoryLost) -> None:
        if self._raised >= RAISES:
            raise Stopped("too many new epochs")
        if self.publisher.postgres.raise_epoch(self._clock.now, lost.epoch, lost.found_epoch):
            self._tell("relay", "epoch raised", self.publisher.postgres.head.position)
        self._raised += 1

    def read(self) -> Steps[tuple[int, dict[str, str], Head]]:
        """Redis' clock and head first, then Postgres."""
        self.publisher.ask()
        asof = self.publisher.redis.time
        found = self.publisher.look()
        yield self.publisher.pause()
        return asof, found.fields, self.publisher.postgres.head

    def is_own(self, found: dict[str, str], head: Head) -> Steps[bool]:
        """Whether what is in Redis is what Postgres holds, or is so once it has caught up: nothing else is stamped."""
        verdict, _ = judge(found, head)
        if verdict is not Verdict.REPLAY:
            return verdict is Verdict.DONE
        self._published = None
        yield from self._look()
        now = self._published
        return now is not None and now.epoch == head.epoch and now.revision >= head.revision

    def stamp(self) -> Steps[None]:
        """The stamp goes over the connection that the clock came from, or not at all."""
        publisher = self.publisher
        asof, found, head = yield from self.read()
        yield publisher.pause()
        if not (yield from self.is_own(found, head)):
            self._published = None
            return
        message = bookmark(head, instant(self._clock.now))
        arguments = [str(asof), head.bus, str(head.epoch), str(head.revision), head.state, KEYS.channel, message]
        if publisher.run(self._stamp_script, [KEYS.head], arguments) != ["stamped"]:
            self._published = None

    def repair(self) -> Steps[None]:
        publisher = self.publisher
        wrong = yield from self._differences()
        if not wrong:
            return
        blocks = {each.field if each.where == "@index" else each.where for each in wrong}
        index = any(each.where.startswith("@") for each in wrong)
        for _ in range(ATTEMPTS):
            found = publisher.look()
            yield publisher.pause()
            state = yield from self._state_of(found.fields)
            if state is not None and (yield from publisher.rewrite(state, blocks, found, index=index)):
                self._tell("relay", "repaired", [f"{difference.where} {difference.field}" for difference in wrong])
                return

    def _state_of(self, found: dict[str, str]) -> Steps[FullState | None]:
        """What Postgres held at the head that was found in Redis; None where that is not of its history."""
        newest = self.publisher.postgres.head
        verdict, head = judge(found, newest)
        if head is None or verdict not in (Verdict.DONE, Verdict.REPLAY):
            return None
        at = newest if verdict is Verdict.DONE else head
        state = self._advanced(at)
        yield self.publisher.pause()
        if state is None and (self._state is None or self._state.head.position < at.position):
            state = self.publisher.postgres.newest()
        self._state = state or self._state
        return state if state is not None and state.head == at else None

    def _advanced(self, head: Head) -> FullState | None:
        state = self._state
        if state is None or state.head == head:
            return state
        return advanced(state, self.publisher.postgres.releases_after(head, state.head.revision, BATCH), head)

    def _differences(self) -> Steps[list[Difference] | None]:
        """Head and index of one moment; each block at the mark that the index has for it when it is read."""
        publisher = self.publisher
        publisher.ask()
        index, head = self._fields(KEYS.index), self._fields(KEYS.head)
        yield publisher.pause()
        state = yield from self._state_of(head)
        if state is None:
            return None
        entries = {entry.name: entry for entry in state.entries}
        blocks: dict[str, dict[str, str]] = {}
        for name, entry in entries.items():
            yield publisher.pause()
            publisher.ask()
            if self._fields(KEYS.index).get(name) == str(entry.mark):
                blocks[name] = self._fields(KEYS.block(name))
        return list(differences(state.head, entries, head, index, blocks))

    def _fields(self, key: str) -> dict[str, str]:
        found = self.publisher.redis.data.get(key, {})
        return dict(found) if isinstance(found, dict) else {"": "not a hash"}
