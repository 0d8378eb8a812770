"""At the door nothing is guessed and nothing passes that a table, a hash or a worker could not carry.

Each refusal names the field and the reason, in a sentence that can be shown.
"""

import contextlib
import datetime as dt
import enum
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from configbus.block import Block, domain_of
from configbus.domains import DrawdownTier, TradingConfig
from configbus.errors import ConfigBusError, InvalidValue, UnknownField
from configbus.jsontext import members
from configbus.values import as_json, from_text, valid_content, with_values

AWKWARD = "Gr\u00fc\u00dfe \U0001f680 \"quoted\" 'it' {x} %s 100% \\ \t\n"
TOLD = 300
"""Characters that a refusal may take."""


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    size: int = 1
    ratio: float = 0.5
    exact: Decimal = Field(Decimal("1.00"), max_digits=5, decimal_places=2)
    wide: Decimal = Field(Decimal("0.5"), max_digits=30, decimal_places=25)
    names: list[str] = ["a"]


class Side(enum.Enum):
    BUY = "buy"
    SELL = "sell"


class Mode(enum.StrEnum):
    SLOW = "slow and steady"


class DoorConfig(Block, domain="door"):
    """A field of each kind."""

    count: int = 1
    big: int = Field(1, ge=-(2**63), le=2**63 - 1)
    flag: bool = True
    ratio: float = 0.5
    exact: Decimal = Field(Decimal("1.0000"), max_digits=12, decimal_places=4)
    text: str = "a"
    short: str = Field("a", max_length=10)
    side: Side = Side.BUY
    mode: Literal["slow", "fast"] = "slow"
    token: UUID = UUID(int=1)
    since: dt.datetime = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    maybe: int | None = None
    maybe_text: str | None = None
    maybe_exact: Decimal | None = Field(None, max_digits=12, decimal_places=4)
    numbers: list[int] = [1]
    ratios: dict[str, float] = {"a": 0.5}
    exacts: list[Decimal] = [Decimal(1)]
    inner: Inner = Inner()
    inners: list[Inner] = [Inner()]
    moments: list[dt.datetime] = []
    anything: dict[str, Any] = {"a": 1}


DOMAIN = domain_of(DoorConfig)
STORED = DoorConfig().model_dump_json()


def put(value: Any, *parts: str) -> Any:
    """The block's field after a value was put at a path."""
    content = members(STORED)
    block = with_values(DOMAIN, "door", content, [(list(parts), value)])
    assert content == members(STORED)
    return getattr(block, parts[0])


def typed(text: str, *parts: str) -> Any:
    """The block's field after a text was typed for a path."""
    return put(from_text(DOMAIN, parts[0], text, ".".join(("door", *parts))), *parts)


def brackets(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def refusal(attempt: Callable[[], object], path: str) -> str:
    """What is told of an attempt that is refused for a value at or below a path."""
    with pytest.raises(InvalidValue) as caught:
        attempt()
    for problem in caught.value.problems:
        assert problem.path == path or problem.path.startswith(f"{path}.")
        assert problem.reason
        assert len(str(problem)) < TOLD
    assert isinstance(caught.value, ConfigBusError)
    return str(caught.value)


VALUES: dict[str, tuple[str, Any, str]] = {
    "NaN": ("ratio", float("nan"), "not a finite number"),
    "Infinity": ("ratio", float("inf"), "not a finite number"),
    "-Infinity": ("ratio", float("-inf"), "not a finite number"),
    "NaN in a document": ("anything", {"deep": [float("nan")]}, "not a finite number"),
    "NaN in a model": ("inner", Inner.model_construct(ratio=float("nan")), "not a finite number"),
    "decimal NaN": ("exact", Decimal("NaN"), "finite"),
    "decimal signalling NaN": ("exact", Decimal("sNaN"), ""),
    "decimal Infinity": ("exact", Decimal("Infinity"), "finite"),
    "decimal NaN as text": ("exact", "NaN", "finite"),
    "decimal Infinity as text": ("exact", "Infinity", "finite"),
    "decimal NaN in a list": ("exacts", ["NaN"], "finite"),
    "decimal NaN in a document": ("anything", {"a": Decimal("NaN")}, "finite"),
    "float NaN as text": ("ratio", "NaN", "valid number"),
    "1e999 as a decimal": ("exact", "1e999", "digits"),
    "1e999 as a float": ("ratio", "1e999", "valid number"),
    "2**63": ("count", 2**63, "less than or equal to 2147483647"),
    "2**63 in a bigint": ("big", 2**63, "less than or equal to 9223372036854775807"),
    "-2**63 - 1 in a bigint": ("big", -(2**63) - 1, "greater than or equal to"),
    "2**31": ("count", 2**31, "less than or equal to 2147483647"),
    "2**53 + 1 in an integer": ("count", 2**53 + 1, "less than or equal to 2147483647"),
    "2**53 + 1 in a float": ("ratio", 2**53 + 1, ""),
    "5,000 digits": ("count", 10**5000, ""),
    "5,000 digits for a float": ("ratio", 10**5000, ""),
    "5,000 digits in a document": ("anything", {"a": 10**5000}, ""),
    "5,000 digits as a decimal": ("exact", "1" * 5000, "digits"),
    "5,000 digits in a list of decimals": ("exacts", ["1" * 5000], ""),
    "huge exponent": ("exact", "1e1000000000", "digits"),
    "huge negative exponent": ("exact", "1e-1000000000", "digits"),
    "huge exponent, Decimal": ("exact", Decimal("1e1000000000"), "digits"),
    "huge exponent in a list": ("exacts", ["1e1000000000"], "plain digits"),
    "huge exponent in a list, Decimal": ("exacts", [Decimal("1e1000000000")], "plain digits"),
    "true for an int": ("count", True, "valid integer"),
    "true for an int or none": ("maybe", True, "valid integer"),
    "true for a float": ("ratio", True, "valid number"),
    "true for a decimal": ("exact", True, "Decimal input should be"),
    "true in a list of ints": ("numbers", [True], "valid integer"),
    "1 for a bool": ("flag", 1, "valid boolean"),
    "text for a bool": ("flag", "true", "valid boolean"),
    "text for an int": ("count", "5", "valid integer"),
    "text for a float": ("ratio", "5", "valid number"),
    "text in a list of ints": ("numbers", ["5"], "valid integer"),
    "float for an int": ("count", 5.5, "integer"),
    "int for a text": ("text", 5, "valid string"),
    "int for a time": ("since", 1_769_860_800, "valid datetime"),
    "int for a UUID": ("token", 5, "UUID"),
    "full-width digits for an int": ("count", "\uff15", "valid integer"),
    "full-width digits for a decimal": ("exact", "\uff15", "plain digits"),
    "Arabic digits for a decimal": ("exact", "\u0665", "plain digits"),
    "full-width digits in a document": ("inner", {"exact": "\uff15"}, "plain digits"),
    "full-width digits in a list": ("exacts", ["\uff15"], "plain digits"),
    "full-width digits deep in a list": ("inners", [{"exact": "\uff15"}], "plain digits"),
    "underscores for a decimal": ("exact", "1_000", "plain digits"),
    "underscores for an int": ("count", "1_000", "valid integer"),
    "spaces around a decimal": ("exact", " 7\n", "plain digits"),
    "newline after a decimal": ("exact", "7\n", "plain digits"),
    "no-break space": ("exact", "7\xa0", "plain digits"),
    "hexadecimal": ("exact", "0x10", "valid decimal"),
    "no digits": ("exact", "", "valid decimal"),
    "too many places": ("exact", "1.00001", "decimal places"),
    "NUL": ("text", "a\0b", "NUL"),
    "NUL in a document": ("anything", {"a": ["\0"]}, "NUL"),
    "NUL in a name": ("anything", {"a\0": 1}, "NUL"),
    "NUL in a choice": ("mode", "slow\0", "NUL"),
    "lone surrogate": ("text", "a\ud800b", "surrogate"),
    "lone surrogate in a document": ("anything", {"a": "\udfff"}, "surrogate"),
    "lone surrogate in a name": ("anything", {"\udfff": 1}, "surrogate"),
    "lone surrogate in a model": ("inner", Inner(names=["\ud800"]), "surrogate"),
    "invalid UTF-8": ("text", b"\xff\xfe", "bytes"),
    "UTF-16": ("text", "a".encode("utf-16"), "bytes"),
    "bytes in a document": ("anything", {"a": b"a"}, "bytes"),
    "1 MB text": ("text", "x" * 2**20, ""),
    "1 MB text in a document": ("anything", {"a": "x" * 2**20}, ""),
    "11 characters of 10": ("short", "x" * 11, "at most 10"),
    "10,001 fields": ("anything", {f"field_{number}": 1 for number in range(10_001)}, ""),
    "400,000 numbers": ("numbers", [1] * 400_000, ""),
    "not an object": ("inner", [1], "object"),
    "not an object: text": ("inner", "{}", "object"),
    "not a list": ("numbers", {"a": 1}, "valid array"),
    "none where a value belongs": ("count", None, "valid integer"),
    "unknown choice": ("mode", "other", "'slow' or 'fast'"),
    "unknown member": ("side", "hold", "'buy' or 'sell'"),
    "member's name": ("side", "BUY", "'buy' or 'sell'"),
    "no UUID": ("token", "x", "UUID"),
    "time without zone": ("since", dt.datetime(2026, 1, 1), "zone"),  # noqa: DTZ001  # that is the point
    "time without zone as text": ("since", "2026-01-01T00:00:00", "zone"),
    "time without zone in a list": ("moments", ["2026-01-01T00:00:00"], "zone"),
    "before the first time in UTC": ("since", "0001-01-01T00:00:00+14:00", "out of range"),
    "impossible date": ("since", "2026-02-30T00:00:00Z", "valid datetime"),
    "date alone": ("since", "2026-01-01", "valid datetime"),
    "wrong field type in a model": ("inner", {"size": "5"}, "valid integer"),
    "unknown field in a model": ("inner", {"sice": 5}, "size"),
    "unknown field in a list of models": ("inners", [{"size": 1}, {"nams": []}], "names"),
    "a set": ("numbers", {1}, "set cannot be a configuration value"),
    "a date": ("since", dt.date(2026, 1, 1), "date cannot be a configuration value"),
    "a function": ("anything", {"a": len}, "cannot be a configuration value"),
    "an object": ("count", object(), "object cannot be a configuration value"),
}


@pytest.mark.parametrize(("field", "value", "reason"), VALUES.values(), ids=VALUES)
def test_a_value_is_refused_with_its_field_and_the_reason(field: str, value: Any, reason: str) -> None:
    assert reason in refusal(lambda: put(value, field), f"door.{field}")


@pytest.mark.parametrize("depth", [250, 500, 900, 5_000, 100_000])
def test_nested_brackets_are_refused_however_deep(depth: int) -> None:
    assert refusal(lambda: put({"a": brackets(depth)}, "anything"), "door.anything")


TEXTS: dict[str, tuple[str, str, str]] = {
    "broken": ("anything", '{"a": ', "not JSON"),
    "broken list": ("numbers", "[1, 2", "not JSON"),
    "trailing comma": ("numbers", "[1,]", "not JSON"),
    "two documents": ("numbers", "[1] [2]", "not JSON"),
    "comment": ("numbers", "[1] // one", "not JSON"),
    "single quotes": ("anything", "{'a': 1}", "not JSON"),
    "empty": ("anything", "", "not JSON"),
    "empty for an int": ("count", "", "not a number"),
    "empty for a bool": ("flag", "", "not true or false"),
    "empty for a decimal": ("exact", "", "valid decimal"),
    "not an object": ("inner", "[]", "object"),
    "not a list": ("numbers", "{}", "valid array"),
    "a byte order mark": ("numbers", "\ufeff[1]", "not JSON"),
    "duplicate keys": ("anything", '{"a": 1, "a": 2}', ""),
    "duplicate keys, deep": ("inners", '[{"size": 1, "size": 2}]', ""),
    "missing field": ("tiers", '[{"threshold_pct": 5}]', "size_reduction_pct: Field required"),
    "NaN": ("ratio", "NaN", "not a number"),
    "NaN in a document": ("anything", '{"a": NaN}', "not JSON"),
    "Infinity": ("ratio", "Infinity", "not a number"),
    "-Infinity": ("ratio", "-Infinity", "not a number"),
    "1e999": ("ratio", "1e999", "finite"),
    "1e999 in a document": ("anything", '{"a": 1e999}', ""),
    "1e-(10**23 - 1)": ("ratio", "1e-99999999999999999999999", "digits"),
    "1e-(10**23 - 1) in a document": ("anything", '{"a": 1e-99999999999999999999999}', "digits"),
    "more digits than a float has": ("ratio", "3.14159265358979323846", "digits"),
    "more digits than a float has, in a document": ("anything", '{"a": 3.14159265358979323846}', "digits"),
    "1e999 for a decimal": ("exact", "1e999", "digits"),
    "2**63": ("count", str(2**63), "less than or equal to"),
    "2**63 for a bigint": ("big", str(2**63), "less than or equal to"),
    "5,000 digits": ("count", "9" * 5000, "not a number"),
    "5,000 digits in a list": ("numbers", f"[{'9' * 5000}]", "not JSON"),
    "5,000 digits for a decimal": ("exact", "9" * 5000, "digits"),
    "huge exponent": ("exact", "1e1000000000", "digits"),
    "true for an int": ("count", "true", "valid integer"),
    "1 for a bool": ("flag", "1", "valid boolean"),
    "yes for a bool": ("flag", "yes", "not true or false"),
    "True for a bool": ("flag", "True", "not true or false"),
    "text for an int": ("count", '"5"', "valid integer"),
    "a float for an int": ("count", "5.5", "integer"),
    "a word for an int": ("count", "five", "not a number"),
    "full-width digits": ("count", "\uff15", "not a number"),
    "full-width digits for a float": ("ratio", "\uff15", "not a number"),
    "full-width digits for a decimal": ("exact", "\uff15", "plain digits"),
    "underscores": ("count", "1_000", "not a number"),
    "underscores for a decimal": ("exact", "1_000", "plain digits"),
    "leading zero": ("count", "010", "not a number"),
    "leading plus": ("count", "+1", "not a number"),
    "hexadecimal": ("count", "0x10", "not a number"),
    "spaces around an int": ("count", " 7\n", "not a number"),
    "spaces around a float": ("ratio", " 7\n", "not a number"),
    "spaces around a bool": ("flag", " true\n", "not true or false"),
    "spaces around a decimal": ("exact", " 7\n", "plain digits"),
    "spaces around a UUID": ("token", f" {UUID(int=1)}", "UUID"),
    "spaces around a choice": ("mode", "slow ", "'slow' or 'fast'"),
    "NUL": ("text", "a\0", "NUL"),
    "NUL escaped in a document": ("anything", '{"a": "\\u0000"}', "NUL"),
    "lone surrogate": ("text", "a\ud800", "surrogate"),
    "lone surrogate escaped in a document": ("anything", '{"a": "\\ud800"}', "surrogate"),
    "time without zone": ("since", "2026-01-01T00:00:00", "zone"),
    "impossible time": ("since", "2026-01-01T25:00:00Z", "valid datetime"),
    "null where a value belongs": ("count", "null", "valid integer"),
    "unknown choice": ("mode", "slwo", "'slow' or 'fast'"),
    "1 MB text": ("text", "x" * 2**20, ""),
    "too large": ("numbers", f"[{'1,' * 400_000}1]", ""),
}


@pytest.mark.parametrize(("field", "text", "reason"), TEXTS.values(), ids=TEXTS)
def test_a_typed_text_is_refused_with_its_field_and_the_reason(field: str, text: str, reason: str) -> None:
    if field == "tiers":
        domain, path = domain_of(TradingConfig), "trading.drawdown_reduction_tiers"
        value = from_text(domain, "drawdown_reduction_tiers", text, path)
        told = refusal(
            lambda: with_values(domain, "trading", {}, [(["drawdown_reduction_tiers"], value)]),
            path,
        )
    else:
        told = refusal(lambda: typed(text, field), f"door.{field}")
    assert reason in told


@pytest.mark.parametrize("depth", [200, 500, 900, 5_000, 100_000])
def test_typed_brackets_are_refused_however_many(depth: int) -> None:
    text = f'{{"a": {"[" * depth}{"]" * depth}}}'
    assert refusal(lambda: typed(text, "anything"), "door.anything")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("count", -(2**31), -(2**31)),
        ("big", 2**63 - 1, 2**63 - 1),
        ("big", 2**53 + 1, 2**53 + 1),
        ("flag", False, False),
        ("ratio", 0.1, 0.1),
        ("ratio", 7, 7.0),
        ("ratio", 1e308, 1e308),
        ("exact", "0.8", Decimal("0.8")),
        ("exact", Decimal("12345678.1234"), Decimal("12345678.1234")),
        ("exact", 7, Decimal(7)),
        ("exact", 0.1, Decimal("0.1")),
        ("exact", "1e2", Decimal(100)),
        ("exact", "-3.5", Decimal("-3.5")),
        (
            "text",
            "Gr\u00fc\u00dfe \U0001f680 \"quoted\" 'it' {x} %s",
            "Gr\u00fc\u00dfe \U0001f680 \"quoted\" 'it' {x} %s",
        ),
        ("text", "", ""),
        ("side", Side.SELL, Side.SELL),
        ("side", "sell", Side.SELL),
        ("mode", "fast", "fast"),
        ("token", UUID(int=7), UUID(int=7)),
        ("token", str(UUID(int=7)), UUID(int=7)),
        ("since", dt.datetime(2026, 3, 29, 1, tzinfo=dt.UTC), dt.datetime(2026, 3, 29, 1, tzinfo=dt.UTC)),
        ("since", "2026-03-29T03:00:00+02:00", dt.datetime(2026, 3, 29, 1, tzinfo=dt.UTC)),
        ("maybe", None, None),
        ("maybe", 5, 5),
        ("numbers", (1, 2), [1, 2]),
        ("numbers", [], []),
        ("ratios", {"a": 1.5, "b": 2}, {"a": 1.5, "b": 2.0}),
        ("exacts", ["1.5", Decimal("2.5"), 3], [Decimal("1.5"), Decimal("2.5"), Decimal(3)]),
        ("inner", Inner(size=5), Inner(size=5)),
        ("inner", {"size": 5, "exact": "9.99"}, Inner(size=5, exact=Decimal("9.99"))),
        ("inners", [Inner(size=5), {"size": 6}], [Inner(size=5), Inner(size=6)]),
        ("anything", {"a": [1, 2.5, None, True, "t", {"b": {}}]}, {"a": [1, 2.5, None, True, "t", {"b": {}}]}),
        ("anything", {"a": Mode.SLOW}, {"a": "slow and steady"}),
    ],
)
def test_a_value_of_the_right_type_is_taken_exactly(field: str, value: Any, expected: Any) -> None:
    found = put(value, field)
    assert found == expected
    assert type(found) is type(expected) or isinstance(found, (list, dict))


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("count", "-5", -5),
        ("big", str(2**53 + 1), 2**53 + 1),
        ("flag", "false", False),
        ("ratio", "0.1", 0.1),
        ("ratio", "7", 7.0),
        ("ratio", "1e3", 1000.0),
        ("exact", "0.1000", Decimal("0.1000")),
        ("exact", "12345678.1234", Decimal("12345678.1234")),
        ("text", "5", "5"),
        ("text", "true", "true"),
        ("text", "null", "null"),
        ("text", ' {"a": 1} ', ' {"a": 1} '),
        ("text", "", ""),
        ("side", "sell", Side.SELL),
        ("mode", "fast", "fast"),
        ("token", str(UUID(int=7)), UUID(int=7)),
        ("since", "2026-01-01T00:00:00Z", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        ("maybe", "null", None),
        ("maybe", "5", 5),
        ("maybe_text", "null", None),
        ("maybe_text", "5", "5"),
        ("maybe_exact", "null", None),
        ("maybe_exact", "5.5", Decimal("5.5")),
        ("numbers", "[1, 2]", [1, 2]),
        ("ratios", '{"a": 1.5, "b": 2}', {"a": 1.5, "b": 2.0}),
        ("exacts", "[0.123456789012345678901234567890]", [Decimal("0.123456789012345678901234567890")]),
        ("inner", '{"size": 5, "ratio": 2.5, "exact": 9.99}', Inner(size=5, ratio=2.5, exact=Decimal("9.99"))),
        ("inners", '[{"ratio": 1e3}]', [Inner(ratio=1000.0)]),
        ("anything", '{"a": [1, 2.5, null, true, "t"]}', {"a": [1, 2.5, None, True, "t"]}),
    ],
)
def test_a_typed_text_is_read_by_the_fields_type(field: str, text: str, expected: Any) -> None:
    found = typed(text, field)
    assert found == expected
    assert type(found) is type(expected) or isinstance(found, (list, dict))


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("5", "size", Inner(size=5)),
        ("2.5", "ratio", Inner(ratio=2.5)),
        ("9.99", "exact", Inner(exact=Decimal("9.99"))),
        ('["b"]', "names", Inner(names=["b"])),
    ],
)
def test_a_nested_part_can_be_typed(text: str, part: str, expected: Inner) -> None:
    assert typed(text, "inner", part) == expected


def test_a_nested_part_is_put_in_place_and_nothing_else_changes() -> None:
    assert put(7, "inner", "size") == Inner(size=7)
    assert put("word", "anything", "a") == {"a": "word"}
    assert "door.inner.size: " in refusal(lambda: put("word", "inner", "size"), "door.inner.size")


def test_the_neighbours_of_a_nested_part_keep_every_digit() -> None:
    stored = members(STORED) | {"inner": '{"size": 1, "wide": "0.1234567890123456789012345"}'}
    block = with_values(DOMAIN, "door", stored, [(["inner", "size"], 7)])
    assert getattr(block, "inner") == Inner(size=7, wide=Decimal("0.1234567890123456789012345"))  # noqa: B009  # a Block


def test_a_nested_part_of_a_field_that_stored_content_does_not_have_yet_is_put_or_refused() -> None:
    try:
        block = with_values(DOMAIN, "door", {}, [(["inner", "size"], 7)])
    except (InvalidValue, UnknownField) as refused:
        assert "inner" in str(refused)  # noqa: PT017  # either will do
    else:
        assert block == DoorConfig(inner=Inner(size=7))


def test_a_nested_part_of_stored_content_that_cannot_be_read_is_refused() -> None:
    # Raw SQL can put into a JSONB column what no model reads.
    stored = members(STORED) | {"anything": f'{{"a": {"[" * 3_000}{"]" * 3_000}, "b": 1}}'}
    assert refusal(lambda: with_values(DOMAIN, "door", stored, [(["anything", "b"], 7)]), "door")
    assert with_values(DOMAIN, "door", stored, [(["anything", "a"], 7)]).model_dump()["anything"] == {"a": 7, "b": 1}


def test_all_values_of_one_call_are_judged_together() -> None:
    domain = domain_of(TradingConfig)
    given_ = [(["min_position_sol"], "2"), (["max_position_sol"], "3")]
    block = with_values(domain, "trading", members(TradingConfig().model_dump_json()), given_)
    assert block == TradingConfig(min_position_sol=Decimal(2), max_position_sol=Decimal(3))
    with pytest.raises(InvalidValue, match=r"^trading: min_position_sol must not be above max_position_sol$"):
        with_values(domain, "trading", {}, given_[:1])


def test_a_value_is_refused_where_stored_content_does_not_have_the_field_yet() -> None:
    told = refusal(lambda: with_values(DOMAIN, "door", {}, [(["ratio"], float("nan"))]), "door.ratio")
    assert told == "door.ratio: nan is not a finite number"


@pytest.mark.parametrize(
    "value",
    [
        {"a": brackets(40)},
        {f"field_{number}": number for number in range(10_000)},
        {"text": "x" * 100_000},
        {"number": 2**1000},
    ],
    ids=["40 brackets", "10,000 fields", "100 kB", "302 digits"],
)
def test_what_is_large_within_reason_is_taken(value: dict[str, Any]) -> None:
    assert put(value, "anything") == value


def test_every_problem_is_named_not_only_the_first() -> None:
    with pytest.raises(InvalidValue) as caught:
        with_values(DOMAIN, "door", members(STORED), [(["count"], "x"), (["mode"], "y"), (["numbers"], [1, "z"])])
    assert [problem.path for problem in caught.value.problems] == ["door.count", "door.mode", "door.numbers.1"]


@pytest.mark.parametrize(
    ("parts", "near"),
    [
        (["coutn"], ["count"]),
        (["inner", "sice"], ["size"]),
        (["anything", "b"], []),
        (["inner", "size", "deeper"], []),
        (["nothing", "size"], ["anything"]),
        (["numbers", "9"], []),
    ],
)
def test_a_path_that_is_not_there_is_refused_and_the_near_one_named(parts: list[str], near: list[str]) -> None:
    with pytest.raises(UnknownField) as caught:
        put(1, *parts)
    assert ".".join(parts) in str(caught.value)
    assert list(caught.value.near) == near


def test_a_value_refused_names_its_place_in_the_document() -> None:
    with pytest.raises(InvalidValue) as caught:
        as_json({"a": [1, {"b": float("nan")}]}, "door.anything")
    assert [problem.path for problem in caught.value.problems] == ["door.anything.a.1.b"]


def test_a_model_given_as_a_value_keeps_its_decimals_exact() -> None:
    tier = DrawdownTier(threshold_pct=Decimal("0.10"), size_reduction_pct=Decimal("33.30"))
    assert as_json([tier], "x") == [{"threshold_pct": "0.10", "size_reduction_pct": "33.30"}]


def test_stored_content_that_the_model_refuses_is_no_block() -> None:
    content = members(STORED)
    assert valid_content(DOMAIN, content) == DoorConfig()
    assert valid_content(DOMAIN, content | {"count": str(2**31)}) is None
    assert valid_content(DOMAIN, content | {"count": '"5"'}) is None


def test_stored_content_of_other_versions_of_the_code_is_a_block() -> None:
    content = members(STORED) | {"from_tomorrow": "1"}
    del content["text"]
    assert valid_content(DOMAIN, content) == DoorConfig()


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
)
NAMES = st.from_regex(r"[a-z]{1,5}", fullmatch=True)
NESTED = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(NAMES, PLAIN, max_size=3)
JSON = NESTED | st.lists(NESTED, max_size=3) | st.dictionaries(NAMES, NESTED, max_size=3)


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(document=st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON))
def test_any_document_is_taken_as_it_is(document: dict[str, Any]) -> None:
    assert put(document, "anything") == document


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(document=st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON))
def test_any_document_can_be_typed(document: dict[str, Any]) -> None:
    assert typed(json.dumps(document), "anything") == document


@given(number=st.decimals(-(10**8) + 1, 10**8 - 1, places=4))
def test_a_decimal_keeps_every_digit(number: Decimal) -> None:
    assert str(put(str(number), "exact")) == str(typed(str(number), "exact")) == str(number)


@given(field=st.sampled_from([column.name for column in DOMAIN.columns]), text=st.text(max_size=12))
def test_a_typed_text_is_taken_or_refused_and_never_fails_otherwise(field: str, text: str) -> None:
    with contextlib.suppress(InvalidValue):
        typed(text, field)
