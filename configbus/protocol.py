"""What the follower asks of its driver, and what the driver sends back.

Every command is answered by exactly one event, sent together with the instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.lastgood import LastGood
    from configbus.presence import Presence
    from configbus.snapshot import Snapshot

ANSWER_SECONDS = 1.0
"""How long a server may take to answer anything."""


# What the follower asks for.


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Open a new push connection and send SUBSCRIBE; Done or Failed. The confirmation comes by Receive."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """One MULTI of TIME, head, index and these blocks; Reading or Failed."""

    names: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class ReadStore:
    """The newest state in Postgres, in the same shape; Reading or Failed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """Ask for TIME and head on the poll connection; Done at once, the answer comes by Receive."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait until an instant for what comes: anything that is there already goes before Nothing."""

    until: float


@dataclass(frozen=True, slots=True)
class Ping:
    """Send PING on the push connection; Done or Failed. The answer comes by Receive."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Pause, for a time chosen at random between the two; Done, or a Refresh that ends it."""

    shortest: float
    longest: float


@dataclass(frozen=True, slots=True)
class Adopt:
    """This snapshot is in force now; Done."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this for the next start; Done at once."""

    state: LastGood


@dataclass(frozen=True, slots=True)
class Vouch:
    """What is held was complete at this instant; Done."""

    since: float


@dataclass(frozen=True, slots=True)
class Say:
    """Write to Redis where this worker stands; Done at once, what came of it comes by Receive."""

    presence: Presence


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The answer to the Refresh of this ticket and all before it: None, or why the load came to nothing; Done."""

    ticket: int
    fault: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """Something that an operator should read; Done."""

    level: str
    event: str
    facts: dict[str, Any]


Command = Subscribe | Read | ReadStore | Look | Receive | Ping | Wait | Adopt | Keep | Vouch | Say | Refreshed | Report


# What comes back.


@dataclass(frozen=True, slots=True)
class Done:
    pass


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Raw replies; `time` is the server's clock in microseconds."""

    time: int
    head: Mapping[str, str]
    index: Mapping[str, str]
    blocks: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Subscribed:
    """A confirmation on the push connection."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message on the channel."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Looked:
    """The answer to a Look: when it was asked, over which poll connection, TIME and the head's fields."""

    asked: float
    connection: int
    time: int
    head: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LookFailed:
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """The answer to a Say: None, or why it was not written."""

    fault: str | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The push connection is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """The application wants the truth looked up now; tickets are numbered."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Nothing:
    """The instant came, and there was nothing to read."""


Event = Done | Failed | Reading | Subscribed | Arrived | Pong | Looked | LookFailed | Said | Lost | Refresh | Nothing

DONE = Done()
