"""What may be called what: ASCII, whole strings, and a name that is nearly right is recognised."""

from __future__ import annotations

import pytest
from entries import CATALOGUE
from hypothesis import given
from hypothesis import strategies as st

from configbus.block import Block
from configbus.catalogue import catalogue_of, load_catalogue
from configbus.domains import RiskConfig, TradingConfig
from configbus.errors import DefinitionError, SettingsError, UnknownBlock, UnknownField
from configbus.names import (
    IDENTIFIER,
    KEY,
    LIFECYCLE_COLUMNS,
    block_name,
    identifier_fault,
    is_environment,
    is_key,
    near,
    split_block,
    split_path,
)

FOR_NOBODY = {
    "empty": "",
    "dots": "..",
    "slashes": "a/b/c",
    "slash": "/",
    "dot": "a.b",
    "space": "a b",
    "leading space": " a",
    "trailing space": "a ",
    "trailing newline": "a\n",
    "leading newline": "\na",
    "64 characters": "x" * 64,
    "zero-width space": "a\u200bb",
    "zero-width joiner at the end": "a\u200d",
    "byte order mark": "\ufeffa",
    "Cyrillic a": "\u0430bc",
    "dotless i": "trad\u0131ng",
    "full-width a": "\uff41bc",
    "full-width digit": "a\uff11",
    "Arabic digit": "a\u0661",
    "German sharp s": "stra\u00dfe",
    "dunder": "__proto__",
    "SQL": "a'; DROP TABLE trading_config; --",
    "percent": "%s",
    "format": "{0.__class__}",
    "hash tag": "{production}",
    "star": "*",
    "path": "../etc/passwd",
    "home": "~",
    "NUL": "a\0",
    "colon": "a:b",
    "lone surrogate": "a\ud800",
}


@pytest.mark.parametrize("text", FOR_NOBODY.values(), ids=FOR_NOBODY)
def test_nothing_may_be_called_this(text: str) -> None:
    assert not is_environment(text)
    assert not is_key(text)
    assert identifier_fault(text) is not None


@pytest.mark.parametrize("text", ["a", "production", "eu-1", "a-", "x" * 63])
def test_an_environment_may_be_called_this(text: str) -> None:
    assert is_environment(text)


@pytest.mark.parametrize("text", ["Production", "1st", "-a", "a_b", "PRODUCTION"])
def test_an_environment_may_not_be_called_this(text: str) -> None:
    assert not is_environment(text)


@pytest.mark.parametrize("text", ["a", "BTC-USD", "1INCH", "market_maker", "0", "a-", "a__b", "class", "X" * 63])
def test_a_key_may_be_called_this(text: str) -> None:
    assert is_key(text)


@pytest.mark.parametrize("text", ["-a", "_a", "BTC/USD", "BTC.USD", "BTC+USD"])
def test_a_key_may_not_be_called_this(text: str) -> None:
    assert not is_key(text)


@pytest.mark.parametrize("text", ["a", "score_threshold", "a1", "a_", "x" * 40])
def test_a_domain_or_field_may_be_called_this(text: str) -> None:
    assert identifier_fault(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Score", "a-z, 0-9 and _"),
        ("1st", "beginning with a letter"),
        ("_a", "beginning with a letter"),
        ("a-b", "a-z, 0-9 and _"),
        ("x" * 41, "1 to 40"),
        ("a__b", "two underscores"),
        ("class", "Python keyword"),
        ("lambda", "Python keyword"),
    ],
)
def test_a_domain_or_field_may_not_be_called_this(text: str, reason: str) -> None:
    fault = identifier_fault(text)
    assert fault is not None
    assert reason in fault


def test_a_name_is_allowed_or_not_whatever_the_python() -> None:
    # `match` is a soft keyword since 3.10, `type` since 3.12: a catalogue must not depend on that.
    assert (identifier_fault("type") is None) == (identifier_fault("match") is None)


def test_the_lifecycle_columns_are_those_that_every_table_has() -> None:
    assert LIFECYCLE_COLUMNS == (
        "id",
        "environment",
        "key",
        "name",
        "status",
        "version",
        "description",
        "created_at",
        "created_by",
        "updated_at",
        "updated_by",
        "activated_at",
        "activated_by",
    )


@given(domain=st.from_regex(IDENTIFIER, fullmatch=True), key=st.just("") | st.from_regex(KEY, fullmatch=True))
def test_a_block_name_comes_apart_as_it_was_put_together(domain: str, key: str) -> None:
    assert split_block(block_name(domain, key)) == (domain, key)


@given(
    name=st.from_regex(IDENTIFIER, fullmatch=True),
    key=st.just("") | st.from_regex(KEY, fullmatch=True),
    parts=st.lists(st.from_regex(IDENTIFIER, fullmatch=True), max_size=3),
)
def test_a_path_comes_apart_as_it_was_put_together(name: str, key: str, parts: list[str]) -> None:
    block = block_name(name, key)
    assert split_path(".".join((block, *parts))) == (block, parts)


def test_a_block_is_called_domain_or_domain_and_key() -> None:
    assert block_name("trading") == "trading"
    assert block_name("strategy", "market_maker") == "strategy/market_maker"
    assert split_path("strategy/market_maker.parameters.size") == ("strategy/market_maker", ["parameters", "size"])


def test_a_misspelt_name_finds_those_that_look_like_it() -> None:
    assert near("score_treshold", TradingConfig.model_fields) == ["score_threshold"]
    assert near("tradign", ["risk", "trading"]) == ["trading"]
    assert len(near("score", ["score_a", "score_b", "score_c", "other"])) == 2


def test_a_beginning_finds_what_begins_so() -> None:
    assert near("max", ["max_position_sol", "base_position_pct"]) == ["max_position_sol"]


@pytest.mark.parametrize("wanted", ["", "zzz", "\ud800", "x" * 1000])
def test_a_name_like_no_other_finds_nothing(wanted: str) -> None:
    assert near(wanted, ["risk", "trading"]) == []


@pytest.mark.parametrize("name", ["trading", "risk", "strategy/market_maker", "strategy/BTC-USD"])
def test_a_block_name_leads_to_its_domain(name: str) -> None:
    assert CATALOGUE.locate(name).name == split_block(name)[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tradign", "did you mean 'trading'"),
        ("Trading", "did you mean 'trading'"),
        ("", "no domain ''"),
        ("trading/a", "has no keys"),
        ("trading/", "has no keys"),
        ("strategy", "needs a key"),
        ("strategy/", "needs a key"),
        ("strategy/a/b", "needs a key"),
        ("strategy/*", "needs a key"),
        ("strategy/" + "x" * 64, "needs a key"),
        ("strategy/{a}", "needs a key"),
        ("strategy/a\n", "needs a key"),
    ],
)
def test_what_cannot_be_a_blocks_name_is_refused(name: str, told: str) -> None:
    with pytest.raises(UnknownBlock) as caught:
        CATALOGUE.locate(name)
    assert told in str(caught.value)


def test_a_misspelt_field_is_refused_and_the_near_one_named() -> None:
    with pytest.raises(UnknownField, match=r"no field 'score_treshold'.*'score_threshold'") as caught:
        CATALOGUE.require_field(CATALOGUE.domain("trading"), "score_treshold")
    assert caught.value.near == ("score_threshold",)
    CATALOGUE.require_field(CATALOGUE.domain("trading"), "score_threshold")


def test_a_block_where_a_field_belongs_says_so() -> None:
    with pytest.raises(UnknownField, match="'trading' is a whole block; name a field of it"):
        CATALOGUE.require_field(CATALOGUE.domain("trading"), "")
    with pytest.raises(UnknownField, match=r"'strategy/grid' is a whole block; name a .*: strategy/grid\.FIELD"):
        CATALOGUE.require_field(CATALOGUE.domain("strategy"), "", "strategy/grid")
    with pytest.raises(UnknownField, match=r"name a field of it: strategy/KEY\.FIELD"):
        CATALOGUE.require_field(CATALOGUE.domain("strategy"), "")


def test_two_classes_of_one_domain_are_refused() -> None:
    class OtherConfig(Block, domain="trading"):
        size: int = 1

    with pytest.raises(DefinitionError, match=r"'trading' is declared by .*TradingConfig.* and by .*OtherConfig"):
        catalogue_of([TradingConfig, OtherConfig])


def test_one_class_may_be_found_twice() -> None:
    catalogue = catalogue_of([TradingConfig, RiskConfig, TradingConfig])
    assert [domain.name for domain in catalogue] == ["trading", "risk"]


def test_a_catalogue_is_of_the_domains_that_its_modules_hold() -> None:
    catalogue = load_catalogue(["configbus.domains", "entries"])
    assert sorted(catalogue.domains) == sorted([*load_catalogue(["configbus.domains"]).domains, "strategy"])
    assert {"risk", "strategy", "trading"} < set(catalogue.domains)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("no_such_module", "cannot be imported"),
        ("configbus.no_such_module", "cannot be imported"),
        ("configbus.errors", "holds no class derived from Block"),
        (".domains", "cannot be imported"),
    ],
)
def test_a_module_without_domains_is_refused_by_name(module: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_catalogue([module])
    assert repr(module) in str(caught.value)
    assert told in str(caught.value)
