"""The blocks of one release are adopted together or held together, and nothing else is held with them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from entries import CATALOGUE, EVERYTHING, History, StrategyConfig, history_of
from hypothesis import given, settings
from hypothesis import strategies as st

from configbus.adoption import adopt, on_layers
from configbus.domains import RiskConfig, TradingConfig
from configbus.snapshot import NOWHERE, Rejection, Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.snapshot import Snapshot
    from configbus.wire import Entry

GOOD: dict[str, Any] = {"score_threshold": "0.800"}
BAD: dict[str, Any] = {"score_threshold": "8.000"}
WHY = "Input should be less than or equal to 1"


def revisions(snapshot: Snapshot) -> dict[str, int | None]:
    """Which revision each block shows; None for one that stands on its defaults."""
    return {name: adopted.mark.revision if adopted.mark else None for name, adopted in snapshot.adopted.items()}


def held(snapshot: Snapshot) -> dict[str, int]:
    return {name: rejection.revision for name, rejection in snapshot.held.items()}


def test_the_first_adoption_takes_what_was_received() -> None:
    history = history_of({"trading": GOOD, "risk": {}}, {"strategy/a": {"size": 7}})
    snapshot = history.snapshot()
    assert snapshot.block(TradingConfig) == TradingConfig(score_threshold=Decimal("0.8"))
    assert snapshot.block(StrategyConfig, key="a") == StrategyConfig(size=7)
    assert revisions(snapshot) == {"trading": 1, "risk": 1, "strategy/a": 2}
    assert (snapshot.position, snapshot.origin, snapshot.held) == (history.head.position, "redis", {})


def test_a_later_adoption_takes_what_changed_and_keeps_the_rest_as_it_is() -> None:
    history = history_of({"trading": GOOD, "risk": {}})
    first = history.snapshot()
    history.release({"risk": {"max_drawdown_pct": "15.00"}})
    second = history.snapshot(first)
    assert second.adopted["trading"] is first.adopted["trading"]
    assert second.block(RiskConfig).max_drawdown_pct == 15
    assert second.revision == 2
    assert first.block(RiskConfig).max_drawdown_pct == 20


def test_only_followed_blocks_are_adopted() -> None:
    history = history_of({"trading": GOOD, "risk": {}, "strategy/a": {}, "strategy/b": {}})
    snapshot = history.snapshot(selection=Selection(CATALOGUE, ["risk", "strategy/b"]))
    assert set(snapshot.adopted) == {"risk", "strategy/b"}
    assert snapshot.revision == 1


def test_an_invalid_block_is_held_at_its_last_good_with_field_and_reason() -> None:
    history = history_of({"trading": GOOD, "risk": {}})
    first = history.snapshot()
    history.release({"trading": BAD})
    second = history.snapshot(first)
    assert second.adopted["trading"] is first.adopted["trading"]
    assert second.held == {"trading": Rejection(2, "score_threshold", WHY, last_good=1)}
    assert second.revision == 2


def test_a_rejection_says_how_many_reasons_more_there_are() -> None:
    history = history_of({"trading": {"score_threshold": "8.000", "max_slippage_entry_bps": -1, "sizing_mode": "x"}})
    assert history.snapshot().held["trading"].reason == "Input should be 'risk_based' or 'fixed_percent' (and 2 more)"


def test_a_broken_rule_across_fields_is_held_without_a_field() -> None:
    history = history_of({"trading": {"min_position_sol": "2.00000000"}})
    rejection = history.snapshot().held["trading"]
    assert rejection == Rejection(1, "", "min_position_sol must not be above max_position_sol", last_good=None)


def test_stored_content_is_read_strictly() -> None:
    history = history_of({"trading": {"max_slippage_entry_bps": "100"}, "risk": {"circuit_breaker_enabled": 1}})
    snapshot = history.snapshot()
    assert snapshot.held["trading"].field == "max_slippage_entry_bps"
    assert snapshot.held["risk"].field == "circuit_breaker_enabled"


def test_unknown_fields_are_ignored_and_missing_ones_fall_to_the_layers_below() -> None:
    history = history_of({"strategy/a": {"size": 7, "from_tomorrow": {"a": 1}}})
    entry = history.entries["strategy/a"]
    assert history.snapshot().block(StrategyConfig, key="a") == StrategyConfig(size=7)
    assert "from_tomorrow" in entry.text


def test_other_releases_go_on_while_a_block_is_held() -> None:
    history = history_of({"trading": GOOD, "risk": {}})
    first = history.snapshot()
    history.release({"trading": BAD})
    second = history.snapshot(first)
    history.release({"risk": {"max_drawdown_pct": "15.00"}})
    third = history.snapshot(second)
    assert revisions(third) == {"trading": 1, "risk": 3}
    assert held(third) == {"trading": 2}
    assert third.held["trading"].last_good == 1


def test_a_mended_block_is_adopted_and_nothing_is_held_any_more() -> None:
    history = history_of({"trading": GOOD, "risk": {}})
    snapshot = history.snapshot()
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}})
    snapshot = history.snapshot(snapshot)
    assert held(snapshot) == {"trading": 2, "risk": 2}
    history.release({"trading": GOOD})
    snapshot = history.snapshot(snapshot)
    assert held(snapshot) == {}
    assert revisions(snapshot) == {"trading": 3, "risk": 2}


def test_the_blocks_of_a_release_are_held_together_and_say_because_of_whom() -> None:
    history = history_of({"trading": GOOD, "risk": {}, "strategy/a": {}})
    first = history.snapshot()
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}})
    history.release({"strategy/a": {"size": 7}})
    second = history.snapshot(first)
    assert revisions(second) == {"trading": 1, "risk": 1, "strategy/a": 3}
    assert second.held["risk"] == Rejection(2, "", "its release also changed trading, which is held", last_good=1)


def test_a_partner_that_is_not_followed_holds_nothing() -> None:
    selection = Selection(CATALOGUE, ["risk"])
    history = history_of({"trading": GOOD, "risk": {}})
    first = history.snapshot(selection=selection)
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}})
    second = history.snapshot(first, selection)
    assert held(second) == {}
    assert revisions(second) == {"risk": 2}


CHAIN = ["strategy/a", "strategy/b", "strategy/c", "strategy/d", "risk", "trading"]


def test_holding_is_repeated_until_nothing_is_added() -> None:
    history = history_of({name: {} for name in CHAIN})
    first = history.snapshot()
    history.release({"strategy/b": {}, "strategy/c": {"size": 2}})
    history.release({"strategy/d": {"size": 2}, "strategy/b": {"size": 2}})
    history.release({"risk": {"max_drawdown_pct": "15.00"}, "strategy/d": {"size": 3}})
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "16.00"}})
    history.release({"strategy/a": {"size": 2}})
    second = history.snapshot(first)
    assert held(second) == {"trading": 5, "risk": 5, "strategy/d": 4, "strategy/b": 3, "strategy/c": 2}
    assert revisions(second)["strategy/a"] == 6


def test_the_newest_revision_of_a_block_decides_with_whom_it_goes() -> None:
    history = history_of({name: {} for name in CHAIN})
    first = history.snapshot()
    history.release({"trading": BAD, "risk": {}})
    history.release({"risk": {"max_drawdown_pct": "15.00"}, "strategy/d": {}})
    second = history.snapshot(first)
    assert held(second) == {"trading": 2}
    assert revisions(second)["risk"] == 3


def test_a_release_of_very_many_blocks_is_held_by_whatever_is_held_since() -> None:
    names = ["trading", "risk", "strategy/a", "strategy/b"]
    history = history_of({name: {} for name in names})
    first = history.snapshot()
    history.release({"strategy/a": {"size": 2}})
    history.release({"risk": {"max_drawdown_pct": "15.00"}, "strategy/b": {"size": 2}}, many=True)
    history.release({"trading": BAD})
    second = history.snapshot(first)
    assert held(second) == {"trading": 4, "risk": 3, "strategy/b": 3}
    assert revisions(second)["strategy/a"] == 2


def test_a_release_of_very_many_blocks_is_not_held_by_what_was_held_before() -> None:
    names = ["trading", "risk", "strategy/a"]
    history = history_of({name: {} for name in names})
    first = history.snapshot()
    history.release({"trading": BAD})
    history.release({"risk": {"max_drawdown_pct": "15.00"}, "strategy/a": {"size": 2}}, many=True)
    second = history.snapshot(first)
    assert held(second) == {"trading": 2}


def test_a_release_of_very_many_blocks_is_held_by_one_of_its_own() -> None:
    history = history_of({"trading": {}, "risk": {}})
    first = history.snapshot()
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}}, many=True)
    assert held(history.snapshot(first)) == {"trading": 2, "risk": 2}


@pytest.mark.parametrize("many", [False, True])
def test_the_first_adoption_holds_invalid_blocks_only(many: bool) -> None:  # noqa: FBT001  # a case, not a switch
    history = History()
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}}, many=many)
    snapshot = history.snapshot()
    assert held(snapshot) == {"trading": 1}
    assert snapshot.block(RiskConfig).max_drawdown_pct == 15


def test_an_invalid_block_that_never_had_a_good_one_stands_on_its_defaults() -> None:
    history = history_of({"trading": BAD})
    snapshot = history.snapshot()
    assert snapshot.block(TradingConfig) == TradingConfig()
    assert snapshot.held == {"trading": Rejection(1, "score_threshold", WHY, last_good=None)}
    history.release({"risk": {}})
    snapshot = history.snapshot(snapshot)
    assert snapshot.held == {"trading": Rejection(1, "score_threshold", WHY, last_good=None)}
    history.release({"trading": GOOD})
    snapshot = history.snapshot(snapshot)
    assert snapshot.held == {}
    assert snapshot.block(TradingConfig).score_threshold == Decimal("0.8")


def test_a_keyed_block_that_is_invalid_at_the_first_load_stands_on_its_defaults() -> None:
    history = history_of({"strategy/a": {"size": 500}})
    snapshot = history.snapshot()
    assert snapshot.block(StrategyConfig, key="a") == StrategyConfig()
    assert snapshot.held["strategy/a"].last_good is None
    history.release({"risk": {}})
    assert history.snapshot(snapshot).block(StrategyConfig, key="a") == StrategyConfig()
    history.release({"strategy/a": {"size": 5}})
    assert history.snapshot(snapshot).block(StrategyConfig, key="a").size == 5


def test_a_new_block_that_is_invalid_is_not_there_yet() -> None:
    history = history_of({"trading": GOOD})
    snapshot = history.snapshot()
    history.release({"strategy/new": {"size": 500}})
    snapshot = history.snapshot(snapshot)
    assert snapshot.keys(StrategyConfig) == []
    assert held(snapshot) == {"strategy/new": 2}
    history.release({"strategy/new": {"size": 5}})
    assert history.snapshot(snapshot).block(StrategyConfig, key="new").size == 5


def test_a_new_block_that_is_held_for_a_partner_is_not_there_yet() -> None:
    # Before its release the key held nothing: that, and not the model's defaults, is its last good content.
    history = history_of({"trading": GOOD})
    first = history.snapshot()
    history.release({"trading": BAD, "strategy/new": {"size": 7}})
    second = history.snapshot(first)
    assert second.held["strategy/new"] == Rejection(
        2, "", "its release also changed trading, which is held", last_good=None
    )
    assert second.keys(StrategyConfig) == []
    history.release({"trading": GOOD})
    assert history.snapshot(second).block(StrategyConfig, key="new") == StrategyConfig(size=7)


def test_a_retired_block_is_gone() -> None:
    history = history_of({"strategy/a": {"size": 7}, "strategy/b": {}})
    first = history.snapshot()
    history.release({"strategy/a": None})
    second = history.snapshot(first)
    assert second.keys(StrategyConfig) == ["b"]
    assert second.get("strategy/a", None) is None
    assert held(second) == {}


def test_a_block_that_was_retired_before_the_start_is_not_there() -> None:
    history = history_of({"strategy/a": {"size": 7}}, {"strategy/a": None})
    snapshot = history.snapshot()
    assert snapshot.keys(StrategyConfig) == []
    assert held(snapshot) == {}


def test_a_retired_block_can_come_back() -> None:
    history = history_of({"strategy/a": {"size": 7}}, {"strategy/a": None})
    snapshot = history.snapshot()
    history.release({"strategy/a": {"size": 8}})
    assert history.snapshot(snapshot).block(StrategyConfig, key="a").size == 8


def test_a_retirement_is_held_like_any_change_of_its_release() -> None:
    history = history_of({"strategy/a": {"size": 7}, "trading": GOOD})
    first = history.snapshot()
    history.release({"strategy/a": None, "trading": BAD})
    second = history.snapshot(first)
    assert second.block(StrategyConfig, key="a").size == 7
    assert held(second) == {"trading": 2, "strategy/a": 2}
    history.release({"trading": GOOD})
    assert history.snapshot(second).keys(StrategyConfig) == []


def test_a_keyed_block_that_another_history_does_not_have_is_gone_and_a_singleton_stays() -> None:
    first = history_of({"strategy/a": {"size": 7}, "trading": GOOD, "risk": {"max_drawdown_pct": "15.00"}}).snapshot()
    other = History(epoch=first.epoch + 1)
    other.release({"trading": {"score_threshold": "0.900"}})
    second = other.snapshot(first)
    assert second.keys(StrategyConfig) == []
    assert second.block(TradingConfig).score_threshold == Decimal("0.9")
    assert second.block(RiskConfig).max_drawdown_pct == 15


def test_a_validator_that_fails_holds_its_block_and_nothing_else() -> None:
    history = history_of({"strategy/a": {"size": 1}, "risk": {}})
    first = history.snapshot()
    history.release({"strategy/a": {"size": 66}})
    history.release({"risk": {"max_drawdown_pct": "15.00"}})
    second = history.snapshot(first)
    assert second.block(StrategyConfig, key="a").size == 1
    assert second.block(RiskConfig).max_drawdown_pct == 15
    assert second.held["strategy/a"] == Rejection(
        2, "", "its validator failed: RuntimeError: a fault of the program, not of the value", last_good=1
    )
    error = second.held["strategy/a"].error
    assert isinstance(error, RuntimeError)
    assert error.__traceback__ is not None


def test_a_singleton_that_redis_does_not_have_stands_on_its_defaults() -> None:
    snapshot = history_of({"risk": {}}).snapshot()
    assert snapshot.block(TradingConfig) == TradingConfig()
    assert held(snapshot) == {}


def test_on_the_layers_every_singleton_stands_on_its_defaults() -> None:
    snapshot = on_layers(CATALOGUE, EVERYTHING)
    assert revisions(snapshot) == {"trading": None, "risk": None}
    assert snapshot.block(RiskConfig) == RiskConfig()
    assert (snapshot.position, snapshot.origin, snapshot.held) == (NOWHERE, "layers", {})
    assert set(on_layers(CATALOGUE, Selection(CATALOGUE, ["risk", "strategy/*"])).adopted) == {"risk"}


def test_what_comes_after_the_layers_is_a_first_adoption() -> None:
    history = History()
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}})
    snapshot = history.snapshot(on_layers(CATALOGUE, EVERYTHING))
    assert held(snapshot) == {"trading": 1}
    assert snapshot.block(RiskConfig).max_drawdown_pct == 15


def test_what_comes_after_postgres_is_a_later_adoption() -> None:
    history = history_of({"trading": GOOD, "risk": {}})
    first = history.snapshot(origin="postgres")
    history.release({"trading": BAD, "risk": {"max_drawdown_pct": "15.00"}})
    second = history.snapshot(first)
    assert held(second) == {"trading": 2, "risk": 2}
    assert second.block(TradingConfig).score_threshold == Decimal("0.8")


@dataclass(frozen=True)
class Told:
    """A release of a random history: which blocks it changes to what, and after it the worker looks or does not."""

    changes: dict[str, int | None]
    many: bool
    seen: bool


SINGLETON, KEYED = "trading", ["strategy/a", "strategy/b", "strategy/c", "strategy/d"]
SIZES = st.none() | st.integers(0, 9) | st.just(500)
HISTORIES = st.lists(
    st.builds(
        Told,
        st.dictionaries(st.sampled_from(KEYED), SIZES, min_size=1, max_size=4),
        st.integers(0, 4).map(lambda number: number == 0),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
THOROUGH = settings(max_examples=150, deadline=None)


def is_invalid(entry: Entry) -> bool:
    return not entry.retired and '"size": 500' in entry.text


def expected_held(before: Snapshot, received: Mapping[str, Entry]) -> set[str]:
    """Who must be held, found from the invalid ones outwards."""
    fresh = {name for name, entry in received.items() if before.adopted[name].mark != entry.mark}
    found = {name for name in fresh if is_invalid(received[name])}
    while True:
        more = {
            name
            for name in fresh - found
            if (partners := received[name].partners) is not None
            and any(
                received[other].mark.revision >= received[name].mark.revision if partners == "*" else other in partners
                for other in found
            )
        }
        if not more:
            return found
        found |= more


@given(told=HISTORIES)
@THOROUGH
def test_exactly_those_are_held_that_an_invalid_block_reaches(told: list[Told]) -> None:
    history = history_of({name: {"size": 1} for name in KEYED})
    before = history.snapshot()
    for release in told:
        changes = {name: None if size is None else {"size": size} for name, size in release.changes.items()}
        history.release(changes, many=release.many)
        if not release.seen:
            continue
        after = history.snapshot(before)
        assert set(after.held) == expected_held(before, history.entries)
        for name, entry in history.entries.items():
            if name in after.held:
                assert after.adopted[name] == before.adopted[name]
                good = before.adopted[name].mark
                assert after.held[name].revision == entry.mark.revision
                assert after.held[name].last_good == (good.revision if good else None)
            else:
                assert after.adopted[name].mark == entry.mark
                assert (after.adopted[name].block is None) == entry.retired
        before = after


@given(told=HISTORIES)
@THOROUGH
def test_no_release_that_is_still_the_newest_of_its_blocks_is_adopted_by_half(told: list[Told]) -> None:
    history = history_of({name: {"size": 1} for name in KEYED})
    snapshot = history.snapshot()
    for release in told:
        changes = {name: None if size is None else {"size": size} for name, size in release.changes.items()}
        step = history.release(changes, many=release.many)
        if release.seen:
            snapshot = history.snapshot(snapshot)
            assert len({entry.name in snapshot.held for entry in step.entries}) == 1


@given(told=HISTORIES, data=st.data())
@THOROUGH
def test_adopting_again_or_in_another_order_changes_nothing(told: list[Told], data: st.DataObject) -> None:
    history = history_of({name: {"size": 1} for name in KEYED})
    first = history.snapshot()
    for release in told:
        changes = {name: None if size is None else {"size": size} for name, size in release.changes.items()}
        history.release(changes, many=release.many)
    second = history.snapshot(first)
    again = history.snapshot(second)
    assert again.adopted == second.adopted
    assert again.held == second.held
    shuffled = dict(data.draw(st.permutations(list(history.entries.items()))))
    other = adopt(shuffled, history.head.position, "redis", first, CATALOGUE, EVERYTHING)
    assert other.adopted == second.adopted
    assert held(other) == held(second)
