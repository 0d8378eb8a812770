"""Postgres restarts, is written to by everybody at once, or is edited past its triggers."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest
from authors import gather

from configbus.author import Author
from configbus.errors import Conflict
from faults.cluster import last_for, note_times
from faults.load import FIELDS, changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus import Release
    from faults.cluster import Cluster

ACTIVATIONS = 200
SIMULTANEOUS = 64
PAIRS = 8
HOLDING = (
    "SELECT revision FROM configbus.release JOIN configbus.release_block USING (environment, revision)"
    " WHERE environment = 'production' AND name = %s AND content ->> %s = %s ORDER BY revision"
)
"""The releases that changed a block to a value: of each number that the load puts somewhere, one, or none."""
ONE_ACTIVE = "SELECT count(*) FROM configbus.risk_config WHERE status = 'active'"


@pytest.mark.long
def test_b1_an_immediate_restart_of_postgres_loses_nothing_acknowledged(cluster: Cluster) -> None:
    with cluster.load(ACTIVATIONS) as load:
        load.reached(80)
        os.kill(cluster.postgres.pid, signal.SIGQUIT)
        cluster.postgres.stop()
        last_for(1.0)
        cluster.postgres.start()
        cluster.healed()
    times = cluster.finish(limit=5.0)
    assert 80 <= len(load.acknowledged) < ACTIVATIONS, "some were refused while it was down"
    with psycopg.connect(cluster.database_url) as connection:
        for number in range(1, ACTIVATIONS + 1):
            revision = load.acknowledged.get(number)
            for name, value in changes(number).items():
                holding = connection.execute(HOLDING, [name, FIELDS[name], str(value)]).fetchall()
                assert holding == [(revision,)] or (revision is None and len(holding) <= 1), (number, revision, holding)
    note_times("B1", "Postgres immediate restart, 1 s down", 5.0, times)


@pytest.mark.long
def test_b7_simultaneous_activations_all_end_in_success_or_conflict(cluster: Cluster) -> None:
    authors = [Author.connect(**cluster.settings, actor=f"author{n}") for n in range(SIMULTANEOUS + PAIRS)]
    try:
        drafts = [authors[0].draft("risk", {"drawdown_lookback_days": 100 + n}) for n in range(SIMULTANEOUS)]
        calls: list[Callable[[], Release]] = [
            lambda author=author, draft=draft: author.activate(draft.id, expect=draft.version)  # type: ignore[misc]  # mypy infers no default of a lambda
            for author, draft in zip(authors, drafts, strict=False)
        ]
        names = list(FIELDS)
        for number, author in enumerate(authors[SIMULTANEOUS:]):
            pair = [names[number % 3], names[(number + 1 + number % 2) % 3]]
            both = {f"{name}.{FIELDS[name]}": 2000 + number for name in pair}
            calls.append(lambda author=author, both=both: author.set(both))  # type: ignore[misc]  # mypy infers no default of a lambda
        with ThreadPoolExecutor(len(calls)) as threads:
            answers = gather([threads.submit(call) for call in calls])
    finally:
        for author in authors:
            author.close()
    cluster.healed()
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert all(isinstance(answer, Conflict) for answer in refused), refused
    assert not any("deadlock" in str(answer) for answer in refused)
    revisions = sorted(answer.revision for answer in answers if not isinstance(answer, Exception))
    assert revisions == list(range(2, 2 + len(revisions))), "each success is a release of its own, without a gap"
    with psycopg.connect(cluster.database_url) as connection:
        assert connection.execute(ONE_ACTIVE).fetchone() == (1,)
    note_times("B7", f"{SIMULTANEOUS} activations and {PAIRS} pairs at once", 1.0, cluster.finish(limit=1.0))


SWAP: tuple[LiteralString, ...] = (
    "INSERT INTO configbus.risk_config (environment, drawdown_lookback_days) VALUES ('production', 79)",
    "UPDATE configbus.risk_config SET status = 'archived' WHERE status = 'active'",
    "UPDATE configbus.risk_config SET status = 'active' WHERE status = 'draft'",
)
EDITS: dict[str, tuple[LiteralString, ...]] = {
    "update": ("UPDATE configbus.risk_config SET drawdown_lookback_days = 77 WHERE status = 'active'",),
    "swap": SWAP,
    "two domains": (
        "UPDATE configbus.risk_config SET drawdown_lookback_days = 78 WHERE status = 'active'",
        "UPDATE configbus.trading_config SET max_slippage_entry_bps = 77 WHERE status = 'active'",
    ),
}
REFUSED: tuple[LiteralString, ...] = (
    "DELETE FROM configbus.risk_config WHERE status = 'active'",
    "UPDATE configbus.risk_config SET status = 'archived' WHERE status = 'active'",
    "TRUNCATE configbus.risk_config",
    "TRUNCATE configbus.release CASCADE",
    "DELETE FROM configbus.release",
)
BYPASSES: dict[str, tuple[LiteralString, ...]] = {
    "DISABLE TRIGGER": (
        "ALTER TABLE configbus.risk_config DISABLE TRIGGER ALL",
        "UPDATE configbus.risk_config SET drawdown_lookback_days = 88 WHERE status = 'active'",
        "ALTER TABLE configbus.risk_config ENABLE TRIGGER ALL",
    ),
    "session_replication_role": (
        "SET LOCAL session_replication_role = replica",
        "UPDATE configbus.risk_config SET drawdown_lookback_days = 88 WHERE status = 'active'",
    ),
}


def edit(cluster: Cluster, statements: tuple[LiteralString, ...]) -> None:
    with psycopg.connect(cluster.database_url, autocommit=True) as connection, connection.transaction():
        for statement in statements:
            connection.execute(statement)


@pytest.mark.long
def test_b8_raw_sql_is_one_release_or_refused(cluster: Cluster) -> None:
    for statements in EDITS.values():
        before = cluster.head()
        edit(cluster, statements)
        cluster.healed()
        cluster.settle(3.0)
        assert cluster.head() == before + 1
    before = cluster.head()
    for statement in REFUSED:
        with pytest.raises(psycopg.Error):
            edit(cluster, (statement,))
    assert cluster.head() == before
    note_times("B8", "raw SQL: update, swap, two domains", 1.0, cluster.finish(limit=1.0))


@pytest.mark.long
@pytest.mark.parametrize("bypass", BYPASSES)
def test_b8_what_went_past_the_triggers_becomes_a_release(bare_cluster: Cluster, bypass: str) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    cluster.start_workers(each=1)
    cluster.settle()
    before = cluster.head()
    edit(cluster, BYPASSES[bypass])
    cluster.healed()
    cluster.healed_within(lambda: cluster.head() == before + 1, 2.0)
    times = cluster.finish(limit=2.0)
    assert all(life.adoptions[-1].values["risk"]["drawdown_lookback_days"] == 88 for life in cluster.lives())
    note_times("B8", f"outside triggers: {bypass}", 2.0, times, cluster.repaired)
