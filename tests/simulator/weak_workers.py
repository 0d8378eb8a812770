"""Workers with one defence taken away each; the product knows no such switch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from configbus import wire
from configbus.adoption import on_layers
from configbus.follow import Follower, _Proof
from configbus.protocol import Adopt, Looked, LookFailed, Reading, Vouch
from configbus.receive import Received
from configbus.wire import Malformed
from simulator.poll import Poll
from simulator.server import KEYS

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from configbus.lastgood import LastGood
    from configbus.receive import Asking, Steps
    from configbus.snapshot import Origin
    from configbus.wire import Entry, Head, Mark, Position


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


class PrevIgnored(Follower):
    """Takes the next revision for what builds on this one, whatever it says that it builds on."""

    def _message(self, data: bytes) -> Steps:
        received = self.received
        message = _readable(data)
        if received is not None and message is not None and message.entries is not None:
            head = message.head
            next_one = head.epoch >= received.head.epoch and head.revision == received.head.revision + 1
            if next_one and head.bus == received.head.bus:
                received.head = head
                received.index |= {entry.name: entry.mark for entry in message.entries}
                received.entries |= {entry.name: entry for entry in message.entries if entry.name in self.selection}
                yield from self._adopt(received, "redis")
                return
        yield from super()._message(data)


class FileNoFloor(Follower):
    """Starts from its last-good file, and follows what is older."""

    def _recall(self, last_good: LastGood) -> Steps:
        yield from super()._recall(last_good)
        self.received = None

    def _floor(self) -> Position | None:
        return self.received.position if self.received is not None else None


class LowerAccepted(Follower):
    def _is_lower(self, head: Head, than: Position | None = None) -> Asking[bool]:
        del head, than
        yield from ()
        return False


class NoEpoch(Follower):
    def _is_lower(self, head: Head, than: Position | None = None) -> Asking[bool]:
        yield from ()
        floor = than or self._floor()
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


class NeverConfirmed(Follower):
    """Started from Postgres it does not notice that Redis stands there, too."""

    def _adopt(self, received: Received, origin: Origin) -> Steps:
        stands = self.snapshot
        if stands is None or stands.origin != "postgres" or stands.position != received.position:
            yield from super()._adopt(received, origin)


class JunkRaises(Follower):
    def _ignore(self, event: str, fault: object) -> Steps:
        yield from super()._ignore(event, fault)
        raise ValueError(str(fault))


def _readable(data: bytes) -> wire.Message | None:
    try:
        return wire.read_message(data)
    except Malformed:
        return None


def _present(name: str, blocks: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    if not blocks.get(name):
        raise Malformed(f"the hash of {name} is missing")
    return blocks[name]


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


class NeverLooking(Poll):
    """Never learns where the head is, but for loads."""

    def look(self, seconds: float) -> Generator[float, None, Looked | LookFailed]:
        yield seconds / 1000
        return LookFailed("this worker does not look")
