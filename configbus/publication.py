"""What a publisher does about what it finds in Redis; pure decisions, as the simulator knows them too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from configbus.wire import FARTHEST, Head, Malformed, NotUnderstood, entry_fields, is_whole, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from configbus.signing import Keyring
    from configbus.wire import Entry


UNCOVERED = ("asof", "asof_of", "asof_signature", "chain", "index_signature", "published_at", "signature")
"""Fields of a head that its check does not cover."""


NO_TEXT = "\ufffd"
"""What stands for bytes that are no UTF-8: no worker reads a hash that holds such."""


class Verdict(Enum):
    """What to do so that Redis stands where Postgres stands."""

    DONE = "Redis is there already"
    AHEAD = "Redis is beyond, in the same history"
    REPLAY = "publish the releases that are missing, in order"
    LAY_DOWN = "lay down the whole state: the head is missing, broken or of an older history"
    SUPERSEDED = "Redis follows a newer history: this Postgres is not the truth any more"
    DIVERGED = "Redis has other content at the same position"
    FOREIGN = "another installation, or a newer configbus, uses these keys"


def judge(found: Mapping[str, str], truth: Head, ring: Keyring | None = None) -> tuple[Verdict, Head | None]:
    """The verdict on the head's fields as found in Redis, and the head if it is a whole one.

    With keys a head that none of ours wrote is a broken one, unless it is of another installation: that may be live.
    """
    if not found:
        return Verdict.LAY_DOWN, None
    try:
        head = read_head(found)
    except NotUnderstood:
        return Verdict.FOREIGN, None
    except Malformed:
        return Verdict.LAY_DOWN, None
    if head.bus != truth.bus:
        return Verdict.FOREIGN, head
    if head.epoch > truth.epoch + FARTHEST or (ring is not None and not ring.is_signed(head, found)):
        return Verdict.LAY_DOWN, None
    if head.epoch != truth.epoch:
        return (Verdict.SUPERSEDED if head.epoch > truth.epoch else Verdict.LAY_DOWN), head
    if head.revision != truth.revision:
        return (Verdict.REPLAY if head.revision < truth.revision else Verdict.AHEAD), head
    return (Verdict.DONE if head.state == truth.state else Verdict.DIVERGED), head


def fault_of(found: Mapping[str, str], ring: Keyring | None) -> str:
    """Why a head that was found is not gone on from, as far as it shows."""
    if not found:
        return "there is no head"
    try:
        head = read_head(found)
        if ring is not None:
            ring.check_head(head, found)
    except Malformed as fault:
        return str(fault)
    return f"revision {head.revision} of epoch {head.epoch} is too old, or what is below it is damaged"


def is_lost(verdict: Verdict, head: Head | None, truth: Head, timeline: int, then: str) -> bool:
    """Whether Postgres has lost what Redis holds, given that Redis was read first: it was set back, or its epoch was.
    `then` is the state that Postgres had at the revision of the head.

    An epoch of this very server that is above Postgres' own, and of no later timeline, is one that got lost;
    any other higher epoch is that of a primary which has taken over.
    """
    if verdict is Verdict.SUPERSEDED and head is not None:
        return head.system == truth.system and head.epoch % 1000 <= timeline
    if verdict is Verdict.REPLAY and head is not None:
        return head.state != then
    return verdict in (Verdict.AHEAD, Verdict.DIVERGED)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in Redis that is not what Postgres released; None where there is none. `where` is a block's name,
    `@head` or `@index`.
    """

    where: str
    field: str
    found: str | None
    expected: str | None
    renewal: bool = False
    """A signature that is right, made with an older key: nothing is wrong."""


def differences(
    head: Head,
    entries: Mapping[str, Entry],
    found_head: Mapping[str, str],
    found_index: Mapping[str, str],
    found_blocks: Mapping[str, Mapping[str, str]],
    ring: Keyring | None = None,
) -> Iterator[Difference]:
    """What differs in Redis from a state of Postgres, for the blocks that were read. Without keys signatures are left
    alone.
    """
    covered = {name: found_head[name] for name in found_head if name not in UNCOVERED}
    yield from _between("@head", covered, head.fields())
    for name in UNCOVERED:
        if NO_TEXT in found_head.get(name, ""):
            yield Difference("@head", name, found_head[name], None)
    index = {name: str(entry.mark) for name, entry in entries.items()}
    yield from _between("@index", found_index, index)
    for name, found in found_blocks.items():
        entry, content = entries[name], {field: found[field] for field in found if field != "@signature"}
        if not is_whole(entry, content):
            yield from _between(name, content, entry_fields(entry))
        elif ring is not None and (right := ring.of_block(head.bus, entry)) != (there := found.get("@signature")):
            yield Difference(name, "@signature", there, right, ring.is_block_signed(head.bus, entry, found))
    if ring is None:
        return
    if (right := ring.of_head(head)) != (there := found_head.get("signature")):
        yield Difference("@head", "signature", there, right, ring.is_signed(head, found_head))
    right, there = ring.of_index(head, found_head.get("chain", ""), index), found_head.get("index_signature")
    if right != there:
        yield Difference("@head", "index_signature", there, right, ring.is_index_signed(head, found_head, index))


def _between(where: str, found: Mapping[str, str], expected: Mapping[str, str]) -> Iterator[Difference]:
    for field in sorted(found.keys() | expected.keys()):
        if found.get(field) != expected.get(field):
            yield Difference(where, field, found.get(field), expected.get(field))
