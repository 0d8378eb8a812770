"""JSON objects taken apart without losing a byte: each member keeps its own text, and is read without recursion."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = re.compile(
    r'[ \t\n\r]*("(?:[^"\\\x00-\x1f]|\\.)*"|[{}\[\],:]|true|false|null|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)'
)
SPACE = " \t\n\r"
INT_DIGITS = 1000
"""Longer whole numbers are read inexactly; what is stored and compared are texts."""

_decoder = json.JSONDecoder(parse_int=lambda digits: int(digits) if len(digits) < INT_DIGITS else float(digits))


def members(text: str) -> dict[str, str]:
    """The members of a JSON object, each value as its own text, read without recursion. Raises ValueError."""
    return {name: text[start:end] for name, start, end in _pairs(text)}


def read_value(text: str) -> Any:
    """A member's text as Python has it. Raises ValueError."""
    try:
        return _decoder.decode(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep to be read") from error


def readable(text: str) -> Any:
    """The same for showing it: what Python cannot hold, too deep or beyond its numbers, is its text."""
    try:
        return _showing.decode(text)
    except RecursionError:
        return text


def _finite(digits: str) -> float | str:
    return number if math.isfinite(number := float(digits)) else digits


_showing = json.JSONDecoder(
    parse_int=lambda digits: int(digits) if len(digits) < INT_DIGITS else digits, parse_float=_finite
)


def _pairs(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, and where its value begins and ends, for each member of a JSON object."""
    kind, _, position = _token(text, 0)
    if kind != "{":
        raise ValueError("an object is expected")
    kind, begin, position = _token(text, position)
    while kind != "}":
        if kind != '"':
            raise ValueError("a member's name is expected")
        name = read_value(text[begin:position])
        kind, _, position = _token(text, position)
        if kind != ":":
            raise ValueError("a colon is expected")
        _, begin, _ = _token(text, position)
        position = _value_end(text, begin)
        yield name, begin, position
        kind, begin, position = _token(text, position)
        if kind == ",":
            kind, begin, position = _token(text, position)
            if kind == "}":
                raise ValueError("a member is expected")
        elif kind != "}":
            raise ValueError("a comma or a closing brace is expected")
    if text[position:].strip(SPACE):
        raise ValueError("something stands behind the object")


def _value_end(text: str, position: int) -> int:
    """Where the value that begins here ends; nesting is counted, not followed."""
    depth = 0
    while True:
        kind, _, position = _token(text, position)
        depth += (kind in "{[") - (kind in "}]")
        if depth < 0 or (depth == 0 and kind in ",:"):
            raise ValueError("a value is expected")
        if depth == 0:
            return position


def _token(text: str, position: int) -> tuple[str, int, int]:
    """The first character of the next token, and where it begins and ends."""
    found = TOKEN.match(text, position)
    if found is None:
        raise ValueError(f"no JSON at character {position}")
    return found[1][0], found.start(1), found.end()
