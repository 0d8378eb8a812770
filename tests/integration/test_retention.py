"""Retention: what is pruned is old and not needed; what held since can be shown, rolled back to and verified."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
from authors import WAITING, author_of, contents, everything, revision_of
from psycopg import errors
from relays import running_relay
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.errors import Conflict, UnknownRevision
from configbus.relay import Relay
from configbus.store.chain import Witness
from configbus.store.connect import Place, connected
from configbus.store.retention import Pruned, prune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from authors import Psql

    from configbus.settings import Settings

PLACE = Place("configbus", "production")
PRUNE_TO = "SELECT * FROM configbus.prune('production', %s)"
OWNER: LiteralString = "SET session_replication_role = replica"


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url) as author:
        yield author


@pytest.fixture
def cut(author: Author, psql: Psql) -> datetime:
    """The instant between revisions 1 to 8 and 9 to 11: long ago, so to speak."""
    author.set({"risk.max_order_attempts": 4}, reason="forgotten")
    author.set({"risk.max_order_attempts": 5, "trading.score_threshold": "0.8"}, idempotency_key="old")
    author.activate(author.draft("lane/a", {"fast_bars": 3}).id)
    author.activate(author.draft("lane/b", {"fast_bars": 4}).id)
    author.retire("lane/b")
    author.set({"risk.max_order_attempts": 6})
    rows = psql.execute("SELECT clock_timestamp()").fetchall()
    author.set({"risk.max_order_attempts": 7}, idempotency_key="new")
    author.set({"lane/a.fast_bars": 5})
    author.retire("lane/a")
    instant: datetime = rows[0][0]
    return instant


def prune_all(url: str) -> Pruned:
    """Everything that is not in force."""
    with connected(url) as connection, connection.begin():
        return prune(connection, PLACE, timedelta(0))


def prune_to(psql: Psql, instant: datetime) -> None:
    psql.execute(PRUNE_TO, [instant])


def test_what_held_since_the_cut_is_all_there(author: Author, psql: Psql, cut: datetime) -> None:
    then = {revision: contents(psql, revision) for revision in range(8, 12)}
    rows = len(author.versions("risk", 100))
    prune_to(psql, cut)
    assert {revision: contents(psql, revision) for revision in range(8, 12)} == then
    assert psql.execute("SELECT array_agg(revision ORDER BY 1) FROM configbus.release").fetchone() == (
        [1, 2, 4, 5, 7, 8, 9, 10, 11],
    ), "those below 8 hold what nothing replaced until then"
    assert len(author.versions("risk", 100)) == rows - 3
    author.rollback(to=8, all=True)
    assert contents(psql) == then[8]
    assert author.rollback(["lane/b"], to=cut).blocks == ()


def test_what_was_before_is_refused_by_name(author: Author, psql: Psql, cut: datetime) -> None:
    prune_to(psql, cut)
    before = everything(psql)
    pruned = r"revision 4 of production was pruned; the oldest that is known in full is 8, of 20..-"
    for attempt in (
        lambda: author.rollback(["risk"], to=4),
        lambda: author.rollback(to=4, all=True),
        lambda: author.diff("risk", 4),
        lambda: author.release(4),
    ):
        with pytest.raises(UnknownRevision, match=pruned):
            attempt()
    with pytest.raises(UnknownRevision, match=r"revision 7 of production was pruned"):
        author.rollback(["risk"], to=author.history("lane/b")[0].released_at)
    with pytest.raises(UnknownRevision, match="what revision 8 changed is not known any more"):
        author.release(8)
    assert everything(psql) == before
    assert author.release(9).blocks == {"risk": {"max_order_attempts": (6, 7)}}
    assert author.diff("risk", 8) == {"max_order_attempts": (6, 7)}


def test_history_of_a_block_says_where_it_begins(author: Author, psql: Psql, cut: datetime) -> None:
    prune_to(psql, cut)
    told = [(entry.revision, entry.changes, entry.pruned) for entry in author.history("risk")]
    assert told == [(9, {"max_order_attempts": (6, 7)}, False), (8, {}, True)]
    assert [(entry.revision, entry.retired) for entry in author.history("lane/b")] == [(7, True)]


def test_it_is_told_in_the_audit_log_and_rows_leave_no_line_each(author: Author, psql: Psql, cut: datetime) -> None:
    before = author.audit(limit=1000)
    psql.execute("SELECT set_config('configbus.actor', 'olga', false)")
    prune_to(psql, cut)
    line, *rest = author.audit(limit=1000)
    assert (line.action, line.block, line.performed_by) == ("prune", "environment", "olga")
    assert line.new is not None
    assert (line.new["pruned"], line.new["releases"], line.new["calls"]) == (8, 2, 1)
    assert line.new["lines"] == len(before) - len(rest)
    assert not any(entry.reason == "forgotten" for entry in rest)
    assert [entry for entry in before if entry in rest] == rest, "the rest is as it was"
    assert not any(entry.action == "delete" for entry in rest)


def test_twice_is_once_and_a_later_cut_takes_what_is_older_now(
    author: Author, psql: Psql, cut: datetime, sample_database_url: str
) -> None:
    prune_to(psql, cut)
    before = everything(psql)
    prune_to(psql, cut)
    assert everything(psql) == before
    found = prune_all(sample_database_url)
    assert (found.revision, found.releases) == (11, 3)
    assert author.verify_chain().broken == ()
    assert author.history("risk")[0].revision == 9, "the newest entry of each block stays"
    assert prune_all(sample_database_url) == Pruned(11, 0, 0, 0, 0)


@pytest.mark.usefixtures("cut")
def test_a_key_counts_on_where_it_was(author: Author, sample_database_url: str) -> None:
    prune_all(sample_database_url)
    assert author.draft("lane/a").version == 3
    assert author.draft("lane/b").version == 2


def test_of_archived_rows_the_highest_version_that_was_live_stays(
    author: Author, psql: Psql, sample_database_url: str
) -> None:
    for number in (4, 5, 6):
        author.set({"risk.max_order_attempts": number})
    author.activate(author.draft("lane/a", {"fast_bars": 3}).id)
    author.set({"lane/a.fast_bars": 4})
    author.draft("risk", {"max_order_attempts": 9})
    psql.execute("UPDATE configbus.risk_config SET status = 'archived' WHERE status = 'draft'")
    author.retire("lane/a")
    prune_all(sample_database_url)
    left = "SELECT version FROM configbus.{} WHERE status = 'archived'"
    assert psql.execute(left.format("lane_config").encode()).fetchall() == [(2,)]
    assert psql.execute(left.format("risk_config").encode()).fetchall() == []
    assert author.versions("risk")[0].version == 4


def test_idempotency_keys_are_known_as_long_as_their_releases(author: Author, psql: Psql, cut: datetime) -> None:
    prune_to(psql, cut)
    assert author.set({"risk.max_order_attempts": 7}, idempotency_key="new").revision == 9
    assert author.set({"risk.max_order_attempts": 9}, idempotency_key="old").revision == 12


TOUCHED = {
    "an entry that was kept": (
        """UPDATE configbus.release_block SET content = content || '{"max_order_attempts": 99}'
           WHERE revision = 4 AND name = 'trading'""",
        "what held then is not what was released",
    ),
    "an entry that was kept, gone": (
        "DELETE FROM configbus.release_block WHERE name = 'lane/b'",
        "what held then is not what was released",
    ),
    "the digest of an entry that was kept": (
        "UPDATE configbus.release_block SET digest = repeat('0', 32) WHERE revision = 4 AND name = 'trading'",
        "it is not what was released",
    ),
    "an entry that was kept, moved into its envelope": (
        """UPDATE configbus.release_block SET envelope = envelope || content, content = NULL
           WHERE revision = 4 AND name = 'trading'""",
        "it is not what was released",
    ),
    "who made a release that was kept": (
        "UPDATE configbus.release SET actor = 'x' WHERE revision = 5",
        "what is kept from before is not what was kept",
    ),
    "a release put in before the cut": (
        """INSERT INTO configbus.release SELECT (r).* FROM (SELECT jsonb_populate_record(r, '{"revision": 6}') AS r
               FROM configbus.release AS r WHERE revision = 5) AS made;
           INSERT INTO configbus.release_block
               SELECT (b).* FROM (SELECT jsonb_populate_record(b, '{"revision": 6}') AS b
               FROM configbus.release_block AS b WHERE revision = 8 AND name = 'risk') AS made""",
        "what is kept from before is not what was kept",
    ),
    "the release at the cut": (
        "UPDATE configbus.release SET actor = 'x' WHERE revision = 8",
        "it is not what was released",
    ),
    "the release at the cut, with its hash": (
        """UPDATE configbus.release SET actor = 'x' WHERE revision = 8;
           UPDATE configbus.release AS r SET chain = configbus.chain_of(r) WHERE revision = 8""",
        "what is kept from before is not what was kept",
    ),
    "the line that tells of it": (
        "DELETE FROM configbus.config_audit_log WHERE action = 'prune'",
        "what came before it is gone, and the audit log does not tell of it",
    ),
    "the cut": (
        "UPDATE configbus.environment SET pruned = 9",
        "what came before it is gone, and the audit log does not tell of it",
    ),
    "a release after the cut": (
        "DELETE FROM configbus.release_block WHERE revision = 10; DELETE FROM configbus.release WHERE revision = 10",
        "the release before it is gone",
    ),
}


@pytest.mark.parametrize("what", TOUCHED)
def test_the_chain_still_tells_what_was_touched(what: str, author: Author, psql: Psql, cut: datetime) -> None:
    newest = author.verify_chain()
    prune_to(psql, cut)
    chain = author.verify_chain([Witness(newest.hash, "a log")])
    assert (chain.broken, chain.pruned, chain.releases) == ((), 8, 4)
    author.set({"risk.max_order_attempts": 8})
    assert author.verify_chain().broken == ()
    psql.execute(OWNER)
    statements, why = TOUCHED[what]
    for statement in statements.split(";"):
        psql.execute(statement.encode())
    assert why in [found.why for found in author.verify_chain().broken]


def test_what_was_tampered_with_is_not_pruned_away_unless_that_is_meant(
    author: Author, psql: Psql, cut: datetime
) -> None:
    psql.execute(OWNER)
    psql.execute(
        "UPDATE configbus.release_block SET content = content || '{\"max_order_attempts\": 99}' WHERE revision = 8"
    )
    psql.execute("SET session_replication_role = DEFAULT")
    before = everything(psql)
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="release 8: it is not what was released"):
        prune_to(psql, cut)
    assert everything(psql) == before
    psql.execute("SELECT configbus.prune('production', %s, true)", [cut])
    assert "what held then is not what was released" in [found.why for found in author.verify_chain().broken]


def test_nothing_is_pruned_by_a_judge_that_was_replaced_unless_that_is_meant(
    author: Author, psql: Psql, sample_database_url: str
) -> None:
    author.set({"risk.max_order_attempts": 4})
    psql.execute("""
        CREATE OR REPLACE FUNCTION configbus.broken_chain(of text)
        RETURNS TABLE (what text, number bigint, at timestamptz, why text) LANGUAGE sql STABLE
        AS $$ SELECT ''::text, 0::bigint, now(), ''::text WHERE false $$""")
    before = everything(psql)
    with pytest.raises(Conflict, match="broken_chain is not what this version of configbus makes"):
        prune_all(sample_database_url)
    assert everything(psql) == before
    with connected(sample_database_url) as connection, connection.begin():
        assert prune(connection, PLACE, timedelta(0), anyway=True).revision == 3


def test_a_clock_that_was_wrong_for_one_release_takes_nothing_younger_with_it(author: Author, psql: Psql) -> None:
    for number in (4, 5, 6):
        author.set({"risk.max_order_attempts": number})
    with psql.transaction():
        psql.execute("SET LOCAL session_replication_role = replica")
        psql.execute("UPDATE configbus.release SET released_at = '2020-01-01' WHERE revision = 5")
        psql.execute("UPDATE configbus.release AS r SET chain = configbus.chain_of(r) WHERE revision = 5")
        statement = "UPDATE configbus.release AS r SET chain_before = b.chain FROM configbus.release AS b"
        psql.execute(f"{statement} WHERE r.revision = b.revision + 1")
        psql.execute("UPDATE configbus.release AS r SET chain = configbus.chain_of(r) WHERE revision > 5")
    assert author.verify_chain().broken == ()
    rows = psql.execute("SELECT * FROM configbus.prune('production', now() - interval '90 days')").fetchall()
    assert rows == [(0, 0, 0, 0, 0, 0)]


def test_activating_a_draft_from_before_the_cut_still_says_what_it_undoes(
    author: Author, sample_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    draft = author.draft("risk", {"max_drawdown_pct": 15})
    author.set({"risk.max_order_attempts": 5})
    prune_all(sample_database_url)
    author.activate(draft.id)
    assert any("activation_undoes" in r.message and "max_order_attempts" in r.message for r in caplog.records)


def test_a_hash_from_before_the_cut_is_not_known_any_more(author: Author, psql: Psql) -> None:
    noted = author.verify_chain().hash
    author.set({"risk.max_order_attempts": 4})
    author.set({"risk.max_order_attempts": 5})
    prune_to(psql, psql.execute("SELECT clock_timestamp()").fetchall()[0][0])
    (found,) = author.verify_chain([Witness(noted, "a log")]).broken
    assert found.why == "none from revision 4 on, where history begins has the hash of a log"


@pytest.mark.usefixtures("cut")
def test_an_owner_who_does_not_prune_is_refused_as_ever(psql: Psql) -> None:
    before = everything(psql)
    for statement in (
        "DELETE FROM configbus.release_block WHERE revision = 1",
        "DELETE FROM configbus.config_audit_log",
        "DELETE FROM configbus.audit_line",
        "TRUNCATE configbus.config_audit_log",
        "SET configbus.pruning = 'on'; TRUNCATE configbus.config_audit_log",
    ):
        with pytest.raises(errors.IntegrityConstraintViolation):
            psql.execute(statement.encode())
    psql.execute("SET configbus.pruning = ''")
    with pytest.raises(errors.InvalidParameterValue, match="not in the past"):
        psql.execute("SELECT configbus.prune('production', now() + interval '1 day')")
    assert everything(psql) == before


def test_who_is_not_the_owner_can_neither_prune_nor_delete_unseen(
    author: Author, psql: Psql, cut: datetime, sample_database_url: str
) -> None:
    role = psycopg.sql.Identifier(f"clerk_{revision_of(psql)}_{id(psql)}")
    psql.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        for grant in (
            "USAGE ON SCHEMA configbus",
            "SELECT ON ALL TABLES IN SCHEMA configbus",
            "DELETE ON configbus.risk_config",
        ):
            psql.execute(psycopg.sql.SQL(f"GRANT {grant} TO {{}}").format(role))
        with psycopg.connect(sample_database_url, autocommit=True) as clerk:
            clerk.execute(psycopg.sql.SQL("SET SESSION AUTHORIZATION {}").format(role))
            with pytest.raises(errors.InsufficientPrivilege):
                prune_to(clerk, cut)
            clerk.execute("SET configbus.pruning = 'on'")
            deleted = clerk.execute("DELETE FROM configbus.risk_config WHERE status = 'archived'").rowcount
        assert sum(entry.action == "delete" for entry in author.audit(limit=100)) == deleted > 0
    finally:
        psql.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def test_a_rollback_that_waits_while_its_goal_is_pruned_does_nothing(
    psql: Psql, cut: datetime, sample_database_url: str
) -> None:
    raised: list[Exception] = []

    def roll_back() -> None:
        with author_of(sample_database_url) as other:
            try:
                other.rollback(to=5, all=True)
            except UnknownRevision as error:
                raised.append(error)

    with psycopg.connect(sample_database_url) as holder:
        holder.execute("SELECT FROM configbus.risk_config WHERE status = 'active' FOR UPDATE")
        thread = threading.Thread(target=roll_back)
        thread.start()
        until(lambda: psql.execute(WAITING).fetchall() == [(1,)])
        prune_to(psql, cut)
    thread.join()
    assert "revision 5 of production was pruned" in str(raised[0])
    assert revision_of(psql) == 11


def test_authors_go_on_while_history_is_pruned(author: Author, psql: Psql, sample_database_url: str) -> None:
    def work(number: int) -> None:
        with author_of(sample_database_url, actor=f"author{number}") as other:
            for turn in range(15):
                other.set({f"risk.{('max_order_attempts', 'drawdown_lookback_days')[number]}": 3 + turn % 5})

    threads = [threading.Thread(target=work, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        psql.execute("SELECT configbus.prune('production', now())")
    for thread in threads:
        thread.join()
    assert author.verify_chain().broken == ()
    assert revision_of(psql) >= 25


@pytest.mark.parametrize("behind", [1, 3], ids=["at one that was kept", "at one that is gone"])
def test_redis_that_holds_something_older_is_brought_up(
    behind: int, published: Settings, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "configbus")
    offline = replace(published, redis_url=None)
    with ConfigBus.connect(redis_url=redis_url, environment="production") as bus, Author(offline) as author:
        author.set({"risk.max_order_attempts": 4, "trading.score_threshold": "0.8"})
        author.set({"risk.max_order_attempts": 5})
        if behind == 3:
            Relay(published, threading.Event()).bring_up()
        author.set({"risk.max_order_attempts": 6})
        assert prune_all(published.require("database_url")).revision == 4
        caplog.clear()
        epoch = bus.epoch
        with running_relay(published):
            until(lambda: bus.get("risk.max_order_attempts") == 6)
            assert bus.epoch == epoch
            how = "release_published" if behind == 3 else "state_laid_down"
            until(lambda: [r for r in caplog.records if "release_published" in r.message or "laid_down" in r.message])
            (told,) = [r for r in caplog.records if "release_published" in r.message or "laid_down" in r.message]
            assert how in told.message, "4 follows on 3; 2 is not known in full any more"
            author.set({"risk.max_order_attempts": 7})
            until(lambda: bus.get("risk.max_order_attempts") == 7 and bus.state == "live")
        assert bus.get("trading.score_threshold") == Decimal("0.8")


def test_a_worker_starts_from_a_postgres_that_was_pruned(published: Settings) -> None:
    with Author(published) as author:
        author.set({"risk.max_order_attempts": 4})
        prune_all(published.require("database_url"))
    servers: dict[str, Any] = {"redis_url": "redis://127.0.0.1:1/0", "database_url": published.database_url}
    with ConfigBus.connect(**servers, environment="production") as bus:
        assert bus.get("risk.max_order_attempts") == 4
