"""How a worker stays current: the whole protocol, without I/O, clock or randomness.

`Follower.run()` is a generator. It yields a command, a driver performs it and sends back what came
of it together with the instant. Two drivers do so: a thread (`client`) and an asyncio task (`aio`);
tests do it with a virtual clock. What it holds is in `receive`; when to ask and what to believe is here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from configbus import wire
from configbus.presence import PAUSE_SECONDS, Presence
from configbus.protocol import (
    ANSWER_SECONDS,
    Arrived,
    Failed,
    Look,
    Looked,
    LookFailed,
    Lost,
    Nothing,
    Ping,
    Pong,
    Receive,
    Refresh,
    Said,
    Say,
    Subscribe,
    Subscribed,
    Vouch,
)
from configbus.receive import Asking, Receiver, Steps
from configbus.snapshot import LIVE_SECONDS, Rejection, State, state_of
from configbus.wire import Head, Malformed, Position

if TYPE_CHECKING:
    from collections.abc import Mapping

    Standing = tuple[Position, State, Mapping[str, Rejection]]
    """What a worker says again as soon as it changes."""

FIRST_PAUSE = 0.05
"""Before the second attempt to connect; at most three times as long, by chance."""
LOOK_SECONDS = 1.0
"""Pause between two looks at the head."""
PROOF_SECONDS = 0.6
"""After the first stamp of a connection: by then the relay must have moved it."""
SAY_AGAIN_SECONDS = 1.0
SILENCE_SECONDS = 1.5
"""Three bookmarks that did not come."""


@dataclass(slots=True)
class _Turn:
    """What belongs to one life of the push connection."""

    heard: float
    next_look: float
    looking: bool = False
    pinged: float | None = None
    asked_at: Position | None = None
    saying: bool = False
    said: Standing | None = None
    said_at: float = -math.inf
    say_at: float = -math.inf
    """After a word that did not get through."""


@dataclass(slots=True)
class _Proof:
    """The first stamp seen on a poll connection: no proof of freshness until a relay has moved it, and was heard.

    It may also move because Redis loads another old copy.
    """

    connection: int
    stamp: int
    heard: bool = False
    moved: bool = False


@dataclass(slots=True)
class Follower(Receiver):
    """The protocol of one worker. `renew_seconds` is how often it says that it is there; None: never."""

    renew_seconds: float | None = None
    _proof: _Proof | None = field(default=None, init=False)
    _clock: tuple[float, int] | None = field(default=None, init=False)
    """An instant, and Redis' clock then."""
    _unheard: bool = field(default=False, init=False)
    """Redis lost something: perhaps what this worker said."""

    def run(self) -> Steps:
        """Follow for ever: connect, load, listen; after a loss once more."""
        if self.last_good is not None and self.received is None:
            yield from self._recall(self.last_good)
        if self.snapshot is not None and self.received and self.snapshot.position != self.received.position:
            yield from self._adopt(self.received, "redis")
        pause = FIRST_PAUSE
        while True:
            began = self.now
            fault = yield from self._connect()
            if fault is None:
                self._reported.clear()
                pause = FIRST_PAUSE
                fault = yield from self._listen()
            yield from self._report("warning", "connection_lost", reason=fault)
            yield from self._fall_back()
            if self.now > began + pause:  # an attempt that took its time was pause enough
                pause = FIRST_PAUSE
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
            if self.snapshot is None or self.snapshot.origin in ("layers", "snapshot"):
                yield from self._fall_back()
            if not turn.looking and self.now >= turn.next_look:
                turn.looking = True
                turn.asked_at = self.received.position if self.received else None
                yield from self._do(Look(ANSWER_SECONDS))
            yield from self._say(turn)
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
                    self._clock = event.asked, event.time
                    turn.next_look = self.now + (yield from self._looked(event, turn.asked_at))
                case LookFailed(reason):
                    turn.looking = False
                    turn.next_look = self.now + LOOK_SECONDS
                    yield from self._report("warning", "look_failed", reason=reason)
                case Said(fault):
                    turn.saying = False
                    if fault is not None:
                        turn.said, turn.say_at = None, self.now + SAY_AGAIN_SECONDS
                        yield from self._report("warning", "presence_failed", reason=fault)
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
        if self.snapshot is None and self._stand_by is not None:
            deadlines.append(self._stand_by)
        return min(*deadlines, self._next_say(turn))

    def _say(self, turn: _Turn) -> Steps:
        """Say where this worker stands, if that has changed or was said long ago."""
        if self.now < self._next_say(turn) or (standing := self._standing()) is None or self._clock is None:
            return
        position, state, held = standing
        turn.saying, turn.said, turn.said_at, self._unheard = True, standing, self.now, False
        at, clock = self._clock
        applied, said = (clock + round((instant - at) * 1_000_000) for instant in (self._applied_at, self.now))
        yield from self._do(Say(Presence(position, state, held, applied, said)))

    def _next_say(self, turn: _Turn) -> float:
        """When there is something to say."""
        standing = self._standing()
        if standing is None or self._clock is None or self.renew_seconds is None or turn.saying:
            return math.inf
        if standing != turn.said or self._unheard:
            return max(turn.said_at + PAUSE_SECONDS, turn.say_at)
        expiry = math.inf if self.vouched is None else self.vouched + LIVE_SECONDS
        return min(turn.said_at + self.renew_seconds, expiry if expiry > self.now else math.inf)

    def _standing(self) -> Standing | None:
        snapshot = self.snapshot
        if snapshot is None:
            return None
        return snapshot.position, state_of(snapshot, self.vouched, self.now), snapshot.held

    def _message(self, data: bytes) -> Steps:
        try:
            if self.ring is not None:
                self.ring.check_message(data)
            message = wire.read_message(data)
        except Malformed as fault:
            yield from self._ignore("message_ignored", fault)
            return
        if message.database != self.database:
            told = f"it is about database {message.database} of Redis, followed is {self.database}"
            yield from self._ignore("other_database_ignored", told)
            return
        if not (yield from self._ours(message.head)):
            return
        if self._proof is not None:
            self._proof.heard = True
        self._unheard |= message.repaired
        received = self.received
        if received is None or self._is_of_others(message.head):
            yield from self._load()
        elif message.head == received.head:
            yield from (self._load() if message.repaired else self._confirm(received))
        elif message.head.position < received.position:
            return
        elif not (
            message.entries is not None
            and message.head.epoch == received.head.epoch
            and message.head.revision == received.head.revision + 1
            and message.prev == received.head.state
            and (yield from self._apply(received, message.head, message.entries))
        ):
            yield from self._load()

    def _looked(self, look: Looked, asked_at: Position | None) -> Asking[float]:
        """Judge a look at the head: load if it is ahead, vouch if it proves freshness. Seconds to the next look."""
        if not look.head:
            return LOOK_SECONDS
        try:
            head = self._read_head(look.head)
        except Malformed as fault:
            yield from self._ignore("head_ignored", fault)
            return LOOK_SECONDS
        if not (yield from self._ours(head)) or (yield from self._is_lower(head, asked_at)):
            return LOOK_SECONDS
        received = self.received
        ahead = received is None or (head.position >= received.position and head != received.head)
        if received is None or ahead or self._is_of_others(head):
            yield from self._load()
            received = self.received
        elif head == received.head:
            yield from self._confirm(received)
        stamp = wire.read_stamp(look.head)
        if stamp is None or (self.ring is not None and not self.ring.is_stamped(head, look.head)):
            return PROOF_SECONDS
        proof = self._proof
        if proof is None or proof.connection != look.connection:
            self._proof = proof = _Proof(look.connection, stamp)
        elif stamp != proof.stamp and proof.heard:
            proof.moved = True
        if not proof.moved:
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
