"""A snapshot is one immutable state: reads find what is there, name what is near, and change nothing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
from entries import CATALOGUE, EPOCH, EVERYTHING, Parameters, StrategyConfig, history_of

from configbus.adoption import on_layers
from configbus.block import Block
from configbus.domains import DrawdownTier, RiskConfig, TradingConfig
from configbus.errors import DefinitionError, UnknownBlock, UnknownField
from configbus.snapshot import LIVE_SECONDS, Selection, State, state_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.snapshot import Snapshot

HISTORY = history_of(
    {
        "trading": {"score_threshold": "0.800"},
        "strategy/market_maker": {"size": 7, "parameters": {"size": 3, "venues": ["left", "middle"]}},
        "strategy/BTC-USD": {},
        "strategy/gone": {},
    },
    {"strategy/gone": None},
)
NOW = HISTORY.snapshot()
LAYERS = on_layers(CATALOGUE, EVERYTHING)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("trading.score_threshold", Decimal("0.800")),
        ("trading.daily_loss_limit_enabled", True),
        ("risk.max_drawdown_pct", Decimal("20.00")),
        ("trading.drawdown_reduction_tiers.1.size_reduction_pct", Decimal(25)),
        (
            "trading.drawdown_reduction_tiers.3",
            DrawdownTier(threshold_pct=Decimal(20), size_reduction_pct=Decimal(100)),
        ),
        ("strategy/market_maker.size", 7),
        ("strategy/market_maker.parameters", Parameters(size=3, venues=["left", "middle"])),
        ("strategy/market_maker.parameters.size", 3),
        ("strategy/market_maker.parameters.venues.1", "middle"),
        ("strategy/BTC-USD.notes", {"first": {"second": [10, 20]}}),
        ("strategy/BTC-USD.notes.first.second.0", 10),
        ("trading", TradingConfig(score_threshold=Decimal("0.8"))),
        ("strategy/BTC-USD", StrategyConfig()),
    ],
)
def test_a_path_leads_to_its_value(path: str, expected: object) -> None:
    assert NOW.get(path) == expected
    assert NOW.get(path, "default") == expected
    assert NOW.read(path) == expected


def test_a_decimal_keeps_its_scale() -> None:
    assert str(NOW.get("trading.score_threshold")) == "0.800"


def test_a_value_is_found_once_and_remembered() -> None:
    snapshot = HISTORY.snapshot()
    found = snapshot.get("strategy/market_maker.parameters")
    assert found is snapshot.get("strategy/market_maker.parameters")
    assert found is snapshot.read("strategy/market_maker.parameters")
    assert found is snapshot.block(StrategyConfig, key="market_maker").parameters


def test_a_retired_block_is_not_there() -> None:
    for path in ("strategy/gone", "strategy/gone.size"):
        with pytest.raises(UnknownBlock, match="'strategy/gone' is not followed by this worker, or does not exist"):
            NOW.get(path)
    with pytest.raises(UnknownBlock):
        NOW.block(StrategyConfig, key="gone")


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("tradign.score_threshold", ("trading",)),
        ("", ()),
        (".", ()),
        ("..", ()),
        ("*", ()),
        ("trading/a.size", ("trading",)),
        ("strategy", ()),
        ("strategy.size", ()),
        ("strategy/", ()),
        ("strategy/*", ()),
        ("strategy/market_makre", ("strategy/market_maker",)),
        ("strategy/market_makre.size", ("strategy/market_maker",)),
        ("strategy/quite_another_name", ()),
        ("risk/zzz.size", ("risk",)),
    ],
)
def test_a_path_without_a_block_is_refused_and_the_near_one_named(path: str, near: tuple[str, ...]) -> None:
    with pytest.raises(UnknownBlock) as caught:
        NOW.get(path)
    assert caught.value.near == near
    assert isinstance(caught.value, LookupError)
    assert NOW.get(path, "default") == "default"
    assert NOW.get(path, None) is None


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("trading.score_treshold", ("score_threshold",)),
        ("trading.", ()),
        ("trading..", ()),
        ("trading.model_fields", ()),
        ("trading.table_checks", ()),
        ("trading.__class__", ()),
        ("trading.score_threshold.real", ()),
        ("trading.drawdown_reduction_tiers.4", ()),
        ("trading.drawdown_reduction_tiers.-1", ()),
        ("trading.drawdown_reduction_tiers.x", ()),
        ("trading.drawdown_reduction_tiers.1.5", ()),
        ("trading.drawdown_reduction_tiers.append", ()),
        ("trading.drawdown_reduction_tiers." + "9" * 5_000, ()),
        ("trading.drawdown_reduction_tiers.0.threshold", ("threshold_pct",)),
        ("trading.sizing_mode.0", ()),
        ("strategy/market_maker.parameters.sice", ("size",)),
        ("strategy/market_maker.notes.frist", ("first",)),
        ("strategy/market_maker.notes.first.second.2", ()),
        ("strategy/market_maker.notes.keys", ()),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_path_without_a_field_is_refused_and_the_near_one_named(path: str, near: tuple[str, ...]) -> None:
    with pytest.raises(UnknownField) as caught:
        NOW.get(path)
    assert caught.value.near == near
    assert isinstance(caught.value, LookupError)
    assert NOW.get(path, "default") == "default"


def test_a_refusal_tells_path_and_part() -> None:
    with pytest.raises(UnknownField, match=r"'trading.score_treshold': there is no 'score_treshold' in it"):
        NOW.get("trading.score_treshold")


def test_a_block_is_found_by_class_or_name() -> None:
    assert NOW.block(TradingConfig).score_threshold == Decimal("0.8")
    assert NOW.block("trading") is NOW.block(TradingConfig)
    assert NOW.block(StrategyConfig, key="market_maker").size == 7
    assert NOW.block(StrategyConfig, "market_maker") is NOW.block("strategy/market_maker")
    assert NOW.block("strategy", key="market_maker") is NOW.block("strategy/market_maker")


@pytest.mark.parametrize(
    ("target", "key", "near"),
    [
        (StrategyConfig, "market_makre", ("strategy/market_maker",)),
        (StrategyConfig, "quite_another_name", ()),
        (StrategyConfig, "", ()),
        (StrategyConfig, "a/b", ()),
        (TradingConfig, "a", ("trading",)),
        ("tradign", "", ("trading",)),
        ("trading.score_threshold", "", ()),
    ],
)
def test_a_block_that_is_not_there_is_refused_and_the_near_one_named(
    target: str | type[Block], key: str, near: tuple[str, ...]
) -> None:
    with pytest.raises(UnknownBlock) as caught:
        NOW.block(cast("Any", target), key=key)
    assert caught.value.near == near


def test_a_class_that_is_no_domain_has_no_block() -> None:
    with pytest.raises(DefinitionError):
        NOW.block(Block)


def test_a_block_that_is_not_followed_says_so() -> None:
    snapshot = HISTORY.snapshot(selection=Selection(CATALOGUE, ["risk"]))
    with pytest.raises(UnknownBlock, match="'trading' is not followed by this worker, or does not exist"):
        snapshot.get("trading.score_threshold")


def test_the_keys_of_a_domain_are_those_that_hold_a_block_sorted() -> None:
    assert NOW.keys(StrategyConfig) == NOW.keys("strategy") == ["BTC-USD", "market_maker"]
    assert NOW.keys(TradingConfig) == []
    assert LAYERS.keys(StrategyConfig) == []


def test_the_keys_of_a_domain_that_is_not_there_are_refused_and_the_near_one_named() -> None:
    with pytest.raises(UnknownBlock) as caught:
        NOW.keys("strateg")
    assert caught.value.near == ("strategy",)


def test_a_snapshot_tells_its_position_and_origin() -> None:
    assert (NOW.revision, NOW.epoch, NOW.origin, NOW.held) == (2, EPOCH, "redis", {})
    assert (LAYERS.revision, LAYERS.epoch, LAYERS.origin) == (0, 0, "layers")


WRITING: dict[str, Callable[[Any], object]] = {
    "position": lambda now: setattr(now, "position", LAYERS.position),
    "adopted": lambda now: setattr(now, "adopted", {}),
    "new attribute": lambda now: setattr(now, "other", 1),
    "delete": lambda now: delattr(now, "held"),
    "revision": lambda now: setattr(now, "revision", 7),
    "how values are read": lambda now: setattr(now, "read", {}.get),
    "a block": lambda now: now.adopted.__setitem__("trading", None),
    "remove a block": lambda now: now.adopted.pop("risk"),
    "forget what is held": lambda now: now.held.clear(),
    "hold": lambda now: now.held.__setitem__("trading", None),
    "a mark": lambda now: setattr(now.adopted["trading"], "mark", None),
    "a field": lambda now: setattr(now.block("trading"), "score_threshold", 1),
    "a nested field": lambda now: setattr(now.get("strategy/market_maker.parameters"), "size", 1),
    "a list": lambda now: now.get("strategy/market_maker.parameters.venues").append("right"),
    "a dict": lambda now: now.get("strategy/market_maker.notes").update(other=1),
    "a nested dict": lambda now: now.get("strategy/market_maker.notes.first").clear(),
    "a nested list": lambda now: now.get("strategy/market_maker.notes.first.second").__setitem__(0, 1),
}


@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_nothing_in_a_snapshot_can_be_written(write: Callable[[Snapshot], object]) -> None:
    history = history_of(
        {"trading": {}, "strategy/market_maker": {}}, {"trading": {"score_threshold": "0.800"}, "risk": {}}
    )
    now = history.snapshot(history.snapshot())
    now.get("trading.score_threshold")
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError, ValueError)):
        write(now)
    assert now.get("trading.score_threshold") == Decimal("0.8")
    assert set(now.adopted) == {"trading", "risk", "strategy/market_maker"}


def test_a_snapshot_keeps_its_state_when_the_next_one_is_adopted() -> None:
    history = history_of({"trading": {"score_threshold": "0.800"}, "strategy/a": {}})
    first = history.snapshot()
    history.release({"trading": {"score_threshold": "0.900"}, "strategy/a": None})
    second = history.snapshot(first)
    assert (first.revision, second.revision) == (1, 2)
    assert first.get("trading.score_threshold") == Decimal("0.8")
    assert second.get("trading.score_threshold") == Decimal("0.9")
    assert (first.keys("strategy"), second.keys("strategy")) == (["a"], [])


HELD = history_of({"trading": {"score_threshold": "8.000"}}).snapshot()


@pytest.mark.parametrize(
    ("snapshot", "vouched", "now", "expected"),
    [
        (None, None, 0.0, State.OFFLINE),
        (None, 5.0, 5.0, State.OFFLINE),
        (LAYERS, None, 0.0, State.OFFLINE),
        (LAYERS, 5.0, 5.0, State.OFFLINE),
        (HISTORY.snapshot(origin="postgres"), None, 0.0, State.OFFLINE),
        (NOW, None, 0.0, State.STALE),
        (NOW, 5.0, 5.0, State.LIVE),
        (NOW, 5.0, 7.999, State.LIVE),
        (NOW, 5.0, 8.0, State.STALE),
        (NOW, 5.0, 99.0, State.STALE),
        (HELD, 5.0, 5.0, State.PARTIAL),
        (HELD, 5.0, 7.999, State.PARTIAL),
        (HELD, 5.0, 8.0, State.STALE),
        (HELD, None, 0.0, State.STALE),
    ],
)
def test_the_state_follows_from_what_is_held_and_since_when(
    snapshot: Snapshot | None, vouched: float | None, now: float, expected: State
) -> None:
    assert state_of(snapshot, vouched, now) is expected


def test_states_are_texts_in_lower_case() -> None:
    assert [str(state) for state in State] == ["live", "partial", "stale", "offline"]
    assert LIVE_SECONDS == 3


@pytest.mark.parametrize(
    ("patterns", "followed", "others"),
    [
        (None, ["trading", "risk", "strategy/a", "strategy/b"], ["other", "other/a", "trading/a", "strategie/a"]),
        (["trading"], ["trading"], ["risk", "strategy/a", "trading/a"]),
        (["strategy/*"], ["strategy/a", "strategy/b"], ["trading", "strategie/a"]),
        (["strategy/a"], ["strategy/a"], ["strategy/b", "strategy/", "trading"]),
        (["strategy/a", "strategy/*", "risk"], ["strategy/a", "strategy/b", "risk"], ["trading"]),
        ([], [], ["trading", "strategy/a"]),
    ],
)
def test_a_selection_holds_what_it_names(patterns: list[str] | None, followed: list[str], others: list[str]) -> None:
    selection = Selection(CATALOGUE, patterns)
    assert [name for name in followed if name not in selection] == []
    assert [name for name in others if name in selection] == []


def test_a_selection_knows_its_singletons() -> None:
    assert Selection(CATALOGUE, None).singletons == ["risk", "trading"]
    assert Selection(CATALOGUE, ["trading", "strategy/a", "strategy/*"]).singletons == ["trading"]


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("tradign", ("trading",)),
        ("", ()),
        ("*", ()),
        ("strategy", ()),
        ("strateg/*", ("strategy",)),
        ("strategy/", ()),
        ("strategy/a/b", ()),
        ("strategy/a/*", ()),
        ("strategy/*/*", ()),
        ("strategy/a*", ()),
        ("trading/a", ("trading",)),
        ("trading.score_threshold", ()),
    ],
)
def test_a_selection_of_what_cannot_be_is_refused_and_the_near_one_named(pattern: str, near: tuple[str, ...]) -> None:
    with pytest.raises(UnknownBlock) as caught:
        Selection(CATALOGUE, ["risk", pattern])
    assert caught.value.near == near


def test_blocks_are_typed() -> None:
    trading: TradingConfig = NOW.block(TradingConfig)
    risk: RiskConfig = NOW.block(RiskConfig)
    assert (type(trading), type(risk)) == (TradingConfig, RiskConfig)
