"""A value that must not be older than so many seconds: given, or refused, never just assumed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from buses import connected_bus
from relays import running_relay

from configbus import ConfigBus, reads
from configbus.errors import ConfigBusError, Stale
from configbus.reads import Reads

if TYPE_CHECKING:
    from configbus.author import Author
    from configbus.settings import Settings

DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])


@DRIVERS
def test_without_a_relay_values_grow_too_old(driver: str, published: Settings, worker: dict[str, Any]) -> None:
    with running_relay(published), connected_bus(driver, **worker, require="live") as driven:
        assert driven.reads.get("risk.max_order_attempts", max_age=3) == 3
        assert driven.reads.get("risk.no_such_field", 7, max_age=3) == 7
    with connected_bus(driver, **worker) as driven:
        bus = driven.reads
        assert bus.get("risk.max_order_attempts") == 3
        with pytest.raises(Stale, match=r"risk\.max_order_attempts was last known .* may be 3 s old; stale"):
            bus.get("risk.max_order_attempts", max_age=3)
        assert bus.get("risk.max_order_attempts", 1, max_age=3) == 1
        assert issubclass(Stale, ConfigBusError)


def test_a_value_grows_too_old_while_the_worker_runs(published: Settings, worker: dict[str, Any]) -> None:
    with connected_bus("thread", **worker) as driven:
        with running_relay(published):
            driven.until(lambda reads: reads.age < 0.5)
        assert driven.reads.get("risk.max_order_attempts", max_age=60) == 3
        driven.until(lambda reads: reads.get("risk.max_order_attempts", None, max_age=0.8) is None)
        assert driven.reads.get("risk.max_order_attempts", max_age=60) == 3


@pytest.mark.usefixtures("relay")
def test_a_held_block_is_refused_and_the_others_are_not(
    worker: dict[str, Any], author: Author, published: Settings
) -> None:
    with ConfigBus.connect(**worker, require="live") as bus, psycopg.connect(published.require("database_url")) as sql:
        sql.execute("UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'")
        sql.commit()
        bus.wait_for(author.set({"risk.max_order_attempts": 4}))
        bus.refresh()
        assert bus.state == "partial"
        assert bus.get("risk.max_order_attempts", max_age=3) == 4
        with pytest.raises(Stale, match="trading is held at older content"):
            bus.get("trading.score_threshold", max_age=3)
        assert bus.get("trading.score_threshold", None, max_age=3) is None
        assert str(bus.get("trading.score_threshold")) == "0.700"


@pytest.mark.usefixtures("relay")
def test_its_age_is_told_while_the_bus_is_closed(worker: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bus = ConfigBus.connect(**worker, require="live")
    clock = reads.now

    def closing() -> float:
        bus.close()
        return clock()

    monkeypatch.setattr(reads, "now", closing)
    assert bus.age < 60
    assert bus.age == math.inf


def test_a_value_is_no_older_than_its_age_whatever_is_adopted_meanwhile(
    published: Settings, worker: dict[str, Any], author: Author
) -> None:
    with running_relay(published), ConfigBus.connect(**worker, require="live") as bus:
        early = bus.snapshot
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
        late = bus.snapshot

    class Overtaken(Reads):
        """One whose copy is renewed just while it is asked for its age."""

        _snapshot = early

        @property
        def age(self) -> float:
            was = 100.0 if self._snapshot is early else 0.0
            self._snapshot = late
            return was

    with pytest.raises(Stale):
        Overtaken().get("risk.max_order_attempts", max_age=3)
