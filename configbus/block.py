"""`Block`: the frozen pydantic model that every domain subclasses.

    class TradingConfig(Block, domain="trading"): ...
    class MomentumConfig(Block, domain="momentum", keyed=True): ...

A class that cannot be a domain (a name, a type, a missing or invalid default) is refused here,
when it is defined, so that table, Redis hash and worker never meet one that they cannot carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime  # pydantic reads the annotation of _with_zone
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    ValidationError,
    model_validator,
)

from configbus.errors import DefinitionError, Problem
from configbus.fields import ALLOWED, Column, UnfitField, check_serializing, integer_limits, read_column
from configbus.names import LIFECYCLE_COLUMNS, SYSTEM_COLUMNS, identifier_fault


class FrozenList(list[Any]):
    """A list that equals, prints and serialises like any other, and cannot be changed."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("configuration is immutable: make a copy with list(...) to change it")

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)

    def __hash__(self) -> int:  # type: ignore[override]  # a list is unhashable, one that never changes need not be
        return hash(tuple(self))


class FrozenDict(dict[str, Any]):
    """A dict that equals, prints and serialises like any other, and cannot be changed."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("configuration is immutable: make a copy with dict(...) to change it")

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)

    def __hash__(self) -> int:  # type: ignore[override]  # as for FrozenList
        return hash(frozenset(self.items()))


def freeze(value: Any) -> Any:
    """The same value with every container in it made immutable."""
    if isinstance(value, BaseModel):
        for name, part in value.__dict__.items():
            value.__dict__[name] = freeze(part)
        return value
    if isinstance(value, (FrozenList, FrozenDict)):
        return value
    if isinstance(value, dict):
        return FrozenDict((key, freeze(part)) for key, part in value.items())
    if isinstance(value, tuple):
        return tuple(freeze(part) for part in value)
    if isinstance(value, list):
        return FrozenList(freeze(part) for part in value)
    return value


@dataclass(frozen=True, slots=True)
class Domain:
    """What is known of a domain: its model, whether it has keys, and its columns in order."""

    name: str
    keyed: bool
    model: type[Block]
    columns: tuple[Column, ...]

    @property
    def table(self) -> str:
        return f"{self.name}_config"


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # it has no public name


class _Defining(ModelMetaclass):
    """Tells in our words why pydantic itself cannot make the class."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> Any:
        try:
            return super().__new__(cls, name, bases, namespace, **kwargs)
        except PydanticSchemaGenerationError as error:
            reason = f"a field is of a type that has no column type; {ALLOWED} ({error.message.partition('. ')[0]})"
        except PydanticUserError as error:
            reason = error.message.partition("; ")[0]
        raise DefinitionError(f"{namespace['__module__']}.{namespace['__qualname__']} cannot be a domain: {reason}")


class Block(BaseModel, metaclass=_Defining):
    """One typed, immutable configuration. Subclass it with `domain="name"`, and `keyed=True`
    where there is one block per key. `table_checks` maps names to SQL conditions over the
    columns, for rules across fields: declare them beside the Python validator.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, validate_default=True)

    table_checks: ClassVar[Mapping[str, str]] = {}
    __domain__: ClassVar[Domain | None] = None

    def __init_subclass__(cls, *, domain: str | None = None, keyed: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__domain__ = None
        if domain is None:
            return
        if fault := identifier_fault(domain):
            _refuse(cls, f"domain name {domain!r} {fault}")
        for name in vars(cls).get("__annotations__", {}):
            if name.startswith("_") or name in Block.__annotations__:
                continue
            _check_name(cls, name)

    @classmethod
    def __pydantic_init_subclass__(cls, *, domain: str | None = None, keyed: bool = False, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if domain is None:
            return
        columns = []
        if not cls.model_config.get("frozen"):
            _refuse(cls, "it must stay frozen: workers share one instance")
        for name, field in cls.model_fields.items():
            _check_name(cls, name)
            try:
                column = read_column(name, field)
            except UnfitField as unfit:
                _refuse(cls, f"field {name!r} {unfit}", unfit)
            if column.kind in ("integer", "bigint"):
                field.metadata += integer_limits(column)
            if column.kind == "timestamp":
                field.metadata.append(AfterValidator(_with_zone))
            columns.append(column)
        if not columns:
            _refuse(cls, "it has no fields")
        try:
            check_serializing(cls)
        except UnfitField as unfit:
            _refuse(cls, f"it {unfit}", unfit)
        for name in cls.table_checks:
            if fault := identifier_fault(name):
                _refuse(cls, f"table check {name!r} {fault}")
        cls.model_rebuild(force=True)
        cls.__domain__ = Domain(domain, keyed, cls, tuple(columns))
        try:
            defaults = cls()
            if cls() != defaults:
                _refuse(cls, "its defaults differ from one time to the next; Postgres holds them, too")
            stored = cls.model_validate_json(defaults.model_dump_json(), strict=True)
        except ValidationError as error:
            told = "; ".join(map(str, problems(domain, error)))
            _refuse(cls, f"its defaults are not valid: {told}", error)
        for name in cls.model_fields:
            if getattr(stored, name) != getattr(defaults, name):
                _refuse(cls, f"its defaults are not valid: {domain}.{name} would not come back from JSON as it is")

    @model_validator(mode="after")
    def _freeze_containers(self) -> Self:
        if (domain := self.__domain__) is not None:
            for column in domain.columns:
                if column.kind == "json":
                    self.__dict__[column.name] = freeze(self.__dict__[column.name])
        return self


def _with_zone(at: datetime | None) -> datetime | None:
    if at is not None:
        if at.tzinfo is None:
            raise ValueError("the time has no zone")
        try:
            at.astimezone(UTC)
        except OverflowError:
            raise ValueError("the time is out of range in UTC") from None
    return at


def _check_name(cls: type[Block], name: str) -> None:
    if fault := identifier_fault(name):
        _refuse(cls, f"field {name!r} {fault}")
    if name in LIFECYCLE_COLUMNS:
        _refuse(cls, f"field {name!r} is one of the lifecycle columns that every table has")
    if name in SYSTEM_COLUMNS:
        _refuse(cls, f"field {name!r} is one of Postgres' own columns")
    if hasattr(BaseModel, name):
        _refuse(cls, f"field {name!r} would hide an attribute of pydantic models")


def domain_of(model: type[Block]) -> Domain:
    """The domain of a Block class; DefinitionError for a class that declares none."""
    if model.__domain__ is None:
        raise DefinitionError(f"{model.__name__} is not a domain: write class {model.__name__}(Block, domain=...)")
    return model.__domain__


def problems(name: str, error: ValidationError) -> list[Problem]:
    """What pydantic found, by path below the block's name; without the values, which may be secret."""
    return [
        Problem(".".join(map(str, (name, *found["loc"]))), found["msg"].removeprefix("Value error, "))
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _refuse(cls: type[Block], reason: str, cause: Exception | None = None) -> NoReturn:
    raise DefinitionError(f"{cls.__module__}.{cls.__qualname__} cannot be a domain: {reason}") from cause
