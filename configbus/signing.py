"""Who wrote what is in Redis: signatures that nobody can make without a key of CONFIGBUS_SIGNING_KEYS.

HMAC-SHA-256 over what a thing is, the environment it belongs to, and all that is believed of it. A signature is
`KEYID:HEX`. What is published is signed with the newest key; every key of the ring is accepted, so that one can be
exchanged for another while everything runs.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from typing import TYPE_CHECKING

from configbus.wire import Malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.wire import Entry, Head

KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
SHORTEST_KEY = 32
"""Bytes; a key that people make up is too easily guessed."""
SIGNED = re.compile(r', "signature": "([a-z0-9-]{1,32}:[0-9a-f]{64})"\}\Z', re.ASCII)
"""How a signed message ends."""


class Unsigned(Malformed):
    """Nobody who has one of our keys wrote this."""


class Keyring:
    """The keys of one environment, newest first; `where` is the beginning of its keys in Redis."""

    def __init__(self, keys: Mapping[str, bytes], where: str) -> None:
        self._keys = dict(keys)
        self._newest = next(iter(self._keys))
        self._where = where

    def of_head(self, head: Head) -> str:
        """The signature of a head."""
        return self._sign(_head(head))

    def of_index(self, head: Head, chain: str, index: Mapping[str, str]) -> str:
        """The signature of which blocks there are at a head, at which revisions, and of the hash of their history."""
        return self._sign(_index(head, chain, index))

    def of_block(self, bus: str, entry: Entry) -> str:
        """The signature of a block's content at its revision, as its hash holds it."""
        return f'"{self._sign(_block(bus, entry))}"'

    def of_stamp(self, head: Head, asof: int) -> str:
        """The signature of a stamp, made when Postgres was at this head."""
        return self._sign(_stamp(head, asof, _mark(head)))

    def signed(self, message: str) -> str:
        """A message of the channel with its signature."""
        return f'{message[:-1]}, "signature": "{self._sign(["message", message])}"}}'

    def check_head(self, head: Head, fields: Mapping[str, str]) -> None:
        """Raises Unsigned."""
        self._check("the head", _head(head), fields.get("signature", ""))

    def check_index(self, head: Head, fields: Mapping[str, str], index: Mapping[str, str]) -> None:
        """Raises Unsigned."""
        self._check("the index", _index(head, fields.get("chain", ""), index), fields.get("index_signature", ""))

    def check_block(self, bus: str, entry: Entry, fields: Mapping[str, str]) -> None:
        """Raises Unsigned."""
        self._check(f"block {entry.name}", _block(bus, entry), fields.get("@signature", "").strip('"'))

    def check_message(self, data: bytes) -> None:
        """Raises Unsigned."""
        text = data.decode(errors="replace")
        found = SIGNED.search(text)
        self._check("a message", ["message", text[: found.start()] + "}"] if found else [], found[1] if found else "")

    def is_signed(self, head: Head, fields: Mapping[str, str]) -> bool:
        """Whether one of ours wrote a head."""
        try:
            self.check_head(head, fields)
        except Unsigned:
            return False
        return True

    def is_index_signed(self, head: Head, fields: Mapping[str, str], index: Mapping[str, str]) -> bool:
        """Whether one of ours wrote an index."""
        try:
            self.check_index(head, fields, index)
        except Unsigned:
            return False
        return True

    def is_block_signed(self, bus: str, entry: Entry, fields: Mapping[str, str]) -> bool:
        """Whether one of ours wrote a block."""
        try:
            self.check_block(bus, entry, fields)
        except Unsigned:
            return False
        return True

    def is_stamped(self, head: Head, fields: Mapping[str, str]) -> bool:
        """Whether one of our relays made the stamp, when Postgres was at this head, or before it in its history."""
        revision, _, state = (mark := fields.get("asof_of", "")).partition(":")
        earlier = revision.isdecimal() and len(revision) < len(str(1 << 63)) and int(revision) < head.revision
        if not earlier and (revision, state) != (str(head.revision), head.state):
            return False
        try:
            self._check("", _stamp(head, int(fields.get("asof", "")), mark), fields.get("asof_signature", ""))
        except (Unsigned, ValueError):
            return False
        return True

    def _sign(self, parts: list[str]) -> str:
        return f"{self._newest}:{self._digest(self._newest, parts)}"

    def _check(self, what: str, parts: list[str], signature: str) -> None:
        key_id, _, digest = signature.partition(":")
        if not signature:
            raise Unsigned(f"{what} is not signed")
        if key_id not in self._keys:
            raise Unsigned(f"{what} is signed with a key that is not in CONFIGBUS_SIGNING_KEYS")
        if not hmac.compare_digest(digest.encode(), self._digest(key_id, parts).encode()):
            raise Unsigned(f"{what} does not fit its signature with key {key_id}")

    def _digest(self, key_id: str, parts: list[str]) -> str:
        return hmac.digest(self._keys[key_id], json.dumps([self._where, *parts]).encode(), "sha256").hex()


def read_keys(text: str) -> dict[str, bytes]:
    """Keys by id, newest first, from `ID:BASE64,ID:BASE64`. Raises ValueError, which says nothing of a key."""
    keys: dict[str, bytes] = {}
    for number, part in enumerate(text.split(","), 1):
        key_id, colon, encoded = part.strip().partition(":")
        if not colon or not KEY_ID.fullmatch(key_id):
            raise ValueError(f"key {number} must be ID:BASE64, with an id of 1 to 32 of a-z, 0-9 and -")
        if key_id in keys:
            raise ValueError(f"key {number} has the id of one before it")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"key {number} is not base64") from None
        if len(key) < SHORTEST_KEY:
            raise ValueError(
                f"key {number} has {len(key)} bytes, not {SHORTEST_KEY}: openssl rand -base64 32 makes one"
            )
        keys[key_id] = key
    return keys


def _head(head: Head) -> list[str]:
    return ["head", head.bus, head.system, str(head.epoch), str(head.revision), head.state]


def _index(head: Head, chain: str, index: Mapping[str, str]) -> list[str]:
    marks = (part for pair in sorted(index.items()) for part in pair)
    return ["index", head.bus, str(head.epoch), str(head.revision), chain, *marks]


def _block(bus: str, entry: Entry) -> list[str]:
    return ["block", bus, entry.name, str(entry.mark.revision), entry.text]


def _stamp(head: Head, asof: int, mark: str) -> list[str]:
    return ["stamp", head.bus, head.system, str(head.epoch), mark, str(asof)]


def _mark(head: Head) -> str:
    return f"{head.revision}:{head.state}"
