"""What a worker has received, and what of it is in force: loading, adopting, and what it stands on meanwhile.

What was *received* (position, state, entries) is kept apart from what is *adopted* (the snapshot).
Received moves to higher positions only.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from configbus import wire
from configbus.adoption import adopt, on_layers, with_defaults
from configbus.lastgood import LastGood
from configbus.protocol import (
    ANSWER_SECONDS,
    Adopt,
    Command,
    Event,
    Failed,
    Keep,
    Read,
    Reading,
    ReadStore,
    Refresh,
    Refreshed,
    Report,
    Vouch,
    Wait,
)
from configbus.signing import Unsigned
from configbus.snapshot import LIVE_SECONDS
from configbus.wire import FARTHEST, Entry, Head, Malformed, Mark, NotUnderstood, Position

if TYPE_CHECKING:
    from configbus.catalogue import Catalogue
    from configbus.signing import Keyring
    from configbus.snapshot import Origin, Selection, Snapshot

LOAD_ATTEMPTS = 5
NEVER = float("-inf")
STORE_SECONDS = 1.0
"""Pause behind each attempt to start from Postgres: while one lasts, nothing is heard of Redis."""


Steps = Generator[Command, tuple[Event, float], None]
T = TypeVar("T")
Asking = Generator[Command, tuple[Event, float], T]


@dataclass(slots=True)
class Received:
    """The newest state that fitted together, of all blocks in the index and the content of those followed."""

    head: Head
    index: dict[str, Mark]
    entries: dict[str, Entry]

    @property
    def position(self) -> Position:
        return self.head.position


@dataclass(slots=True)
class Receiver:
    """What one worker holds. `ready_by` is the instant by which it stands on its layers if nothing better was found;
    None where it must not. `has_store` says whether Postgres can be asked.

    `last_good` is what an earlier life kept, and stood on from `last_good_at` on if nothing better was found; `keeps`
    says that this one is to keep its own.
    """

    catalogue: Catalogue
    selection: Selection
    ready_by: float | None
    has_store: bool = False
    received: Received | None = None
    snapshot: Snapshot | None = None
    vouched: float | None = None
    last_good: LastGood | None = None
    last_good_at: float = 0.0
    keeps: bool = False
    ring: Keyring | None = None
    database: int = 0
    bus: str | None = None
    ignored: int = 0
    now: float = 0.0
    _ticket: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _ask_store_at: float = field(default=0.0, init=False)
    _reported: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    _base: Snapshot | None = field(default=None, init=False)
    _good: dict[str, Entry] = field(default_factory=dict, init=False)
    _applied_at: float = field(default=0.0, init=False)

    def successor(self) -> Self:
        """One that goes on from what was adopted here, and shares nothing that this one changes. What was received may
        be half written in a child made by fork; a snapshot never is.
        """
        fresh = type(self)(self.catalogue, self.selection, None, self.has_store)
        fresh.snapshot, fresh.bus, fresh.vouched = self.snapshot, self.bus, self.vouched
        fresh.database, fresh._applied_at = self.database, self._applied_at  # noqa: SLF001  # of this very class
        fresh.keeps, fresh.ring, fresh._good = self.keeps, self.ring, self._good  # noqa: SLF001  # of this very class
        return fresh

    def _apply(self, received: Received, head: Head, entries: tuple[Entry, ...]) -> Asking[bool]:
        """Put a release on top of what was received; False if together they are not the head's state."""
        old = [received.index[entry.name].digest for entry in entries if entry.name in received.index]
        new = [entry.mark.digest for entry in entries]
        if wire.xor(received.head.state, old + new) != head.state:
            return False
        received.head = head
        for entry in entries:
            received.index[entry.name] = entry.mark
            if entry.name in self.selection:
                received.entries[entry.name] = entry
        yield from self._adopt(received, "redis")
        return True

    def _load(self) -> Asking[str | None]:
        """Read the whole state and take it if it fits together; None, or why nothing was taken."""
        while True:
            ticket = self._ticket
            fault = yield from self._load_in_attempts()
            yield from self._answer(ticket, fault)
            if self._ticket == ticket:
                return fault

    def _load_in_attempts(self) -> Asking[str | None]:
        fault, level = "", "warning"
        for attempt in range(LOAD_ATTEMPTS):
            if attempt:
                yield from self._wait(0.01, 0.05)
            names: tuple[str, ...] = ()
            for _ in range(2):
                reading = yield from self._do(Read(names, self._limit()))
                if not isinstance(reading, Reading):
                    fault = reading.reason if isinstance(reading, Failed) else "no reading"
                    break
                try:
                    head = self._read_head(reading.head) if reading.head else None
                    index = wire.read_index(reading.index)
                    if head is None:
                        fault = "Redis holds no head for this environment"
                        break
                    if not (yield from self._ours(head)) or (yield from self._is_lower(head)):
                        return "the head in Redis is not one to follow"
                    wanted = self._wanted(index)
                    if set(wanted) <= set(names):
                        return (yield from self._take(head, index, reading, "redis"))
                except Malformed as malformed:
                    fault, level = str(malformed), "error" if isinstance(malformed, Unsigned) else "warning"
                    break
                names = wanted
            else:
                fault = "the state in Redis changed while it was read"
        yield from self._report(level, "load_failed", reason=fault)
        return fault

    def _read_head(self, fields: Mapping[str, str]) -> Head:
        """A head of Redis. Raises Malformed, and Unsigned where signing is on and nobody of ours wrote it."""
        head = wire.read_head(fields)
        if self.ring is not None:
            self.ring.check_head(head, fields)
        return head

    def _wanted(self, index: Mapping[str, Mark]) -> tuple[str, ...]:
        """The followed blocks whose content is not held already."""
        held = self.received.entries if self.received else {}
        return tuple(
            name for name in index if name in self.selection and (name not in held or held[name].mark != index[name])
        )

    def _take(self, head: Head, index: dict[str, Mark], reading: Reading, origin: Origin) -> Asking[str | None]:
        """Accept a reading, if head, index and blocks are of one state; Malformed otherwise."""
        if wire.xor(wire.EMPTY_STATE, (mark.digest for mark in index.values())) != head.state:
            raise Malformed("the index does not add up to the head's state")
        if self.ring is not None and origin == "redis":
            self.ring.check_index(head, reading.head, reading.index)
        held = self.received.entries if self.received else {}
        entries = {}
        for name, mark in index.items():
            if name not in self.selection:
                continue
            entry = held.get(name)
            if entry is None or entry.mark != mark:
                if not reading.blocks.get(name):
                    raise Malformed(f"the hash of {name} is missing")
                entry = wire.read_entry(name, reading.blocks[name])
                if self.ring is not None and origin == "redis":
                    self.ring.check_block(head.bus, entry, reading.blocks[name])
            if entry.mark != mark:
                raise Malformed(f"the hash of {name} does not fit the index")
            entries[name] = entry
        if self._is_of_others(head):
            yield from self._forget(head)
        before = self.received
        same = before is not None and before.head == head and before.entries == entries
        self.received = Received(head, index, entries)
        self.bus = head.bus
        if before is not None and before.head.epoch != head.epoch:
            yield from self._report("warning", "epoch_changed", epoch=head.epoch, was=before.head.epoch)
        if not same or self.snapshot is None or self.snapshot.origin != origin:
            yield from self._adopt(self.received, origin)
        return None

    def _confirm(self, received: Received) -> Steps:
        """Redis stands where a start from Postgres left off: equal state is equal content."""
        if self.snapshot is None or self.snapshot.origin != "redis":
            yield from self._adopt(received, "redis")

    def _adopt(self, received: Received, origin: Origin) -> Steps:
        before, base = self.snapshot, self.snapshot or self._base
        self.snapshot = adopt(received.entries, received.position, origin, base, self.catalogue, self.selection)
        yield from self._report_held(self.snapshot, before)
        yield from self._put_in_force(self.snapshot, before)
        if self.keeps:
            yield from self._keep(received, self.snapshot)

    def _put_in_force(self, snapshot: Snapshot, before: Snapshot | None) -> Steps:
        yield from self._do(Adopt(snapshot))
        if before is None or before.position != snapshot.position:
            self._applied_at = self.now

    def _report_held(self, snapshot: Snapshot, before: Snapshot | None) -> Steps:
        for name, rejection in snapshot.held.items():
            if before is None or before.held.get(name) != rejection:
                yield from self._report(
                    "error",
                    "block_held",
                    block=name,
                    revision=rejection.revision,
                    field=rejection.field,
                    reason=rejection.reason,
                    last_good=rejection.last_good,
                    exc_info=rejection.error,
                )

    def _keep(self, received: Received, snapshot: Snapshot) -> Steps:
        """Hand over what the next start may stand on: for held blocks also what is in force of them."""
        held = {name: self._good.get(name) for name in snapshot.held}
        taken = {name: entry for name, entry in received.entries.items() if name not in snapshot.held}
        self._good = taken | {name: entry for name, entry in held.items() if entry is not None}
        state = LastGood(
            received.head, dict(received.index), dict(received.entries), held, signed=self.ring is not None
        )
        yield from self._do(Keep(state))

    def _ours(self, head: Head) -> Asking[bool]:
        """Whether a head is of the installation that is followed, and can be one of its."""
        if self.bus is not None and head.bus != self.bus:
            yield from self._ignore("other_bus_ignored", f"bus {head.bus}, followed is {self.bus}")
            return False
        if self.received is not None and head.epoch > self.received.head.epoch + FARTHEST:
            yield from self._ignore("head_ignored", f"epoch {head.epoch} cannot be, after {self.received.head.epoch}")
            return False
        return True

    def _is_lower(self, head: Head, than: Position | None = None) -> Asking[bool]:
        """Whether a head lies below what was received already: Redis lost something, and is not believed."""
        floor = than or self._floor()
        if self._is_of_others(head):
            return False
        if floor is None or head.position >= floor:
            return False
        facts = {"revision": head.revision, "held": floor.revision}
        if head.epoch != floor.epoch:
            facts |= {"epoch": head.epoch, "held_epoch": floor.epoch}
        yield from self._report("warning", "head_lower", **facts)
        return True

    def _floor(self) -> Position | None:
        """The position that nothing may lie below."""
        if self.received is not None:
            return self.received.position
        return self.snapshot.position if self.snapshot is not None and self.snapshot.origin != "layers" else None

    def _is_of_others(self, head: Head) -> bool:
        """Whether what was kept is of another installation than a head, or cannot have come before it, while no server
        has said which is ours.
        """
        if self.bus is not None or self.received is None:
            return False
        kept = self.received.head
        return head.bus != kept.bus or kept.epoch > head.epoch + FARTHEST

    def _forget(self, head: Head) -> Steps:
        """What was kept is of another installation than the one that answers: it is not to be followed."""
        kept = self.received.head if self.received is not None else head
        self.received = self._base = self.last_good = None
        self._good = {}
        if self.snapshot is not None:
            self.snapshot, self.vouched = on_layers(self.catalogue, self.selection), NEVER
            yield from self._do(Vouch(NEVER))
        told = f"it is of bus {kept.bus} and epoch {kept.epoch}, and the servers are of {head.bus} and {head.epoch}"
        yield from self._report("error", "snapshot_refused", reason=told)

    def _recall(self, last_good: LastGood) -> Steps:
        """Begin where an earlier life ended: nothing older is followed, and blocks that it held keep what they had.
        With keys only what was kept with keys is believed.
        """
        if self.ring is not None and not last_good.signed:
            self.last_good = None
            told = "it was kept without CONFIGBUS_SIGNING_KEYS, which are set now"
            yield from self._report("warning", "snapshot_refused", reason=told)
            return
        position = last_good.head.position
        self.received = Received(last_good.head, dict(last_good.index), dict(last_good.entries))
        stood = adopt(last_good.in_force, position, "snapshot", None, self.catalogue, self.selection)
        stood = with_defaults(stood, [name for name, entry in last_good.good.items() if entry is None])
        base = adopt(last_good.entries, position, "snapshot", stood, self.catalogue, self.selection)
        taken = {name: entry for name, entry in last_good.entries.items() if name not in base.held}
        held = {name: last_good.good.get(name) for name in base.held if name not in stood.held}
        self._good = taken | {name: entry for name, entry in held.items() if entry is not None}
        self._base = base

    def _fall_back(self) -> Steps:
        """While nothing is known: Postgres, at most once a second; in the end the last good state, or the layers."""
        tried = not self.has_store or self._ask_store_at > 0
        if tried and self.snapshot is None and self._stand_by is not None and self.now >= self._stand_by:
            reason = "neither Redis nor Postgres gave a state"
            if self._base is not None:
                self.snapshot = self._base
                if self.last_good is not None and self.last_good.vouched is not None:
                    self.vouched = min(self.last_good.vouched, self.now - LIVE_SECONDS)
                yield from self._report("warning", "standing_on_snapshot", reason=reason)
                yield from self._report_held(self.snapshot, None)
            else:
                self.snapshot = on_layers(self.catalogue, self.selection)
                yield from self._report("error", "standing_on_defaults", reason=reason)
            if self.vouched is not None:
                yield from self._do(Vouch(self.vouched))
            yield from self._put_in_force(self.snapshot, None)
        known = self.snapshot is not None and self.snapshot.origin in ("redis", "postgres")
        if self.has_store and not known and self.now >= self._ask_store_at:
            yield from self._start_from_store()
            self._ask_store_at = self.now + STORE_SECONDS

    def _start_from_store(self) -> Steps:
        reading = yield from self._do(ReadStore(self._limit()))
        if isinstance(reading, Reading):
            try:
                head, index = wire.read_head(reading.head), wire.read_index(reading.index)
                if (yield from self._ours(head)) and not (yield from self._is_lower(head)):
                    yield from self._take(head, index, reading, "postgres")
            except Malformed as fault:
                yield from self._report("error", "store_failed", reason=str(fault))
        elif isinstance(reading, Failed):
            yield from self._report("warning", "store_failed", reason=reading.reason)

    def _ignore(self, event: str, fault: object) -> Steps:
        self.ignored += 1
        yield from self._report(_level(fault), event, reason=str(fault))

    def _report(self, level: str, event: str, **facts: Any) -> Steps:
        """Tell an operator, with the revision shown unless it is about another; the same thing again only after
        the worker was current in between.
        """
        if self._reported.get(event) != facts:
            self._reported[event] = facts
            shown = {"revision": self.snapshot.revision} if self.snapshot is not None else {}
            yield from self._do(Report(level, event, shown | facts))

    def _wait(self, shortest: float, longest: float) -> Steps:
        event = yield from self._do(Wait(shortest, longest))
        if isinstance(event, Refresh):
            self._ticket = event.ticket

    def _answer(self, ticket: int, fault: str | None) -> Steps:
        """Tell an application that asked for a refresh before it began what came of it."""
        if ticket > self._answered:
            self._answered = ticket
            yield from self._do(Refreshed(ticket, fault))

    def _limit(self) -> float:
        """Seconds that a server may take now: less, where somebody waits for the start."""
        if self.snapshot is not None or self._stand_by is None:
            return ANSWER_SECONDS
        return min(ANSWER_SECONDS, max(self._stand_by - self.now, 0.05))

    @property
    def _stand_by(self) -> float | None:
        """The instant from which on it stands on what it has at hand: the last good state, or its layers."""
        return self.last_good_at if self._base is not None else self.ready_by

    def _do(self, command: Command) -> Asking[Event]:
        event, self.now = yield command
        return event


def _level(fault: object) -> str:
    """How loudly to tell of something that was not believed."""
    return "error" if isinstance(fault, NotUnderstood | Unsigned) else "warning"
