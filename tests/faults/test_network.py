"""Connections that die, hang, drip or are cut, and workers that are paused themselves."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import redis
from waiting import until

from configbus.embedded import EmbeddedValkey
from configbus.reads import now
from faults.checker import CURRENT
from faults.cluster import last_for, note_times
from faults.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from faults.cluster import Cluster
    from faults.proxy import Manner

IDLE_SHARE = 0.05
"""Of a processor, for each worker that waits on a dead path."""
REPLICA_GIVES_UP_SECONDS = 5


@pytest.mark.parametrize(
    ("count", "kills"), [pytest.param(80, 4, id="short"), pytest.param(400, 20, marks=pytest.mark.long)]
)
def test_a7_killed_connections_are_replaced(cluster: Cluster, count: int, kills: int) -> None:
    dice = random.Random(7)  # noqa: S311  # which connections die, not a secret
    with cluster.load(count) as load, cluster.redis() as client:
        for number in range(1, kills + 1):
            load.reached(number * count // (kills + 1))
            kind = dice.choice([["pubsub"], ["normal"], ["pubsub", "normal"]])
            for one in kind:
                client.client_kill_filter(_type=one, skipme=True)
            cluster.healed()
    note_times("A7", f"CLIENT KILL, {kills} times", 0.5, cluster.finish(limit=0.5))


@pytest.mark.long
def test_a8_a_half_open_connection_is_given_up(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    with Proxy(cluster.valkey.url) as proxy:
        cluster.start_workers(redis_url=proxy.url)
        cluster.settle()
        with cluster.load(240) as load:
            load.reached(40)
            paths = proxy.silence()
            cluster.healed()
            until(lambda: proxy.opened() >= paths, 3.0)
        process = next(worker for worker in cluster.workers if "asyncio" in worker.name)
        used = process.seconds_of_cpu()
        last_for(2.0)
        share = (process.seconds_of_cpu() - used) / 2.0
        times = cluster.finish(limit=3.0)
    assert paths == 20
    assert share < 5 * IDLE_SHARE
    note_times("A8", "half-open connections, the old path dead for ever", 3.0, times)


@pytest.mark.long
def test_a10_a_paused_worker_does_not_say_live_before_it_looked(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    cluster.start_workers(each=4, apart=1)
    cluster.settle()
    paused = [worker for worker in cluster.workers if "apart" in worker.name]
    assert len(paused) == 2
    with cluster.load(300) as load:
        load.reached(30)
        for worker in paused:
            worker.send(signal.SIGSTOP)
        last_for(10.0)
        due = cluster.head()
        for worker in paused:
            worker.send(signal.SIGCONT)
        back = cluster.healed()
    times = cluster.finish(limit=1.5)
    for life in cluster.lives():
        first = next(sample for sample in life.samples if sample.at > back)
        assert first.state not in CURRENT or first.position.revision >= due
    note_times("A10", "worker paused for 10 s", 1.5, times)


@pytest.mark.long
@pytest.mark.parametrize("manner", ["delay", "drip", "cut"])
def test_a14_a_bad_network_leaves_nothing_half_applied(bare_cluster: Cluster, manner: Manner) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    with Proxy(cluster.valkey.url, seed=14) as proxy:
        cluster.start_workers(redis_url=proxy.url)
        cluster.settle()
        with cluster.load(240) as load:
            load.reached(20)
            proxy.manner = manner
            load.reached(200)
            proxy.manner = "pass"
            cluster.healed()
        times = cluster.finish(limit=3.0)
    note_times("A14", f"network: {manner} for 4.5 s", 3.0, times)


@pytest.mark.long
def test_a14_workers_of_a_lagging_replica_say_so_and_follow_it(bare_cluster: Cluster, tmp_path: Path) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    with (
        Proxy(cluster.valkey.url) as proxy,
        EmbeddedValkey(tmp_path / "replica") as replica,
        cluster.redis() as primary,
    ):
        follow(replica, cluster.valkey, proxy)
        cluster.start_workers(redis_url=replica.url)
        cluster.settle()
        with cluster.load(480) as load:
            load.reached(20)
            proxy.manner = "delay"
            load.reached(200)
            proxy.manner = "pass"
            cluster.healed()
            load.reached(280)
            cluster.hurt()
            cut = now()
            proxy.silence()
            until(lambda: primary.info("stats")["sync_partial_ok"] > 0, 10.0)
            cluster.healed()
        times = cluster.finish(limit=3.0)
    for life in cluster.lives():
        assert any(told.new == "stale" and cut < told.at < cluster.heals[-1] for told in life.told), life.worker
    note_times("A14", "replica: 200 ms behind for 4.5 s, then cut off until its own time limit", 3.0, times)


def follow(replica: EmbeddedValkey, primary: EmbeddedValkey, path: Proxy) -> None:
    """Make a server the replica of another; return once it holds all of it."""
    with redis.Redis.from_url(replica.url, decode_responses=True) as client:
        client.config_set("masterauth", urlsplit(primary.url).password)
        client.config_set("repl-timeout", REPLICA_GIVES_UP_SECONDS)
        client.replicaof("127.0.0.1", path.port)
        until(lambda: client.info("replication")["master_link_status"] == "up", 10.0)
