"""Who is told of what: each subscription in order, the latest first, and nothing that came to nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from entries import CATALOGUE, EVERYTHING, StrategyConfig, history_of
from hypothesis import given, settings
from hypothesis import strategies as st

from configbus.adoption import on_layers
from configbus.block import Block
from configbus.change import Change, Pending, Target, changes_between, read_target
from configbus.domains import RiskConfig, TradingConfig
from configbus.errors import DefinitionError, UnknownBlock, UnknownField

if TYPE_CHECKING:
    from configbus.snapshot import Snapshot

SMALL, MIDDLE, LARGE = StrategyConfig(size=1), StrategyConfig(size=2), StrategyConfig(size=3)
FAST = StrategyConfig(size=1, mode="fast")


def strategy(
    old: StrategyConfig | None, new: StrategyConfig | None, revision: int = 1, key: str = "a"
) -> Change[StrategyConfig]:
    return Change(f"strategy/{key}", revision, old, new)


def changes(before: Snapshot | None, after: Snapshot) -> dict[str, tuple[int, Block | None, Block | None]]:
    found = list(changes_between(before, after))
    assert len({change.block_name for change in found}) == len(found)
    return {change.block_name: (change.revision, change.old, change.new) for change in found}


def taken(pending: Pending) -> list[Change[Any]]:
    found = []
    while (change := pending.take()) is not None:
        found.append(change)
    return found


def test_a_change_names_the_fields_that_differ_with_both_values() -> None:
    change = Change(
        "trading",
        7,
        TradingConfig(),
        TradingConfig(score_threshold=Decimal("0.8"), max_slippage_exit_bps=100, base_position_pct=Decimal("2.0")),
    )
    assert change.fields == {
        "score_threshold": (Decimal("0.7"), Decimal("0.8")),
        "max_slippage_exit_bps": (150, 100),
    }


def test_the_fields_of_a_first_sight_have_no_old_and_of_a_retired_block_no_new() -> None:
    assert strategy(None, FAST).fields["mode"] == (None, "fast")
    assert strategy(FAST, None).fields["mode"] == ("fast", None)
    assert set(strategy(None, FAST).fields) == set(StrategyConfig.model_fields)
    assert strategy(None, None).fields == {}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("*", Target()),
        (TradingConfig, Target(domain="trading")),
        (StrategyConfig, Target(domain="strategy")),
        ("trading", Target(domain="trading", block="trading")),
        ("strategy", Target(domain="strategy")),
        ("strategy/*", Target(domain="strategy")),
        ("strategy/a", Target(domain="strategy", block="strategy/a")),
        ("trading.score_threshold", Target(domain="trading", block="trading", field="score_threshold")),
        ("strategy/a.size", Target(domain="strategy", block="strategy/a", field="size")),
        ("strategy/*.size", Target(domain="strategy", field="size")),
    ],
)
def test_a_target_is_everything_a_domain_a_block_or_a_field(target: str | type[Block], expected: Target) -> None:
    assert read_target(target, CATALOGUE) == expected


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("tradign", ("trading",)),
        ("tradign.score_threshold", ("trading",)),
        ("", ()),
        ("trading/a", ("trading",)),
        ("trading/*", ("trading",)),
        ("strategy/", ()),
        ("strategy/a/b", ()),
        ("strategy/a*", ()),
        ("strateg/*", ("strategy",)),
        ("**", ()),
        ("*.size", ()),
    ],
)
def test_a_target_that_is_no_block_is_refused_and_the_near_one_named(target: str, near: tuple[str, ...]) -> None:
    with pytest.raises(UnknownBlock) as caught:
        read_target(target, CATALOGUE)
    assert caught.value.near == near


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("trading.score_treshold", ("score_threshold",)),
        ("trading.", ()),
        ("strategy/a.sice", ("size",)),
        ("strategy/*.sice", ("size",)),
        ("strategy.sice", ("size",)),
    ],
)
def test_a_target_that_is_no_field_is_refused_and_the_near_one_named(target: str, near: tuple[str, ...]) -> None:
    with pytest.raises(UnknownField) as caught:
        read_target(target, CATALOGUE)
    assert caught.value.near == near


def test_a_class_that_is_no_domain_or_not_in_the_catalogue_is_refused() -> None:
    class OtherConfig(Block, domain="other"):
        size: int = 1

    with pytest.raises(UnknownBlock):
        read_target(OtherConfig, CATALOGUE)
    with pytest.raises(DefinitionError):
        read_target(Block, CATALOGUE)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("*", ["strategy/a", "strategy/b", "trading"]),
        ("trading", ["trading"]),
        (TradingConfig, ["trading"]),
        ("risk", []),
        ("strategy/*", ["strategy/a", "strategy/b"]),
        (StrategyConfig, ["strategy/a", "strategy/b"]),
        ("strategy/a", ["strategy/a"]),
        ("strategy/c", []),
        ("strategy/a.size", ["strategy/a"]),
        ("strategy/a.mode", []),
        ("strategy/b.size", []),
        ("strategy/b.mode", ["strategy/b"]),
        ("trading.score_threshold", ["trading"]),
        ("trading.sizing_mode", []),
    ],
)
def test_a_target_matches_what_it_names_and_nothing_else(target: str | type[Block], expected: list[str]) -> None:
    told: list[Change[Any]] = [
        strategy(SMALL, LARGE, key="a"),
        strategy(SMALL, FAST, key="b"),
        Change("trading", 1, TradingConfig(), TradingConfig(score_threshold=Decimal("0.8"))),
    ]
    watched = read_target(target, CATALOGUE)
    assert [change.block_name for change in told if watched.matches(change)] == expected


def test_a_first_sight_and_a_retirement_match_a_field() -> None:
    target = read_target("strategy/a.size", CATALOGUE)
    assert target.matches(strategy(None, SMALL))
    assert target.matches(strategy(SMALL, None))


def test_a_change_lies_between_two_snapshots_where_a_value_differs() -> None:
    history = history_of({"trading": {}, "risk": {}, "strategy/a": {"size": 1}})
    first = history.snapshot()
    history.release({"strategy/a": {"size": 3}})
    history.release({"trading": {"score_threshold": "0.700"}})
    second = history.snapshot(first)
    assert changes(first, second) == {"strategy/a": (2, SMALL, LARGE)}
    assert changes(first, first) == {}


def test_back_and_forth_between_two_snapshots_is_no_change() -> None:
    history = history_of({"strategy/a": {"size": 1}})
    first = history.snapshot()
    history.release({"strategy/a": {"size": 3}})
    history.release({"strategy/a": {"size": 1}})
    assert changes(first, history.snapshot(first)) == {}


def test_at_first_sight_every_block_that_is_there_is_told_without_old() -> None:
    history = history_of({"trading": {"score_threshold": "0.800"}, "strategy/a": {"size": 1}, "strategy/b": {}})
    history.release({"strategy/b": None})
    assert changes(None, history.snapshot()) == {
        "trading": (1, None, TradingConfig(score_threshold=Decimal("0.8"))),
        "risk": (2, None, RiskConfig()),
        "strategy/a": (1, None, SMALL),
    }


def test_a_new_and_a_retired_block_are_changes() -> None:
    history = history_of({"strategy/a": {"size": 1}})
    first = history.snapshot()
    history.release({"strategy/a": None, "strategy/b": {"size": 3}})
    second = history.snapshot(first)
    assert changes(first, second) == {"strategy/a": (2, SMALL, None), "strategy/b": (2, None, LARGE)}
    assert changes(second, history.snapshot(second)) == {}


def test_a_held_block_is_no_change_until_it_is_adopted() -> None:
    history = history_of({"strategy/a": {"size": 1}})
    first = history.snapshot()
    history.release({"strategy/a": {"size": 500}})
    second = history.snapshot(first)
    assert changes(first, second) == {}
    history.release({"strategy/a": {"size": 3}})
    assert changes(second, history.snapshot(second)) == {"strategy/a": (3, SMALL, LARGE)}


def test_from_the_layers_to_redis_only_what_is_not_a_default_changes() -> None:
    history = history_of({"trading": {"score_threshold": "0.800"}, "risk": {}})
    layers = on_layers(CATALOGUE, EVERYTHING)
    assert set(changes(layers, history.snapshot(layers))) == {"trading"}


def test_what_is_offered_is_taken_once_in_order() -> None:
    pending = Pending(Target())
    first, second = strategy(SMALL, LARGE, 1, "a"), strategy(SMALL, FAST, 2, "b")
    assert pending.take() is None
    assert pending.offer(first)
    assert pending.offer(second)
    assert taken(pending) == [first, second]
    assert pending.take() is None


def test_the_latest_wins_and_old_is_the_oldest_unseen() -> None:
    pending = Pending(Target())
    pending.offer(strategy(SMALL, MIDDLE, 1))
    pending.offer(strategy(MIDDLE, FAST, 2))
    pending.offer(strategy(FAST, LARGE, 3))
    assert taken(pending) == [strategy(SMALL, LARGE, 3)]
    pending.offer(strategy(LARGE, SMALL, 4))
    assert taken(pending) == [strategy(LARGE, SMALL, 4)]


def test_what_came_back_to_what_was_seen_last_is_no_change() -> None:
    pending = Pending(Target())
    assert pending.offer(strategy(SMALL, LARGE, 1))
    assert not pending.offer(strategy(LARGE, SMALL, 2))
    assert pending.take() is None


def test_a_block_that_came_and_went_unseen_is_no_change() -> None:
    pending = Pending(Target())
    pending.offer(strategy(None, SMALL, 1))
    assert not pending.offer(strategy(SMALL, None, 2))


def test_a_change_without_difference_is_not_told() -> None:
    assert not Pending(Target()).offer(strategy(SMALL, StrategyConfig(size=1)))


def test_other_blocks_wait_while_one_comes_to_nothing() -> None:
    pending = Pending(Target())
    pending.offer(strategy(SMALL, LARGE, 1, "a"))
    pending.offer(strategy(SMALL, LARGE, 2, "b"))
    assert pending.offer(strategy(LARGE, SMALL, 3, "a"))
    assert taken(pending) == [strategy(SMALL, LARGE, 2, "b")]


def test_changes_are_taken_in_the_order_of_their_revisions() -> None:
    pending = Pending(Target())
    pending.offer(strategy(SMALL, MIDDLE, 1, "a"))
    pending.offer(strategy(SMALL, LARGE, 2, "b"))
    pending.offer(strategy(MIDDLE, LARGE, 3, "a"))
    assert [change.revision for change in taken(pending)] == [2, 3]


def test_what_is_not_watched_is_not_taken_in() -> None:
    pending = Pending(read_target("strategy/a.size", CATALOGUE))
    assert not pending.offer(strategy(SMALL, FAST, 1))
    assert not pending.offer(strategy(SMALL, LARGE, 2, "b"))
    assert pending.offer(strategy(SMALL, LARGE, 3))


def test_a_watched_field_that_came_back_is_no_change_whatever_else_changed() -> None:
    pending = Pending(read_target("strategy/a.size", CATALOGUE))
    pending.offer(strategy(SMALL, LARGE, 1))
    assert not pending.offer(strategy(LARGE, FAST, 2))
    assert pending.take() is None


def test_a_watched_field_that_waits_is_told_with_the_newest_block() -> None:
    pending = Pending(read_target("strategy/a.size", CATALOGUE))
    both = StrategyConfig(size=3, mode="fast")
    pending.offer(strategy(SMALL, LARGE, 1))
    assert pending.offer(strategy(LARGE, both, 2))
    assert taken(pending) == [strategy(SMALL, both, 2)]


STATES = st.none() | st.builds(StrategyConfig, size=st.integers(0, 2), mode=st.sampled_from(["slow", "fast"]))
STORY = st.lists(st.tuples(st.sampled_from(["a", "b"]), STATES, st.booleans()), max_size=12)


@given(story=STORY)
@settings(deadline=None)
def test_what_is_told_of_a_block_is_one_unbroken_chain_to_its_last_state(
    story: list[tuple[str, StrategyConfig | None, bool]],
) -> None:
    pending = Pending(Target())
    state: dict[str, StrategyConfig | None] = {"a": None, "b": None}
    seen = dict(state)
    told = 0

    def tell(change: Change[Any] | None) -> None:
        nonlocal told
        if change is not None:
            assert change.old == seen[change.block_name[-1]] != change.new
            assert change.revision > told
            seen[change.block_name[-1]], told = change.new, change.revision

    for revision, (key, new, take) in enumerate(story, 1):
        pending.offer(strategy(state[key], new, revision, key))
        state[key] = new
        if take:
            tell(pending.take())
    for change in taken(pending):
        tell(change)
    assert seen == state


@given(story=STORY)
@settings(deadline=None)
def test_what_is_told_of_a_field_is_one_unbroken_chain_to_its_last_value(
    story: list[tuple[str, StrategyConfig | None, bool]],
) -> None:
    pending = Pending(Target(domain="strategy", block="strategy/a", field="size"))
    state: StrategyConfig | None = None
    seen = None

    def tell(change: Change[Any] | None) -> None:
        nonlocal seen
        if change is not None:
            assert change.block_name == "strategy/a"
            assert change.fields["size"][0] == seen
            seen = change.fields["size"][1]

    for revision, (key, new, take) in enumerate(story, 1):
        if key == "a":
            pending.offer(strategy(state, new, revision))
            state = new
        else:
            pending.offer(strategy(SMALL, LARGE, revision, "b"))
        if take:
            tell(pending.take())
    for change in taken(pending):
        tell(change)
    assert seen == (None if state is None else state.size)
