"""Publishers, relays and scripts with one defence taken away each; the product knows no such switch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from configbus.wire import bookmark
from simulator import scripts
from simulator.postgres import instant
from simulator.publishers import HistoryLost, Publisher, Steps, Stopped
from simulator.relays import Relay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from configbus.store.releases import Published
    from configbus.wire import Head
    from simulator.scripts import Answer, Data


DIGITS = 10


class CounterInRedis(Publisher):
    """Numbers what it publishes by what it finds in Redis, not by Postgres' revision."""

    def publish(self, release: Published) -> Steps[bool]:
        del release
        yield from self.bring_up()
        return True

    def bring_up(self) -> Steps[Head]:
        found = self.look()
        yield self.pause()
        state = self.postgres.newest()
        if found.fields.get("state") != state.head.state:
            last = found.fields.get("revision", "")
            head = replace(state.head, revision=int(last) + 1 if last.isdecimal() and len(last) < DIGITS else 1)
            yield from self._run("full", found.seen, bookmark(head, instant(0.0)), head, state.entries, [])
        return state.head


class ClockAfterPostgres(Relay):
    def read(self) -> Steps[tuple[int, dict[str, str], Head]]:
        head = self.publisher.postgres.head
        yield self.publisher.pause()
        found = self.publisher.look()
        return self.publisher.redis.time, found.fields, head


class StampsAnything(Relay):
    def is_own(self, found: dict[str, str], head: Head) -> Steps[bool]:
        del found, head
        yield from ()
        return True


class NoRepair(Relay):
    def repair(self) -> Steps[None]:
        yield from ()


class NoNewEpoch(Relay):
    def begin_epoch(self, lost: HistoryLost) -> None:
        raise Stopped(str(lost))


def stamp_whatever_is_there(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    head = data.get(keys[0])
    if not isinstance(head, dict):
        return ["no head"], []
    head["asof"] = arguments[0]
    return ["stamped"], [arguments[6]]


def stamp_in_silence(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    """No bookmark."""
    answer, _ = scripts.stamp(data, keys, arguments)
    return answer, []


def publish_over_anything(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    """No compare-and-set: what is expected is what is there."""
    answer, messages = scripts.publish(data, keys, arguments)
    if answer[0] != "not yet":
        return answer, messages
    found = answer[1:]
    expected = ":".join((found[0], found[3], found[4], found[5])) if arguments[0] == "next" else "\n".join(found)
    return scripts.publish(data, keys, [arguments[0], expected, *arguments[2:]])
