"""A database that is not any more what workers follow: an older copy, another history, or an altogether new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from buses import connected_bus
from conftest import prepare_template
from waiting import until

from faults.cluster import KEYS, note_times
from faults.databases import copy, epoch_of, is_published, name_of, put_in_place, run, url_of
from faults.history import read_commits

if TYPE_CHECKING:
    from faults.cluster import Cluster

BACK = 5
LIMIT_SECONDS = 2.0

pytestmark = pytest.mark.long


def check_events(cluster: Cluster) -> None:
    """One event at the relay, and one at each worker."""
    assert cluster.relays[0].log.count("epoch_raised") == 1
    assert sum(worker.log.count("epoch_changed") for worker in cluster.workers) == len(cluster.lives())
    for life in cluster.lives():
        assert len({adoption.position.epoch for adoption in life.adoptions}) == 2


def test_b6_a_database_set_back_is_followed_in_a_new_epoch(cluster: Cluster) -> None:
    with cluster.load(20):
        pass
    backup, kept, epoch = copy(cluster), cluster.head(), epoch_of(cluster)
    with cluster.load(BACK):
        pass
    cluster.settle()
    lost = [commit for commit in read_commits(cluster.database_url) if commit.position.revision > kept]
    assert len(lost) == BACK
    put_in_place(cluster, backup)
    cluster.healed_within(lambda: is_published(cluster, epoch), LIMIT_SECONDS)
    cluster.settle(LIMIT_SECONDS)
    assert cluster.head() == kept
    with cluster.load(60):
        pass
    times = cluster.finish(limit=LIMIT_SECONDS, lost=lost)
    check_events(cluster)
    note_times("B6", f"database set back {BACK} revisions", LIMIT_SECONDS, times, cluster.repaired)


def test_b6_other_content_at_the_same_revision_is_followed_in_a_new_epoch(cluster: Cluster) -> None:
    with cluster.load(20):
        pass
    backup, kept, epoch = copy(cluster), cluster.head(), epoch_of(cluster)
    with cluster.load(1):
        pass
    cluster.settle()
    lost = [commit for commit in read_commits(cluster.database_url) if commit.position.revision > kept]
    with psycopg.connect(url_of(cluster, backup)) as connection:
        connection.execute("UPDATE configbus.risk_config SET drawdown_lookback_days = 55 WHERE status = 'active'")
    put_in_place(cluster, backup)
    assert cluster.head() == kept + 1 == lost[-1].position.revision
    cluster.healed_within(lambda: is_published(cluster, epoch), LIMIT_SECONDS)
    cluster.settle(LIMIT_SECONDS)
    for life in cluster.lives():
        assert life.adoptions[-1].values["risk"]["drawdown_lookback_days"] == 55
    with cluster.load(60):
        pass
    times = cluster.finish(limit=LIMIT_SECONDS, lost=lost)
    check_events(cluster)
    note_times("B6", "content edited at the same revision", LIMIT_SECONDS, times, cluster.repaired)


def last_values(cluster: Cluster) -> list[Any]:
    return [(life.worker, len(life.adoptions), life.adoptions[-1].values) for life in cluster.lives()]


def test_b6_a_database_created_anew_is_refused_until_somebody_says_so(cluster: Cluster) -> None:
    with cluster.load(20):
        pass
    cluster.settle()
    fresh = f"{name_of(cluster)}_fresh"
    run(cluster, "CREATE DATABASE {fresh}", fresh=fresh)
    prepare_template(url_of(cluster, fresh))
    kept, known = last_values(cluster), len(cluster.relays[0].log)
    put_in_place(cluster, fresh)
    cluster.healed_within(lambda: "another installation" in cluster.relays[0].log[known:], LIMIT_SECONDS)
    until(lambda: all(life.samples[-1].state == "stale" for life in cluster.lives()), 6.0)
    assert last_values(cluster) == kept, "workers keep what they have"

    with cluster.redis() as client:
        assert client.hget(KEYS.head, "revision") == "21", "the relay has not touched it"
        client.flushall()
        cluster.healed()
        cluster.healed_within(lambda: client.hget(KEYS.head, "revision") == "1", LIMIT_SECONDS)
    until(lambda: all("other_bus_ignored" in worker.log for worker in cluster.workers))
    assert last_values(cluster) == kept
    ordinary = {name: value for name, value in cluster.settings.items() if name != "database_url"}
    with connected_bus("thread", **ordinary, require="live") as bus:
        assert (bus.reads.revision, bus.reads.get("risk.drawdown_lookback_days")) == (1, 30)
    for life in cluster.end_workers():
        assert life.samples[-1].state == "stale"
        assert life.left
        assert not {place for place in life.left.values() if place > 0}
