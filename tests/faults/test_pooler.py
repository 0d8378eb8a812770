"""A relay whose LISTEN hears nothing, as behind a pooler in transaction mode: its own look brings every change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from buses import connected_bus
from poolers import PGBOUNCER, pgbouncer
from relays import running_relay

from configbus.author import Author
from configbus.reads import now
from configbus.settings import load_settings
from configbus.store.connect import connect_listener
from faults.cluster import last_for

if TYPE_CHECKING:
    from pathlib import Path

    from faults.cluster import Cluster

EDITS = 20
WITHIN_SECONDS = 0.3
STRAGGLERS = 2
"""So many of them may be late where other programs keep the machine busy."""


def heard(url: str) -> bool:
    """Whether a bell that rings while somebody listens through this URL is heard."""
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as ringer:
        listener.execute("LISTEN configbus")
        with ringer.transaction():  # in a transaction of its own, as a pooler may give it another session
            ringer.execute("SELECT pg_notify('configbus', 'production')")
        return any(True for _ in listener.notifies(timeout=0.5, stop_after=1))


def check_delivery(cluster: Cluster) -> None:
    """Plain SQL edits, one after another, each of them only the relay's to bring."""
    ordinary: dict[str, Any] = {name: value for name, value in cluster.settings.items() if name != "database_url"}
    taken = []
    with (
        connected_bus("thread", **ordinary, require="live") as bus,
        psycopg.connect(cluster.database_url, autocommit=True) as operator,
    ):
        for number in range(1, EDITS + 1):
            last_for(0.037)  # at another moment of the relay's round each time
            operator.execute(
                "UPDATE configbus.risk_config SET drawdown_lookback_days = %s WHERE status = 'active'", [100 + number]
            )
            began = now()
            bus.wait_for(1 + number)
            taken.append(now() - began)
            assert bus.reads.get("risk.drawdown_lookback_days") == 100 + number
    assert sorted(taken)[-1 - STRAGGLERS] <= WITHIN_SECONDS, sorted(taken)


def test_b9_a_relay_that_hears_no_bell_delivers_all_the_same(
    bare_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = bare_cluster
    elsewhere = cluster.postgres.url  # another database of the same server: its bells are not heard here
    monkeypatch.setattr("configbus.relay.connect_listener", lambda _url: connect_listener(elsewhere))
    with running_relay(load_settings({}, **cluster.settings)):
        check_delivery(cluster)


@pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer on this machine: LISTEN through a real pooler is not tried")
def test_b9_a_relay_behind_pgbouncer_delivers_all_the_same(bare_cluster: Cluster, tmp_path: Path) -> None:
    cluster = bare_cluster
    assert heard(cluster.database_url)
    with pgbouncer(cluster.database_url, tmp_path) as url:
        assert not heard(url)
        with running_relay(load_settings({}, **cluster.settings | {"database_url": url})):
            check_delivery(cluster)


@pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer on this machine: several clients of one are not tried")
def test_b9_several_who_share_the_sessions_of_a_pooler_do_not_disturb_each_other(
    bare_cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pgbouncer(bare_cluster.database_url, tmp_path) as url:
        settings = load_settings({}, **bare_cluster.settings | {"database_url": url}, actor="ana")
        with running_relay(settings), Author(settings) as one, Author(settings) as other:
            for number in range(EDITS):
                for author in (one, other):
                    author.set({"risk.drawdown_lookback_days": 100 + number})
                    assert author.active("risk").content["drawdown_lookback_days"] == 100 + number
    assert not any("relay_waits" in record.message for record in caplog.records)
