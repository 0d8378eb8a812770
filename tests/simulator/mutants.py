"""Defences taken away one by one, to see that the checker notices; the product knows no such switch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

from configbus import adoption, wire
from configbus.adoption import on_layers
from configbus.follow import Follower, _Proof
from configbus.protocol import Adopt, Looked, Reading, Vouch
from configbus.receive import Received
from configbus.wire import Malformed
from simulator import scripts
from simulator.poll import Poll
from simulator.publishers import Relay
from simulator.server import KEYS
from simulator.world import Parts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from configbus.receive import Asking, Steps
    from configbus.snapshot import Origin
    from configbus.wire import Entry, Head, Mark, Position
    from simulator.publishers import Steps as Pauses
    from simulator.scripts import Answer, Data


class AcrossGaps(Follower):
    """Applies a newer release to whatever is there, `prev` unread."""

    def _message(self, data: bytes) -> Steps:
        received = self.received
        message = _readable(data)
        if received is None or message is None or message.entries is None or message.head.bus != received.head.bus:
            yield from super()._message(data)
        elif message.head.position > received.position:
            received.head = message.head
            received.index |= {entry.name: entry.mark for entry in message.entries}
            received.entries |= {entry.name: entry for entry in message.entries if entry.name in self.selection}
            yield from self._adopt(received, "redis")


class LowerAccepted(Follower):
    def _is_lower(self, head: Head, than: Position | None = None) -> Asking[bool]:
        del head, than
        yield from ()
        return False


class NoEpoch(Follower):
    def _is_lower(self, head: Head, than: Position | None = None) -> Asking[bool]:
        yield from ()
        floor = than or (self.received.position if self.received else None)
        return floor is not None and head.revision < floor.revision


class EmptyHashBelieved(Follower):
    """Takes a block without a hash for one that is no more."""

    def _take(self, head: Head, index: dict[str, Mark], reading: Reading, origin: Origin) -> Asking[str | None]:
        gone = [name for name, fields in reading.blocks.items() if not fields and name in index]
        state = wire.xor(head.state, [index[name].digest for name in gone])
        kept = {name: mark for name, mark in index.items() if name not in gone}
        return (yield from super()._take(replace(head, state=state), kept, reading, origin))


class EmptyHeadBelieved(Follower):
    """Takes an empty Redis for an environment without blocks."""

    def _load(self) -> Asking[str | None]:
        fault = yield from super()._load()
        if fault == "Redis holds no head for this environment":
            self.snapshot = on_layers(self.catalogue, self.selection)
            yield from self._do(Adopt(self.snapshot))
        return fault


class NoDigests(Follower):
    """Takes what it reads, whether it fits together or not."""

    def _fits(self, entry: Entry, mark: Mark) -> bool:
        del entry, mark
        return True

    def _take(self, head: Head, index: dict[str, Mark], reading: Reading, origin: Origin) -> Asking[str | None]:
        held = self.received.entries if self.received else {}
        entries = {}
        for name, mark in index.items():
            if name in self.selection:
                entry = held.get(name)
                if entry is None or entry.mark != mark:
                    entry = wire.read_entry(name, _present(name, reading.blocks))
                    if not self._fits(entry, mark):
                        raise Malformed(f"{name} does not fit")
                entries[name] = entry
        self.received = Received(head, index, entries)
        yield from self._adopt(self.received, origin)
        return None


class NewerFits(NoDigests):
    """What a reader of single keys can check: a block is what the index says, or newer."""

    def _fits(self, entry: Entry, mark: Mark) -> bool:
        return entry.mark == mark or entry.mark.revision > mark.revision


class KeyByKey(Poll):
    """Reads the keys one after another."""

    def capture(self, names: tuple[str, ...]) -> Generator[float, None, Reading]:
        time, head = self.redis.time, self.redis.hash(KEYS.head)
        yield self.delay()
        index = self.redis.hash(KEYS.index)
        blocks = {}
        for name in names:
            yield self.delay()
            blocks[name] = self.redis.hash(KEYS.block(name))
        return Reading(time, head, index, blocks)


class FirstStampBelieved(Follower):
    """Trusts a stamp that may be of another host's clock."""

    def _looked(self, look: Looked, asked_at: Position | None) -> Asking[float]:
        self._proof = _Proof(look.connection, -1, moved=True)
        return (yield from super()._looked(look, asked_at))


class StampIgnored(Follower):
    """Compares positions alone."""

    def _looked(self, look: Looked, asked_at: Position | None) -> Asking[float]:
        fresh = replace(look, head={**look.head, "asof": str(look.time)}) if look.head else look
        self._proof = _Proof(look.connection, -1, moved=True)
        return (yield from super()._looked(fresh, asked_at))


class FreshByPush(Follower):
    """Takes a bookmark for fresh when it is read."""

    def _message(self, data: bytes) -> Steps:
        yield from super()._message(data)
        message = _readable(data)
        if message is not None and self.received is not None and message.head == self.received.head:
            self.vouched = self.now
            yield from self._do(Vouch(self.now))


class ClockAfterPostgres(Relay):
    def read(self) -> Pauses[tuple[int, Head]]:
        head = self.publisher.postgres.head
        yield self.publisher.pause()
        self.publisher.ask()
        return self.publisher.redis.time, head


class NeverConfirmed(Follower):
    def _confirm(self, _received: Received) -> Steps:
        yield from ()


class JunkRaises(Follower):
    def _ignore(self, event: str, fault: object) -> Steps:
        yield from super()._ignore(event, fault)
        raise ValueError(str(fault))


def stamp_whatever_is_there(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    head = data.get(keys[0])
    if not isinstance(head, dict):
        return ["no head"], []
    head["asof"] = arguments[0]
    return ["stamped"], [arguments[6]]


def publish_over_anything(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    """No compare-and-set: what is expected is what is there."""
    answer, messages = scripts.publish(data, keys, arguments)
    if answer[0] != "not yet":
        return answer, messages
    found = answer[1:]
    expected = ":".join((found[0], found[3], found[4], found[5])) if arguments[0] == "next" else "\n".join(found)
    return scripts.publish(data, keys, [arguments[0], expected, *arguments[2:]])


def _hold_nothing(_changed: Mapping[str, Entry], _received: Mapping[str, Entry], _held: dict[str, object]) -> None:
    pass


def _hold_everything(changed: Mapping[str, Entry], _received: Mapping[str, Entry], held: dict[str, object]) -> None:
    if held:
        held |= dict.fromkeys(changed.keys() - held.keys(), next(iter(held.values())))


def _readable(data: bytes) -> wire.Message | None:
    try:
        return wire.read_message(data)
    except Malformed:
        return None


def _present(name: str, blocks: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    if not blocks.get(name):
        raise Malformed(f"the hash of {name} is missing")
    return blocks[name]


@dataclass(frozen=True, slots=True)
class Mutant:
    """Parts without a defence, and what comes of it, as a pattern; `base` is what passes, if not the product."""

    broken: str
    parts: Parts = field(default_factory=Parts)
    base: Parts | None = None
    patch: Callable[[], AbstractContextManager[object]] = nullcontext


def _partners(replacement: object) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(adoption, "_hold_partners", replacement)


WRONG = "is not what Postgres holds"
UNTRUE = "vouched to be complete"

MUTANTS = {
    "applying across a gap": Mutant(WRONG, Parts(follower=AcrossGaps)),
    "lower position accepted": Mutant("position goes back", Parts(follower=LowerAccepted)),
    "no epoch": Mutant("after the faults", Parts(follower=NoEpoch)),
    "empty hash believed": Mutant(f"is missing|{WRONG}", Parts(follower=EmptyHashBelieved)),
    "empty head believed": Mutant("falls back to its layers|goes back", Parts(follower=EmptyHeadBelieved)),
    "no digests": Mutant(WRONG, Parts(follower=NoDigests)),
    "@with ignored": Mutant("torn", patch=_partners(_hold_nothing)),
    "everything frozen by one bad block": Mutant("held without a reason", patch=_partners(_hold_everything)),
    "stamp without its condition": Mutant(UNTRUE, Parts(stamp=stamp_whatever_is_there)),
    "stamp after the read": Mutant(UNTRUE, Parts(relay=ClockAfterPostgres)),
    "stamp ignored": Mutant("live at|partial at", Parts(follower=StampIgnored)),
    "first stamp believed": Mutant(UNTRUE, Parts(follower=FirstStampBelieved)),
    "freshness by push only": Mutant(UNTRUE, Parts(follower=FreshByPush)),
    "key-by-key loading": Mutant(WRONG, Parts(follower=NewerFits, poll=KeyByKey), Parts(follower=NewerFits)),
    "no compare-and-set": Mutant(
        WRONG, Parts(follower=NewerFits, publish=publish_over_anything), Parts(follower=NewerFits)
    ),
    "start from Postgres never confirmed": Mutant("it is offline", Parts(follower=NeverConfirmed)),
    "junk raises": Mutant("an exception leaked", Parts(follower=JunkRaises)),
}
