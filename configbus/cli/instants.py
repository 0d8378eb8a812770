"""Points in time and ages as people write them: a revision, an instant in ISO 8601, `2h ago`, `90d`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from configbus.errors import InvalidValue, Problem
from configbus.names import REVISION

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
AGE = re.compile(r"(?:[0-9]{1,9}\s*[smhdw]\s*)+", re.ASCII)
RELATIVE = re.compile(rf"({AGE.pattern})ago", re.ASCII)
PART = re.compile(r"([0-9]+)\s*([smhdw])", re.ASCII)


def is_relative(text: str) -> bool:
    """Whether the text names another instant each time it is read."""
    return RELATIVE.fullmatch(text.strip()) is not None


def read_moment(text: str, now: Callable[[], datetime]) -> int | datetime:
    """A revision, or an instant such as `2026-11-20T08:00:00Z`, `90s ago` or `1h30m ago`, which counts from `now`.

    Raises InvalidValue.
    """
    text = text.strip()
    if REVISION.fullmatch(text):
        return int(text)
    if relative := RELATIVE.fullmatch(text):
        try:
            return now() - _age(relative[1])
        except OverflowError:
            raise InvalidValue([Problem("instant", f"{text!r} is before the year 1")]) from None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        known = "a revision, nor ISO 8601 such as 2026-11-20T08:00:00Z, nor 2h ago"
        raise InvalidValue([Problem("instant", f"{text[:60]!r} is neither {known}")]) from None


def read_age(text: str) -> timedelta:
    """An age such as `90d` or `1w12h`. Raises InvalidValue."""
    try:
        if AGE.fullmatch(text.strip()):
            return _age(text)
    except OverflowError:
        pass
    raise InvalidValue([Problem("age", f"{text[:60]!r} is no age such as 90d, 12h or 1w12h")])


def _age(text: str) -> timedelta:
    return sum((timedelta(**{UNITS[unit]: int(count)}) for count, unit in PART.findall(text)), timedelta())


def read_reference(text: str, now: Callable[[], datetime], digits_of_id: int) -> int | datetime | str:
    """The same, or `active`, `default`, or the id of a row; as many digits as a shortened id has may be one."""
    if REVISION.fullmatch(text) and len(text) >= digits_of_id:
        return text
    looks_like_moment = REVISION.fullmatch(text) or "ago" in text or "T" in text or ":" in text
    return read_moment(text, now) if looks_like_moment else text
