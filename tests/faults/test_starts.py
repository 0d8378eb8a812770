"""Workers that start or stay without their servers, and workers that cannot take what everybody else takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from buses import Driven, connected_bus
from relays import running_relay
from waiting import until

from configbus import State
from configbus.author import Author
from configbus.errors import NotInTime, Rejected
from configbus.reads import now
from configbus.relay import COMPARE_SECONDS
from configbus.settings import load_settings
from faults.cluster import last_for, note_times

if TYPE_CHECKING:
    from faults.cluster import Cluster

DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])
START_SECONDS = 2.0
DOWN_SECONDS = 10.0
OTHERS = 100
HASHES = 9
"""That a relay reads at each comparison: seven blocks, index and head."""


@pytest.mark.long
def test_c10_workers_that_start_before_their_servers_come_to_them(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    settings = cluster.settings
    cluster.valkey.stop()
    cluster.postgres.stop()
    cluster.spawn_relay()
    cluster.start_workers()
    for driver in ("thread", "asyncio"):
        began = now()
        with connected_bus(driver, **settings, start_timeout=START_SECONDS) as bus:
            assert now() - began <= START_SECONDS
            assert (bus.reads.origin, bus.reads.state) == ("layers", State.OFFLINE)
            assert bus.reads.get("risk.drawdown_lookback_days") == 30
    for life in cluster.lives():
        assert [(adoption.origin, adoption.position.revision) for adoption in life.adoptions] == [("layers", 0)]
        assert {sample.state for sample in life.samples} <= {"offline"}
    cluster.postgres.start()
    cluster.valkey.start()
    cluster.healed()
    with Author.connect(**settings, actor="tester") as author:
        author.set({"risk.drawdown_lookback_days": 77})
    times = cluster.finish(limit=3.0)
    assert times.live <= 3.0
    note_times("C10", "everything down at the start", 3.0, times)


def hash_reads(cluster: Cluster) -> int:
    """How many whole hashes Redis was asked for: a look reads one, a load two at least and every changed block."""
    with cluster.redis() as client:
        return int(client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"])


def strict_and_ordinary_settings(cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    ordinary = {name: value for name, value in cluster.settings.items() if name != "database_url"}
    return ordinary | {"domains": ("faults.strict_domains",)}, ordinary


def is_partial_of_trading(bus: Driven) -> bool:
    return bus.reads.state is State.PARTIAL and set(bus.reads.held) == {"trading", "risk"}


@DRIVERS
def test_c11_a_block_that_one_worker_cannot_take_holds_up_nothing_else(driver: str, bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    strict_settings, ordinary_settings = strict_and_ordinary_settings(cluster)
    with (
        running_relay(load_settings({}, **cluster.settings)),
        Author.connect(**cluster.settings, actor="tester") as author,
        connected_bus(driver, **strict_settings, require="live") as strict,
        connected_bus(driver, **ordinary_settings, require="live") as ordinary,
    ):
        release = author.set({"trading.max_slippage_exit_bps": 900, "risk.drawdown_lookback_days": 77})
        ordinary.wait_for(release)
        with pytest.raises(Rejected, match="less than or equal to 200"):
            strict.wait_for(release)
        until(lambda: is_partial_of_trading(strict), 3.0)
        assert strict.reads.get("trading.max_slippage_exit_bps") == 150
        assert strict.reads.get("risk.drawdown_lookback_days") == 30
        assert ordinary.reads.get("risk.drawdown_lookback_days") == 77
        assert (strict.reads.held["trading"].last_good, strict.reads.held["risk"].last_good) == (1, 1)

        before, began = hash_reads(cluster), now()
        for number in range(OTHERS):
            strict.wait_for(author.set({"discovery.max_wallets_per_run": 1000 + number}), 1.0)
        passed = now() - began
        looks = 4 * (passed + 1) + HASHES * (passed / COMPARE_SECONDS + 1)
        assert hash_reads(cluster) - before <= looks, "each release came by its message, none by a load"
        assert strict.reads.get("discovery.max_wallets_per_run") == 1000 + OTHERS - 1
        assert is_partial_of_trading(strict)

        with connected_bus(driver, **strict_settings) as late:
            assert late.reads.held["trading"].last_good is None
            assert late.reads.get("trading.max_slippage_exit_bps") == 150
            assert late.reads.get("risk.drawdown_lookback_days") == 77

        strict.wait_for(author.set({"trading.max_slippage_exit_bps": 90}))
        assert not strict.reads.held
        assert strict.reads.get("risk.drawdown_lookback_days") == 77
        until(lambda: strict.reads.state is State.LIVE, 3.0)
        assert ordinary.reads.state is State.LIVE


@pytest.mark.long
def test_c12_without_redis_workers_serve_what_they_have_and_say_so(cluster: Cluster) -> None:
    with cluster.load(460) as load:
        load.reached(20)
        cluster.valkey.stop()
        last_for(DOWN_SECONDS)
        assert "Redis" in cluster.relays[0].log
        cluster.valkey.start()
        cluster.healed()
    times = cluster.finish(limit=1.5)
    assert all("stale" in {sample.state for sample in life.samples} for life in cluster.lives())
    note_times("C12", "Redis down for 10 s", 1.5, times)


@pytest.mark.long
@DRIVERS
def test_c12_without_postgres_workers_serve_what_they_have_and_say_so(driver: str, bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    cluster.start_workers()
    ordinary = strict_and_ordinary_settings(cluster)[1]
    with connected_bus(driver, **ordinary, require="live") as bus:
        cluster.postgres.stop()
        last_for(DOWN_SECONDS)
        assert bus.reads.state is State.STALE
        assert bus.reads.get("risk.drawdown_lookback_days") == 30
        assert 3.0 <= bus.reads.age <= DOWN_SECONDS + 1
        with pytest.raises(NotInTime):
            bus.wait_for(2, 0.1)
        assert "Postgres" in cluster.relays[0].log
        cluster.postgres.start()
        cluster.healed()
        with cluster.load(40):
            pass
        bus.wait_for(cluster.head())
    times = cluster.finish(limit=2.0)
    note_times("C12", f"Postgres down for 10 s ({driver})", 2.0, times)
