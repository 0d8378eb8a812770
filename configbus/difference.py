"""What differs between two contents, by path: the one walk behind history, release, diff and audit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Differences = dict[str, tuple[Any, Any]]
"""Path below the block's name, such as `parameters.size`, to old and new value; None for what is not there.
Names that hold dots stand in quotes.
"""


def differences(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Differences:
    """The fields that differ, down to the single value within documents; lists are compared as a whole."""
    return dict(_walk(old or {}, new or {}, ""))


def _walk(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[tuple[str, tuple[Any, Any]]]:
    found: list[tuple[str, tuple[Any, Any]]] = []
    for name in dict.fromkeys((*old, *new)):
        was, now = old.get(name), new.get(name)
        path = prefix + (json.dumps(name) if "." in name or '"' in name else name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += _walk(was, now, f"{path}.")
        elif (name in old) != (name in new) or not same(was, now):
            found.append((path, (was, now)))
    return found


def same(old: Any, new: Any) -> bool:
    """Whether two values are equal and of one type, at any depth: 1 and true are not."""
    if type(old) is not type(new):
        return False
    match old:
        case BaseModel():
            return same(old.__dict__, new.__dict__)
        case Mapping():
            return old.keys() == new.keys() and all(same(value, new[name]) for name, value in old.items())
        case list() | tuple():
            return len(old) == len(new) and all(map(same, old, new))
    return bool(old == new)
