"""What travels through Redis, and how it is known to be whole: keys, entries, heads, messages.

A block is a hash whose fields hold canonical JSON texts, made by Postgres. Put in the order of
jsonb (shorter names first, then bytes) they are the *text* of an entry, and its digest covers
exactly these bytes. The head carries the XOR of all digests (`state`) and a digest over itself
(`check`). Nothing that does not fit is ever adopted.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from configbus.jsontext import members, read_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PROTOCOL = 1
INLINE_LIMIT = 32 * 1024
"""Bytes of an announcement above which it carries names only."""
FARTHEST = 10**12
"""How far an epoch may lie above ours to be one: some thirty years."""
EMPTY_STATE = "0" * 32
HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)
NUMBER = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)
STAMP = re.compile(r"[0-9]{1,18}", re.ASCII)
HEAD_FIELDS = ("bus", "v", "system", "epoch", "revision", "state", "check")
SEEN_FIELDS = (*HEAD_FIELDS, "signature")
"""Of a head, what a publisher judges, and must find unchanged when it writes."""


class Malformed(Exception):
    """Something in Redis is not what a publisher would have written; the message says how."""


class NotUnderstood(Malformed):
    """A newer publisher wrote this; the reader keeps its last good content."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The order in which everything is compared."""

    epoch: int
    revision: int


@dataclass(frozen=True, slots=True)
class Release:
    """One release: its number, the history it belongs to, and the names of the blocks it changed."""

    revision: int
    epoch: int
    blocks: tuple[str, ...]

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one environment's things in Redis; the braces keep them in one cluster slot."""

    namespace: str
    environment: str

    @property
    def prefix(self) -> str:
        return f"{self.namespace}:{{{self.environment}}}:"

    @property
    def head(self) -> str:
        return self.prefix + "head"

    @property
    def index(self) -> str:
        return self.prefix + "index"

    @property
    def channel(self) -> str:
        return self.prefix + "changes"

    def block(self, name: str) -> str:
        return f"{self.prefix}block:{name}"

    def worker(self, name: str) -> str:
        return f"{self.prefix}worker:{name}"

    @property
    def workers(self) -> str:
        """The names of all workers, by the instant at which each was last heard of."""
        return self.prefix + "workers"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a history stands: the fields of the head hash that `check` covers."""

    bus: str
    system: str
    epoch: int
    revision: int
    state: str

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.revision)

    @property
    def check(self) -> str:
        covered = (self.bus, PROTOCOL, self.system, self.epoch, self.revision, self.state)
        return _short("\n".join(map(str, covered)))

    def fields(self) -> dict[str, str]:
        """As the head hash holds them."""
        return {
            "bus": self.bus,
            "v": str(PROTOCOL),
            "system": self.system,
            "epoch": str(self.epoch),
            "revision": str(self.revision),
            "state": self.state,
            "check": self.check,
        }


@dataclass(frozen=True, slots=True)
class Mark:
    """What the index says of one block: the revision that changed it last, and its digest."""

    revision: int
    digest: str

    def __str__(self) -> str:
        return f"{self.revision}:{self.digest}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One block as a release left it. `text` is the JSON object of all its hash fields; `partners` are the blocks
    that its release changed with it.
    """

    name: str
    mark: Mark
    text: str
    partners: tuple[str, ...] | Literal["*"]
    retired: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the channel; without `entries` it says only where the head is. `database` is the number of the one
    in Redis that it is about: all of them share their channels. What is below the head may have been `repaired`.
    """

    head: Head
    prev: str | None
    entries: tuple[Entry, ...] | None
    database: int = 0
    repaired: bool = False


def digest_of(name: str, text: str) -> str:
    """The digest of an entry's text, as Postgres computes it: 32 hexadecimal digits."""
    return _short(f"{name}\n{text}")


def xor(state: str, digests: Iterable[str]) -> str:
    """The state after these digests were put in, or taken out: both are the same."""
    value = int(state, 16)
    for digest in digests:
        value ^= int(digest, 16)
    return f"{value:032x}"


def entry_text(fields: Iterable[tuple[str, str]]) -> str:
    """The text of an entry from its fields in any order."""
    ordered = sorted(fields, key=lambda pair: (len(pair[0]), pair[0]))
    return "{" + ", ".join(f"{json.dumps(field)}: {value}" for field, value in ordered) + "}"


def read_entry(name: str, fields: Mapping[str, str]) -> Entry:
    """An entry from a block's hash, its digest computed from what is there; a signature covers it from outside."""
    return _entry(name, entry_text((field, text) for field, text in fields.items() if field != "@signature"))


def read_head(fields: Mapping[str, str]) -> Head:
    """The head from its hash; Malformed if it does not fit its check, NotUnderstood if it is of a newer protocol."""
    if (version := fields.get("v", str(PROTOCOL))) != str(PROTOCOL):
        newer = NUMBER.fullmatch(version) and int(version) > PROTOCOL
        raise (NotUnderstood if newer else Malformed)(f"protocol {version!r}, this reader knows {PROTOCOL}")
    if fields.get("needs"):
        raise NotUnderstood(f"it needs {fields['needs']}, which this reader does not know")
    if missing := [field for field in HEAD_FIELDS if field not in fields]:
        raise Malformed(f"head lacks {', '.join(missing)}")
    head = Head(
        bus=fields["bus"],
        system=fields["system"],
        epoch=_number("epoch", fields["epoch"]),
        revision=_number("revision", fields["revision"]),
        state=_hex("state", fields["state"]),
    )
    if fields["check"] != head.check:
        raise Malformed("head does not fit its check")
    return head


def read_stamp(fields: Mapping[str, str]) -> int | None:
    """Redis' clock in microseconds, up to which the head is known to be complete; None if nobody said."""
    stamp = fields.get("asof", "")
    return int(stamp) if STAMP.fullmatch(stamp) else None


def read_index(fields: Mapping[str, str]) -> dict[str, Mark]:
    """The index from its hash."""
    marks = {}
    for name, mark in fields.items():
        revision, _, digest = mark.partition(":")
        marks[name] = Mark(_number(f"index of {name}", revision), _hex(f"index of {name}", digest))
    return marks


def read_message(data: bytes) -> Message:
    """A message of the channel; Malformed if it is not one, or does not fit its check and digests."""
    try:
        text = data.decode()
        found = members(text)
        head = read_head({field: _plain(found[field]) for field in (*HEAD_FIELDS, "needs") if field in found})
        database = _number("db", _plain(found.get("db", "0")))
        if "prev" not in found or "blocks" not in found:
            return Message(head, None, None, database, found.get("repaired") == "true")
        blocks = members(found["blocks"])
        digests = {name: _plain(digest) for name, digest in members(found.get("digests", "{}")).items()}
        entries = tuple(_entry(name, block) for name, block in blocks.items())
        prev = _hex("prev", _plain(found["prev"]))
    except ValueError as error:
        raise Malformed(f"message is not the JSON of one: {error}") from error
    if {entry.name: entry.mark.digest for entry in entries} != digests:
        raise Malformed("the blocks do not fit their digests")
    return Message(head, prev, entries, database)


def announcement(head: Head, prev: str, at: str, entries: Iterable[Entry]) -> str:
    """The message that says a release happened; values stand in it exactly as in the hashes."""
    listed = list(entries)
    opening = f'{_head_json(head)}, "prev": "{prev}", "at": "{at}"'
    blocks = ", ".join(f"{json.dumps(entry.name)}: {entry.text}" for entry in listed)
    digests = ", ".join(f'{json.dumps(entry.name)}: "{entry.mark.digest}"' for entry in listed)
    whole = f'{{{opening}, "blocks": {{{blocks}}}, "digests": {{{digests}}}}}'
    if len(whole.encode()) <= INLINE_LIMIT:
        return whole
    return f'{{{opening}, "names": {json.dumps([entry.name for entry in listed])}}}'


def bookmark(head: Head, at: str, *, repaired: bool = False) -> str:
    """The message that says only where the head is, or also that what is below it was damaged until now."""
    told = ', "repaired": true' if repaired else ""
    return f'{{{_head_json(head)}, "at": "{at}"{told}}}'


def of_database(message: str, number: int) -> str:
    """A message that is about this database of Redis."""
    return f'{message[:-1]}, "db": {number}}}' if number else message


def make_entry(name: str, fields: list[tuple[str, str]], digest: str) -> Entry:
    """An entry as Postgres gives it, with the digest that Postgres computed."""
    envelope = {field: read_value(text) for field, text in fields if field.startswith("@")}
    return Entry(
        name, Mark(envelope["@revision"], digest), entry_text(fields), _partners(envelope), "@retired" in envelope
    )


def entry_fields(entry: Entry) -> dict[str, str]:
    """The hash fields of an entry: each value's own text, untouched."""
    return members(entry.text)


def is_whole(entry: Entry, fields: Mapping[str, str]) -> bool:
    """Whether a block's hash holds this entry, each field by itself: one may hold the text of several."""
    if entry_text(fields.items()) != entry.text:
        return False
    try:
        for text in fields.values():
            read_value(text)
    except ValueError:
        return fields == entry_fields(entry)
    return True


def _entry(name: str, text: str) -> Entry:
    """What stands in the text that the digest covers, not in the fields which it came from."""
    try:
        envelope = _members_of(text)
    except ValueError as error:
        raise Malformed(f"{name} is not JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise Malformed(f"{name} is no object")
    if type(envelope.get("@revision")) is not int:
        raise Malformed(f"{name} has no @revision")
    mark = Mark(envelope["@revision"], digest_of(name, text))
    return Entry(name, mark, text, _partners(envelope), "@retired" in envelope)


def _members_of(text: str) -> Any:
    """The members of an entry's text; what is nested too deep to be read stays text. Raises ValueError."""
    try:
        return read_value(text)
    except ValueError:
        return {field: read_value(part) if field.startswith("@") else part for field, part in members(text).items()}


def _partners(envelope: Mapping[str, Any]) -> tuple[str, ...] | Literal["*"]:
    partners = envelope.get("@with", [])
    if partners == "*":
        return "*"
    if not isinstance(partners, list) or not all(isinstance(name, str) for name in partners):
        raise Malformed(f"@with is {partners!r}")
    return tuple(partners)


def _plain(text: str) -> str:
    """A member of a message that is a text, a whole number or a list of texts, as a head's hash would hold it."""
    value = read_value(text)
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, str) or type(value) is int:
        return str(value)
    raise Malformed(f"message has {text[:40]} where a text or a whole number belongs")


def _number(what: str, text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise Malformed(f"{what} is {text!r}, not a whole number")
    return int(text)


def _hex(what: str, text: str) -> str:
    if not HEX.fullmatch(text):
        raise Malformed(f"{what} is {text!r}, not 32 hexadecimal digits")
    return text


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf8", "surrogatepass")).hexdigest()[:32]


def _head_json(head: Head) -> str:
    return (
        f'"bus": "{head.bus}", "v": {PROTOCOL}, "system": "{head.system}", "epoch": {head.epoch},'
        f' "revision": {head.revision}, "state": "{head.state}", "check": "{head.check}"'
    )
