"""What a configuration field can be: the closed list of types and bounds that Postgres can hold.

The table factory, canonical content and the worker all build on this one reading of a
model's annotations, so that a type is either carried exactly by all of them or refused when
the class is defined.
"""

from __future__ import annotations

import enum
import math
import types
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

import annotated_types
from pydantic import BaseModel, Json, PlainSerializer, WrapSerializer
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

Kind = Literal["integer", "bigint", "boolean", "text", "uuid", "timestamp", "numeric", "float", "json"]

INT32 = 2**31
INT64 = 2**63
NUMERIC_DIGITS = 1000

PLAIN: dict[type, Kind] = {bool: "boolean", str: "text", UUID: "uuid", datetime: "timestamp", float: "float"}
DOCUMENT_TYPES = (Any, int, Decimal, list, dict, tuple, type(None), types.UnionType, Union, Literal, ...)
"""What a document may be made of, besides plain types, enums and frozen models."""
ALLOWED = (
    "use int, bool, str, float, Decimal, UUID, datetime, an Enum or Literal of texts, "
    "a frozen model, list, tuple or dict, or one of these with | None"
)
WRITERS: tuple[Any, ...] = (PlainSerializer, WrapSerializer, Json)
OWN_WRITING = "has a serializer; what is stored must be what the model holds"
OPERATORS = {
    annotated_types.Ge: (">=", "ge"),
    annotated_types.Gt: (">", "gt"),
    annotated_types.Le: ("<=", "le"),
    annotated_types.Lt: ("<", "lt"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One field as Postgres holds it. `bounds` are pairs of an SQL operator and a number."""

    name: str
    kind: Kind
    nullable: bool
    description: str
    bounds: tuple[tuple[str, Any], ...] = ()
    choices: tuple[str, ...] = ()
    digits: int = 0
    places: int = 0
    min_length: int | None = None
    max_length: int | None = None


class UnfitField(Exception):
    """The annotation cannot be a column; the message is the reason, for whoever defines the class."""


def read_column(name: str, field: FieldInfo) -> Column:
    """The column of one model field; UnfitField says why there can be none."""
    if field.is_required():
        raise UnfitField("has no default; every field needs one, workers fall back to it")
    _check_field(field)
    annotation, metadata, nullable = _unwrap(field.annotation, field.metadata)
    _check_metadata(metadata)
    column = Column(name, "json", nullable, field.description or "", bounds=_bounds(metadata))
    return _typed(column, annotation, metadata)


def _typed(column: Column, annotation: Any, metadata: list[Any]) -> Column:
    lengths = {
        "min_length": _last(metadata, annotated_types.MinLen, "min_length"),
        "max_length": _last(metadata, annotated_types.MaxLen, "max_length"),
    }
    if annotation is int:
        return replace(column, kind=_integer_kind(column.bounds))
    if annotation is Decimal:
        digits, places = _last(metadata, None, "max_digits"), _last(metadata, None, "decimal_places")
        if not digits or places is None or digits > NUMERIC_DIGITS or places > digits:
            raise UnfitField("a Decimal needs max_digits and decimal_places, as NUMERIC(max_digits, decimal_places)")
        return replace(column, kind="numeric", digits=digits, places=places)
    if get_origin(annotation) is Literal:
        return replace(column, kind="text", choices=_texts(get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return replace(column, kind="text", choices=_texts(member.value for member in annotation))
    if isinstance(annotation, type) and annotation in PLAIN:
        return replace(column, kind=PLAIN[annotation], **lengths)
    if _is_json(annotation):
        for part in nested_types(annotation):
            _check_part(part)
        return column
    raise UnfitField(f"type {annotation!r} has no column type; {ALLOWED}")


def integer_limits(column: Column) -> list[annotated_types.Ge | annotated_types.Le]:
    """The bounds that an int has because of its column, where the field declares none itself."""
    has = {operator[0] for operator, _ in column.bounds}
    lowest, highest = (-INT64, INT64 - 1) if column.kind == "bigint" else (-INT32, INT32 - 1)
    missing: list[annotated_types.Ge | annotated_types.Le] = []
    if ">" not in has:
        missing.append(annotated_types.Ge(lowest))
    if "<" not in has:
        missing.append(annotated_types.Le(highest))
    return missing


def nested_models(annotation: Any) -> list[type[BaseModel]]:
    """Every pydantic model within an annotation, at any depth, each once."""
    return [part for part in nested_types(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def nested_types(annotation: Any) -> list[Any]:
    """Every type within an annotation, itself and those of nested models' fields included, each once."""
    return _nested(annotation, [])


def options_of(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have: those of a union, or the one."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(option for part in get_args(annotation) for option in options_of(part))
    return (annotation,)


def part_of(annotation: Any, name: str) -> tuple[Any, bool]:
    """The annotation of a part of a document, and whether a model declares that part."""
    kinds = options_of(annotation)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name in kind.model_fields:
            return kind.model_fields[name].annotation, True
    return next((get_args(kind)[1] for kind in kinds if get_origin(kind) is dict), Any), False


def _nested(annotation: Any, seen: list[Any]) -> list[Any]:
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        _check_metadata(metadata)
        return _nested(inner, seen)
    if annotation in seen:
        return seen
    seen.append(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            _nested(field.annotation, seen)
    if get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            _nested(argument, seen)
    return seen


def _unwrap(annotation: Any, metadata: Iterable[Any]) -> tuple[Any, list[Any], bool]:
    collected = [part for item in metadata for part in _expanded(item)]
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *extra = get_args(annotation)
            for item in extra:
                collected += item.metadata if isinstance(item, FieldInfo) else _expanded(item)
        elif get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation):
            rest = [argument for argument in get_args(annotation) if argument is not type(None)]
            if len(rest) != 1:
                raise UnfitField("a union other than `X | None` has no column type")
            annotation, nullable = rest[0], True
        else:
            return annotation, collected, nullable


def _expanded(item: Any) -> list[Any]:
    return list(item) if isinstance(item, annotated_types.GroupedMetadata) else [item]


def _bounds(metadata: list[Any]) -> tuple[tuple[str, Any], ...]:
    found = []
    for item in metadata:
        if type(item) in OPERATORS:
            sql, attribute = OPERATORS[type(item)]
            found.append((sql, getattr(item, attribute)))
    return tuple(found)


def _last(metadata: list[Any], of: type | None, attribute: str) -> Any:
    values = [getattr(item, attribute, None) for item in metadata if of is None or isinstance(item, of)]
    return next((value for value in reversed(values) if value is not None), None)


def _integer_kind(bounds: tuple[tuple[str, Any], ...]) -> Kind:
    """INTEGER, unless a declared bound reaches beyond it: then BIGINT."""
    reached = [_reached(operator, bound) for operator, bound in bounds]
    if not all(-INT64 <= number < INT64 for number in reached):
        raise UnfitField("an int beyond 64 bits has no column type; use a Decimal with decimal_places=0")
    return "integer" if all(-INT32 <= number < INT32 for number in reached) else "bigint"


def _reached(operator: str, bound: float) -> int:
    """The outermost whole number that a bound lets through."""
    match operator:
        case ">=":
            return math.ceil(bound)
        case ">":
            return math.floor(bound) + 1
        case "<=":
            return math.floor(bound)
        case _:
            return math.ceil(bound) - 1


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    found = tuple(values)
    if not all(isinstance(value, str) for value in found):
        raise UnfitField("an Enum or Literal must be of texts")
    return found


def _check_part(part: Any) -> None:
    """Refuse what may not stand within a document: it could not be stored exactly, or not be frozen."""
    if isinstance(part, type) and issubclass(part, BaseModel):
        if not part.model_config.get("frozen"):
            raise UnfitField(f"nested model {part.__name__} must be frozen: ConfigDict(frozen=True)")
        try:
            check_serializing(part)
        except UnfitField as unfit:
            raise UnfitField(f"nested model {part.__name__} {unfit}") from None
        if part.__pydantic_decorators__.computed_fields:
            raise UnfitField(f"nested model {part.__name__} has a computed field, which would be stored")
        for name, field in part.model_fields.items():
            try:
                _check_field(field)
            except UnfitField as unfit:
                raise UnfitField(f"holds {part.__name__}.{name}, which {unfit}") from None
        return
    origin = get_origin(part) or part
    if origin is dict and (keys := get_args(part)) and not _is_text(keys[0]):
        raise UnfitField(f"holds {part!r}, whose keys are no texts, as those of JSON are")
    if origin in (*DOCUMENT_TYPES, *PLAIN) or (isinstance(origin, type) and issubclass(origin, enum.Enum)):
        return
    raise UnfitField(f"holds {part!r}, which a document cannot; use numbers, texts, lists, dicts and frozen models")


def _check_field(field: FieldInfo) -> None:
    if field.alias or field.validation_alias or field.serialization_alias:
        raise UnfitField("has an alias; a field is called the same everywhere")
    if field.exclude or field.exclude_if:
        raise UnfitField("is excluded from what is stored; a field that is not configuration belongs elsewhere")
    _check_metadata(field.metadata)


def check_serializing(model: type[BaseModel]) -> None:
    """UnfitField for a model that writes other values than it reads."""
    decorators = model.__pydantic_decorators__
    configured = [name for name in model.model_config if name.startswith("ser_json")]
    if decorators.field_serializers or decorators.model_serializers or configured:
        raise UnfitField(OWN_WRITING)


def _check_metadata(metadata: Iterable[Any]) -> None:
    if any(isinstance(item, WRITERS) for item in metadata):
        raise UnfitField(OWN_WRITING)


def _is_text(annotation: Any) -> bool:
    return all(map(_is_text_itself, options_of(annotation)))


def _is_text_itself(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(choice, str) for choice in get_args(kind))
    return kind is Any or (isinstance(kind, type) and issubclass(kind, str))


def _is_json(annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    return origin in (list, tuple, dict) or (isinstance(origin, type) and issubclass(origin, BaseModel))
