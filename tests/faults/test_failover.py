"""A standby takes over, with and without losses, while the old primary, its relay and its author go on."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from waiting import until

from configbus.author import Author
from configbus.catalogue import load_catalogue
from configbus.embedded import EmbeddedPostgres, EmbeddedValkey
from configbus.errors import Superseded
from configbus.store.connect import connected
from configbus.store.schema import migrate
from faults.cluster import Cluster, note_times
from faults.history import read_commits
from faults.replication import Standby

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from configbus import Release
    from faults.history import Commit

LOST = 3
LIMIT_SECONDS = 2.0
EPOCH = "SELECT epoch, revision FROM configbus.environment WHERE name = 'production'"

pytestmark = pytest.mark.long


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Cluster, Standby]]:
    """A primary with a relay and ten workers, and a standby of it that has caught up."""
    with EmbeddedPostgres(tmp_path / "primary") as primary, EmbeddedValkey(tmp_path / "valkey") as valkey:
        with connected(primary.url) as connection, connection.begin():
            migrate(connection, load_catalogue(["configbus.domains"]), "configbus", "production")
        with Standby(tmp_path / "standby", primary) as standby:
            cluster = Cluster(tmp_path, primary, valkey, "configbus")
            cluster.start_relay()
            cluster.start_workers()
            with cluster.load(40):
                pass
            cluster.settle()
            standby.caught_up()
            yield cluster, standby
            cluster.close()


def follow_instead(cluster: Cluster, standby: Standby) -> None:
    """What is started from now on knows the standby alone, and its truth is what counts."""
    cluster.database_url = standby.url


def epoch_of(cluster: Cluster) -> tuple[int, int]:
    with psycopg.connect(cluster.database_url) as connection:
        ((epoch, revision),) = connection.execute(EPOCH).fetchall()
    return epoch, revision


@contextmanager
def old_author_goes_on(author: Author) -> Iterator[list[Release | Superseded]]:
    """What it is answered, each tenth of a second, until the end; anything but a release and Superseded is raised."""
    answers: list[Release | Superseded] = []
    errors: list[BaseException] = []
    over = threading.Event()

    def write() -> None:
        number = 2000
        while not over.wait(0.1):
            number += 1
            try:
                answers.append(author.set({"risk.drawdown_lookback_days": number}))
            except Superseded as superseded:
                answers.append(superseded)
            except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
                errors.append(error)
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join(10)
    assert not errors, errors


def check_events(cluster: Cluster, lives: int, epoch: int) -> None:
    """Each worker said exactly once that the history changed, and to which."""
    told = [line for worker in cluster.workers for line in worker.log.splitlines() if "epoch_changed" in line]
    names = [life.worker for life in cluster.lives()]
    assert len(names) == lives
    for name in names:
        (own,) = [line for line in told if f"worker={name}" in line.split()]
        assert f"epoch={epoch}" in own.split()


def finish(cluster: Cluster, lost: list[Commit], fault: str) -> None:
    epoch, _ = epoch_of(cluster)
    times = cluster.finish(limit=LIMIT_SECONDS, lost=lost)
    check_events(cluster, 10, epoch)
    for life in cluster.lives():
        epochs = [adoption.position.epoch for adoption in life.adoptions]
        assert epochs == sorted(epochs)
    note_times("B5", fault, LIMIT_SECONDS, times)


@pytest.mark.parametrize("first", ["author", "relay"])
def test_b5_after_a_failover_nobody_follows_the_old_history(pair: tuple[Cluster, Standby], first: str) -> None:
    cluster, standby = pair
    old_url = cluster.database_url
    old_epoch, kept = epoch_of(cluster)
    with Author.connect(**cluster.settings, actor="old") as old_author:
        standby.cut_off()
        for number in range(LOST):
            old_author.set({"trading.max_slippage_entry_bps": 5000 + number})
        cluster.settle()
        lost = [commit for commit in read_commits(old_url) if commit.position.revision > kept]
        assert len(lost) == LOST
        standby.promote()
        follow_instead(cluster, standby)
        assert epoch_of(cluster) == (old_epoch, kept), "the standby never heard of what was lost"
        if first == "relay":
            cluster.start_relay()
            until(lambda: epoch_of(cluster)[0] > old_epoch)
        with Author.connect(**cluster.settings, actor="new") as author:
            took_over = author.set({"risk.drawdown_lookback_days": 77})
            cluster.healed()
            assert took_over.epoch > old_epoch
            assert took_over.epoch % 1000 == 2, "the timeline of the first promotion"
            if first == "author":
                cluster.start_relay()
            with old_author_goes_on(old_author) as answers, cluster.load(80):
                pass
        assert len(answers) > 5
        assert all(isinstance(answer, Superseded) for answer in answers), answers
    assert "another database took over" in cluster.relays[0].log
    assert [worker.log.count("head_lower") for worker in cluster.workers] == [0, 0]
    finish(cluster, lost, f"failover that lost {LOST} commits, the new {first} first")


def test_b5_where_nothing_was_lost_the_first_release_begins_the_epoch(pair: tuple[Cluster, Standby]) -> None:
    cluster, standby = pair
    before, kept = epoch_of(cluster)
    with Author.connect(**cluster.settings, actor="old") as old_author:
        standby.cut_off()
        standby.promote()
        follow_instead(cluster, standby)
        cluster.start_relay()
        cluster.settle()
        assert epoch_of(cluster) == (before, kept), "two primaries that hold the same disturb nobody"
        with Author.connect(**cluster.settings, actor="new") as author:
            first = author.set({"risk.drawdown_lookback_days": 77})
        cluster.healed()
        assert (first.epoch, first.revision) == (before - before % 1000 + 2, kept + 1)
        with pytest.raises(Superseded):
            old_author.set({"risk.drawdown_lookback_days": 78})
        with cluster.load(80):
            pass
    finish(cluster, [], "failover that lost nothing")
