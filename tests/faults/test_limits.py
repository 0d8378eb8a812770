"""Postgres that keeps somebody waiting: a table locked for long, and a commit whose answer is lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from configbus.author import Author
from configbus.errors import Conflict, Unavailable
from faults.cluster import last_for, note_times
from faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cluster import Cluster

LOCK_SECONDS = 10.0
ERROR_SECONDS = 5.0
LIVE_AGAIN_SECONDS = 2.0
LOCK = "LOCK TABLE configbus.{} IN ACCESS EXCLUSIVE MODE"
EVERYTHING = (
    "SELECT (SELECT max(revision) FROM configbus.release), (SELECT count(*) FROM configbus.config_audit_log),"
    " (SELECT array_agg(concat(id, status, version) ORDER BY id) FROM configbus.risk_config)"
)
ATTEMPTS = (
    "SELECT max(max_order_attempts) FROM configbus.risk_config WHERE status = 'active'",
    "SELECT count(*) FROM configbus.risk_config",
    "SELECT count(*) FROM configbus.config_audit_log WHERE config_table = 'risk_config' AND action = 'activate'",
)


def timed(call: Callable[[Author], object], settings: dict[str, Any]) -> tuple[Exception | None, float]:
    """What a call raised, and after how many seconds it ended."""
    with Author.connect(**settings, actor="ana") as author:
        began = time.monotonic()
        try:
            call(author)
        except Conflict as error:
            return error, time.monotonic() - began
        return None, time.monotonic() - began


def everything(cluster: Cluster) -> tuple[Any, ...]:
    with psycopg.connect(cluster.database_url) as connection:
        rows = connection.execute(EVERYTHING).fetchall()
    return rows[0]


@pytest.mark.long
@pytest.mark.parametrize("table", ["risk_config", "release", "environment", "config_audit_log"])
def test_b10_a_locked_table_is_a_clear_error_soon_and_nothing_half_done(table: str, cluster: Cluster) -> None:
    with Author.connect(**cluster.settings, actor="ana") as author:
        draft = author.draft("risk", {"max_order_attempts": 7})
    with cluster.load(40):
        pass
    before = everything(cluster)
    calls: list[Callable[[Author], object]] = [
        lambda author: author.set({"risk.max_order_attempts": 8}),
        lambda author: author.activate(draft.id),
        lambda author: author.rollback(["risk"], to=1),
    ]
    with psycopg.connect(cluster.database_url) as holder:
        cluster.hurt()
        locked = time.monotonic()
        holder.execute(sql.SQL(LOCK).format(sql.Identifier(table)))
        with ThreadPoolExecutor(len(calls)) as threads:
            ended = list(threads.map(lambda call: timed(call, cluster.settings), calls))
        last_for(locked + LOCK_SECONDS - time.monotonic())
    cluster.healed()
    for error, seconds in ended:
        assert seconds <= ERROR_SECONDS
        assert "holds a lock" in str(error)
        assert "nothing of it was done" in str(error)
    assert everything(cluster) == before
    with cluster.load(40):
        pass
    times = cluster.finish(limit=LIVE_AGAIN_SECONDS)
    if table == "risk_config":
        assert not any(told.new == "stale" for life in cluster.lives() for told in life.told)
        assert cluster.relays[0].log.count("drift_not_looked_for") == 1
    note_times("B10", f"{table} locked for 10 s", LIVE_AGAIN_SECONDS, times)


@pytest.mark.long
@pytest.mark.parametrize("how", ["with the connection", "silently"])
def test_b11_a_commit_whose_answer_is_lost_is_one_version_and_its_key_tells_which(how: str, cluster: Cluster) -> None:
    call: dict[str, Any] = {"changes": {"risk.max_order_attempts": 9}, "idempotency_key": "ticket-7"}
    with cluster.load(200) as load, Proxy(cluster.database_url) as proxy:
        load.reached(80)
        proxy.lost, proxy.loses_silently = b"COMMIT", how == "silently"
        with (
            Author.connect(**cluster.settings | {"database_url": proxy.url}, actor="ana") as author,
            pytest.raises(Unavailable, match=r"whether the change was made is not known.*idempotency key"),
        ):
            author.set(**call)
        proxy.lost = None
        cluster.healed()
        with psycopg.connect(cluster.database_url) as connection:
            found = [connection.execute(statement).fetchone() for statement in ATTEMPTS]
            row = connection.execute("SELECT revision FROM configbus.idempotency WHERE key = 'ticket-7'").fetchone()
        with Author.connect(**cluster.settings, actor="ana") as author:
            release = author.set(**call)
            (newest,) = [entry for entry in author.history("risk", 200) if entry.revision == release.revision]
        assert found[0] == (9,)
        assert row == (release.revision,)
        assert newest.changes["max_order_attempts"] == (3, 9)
    times = cluster.finish(limit=1.0)
    note_times("B11", f"answer to COMMIT lost {how}", 1.0, times)
