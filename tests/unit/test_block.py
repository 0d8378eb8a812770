"""A domain is refused when its class is defined, or it can be carried exactly; and no block ever changes."""

import copy
import datetime as dt
import enum
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, cast
from uuid import UUID, uuid4

import annotated_types
import pytest
from entries import StrategyConfig
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PlainSerializer,
    SecretStr,
    ValidationError,
    WrapSerializer,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
    model_validator,
)
from typing_extensions import TypeAliasType

from configbus import domains
from configbus.block import Block, Domain, FrozenDict, FrozenList, domain_of
from configbus.domains import DrawdownTier, RiskConfig, TradingConfig
from configbus.errors import ConfigBusError, DefinitionError
from configbus.fields import Column
from configbus.names import LIFECYCLE_COLUMNS, SYSTEM_COLUMNS

BUILT_IN = sorted(domains.__all__)
BUILT_IN_DOMAINS = [
    model for name in BUILT_IN if isinstance(model := getattr(domains, name), type) and issubclass(model, Block)
]


class Mutable(BaseModel):
    size: int = 1


class Leaf(BaseModel):
    model_config = ConfigDict(frozen=True)

    names: list[str] = []
    table: dict[str, list[int]] = {}


class Tree(BaseModel):
    model_config = ConfigDict(frozen=True)

    leaf: Leaf = Leaf()
    leaves: list[Leaf] = []
    by_name: dict[str, Leaf] = {}
    pair: tuple[list[int], ...] = ()


class Recursive(BaseModel):
    model_config = ConfigDict(frozen=True)

    children: list["Recursive"] = []


class Unbounded(BaseModel):
    model_config = ConfigDict(frozen=True)

    ratio: float = 0.0


class WithSet(BaseModel):
    model_config = ConfigDict(frozen=True)

    names: set[str] = set()


class Hidden(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = Field(1, exclude=True)


class SometimesHidden(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = Field(1, exclude_if=lambda size: size == 7)


class Clipped(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: Annotated[int, PlainSerializer(lambda size: min(size, 5))] = 1


class Renamed(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = Field(1, alias="grandeur")


class Holder(BaseModel):
    model_config = ConfigDict(frozen=True)

    renamed: tuple[Renamed, ...] = ()


class Doubled(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = 0

    @field_serializer("size")
    def _double(self, size: int) -> int:
        return 2 * size


class Flattened(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = 0

    @model_serializer
    def _flatten(self) -> int:
        return self.size


class Summed(BaseModel):
    model_config = ConfigDict(frozen=True)

    size: int = 0

    @computed_field
    def total(self) -> int:
        return self.size


class Seconds(BaseModel):
    """It stores a time as a number, which no strict model reads as a time."""

    model_config = ConfigDict(frozen=True, ser_json_temporal="seconds")

    at: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


MutableAlias = TypeAliasType("MutableAlias", list[Mutable])
NamedSet = NewType("NamedSet", set[str])
NamedNumbers = NewType("NamedNumbers", dict[int, int])


@dataclass
class Record:
    size: int = 1


class Point(NamedTuple):
    x: int
    y: int


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Number(enum.Enum):
    ONE = 1


class GroveConfig(Block, domain="grove"):
    """Containers within containers."""

    tree: Tree = Tree(
        leaf=Leaf(names=["a"], table={"t": [1]}),
        leaves=[Leaf(names=["b"])],
        by_name={"c": Leaf(names=["d"])},
        pair=([1], [2]),
    )
    trees: list[Tree] = [Tree()]
    tags: list[str] = ["x", "y"]
    table: dict[str, list[int]] = {"one": [1]}
    rows: tuple[list[int], ...] = ([1], [2])
    anything: dict[str, Any] = {"deep": [{"deeper": [1, None, True, "t"]}]}
    maybe: list[int] | None = None


def define(name: str = "demo", /, **fields: tuple[Any, Any]) -> type[Block]:
    """Define a domain with these fields, each a type and a default."""
    made = create_model("DemoConfig", __base__=Block, __module__=__name__, __cls_kwargs__={"domain": name}, **fields)  # type: ignore[call-overload]  # the stubs are narrower than the call
    return cast("type[Block]", made)


def column_of(annotation: Any, default: Any) -> Column:
    (column,) = domain_of(define(value=(annotation, default))).columns
    return column


class Stranger:
    """A type that pydantic cannot read."""


def test_what_pydantic_itself_cannot_read_is_refused_in_our_words() -> None:
    with pytest.raises(DefinitionError, match=r"DemoConfig cannot be a domain: a field is of a type .*Stranger"):

        class DemoConfig(Block, domain="demo"):
            value: Stranger = Stranger()

    with pytest.raises(DefinitionError, match="BareConfig cannot be a domain: A non-annotated attribute"):

        class BareConfig(Block, domain="bare"):
            value = 1  # type: ignore[pydantic-field]  # it is what is refused


@pytest.mark.parametrize("name", ["", "Trading", "a b", "a-b", "a__b", "class", "x" * 41, "trading\n", "1a", "*"])
def test_a_domain_with_such_a_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        define(name, size=(int, 1))
    assert f"{__name__}.DemoConfig cannot be a domain: domain name {name!r}" in str(caught.value)


@pytest.mark.parametrize("name", ["Size", "lambda", "a__b", "x" * 41, "gr\u00f6sse"])
def test_a_field_with_such_a_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        define(**{name: (int, 1)})
    assert f"DemoConfig cannot be a domain: field {name!r} " in str(caught.value)


@pytest.mark.parametrize("name", LIFECYCLE_COLUMNS)
def test_a_field_called_like_a_lifecycle_column_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"field '{name}' is one of the lifecycle columns"):
        define(**{name: (str, "")})


@pytest.mark.parametrize("name", SYSTEM_COLUMNS)
def test_a_field_called_like_a_column_of_postgres_own_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"field '{name}' is one of Postgres' own columns"):
        define(**{name: (int, 1)})


@pytest.mark.parametrize("name", ["copy", "json", "dict", "schema", "validate", "construct", "model_fields"])
def test_a_field_that_would_hide_a_pydantic_attribute_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"field '{name}' would hide an attribute of pydantic models"):
        define(**{name: (str, "")})


@pytest.mark.parametrize("name", ["status", "Size"])
def test_an_inherited_field_is_refused_for_its_name_like_any_other(name: str) -> None:
    base = create_model("Base", __base__=Block, **{name: (str, "")})  # type: ignore[call-overload]  # the stubs are narrower than the call
    with pytest.raises(DefinitionError, match=f"field '{name}'"):
        create_model("DemoConfig", __base__=base, __cls_kwargs__={"domain": "demo"}, size=(int, 1))


@pytest.mark.parametrize(
    ("annotation", "default", "reason"),
    [
        (bytes, b"", "no column type"),
        (dt.date, dt.date(2026, 1, 1), "no column type"),
        (dt.time, dt.time(1), "no column type"),
        (dt.timedelta, dt.timedelta(1), "no column type"),
        (set[int], {1}, "no column type"),
        (frozenset[int], frozenset({1}), "no column type"),
        (complex, 1j, "no column type"),
        (Any, 1, "no column type"),
        (object, 1, "no column type"),
        (int | str, 1, "no column type"),
        (int | str | None, 1, "a union other than `X | None`"),
        (SecretStr, SecretStr(""), "no column type"),
        (type[int], int, "no column type"),
        (Level, Level.LOW, "must be of texts"),
        (Number, Number.ONE, "must be of texts"),
        (Literal[1, 2], 1, "must be of texts"),
        (Decimal, Decimal(1), "needs max_digits and decimal_places"),
        (Decimal, Field(Decimal(1), max_digits=5), "needs max_digits and decimal_places"),
        (Decimal, Field(Decimal(1), decimal_places=2), "needs max_digits and decimal_places"),
        (Decimal, Field(Decimal(1), max_digits=1001, decimal_places=2), "needs max_digits and decimal_places"),
        (Decimal, Field(Decimal(0), max_digits=2, decimal_places=3), "needs max_digits and decimal_places"),
        (int, Field(1, le=2**64), "beyond 64 bits"),
        (int, Field(1, ge=-(2**63) - 1), "beyond 64 bits"),
        (int, ..., "has no default"),
        (int | None, ..., "has no default"),
        (int, Field(1, alias="other"), "has an alias"),
        (int, Field(1, validation_alias="other"), "has an alias"),
        (int, Field(1, serialization_alias="other"), "has an alias"),
        (Mutable, Mutable(), "nested model Mutable must be frozen"),
        (list[Mutable], [], "nested model Mutable must be frozen"),
        (dict[str, list[Mutable | None]], {}, "nested model Mutable must be frozen"),
        (Mutable | None, None, "nested model Mutable must be frozen"),
        (Annotated[list[Mutable], Field(max_length=3)], [], "nested model Mutable must be frozen"),
        (int, Field(1, exclude=True), "is excluded from what is stored"),
        (Hidden, Hidden(), "holds Hidden.size, which is excluded from what is stored"),
        (list[Hidden], [], "holds Hidden.size, which is excluded from what is stored"),
        (int, Field(1, exclude_if=lambda size: size == 7), "is excluded from what is stored"),
        (list[SometimesHidden], [], "is excluded from what is stored"),
        (Annotated[int, PlainSerializer(lambda size: min(size, 5))], 1, "has a serializer"),
        (list[Annotated[int, PlainSerializer(lambda size: min(size, 5))]], [], "has a serializer"),
        (Clipped, Clipped(), "has a serializer"),
        (Renamed, Renamed(), "holds Renamed.size, which has an alias"),
        (Holder | None, None, "holds Renamed.size, which has an alias"),
        (Doubled, Doubled(), "nested model Doubled has a serializer"),
        (dict[str, Flattened], {}, "nested model Flattened has a serializer"),
        (list[Summed], [], "nested model Summed has a computed field"),
        (dict[int, str], {}, "whose keys are no texts"),
        (dict[UUID, str], {}, "whose keys are no texts"),
        (list[dict[bool, int]], [], "whose keys are no texts"),
        (dict[Level, int], {}, "whose keys are no texts"),
        (dict[Literal["a", 1], int], {}, "whose keys are no texts"),
    ],
)
def test_a_field_that_no_column_can_hold_is_refused(annotation: Any, default: Any, reason: str) -> None:
    with pytest.raises(DefinitionError, match="DemoConfig cannot be a domain: field 'value' ") as caught:
        define(value=(annotation, default))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "annotation",
    [
        dict[str, int],
        dict[Colour, int],
        dict[Literal["a", "b"], int],
        dict[Any, int],
        dict[Annotated[str, "told"], int],
    ],
)
def test_keys_of_a_document_may_be_any_texts(annotation: Any) -> None:
    assert column_of(annotation, {}).kind == "json"


def doubled(self: Any, size: int) -> int:
    assert self is not None
    return 2 * size


def flattened(self: Any) -> dict[str, Any]:
    return {"size": 2 * self.size}


@pytest.mark.parametrize("serializer", [field_serializer("size")(doubled), model_serializer(flattened)])
def test_a_domain_with_a_serializer_is_refused(serializer: Any) -> None:
    given = {"__cls_kwargs__": {"domain": "demo"}, "__validators__": {"_serialized": serializer}}
    with pytest.raises(DefinitionError, match="cannot be a domain: it has a serializer; what is stored must be what"):
        create_model("DemoConfig", __base__=Block, size=(int, 0), **given)  # type: ignore[call-overload]  # the stubs are narrower than the call


@pytest.mark.parametrize(
    ("annotation", "factory"),
    [(UUID, uuid4), (list[UUID], lambda: [uuid4()]), (dt.datetime, lambda: dt.datetime.now(dt.UTC))],
    ids=["UUID", "UUID in a list", "now"],
)
def test_defaults_that_differ_from_one_time_to_the_next_are_refused(annotation: Any, factory: Any) -> None:
    with pytest.raises(DefinitionError, match="its defaults differ from one time to the next"):
        define(value=(annotation, Field(default_factory=factory)))


@pytest.mark.parametrize(("annotation", "factory"), [(list[int], list), (dict[str, int], dict), (Leaf, Leaf)])
def test_a_default_may_come_from_a_factory(annotation: Any, factory: Any) -> None:
    assert define(value=(annotation, Field(default_factory=factory)))().model_dump() == {
        "value": factory().model_dump() if factory is Leaf else factory()
    }


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (list[set[int]], []),
        (WithSet, WithSet()),
        (list[Record], []),
        (Point, Point(1, 2)),
        (list[MutableAlias], []),
        (dict[str, NamedSet], {}),
        (list[NamedNumbers], []),
        (list[Json[list[int]]], []),
        (list[Seconds], []),
        (Annotated[list[int], WrapSerializer(lambda them, write: write(them[:1]))] | None, None),
    ],
)
def test_a_container_that_freezing_would_miss_or_spoil_is_refused(annotation: Any, default: Any) -> None:
    with pytest.raises(DefinitionError, match="field 'value'"):
        define(value=(annotation, default))


@pytest.mark.parametrize(
    ("annotation", "default"),
    [
        (int, Field(0, ge=1)),
        (int, "one"),
        (int, 2**31),
        (int, Field(0, le=2**40, ge=1)),
        (bool, "maybe"),
        (str, None),
        (float, float("nan")),
        (float, float("inf")),
        (Annotated[Decimal, Field(max_digits=4, decimal_places=2)], Decimal("0.001")),
        (Annotated[Decimal, Field(max_digits=4, decimal_places=2)], Decimal(100)),
        (Annotated[Decimal, Field(max_digits=4, decimal_places=2)], Decimal("NaN")),
        (Annotated[str, Field(max_length=2)], "abc"),
        (Annotated[str, Field(min_length=2)], "a"),
        (Literal["a", "b"], "c"),
        (Side, "hold"),
        (UUID, "no uuid"),
        (list[int], ["x"]),
        (list[float], [float("nan")]),
        (list, [{1, 2}]),
        (dict[str, Any], {"a": {1}}),
        (Unbounded, Unbounded(ratio=float("nan"))),
        (dt.datetime, dt.datetime(2026, 1, 1)),  # noqa: DTZ001  # that it has no zone is the point
    ],
)
def test_a_default_that_is_not_valid_is_refused(annotation: Any, default: Any) -> None:
    with pytest.raises(DefinitionError, match=r"its defaults are not valid: demo\.value"):
        define(value=(annotation, default))


def test_defaults_that_break_a_rule_across_fields_are_refused() -> None:
    with pytest.raises(DefinitionError, match="defaults are not valid: demo: low must be below high"):

        class DemoConfig(Block, domain="demo"):
            low: int = 2
            high: int = 1

            @model_validator(mode="after")
            def _ordered(self) -> "DemoConfig":
                if self.low >= self.high:
                    raise ValueError("low must be below high")
                return self


def test_a_domain_without_fields_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot be a domain: it has no fields"):
        define()


@pytest.mark.parametrize("name", ["Rule", "a__b", "a b", ""])
def test_a_table_check_with_such_a_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError) as caught:

        class DemoConfig(Block, domain="demo"):
            table_checks = {name: "size > 0"}
            size: int = 1

    assert f"table check {name!r}" in str(caught.value)


def test_a_domain_cannot_thaw_itself() -> None:
    with pytest.raises(DefinitionError, match="frozen"):

        class DemoConfig(Block, domain="demo"):
            model_config = ConfigDict(frozen=False)
            size: int = 1


def test_a_refusal_is_one_of_our_errors_and_a_type_error() -> None:
    with pytest.raises(ConfigBusError) as caught:
        define(value=(bytes, b""))
    assert isinstance(caught.value, TypeError)


def test_a_class_without_domain_is_none() -> None:
    class Base(Block):
        size: int

    with pytest.raises(DefinitionError, match=r"Base is not a domain: write class Base\(Block, domain=\.\.\.\)"):
        domain_of(Base)


def test_a_class_below_a_domain_is_none_unless_it_says_so() -> None:
    class Larger(TradingConfig):
        pass

    class Largest(Larger, domain="largest"):
        pass

    with pytest.raises(DefinitionError):
        domain_of(Larger)
    assert domain_of(Largest).name == "largest"
    assert [column.name for column in domain_of(Largest).columns] == list(TradingConfig.model_fields)


def test_a_domain_knows_its_name_table_keys_and_columns() -> None:
    domain = domain_of(StrategyConfig)
    assert domain == Domain("strategy", True, StrategyConfig, domain.columns)
    assert domain.table == "strategy_config"
    assert [column.name for column in domain.columns] == ["size", "mode", "parameters", "notes"]
    assert not domain_of(TradingConfig).keyed


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        (int, 1, Column("value", "integer", False, "")),
        (int, Field(1, description="told"), Column("value", "integer", False, "told")),
        (int, Field(1, ge=0, lt=10), Column("value", "integer", False, "", bounds=((">=", 0), ("<", 10)))),
        (int, Field(1, gt=0, le=10), Column("value", "integer", False, "", bounds=((">", 0), ("<=", 10)))),
        (Annotated[int, Field(ge=0)], 1, Column("value", "integer", False, "", bounds=((">=", 0),))),
        (int, Field(1, ge=-(2**31), lt=2**31), Column("value", "integer", False, "", ((">=", -(2**31)), ("<", 2**31)))),
        (int, Field(1, le=2**31), Column("value", "bigint", False, "", bounds=(("<=", 2**31),))),
        (int, Field(1, le=2**40), Column("value", "bigint", False, "", bounds=(("<=", 2**40),))),
        (int, Field(1, ge=-(2**40)), Column("value", "bigint", False, "", bounds=((">=", -(2**40)),))),
        (int | None, None, Column("value", "integer", True, "")),
        (bool, True, Column("value", "boolean", False, "")),
        (str, "", Column("value", "text", False, "")),
        (
            Annotated[str, Field(min_length=1, max_length=9)],
            "a",
            Column("value", "text", False, "", min_length=1, max_length=9),
        ),
        (Annotated[str, annotated_types.Len(1, 9)], "a", Column("value", "text", False, "", (), (), 0, 0, 1, 9)),
        (str | None, None, Column("value", "text", True, "")),
        (float, 0.5, Column("value", "float", False, "")),
        (
            Decimal,
            Field(Decimal(1), max_digits=6, decimal_places=4, gt=0),
            Column("value", "numeric", False, "", bounds=((">", 0),), digits=6, places=4),
        ),
        (
            Annotated[Decimal, Field(max_digits=3, decimal_places=0)] | None,
            None,
            Column("value", "numeric", True, "", digits=3, places=0),
        ),
        (UUID, UUID(int=1), Column("value", "uuid", False, "")),
        (dt.datetime, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), Column("value", "timestamp", False, "")),
        (Literal["a", "b"], "a", Column("value", "text", False, "", choices=("a", "b"))),
        (Side, Side.BUY, Column("value", "text", False, "", choices=("buy", "sell"))),
        (Side | None, None, Column("value", "text", True, "", choices=("buy", "sell"))),
        (Leaf, Leaf(), Column("value", "json", False, "")),
        (Leaf | None, None, Column("value", "json", True, "")),
        (list[int], [1], Column("value", "json", False, "")),
        (list[int] | None, None, Column("value", "json", True, "")),
        (dict[str, Any], {}, Column("value", "json", False, "")),
        (tuple[int, ...], (1,), Column("value", "json", False, "")),
    ],
)
def test_each_type_has_its_column(annotation: Any, default: Any, expected: Column) -> None:
    assert column_of(annotation, default) == expected


SMALL, LARGE = 2**31, 2**63


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        (Field(1), -SMALL, SMALL - 1),
        (Field(1, ge=0), 0, SMALL - 1),
        (Field(1, gt=0), 1, SMALL - 1),
        (Field(1, le=10), -SMALL, 10),
        (Field(1, lt=10), -SMALL, 9),
        (Field(1, le=SMALL - 1), -SMALL, SMALL - 1),
        (Field(1, le=SMALL), -LARGE, SMALL),
        (Field(1, ge=-SMALL - 1), -SMALL - 1, LARGE - 1),
        (Field(1, le=2**40), -LARGE, 2**40),
        (Field(1, lt=LARGE), -LARGE, LARGE - 1),
        (Field(1, ge=-LARGE, le=LARGE - 1), -LARGE, LARGE - 1),
        (Field(2**40, ge=2**40), 2**40, LARGE - 1),
    ],
)
@pytest.mark.parametrize("annotation", [int, int | None])
def test_an_int_takes_exactly_what_its_column_takes(annotation: Any, field: Any, lowest: int, highest: int) -> None:
    model = define(value=(annotation, field))
    assert model.model_validate({"value": lowest}).model_dump() == {"value": lowest}
    assert model.model_validate({"value": highest}).model_dump() == {"value": highest}
    for beyond in (lowest - 1, highest + 1):
        with pytest.raises(ValidationError):
            model.model_validate({"value": beyond})


def test_an_int_never_takes_what_a_bigint_cannot_hold() -> None:
    with pytest.raises(DefinitionError, match="beyond 64 bits"):
        define(value=(int, Field(1, le=LARGE)))


@pytest.mark.parametrize("model", [TradingConfig, RiskConfig, StrategyConfig, GroveConfig])
def test_the_defaults_are_valid_as_stored_content_too(model: type[Block]) -> None:
    default = model()
    assert model.model_validate_json(default.model_dump_json(), strict=True) == default


def test_every_built_in_domain_has_valid_defaults_and_tells_its_fields() -> None:
    assert [model.__name__ for model in BUILT_IN_DOMAINS] == [
        "ApiConfig",
        "ClusterConfig",
        "DiscoveryConfig",
        "ExitConfig",
        "RiskConfig",
        "ScoringConfig",
        "TradingConfig",
    ]
    for model in BUILT_IN_DOMAINS:
        model.model_validate_json(model().model_dump_json(), strict=True)
        assert model.__doc__
        assert not [column.name for column in domain_of(model).columns if not column.description]


def test_a_field_cannot_be_set_deleted_or_added() -> None:
    block = TradingConfig()
    with pytest.raises(ValidationError, match="frozen"):
        block.score_threshold = Decimal("0.8")  # type: ignore[misc]  # the stubs are narrower than the call
    with pytest.raises(ValidationError, match="frozen"):
        del block.score_threshold
    with pytest.raises((ValidationError, ValueError)):
        block.other = 1  # type: ignore[attr-defined]  # the stubs are narrower than the call
    assert block == TradingConfig()


def test_a_nested_model_cannot_be_changed() -> None:
    block = TradingConfig()
    with pytest.raises(ValidationError, match="frozen"):
        block.drawdown_reduction_tiers[0].threshold_pct = Decimal(1)  # type: ignore[misc]  # the stubs are narrower than the call
    assert block == TradingConfig()


LIST_CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "append": lambda it: it.append(1),
    "extend": lambda it: it.extend([1]),
    "insert": lambda it: it.insert(0, 1),
    "pop": lambda it: it.pop(),
    "remove": lambda it: it.remove(it[0]),
    "clear": lambda it: it.clear(),
    "sort": lambda it: it.sort(key=str),
    "reverse": lambda it: it.reverse(),
    "item": lambda it: it.__setitem__(0, 1),
    "slice": lambda it: it.__setitem__(slice(None), []),
    "delete item": lambda it: it.__delitem__(0),
    "add in place": lambda it: it.__iadd__([1]),
    "multiply in place": lambda it: it.__imul__(2),
}
DICT_CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "item": lambda it: it.__setitem__("a", 1),
    "delete item": lambda it: it.__delitem__(next(iter(it))),
    "pop": lambda it: it.pop(next(iter(it))),
    "popitem": lambda it: it.popitem(),
    "clear": lambda it: it.clear(),
    "update": lambda it: it.update(a=1),
    "setdefault": lambda it: it.setdefault("a", 1),
    "or in place": lambda it: it.__ior__({"a": 1}),
}


def containers(value: Any) -> Iterator[Any]:
    """Every list and dict within a value."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from containers(getattr(value, name))
    elif isinstance(value, (list, tuple)):
        yield from [value] if isinstance(value, list) else []
        for part in value:
            yield from containers(part)
    elif isinstance(value, dict):
        yield value
        for part in value.values():
            yield from containers(part)


GROVE = {
    "default": GroveConfig(),
    "given": GroveConfig(tree=Tree(leaves=[Leaf(names=["n"])]), tags=["z"], maybe=[1, 2]),
    "stored": GroveConfig.model_validate_json(GroveConfig().model_dump_json(), strict=True),
    "pickled": pickle.loads(pickle.dumps(GroveConfig())),  # noqa: S301  # our own
    "deep copy": copy.deepcopy(GroveConfig()),
    "copy": copy.copy(GroveConfig()),
}


@pytest.mark.parametrize("block", GROVE.values(), ids=GROVE)
@pytest.mark.parametrize("change", LIST_CHANGES.values(), ids=LIST_CHANGES)
def test_no_list_in_a_block_can_be_changed(block: GroveConfig, change: Callable[[list[Any]], object]) -> None:
    lists = [container for container in containers(block) if isinstance(container, list)]
    assert len(lists) > 8
    before = block.model_dump_json()
    for each in lists:
        with pytest.raises(TypeError if each else (TypeError, IndexError), match=r"immutable|range"):
            change(each)
    assert block.model_dump_json() == before


@pytest.mark.parametrize("block", GROVE.values(), ids=GROVE)
@pytest.mark.parametrize("change", DICT_CHANGES.values(), ids=DICT_CHANGES)
def test_no_dict_in_a_block_can_be_changed(block: GroveConfig, change: Callable[[dict[str, Any]], object]) -> None:
    dicts = [container for container in containers(block) if isinstance(container, dict) and container]
    assert len(dicts) >= 3
    before = block.model_dump_json()
    for each in dicts:
        with pytest.raises(TypeError, match="immutable"):
            change(each)
    assert block.model_dump_json() == before


def test_what_it_was_made_from_has_no_hold_on_a_block() -> None:
    tags, table = ["a"], {"one": [1]}
    block = GroveConfig(tags=tags, table=table)
    tags.append("b")
    table["one"].append(2)
    table["two"] = []
    assert block.tags == ["a"]
    assert block.table == {"one": [1]}


def test_two_blocks_share_no_default_with_each_other_or_with_the_class() -> None:
    before = GroveConfig().model_dump_json()
    tree = GroveConfig().tree
    assert tree.leaf.names == ["a"]
    assert GroveConfig().tags is not GroveConfig().tags
    assert GroveConfig().model_dump_json() == before


def test_a_recursive_document_is_carried_and_frozen_at_every_depth() -> None:
    model = define(value=(Recursive, Recursive(children=[Recursive(children=[Recursive()])])))
    block = model.model_validate_json(model().model_dump_json(), strict=True)
    assert block == model()
    value: Any = dict(block)["value"]
    for depth in range(3):
        assert len(value.children) == (depth < 2)
        with pytest.raises(TypeError, match="immutable"):
            value.children.append(Recursive())
        value = value.children[0] if value.children else None


def test_a_frozen_container_is_copied_into_a_changeable_one() -> None:
    block = GroveConfig()
    tags, table = list(block.tags), dict(block.table)
    tags.append("z")
    table["two"] = [2]
    assert block.tags == ["x", "y"]
    assert block.tags + ["z"] == tags  # noqa: RUF005  # adding is what is tried
    assert block.table | {"two": [2]} == table


@pytest.mark.parametrize("model", [TradingConfig, RiskConfig, StrategyConfig, GroveConfig])
@pytest.mark.parametrize(
    "again",
    [
        lambda block: pickle.loads(pickle.dumps(block)),  # noqa: S301  # our own
        copy.copy,
        copy.deepcopy,
        lambda block: block.model_copy(deep=True),
        lambda block: type(block)(**dict(block)),
        lambda block: type(block).model_validate_json(block.model_dump_json(), strict=True),
    ],
    ids=["pickle", "copy", "deepcopy", "model_copy", "constructor", "json"],
)
def test_a_copy_equals_its_original_and_has_its_hash(model: type[Block], again: Callable[[Block], Block]) -> None:
    block = model()
    twin = again(block)
    assert twin == block
    assert type(twin) is model
    assert hash(twin) == hash(block)
    assert twin.model_dump_json() == block.model_dump_json()


def test_blocks_differ_where_a_value_differs() -> None:
    assert TradingConfig(score_threshold=Decimal("0.8")) != TradingConfig()
    assert TradingConfig(score_threshold=Decimal("0.7000")) == TradingConfig()
    assert GroveConfig(table={"one": [2]}) != GroveConfig()


def test_frozen_containers_equal_print_and_serialise_like_others() -> None:
    block = GroveConfig()
    assert block.tags == ["x", "y"]
    assert ["x", "y"] == block.tags  # noqa: SIM300  # from the other side, too
    assert block.table == {"one": [1]}
    assert repr(block.tags) == "['x', 'y']"
    assert repr(block.table) == "{'one': [1]}"
    assert json.dumps(block.anything) == '{"deep": [{"deeper": [1, null, true, "t"]}]}'
    assert json.loads(block.model_dump_json())["anything"] == block.anything
    assert block.model_dump()["rows"] == ([1], [2])


def test_frozen_containers_have_the_hash_of_their_content() -> None:
    assert hash(FrozenList([1, FrozenList([2])])) == hash(FrozenList([1, FrozenList([2])]))
    assert hash(FrozenDict(a=1, b=FrozenList())) == hash(FrozenDict(b=FrozenList(), a=1))
    assert hash(FrozenList([1])) != hash(FrozenList([2]))
    assert len({GroveConfig(), GroveConfig(), GroveConfig(tags=[])}) == 2


def test_nested_types_survive_freezing() -> None:
    block = GroveConfig()
    assert type(block.tree) is Tree
    assert type(block.tree.by_name["c"]) is Leaf
    assert type(block.rows) is tuple
    assert type(block.trees[0].pair) is tuple


def test_unknown_fields_are_ignored_and_missing_ones_are_defaults() -> None:
    stored = '{"max_drawdown_pct": "15.00", "from_tomorrow": 1, "@revision": 7}'
    assert RiskConfig.model_validate_json(stored, strict=True) == RiskConfig(max_drawdown_pct=Decimal(15))


# The first two domains, as the founding documents describe them: name, column, default.

D = Decimal
PERCENT = ("numeric", 5, 2)
SCORE = ("numeric", 4, 3)
SOL = ("numeric", 20, 8)
INTEGER = ("integer", 0, 0)
BOOLEAN = ("boolean", 0, 0)

TRADING: list[tuple[str, tuple[str, int, int], object]] = [
    ("base_position_pct", PERCENT, D("2.0")),
    ("max_position_sol", SOL, D("1.0")),
    ("min_position_sol", SOL, D("0.05")),
    ("high_conviction_multiplier", PERCENT, D("1.5")),
    ("sizing_mode", ("text", 0, 0), "risk_based"),
    ("risk_per_trade_pct", PERCENT, D("1.0")),
    ("max_concurrent_positions", INTEGER, 5),
    ("daily_loss_limit_pct", PERCENT, D("5.0")),
    ("daily_loss_limit_enabled", BOOLEAN, True),
    ("max_concentration_token_pct", PERCENT, D("25.0")),
    ("max_concentration_cluster_pct", PERCENT, D("50.0")),
    ("max_positions_per_cluster", INTEGER, 3),
    (
        "drawdown_reduction_tiers",
        ("json", 0, 0),
        [
            DrawdownTier(threshold_pct=D(5), size_reduction_pct=D(0)),
            DrawdownTier(threshold_pct=D(10), size_reduction_pct=D(25)),
            DrawdownTier(threshold_pct=D(15), size_reduction_pct=D(50)),
            DrawdownTier(threshold_pct=D(20), size_reduction_pct=D(100)),
        ],
    ),
    ("score_threshold", SCORE, D("0.70")),
    ("high_conviction_threshold", SCORE, D("0.85")),
    ("max_slippage_entry_bps", INTEGER, 100),
    ("max_slippage_exit_bps", INTEGER, 150),
]
RISK: list[tuple[str, tuple[str, int, int], object]] = [
    ("circuit_breaker_enabled", BOOLEAN, True),
    ("circuit_breaker_loss_threshold", PERCENT, D("10.0")),
    ("circuit_breaker_cooldown_minutes", INTEGER, 60),
    ("max_drawdown_pct", PERCENT, D("20.0")),
    ("drawdown_lookback_days", INTEGER, 30),
    ("max_order_attempts", INTEGER, 3),
    ("retry_delay_base_seconds", INTEGER, 5),
    ("retry_delay_multiplier", ("numeric", 4, 2), D("3.0")),
    ("emergency_exit_threshold_pct", PERCENT, D("50.0")),
]


@pytest.mark.parametrize(("model", "fields"), [(TradingConfig, TRADING), (RiskConfig, RISK)], ids=["trading", "risk"])
def test_a_built_in_domain_is_as_the_founding_documents_have_it(
    model: type[Block], fields: list[tuple[str, tuple[str, int, int], object]]
) -> None:
    columns, block = domain_of(model).columns, model()
    found = [(col.name, (col.kind, col.digits, col.places), getattr(block, col.name)) for col in columns]
    assert found == fields
    assert not any(column.nullable for column in columns)
    assert not domain_of(model).keyed


def test_the_built_in_domains_are_called_trading_and_risk() -> None:
    assert [domain_of(TradingConfig).name, domain_of(RiskConfig).name] == ["trading", "risk"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"min_position_sol": D(2), "max_position_sol": D(1)}, "min_position_sol must not be above max_position_sol"),
        ({"min_position_sol": D(0)}, "greater than 0"),
        ({"score_threshold": D("1.001")}, "less than or equal to 1"),
        ({"base_position_pct": D("100.01")}, "less than or equal to 100"),
        ({"sizing_mode": "martingale"}, "'risk_based' or 'fixed_percent'"),
        ({"max_slippage_entry_bps": -1}, "greater than or equal to 0"),
        ({"max_concurrent_positions": 0}, "greater than or equal to 1"),
        (
            {"drawdown_reduction_tiers": [{"threshold_pct": p, "size_reduction_pct": 1} for p in (5, 10, 10)]},
            "rising thresholds",
        ),
        (
            {"drawdown_reduction_tiers": [{"threshold_pct": p, "size_reduction_pct": 1} for p in (10, 5)]},
            "rising thresholds",
        ),
        ({"drawdown_reduction_tiers": [{"threshold_pct": 101, "size_reduction_pct": 1}]}, "less than or equal to 100"),
    ],
)
def test_trading_refuses_what_makes_no_sense(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TradingConfig(**values)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"min_position_sol": D(1), "max_position_sol": D(1)},
        {"drawdown_reduction_tiers": []},
        {"sizing_mode": "fixed_percent"},
        {"score_threshold": D(0), "high_conviction_threshold": D(1)},
    ],
)
def test_trading_takes_what_lies_on_its_bounds(values: dict[str, Any]) -> None:
    block = TradingConfig(**values)
    assert {name: getattr(block, name) for name in values} == values


def test_the_rule_across_fields_is_declared_for_the_database_too() -> None:
    assert domain_of(TradingConfig).model.table_checks == {"position_range": "min_position_sol <= max_position_sol"}
