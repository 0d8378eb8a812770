"""Redis stops, forgets, or has no room: the workers keep what they have and are current again soon after."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from faults.cluster import KEYS, last_for, note_times, redis_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cluster import Cluster
    from faults.history import Life


@pytest.mark.long
def test_a1_without_a_fault_changes_arrive_at_once_over_one_connection(cluster: Cluster) -> None:
    with cluster.redis() as client:
        last_for(1.0)
        cluster.healed()
        before = client.info("stats")["total_connections_received"]
        with cluster.load(200) as load:
            load.reached(100)
            cluster.healed()
        cluster.settle()
        made = client.info("stats")["total_connections_received"] - before
    times = cluster.finish(limit=0.5)
    found = cluster.delays()
    p99 = found[int(len(found) * 0.99)]
    note_times("A1", f"none: p99 commit to callback {p99 * 1000:.0f} ms", 0.05, times)
    assert made == 1, "the author's connection is the only new one"
    assert len(found) > 1000
    assert p99 <= 0.05


@pytest.mark.parametrize(
    ("count", "seconds"), [pytest.param(60, 0.4, id="short"), pytest.param(200, 1.0, marks=pytest.mark.long)]
)
def test_a2_a_redis_killed_and_restarted_empty_is_complete_again(cluster: Cluster, count: int, seconds: float) -> None:
    with cluster.load(count) as load:
        load.reached(count // 3)
        cluster.valkey.stop(kill=True)
        last_for(seconds)
        cluster.valkey.start()
        cluster.healed()
        revision = cluster.head()
        with cluster.redis() as client:
            cluster.healed_within(lambda: int(client.hget(KEYS.head, "revision") or 0) >= revision, 1.0)
    times = cluster.finish(limit=1.0)
    note_times("A2", f"Redis killed, {seconds} s down, restarted empty", 1.0, times, cluster.repaired)


def rename_a_block(client: Any) -> None:
    if client.exists(KEYS.block("risk")):
        client.rename(KEYS.block("risk"), KEYS.block("gone"))


LOSSES: dict[str, Callable[[Any], object]] = {
    "FLUSHALL": lambda client: client.flushall(),
    "FLUSHDB": lambda client: client.flushdb(),
    "DEL head": lambda client: client.delete(KEYS.head),
    "DEL index": lambda client: client.delete(KEYS.index),
    "DEL a block": lambda client: client.delete(KEYS.block("trading")),
    "RENAME a block": rename_a_block,
}


@pytest.mark.parametrize(
    ("loss", "count", "times"),
    [
        pytest.param("FLUSHALL", 60, 2, id="FLUSHALL-short"),
        *(pytest.param(name, 200, 5, marks=pytest.mark.long, id=name) for name in LOSSES),
    ],
)
def test_a3_what_is_taken_out_of_redis_is_put_back(cluster: Cluster, loss: str, count: int, times: int) -> None:
    with cluster.load(count) as load, cluster.redis() as client:
        for number in range(1, times + 1):
            load.reached(number * count // (times + 1))
            LOSSES[loss](client)
            cluster.healed()
            last_for(0.2)
    with cluster.redis() as client:
        LOSSES[loss](client)  # once more when no author publishes any longer
        cluster.healed()
        cluster.healed_within(lambda: redis_fault(cluster.valkey.url) is None and client.exists(KEYS.head), 1.0)
    note_times("A3", f"{loss}, {times + 1} times", 1.0, cluster.finish(limit=1.0), cluster.repaired)


@pytest.mark.long
def test_a6_a_redis_without_memory_takes_nothing_half(cluster: Cluster) -> None:
    with cluster.load(320) as load, cluster.redis() as client:
        load.reached(60)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        for _ in range(10):
            last_for(0.5)
            assert redis_fault(cluster.valkey.url) is None
        client.config_set("maxmemory", 0)
        cluster.healed()
    times = cluster.finish(limit=1.5)
    assert times.live <= 1.5
    note_times("A6", "out of memory for 5 s, noeviction", 1.5, times)


@pytest.mark.long
def test_a9_a_hanging_redis_makes_workers_stale_and_nothing_else(cluster: Cluster) -> None:
    with cluster.load(120) as load:
        load.reached(40)
        os.kill(cluster.valkey.pid, signal.SIGSTOP)
        hung = cluster.healed()
        last_for(4.0)
        os.kill(cluster.valkey.pid, signal.SIGCONT)
        cluster.heals[:] = []
        back = cluster.healed()
    times = cluster.finish(limit=1.0)
    for life in cluster.lives():
        assert hung < stale_at(life) <= hung + 3.2
        assert stale_at(life) < back
    assert times.live <= 1.0
    note_times("A9", "Redis hangs for 4 s", 1.0, times)


def stale_at(life: Life) -> float:
    """When a worker was first told, after it had been current, that it is not."""
    current = [told.at for told in life.told if told.new == "live"]
    return next(told.at for told in life.told if told.new == "stale" and told.at > current[0])
