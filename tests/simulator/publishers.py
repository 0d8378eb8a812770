"""Authors and publishers: the steps of the product's publisher, one by one, so that anything may come between."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from configbus.publication import Verdict, is_lost, judge
from configbus.wire import SEEN_FIELDS, Entry, Head, announcement, bookmark, entry_fields
from simulator.postgres import PostgresDown, instant
from simulator.server import KEYS, Broken, Line, Path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from random import Random

    from configbus.store.releases import FullState, Published
    from simulator.clock import Clock
    from simulator.postgres import Postgres
    from simulator.scripts import Script
    from simulator.server import Redis

T = TypeVar("T")
Steps = Generator[float, None, T]

BATCH = 2
REPLAY_LIMIT = 4
ATTEMPTS = 20


class Stopped(Exception):
    """Somebody else's data is in the way, or a newer history."""


class HistoryLost(Exception):
    """Redis holds what Postgres has lost."""

    def __init__(self, epoch: int, found_epoch: int) -> None:
        super().__init__(epoch, found_epoch)
        self.epoch = epoch
        self.found_epoch = found_epoch


@dataclass(frozen=True, slots=True)
class Found:
    """The head as Redis has it: what compare-and-set compares, and the fields that are there."""

    seen: str
    fields: dict[str, str]


class Publisher:
    """One connection to Redis, one to Postgres, and the means to bring Redis up, with a pause after each step."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        postgres: Postgres,
        redis: Redis,
        pause: Callable[[], float],
        script: Script,
    ) -> None:
        self.redis = redis
        self.line: Line | None = None
        self.path = Path()
        self.stopped_until = 0.0
        self.cut_from_postgres_until = 0.0
        self.server = postgres
        self._clock = clock
        self._random = random
        self._pause = pause
        self._script = script

    @property
    def postgres(self) -> Postgres:
        """Raises PostgresDown."""
        now = self._clock.now
        if now < self.cut_from_postgres_until or not self.server.answers(now):
            raise PostgresDown
        return self.server

    def pause(self) -> float:
        """Seconds to the next step; one that is to be stopped stops at any of its steps."""
        stopped = self.stopped_until - self._clock.now
        return stopped if stopped > 0 and self._random.random() < 0.4 else self._pause()

    def reach(self) -> None:
        """A new connection only where none was known to be open; Broken is told once for each that broke."""
        if self.line is None:
            self.line = self.redis.connect(Line(self.path))
        try:
            self.redis.reach(self.line)
        except Broken:
            self._close(self.line)
            raise

    def ask(self) -> None:
        """Broken, if a question asked now would not be answered."""
        self.reach()
        if self.redis.hangs and self.line is not None:
            self._close(self.line)
            raise Broken("no answer in time")

    def run(self, script: Script, keys: list[str], arguments: list[str]) -> list[str]:
        self.reach()
        try:
            return self.redis.run(script, keys, arguments)
        except Broken:
            if self.line is not None:
                self._close(self.line)
            raise

    def _close(self, line: Line) -> None:
        self.redis.drop(line)
        self.line = None

    def publish(self, release: Published) -> Steps[bool]:
        answer, found = yield from self._next(release)
        if answer == "published":
            return True
        return judge(found.fields, release.head)[0] in (Verdict.DONE, Verdict.AHEAD)

    def bring_up(self) -> Steps[Head]:
        due: Head | None = None
        for _ in range(ATTEMPTS):
            found = self.look()
            yield self.pause()
            truth, timeline = self.postgres.head, self.postgres.timeline
            verdict, head = judge(found.fields, truth)
            then = self.postgres.state_at(head.revision) if head is not None else ""
            yield self.pause()
            if head is not None and is_lost(verdict, head, truth, timeline, then):
                raise HistoryLost(truth.epoch, head.epoch)
            due = due or truth
            match verdict:
                case Verdict.DONE:
                    return truth
                case Verdict.REPLAY if head is not None and head.position >= due.position:
                    return head
                case Verdict.REPLAY if head is not None and truth.revision - head.revision <= REPLAY_LIMIT:
                    if not (yield from self._replay(truth, head)):
                        yield from self.lay_down(found)
                case Verdict.REPLAY | Verdict.LAY_DOWN:
                    yield from self.lay_down(found)
                case _:
                    raise Stopped(verdict.value)
        raise Stopped("the head changes faster than it can be published to")

    def _replay(self, truth: Head, head: Head) -> Steps[bool]:
        for release in self.postgres.releases_after(truth, head.revision, BATCH):
            answer, found = yield from self._next(release)
            if answer == "damaged":
                return False
            if answer != "published":
                return judge(found.fields, release.head)[0] in (Verdict.DONE, Verdict.AHEAD)
        return True

    def _next(self, release: Published) -> Steps[tuple[str, Found]]:
        head = release.head
        expected = f"{head.bus}:{head.epoch}:{head.revision - 1}:{release.prev}"
        if head in self.server.record.large:
            message = bookmark(head, release.at)
        else:
            message = announcement(head, release.prev, release.at, release.entries)
        return (yield from self._run("next", expected, message, head, release.entries, []))

    def lay_down(self, found: Found) -> Steps[bool]:
        """Replace everything, unless the head is not the one that was found any more."""
        yield self.pause()
        state = self.postgres.newest()
        if judge(found.fields, state.head)[0] in (Verdict.AHEAD, Verdict.DIVERGED, Verdict.SUPERSEDED):
            return False
        yield self.pause()
        self.ask()
        names = {KEYS.block(entry.name) for entry in state.entries}
        stray = [key for key in self.redis.data if key.startswith(KEYS.block("")) and key not in names]
        message = bookmark(state.head, instant(self._clock.now), repaired=True)
        answer, _ = yield from self._run("full", found.seen, message, state.head, state.entries, stray)
        return answer == "published"

    def rewrite(self, state: FullState, damaged: Collection[str], found: Found, *, index: bool) -> Steps[bool]:
        """These blocks anew at the same position, or head and index, too."""
        message = bookmark(state.head, instant(self._clock.now), repaired=True)
        entries = [entry for entry in state.entries if index or entry.name in damaged]
        mode = "index" if index else "repair"
        stray = sorted({KEYS.block(name) for name in damaged} - {KEYS.block(entry.name) for entry in entries})
        given = (mode, found.seen, message, state.head, entries, stray if index else [], damaged)
        answer, _ = yield from self._run(*given)
        return answer == "published"

    def _run(
        self,
        mode: str,
        expected: str,
        message: str,
        head: Head,
        entries: Iterable[Entry],
        stray: list[str],
        whole: Collection[str] | None = None,
    ) -> Steps[tuple[str, Found]]:
        pairs = head.fields() | {"published_at": instant(self._clock.now)}
        arguments = [mode, expected, KEYS.channel, message, str(2 * len(pairs)), *_flat(pairs)]
        keys = [KEYS.head, KEYS.index]
        for entry in entries:
            fields = _flat(entry_fields(entry)) if whole is None or entry.name in whole else []
            arguments += [entry.name, str(entry.mark), str(len(fields)), *fields]
            keys.append(KEYS.block(entry.name))
        answer, *found = self.run(self._script, keys + stray, arguments)
        yield self.pause()
        return answer, _found(found)

    def look(self) -> Found:
        self.ask()
        head = self.redis.data.get(KEYS.head, {})
        return _found([head.get(field) for field in SEEN_FIELDS] if isinstance(head, dict) else [])


def author(publisher: Publisher, release: Published, random: Random) -> Steps[None]:
    """What an author does after the commit: publish once, else bring Redis up; now and then it dies instead."""
    if random.random() < 0.3:
        return
    yield publisher.pause()
    try:
        if not (yield from publisher.publish(release)):
            yield from publisher.bring_up()
    except (Broken, PostgresDown, Stopped, HistoryLost):
        return


def _flat(pairs: Mapping[str, str]) -> list[str]:
    return [part for pair in pairs.items() for part in pair]


def _found(values: Sequence[str | None]) -> Found:
    if len(values) != len(SEEN_FIELDS):
        return Found("not a hash", {"head": "not a hash"})
    present = {field: value for field, value in zip(SEEN_FIELDS, values, strict=True) if value is not None}
    return Found("\n".join(value or "" for value in values), present)
