"""The text of a last-good snapshot: what is written is what is read, and nothing else is believed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from entries import history_of
from hypothesis import given
from hypothesis import strategies as st

from configbus.lastgood import LastGood, from_text, to_text
from configbus.wire import Malformed, Mark

WHERE = "configbus:{production}:"


def kept() -> LastGood:
    history = history_of({"trading": {}, "strategy/a": {"size": 1}}, {"trading": {"score_threshold": "0.8"}})
    older = history_of({"trading": {"score_threshold": "0.6"}}).entries
    index = {name: entry.mark for name, entry in history.entries.items()}
    return LastGood(history.head, index, history.entries, {"trading": older["trading"]})


TEXT = to_text(kept(), WHERE)


def test_what_was_written_is_read() -> None:
    assert from_text(TEXT, WHERE) == kept()
    assert from_text(TEXT, WHERE).in_force["trading"] == kept().good["trading"]
    assert "risk" not in replace(kept(), good={"risk": None}).in_force


def test_any_changed_byte_is_noticed() -> None:
    for number in range(0, len(TEXT), 7):
        other = "0" if TEXT[number] != "0" else "1"
        with pytest.raises(Malformed):
            from_text(TEXT[:number] + other + TEXT[number + 1 :], WHERE)


@given(length=st.integers(0, len(TEXT) - 2))
def test_half_a_file_is_noticed(length: int) -> None:
    with pytest.raises(Malformed):
        from_text(TEXT[:length], WHERE)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no last-good snapshot"),
        ("junk", "no last-good snapshot"),
        (TEXT.replace("format 2", "format 9"), "has format '9', and this configbus reads 2"),
        (TEXT + "more", "checksum"),
        (to_text(kept(), "configbus:{staging}:"), "is of 'configbus:{staging}:'"),
        (to_text(replace(kept(), index={}), WHERE), "does not add up"),
        (to_text(replace(kept(), entries=kept().in_force), WHERE), "trading that does not fit"),
        (to_text(replace(kept(), index={**kept().index, "risk": Mark(1, "f" * 32)}), WHERE), "does not add up"),
    ],
)
def test_what_is_not_to_be_used_says_why(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        from_text(text, WHERE)
