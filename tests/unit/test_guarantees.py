"""docs/guarantees.md names tests that are there, and commands that select some."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf8")
NAMED = sorted(set(re.findall(r"`((?:acceptance|faults|integration|unit)/test_\w+\.py)`", PAGE)))
COMMANDS = sorted(set(re.findall(r"`(pytest [^`]+)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_holds_a_promise_is_there(name: str) -> None:
    assert (ROOT / "tests" / name).is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_shows_a_defect_selects_tests(command: str) -> None:
    words = shlex.split(command)[1:]
    wanted = words[words.index("-k") + 1].split(" or ") if "-k" in words else [""]
    names = [
        name
        for word in words
        if word.startswith("tests/")
        for name in re.findall(r"def (test_\w+)|\"(a [\w' -]+)\"", (ROOT / word).read_text(encoding="utf8"))
    ]
    assert names
    assert all(any(part in "".join(name) for name in names) for part in wanted)


def test_the_page_names_tests_and_commands() -> None:
    assert len(NAMED) > 8
    assert len(COMMANDS) > 8
    assert len(PAGE.splitlines()) <= 150
