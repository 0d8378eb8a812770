"""What a worker keeps of its last good state for its next start, and the text that a file holds of it.

The received state and, for blocks that are held, the older content that is in force, so that a worker that starts
stands where it stood. Nothing of it is believed that does not fit its digests.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from configbus import jsontext, wire
from configbus.wire import Malformed, Position

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.wire import Entry, Head, Mark

FORMAT = 2
OPENING = "configbus last-good snapshot, format"


@dataclass(frozen=True, slots=True)
class LastGood:
    """A received state: head, index and the followed entries; `good` tells for the blocks that were held which
    entries are in force instead, None for none: then the model's defaults are, or for a key nothing.

    `vouched` is the instant up to which it was known to be complete, None where it never was: seconds on the clock
    of whoever has it. `signed` says that whoever kept it had keys, and took nothing that nobody with a key wrote.
    """

    head: Head
    index: Mapping[str, Mark]
    entries: Mapping[str, Entry]
    good: Mapping[str, Entry | None]
    vouched: float | None = None
    signed: bool = False

    def beside(self, other: LastGood) -> LastGood:
        """The same, with what another worker that shares the file has in force of blocks that it holds: one of other
        code may hold what this one takes. Of one state it is known to be complete up to the later instant.
        """
        theirs = {name: entry for name, entry in other.good.items() if entry is not None and name in self.entries}
        ours = {name: entry for name, entry in self.good.items() if entry is not None or name not in theirs}
        known = [kept.vouched for kept in (self, other) if kept.head == self.head and kept.vouched is not None]
        return replace(self, good=theirs | ours, vouched=max(known, default=None))

    @property
    def in_force(self) -> dict[str, Entry]:
        """The entries that were adopted."""
        return {name: entry for name, entry in {**self.entries, **self.good}.items() if entry is not None}


def to_text(kept: LastGood, where: str) -> str:
    """The file's text: a line with format and checksum, then one JSON object. `where` is the environment's prefix."""
    body = json.dumps(
        {
            "where": where,
            "head": kept.head.fields(),
            "index": {name: str(mark) for name, mark in kept.index.items()},
            "blocks": {name: entry.text for name, entry in kept.entries.items()},
            "good": {name: entry.text if entry is not None else None for name, entry in kept.good.items()},
            "vouched": kept.vouched,
            "signed": kept.signed,
        }
    )
    head = kept.head
    told = f"epoch {head.epoch}, revision {head.revision}, held {len(kept.good)}"
    return f"{OPENING} {FORMAT}, {told}, sha256 {_checksum(body)}\n{body}\n"


def read_heading(line: str) -> tuple[Position, int] | None:
    """The position that the first line of a file tells, and of how many blocks it holds older content; None where it is
    no such line.
    """
    number = r"(\d{1,15})"
    pattern = rf"{OPENING} {FORMAT}, epoch {number}, revision {number}, held {number}, sha256 \w+"
    found = re.fullmatch(pattern, line.strip(), re.ASCII)
    return (Position(int(found[1]), int(found[2])), int(found[3])) if found else None


def from_text(text: str, where: str) -> LastGood:
    """What a file's text holds. Raises Malformed with the reason why it is not to be used."""
    first, _, body = text.partition("\n")
    if not first.startswith(OPENING):
        raise Malformed("is no last-good snapshot")
    if (form := first.removeprefix(OPENING).partition(",")[0].strip()) != str(FORMAT):
        raise Malformed(f"has format {form!r}, and this configbus reads {FORMAT}")
    body = body.removesuffix("\n")
    heading = read_heading(first)
    if heading is None or not first.endswith(f"sha256 {_checksum(body)}"):
        raise Malformed("does not fit its checksum")
    found: dict[str, Any] = json.loads(body)
    if found["where"] != where:
        raise Malformed(f"is of {found['where']!r}, not of {where!r}")
    head, index = wire.read_head(found["head"]), wire.read_index(found["index"])
    entries = {name: _entry(name, text) for name, text in found["blocks"].items()}
    if wire.xor(wire.EMPTY_STATE, (mark.digest for mark in index.values())) != head.state:
        raise Malformed("has an index that does not add up to its state")
    if (head.position, len(found["good"])) != heading:
        raise Malformed("does not fit its first line")
    if strangers := [name for name, entry in entries.items() if index.get(name) != entry.mark]:
        raise Malformed(f"has content of {strangers[0]} that does not fit its index")
    good = {name: _entry(name, text) if text is not None else None for name, text in found["good"].items()}
    vouched = float(found["vouched"]) if found["vouched"] is not None else None
    return LastGood(head, index, entries, good, vouched, found.get("signed") is True)


def _entry(name: str, text: str) -> Entry:
    return wire.read_entry(name, jsontext.members(text))


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
