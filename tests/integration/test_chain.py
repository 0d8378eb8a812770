"""The chain of hashes: whoever touches history is found out, and what was touched is named."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from relays import running_relay
from waiting import until

from configbus.author import Author
from configbus.store.chain import Witness
from configbus.wire import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.settings import Settings

KEYS = Keys("configbus", "production")


@pytest.fixture
def history(published: Settings) -> Iterator[Author]:
    """An author, after a day's work: revisions 1 to 6."""
    with Author(published) as author:
        author.set({"risk.max_order_attempts": 4}, reason="one")
        draft = author.draft("trading", {"max_slippage_exit_bps": 180})
        author.set({"risk.max_order_attempts": 5, "trading.max_slippage_entry_bps": 77})
        author.activate(draft.id)
        author.rollback(["risk"], to=2)
        with psycopg.connect(published.require("database_url")) as plain:
            plain.execute("UPDATE configbus.risk_config SET max_order_attempts = 8 WHERE status = 'active'")
        yield author


@pytest.fixture
def owner(published: Settings) -> Iterator[psycopg.Connection[Any]]:
    """Who can switch every trigger off."""
    with psycopg.connect(published.require("database_url"), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


def test_what_was_written_fits_and_the_newest_hash_is_in_redis_and_in_the_log(
    history: Author, published: Settings, caplog: pytest.LogCaptureFixture, redis_url: str
) -> None:
    caplog.set_level("INFO", "configbus")
    history.draft("risk", {"max_order_attempts": 9})
    chain = history.verify_chain()
    assert (chain.revision, chain.releases, chain.broken) == (6, 6, ())
    assert chain.lines == len(history.audit(limit=1000))
    with running_relay(published):
        until(lambda: any(chain.hash in record.message for record in caplog.records))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.hget(KEYS.head, "chain") == chain.hash
    earlier = chain.hash
    history.set({"risk.max_order_attempts": 3})
    chain = history.verify_chain([Witness(earlier, "a log")])
    assert (chain.revision, chain.broken) == (7, ())
    assert chain.hash != earlier


TOUCHED = {
    "a line changed": (
        """UPDATE configbus.config_audit_log SET performed_by = 'somebody else'
           WHERE reason = 'one' AND action = 'activate'""",
        "line",
        "it is not what was written",
    ),
    "a line changed, with its digest": (
        """UPDATE configbus.config_audit_log SET performed_by = 'x' WHERE reason = 'one' AND action = 'activate';
           UPDATE configbus.audit_line AS h SET digest = configbus.line_digest(l)
           FROM configbus.config_audit_log AS l WHERE l.id = h.id""",
        "release",
        "it is not what was released",
    ),
    "a line removed": (
        "DELETE FROM configbus.config_audit_log WHERE reason = 'one' AND action = 'activate'",
        "line",
        "it is gone",
    ),
    "a line put in": (
        """INSERT INTO configbus.config_audit_log (config_table, config_id, environment, key, action, performed_by)
           VALUES ('risk_config', gen_random_uuid(), 'production', '', 'update', 'nobody')""",
        "line",
        "it was put there: it has no hash",
    ),
    "a line put in before all others": (
        """INSERT INTO configbus.config_audit_log
               (id, config_table, config_id, environment, key, action, performed_by) OVERRIDING SYSTEM VALUE
           VALUES (0, 'risk_config', gen_random_uuid(), 'production', '', 'update', 'nobody')""",
        "line",
        "it was put there: it has no hash",
    ),
    "a release changed": (
        "UPDATE configbus.release SET actor = 'somebody else' WHERE revision = 3",
        "release",
        "it is not what was released",
    ),
    "a block changed": (
        """UPDATE configbus.release_block SET content = content || '{"max_order_attempts": 99}'
           WHERE revision = 3 AND name = 'risk'""",
        "release",
        "it is not what was released",
    ),
    "a block removed": (
        "DELETE FROM configbus.release_block WHERE revision = 3 AND name = 'risk'",
        "release",
        "it is not what was released",
    ),
    "a line removed, with its hash": (
        """DELETE FROM configbus.audit_line
           WHERE id IN (SELECT id FROM configbus.config_audit_log WHERE reason = 'one' AND action = 'activate');
           DELETE FROM configbus.config_audit_log WHERE reason = 'one' AND action = 'activate'""",
        "release",
        "it is not what was released",
    ),
    "a release removed": (
        "DELETE FROM configbus.release_block WHERE revision = 3; DELETE FROM configbus.release WHERE revision = 3",
        "release",
        "the release before it is gone",
    ),
    "a release changed, with its hash": (
        """UPDATE configbus.release SET actor = 'x' WHERE revision = 3;
           UPDATE configbus.release AS r SET chain = configbus.chain_of(r) WHERE revision = 3""",
        "release",
        "it does not follow the release before it",
    ),
}


@pytest.mark.parametrize("how", TOUCHED)
def test_what_was_touched_is_named(how: str, history: Author, owner: psycopg.Connection[Any]) -> None:
    statements, what, why = TOUCHED[how]
    for statement in statements.split(";"):
        owner.execute(statement.encode())
    broken = history.verify_chain().broken
    assert (what, why) in [(found.what, found.why) for found in broken], broken


APART = {
    "a digest, which the index in Redis is made of": "digest = repeat('0', 32)",
    "no digest": "digest = NULL",
    "content in the envelope, as if the block were retired": "envelope = envelope || content, content = NULL",
    "a field in the envelope": """content = content - 'max_order_attempts',
        envelope = envelope || jsonb_build_object('max_order_attempts', content -> 'max_order_attempts')""",
    "a part of the envelope in the content": """envelope = envelope - '@activated_by',
        content = content || jsonb_build_object('@activated_by', envelope -> '@activated_by')""",
    "all of the envelope in the content": "content = envelope || content, envelope = '{}'",
    "content alone": """content = content || '{"mood": 1}'""",
    "content that is none": """content = '[]', digest = configbus.digest(name, envelope || '[]')""",
}


@pytest.mark.parametrize("how", APART)
def test_parts_of_an_entry_that_do_not_fit_are_one_break(
    how: str, history: Author, owner: psycopg.Connection[Any]
) -> None:
    where = "WHERE revision = 3 AND name = 'risk'"
    owner.execute(f"UPDATE configbus.release_block SET {APART[how]} {where}".encode())  # noqa: S608  # of this table
    (found,) = history.verify_chain().broken
    assert (found.what, found.number, found.why) == ("release", 3, "it is not what was released")
    assert found.at is not None


BLIND = {
    "a judge that finds nothing": (
        "broken_chain",
        """CREATE OR REPLACE FUNCTION configbus.broken_chain(of text)
           RETURNS TABLE (what text, number bigint, at timestamptz, why text) LANGUAGE sql STABLE
           AS $$ SELECT ''::text, 0::bigint, now(), ''::text WHERE false $$""",
    ),
    "a hash that leaves somebody out": (
        "line_digest",
        """CREATE OR REPLACE FUNCTION configbus.line_digest(line configbus.config_audit_log) RETURNS text
           LANGUAGE sql STABLE AS $$ SELECT digest FROM configbus.audit_line WHERE id = line.id $$""",
    ),
    "a judge in other surroundings": (
        "chain_of",
        "ALTER FUNCTION configbus.chain_of(configbus.release) SET search_path = public, pg_catalog",
    ),
    "a judge of that name besides": (
        "digest",
        """CREATE FUNCTION configbus.digest(name varchar, fields jsonb) RETURNS text
           LANGUAGE sql AS $$ SELECT 'x' $$""",
    ),
    "no judge": ("broken_chain", "DROP FUNCTION configbus.broken_chain"),
}


@pytest.mark.parametrize("how", BLIND)
def test_who_replaces_what_judges_is_found_out(how: str, history: Author, owner: psycopg.Connection[Any]) -> None:
    name, statement = BLIND[how]
    owner.execute("UPDATE configbus.config_audit_log SET performed_by = 'x' WHERE reason = 'one'")
    owner.execute(statement.encode())
    newest = history.verify_chain([Witness("0" * 64, "a log")])
    function, witness = newest.broken
    assert (function.what, function.number, function.at) == ("function", None, None)
    assert function.why == f"{name} is not what this version of configbus makes: it says nothing of history"
    assert witness.why == "none has the hash of a log"


@pytest.mark.usefixtures("history")
def test_operators_of_somebodys_own_judge_nothing(published: Settings, owner: psycopg.Connection[Any]) -> None:
    owner.execute("UPDATE configbus.config_audit_log SET performed_by = 'x' WHERE reason = 'one'")
    for statement in (
        "CREATE SCHEMA theirs",
        "CREATE FUNCTION theirs.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'",
        "CREATE OPERATOR theirs.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = theirs.never)",
        f"ALTER DATABASE {owner.info.dbname} SET search_path = theirs, pg_catalog",
    ):
        owner.execute(statement.encode())
    with Author(published) as later:
        assert {found.why for found in later.verify_chain().broken} == {"it is not what was written"}


def test_the_first_broken_thing_comes_first(history: Author, owner: psycopg.Connection[Any]) -> None:
    for revision in (5, 3):
        owner.execute("UPDATE configbus.release SET actor = 'x' WHERE revision = %s", [revision])
    assert [found.number for found in history.verify_chain().broken] == [3, 5]


def test_an_end_that_was_cut_shows_by_a_hash_that_was_noted(history: Author, owner: psycopg.Connection[Any]) -> None:
    newest = history.verify_chain()
    owner.execute("""
        DELETE FROM configbus.config_audit_log
        WHERE id IN (SELECT id FROM configbus.audit_line WHERE revision > 4 OR revision IS NULL)""")
    owner.execute("DELETE FROM configbus.audit_line WHERE revision > 4 OR revision IS NULL")
    owner.execute("DELETE FROM configbus.release_block WHERE revision > 4")
    owner.execute("DELETE FROM configbus.release WHERE revision > 4")
    owner.execute("UPDATE configbus.environment SET revision = 4")
    assert history.verify_chain().broken == ()
    (found,) = history.verify_chain([Witness(newest.hash, "a log")]).broken
    assert found.why == "none has the hash of a log"
    (found,) = history.verify_chain([Witness(newest.hash, "Redis", newest.revision)]).broken
    assert (found.number, found.why) == (6, "it is gone, or not what Redis says")


def test_a_line_of_a_transaction_that_took_longer_is_covered_by_a_later_release(
    history: Author, published: Settings
) -> None:
    with psycopg.connect(published.require("database_url")) as slow:
        slow.execute("INSERT INTO configbus.risk_config (environment, status) VALUES ('production', 'draft')")
        history.set({"risk.max_order_attempts": 6})
        slow.commit()
    assert history.verify_chain().broken == ()
    history.set({"risk.max_order_attempts": 7})
    assert history.verify_chain().broken == ()
    with psycopg.connect(published.require("database_url")) as operator:
        assert operator.execute("SELECT count(*) FROM configbus.audit_line WHERE revision IS NULL").fetchone() == (0,)


def test_many_at_once_leave_a_chain_that_fits(history: Author, published: Settings) -> None:
    def work(number: int) -> None:
        with Author(published) as author:
            for turn in range(5):
                author.discard(author.draft("trading").id)
                author.set({"risk.max_order_attempts": 3 + (number + turn) % 6})

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = history.verify_chain()
    assert chain.broken == ()
    until(lambda: chain.revision > 6)
