"""Authors and relays: the steps of the product's publisher and relay, one by one, so that anything may come between."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, TypeVar

from configbus.publication import Verdict, judge
from configbus.relay import LOOK_SECONDS, PAUSE_SECONDS, STAMP_SECONDS
from configbus.wire import HEAD_FIELDS, Entry, Head, announcement, bookmark, entry_fields
from simulator.postgres import instant
from simulator.server import KEYS, Broken, Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from random import Random

    from configbus.store.releases import Published
    from simulator.clock import Clock
    from simulator.postgres import Postgres
    from simulator.scripts import Script
    from simulator.server import Redis

T = TypeVar("T")
Steps = Generator[float, None, T]

BATCH = 2
REPLAY_LIMIT = 4
ATTEMPTS = 20

NOT_A_HASH = {"not a hash": ""}


class Stopped(Exception):
    """Somebody else's data is in the way, or a newer history."""


class Publisher:
    """One connection to Redis and the means to bring Redis up to Postgres, with a pause after each step."""

    def __init__(
        self,
        clock: Clock,
        random: Random,
        postgres: Postgres,
        redis: Redis,
        pause: Callable[[], float],
        script: Script,
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self.line: Line | None = None
        self.stopped_until = 0.0
        self._clock = clock
        self._random = random
        self._pause = pause
        self._script = script

    def pause(self) -> float:
        """Seconds to the next step; one that is to be stopped stops at any of its steps."""
        stopped = self.stopped_until - self._clock.now
        return stopped if stopped > 0 and self._random.random() < 0.4 else self._pause()

    def reach(self) -> None:
        """A new connection only where none was known to be open; Broken is told once for each that broke."""
        if self.line is None:
            self.line = self.redis.connect()
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
        verdict, _ = judge(found, release.head)
        if verdict is Verdict.SUPERSEDED:
            raise Stopped(verdict.value)
        return verdict is Verdict.DONE

    def bring_up(self) -> Steps[Head]:
        for _ in range(ATTEMPTS):
            truth = self.postgres.head
            yield self.pause()
            self.ask()
            found = self._found()
            yield self.pause()
            verdict, head = judge(found, truth)
            match verdict:
                case Verdict.DONE:
                    return truth
                case Verdict.REPLAY if head is not None and truth.revision - head.revision <= REPLAY_LIMIT:
                    if not (yield from self._replay(truth, head)):
                        yield from self._lay_down(found)
                case Verdict.REPLAY | Verdict.LAY_DOWN:
                    yield from self._lay_down(found)
                case _:
                    raise Stopped(verdict.value)
        raise Stopped("the head changes faster than it can be published to")

    def _replay(self, truth: Head, head: Head) -> Steps[bool]:
        for release in self.postgres.releases_after(truth, head.revision, BATCH):
            answer, found = yield from self._next(release)
            if answer == "damaged":
                return False
            if answer != "published":
                return judge(found, release.head)[0] is not Verdict.REPLAY
        return True

    def _next(self, release: Published) -> Steps[tuple[str, dict[str, str]]]:
        head = release.head
        expected = f"{head.bus}:{head.epoch}:{head.revision - 1}:{release.prev}"
        if head.position in self.postgres.large:
            message = bookmark(head, release.at)
        else:
            message = announcement(head, release.prev, release.at, release.entries)
        return (yield from self._run("next", expected, message, head, release.entries, []))

    def _lay_down(self, found: Mapping[str, str]) -> Steps[None]:
        state = self.postgres.newest()
        yield self.pause()
        names = {KEYS.block(entry.name) for entry in state.entries}
        stray = [key for key in self.redis.data if key.startswith(KEYS.block("")) and key not in names]
        expected = "\n".join(found.get(field, "") for field in HEAD_FIELDS) if found != NOT_A_HASH else "not a hash"
        message = bookmark(state.head, instant(self._clock.now))
        yield from self._run("full", expected, message, state.head, state.entries, stray)

    def _run(
        self, mode: str, expected: str, message: str, head: Head, entries: Iterable[Entry], stray: list[str]
    ) -> Steps[tuple[str, dict[str, str]]]:
        pairs = head.fields() | {"published_at": instant(self._clock.now)}
        arguments = [mode, expected, KEYS.channel, message, str(2 * len(pairs)), *_flat(pairs)]
        keys = [KEYS.head, KEYS.index]
        for entry in entries:
            fields = _flat(entry_fields(entry))
            arguments += [entry.name, str(entry.mark), str(len(fields)), *fields]
            keys.append(KEYS.block(entry.name))
        answer, *found = self.run(self._script, keys + stray, arguments)
        yield self.pause()
        return answer, _head_fields(found)

    def _found(self) -> dict[str, str]:
        head = self.redis.data.get(KEYS.head, {})
        return _head_fields([head.get(field, "") for field in HEAD_FIELDS]) if isinstance(head, dict) else NOT_A_HASH


def author(publisher: Publisher, release: Published, random: Random) -> Steps[None]:
    """What an author does after the commit: publish once, else bring Redis up; now and then it dies instead."""
    if random.random() < 0.3:
        return
    yield publisher.pause()
    try:
        if not (yield from publisher.publish(release)):
            yield from publisher.bring_up()
    except (Broken, Stopped):
        return


class Relay:
    """Looks at Postgres, brings Redis up, stamps its head, for ever."""

    def __init__(self, clock: Clock, publisher: Publisher, stamp: Script) -> None:
        self.publisher = publisher
        self._clock = clock
        self._stamp_script = stamp
        self._published: Head | None = None

    def run(self) -> Steps[None]:
        stamp_at = 0.0
        while True:
            try:
                if self.publisher.postgres.head != self._published:
                    self._published = yield from self.publisher.bring_up()
                if self._clock.now >= stamp_at:
                    stamp_at = self._clock.now + STAMP_SECONDS
                    yield self.publisher.pause()
                    yield from self.stamp()
            except Broken:
                self._published = None
            except Stopped:
                yield PAUSE_SECONDS
            yield LOOK_SECONDS

    def read(self) -> Steps[tuple[int, Head]]:
        """Redis' clock first, then Postgres."""
        self.publisher.ask()
        asof = self.publisher.redis.time
        yield self.publisher.pause()
        return asof, self.publisher.postgres.head

    def stamp(self) -> Steps[None]:
        """The stamp goes over the connection that the clock came from, or not at all."""
        publisher = self.publisher
        asof, head = yield from self.read()
        yield publisher.pause()
        message = bookmark(head, instant(self._clock.now))
        arguments = [str(asof), head.bus, str(head.epoch), str(head.revision), head.state, KEYS.channel, message]
        if publisher.run(self._stamp_script, [KEYS.head], arguments) != ["stamped"]:
            self._published = None


def _flat(pairs: Mapping[str, str]) -> list[str]:
    return [part for pair in pairs.items() for part in pair]


def _head_fields(values: list[str]) -> dict[str, str]:
    if len(values) != len(HEAD_FIELDS):
        return NOT_A_HASH
    return dict(zip(HEAD_FIELDS, values, strict=True)) if any(values) else {}
