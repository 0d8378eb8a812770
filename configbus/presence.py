"""What a worker says of itself in Redis, so that others see who has which release, and who has not, and why.

Each worker keeps a hash of its own, which expires; a sorted set holds all their names, with the instant at which each
was last heard of. Instants are of Redis' clock, in microseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configbus.snapshot import Rejection, State
from configbus.wire import Position

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from configbus.wire import Keys

SEEN_SECONDS = 15.0
"""How long a worker counts as there after it was last heard of."""
GONE_SECONDS = 86_400.0
"""How long the name of one that ended without a word is kept."""
RENEW_SECONDS = (4.0, 6.0)
PAUSE_SECONDS = 0.2
"""Between two things that a worker says, however fast it changes."""
REASONS = 20
REASON_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker as it described itself: where it stands, since when, and which blocks it holds back.

    `applied_at` is when it adopted its position and `said_at` when it said so, both by Redis' clock, in microseconds.
    """

    position: Position
    state: State
    held: Mapping[str, Rejection]
    applied_at: int
    said_at: int

    def fields(self) -> dict[str, str]:
        """As the worker's hash holds them; of very many held blocks only the first have a reason."""
        held = {
            name: {
                "revision": why.revision,
                "field": why.field,
                "reason": why.reason[:REASON_LENGTH] if number < REASONS else "",
                "last_good": why.last_good,
            }
            for number, (name, why) in enumerate(self.held.items())
        }
        return {
            "epoch": str(self.position.epoch),
            "revision": str(self.position.revision),
            "state": str(self.state),
            "held": json.dumps(held),
            "applied_at": str(self.applied_at),
            "said_at": str(self.said_at),
        }


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as others see it, last heard of at an instant of Redis' clock.

    `presence` is None once its hash has expired: it ended without saying so, or hangs.
    """

    name: str
    heard_at: int
    presence: Presence | None
    follows: tuple[str, ...] = ()
    host: str = ""
    pid: str = ""
    version: str = ""

    def is_following(self, block: str) -> bool:
        """Whether it takes this block."""
        return block in self.follows or f"{block.partition('/')[0]}/*" in self.follows


def saying_commands(keys: Keys, name: str, identity: dict[str, str], presence: Presence) -> list[tuple[str | int, ...]]:
    """One transaction that writes a worker's hash and its name, and forgets names that nobody has had for a day."""
    pairs = [part for pair in (identity | presence.fields()).items() for part in pair]
    return [
        ("MULTI",),
        ("HSET", keys.worker(name), *pairs),
        ("PEXPIRE", keys.worker(name), int(SEEN_SECONDS * 1000)),
        ("ZADD", keys.workers, presence.said_at, name),
        ("ZREMRANGEBYSCORE", keys.workers, "-inf", presence.said_at - round(GONE_SECONDS * 1_000_000)),
        ("EXEC",),
    ]


def leaving_commands(keys: Keys, name: str) -> list[tuple[str, ...]]:
    """One transaction that takes a worker away which ends."""
    return [("MULTI",), ("DEL", keys.worker(name)), ("ZREM", keys.workers, name), ("EXEC",)]


def read_worker(name: str, heard_at: int, fields: Mapping[str, str]) -> Worker:
    """A worker from its hash, empty where that has expired; what no worker writes counts as nothing."""
    if not fields:
        return Worker(name, heard_at, None)
    try:
        presence = Presence(
            Position(int(fields["epoch"]), int(fields["revision"])),
            State(fields["state"]),
            {block: _rejection(why) for block, why in json.loads(fields["held"]).items()},
            int(fields["applied_at"]),
            int(fields["said_at"]),
        )
        follows = tuple(map(str, json.loads(fields["follows"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Worker(name, heard_at, None)
    return Worker(
        name, heard_at, presence, follows, fields.get("host", ""), fields.get("pid", ""), fields.get("version", "")
    )


def read_names(reply: Sequence[bytes]) -> dict[str, int]:
    """Names with the instant at which each was last heard of, from ZRANGE with its scores."""
    texts = [part.decode(errors="replace") for part in reply]
    return {name: int(float(score)) for name, score in zip(texts[::2], texts[1::2], strict=True)}


def _rejection(why: Mapping[str, Any]) -> Rejection:
    return Rejection(int(why["revision"]), str(why["field"]), str(why["reason"]), why["last_good"])
