"""The buses that other people's tests use: what they show, whom they tell, and what they refuse."""

from __future__ import annotations

import asyncio
import inspect
import math
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from buses import PATIENCE
from sample_domains import LaneConfig, SampleConfig

from configbus import AsyncConfigBus, Change, ConfigBus, State
from configbus.domains import RiskConfig, TradingConfig
from configbus.errors import Closed, Conflict, InvalidValue, NotInTime, SettingsError, UnknownBlock, UnknownField
from configbus.snapshot import Rejection
from configbus.testing import FakeAsyncBus, FakeBus, fake_async_bus, fake_bus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOMAINS = "configbus.domains, sample_domains"


def threshold(bus: ConfigBus) -> Decimal:
    """Code under test, which knows nothing of fakes."""
    return bus.block(TradingConfig).score_threshold


async def threshold_at(bus: AsyncConfigBus, revision: int) -> Decimal:
    await bus.wait_for(revision, timeout=60)
    return bus.block(TradingConfig).score_threshold


class Stage:
    """A fake of either flavour: what is done to it is done where it lives, and all callbacks have been told then."""

    def __init__(self, bus: FakeBus | FakeAsyncBus, runner: asyncio.Runner) -> None:
        self.bus = bus
        self._runner = runner

    def do(self, action: Callable[[Any], Any]) -> Any:
        return self._runner.run(self._do(action))

    def set_values(self, values: dict[str, Any]) -> Any:
        return self.do(lambda bus: bus.set_values(values))

    def on_change(self, target: Any, callback: Callable[[Change[Any]], object]) -> Any:
        subscription = self.do(lambda bus: bus.on_change(target, callback))
        self.do(lambda bus: bus.refresh())
        return subscription

    async def _do(self, action: Callable[[Any], Any]) -> Any:
        outcome = action(self.bus)
        return await outcome if inspect.isawaitable(outcome) else outcome


@pytest.fixture(params=["plain", "asyncio"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    make = fake_bus if request.param == "plain" else fake_async_bus
    with asyncio.Runner() as runner:
        stage = Stage(make(domains=DOMAINS), runner)
        yield stage
        stage.do(lambda bus: bus.close())


class Heard:
    """What a callback was told, in short: block, revision, and the fields that changed."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, dict[str, Any]]] = []

    def __call__(self, change: Change[Any]) -> None:
        new = {name: new for name, (_, new) in change.fields.items()}
        self.told.append((change.block_name, change.revision, {} if change.old is None else new))


def test_it_stands_on_the_models_defaults(stage: Stage) -> None:
    bus = stage.bus
    assert bus.block(TradingConfig) == TradingConfig()
    assert bus.block("risk") == RiskConfig()
    assert bus.get("sample.limits.venue.host") == "localhost"
    assert (bus.keys(LaneConfig), bus.revision, bus.origin, bus.held) == ([], 1, "redis", {})
    assert (bus.state, bus.age, bus.epoch > 0) == (State.LIVE, 0.0, True)
    assert bus.get("trading.no_such_field", "else") == "else"


@pytest.mark.parametrize("make", [fake_bus, fake_async_bus])
def test_given_values_are_there_from_the_first_revision_on(make: Callable[..., FakeBus | FakeAsyncBus]) -> None:
    values = {
        "trading.score_threshold": "0.8",
        "lane/BTC-USD.venue.host": "remote",
        "lane/x": {},
        "lane/y": {"fast_bars": 3, "venue.weight": "2.5"},
        "lane/y.slow_bars": 9,
    }
    bus = make(values, domains=["configbus.domains", "sample_domains"])
    assert (bus.get("trading.score_threshold"), bus.revision) == (Decimal("0.8"), 1)
    assert bus.keys(LaneConfig) == ["BTC-USD", "x", "y"]
    assert bus.get("lane/BTC-USD.venue.host") == "remote"
    assert bus.block(LaneConfig, key="x") == LaneConfig()
    lane = bus.block(LaneConfig, key="y")
    assert (lane.fast_bars, lane.slow_bars, lane.venue.weight) == (3, 9, Decimal("2.5"))


def test_it_is_taken_for_a_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONFIGBUS_DOMAINS", raising=False)
    assert threshold(fake_bus({"trading.score_threshold": "0.8"})) == Decimal("0.8")
    assert asyncio.run(threshold_at(fake_async_bus({"trading.score_threshold": "0.9"}), 1)) == Decimal("0.9")


def test_values_look_as_postgres_gives_them_back(stage: Stage) -> None:
    stage.set_values({"sample.amount": "1.5", "sample.until": "2026-01-31T14:00:00+02:00", "sample.ratio": 1})
    sample = stage.bus.block(SampleConfig)
    assert str(sample.amount) == "1.50000000"
    assert (sample.until, sample.until and sample.until.tzinfo) == (datetime(2026, 1, 31, 12, tzinfo=UTC), UTC)
    assert isinstance(sample.ratio, float)


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ({"trading.score_threshold": "1.5"}, InvalidValue, "trading.score_threshold: Input should be less than"),
        ({"trading.score_threshold": "0.1234"}, InvalidValue, "decimal places"),
        ({"trading.max_slippage_entry_bps": "100"}, InvalidValue, "valid integer"),
        ({"lane/x.venue": {"hots": "a"}}, InvalidValue, "did you mean 'host'"),
        ({"lane/x.venue.hots": "a"}, UnknownField, "did you mean 'host'"),
        ({"lane/x.venue": {}, "lane/x.venue.host": "a"}, InvalidValue, "lies within lane/x.venue"),
        ({"lane/x.fast_bars": 3, "lane/x": {"fast_bars": 4}}, InvalidValue, "lane/x.fast_bars: is given twice"),
        (
            {"trading.drawdown_reduction_tiers.1.size_reduction_pct": 30},
            UnknownField,
            r"drawdown_reduction_tiers.1.size_reduction_pct lies within a list, .* as a whole, as JSON$",
        ),
        ({"trading.score_treshold": "0.8"}, UnknownField, "did you mean 'score_threshold'"),
        ({"lane/x": {"fast_bar": 1}}, UnknownField, "did you mean 'fast_bars'"),
        ({"tradin.score_threshold": "0.8"}, UnknownBlock, "did you mean 'trading'"),
        ({"lane.fast_bars": 3}, UnknownBlock, "'lane' needs a key"),
        ({"trading/x.score_threshold": "0.8"}, UnknownBlock, "trading has no keys"),
        ({"trading": "0.8"}, UnknownField, "name a field of it: trading.FIELD"),
        ({"lane/x": 3}, UnknownField, "name a field of it: lane/x.FIELD"),
    ],
)
def test_what_an_author_would_be_refused_is_refused_and_changes_nothing(
    stage: Stage, values: dict[str, Any], error: type[Exception], told: str
) -> None:
    before = stage.bus.snapshot
    with pytest.raises(error, match=told):
        stage.set_values({"risk.max_drawdown_pct": 15} | values)
    assert stage.bus.snapshot is before


def test_every_problem_of_every_block_is_named_at_once(stage: Stage) -> None:
    with pytest.raises(InvalidValue) as refused:
        stage.set_values({"trading.score_threshold": 2, "risk.max_drawdown_pct": -1, "lane/x.fast_bars": 3})
    assert [problem.path for problem in refused.value.problems] == ["risk.max_drawdown_pct", "trading.score_threshold"]


def test_a_release_changes_what_it_names_and_an_older_snapshot_stays(stage: Stage) -> None:
    before = stage.bus.snapshot
    release = stage.set_values({"trading.score_threshold": "0.8", "lane/x.fast_bars": 3, "risk": {}})
    assert (release.revision, release.blocks) == (2, ("lane/x", "trading"))
    assert (stage.bus.revision, stage.bus.epoch) == (release.revision, release.epoch)
    assert stage.bus.get("trading.score_threshold") == Decimal("0.8")
    assert before.get("trading.score_threshold") == Decimal("0.7")
    assert stage.set_values({"lane/x.slow_bars": 70}).revision == 3
    assert stage.bus.get("lane/x.fast_bars") == 3


def test_values_that_are_in_force_make_no_release(stage: Stage) -> None:
    heard = Heard()
    stage.on_change("trading", heard)
    release = stage.set_values({"trading.score_threshold": "0.70"})
    assert (release.revision, release.blocks, len(heard.told)) == (1, (), 1)


def test_a_keyed_block_is_retired_and_comes_back_on_its_defaults(stage: Stage) -> None:
    heard = Heard()
    stage.set_values({"lane/x.fast_bars": 3})
    stage.on_change(LaneConfig, heard)
    assert stage.do(lambda bus: bus.retire("lane/x")).blocks == ("lane/x",)
    assert stage.bus.keys(LaneConfig) == []
    with pytest.raises(UnknownBlock, match="lane/x"):
        stage.bus.block("lane/x")
    stage.set_values({"lane/x": {}})
    assert stage.bus.get("lane/x.fast_bars") == 20
    assert [revision for _, revision, _ in heard.told] == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [("lane/x", UnknownBlock, "lane/x"), ("trading", Conflict, "keyed"), ("lanes/x", UnknownBlock, "'lane'")],
)
def test_what_is_not_there_or_has_no_key_is_not_retired(
    stage: Stage, name: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        stage.do(lambda bus: bus.retire(name))


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("trading", [("trading", 1, {}), ("trading", 2, {"score_threshold": Decimal("0.8")})]),
        (TradingConfig, [("trading", 1, {}), ("trading", 2, {"score_threshold": Decimal("0.8")})]),
        ("trading.score_threshold", [("trading", 1, {}), ("trading", 2, {"score_threshold": Decimal("0.8")})]),
        ("trading.max_slippage_entry_bps", [("trading", 1, {})]),
        ("lane/*", [("lane/x", 1, {}), ("lane/y", 2, {}), ("lane/x", 3, {"fast_bars": 3})]),
        ("lane/x", [("lane/x", 1, {}), ("lane/x", 3, {"fast_bars": 3})]),
    ],
)
def test_callbacks_are_told_of_what_is_there_and_of_what_changes(target: Any, told: list[Any]) -> None:
    async def follow() -> list[Any]:
        heard = Heard()
        async with fake_async_bus({"lane/x": {}}, domains=DOMAINS) as bus:
            bus.on_change(target, heard)
            await bus.set_values({"trading.score_threshold": "0.8", "lane/y": {}})
            await bus.set_values({"lane/x.fast_bars": 3})
        return heard.told

    heard = Heard()
    with fake_bus({"lane/x": {}}, domains=DOMAINS) as bus:
        bus.on_change(target, heard)
        bus.set_values({"trading.score_threshold": "0.8", "lane/y": {}})
        bus.set_values({"lane/x.fast_bars": 3})
    assert heard.told == told
    assert asyncio.run(follow()) == told


def test_a_star_is_told_of_every_block(stage: Stage) -> None:
    heard = Heard()
    stage.on_change("*", heard)
    assert {name for name, _, _ in heard.told} == {*stage.bus.snapshot.adopted}
    stage.set_values({"trading.score_threshold": "0.8", "risk.max_drawdown_pct": 15})
    assert [name for name, revision, _ in heard.told if revision == 2] == ["risk", "trading"]


def test_on_change_is_a_decorator_too_and_can_be_cancelled(stage: Stage) -> None:
    told: list[int] = []

    def retune(change: Change[Any]) -> None:
        told.append(change.revision)

    subscription = stage.do(lambda bus: bus.on_change("trading")(retune))
    stage.do(lambda bus: bus.refresh())
    stage.set_values({"trading.score_threshold": "0.8"})
    stage.do(lambda _: subscription.cancel())
    stage.set_values({"trading.score_threshold": "0.9"})
    assert told == [1, 2]


def test_a_callback_may_cancel_itself(stage: Stage) -> None:
    told: list[str] = []

    def once(change: Change[Any]) -> None:
        told.append(change.block_name)
        if len(told) == 1:
            return
        subscriptions[0].cancel()

    subscriptions = [stage.on_change("lane/*", once)]
    stage.set_values({"lane/x": {}})
    stage.set_values({"lane/y": {}, "lane/z": {}})
    assert told == ["lane/x", "lane/y"]


@pytest.mark.parametrize("target", ["tradin", "trading.score_treshold", "lane/x y", "trading/x"])
def test_targets_are_checked_as_on_a_real_bus(stage: Stage, target: str) -> None:
    with pytest.raises(LookupError):
        stage.on_change(target, Heard())


def test_callbacks_that_cannot_be_called_are_refused(stage: Stage) -> None:
    async def coroutine(change: Change[Any]) -> None: ...

    with pytest.raises(TypeError, match="must take 1"):
        stage.do(lambda bus: bus.on_change("trading", lambda: None))
    with pytest.raises(TypeError, match="must take 2"):
        stage.do(lambda bus: bus.on_state(lambda _state: None))
    if isinstance(stage.bus, FakeBus):
        with pytest.raises(TypeError, match="use AsyncConfigBus"):
            stage.bus.on_change("trading", coroutine)


def test_what_a_callback_raises_rises_once_all_were_told(stage: Stage) -> None:
    def refuse(change: Change[Any]) -> None:
        if change.old is not None:
            raise ArithmeticError(change.block_name)

    heard = Heard()
    stage.on_change("*", refuse)
    stage.on_change("trading", heard)
    with pytest.raises(ArithmeticError, match="trading"):
        stage.set_values({"trading.score_threshold": "0.8"})
    assert heard.told[-1] == ("trading", 2, {"score_threshold": Decimal("0.8")})
    with pytest.raises(ExceptionGroup) as several:
        stage.set_values({"trading.score_threshold": "0.9", "risk.max_drawdown_pct": 15})
    assert [str(error) for error in several.value.exceptions] == ["risk", "trading"]
    assert stage.bus.revision == 3


def test_what_a_callback_raises_at_first_sight_rises_at_once(stage: Stage) -> None:
    def refuse(change: Change[Any]) -> None:
        raise ArithmeticError(change.block_name)

    with pytest.raises(ArithmeticError, match="trading"):
        stage.on_change("trading", refuse)


def test_a_callback_that_changes_values_is_told_of_it_after_it_has_returned(stage: Stage) -> None:
    told: list[tuple[int, int]] = []
    depth = 0

    def raise_it(change: Change[Any]) -> Any:
        nonlocal depth
        assert depth == 0
        depth += 1
        value = stage.bus.get("trading.max_slippage_entry_bps")
        told.append((change.revision, value))
        done = stage.bus.set_values({"trading.max_slippage_entry_bps": value + 1}) if value < 13 else None
        depth -= 1
        return done if inspect.isawaitable(done) else None

    stage.set_values({"trading.max_slippage_entry_bps": 10})
    stage.on_change("trading", raise_it)
    assert told == [(2, 10), (3, 11), (4, 12), (5, 13)]


def test_the_state_is_what_a_test_says(stage: Stage) -> None:
    told: list[tuple[State, State]] = []
    stage.do(lambda bus: bus.on_state(lambda old, new: told.append((old, new))))
    stage.do(lambda bus: bus.set_state(State.STALE))
    assert (stage.bus.state, stage.bus.age) == (State.STALE, math.inf)
    stage.do(lambda bus: bus.set_state(State.STALE))
    stage.do(lambda bus: bus.set_state(State.LIVE))
    assert (stage.bus.state, stage.bus.age) == (State.LIVE, 0.0)
    assert told == [(State.LIVE, State.STALE), (State.STALE, State.LIVE)]


def test_what_a_callback_of_on_state_raises_rises_once_all_were_told(stage: Stage) -> None:
    def refuse(_old: State, new: State) -> None:
        raise ArithmeticError(new)

    told: list[State] = []
    stage.do(lambda bus: bus.on_state(refuse))
    stage.do(lambda bus: bus.on_state(lambda _old, new: told.append(new)))
    with pytest.raises(ArithmeticError, match="stale"):
        stage.do(lambda bus: bus.set_state(State.STALE))
    assert told == [State.STALE]


def test_blocks_are_held_from_one_set_state_to_the_next(stage: Stage) -> None:
    held = {"trading": Rejection(7, "score_threshold", "Input should be less than or equal to 1", 1)}
    seen: list[list[str]] = []
    stage.do(lambda bus: bus.on_state(lambda _old, _new: seen.append(list(stage.bus.held))))
    stage.do(lambda bus: bus.set_state(State.PARTIAL, held=held))
    assert (stage.bus.state, stage.bus.held, stage.bus.age) == (State.PARTIAL, held, 0.0)
    stage.set_values({"risk.max_drawdown_pct": 15})
    assert (stage.bus.held, stage.bus.revision, stage.bus.get("trading.score_threshold")) == (held, 2, Decimal("0.7"))
    with pytest.raises(UnknownBlock, match="did you mean 'trading'"):
        stage.do(lambda bus: bus.set_state(State.PARTIAL, held={"tradin": held["trading"]}))
    assert stage.bus.held == held
    stage.do(lambda bus: bus.set_state(State.LIVE))
    assert (stage.bus.held, seen) == ({}, [["trading"], []])


def test_wait_for_returns_at_once_or_says_that_it_is_late(stage: Stage) -> None:
    release = stage.set_values({"trading.score_threshold": "0.8"})
    stage.do(lambda bus: bus.wait_for(release))
    stage.do(lambda bus: bus.wait_for(2))
    with pytest.raises(NotInTime, match="at revision 2, live"):
        stage.do(lambda bus: bus.wait_for(3, timeout=0))


def test_a_closed_bus_serves_its_last_values_and_nothing_else(stage: Stage) -> None:
    heard = Heard()
    stage.on_change("trading", heard)
    stage.set_values({"trading.score_threshold": "0.8"})

    stage.do(lambda bus: bus.close())
    stage.do(lambda bus: bus.close())
    assert (stage.bus.get("trading.score_threshold"), stage.bus.state) == (Decimal("0.8"), State.STALE)
    assert stage.bus.closed
    for action in (
        lambda bus: bus.set_values({"trading.score_threshold": "0.9"}),
        lambda bus: bus.retire("lane/x"),
        lambda bus: bus.set_state(State.LIVE),
        lambda bus: bus.on_change("trading", heard),
        lambda bus: bus.on_state(lambda _old, _new: None),
        lambda bus: bus.wait_for(99),
        lambda bus: bus.refresh(),
    ):
        with pytest.raises(Closed, match="the bus is closed"):
            stage.do(action)
    assert [revision for _, revision, _ in heard.told] == [1, 2]


def test_with_values_puts_everything_back_and_tells_both_times() -> None:
    heard = Heard()
    with fake_bus({"lane/x.fast_bars": 3}, domains=DOMAINS) as bus:
        bus.on_change("*", heard)
        heard.told.clear()
        with bus.with_values({"lane/x.fast_bars": 5, "lane/y": {}}) as release:
            assert (bus.get("lane/x.fast_bars"), bus.keys("lane"), release.revision) == (5, ["x", "y"], 2)
            with bus.with_values({"lane/x.fast_bars": 7}):
                bus.set_values({"trading.score_threshold": "0.8"})
            assert (bus.get("lane/x.fast_bars"), bus.get("trading.score_threshold")) == (5, Decimal("0.7"))
        assert (bus.get("lane/x.fast_bars"), bus.keys("lane"), bus.revision) == (3, ["x"], 6)
    assert heard.told == [
        ("lane/x", 2, {"fast_bars": 5}),
        ("lane/y", 2, {}),
        ("lane/x", 3, {"fast_bars": 7}),
        ("trading", 4, {"score_threshold": Decimal("0.8")}),
        ("lane/x", 5, {"fast_bars": 5}),
        ("trading", 5, {"score_threshold": Decimal("0.7")}),
        ("lane/x", 6, {"fast_bars": 3}),
        ("lane/y", 6, dict.fromkeys(LaneConfig.model_fields)),
    ]


def test_with_values_puts_back_after_an_error_too() -> None:
    def refuse(change: Change[Any]) -> None:
        if change.fields["score_threshold"][1] == Decimal("0.9"):
            raise ArithmeticError

    bus = fake_bus(domains=DOMAINS)
    with pytest.raises(KeyError), bus.with_values({"trading.score_threshold": "0.8"}):
        raise KeyError
    assert bus.get("trading.score_threshold") == Decimal("0.7")
    bus.on_change("trading", refuse)
    with pytest.raises(ArithmeticError), bus.with_values({"trading.score_threshold": "0.9"}):
        raise AssertionError("the block must not run")
    assert bus.get("trading.score_threshold") == Decimal("0.7")
    with pytest.raises(InvalidValue), bus.with_values({"trading.score_threshold": 9}):
        raise AssertionError("the block must not run")
    with bus.with_values({"trading.score_threshold": "0.8"}):
        bus.close()
    assert bus.get("trading.score_threshold") == Decimal("0.8")


async def test_with_values_of_the_async_bus_is_the_same() -> None:
    heard = Heard()
    bus = fake_async_bus(domains=DOMAINS)
    bus.on_change("trading", heard)

    async def fail() -> None:
        async with bus.with_values({"trading.score_threshold": "0.8"}) as release:
            assert (release.revision, heard.told[-1][1]) == (2, 2)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert heard.told[-1] == ("trading", 3, {"score_threshold": Decimal("0.7")})
    await bus.close()


def test_wait_for_waits_for_another_thread() -> None:
    seen: list[Decimal] = []

    def wait() -> None:
        bus.wait_for(2, timeout=60)
        seen.append(threshold(bus))

    with fake_bus(domains=DOMAINS) as bus:
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        bus.set_values({"trading.score_threshold": "0.8"})
        waiting.join(PATIENCE)
    assert seen == [Decimal("0.8")]


def test_wait_for_of_another_thread_ends_with_the_bus() -> None:
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            bus.wait_for(2, timeout=60)
        except Closed as error:
            raised.append(error)

    with fake_bus(domains=DOMAINS) as bus:
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
    waiting.join(PATIENCE)
    assert len(raised) == 1


async def test_wait_for_waits_for_another_task() -> None:
    async with fake_async_bus(domains=DOMAINS) as bus:
        waiting = asyncio.create_task(threshold_at(bus, 3))
        late = asyncio.create_task(bus.wait_for(99, timeout=60))
        await asyncio.sleep(0)
        await bus.set_values({"trading.score_threshold": "0.8"})
        await bus.set_values({"trading.score_threshold": "0.9"})
        assert await asyncio.wait_for(waiting, PATIENCE) == Decimal("0.9")
    with pytest.raises(Closed):
        await asyncio.wait_for(late, PATIENCE)


async def test_coroutine_callbacks_have_run_to_their_end_when_set_values_returns() -> None:
    told: list[Any] = []
    async with fake_async_bus(domains=DOMAINS) as bus:

        @bus.on_change("trading.score_threshold")
        async def retune(change: Change[Any]) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
            told.append(change.fields["score_threshold"][1])

        await bus.refresh()
        assert told == [Decimal("0.7")]
        await bus.set_values({"trading.score_threshold": "0.8"})
        assert told == [Decimal("0.7"), Decimal("0.8")]
        retune.cancel()


async def test_a_coroutine_callback_is_never_called_while_it_runs() -> None:
    running, told = 0, []

    async def slow(change: Change[Any]) -> None:
        nonlocal running
        running += 1
        assert running == 1
        for _ in range(3):
            await asyncio.sleep(0)
        told.append(change.revision)
        running -= 1

    async with fake_async_bus(domains=DOMAINS) as bus:
        bus.on_change("lane/*", slow)
        await asyncio.gather(*[bus.set_values({f"lane/{key}": {}}) for key in "xyz"])
    assert told == [2, 3, 4]


async def test_changes_are_iterated_over_until_the_bus_is_closed() -> None:
    bus = fake_async_bus(domains=DOMAINS)
    heard = Heard()

    async def read() -> None:
        async for change in bus.changes("trading"):
            heard(change)

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await bus.set_values({"trading.score_threshold": "0.8"})
    await asyncio.sleep(0)
    await bus.close()
    await reading
    assert [revision for _, revision, _ in heard.told] == [1, 2]


async def test_close_cancels_callbacks_that_wait_for_something() -> None:
    started = asyncio.Event()

    async def wait(_change: Change[Any]) -> None:
        started.set()
        await asyncio.Event().wait()

    bus = fake_async_bus(domains=DOMAINS)
    bus.on_change("trading", wait)
    await started.wait()
    await bus.close()
    assert len(asyncio.all_tasks()) == 1


async def test_two_callbacks_that_change_values_do_not_wait_for_each_other() -> None:
    async with fake_async_bus(domains=DOMAINS) as bus:

        async def follow(path: str, change: Change[Any]) -> None:
            if change.old is not None:
                await bus.set_values({path: change.fields["max_slippage_entry_bps"][1]})

        for path in ("trading.max_slippage_exit_bps", "risk.drawdown_lookback_days"):
            bus.on_change("trading.max_slippage_entry_bps", partial(follow, path))
        await bus.set_values({"trading.max_slippage_entry_bps": 77})
        assert bus.get("trading.max_slippage_exit_bps") == bus.get("risk.drawdown_lookback_days") == 77


def test_the_domains_are_those_of_the_variable_and_no_other_setting_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGBUS_DOMAINS", "sample_domains")
    monkeypatch.setenv("CONFIGBUS_ENVIRONMENT", "Not An Environment")
    bus = fake_bus()
    assert bus.block(SampleConfig) == SampleConfig()
    with pytest.raises(UnknownBlock):
        bus.block("trading")
    with pytest.raises(SettingsError, match="no_such_module"):
        fake_bus(domains="no_such_module")


def test_a_fake_is_not_connected() -> None:
    with pytest.raises(TypeError, match="fake_bus"):
        FakeBus.connect()
    with pytest.raises(TypeError, match="fake_async_bus"):
        FakeAsyncBus.connect()


def test_nothing_is_started_and_nothing_of_the_store_is_loaded() -> None:
    program = (
        "import sys, threading; from configbus.testing import fake_bus; fake_bus().on_change('*', print)\n"
        "assert threading.active_count() == 1\n"
        "assert not {'sqlalchemy', 'psycopg', 'pytest', 'fakeredis', 'typer'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("fake", "real"), [(FakeBus, ConfigBus), (FakeAsyncBus, AsyncConfigBus)])
def test_nothing_public_of_a_real_bus_is_left_that_would_look_for_a_server(fake: type, real: type) -> None:
    """What a real bus gets later must be given to its fake, too."""
    made = [name for base in fake.__mro__[: fake.__mro__.index(real)] for name in vars(base)]
    assert {name for name in vars(real) if not name.startswith("_")} - {"start"} <= set(made)
