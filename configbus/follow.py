"""How a worker stays current: the whole protocol, without I/O, clock or randomness.

`Follower.run()` is a generator. It yields a command, a driver performs it and sends back what came
of it together with the instant. Two drivers do so: a thread (`client`) and an asyncio task (`aio`);
tests do it with a virtual clock.

What was *received* (position, state, entries) is kept apart from what is *adopted* (the snapshot).
Received moves to higher positions only.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from configbus import wire
from configbus.adoption import adopt, on_layers
from configbus.protocol import (
    ANSWER_SECONDS,
    Adopt,
    Arrived,
    Command,
    Event,
    Failed,
    Look,
    Looked,
    LookFailed,
    Lost,
    Nothing,
    Ping,
    Pong,
    Read,
    Reading,
    ReadStore,
    Receive,
    Refresh,
    Refreshed,
    Report,
    Subscribe,
    Subscribed,
    Vouch,
    Wait,
)
from configbus.wire import Entry, Head, Malformed, Mark, NotUnderstood, Position

if TYPE_CHECKING:
    from configbus.catalogue import Catalogue
    from configbus.snapshot import Origin, Selection, Snapshot

LOOK_SECONDS = 1.0
"""Pause between two looks at the head."""
PROOF_SECONDS = 0.6
"""After the first stamp of a connection: by then the relay must have moved it."""
SILENCE_SECONDS = 1.5
"""Three bookmarks that did not come."""
LOAD_ATTEMPTS = 5
STORE_SECONDS = 1.0
"""Pause between two attempts to start from Postgres."""


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
class _Turn:
    """What belongs to one life of the push connection."""

    heard: float
    next_look: float
    looking: bool = False
    pinged: float | None = None
    asked_at: Position | None = None


@dataclass(slots=True)
class _Proof:
    """The first stamp seen on a poll connection: no proof of freshness until the relay has moved it."""

    connection: int
    stamp: int
    moved: bool = False


@dataclass(slots=True)
class Follower:
    """The protocol of one worker. `ready_by` is the instant by which it stands on its layers if nothing
    better was found; None where it must not. `has_store` says whether Postgres can be asked.
    """

    catalogue: Catalogue
    selection: Selection
    ready_by: float | None
    has_store: bool = False
    received: Received | None = None
    snapshot: Snapshot | None = None
    vouched: float | None = None
    ignored: int = 0
    now: float = 0.0
    _ticket: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)
    _ask_store_at: float = field(default=0.0, init=False)
    _proof: _Proof | None = field(default=None, init=False)
    _reported: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)

    def run(self) -> Steps:
        """Follow for ever: connect, load, listen; after a loss once more."""
        if self.received is not None and (self.snapshot is None or self.snapshot.position != self.received.position):
            yield from self._adopt(self.received, "redis")
        pause = 0.05
        while True:
            fault = yield from self._connect()
            if fault is None:
                self._reported.clear()
                pause = 0.05
                fault = yield from self._listen()
            yield from self._report("warning", "connection_lost", reason=fault)
            yield from self._fall_back()
            yield from self._wait(min(pause, self._limit()), min(3 * pause, 0.5, self._limit()))
            yield from self._answer(self._ticket, f"not connected: {fault}")
            pause = min(2 * pause, 0.25)

    def _connect(self) -> Asking[str | None]:
        """Subscribe, and wait for the confirmation: what is published from then on is seen. A fault, or None."""
        result = yield from self._do(Subscribe(self._limit()))
        if isinstance(result, Failed):
            return result.reason
        until = self.now + self._limit()
        while True:
            match (yield from self._do(Receive(until))):
                case Subscribed():
                    return None
                case Lost(reason):
                    return reason
                case Refresh(ticket):
                    self._ticket = ticket
                case Nothing():
                    return "the subscription was not confirmed in time"

    def _listen(self) -> Asking[str]:
        """Everything between a confirmed subscription and the loss of it; returns why it was lost."""
        turn = _Turn(heard=self.now, next_look=self.now)
        yield from self._load()
        while True:
            if self.snapshot is None or self.snapshot.origin == "layers":
                yield from self._fall_back()
            if not turn.looking and self.now >= turn.next_look:
                turn.looking = True
                turn.asked_at = self.received.position if self.received else None
                yield from self._do(Look(ANSWER_SECONDS))
            event = yield from self._do(Receive(self._next_deadline(turn)))
            if isinstance(event, Subscribed | Arrived | Pong):
                turn.heard, turn.pinged = self.now, None
            match event:
                case Arrived(data):
                    yield from self._message(data)
                case Subscribed():
                    yield from self._load()
                case Looked():
                    turn.looking = False
                    turn.next_look = self.now + (yield from self._looked(event, turn.asked_at))
                case LookFailed(reason):
                    turn.looking = False
                    turn.next_look = self.now + LOOK_SECONDS
                    yield from self._report("warning", "look_failed", reason=reason)
                case Refresh(ticket):
                    self._ticket = ticket
                    yield from self._load()
                case Lost(reason):
                    return reason
                case Nothing():
                    if turn.pinged is not None and self.now >= turn.pinged + ANSWER_SECONDS:
                        return "no answer to PING"
                    if turn.pinged is None and self.now >= turn.heard + SILENCE_SECONDS:
                        turn.pinged = self.now
                        result = yield from self._do(Ping())
                        if isinstance(result, Failed):
                            return result.reason

    def _next_deadline(self, turn: _Turn) -> float:
        silence = turn.heard + SILENCE_SECONDS if turn.pinged is None else turn.pinged + ANSWER_SECONDS
        deadlines = [silence] if turn.looking else [silence, turn.next_look]
        if self.snapshot is None and self.ready_by is not None:
            deadlines.append(self.ready_by)
        return min(deadlines)

    def _message(self, data: bytes) -> Steps:
        try:
            message = wire.read_message(data)
        except Malformed as fault:
            yield from self._ignore("message_ignored", fault)
            return
        if not (yield from self._ours(message.head)):
            return
        received = self.received
        if received is None:
            yield from self._load()
        elif message.head == received.head:
            yield from self._confirm(received)
        elif message.head.position < received.position:
            return
        elif not (
            message.entries is not None
            and message.head.epoch == received.head.epoch
            and message.head.position > received.position
            and message.prev == received.head.state
            and (yield from self._apply(received, message.head, message.entries))
        ):
            yield from self._load()

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
        fault = ""
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
                    head, index = wire.read_head(reading.head) if reading.head else None, wire.read_index(reading.index)
                    if head is None:
                        fault = "Redis holds no head for this environment"
                        break
                    if not (yield from self._ours(head)) or (yield from self._is_lower(head)):
                        return "the head in Redis is not one to follow"
                    wanted = self._wanted(index)
                    if set(wanted) <= set(names):
                        return (yield from self._take(head, index, reading, "redis"))
                except Malformed as malformed:
                    fault = str(malformed)
                    break
                names = wanted
            else:
                fault = "the state in Redis changed while it was read"
        yield from self._report("warning", "load_failed", reason=fault)
        return fault

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
            if entry.mark != mark:
                raise Malformed(f"the hash of {name} does not fit the index")
            entries[name] = entry
        before = self.received
        same = before is not None and before.head == head
        self.received = Received(head, index, entries)
        if before is not None and before.head.epoch != head.epoch:
            yield from self._report("warning", "epoch_changed", epoch=head.epoch, was=before.head.epoch)
        if not same or self.snapshot is None or self.snapshot.origin != origin:
            yield from self._adopt(self.received, origin)
        return None

    def _looked(self, look: Looked, asked_at: Position | None) -> Asking[float]:
        """Judge a look at the head: load if it is ahead, vouch if it proves freshness. Seconds to the next look."""
        if not look.head:
            return LOOK_SECONDS
        try:
            head = wire.read_head(look.head)
        except Malformed as fault:
            yield from self._ignore("head_ignored", fault)
            return LOOK_SECONDS
        if not (yield from self._ours(head)) or (yield from self._is_lower(head, asked_at)):
            return LOOK_SECONDS
        received = self.received
        if received is None or (head.position >= received.position and head != received.head):
            yield from self._load()
            received = self.received
        elif head == received.head:
            yield from self._confirm(received)
        stamp = wire.read_stamp(look.head)
        if stamp is None:
            return PROOF_SECONDS
        if self._proof is None or self._proof.connection != look.connection:
            self._proof = _Proof(look.connection, stamp)
        elif stamp != self._proof.stamp:
            self._proof.moved = True
        if not self._proof.moved:
            return PROOF_SECONDS
        age = (look.time - stamp) / 1_000_000
        if age < 0:
            self._proof = _Proof(look.connection, stamp)
            return PROOF_SECONDS
        if asked_at is not None and self._is_current(head):
            since = look.asked - age
            if self.vouched is None or since > self.vouched:
                self.vouched = since
                yield from self._do(Vouch(since))
        return LOOK_SECONDS

    def _is_current(self, head: Head) -> bool:
        """Whether what a head says is all received, and what was received is adopted."""
        received, snapshot = self.received, self.snapshot
        if received is None or snapshot is None or snapshot.position != received.position:
            return False
        return head.position < received.position or head == received.head

    def _ours(self, head: Head) -> Asking[bool]:
        """Whether a head is of the installation that is followed."""
        if self.received is None or head.bus == self.received.head.bus:
            return True
        yield from self._ignore("other_bus_ignored", f"bus {head.bus}, followed is {self.received.head.bus}")
        return False

    def _is_lower(self, head: Head, than: Position | None = None) -> Asking[bool]:
        """Whether a head lies below what was received already: Redis lost something, and is not believed."""
        floor = than or (self.received.position if self.received else None)
        if floor is None or head.position >= floor:
            return False
        yield from self._report("warning", "head_lower", revision=head.revision, held=floor.revision)
        return True

    def _fall_back(self) -> Steps:
        """While nothing is known: Postgres, once a second at most, and the layers when the time is over."""
        tried = not self.has_store or self._ask_store_at > 0
        if tried and self.snapshot is None and self.ready_by is not None and self.now >= self.ready_by:
            self.snapshot = on_layers(self.catalogue, self.selection)
            yield from self._report("error", "standing_on_defaults", reason="neither Redis nor Postgres gave a state")
            yield from self._do(Adopt(self.snapshot))
        known = self.snapshot is not None and self.snapshot.origin != "layers"
        if self.has_store and not known and self.now >= self._ask_store_at:
            self._ask_store_at = self.now + STORE_SECONDS
            yield from self._start_from_store()

    def _start_from_store(self) -> Steps:
        reading = yield from self._do(ReadStore(self._limit()))
        if isinstance(reading, Reading):
            try:
                head, index = wire.read_head(reading.head), wire.read_index(reading.index)
                yield from self._take(head, index, reading, "postgres")
            except Malformed as fault:
                yield from self._report("error", "store_failed", reason=str(fault))
        elif isinstance(reading, Failed):
            yield from self._report("warning", "store_failed", reason=reading.reason)

    def _confirm(self, received: Received) -> Steps:
        """Redis stands where a start from Postgres left off: equal state is equal content."""
        if self.snapshot is not None and self.snapshot.origin != "redis":
            yield from self._adopt(received, "redis")

    def _adopt(self, received: Received, origin: Origin) -> Steps:
        before = self.snapshot
        self.snapshot = adopt(received.entries, received.position, origin, before, self.catalogue, self.selection)
        for name, rejection in self.snapshot.held.items():
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
        yield from self._do(Adopt(self.snapshot))

    def _ignore(self, event: str, fault: object) -> Steps:
        self.ignored += 1
        level = "error" if isinstance(fault, NotUnderstood) else "warning"
        yield from self._report(level, event, reason=str(fault))

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
        if self.snapshot is not None or self.ready_by is None:
            return ANSWER_SECONDS
        return min(ANSWER_SECONDS, max(self.ready_by - self.now, 0.05))

    def _do(self, command: Command) -> Asking[Event]:
        event, self.now = yield command
        return event
