"""Values at the door: from what a person or a program gives to a validated block, or a list of problems.

Python values and JSON are taken strictly: they become a JSON document, which the model reads in
strict mode with unknown fields forbidden. Decimals may be texts, in plain ASCII digits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ValidationError

from configbus.block import Block, problems
from configbus.errors import InvalidValue, Problem, UnknownField
from configbus.names import near

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from configbus.block import Domain

DECIMAL_TEXT = re.compile(r"[+-]?[0-9]{1,1000}(\.[0-9]{0,1000})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def with_values(domain: Domain, name: str, content: Mapping[str, Any], given: Sequence[tuple[list[str], Any]]) -> Block:
    """The block that content becomes when values are put at paths of field and nested parts.

    Raises UnknownField for a path that is not there, InvalidValue with every problem found.
    """
    document: dict[str, Any] = json.loads(json.dumps(content))
    for parts, value in given:
        plain = as_json(value, ".".join((name, *parts)))
        place: Any = document
        for part in parts[:-1]:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or (len(parts) > 1 and parts[-1] not in place):
            known = place if isinstance(place, dict) else ()
            raise UnknownField(f"{name} has no {'.'.join(parts)!r}", near(parts[-1], known))
        place[parts[-1]] = plain
    try:
        block = domain.model.model_validate_json(json.dumps(document), strict=True, extra="forbid")
    except ValidationError as error:
        raise InvalidValue(problems(name, error)) from error
    if found := list(_loose_decimals(document, block, name)):
        raise InvalidValue(found)
    return block


def valid_content(domain: Domain, content: Mapping[str, Any]) -> Block | None:
    """The block that content is, or None where raw SQL has put in what the model refuses."""
    try:
        return domain.model.model_validate_json(json.dumps(content), strict=True)
    except ValidationError:
        return None


def as_json(value: Any, path: str) -> Any:
    """A Python value as JSON has it. Raises InvalidValue for what JSON or Postgres cannot hold."""
    match value:
        case None | bool() | int():
            return value
        case Enum():
            return as_json(value.value, path)
        case str():
            if fault := _text_fault(value):
                raise InvalidValue([Problem(path, fault)])
            return value
        case float():
            if not math.isfinite(value):
                raise InvalidValue([Problem(path, f"{value} is not a finite number")])
            return value
        case Decimal():
            return str(value)
        case UUID():
            return str(value)
        case datetime():
            if value.tzinfo is None:
                raise InvalidValue([Problem(path, "the time has no zone")])
            return value.isoformat()
        case BaseModel():
            return as_json(value.model_dump(mode="json"), path)
        case Mapping():
            return {as_json(str(key), path): as_json(part, f"{path}.{key}") for key, part in value.items()}
        case list() | tuple():
            return [as_json(part, f"{path}.{number}") for number, part in enumerate(value)]
    raise InvalidValue([Problem(path, f"a {type(value).__name__} cannot be a configuration value")])


def from_text(domain: Domain, field: str, text: str, path: str) -> Any:
    """A value typed on a command line, by the field's type: text stays text, anything else is JSON.

    Numbers of Decimal fields keep every digit. Raises InvalidValue for what is not JSON.
    """
    column = next(column for column in domain.columns if column.name == field)
    nested = path.count(".") > 1
    if column.kind in ("text", "uuid", "timestamp", "numeric") and not nested:
        return None if column.nullable and text == "null" else text
    try:
        return json.loads(text, parse_float=str if column.kind == "json" else float, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        if nested:
            return text
        wanted = "true or false" if column.kind == "boolean" else "JSON" if column.kind == "json" else "a number"
        raise InvalidValue([Problem(path, f"{text[:40]!r} is not {wanted}")]) from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _text_fault(text: str) -> str | None:
    if "\0" in text:
        return "the text holds a NUL character, which Postgres cannot store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half of a surrogate pair, which is not Unicode"
    return None


def _loose_decimals(given: Any, read: Any, path: str) -> Iterator[Problem]:
    """Texts that Python's Decimal takes and nobody should: spaces, underscores, digits of other scripts."""
    match read:
        case Decimal():
            if isinstance(given, str) and not DECIMAL_TEXT.fullmatch(given):
                yield Problem(path, f"{given[:40]!r} is not a decimal number in plain digits")
        case BaseModel():
            for name in given.keys() & type(read).model_fields.keys():
                yield from _loose_decimals(given[name], getattr(read, name), f"{path}.{name}")
        case Mapping():
            for name in given.keys() & read.keys():
                yield from _loose_decimals(given[name], read[name], f"{path}.{name}")
        case list() | tuple():
            for number, (part, was) in enumerate(zip(given, read, strict=False)):
                yield from _loose_decimals(part, was, f"{path}.{number}")
