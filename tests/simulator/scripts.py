"""Python models of publish.lua and stamp.lua, argument by argument; a test holds them against the real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from configbus.wire import SEEN_FIELDS

if TYPE_CHECKING:
    from typing import TypeAlias

Data = dict[str, "dict[str, str] | str"]
"""What Redis holds: hashes by key; a text stands for a key of another type."""
Answer = tuple[list[str], list[str]]
"""What the script answers, and the messages it published."""
Script: TypeAlias = Callable[[Data, Sequence[str], Sequence[str]], Answer]


def publish(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    """TypeError where a hash is to be written and something else is there: what was done before that stays done."""
    mode, expected, _, message, count = arguments[:5]
    head = data.get(keys[0], {})
    found = [head.get(field, "") for field in SEEN_FIELDS] if isinstance(head, dict) else ["not a hash"]
    if mode == "next":
        if any(isinstance(data.get(key), str) for key in keys):
            return ["damaged", *found], []
        if len(found) > 1 and found[4] not in ("", "0") and keys[1] not in data:
            return ["damaged", *found], []
        seen = ":".join((found[0], found[3], found[4], found[5])) + (":signed" if found[7] else "")
    else:
        seen = "\n".join(found)
    if seen != expected:
        return ["not yet", *found], []

    head_end = 5 + int(count)
    blocks = _blocks(keys[2:], arguments[head_end:])
    for key in (*(keys[:2] if mode in ("full", "index") else ()), *keys[2 + len(blocks) :]):
        data.pop(key, None)
    for key, name, mark, fields in blocks:
        if fields:
            data[key] = fields
        _hash(data, keys[1])[name] = mark
    _hash(data, keys[0]).update(_pairs(arguments[5:head_end]))
    return ["published", *found], [message]


def stamp(data: Data, keys: Sequence[str], arguments: Sequence[str]) -> Answer:
    asof, bus, epoch, read, state, _, bookmark, *signature = arguments
    head = data.get(keys[0])
    if not isinstance(head, dict):
        return ["no head"], []
    revision, least = _number(head.get("revision", "")), float(read)
    if head.get("bus") != bus or head.get("epoch") != epoch or revision is None:
        return ["another history"], []
    if revision < least:
        return ["behind"], []
    messages = []
    if revision == least:
        if head.get("state") != state:
            return ["another state"], []
        messages = [bookmark]
    head["asof"] = asof
    if signature:
        head |= {"asof_of": f"{read}:{state}", "asof_signature": signature[0]}
    return ["stamped"], messages


def _number(text: str) -> float | None:
    """As Lua reads it."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _hash(data: Data, key: str) -> dict[str, str]:
    value = data.setdefault(key, {})
    if isinstance(value, str):
        raise TypeError(f"WRONGTYPE {key}")
    return value


def _blocks(keys: Sequence[str], parts: Sequence[str]) -> list[tuple[str, str, str, dict[str, str]]]:
    blocks: list[tuple[str, str, str, dict[str, str]]] = []
    at = 0
    while at < len(parts):
        name, mark, count = parts[at : at + 3]
        at += 3 + int(count)
        blocks.append((keys[len(blocks)], name, mark, _pairs(parts[at - int(count) : at])))
    return blocks


def _pairs(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
