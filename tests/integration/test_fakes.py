"""The buses for other people's tests behave as connected ones do: each test runs on both flavours of both."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from authors import DOMAINS, author_of
from buses import PATIENCE, Driven, connected_bus, running_loop
from relays import running_relay
from sample_domains import LaneConfig, SampleConfig

from configbus import Change, State
from configbus.domains import TradingConfig
from configbus.errors import ConfigBusError, InvalidValue, UnknownBlock, UnknownField, UnknownName
from configbus.settings import load_settings
from configbus.testing import FakeAsyncBus, FakeBus, fake_async_bus, fake_bus

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from configbus.author import Author
    from configbus.wire import Release


class OnServers:
    """A connected bus, and the author who changes its values."""

    def __init__(self, bus: Driven, author: Author) -> None:
        self.bus = bus
        self._author = author

    def put(self, values: dict[str, Any]) -> Release:
        return self._arrived(self._author.set(values))

    def make(self, block: str, values: dict[str, Any]) -> Release:
        return self._arrived(self._author.activate(self._author.draft(block, values).id))

    def retire(self, block: str) -> Release:
        return self._arrived(self._author.retire(block))

    def _arrived(self, release: Release) -> Release:
        self.bus.wait_for(release)
        return release


class InMemory:
    """A bus that a test changes itself."""

    def __init__(self, fake: FakeBus | FakeAsyncBus, loop: asyncio.AbstractEventLoop | None) -> None:
        self.bus = Driven(fake, loop)
        self._fake = fake
        self._loop = loop

    def put(self, values: dict[str, Any]) -> Release:
        return self._finished(self._fake.set_values(values))

    def make(self, block: str, values: dict[str, Any]) -> Release:
        return self._finished(self._fake.set_values({block: values}))

    def retire(self, block: str) -> Release:
        return self._finished(self._fake.retire(block))

    def _finished(self, outcome: Release | Coroutine[Any, Any, Release]) -> Release:
        if self._loop is None or not asyncio.iscoroutine(outcome):
            assert not asyncio.iscoroutine(outcome)
            return outcome
        return asyncio.run_coroutine_threadsafe(outcome, self._loop).result(PATIENCE)


Stage = OnServers | InMemory


@pytest.fixture(params=["fake", "fake asyncio", "thread", "asyncio"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ExitStack() as stack:
        if request.param == "fake":
            yield InMemory(stack.enter_context(fake_bus(domains=DOMAINS)), None)
        elif request.param == "fake asyncio":
            loop = stack.enter_context(running_loop())
            stage = InMemory(fake_async_bus(domains=DOMAINS), loop)
            stack.enter_context(closing(stage.bus))
            yield stage
        else:
            database, redis = request.getfixturevalue("sample_database_url"), request.getfixturevalue("redis_url")
            worker = {"redis_url": redis, "environment": "production", "domains": DOMAINS}
            stack.enter_context(running_relay(load_settings({}, database_url=database, **worker)))
            author = stack.enter_context(author_of(database, redis_url=redis))
            bus = stack.enter_context(connected_bus(request.param, require="live", start_timeout=PATIENCE, **worker))
            yield OnServers(bus, author)


def told_of(change: Change[Any]) -> tuple[str, dict[str, Any] | None, dict[str, Any] | None]:
    """What a change says, as plain values."""
    fields = None if change.old is None or change.new is None else change.fields
    return change.block_name, fields, None if change.new is None else change.new.model_dump()


def test_reads(stage: Stage) -> None:
    reads = stage.bus.reads
    release = stage.put({"trading.score_threshold": "0.8", "sample.until": "2026-01-31T14:00:00+02:00"})
    assert release.blocks == ("sample", "trading")
    assert (reads.revision, reads.epoch) == (release.revision, release.epoch)
    assert (reads.state, reads.origin, dict(reads.held)) == (State.LIVE, "redis", {})
    assert reads.age < 3
    assert str(reads.get("trading.score_threshold")) == "0.800"
    assert str(reads.get("sample.until")) == "2026-01-31 12:00:00+00:00"
    assert reads.block(TradingConfig) == TradingConfig(score_threshold=Decimal("0.8"))
    assert {name: str(value) for name, value in reads.block("trading")} == {
        name: str(value) for name, value in TradingConfig(score_threshold=Decimal("0.800"))
    }
    assert reads.block(SampleConfig).document == SampleConfig().document
    assert reads.get("sample.limits.venue.host") == "localhost"
    assert reads.get("sample.no_such_field", 7) == 7
    assert stage.put({"trading.score_threshold": "0.80"}).blocks == ()


def test_keyed_blocks(stage: Stage) -> None:
    reads = stage.bus.reads
    assert reads.keys(LaneConfig) == []
    stage.make("lane/b", {})
    release = stage.make("lane/a", {"fast_bars": 3, "venue.host": "remote"})
    assert release.blocks == ("lane/a",)
    assert reads.keys("lane") == ["a", "b"]
    assert reads.block(LaneConfig, key="b") == LaneConfig()
    assert str(reads.get("lane/b.threshold")) == "0.0150"
    assert reads.get("lane/a.venue.host") == "remote"
    stage.put({"lane/a.slow_bars": 70})
    assert (reads.get("lane/a.fast_bars"), reads.get("lane/a.slow_bars")) == (3, 70)
    stage.retire("lane/a")
    assert reads.keys(LaneConfig) == ["b"]
    with pytest.raises(UnknownBlock, match="lane/a"):
        reads.block(LaneConfig, key="a")


def test_near_misses_of_reads(stage: Stage) -> None:
    stage.make("lane/left", {})
    missed: dict[str, tuple[type[UnknownName], tuple[str, ...]]] = {
        "trading.score_treshold": (UnknownField, ("score_threshold",)),
        "tradin.score_threshold": (UnknownBlock, ("trading",)),
        "sample.limits.sof": (UnknownField, ("soft",)),
        "lane/lef.fast_bars": (UnknownBlock, ("lane/left",)),
        "lane.fast_bars": (UnknownBlock, ()),
        "trading/x": (UnknownBlock, ("trading",)),
    }
    for path, (error, near) in missed.items():
        with pytest.raises(error) as told:
            stage.bus.reads.get(path)
        assert told.value.near == near, path


def test_refusals(stage: Stage) -> None:
    before = stage.bus.reads.revision
    fake = fake_bus(domains=DOMAINS)
    refused: list[tuple[type[ConfigBusError], dict[str, Any]]] = [
        (InvalidValue, {"trading.score_threshold": "1.5", "risk.max_drawdown_pct": -1}),
        (UnknownField, {"trading.score_treshold": "0.8"}),
        (InvalidValue, {"sample.limits": {"sof": 3}}),
        (UnknownField, {"sample.limits.sof": 3}),
        (UnknownBlock, {"sampel.small": 3}),
        (UnknownBlock, {"lane.fast_bars": 3}),
        (UnknownField, {"trading": 3}),
        (InvalidValue, {"sample.small": True}),
        (InvalidValue, {"sample.since": "2026-01-31T12:00:00"}),
    ]
    for error, values in refused:
        with pytest.raises(error) as expected:
            fake.set_values(values)
        with pytest.raises(error) as told:
            stage.put(values)
        assert str(told.value) == str(expected.value)
    assert stage.bus.reads.revision == before


TARGETS: list[Any] = ["*", "lane/*", LaneConfig, "lane/x", "lane/x.fast_bars", "lane.fast_bars"]


def test_callbacks(stage: Stage) -> None:
    told: dict[Any, list[tuple[str, Any, Any]]] = {target: [] for target in TARGETS}

    def listen(target: Any, change: Change[Any]) -> None:
        if change.block_name.startswith("lane"):
            told[target].append(told_of(change))

    def heard(count: int) -> None:
        stage.bus.until(lambda _: all(len(changes) >= count for changes in told.values()))

    stage.make("lane/x", {})
    subscriptions = [stage.bus.on_change(target, partial(listen, target)) for target in TARGETS]
    heard(1)
    stage.put({"lane/x.fast_bars": 3})
    heard(2)
    stage.put({"trading.score_threshold": "0.8"})
    stage.retire("lane/x")
    heard(3)
    for subscription in subscriptions:
        stage.bus.cancel(subscription)
    stage.make("lane/x", {})
    first = LaneConfig().model_dump()
    for target in TARGETS:
        assert told[target] == [
            ("lane/x", None, first),
            ("lane/x", {"fast_bars": (20, 3)}, first | {"fast_bars": 3}),
            ("lane/x", None, None),
        ], target
