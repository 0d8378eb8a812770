"""Signatures: what one key signed nobody else can have written, and nothing of it can be changed."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from entries import History, entry_of, history_of
from hypothesis import given
from hypothesis import strategies as st

from configbus.errors import SettingsError
from configbus.settings import load_settings, origins
from configbus.signing import Keyring, Unsigned, read_keys
from configbus.wire import Head, bookmark, entry_fields, read_message

WHERE = "configbus:{production}:"
KEYS = {"new": b"n" * 32, "old": b"o" * 32}
RING = Keyring(KEYS, WHERE)
OLDER = Keyring({"old": KEYS["old"]}, WHERE)
STRANGER = Keyring({"new": b"x" * 32}, WHERE)
ELSEWHERE = Keyring(KEYS, "configbus:{staging}:")
HEAD = Head("bus", "7311111111111111111", 1_769_860_800_001, 42, "0" * 32)


def history() -> History:
    return history_of({"trading": {}, "risk": {}})


def signed(head: Head, ring: Keyring = RING) -> dict[str, str]:
    return head.fields() | {"signature": ring.of_head(head)}


def test_a_head_is_believed_by_whoever_has_the_key() -> None:
    RING.check_head(HEAD, signed(HEAD))
    RING.check_head(HEAD, signed(HEAD, OLDER))
    OLDER.check_head(HEAD, signed(HEAD, OLDER))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (HEAD.fields(), "the head is not signed"),
        (signed(HEAD, STRANGER), "does not fit its signature with key new"),
        (signed(HEAD, ELSEWHERE), "does not fit its signature"),
        (HEAD.fields() | {"signature": "new"}, "does not fit its signature"),
        (HEAD.fields() | {"signature": "other:" + "0" * 64}, "a key that is not in CONFIGBUS_SIGNING_KEYS"),
        (HEAD.fields() | {"signature": "\xfc:\xfc"}, "a key that is not in"),
    ],
)
def test_a_head_of_nobody_known_is_refused_with_the_reason(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(Unsigned, match=reason):
        RING.check_head(HEAD, fields)
    assert not RING.is_signed(HEAD, fields)


@pytest.mark.parametrize(
    "other",
    [
        replace(HEAD, bus="other"),
        replace(HEAD, system="1"),
        replace(HEAD, epoch=HEAD.epoch + 1),
        replace(HEAD, revision=43),
        replace(HEAD, state="1" + "0" * 31),
    ],
)
def test_nothing_of_a_head_can_be_changed(other: Head) -> None:
    assert not RING.is_signed(other, signed(HEAD))


def test_a_block_is_signed_with_its_name_revision_and_content() -> None:
    entry = history().entries["risk"]
    fields = entry_fields(entry) | {"@signature": RING.of_block("bus", entry)}
    RING.check_block("bus", entry, fields)
    changed = entry_of("risk", entry_fields(entry) | {"max_order_attempts": "9"})
    for bus, what in [("other", entry), ("bus", changed), ("bus", replace(entry, name="trading"))]:
        with pytest.raises(Unsigned, match=r"block (risk|trading) does not fit its signature"):
            RING.check_block(bus, what, fields)
    with pytest.raises(Unsigned, match="block risk is not signed"):
        RING.check_block("bus", entry, entry_fields(entry))


@given(st.data())
def test_a_message_cannot_be_changed_in_any_byte(data: st.DataObject) -> None:
    message = RING.signed(bookmark(HEAD, "2026-01-31T12:00:00.000000Z")).encode()
    RING.check_message(message)
    assert read_message(message).head == HEAD
    at = data.draw(st.integers(0, len(message) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != message[at]))
    with pytest.raises(Unsigned):
        RING.check_message(message[:at] + bytes([byte]) + message[at + 1 :])


@pytest.mark.parametrize(
    "message", [b"", b"{}", b"\xff", bookmark(HEAD, "").encode(), RING.signed("{}").encode() + b" "]
)
def test_what_is_no_signed_message_is_refused(message: bytes) -> None:
    with pytest.raises(Unsigned):
        RING.check_message(message)


def test_a_signature_of_one_thing_is_none_of_another() -> None:
    entry = history().entries["risk"]
    for signature in (RING.of_stamp(HEAD, 1), json.loads(RING.of_block(HEAD.bus, entry))):
        assert not RING.is_signed(HEAD, HEAD.fields() | {"signature": signature})


def stamped(head: Head, at: Head, asof: int = 7, ring: Keyring = RING) -> dict[str, str]:
    """A head that was stamped when Postgres was `at`."""
    mark = f"{at.revision}:{at.state}"
    return signed(head) | {"asof": str(asof), "asof_of": mark, "asof_signature": ring.of_stamp(at, asof)}


def test_a_stamp_vouches_for_its_head_and_for_later_ones_of_its_history() -> None:
    assert RING.is_stamped(HEAD, stamped(HEAD, HEAD))
    earlier = replace(HEAD, revision=41, state="1" * 32)
    assert RING.is_stamped(HEAD, stamped(HEAD, earlier))
    assert not RING.is_stamped(earlier, stamped(earlier, HEAD))
    assert not RING.is_stamped(HEAD, stamped(HEAD, replace(HEAD, state="1" * 32)))
    assert not RING.is_stamped(HEAD, stamped(HEAD, replace(earlier, epoch=HEAD.epoch - 1000)))
    assert not RING.is_stamped(HEAD, stamped(HEAD, HEAD, ring=STRANGER))
    assert not RING.is_stamped(HEAD, stamped(HEAD, HEAD) | {"asof": "8"})
    assert not RING.is_stamped(HEAD, signed(HEAD) | {"asof": "7"})


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_keys_are_read_newest_first() -> None:
    assert read_keys(f"new:{encoded(KEYS['new'])}, old:{encoded(KEYS['old'])}") == KEYS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hunter2", "key 1 must be ID:BASE64"),
        ("A:hunter2", "key 1 must be ID:BASE64"),
        ("a:hunter2!", "key 1 is not base64"),
        (f"a:{encoded(b'hunter2hunter2')}", "key 1 has 14 bytes, not 32"),
        (f"a:{encoded(b'x' * 32)},a:{encoded(b'y' * 32)}", "key 2 has the id of one before it"),
        (f"a:{encoded(b'x' * 32)},", "key 2 must be"),
    ],
)
def test_a_key_that_is_none_is_refused_and_not_shown(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as told:
        load_settings({"CONFIGBUS_SIGNING_KEYS": text})
    assert "hunter2" not in str(told.value)


def test_settings_show_the_ids_of_keys_alone() -> None:
    given = {"CONFIGBUS_SIGNING_KEYS": f"new:{encoded(KEYS['new'])},old:{encoded(KEYS['old'])}"}
    settings = load_settings(given)
    shown = {origin.variable: origin.value for origin in origins(settings, given, {})}
    assert shown["CONFIGBUS_SIGNING_KEYS"] == "new:***,old:***"
    assert encoded(KEYS["new"]) not in repr(settings)
    assert settings.keyring is not None
    assert load_settings({}).keyring is None
