"""What a worker keeps of its last good state for its next start, and the text that a file holds of it.

The received state and, for blocks that are held, the older content that is in force, so that a worker that starts
stands where it stood. Nothing of it is believed that does not fit its digests.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configbus import wire
from configbus.wire import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.wire import Entry, Head, Mark

FORMAT = 1
OPENING = "configbus last-good snapshot, format"


@dataclass(frozen=True, slots=True)
class LastGood:
    """A received state: head, index and the followed entries; `good` has the entries in force where others are held.

    `vouched` is the instant up to which it was known to be complete, None where it never was: seconds on the clock
    of whoever has it.
    """

    head: Head
    index: Mapping[str, Mark]
    entries: Mapping[str, Entry]
    good: Mapping[str, Entry]
    vouched: float | None = None

    @property
    def in_force(self) -> dict[str, Entry]:
        """The entries that were adopted."""
        return {**self.entries, **self.good}


def to_text(kept: LastGood, where: str) -> str:
    """The file's text: a line with format and checksum, then one JSON object. `where` is the environment's prefix."""
    body = json.dumps(
        {
            "where": where,
            "head": kept.head.fields(),
            "index": {name: str(mark) for name, mark in kept.index.items()},
            "blocks": {name: entry.text for name, entry in kept.entries.items()},
            "good": {name: entry.text for name, entry in kept.good.items()},
        }
    )
    return f"{OPENING} {FORMAT}, sha256 {_checksum(body)}\n{body}\n"


def from_text(text: str, where: str) -> LastGood:
    """What a file's text holds. Raises Malformed with the reason why it is not to be used."""
    first, _, body = text.partition("\n")
    opening, _, told = first.partition(", sha256 ")
    if not opening.startswith(OPENING):
        raise Malformed("is no last-good snapshot")
    if opening != f"{OPENING} {FORMAT}":
        raise Malformed(f"has format {opening.removeprefix(OPENING).strip()!r}, and this configbus reads {FORMAT}")
    body = body.removesuffix("\n")
    if told != _checksum(body):
        raise Malformed("does not fit its checksum")
    found: dict[str, Any] = json.loads(body)
    if found["where"] != where:
        raise Malformed(f"is of {found['where']!r}, not of {where!r}")
    head, index = wire.read_head(found["head"]), wire.read_index(found["index"])
    entries = {name: _entry(name, text) for name, text in found["blocks"].items()}
    if wire.xor(wire.EMPTY_STATE, (mark.digest for mark in index.values())) != head.state:
        raise Malformed("has an index that does not add up to its state")
    if strangers := [name for name, entry in entries.items() if index.get(name) != entry.mark]:
        raise Malformed(f"has content of {strangers[0]} that does not fit its index")
    return LastGood(head, index, entries, {name: _entry(name, text) for name, text in found["good"].items()})


def _entry(name: str, text: str) -> Entry:
    return wire.read_entry(name, wire.members(text))


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
