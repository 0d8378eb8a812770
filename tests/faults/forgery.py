"""Forgeries by somebody who may write to Redis and knows the format: all of it fits together, but for the signature.

Each is made with a key ring of the forger's own, or with None unsigned.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from entries import AT, entry_of

from configbus.signing import Keyring, read_keys
from configbus.wire import Entry, Head, announcement, bookmark, entry_fields, read_entry, read_head, xor
from faults.cluster import KEYS, redis_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.history import Life

    Forge = Callable[[Any, Keyring | None], object]

FORGED = 3333
"""A value that no release of ours has."""
RISK = KEYS.block("risk")
FAR = 1000


def key_of(name: str, secret: str) -> str:
    """A key of CONFIGBUS_SIGNING_KEYS with this id."""
    return f"{name}:{base64.b64encode(secret.encode() * 32).decode()}"


def ring_of(keys: str) -> Keyring:
    return Keyring(read_keys(keys), KEYS.prefix)


OURS = key_of("a", "a")
STRANGE = key_of("x", "x")
SAME_NAME = key_of("a", "x")


@dataclass(frozen=True, slots=True)
class Lie:
    """A head that was found, and one that would fit this block, which nobody released."""

    found: Head
    head: Head
    entry: Entry


def lie(client: Any, further: int = 0) -> Lie:
    """That many revisions further than what is there."""
    found = read_head(client.hgetall(KEYS.head))
    entry = read_entry("risk", client.hgetall(RISK))
    revision = found.revision + further if further else entry.mark.revision
    made = entry_of("risk", entry_fields(entry) | {"drawdown_lookback_days": str(FORGED), "@revision": str(revision)})
    state = xor(found.state, [entry.mark.digest, made.mark.digest])
    return Lie(found, replace(found, revision=found.revision + further, state=state), made)


def write_head(pipeline: Any, head: Head, ring: Keyring | None) -> None:
    pipeline.hdel(KEYS.head, "signature", "asof_of", "asof_signature")
    pipeline.hset(KEYS.head, mapping=head.fields() | ({"signature": ring.of_head(head)} if ring else {}))


def write_all(pipeline: Any, told: Lie, ring: Keyring | None) -> None:
    signature = {"@signature": ring.of_block(told.head.bus, told.entry)} if ring else {}
    pipeline.delete(RISK)
    pipeline.hset(RISK, mapping=entry_fields(told.entry) | signature)
    pipeline.hset(KEYS.index, "risk", str(told.entry.mark))
    write_head(pipeline, told.head, ring)


def say(pipeline: Any, message: str, ring: Keyring | None) -> None:
    pipeline.publish(KEYS.channel, ring.signed(message) if ring else message)


def announce(pipeline: Any, told: Lie, ring: Keyring | None) -> None:
    say(pipeline, announcement(told.head, told.found.state, AT, [told.entry]), ring)


def at_once(client: Any, write: Callable[[Any], None]) -> None:
    """What was read has not changed when it is written."""
    client.transaction(write, KEYS.head, KEYS.index, RISK)


def forge_hashes(client: Any, ring: Keyring | None) -> None:
    """Another content at the same revision."""

    def write(pipeline: Any) -> None:
        told = lie(pipeline)
        pipeline.multi()
        write_all(pipeline, told, ring)
        say(pipeline, bookmark(told.head, AT), ring)

    at_once(client, write)


def forge_release(client: Any, ring: Keyring | None) -> None:
    """The next release, in the hashes and announced."""

    def write(pipeline: Any) -> None:
        told = lie(pipeline, 1)
        pipeline.multi()
        write_all(pipeline, told, ring)
        announce(pipeline, told, ring)

    at_once(client, write)


def forge_announcement(client: Any, ring: Keyring | None) -> None:
    """The next release, announced alone."""

    def write(pipeline: Any) -> None:
        told = lie(pipeline, 1)
        pipeline.multi()
        announce(pipeline, told, ring)

    at_once(client, write)


def forge_bookmark(client: Any, ring: Keyring | None) -> None:
    """A message that the head is far ahead."""
    say(client, bookmark(lie(client, FAR).head, AT), ring)


def forge_head(client: Any, ring: Keyring | None) -> None:
    """A head far ahead."""

    def write(pipeline: Any) -> None:
        told = lie(pipeline, FAR)
        pipeline.multi()
        write_head(pipeline, told.head, ring)

    at_once(client, write)


def forge_epoch(client: Any, ring: Keyring | None) -> None:
    """All of it in a new history."""

    def write(pipeline: Any) -> None:
        told = lie(pipeline, 1)
        later = replace(told, head=replace(told.head, epoch=told.head.epoch + 1))
        pipeline.multi()
        write_all(pipeline, later, ring)
        announce(pipeline, later, ring)

    at_once(client, write)


FORGERIES: tuple[Forge, ...] = (
    forge_hashes,
    forge_release,
    forge_announcement,
    forge_bookmark,
    forge_head,
    forge_epoch,
)


def is_right(client: Any, url: str, ring: Keyring | None) -> bool:
    """Whether what is in Redis fits together, is ours, and holds nothing forged."""
    if redis_fault(url) is not None or client.hget(RISK, "drawdown_lookback_days") in (None, str(FORGED)):
        return False
    fields = client.hgetall(KEYS.head)
    return ring is None or ring.is_signed(read_head(fields), fields)


def fooled(lives: list[Life]) -> list[str]:
    """The workers that ever adopted the forged value, or told their application of it."""
    return [
        life.worker
        for life in lives
        if any(adoption.values["risk"]["drawdown_lookback_days"] == FORGED for adoption in life.adoptions)
        or any((call.values or {}).get("drawdown_lookback_days") == FORGED for call in life.calls)
    ]
