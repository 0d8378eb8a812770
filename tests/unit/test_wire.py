"""What travels through Redis is the same afterwards, or it is not believed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from entries import AT, BUS, EPOCH, SYSTEM, History, entry_of
from hypothesis import given, settings
from hypothesis import strategies as st

from configbus.wire import (
    EMPTY_STATE,
    HEAD_FIELDS,
    INLINE_LIMIT,
    Entry,
    Head,
    Keys,
    Malformed,
    Mark,
    Message,
    NotUnderstood,
    Position,
    Release,
    announcement,
    bookmark,
    digest_of,
    entry_fields,
    entry_text,
    is_whole,
    make_entry,
    of_database,
    read_entry,
    read_head,
    read_index,
    read_message,
    read_stamp,
    xor,
)

QUICK = settings(max_examples=60, deadline=None)

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}(/[A-Za-z0-9][A-Za-z0-9_-]{0,8})?", fullmatch=True)
FIELDS = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
STATES = st.integers(0, 2**128 - 1).map("{:032x}".format)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXTS, parts, max_size=3),
    max_leaves=6,
)


@st.composite
def entries(draw: st.DrawFn, name: str | None = None) -> Entry:
    """An entry as Postgres makes it: texts of JSON, with or without escapes."""
    content: dict[str, Any] = draw(st.dictionaries(FIELDS, VALUES, max_size=4))
    content["@revision"] = draw(st.integers(1, 10**15 - 1))
    content["@with"] = draw(st.just("*") | st.lists(NAMES, max_size=3))
    if draw(st.booleans()):
        content["@retired"] = True
    escaped = draw(st.booleans())
    texts = {field: json.dumps(value, ensure_ascii=escaped) for field, value in content.items()}
    return entry_of(draw(NAMES) if name is None else name, texts)


HEADS = st.builds(
    Head,
    bus=st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
    system=st.from_regex(r"[0-9]{19}", fullmatch=True),
    epoch=st.integers(0, 10**15 - 1),
    revision=st.integers(0, 10**15 - 1),
    state=STATES,
)
SEVERAL = st.lists(entries(), max_size=4, unique_by=lambda entry: entry.name)
HEAD = Head(BUS, SYSTEM, EPOCH, 42, "0123456789abcdef0123456789abcdef")


def message_of(head: Head, **others: Any) -> bytes:
    """A message whose head fits its check, with other members beside it."""
    members: dict[str, Any] = dict(head.fields())
    members |= {"v": 1, "epoch": head.epoch, "revision": head.revision, "at": AT}
    return json.dumps(members | others).encode()


@given(head=HEADS, prev=STATES, several=SEVERAL)
@QUICK
def test_an_announcement_is_read_as_it_was_written(head: Head, prev: str, several: list[Entry]) -> None:
    told = announcement(head, prev, AT, several).encode()
    assert read_message(told) == Message(head, prev, tuple(several))


@given(head=HEADS)
@QUICK
def test_a_bookmark_is_read_as_it_was_written(head: Head) -> None:
    assert read_message(bookmark(head, AT).encode()) == Message(head, None, None)


def test_a_message_says_which_database_it_is_about_unless_that_is_the_first() -> None:
    assert of_database(SMALL.message.decode(), 0).encode() == SMALL.message
    for message in (SMALL.message, SMALL.bookmark):
        assert read_message(of_database(message.decode(), 15).encode()) == replace(read_message(message), database=15)


def test_a_message_is_the_documented_json() -> None:
    step = History().release({"risk": {}, "strategy/a": {"size": 7}})
    risk, strategy = step.entries
    whole = json.loads(step.message)
    assert list(whole) == [
        "bus",
        "v",
        "system",
        "epoch",
        "revision",
        "state",
        "check",
        "prev",
        "at",
        "blocks",
        "digests",
    ]
    assert (whole["bus"], whole["v"], whole["system"]) == (BUS, 1, SYSTEM)
    assert (whole["epoch"], whole["revision"], whole["prev"]) == (EPOCH, 1, EMPTY_STATE)
    assert whole["state"] == step.head.state
    assert whole["at"] == AT
    assert whole["digests"] == {"risk": risk.mark.digest, "strategy/a": strategy.mark.digest}
    assert whole["blocks"]["strategy/a"]["size"] == 7
    assert whole["blocks"]["strategy/a"]["@with"] == ["risk"]
    assert list(json.loads(step.bookmark)) == [*HEAD_FIELDS, "at"]


def test_values_stand_in_an_announcement_exactly_as_in_the_hash() -> None:
    entry = entry_of("trading", {"@revision": "7", "a": '"0.700"', "long_one": '{"b":  1.0, "\\u00e9": 1e2}'})
    told = announcement(HEAD, EMPTY_STATE, AT, [entry])
    assert entry.text in told
    (read,) = read_message(told.encode()).entries or ()
    assert entry_fields(read) == {"@revision": "7", "a": '"0.700"', "long_one": '{"b":  1.0, "\\u00e9": 1e2}'}


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f680"])
def test_above_the_limit_in_bytes_a_message_carries_names_only(letter: str) -> None:
    def told(extra: int) -> str:
        text = json.dumps(letter * 5_000 + "x" * extra, ensure_ascii=False)
        return announcement(HEAD, EMPTY_STATE, AT, [entry_of("trading", {"@revision": "42", "text": text})])

    room = INLINE_LIMIT - len(told(0).encode())
    inline, names = told(room), told(room + 1)
    assert len(inline.encode()) == INLINE_LIMIT == 32 * 1024
    assert read_message(inline.encode()).entries is not None
    assert json.loads(names)["names"] == ["trading"]
    assert "blocks" not in json.loads(names)
    assert read_message(names.encode()) == Message(HEAD, None, None)


SMALL = History().release({"strategy/a": {"size": 5}, "strategy/b": None})


def same_or_less(data: bytes) -> None:
    """Whatever was done to the message: it is not believed, or tells what the original told, or a part of it."""
    original = read_message(SMALL.message)
    try:
        read = read_message(data)
    except Malformed:
        return
    assert read.head == original.head
    assert read.entries in (original.entries, None)


def test_no_flipped_bit_makes_another_content() -> None:
    whole = SMALL.message
    for at in range(len(whole)):
        for bit in range(8):
            same_or_less(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])


@given(at=st.integers(0, len(SMALL.message) - 1), byte=st.integers(0, 255))
@settings(max_examples=500, deadline=None)
def test_no_changed_byte_makes_another_content(at: int, byte: int) -> None:
    whole = SMALL.message
    same_or_less(whole[:at] + bytes([byte]) + whole[at + 1 :])


@given(
    start=st.integers(0, len(SMALL.message)),
    length=st.integers(0, 40),
    instead=st.binary(max_size=8),
    n=st.integers(0, 2),
)
@settings(max_examples=300, deadline=None)
def test_nothing_cut_out_put_in_or_repeated_makes_another_content(
    start: int, length: int, instead: bytes, n: int
) -> None:
    whole = SMALL.message
    same_or_less(whole[:start] + instead + whole[start : start + length] * n + whole[start + length :])


@pytest.mark.parametrize("member", [*HEAD_FIELDS, "blocks", "digests", "prev", "at"])
def test_no_member_taken_away_or_replaced_makes_another_content(member: str) -> None:
    whole = json.loads(SMALL.message)
    without = {name: value for name, value in whole.items() if name != member}
    same_or_less(json.dumps(without).encode())
    other = History(EPOCH + 1, "ffffffffffff").release({"strategy/a": {"size": 6}})
    for value in (None, True, 0, -1, 7, "", "x", "0" * 32, [], [1], {}, {"a": 1}, json.loads(other.message)[member]):
        same_or_less(json.dumps(whole | {member: value}).encode())


@given(data=st.binary(max_size=64) | st.text(max_size=64).map(str.encode) | VALUES.map(json.dumps).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_junk_is_malformed_and_never_anything_else(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_message(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"hello",
        b"null",
        b"42",
        b'"text"',
        b"[]",
        b"{}",
        b"{",
        b'{"bus"',
        b'{"bus":',
        b'{"bus": "a"',
        b'{"bus": "a",',
        b'{"bus": "a",}',
        b"{bus: 1}",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a": "\x00"}',
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"epoch": ' + b"9" * 5_000 + b"}",
        b"x" * (8 << 20),
        b'{"a": "' + b"x" * (8 << 20) + b'"}',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_message_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_message(data)


def test_an_object_that_is_not_opened_or_not_closed_is_malformed() -> None:
    whole = SMALL.message
    for data in (b"[" + whole[1:], whole[1:], whole[:-1], whole[:-1] + b"]", whole[:-1] + b","):
        with pytest.raises(Malformed):
            read_message(data)


def test_a_message_of_8_mb_is_read_like_any_other() -> None:
    entry = entry_of("trading", {"@revision": "42", "text": json.dumps("x" * (8 << 20))})
    blocks = f'"prev": "{EMPTY_STATE}", "blocks": {{"trading": {entry.text}}}'
    told = message_of(HEAD, digests={"trading": entry.mark.digest}).decode()[:-1] + f", {blocks}}}"
    assert read_message(told.encode()) == Message(HEAD, EMPTY_STATE, (entry,))


@pytest.mark.parametrize("member", ["epoch", "revision"])
@pytest.mark.parametrize(
    "number", [-1, 2**53, 10**15, 1.0, 1e3, None, True, "", "-1", "x", "1.0", " 1", "01", "1_0", "\uff11"]
)
def test_a_number_that_no_head_can_have_is_malformed_even_if_the_check_fits(member: str, number: Any) -> None:
    head: Head = replace(HEAD, **{member: number})
    with pytest.raises(Malformed):
        read_message(message_of(head, check=head.check))
    with pytest.raises(Malformed):
        read_head(head.fields())


@pytest.mark.parametrize("member", ["epoch", "revision"])
def test_a_number_as_text_is_that_number(member: str) -> None:
    assert read_message(message_of(HEAD, **{member: str(getattr(HEAD, member))})).head == HEAD


def test_revision_0_is_the_head_of_an_environment_without_releases() -> None:
    nothing = replace(HEAD, revision=0, state=EMPTY_STATE)
    assert read_message(bookmark(nothing, AT).encode()).head == nothing


@pytest.mark.parametrize("state", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\uff10", "0" * 31 + "\n"])
def test_a_state_that_no_head_can_have_is_malformed_even_if_the_check_fits(state: str) -> None:
    head = replace(HEAD, state=state)
    with pytest.raises(Malformed):
        read_head(head.fields())
    with pytest.raises(Malformed):
        read_message(message_of(head))
    with pytest.raises(Malformed):
        read_message(message_of(HEAD, prev=state, blocks={}, digests={}))


BLOCK = json.loads(SMALL.message)["blocks"]["strategy/a"]


@pytest.mark.parametrize(
    "blocks",
    [
        None,
        [],
        "text",
        5,
        {"strategy/a": None},
        {"strategy/a": []},
        {"strategy/a": {}},
        {"strategy/a": {"size": 5}},
        {"strategy/a": BLOCK | {"@revision": None}},
        {"strategy/a": BLOCK | {"@revision": "1"}},
        {"strategy/a": BLOCK | {"@revision": True}},
        {"strategy/a": BLOCK | {"@revision": 1.0}},
        {"strategy/a": BLOCK | {"@with": None}},
        {"strategy/a": BLOCK | {"@with": "trading"}},
        {"strategy/a": BLOCK | {"@with": [1]}},
        {"strategy/a": BLOCK | {"@with": {"trading": 1}}},
    ],
)
def test_a_block_that_is_none_is_malformed_even_if_its_digest_fits(blocks: Any) -> None:
    texts = {name: json.dumps(block) for name, block in blocks.items()} if isinstance(blocks, dict) else {}
    digests = {name: digest_of(name, text) for name, text in texts.items()}
    with pytest.raises(Malformed):
        read_message(message_of(HEAD, prev=EMPTY_STATE, blocks=blocks, digests=digests))


def test_a_block_with_a_field_removed_added_or_emptied_does_not_fit_its_digest() -> None:
    whole = json.loads(SMALL.message)
    for changed in (
        {name: value for name, value in BLOCK.items() if name != "size"},
        BLOCK | {"other": 1},
        BLOCK | {"size": None},
        BLOCK | {"size": ""},
        BLOCK | {"size": 6},
        {},
    ):
        whole["blocks"] = {"strategy/a": changed, "strategy/b": whole["blocks"]["strategy/b"]}
        with pytest.raises(Malformed):
            read_message(json.dumps(whole).encode())


def test_blocks_and_digests_must_be_of_the_same_names() -> None:
    whole = json.loads(SMALL.message)
    right = whole["digests"]
    others: list[Any] = [None, {}, [], "x", {"strategy/a": right["strategy/a"]}, right | {"risk": "0" * 32}]
    for digests in others:
        with pytest.raises(Malformed):
            read_message(json.dumps(whole | {"digests": digests}).encode())


def test_a_message_without_its_previous_state_says_only_where_the_head_is() -> None:
    whole = json.loads(SMALL.message)
    del whole["prev"]
    assert read_message(json.dumps(whole).encode()) == Message(SMALL.head, None, None)


def test_unknown_members_are_ignored() -> None:
    told = SMALL.message.decode()
    extra = ', "from_tomorrow": {"a": [1, 2]}, "": null, "blockz": 1, "needs": []}'
    assert read_message((told[:-1] + extra).encode()) == read_message(SMALL.message)


@pytest.mark.parametrize("version", [2, "2", 10])
def test_an_unknown_protocol_is_not_understood(version: Any) -> None:
    with pytest.raises(NotUnderstood):
        read_message(message_of(HEAD, v=version))
    with pytest.raises(NotUnderstood):
        read_head(HEAD.fields() | {"v": str(version)})


@pytest.mark.parametrize("version", ["0", "1.0", "", "junk", "-2", "9" * 30])
def test_what_is_no_newer_protocol_is_damage(version: str) -> None:
    with pytest.raises(Malformed) as damage:
        read_head(HEAD.fields() | {"v": version})
    assert not isinstance(damage.value, NotUnderstood)


@pytest.mark.parametrize("field", [field for field in HEAD_FIELDS if field != "v"])
def test_an_unknown_protocol_is_not_understood_whatever_else_it_left_out(field: str) -> None:
    fields = HEAD.fields() | {"v": "2"}
    del fields[field]
    with pytest.raises(NotUnderstood):
        read_head(fields)
    with pytest.raises(NotUnderstood):
        read_message(json.dumps(fields).encode())


def test_an_unknown_protocol_is_not_understood_whatever_became_of_its_blocks() -> None:
    others: list[Any] = [[], None, {"trading": []}, "base64"]
    for blocks in others:
        with pytest.raises(NotUnderstood):
            read_message(message_of(HEAD, v=2, prev=1, blocks=blocks))


@pytest.mark.parametrize("needs", [["signature"], ["a", "b"], "signature"])
def test_an_unknown_need_is_not_understood_and_named(needs: Any) -> None:
    with pytest.raises(NotUnderstood, match=needs if isinstance(needs, str) else needs[0]):
        read_message(message_of(HEAD, needs=needs))
    with pytest.raises(NotUnderstood):
        read_head(HEAD.fields() | {"needs": "signature"})


def test_no_needs_are_none() -> None:
    assert read_message(message_of(HEAD, needs=[])).head == HEAD
    assert read_head(HEAD.fields() | {"needs": ""}) == HEAD


@given(head=HEADS, others=st.dictionaries(st.sampled_from(["asof", "published_at", "new"]), st.text(max_size=9)))
@QUICK
def test_a_head_is_read_as_it_was_written_whatever_stands_beside_it(head: Head, others: dict[str, str]) -> None:
    assert read_head(head.fields() | others) == head


def test_a_head_is_the_documented_hash() -> None:
    assert HEAD.fields() == {
        "bus": BUS,
        "v": "1",
        "system": SYSTEM,
        "epoch": str(EPOCH),
        "revision": "42",
        "state": "0123456789abcdef0123456789abcdef",
        "check": HEAD.check,
    }
    assert tuple(HEAD.fields()) == HEAD_FIELDS
    covered = f"{BUS}\n1\n{SYSTEM}\n{EPOCH}\n42\n0123456789abcdef0123456789abcdef"
    assert HEAD.check == hashlib.sha256(covered.encode()).hexdigest()[:32]


@given(head=HEADS, other=HEADS, field=st.sampled_from(HEAD_FIELDS))
@QUICK
def test_a_head_with_one_field_of_another_is_not_believed(head: Head, other: Head, field: str) -> None:
    mixed = head.fields() | {field: other.fields()[field]}
    if mixed != head.fields():
        with pytest.raises(Malformed, match="check"):
            read_head(mixed)


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("1769860800000000", 1_769_860_800_000_000),
        ("0", 0),
        ("", None),
        ("x", None),
        ("-1", None),
        ("1.5", None),
        (" 1", None),
        ("1_000", None),
        ("\uff11", None),
        ("9" * 5_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_stamp_is_a_whole_number_or_none(stamp: str, expected: int | None) -> None:
    assert read_stamp(HEAD.fields() | {"asof": stamp}) == expected
    assert read_stamp(HEAD.fields()) is None


@pytest.mark.parametrize("field", HEAD_FIELDS)
def test_a_head_without_one_of_its_fields_is_malformed_and_the_field_named(field: str) -> None:
    fields = HEAD.fields()
    del fields[field]
    with pytest.raises(Malformed, match=field):
        read_head(fields)


@given(fields=st.dictionaries(st.sampled_from([*HEAD_FIELDS, "needs"]), st.text(max_size=9)))
@QUICK
def test_a_junk_head_is_malformed_and_never_anything_else(fields: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        read_head(fields)


@given(marks=st.dictionaries(NAMES, st.builds(Mark, st.integers(0, 10**15 - 1), STATES)))
@QUICK
def test_an_index_is_read_as_it_was_written(marks: dict[str, Mark]) -> None:
    assert read_index({name: str(mark) for name, mark in marks.items()}) == marks


@pytest.mark.parametrize(
    "mark",
    [
        "",
        ":",
        "7",
        "7:",
        ":" + "0" * 32,
        "7:" + "0" * 31,
        "7:" + "0" * 33,
        "7:" + "A" * 32,
        "-1:" + "0" * 32,
        "07:" + "0" * 32,
        f"{2**53}:" + "0" * 32,
        "x:" + "0" * 32,
        "7:" + "0" * 32 + "\n",
        "7:" + "0" * 32 + ":1",
        " 7:" + "0" * 32,
    ],
)
def test_an_index_with_such_a_mark_is_malformed_and_the_block_named(mark: str) -> None:
    with pytest.raises(Malformed, match="trading"):
        read_index({"risk": "1:" + "0" * 32, "trading": mark})


@given(index=st.dictionaries(st.text(max_size=5), st.text(max_size=40), min_size=1))
@QUICK
def test_a_junk_index_is_malformed_and_never_anything_else(index: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        read_index(index)


@given(entry=entries())
@QUICK
def test_an_entry_is_read_from_its_hash_as_it_was_written(entry: Entry) -> None:
    assert read_entry(entry.name, entry_fields(entry)) == entry


@given(entry=entries(), data=st.data())
@QUICK
def test_the_order_of_a_hashs_fields_does_not_matter(entry: Entry, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(entry_fields(entry).items())))
    assert read_entry(entry.name, dict(shuffled)) == entry


@given(entry=entries("trading"), other=entries("trading"), data=st.data())
@QUICK
def test_a_hash_with_a_field_changed_added_or_removed_has_another_digest(
    entry: Entry, other: Entry, data: st.DataObject
) -> None:
    fields = entry_fields(entry)
    mixed = fields | data.draw(st.sampled_from([entry_fields(other), {"new": "1"}]))
    removed = data.draw(st.sampled_from([field for field in fields if field != "@revision"]))
    for changed in (mixed, {field: text for field, text in fields.items() if field != removed}):
        if changed != fields:
            assert read_entry("trading", changed).mark.digest != entry.mark.digest
    assert read_entry("risk", fields).mark.digest != entry.mark.digest


def test_an_entry_tells_its_revision_partners_and_whether_it_is_retired() -> None:
    fields = {"@revision": "7", "@with": '["risk", "strategy/a"]', "size": "1"}
    entry = read_entry("trading", fields)
    assert (entry.name, entry.mark.revision, entry.partners, entry.retired) == (
        "trading",
        7,
        ("risk", "strategy/a"),
        False,
    )
    assert read_entry("trading", {"@revision": "7"}).partners == ()
    assert read_entry("trading", {"@revision": "7", "@with": '"*"'}).partners == "*"
    assert read_entry("trading", {"@revision": "7", "@retired": "true"}).retired


def test_a_field_that_holds_the_text_of_several_hides_none_of_them() -> None:
    fields = {"@revision": "7", "size": "10", "@name": '"n"', "@with": '["risk"]'}
    merged = {"@revision": "7", "size": '10, "@name": "n", "@with": ["risk"]'}
    entry = read_entry("lane", fields)
    assert read_entry("lane", merged) == entry
    assert entry.partners == ("risk",)
    assert is_whole(entry, fields)
    assert not is_whole(entry, merged)
    nested = {"@revision": "7", "a": "1", "b": "2", "c": '{"x": 1, "y": 2}'}
    torn = {"@revision": "7", "a": '1, "b": 2', "c": '{"x": 1', "y": "2}"}
    assert read_entry("lane", torn) == read_entry("lane", nested)
    assert not is_whole(read_entry("lane", nested), torn)
    deep = {"@revision": "7", "a": "[" * 20_000 + "]" * 20_000}
    assert is_whole(read_entry("lane", deep), deep)


def test_the_text_of_an_entry_is_that_of_jsonb() -> None:
    fields = {"size": "1", "b": '"x"', "a": "[1, 2]", "@with": "[]", "@revision": "7"}
    text = '{"a": [1, 2], "b": "x", "size": 1, "@with": [], "@revision": 7}'
    assert entry_text(fields.items()) == text
    assert read_entry("trading", fields).text == text


def test_a_digest_is_the_beginning_of_sha256_over_name_and_text() -> None:
    expected = hashlib.sha256(b'strategy/a\n{"size": "\xc3\xa9"}').hexdigest()[:32]
    assert digest_of("strategy/a", '{"size": "\u00e9"}') == expected


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size": "1"},
        {"@revision": ""},
        {"@revision": "x"},
        {"@revision": '"7"'},
        {"@revision": "7.0"},
        {"@revision": "true"},
        {"@revision": "null"},
        {"@revision": "9" * 5_000},
        {"@revision": "7", "@with": "risk"},
        {"@revision": "7", "@with": '"risk"'},
        {"@revision": "7", "@with": "[1]"},
        {"@revision": "7", "@with": "[" * 100_000},
        {"@revision": "7", "@name": ""},
    ],
    ids=lambda fields: repr(fields)[:40],
)
def test_a_hash_without_a_sound_envelope_is_malformed(fields: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        read_entry("trading", fields)


@given(fields=st.dictionaries(st.sampled_from(["@revision", "@with", "@retired", "a"]), st.text(max_size=9)))
@QUICK
def test_a_junk_hash_is_an_entry_of_its_own_digest_or_malformed(fields: dict[str, str]) -> None:
    try:
        entry = read_entry("trading", fields)
    except Malformed:
        return
    assert entry.mark.digest == digest_of("trading", entry_text(fields.items()))


def test_an_entry_made_by_postgres_keeps_the_digest_that_postgres_computed() -> None:
    fields = [("size", "1"), ("@with", '["risk"]'), ("@revision", "7")]
    entry = make_entry("trading", fields, "f" * 32)
    assert entry == Entry(
        "trading", Mark(7, "f" * 32), '{"size": 1, "@with": ["risk"], "@revision": 7}', ("risk",), False
    )


@given(state=STATES, digests=st.lists(STATES, max_size=5), data=st.data())
@QUICK
def test_a_state_does_not_depend_on_the_order_and_what_is_taken_out_is_gone(
    state: str, digests: list[str], data: st.DataObject
) -> None:
    after = xor(state, digests)
    assert after == xor(state, data.draw(st.permutations(digests)))
    assert xor(after, digests) == state
    assert len(after) == 32


def test_the_state_of_one_entry_is_its_digest() -> None:
    assert xor(EMPTY_STATE, ["00ff" * 8]) == "00ff" * 8
    assert xor("0f" * 16, ["ff" * 16]) == "f0" * 16


def test_all_keys_of_an_environment_share_one_hash_tag() -> None:
    keys = Keys("configbus", "production")
    assert keys.head == "configbus:{production}:head"
    assert keys.index == "configbus:{production}:index"
    assert keys.channel == "configbus:{production}:changes"
    assert keys.block("trading") == "configbus:{production}:block:trading"
    assert keys.block("strategy/market_maker") == "configbus:{production}:block:strategy/market_maker"


def test_positions_are_ordered_by_epoch_then_revision() -> None:
    ascending = [Position(1, 1), Position(1, 2), Position(1, 10), Position(2, 0), Position(2, 1), Position(10, 0)]
    assert all(lower < higher for lower, higher in pairwise(ascending))
    assert HEAD.position == Position(EPOCH, 42)
    assert Release(42, EPOCH, ("trading",)).position == HEAD.position
