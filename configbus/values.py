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
from decimal import Decimal, InvalidOperation
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ValidationError

from configbus.block import Block, problems
from configbus.errors import InvalidValue, Problem, UnknownField
from configbus.fields import nested_models, nested_types, options_of, part_of
from configbus.jsontext import members
from configbus.names import near
from configbus.wire import entry_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydantic_core import ErrorDetails

    from configbus.block import Domain

VALUE_BYTES = 256 * 1024
DEPTH = 50
MEMBERS = 10_000
INT_BITS = 1024
DECIMAL_TEXT = re.compile(r"[+-]?[0-9]{1,1000}(\.[0-9]{0,1000})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def with_values(domain: Domain, name: str, content: Mapping[str, str], given: Sequence[tuple[list[str], Any]]) -> Block:
    """The block that content (a JSON text for each field) becomes when values are put at paths of field and parts.

    Raises UnknownField for a path that is not there, InvalidValue with every problem found.
    """
    texts = dict(content)
    taken: list[tuple[list[str], Any]] = []
    found = _overlaps(name, [parts for parts, _ in given])
    if found:
        raise InvalidValue(found)
    for parts, value in given:
        if parts[0] not in domain.model.model_fields:
            raise UnknownField(f"{name} has no {'.'.join(parts)!r}", near(parts[0], domain.model.model_fields))
        path = ".".join((name, *parts))
        try:
            plain = as_value(value, path)
        except InvalidValue as error:
            found += error.problems
            continue
        whole, annotation = texts.get(parts[0], "null"), domain.model.model_fields[parts[0]].annotation
        texts[parts[0]] = _put(whole, parts[1:], json.dumps(plain), path, annotation)
        taken.append((parts, plain))
    text = entry_text(texts.items())
    try:
        block = domain.model.model_validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        paths = [parts for parts, _ in given]
        if not paths or not all(_was_stored(fault, paths) for fault in error.errors()):
            raise InvalidValue([*found, *_with_near(domain, problems(name, error))]) from error
        block = domain.model.model_validate_json(text, strict=True)
    for parts, plain in taken:
        found += _bent(plain, _at(block, parts), ".".join((name, *parts)))
    if found:
        raise InvalidValue(found)
    return block


def _was_stored(fault: ErrorDetails, paths: Iterable[list[str]]) -> bool:
    """Whether a part of a document is unknown that nobody gives now: an earlier model had it, and it is left."""
    where = [str(part) for part in fault["loc"]]
    return (
        fault["type"] == "extra_forbidden"
        and len(where) > 1
        and not any(where[: len(parts)] == list(parts) for parts in paths)
    )


def _overlaps(name: str, paths: Iterable[list[str]]) -> list[Problem]:
    """Paths of which one lies within the other: which of them is meant to hold is not said."""
    ordered = sorted(paths)
    return [
        Problem(
            ".".join((name, *inner)),
            "is given twice" if inner == outer else f"lies within {'.'.join((name, *outer))}, which is given, too",
        )
        for outer, inner in pairwise(ordered)
        if inner[: len(outer)] == outer
    ]


def put_texts(
    domain: Domain, content: Mapping[str, str], block: Block, given: Sequence[tuple[list[str], Any]]
) -> dict[str, str]:
    """The content as texts once a valid block holds what was put at paths: all else keeps every digit it had."""
    texts = dict(content)
    dumped = texts_of(block, {parts[0] for parts, _ in given})
    for (field, *within), _ in given:
        value = dumped[field]
        for part in within:
            value = members(value)[part]
        annotation = domain.model.model_fields[field].annotation
        path = ".".join((domain.name, field, *within))
        texts[field] = _put(texts.get(field, "null"), within, value, path, annotation)
    return texts


def texts_of(block: Block, names: set[str]) -> dict[str, str]:
    """The JSON text of these fields of a block."""
    return members(block.model_dump_json(include=names)) if names else {}


def default_texts(domain: Domain) -> dict[str, str]:
    """The JSON text of every field's default."""
    return texts_of(domain.model(), {column.name for column in domain.columns})


def _put(whole: str, parts: Sequence[str], value: str, path: str, annotation: Any) -> str:
    """A JSON text with another text put in at nested parts; what stands beside it keeps every digit."""
    if not parts:
        return value
    name, _, rest = path.partition(".")
    missing = f"{name} has no {rest!r}"
    if whole.startswith("["):
        raise UnknownField(f"{path} lies within a list, and lists are put as a whole, as JSON")
    try:
        inner = members(whole)
    except ValueError:
        raise UnknownField(missing) from None
    within, declared = part_of(annotation, parts[0])
    if parts[0] not in inner and not (declared and len(parts) == 1):
        raise UnknownField(missing, near(parts[0], inner))
    text = _put(inner.get(parts[0], "null"), parts[1:], value, path, within)
    return entry_text((inner | {parts[0]: text}).items())


def _at(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def valid_content(domain: Domain, content: Mapping[str, str]) -> Block | None:
    """The block that content is, or None where raw SQL has put in what the model refuses."""
    try:
        return domain.model.model_validate_json(entry_text(content.items()), strict=True)
    except ValidationError:
        return None


def as_value(value: Any, path: str) -> Any:
    """A Python value as JSON, not larger than a value may be. Raises InvalidValue."""
    plain = as_json(value, path)
    if (size := len(json.dumps(plain))) > VALUE_BYTES:
        raise InvalidValue([Problem(path, f"the value has {size} bytes, {VALUE_BYTES} are allowed")])
    return plain


def as_json(value: Any, path: str, depth: int = 0) -> Any:
    """A Python value as JSON has it. Raises InvalidValue for what JSON or Postgres cannot hold."""
    if depth > DEPTH:
        raise InvalidValue([Problem(path[:80], f"the value is nested deeper than {DEPTH}")])
    match value:
        case None | bool():
            return value
        case int():
            if value.bit_length() > INT_BITS:
                raise InvalidValue([Problem(path, "the number has too many digits")])
            return value
        case Enum():
            return as_json(value.value, path, depth + 1)
        case str():
            if fault := _text_fault(value):
                raise InvalidValue([Problem(path, fault)])
            return value
        case float():
            if not math.isfinite(value):
                raise InvalidValue([Problem(path, f"{value} is not a finite number")])
            return value
        case Decimal():
            if not value.is_finite():
                raise InvalidValue([Problem(path, f"{value} is not a finite number")])
            return str(value)
        case UUID():
            return str(value)
        case datetime():
            if value.tzinfo is None:
                raise InvalidValue([Problem(path, "the time has no zone")])
            return value.isoformat()
        case BaseModel():
            return as_json(value.__dict__, path, depth + 1)
        case Mapping() | list() | tuple() if len(value) > MEMBERS:
            raise InvalidValue([Problem(path, f"it has {len(value)} members, {MEMBERS} are allowed")])
        case Mapping():
            named = {as_json(str(key), path): part for key, part in value.items()}
            return {key: as_json(part, f"{path}.{key}", depth + 1) for key, part in named.items()}
        case list() | tuple():
            return [as_json(part, f"{path}.{number}", depth + 1) for number, part in enumerate(value)]
    raise InvalidValue([Problem(path, f"a {type(value).__name__} cannot be a configuration value")])


def from_text(domain: Domain, field: str, text: str, path: str) -> Any:
    """A value typed on a command line, by the type of the field or nested part: text stays text, all else is JSON.

    Numbers of Decimal fields keep every digit. Raises InvalidValue for what is not JSON.
    """
    annotation = domain.model.model_fields[field].annotation
    for part in path.split(".")[2:]:
        annotation, _ = part_of(annotation, part)
    kinds = [kind for kind in options_of(annotation) if kind is not type(None)]
    if kinds and all(map(_is_typed_as_text, kinds)):
        return None if text == "null" and type(None) in options_of(annotation) else text
    try:
        return json.loads(
            text if text == text.strip() else "",
            parse_float=_exact_or_text if Decimal in nested_types(annotation) else _exact,
            parse_constant=_no_constant,
            object_pairs_hook=_without_duplicates,
        )
    except InvalidOperation:
        raise InvalidValue([Problem(path, f"{text[:40]!r} has too many digits")]) from None
    except OverflowError:
        raise InvalidValue([Problem(path, f"{text[:40]} is not a finite number")]) from None
    except (ValueError, RecursionError):
        if kinds == [Any]:
            return text
        wanted = "true or false" if bool in kinds else "a number" if {int, float} & set(kinds) else "JSON"
        raise InvalidValue([Problem(path, f"{text[:40]!r} is not {wanted}")]) from None


def _is_typed_as_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(choice, str) for choice in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, (str, UUID, datetime, Decimal, Enum))


def _with_near(domain: Domain, found: Sequence[Problem]) -> list[Problem]:
    """The problems, with a similar name where a nested field does not exist."""
    models = [model for model in nested_models(domain.model) if model is not domain.model]
    known = [name for model in models for name in model.model_fields]
    told = []
    for problem in found:
        last = problem.path.rpartition(".")[2]
        if problem.reason.startswith("Extra inputs") and problem.path.count(".") == 1:
            told.append(Problem(problem.path, "this row has the field and this catalogue does not: use newer code"))
        elif problem.reason.startswith("Extra inputs") and (names := near(last, known)):
            told.append(Problem(problem.path, f"there is no such field; did you mean {names[0]!r}?"))
        else:
            told.append(problem)
    return told


def _exact(text: str) -> float:
    """The very number that was typed. Raises InvalidOperation where a float cannot be that, OverflowError beyond it."""
    number = float(text)
    if math.isinf(number):
        raise OverflowError(text)
    if Decimal(text) != Decimal(repr(number)):
        raise InvalidOperation
    return number


def _exact_or_text(text: str) -> float | str:
    """The same where Decimals may stand: they take a longer number as text, a float refuses it."""
    try:
        return _exact(text)
    except InvalidOperation:
        return text


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return found


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


def _bent(given: Any, read: Any, path: str) -> Iterator[Problem]:
    """What Python would bend: numbers with spaces, underscores or digits of other scripts, ints too long for a
    float, times without a zone.
    """
    match read:
        case Decimal():
            if isinstance(given, str) and not DECIMAL_TEXT.fullmatch(given):
                yield Problem(path, f"{given[:40]!r} is not a decimal number in plain digits")
        case float():
            if type(given) is int and int(read) != given:
                yield Problem(path, f"{given} has more digits than a float can hold")
        case datetime():
            if read.tzinfo is None:
                yield Problem(path, "the time has no zone")
        case BaseModel():
            for name in given.keys() & type(read).model_fields.keys():
                yield from _bent(given[name], getattr(read, name), f"{path}.{name}")
        case Mapping():
            for name in given.keys() & read.keys():
                yield from _bent(given[name], read[name], f"{path}.{name}")
        case list() | tuple():
            for number, (part, was) in enumerate(zip(given, read, strict=False)):
                yield from _bent(part, was, f"{path}.{number}")
