"""Workers that start from what they kept: where they stood, how old it is, and never behind it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
import redis
from buses import Driven, connected_bus
from relays import running_relay
from waiting import until

from configbus import State
from configbus.author import Author
from configbus.reads import now, plan
from configbus.settings import load_settings
from faults.checker import Times, check, check_ended
from faults.cluster import KEYS, last_for, note_times
from faults.databases import copy, epoch_of, is_published, put_in_place
from faults.history import Life, read_commits, with_lost

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cluster import Cluster

DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])
DOWN = "redis://127.0.0.1:1/0"
DOWN_SECONDS = 5.0
BACK_SECONDS = 2.0
TOUCH_SECONDS = 5.0
"""How much older a file may say that it is than what its writer knew."""
GOOD, BAD, DEFAULT = 120, 900, 150


def ordinary(cluster: Cluster, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in cluster.settings.items() if name != "database_url"} | more


def exit_slippage(bus: Driven) -> object:
    return bus.reads.get("trading.max_slippage_exit_bps")


@DRIVERS
def test_c11_started_while_a_block_is_invalid_it_stands_on_its_last_good(driver: str, bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    strict = ordinary(cluster, domains=("faults.strict_domains",), snapshot_dir=str(cluster.directory / "kept"))
    with (
        running_relay(load_settings({}, **cluster.settings)),
        Author.connect(**cluster.settings, actor="tester") as author,
    ):
        with connected_bus(driver, **strict, require="live") as bus:
            bus.wait_for(author.set({"trading.max_slippage_exit_bps": GOOD}))
            author.set({"trading.max_slippage_exit_bps": BAD})
            bus.until(lambda reads: "trading" in reads.held)
            bus.wait_for(author.set({"risk.drawdown_lookback_days": 77}))
        for redis_url in (DOWN, cluster.valkey.url):
            settings = strict | {"redis_url": redis_url, "start_timeout": 1.0}
            with connected_bus(driver, **settings, require="known") as bus:
                assert (bus.reads.revision, exit_slippage(bus)) == (4, GOOD)
                assert bus.reads.get("risk.drawdown_lookback_days") == 77
                assert bus.reads.origin == ("snapshot" if redis_url == DOWN else "redis")
        with connected_bus(driver, **strict, require="known") as bus:
            held = bus.reads.held["trading"]
            assert (held.last_good, held.revision) == (2, 3)
            assert "200" in held.reason
            bus.until(lambda reads: reads.state is State.PARTIAL)
            bus.wait_for(author.set({"discovery.max_wallets_per_run": 1234}))
            assert exit_slippage(bus) == GOOD
            bus.wait_for(author.set({"trading.max_slippage_exit_bps": 90}))
            assert (exit_slippage(bus), dict(bus.reads.held)) == (90, {})
            bus.until(lambda reads: reads.state is State.LIVE)
        with connected_bus(driver, **strict | {"snapshot_dir": str(cluster.directory / "none")}) as bus:
            assert exit_slippage(bus) == 90


@DRIVERS
def test_c11_without_a_file_it_stands_on_its_layers_there(driver: str, bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    strict = ordinary(cluster, domains=("faults.strict_domains",))
    with (
        running_relay(load_settings({}, **cluster.settings)),
        Author.connect(**cluster.settings, actor="tester") as author,
    ):
        author.set({"trading.max_slippage_exit_bps": GOOD})
        release = author.set({"trading.max_slippage_exit_bps": BAD})
        with connected_bus(driver, **strict) as bus:
            bus.until(lambda reads: reads.revision == release.revision)
            assert (exit_slippage(bus), bus.reads.held["trading"].last_good) == (DEFAULT, None)


@pytest.mark.long
def test_p6_without_any_server_workers_serve_and_restarted_ones_stand_where_they_stood(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    kept = str(cluster.directory / "kept")
    cluster.start_relay()
    cluster.start_workers(CONFIGBUS_SNAPSHOT_DIR=kept)
    with cluster.load(60):
        pass
    cluster.settle()
    head = cluster.head()
    own = ordinary(cluster, snapshot_dir=str(cluster.directory / "own"))
    with connected_bus("thread", **own, require="live") as running:
        cluster.valkey.stop()
        cluster.postgres.stop()
        down = now()
        last_for(DOWN_SECONDS)
        assert (running.reads.state, running.reads.revision) == (State.STALE, head)
        assert abs(running.reads.age - (now() - down)) < 1.5, "it says how old what it serves is"
    for driver in ("thread", "asyncio"):
        with connected_bus(driver, **own, require="known", start_timeout=1.0) as again:
            assert (again.reads.origin, again.reads.state, again.reads.revision) == ("snapshot", State.OFFLINE, head)
            assert now() - down - 1.5 < again.reads.age < now() - down + 1.5 + TOUCH_SECONDS

    before = {life.worker: life for life in cluster.end_workers()}
    assert all(life.samples[-1].state == "stale" for life in before.values())
    assert {life.adoptions[-1].position.revision for life in before.values()} == {head}
    cluster.start_workers(prefix="again-", CONFIGBUS_SNAPSHOT_DIR=kept)
    for life in cluster.lives():
        (first,) = life.adoptions
        last = before[life.worker.removeprefix("again-")].adoptions[-1]
        assert (first.origin, first.position, first.values) == ("snapshot", last.position, last.values)
    assert sum(worker.log.count("standing_on_snapshot") for worker in cluster.workers) == len(before)
    cluster.postgres.start()
    cluster.valkey.start()
    cluster.healed()
    with cluster.load(40):
        pass
    times = cluster.finish(limit=3.0)
    check_ended(read_commits(cluster.database_url), list(before.values()))
    assert times.live <= 3.0
    note_times("P6", "both servers down, workers restarted on their files", 3.0, times)


class Restarts:
    """Workers that are ended and started again and again, each generation on the file of the one before."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ended: list[Life] = []
        self.generation = 0
        self.start()

    def start(self) -> None:
        kept = str(self.cluster.directory / "kept")
        self.cluster.start_workers(each=1, prefix=f"{self.generation}-", CONFIGBUS_SNAPSHOT_DIR=kept)

    def restart(self, *, kill: bool = False) -> None:
        """End all, or kill them once the file is written, and start the next."""
        if kill:
            file = plan(None, None, 1.0, ordinary(self.cluster, snapshot_dir=str(self.cluster.directory / "kept"))).file
            assert file is not None
            until(lambda: (found := file.read()) is not None and found.head.revision == self.cluster.head())
            for worker in self.cluster.workers:
                worker.kill()
        self.ended += self.cluster.end_workers()
        self.generation += 1
        self.start()

    def whole_lives(self) -> list[Life]:
        """Of each worker all that it ever adopted, across its restarts, and what the last of it left behind."""
        lives: dict[str, Life] = {}
        for life in [*self.ended, *self.cluster.lives()]:
            name = life.worker.partition("-")[2]
            whole = lives.setdefault(name, Life(name))
            whole.adoptions.extend(life.adoptions)
            whole.left = life.left
        return list(lives.values())


def flush(restarts: Restarts) -> None:
    with restarts.cluster.redis() as client:
        client.flushall()
    restarts.restart()


def empty_redis(restarts: Restarts) -> None:
    restarts.cluster.valkey.stop(kill=True)
    restarts.restart()
    restarts.cluster.valkey.start()


def old_copy(restarts: Restarts) -> None:
    """Redis as it was some releases ago, while no relay looks."""
    cluster = restarts.cluster
    with redis.Redis.from_url(cluster.valkey.url) as client:
        old = {key: client.dump(key) for key in client.keys(f"{KEYS.prefix}*")}
        with cluster.load(20):
            pass
        cluster.settle()
        cluster.relays[0].send(signal.SIGSTOP)
        client.flushall()
        for key, value in old.items():
            client.restore(key, 0, value, replace=True)
        restarts.restart(kill=True)
        cluster.relays[0].send(signal.SIGCONT)


HARM: dict[str, Callable[[Restarts], None]] = {
    "FLUSHALL": flush,
    "Redis restarted empty": empty_redis,
    "an old copy of Redis": old_copy,
}


def settled_after(cluster: Cluster) -> float:
    """How long it takes from now until every worker is current; AssertionError if it is too long."""
    healed = cluster.healed()
    cluster.settle(BACK_SECONDS)
    return now() - healed


@pytest.mark.long
@pytest.mark.timeout(120)
def test_positions_never_go_backwards_across_restarts_of_workers(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    restarts, took = Restarts(cluster), 0.0
    for harm in HARM.values():
        with cluster.load(20):
            pass
        cluster.settle()
        harm(restarts)
        took = max(took, settled_after(cluster))

    backup, kept, epoch = copy(cluster), cluster.head(), epoch_of(cluster)
    with cluster.load(10, raw=True):
        pass
    cluster.settle()
    lost = [commit for commit in read_commits(cluster.database_url) if commit.position.revision > kept]
    put_in_place(cluster, backup)
    restarts.restart()
    until(lambda: is_published(cluster, epoch))
    took = max(took, settled_after(cluster))
    with cluster.load(20):
        pass
    restarts.restart(kill=True)
    cluster.heals.clear()  # what came before the last generation is judged by its position alone
    cluster.hurts.clear()
    cluster.finish(limit=BACK_SECONDS, lost=lost)
    commits = with_lost(read_commits(cluster.database_url), lost)
    whole = restarts.whole_lives()
    assert len(whole) == 2
    assert all(len({each.position.epoch for each in life.adoptions}) == 2 for life in whole)
    check(commits, whole, [], BACK_SECONDS)
    check_ended(commits, restarts.ended)
    what = "restarts of workers with FLUSHALL, empty Redis, an old copy, a set-back"
    note_times("P2", what, BACK_SECONDS, Times(took, took))
