"""What a worker says of itself in Redis, so that others see who has which release, and who has not, and why.

Each worker keeps a hash of its own, which expires; a sorted set holds all their names, with the instant at which each
was last heard of. Instants are of Redis' clock, in microseconds. Whoever may say one thing there may say anything, so
what is read is bounded, and what no worker writes tells of nobody else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configbus.jsontext import read_value
from configbus.snapshot import Rejection, State
from configbus.wire import NUMBER, STAMP, Malformed, Position

if TYPE_CHECKING:
    import re
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
AHEAD_SECONDS = 5.0
"""How far beyond Redis' clock a worker's last word may be: between two looks at it a worker reckons with its own."""
NAMES = 10_000
"""Those that are read, the ones heard of last; beyond Redis' clock only a few are."""
NAMES_AHEAD = 100
FARTHEST = 10**18
SAID_LENGTH = 1 << 20
"""Characters of a hash above which it is not looked into."""
NAME_LENGTH = 200


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

    `presence` is None where it is not there any more, and where its hash tells nothing: `fault` says why.
    """

    name: str
    heard_at: int
    presence: Presence | None
    follows: tuple[str, ...] = ()
    host: str = ""
    pid: str = ""
    version: str = ""
    fault: str = ""

    def is_following(self, block: str) -> bool:
        """Whether it takes this block."""
        return block in self.follows or f"{block.partition('/')[0]}/*" in self.follows

    def silence(self, clock: int) -> str:
        """Why it is not known where it stands, at an instant of Redis' clock."""
        seconds = (clock - self.heard_at) / 1_000_000
        ahead = f"its last word is {-seconds:.0f} s ahead of Redis' clock"
        return self.fault or (f"not heard of for {seconds:.0f} s" if seconds >= 0 else ahead)


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


def listing_commands(keys: Keys, clock: int) -> list[tuple[str, ...]]:
    """One transaction that reads the newest names up to Redis' clock, and a few that are beyond it."""
    newest, most = str(clock + round(AHEAD_SECONDS * 1_000_000)), str(FARTHEST)
    return [
        ("MULTI",),
        ("ZRANGE", keys.workers, newest, "0", "BYSCORE", "REV", "LIMIT", "0", str(NAMES), "WITHSCORES"),
        ("ZRANGE", keys.workers, f"({newest}", most, "BYSCORE", "LIMIT", "0", str(NAMES_AHEAD), "WITHSCORES"),
        ("EXEC",),
    ]


def is_there(heard_at: int, clock: int) -> bool:
    """Whether one that was last heard of at that instant counts as there at this one."""
    return -AHEAD_SECONDS <= (clock - heard_at) / 1_000_000 < SEEN_SECONDS


def read_worker(name: str, heard_at: int, fields: Mapping[str, str]) -> Worker:
    """One that is there, from its hash, which is empty where that has expired."""
    shown = name[:NAME_LENGTH]
    if not fields:
        return Worker(shown, heard_at, None, fault="it says nothing of itself any more")
    try:
        presence, follows = _presence(fields), _follows(fields)
    except (Malformed, ValueError) as error:
        fault = f"what it says of itself cannot be read: {error}"
        return Worker(shown, heard_at, None, fault=fault[:REASON_LENGTH])
    host, pid, version = (fields.get(field, "")[:NAME_LENGTH] for field in ("host", "pid", "version"))
    return Worker(shown, heard_at, presence, follows, host, pid, version)


def read_names(reply: Sequence[bytes]) -> dict[str, int]:
    """Names with the instant at which each was last heard of, from ZRANGE with its scores."""
    texts = [part.decode(errors="replace") for part in reply]
    return {name: int(float(score)) for name, score in zip(texts[::2], texts[1::2], strict=True)}


def _presence(fields: Mapping[str, str]) -> Presence:
    if (length := sum(map(len, fields.values()))) > SAID_LENGTH:
        raise Malformed(f"it has {length} characters")
    if not isinstance(held := read_value(fields.get("held", "")), dict):
        raise Malformed("held is not an object")
    return Presence(
        Position(_number(fields, "epoch", NUMBER), _number(fields, "revision", NUMBER)),
        State(fields.get("state", "")),
        {block[:NAME_LENGTH]: _rejection(why) for block, why in held.items()},
        _number(fields, "applied_at", STAMP),
        _number(fields, "said_at", STAMP),
    )


def _follows(fields: Mapping[str, str]) -> tuple[str, ...]:
    names = read_value(fields.get("follows", ""))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Malformed("follows is not a list of names")
    return tuple(names)


def _number(fields: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> int:
    if not pattern.fullmatch(text := fields.get(name, "")):
        raise Malformed(f"{name} is {text[:NAME_LENGTH]!r}")
    return int(text)


def _rejection(why: Any) -> Rejection:
    match why:
        case {"revision": int(revision), "field": str(field), "reason": str(reason), "last_good": last_good}:
            numbers = [revision] if last_good is None else [revision, last_good]
            if all(isinstance(number, int) and 0 <= number < FARTHEST for number in numbers):
                return Rejection(revision, field[:NAME_LENGTH], reason[:REASON_LENGTH], last_good)
    raise Malformed("held is not what a worker writes")
