"""What a history of releases keeps, whoever writes: gapless, in commit order, whole, and provable by digests."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from configbus.author import Author
from configbus.catalogue import load_catalogue
from configbus.errors import Conflict
from configbus.names import block_name
from configbus.store.connect import Place, connected
from configbus.store.releases import newest_state, releases_after
from configbus.wire import EMPTY_STATE, Mark, Release, digest_of, read_entry, xor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
Psql = psycopg.Connection[tuple[Any, ...]]

DOMAINS = ("configbus.domains", "sample_domains")
VERSION = "SELECT version FROM configbus.sample_config WHERE status = 'active'"
PLACE = Place("configbus", "production")
PARTNERS_NAMED = 32

SCORE = "UPDATE configbus.trading_config SET score_threshold = %s WHERE status = 'active'"
DRAWDOWN = "UPDATE configbus.risk_config SET max_drawdown_pct = %s WHERE status = 'active'"
NEW_LANE = "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', %s, 'active')"
ARCHIVE = "UPDATE configbus.trading_config SET status = 'archived' WHERE status = 'active'"
ACTIVATE = "INSERT INTO configbus.trading_config (environment, status, score_threshold) VALUES (%s, 'active', %s)"
IMMEDIATE = "SET CONSTRAINTS ALL IMMEDIATE"
DEFERRED = "SET CONSTRAINTS ALL DEFERRED"


def check_history(psql: Psql) -> list[tuple[str, ...]]:
    """Every promise that a history keeps, whatever was done to it; returns the names of each release."""
    (head,) = psql.execute("SELECT revision FROM configbus.environment WHERE name = 'production'").fetchall()[0]
    releases = psql.execute(
        "SELECT revision, prev, state, released_at FROM configbus.release WHERE environment = 'production'"
        " ORDER BY revision"
    ).fetchall()
    assert [revision for revision, *_ in releases] == list(range(1, head + 1))
    times = [released_at for *_, released_at in releases]
    assert times == sorted(times)

    entries: dict[int, list[list[Any]]] = {}
    for revision, *columns in psql.execute(
        "SELECT revision, name, digest, content::text, (envelope || coalesce(content, '{}'))::text,"
        " ARRAY(SELECT key FROM jsonb_each(envelope || coalesce(content, '{}'))),"
        " ARRAY(SELECT value::text FROM jsonb_each(envelope || coalesce(content, '{}')))"
        " FROM configbus.release_block WHERE environment = 'production' ORDER BY revision, name"
    ):
        entries.setdefault(revision, []).append(columns)

    state, told = EMPTY_STATE, []
    live: dict[str, str | None] = {}
    digests: dict[str, str] = {}
    for revision, prev, sealed, _ in releases:
        assert prev == state
        names = tuple(name for name, *_ in entries[revision])
        for name, digest, content, text, fields, values in entries[revision]:
            assert digest == digest_of(name, text)
            entry = read_entry(name, dict(zip(fields, values, strict=True)))
            assert (entry.text, entry.mark) == (text, Mark(revision, digest))
            others = tuple(other for other in names if other != name)
            assert entry.partners == (others if len(others) <= PARTNERS_NAMED else "*")
            assert entry.retired == (content is None)
            live[name], digests[name] = content, digest
        state = xor(EMPTY_STATE, digests.values())
        assert sealed == state
        told.append(names)
    assert {name: content for name, content in live.items() if content is not None} == active_rows(psql)
    return told


def active_rows(psql: Psql) -> dict[str, str]:
    found: dict[str, str] = {}
    for domain in load_catalogue(DOMAINS):
        query = sql.SQL(
            "SELECT key, configbus.content(t)::text FROM configbus.{} AS t"
            " WHERE status = 'active' AND environment = 'production'"
        ).format(sql.Identifier(domain.table))
        found |= {block_name(domain.name, key): content for key, content in psql.execute(query)}
    return found


def content_of(psql: Psql, name: str) -> Any:
    """The newest content that was released of a block."""
    query = "SELECT content FROM configbus.release_block WHERE name = %s ORDER BY revision DESC LIMIT 1"
    return psql.execute(query, [name]).fetchall()[0][0]


def together(work: Callable[[int], T], count: int) -> list[T]:
    """What `work` returns for 0, 1, 2 ..., each in a thread of its own, begun at the same moment."""
    barrier = Barrier(count)

    def begin(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


@pytest.fixture
def authors(sample_database_url: str) -> Iterator[Callable[[], Author]]:
    made: list[Author] = []

    def make() -> Author:
        made.append(
            Author.connect(actor="ana", database_url=sample_database_url, environment="production", domains=DOMAINS)
        )
        return made[-1]

    yield make
    for author in made:
        author.close()


def test_sixteen_writers_leave_revisions_without_gap_in_commit_order(
    psql: Psql, sample_database_url: str, authors: Callable[[], Author]
) -> None:
    rounds = 12

    def raw(writer: int) -> list[str]:
        """Locks rows sorted by block name, as an author does; every third transaction is rolled back."""
        chance = random.Random(writer)  # noqa: S311  # to be repeatable, not secret
        kept = []
        with psycopg.connect(sample_database_url) as connection:
            for number in range(rounds):
                reason = f"raw {writer} {number}"
                connection.execute("SELECT set_config('configbus.reason', %s, true)", [reason])
                value = Decimal(writer * rounds + number + 1) / 1000
                kinds = chance.sample(("lane", "risk", "trading"), chance.randint(1, 3))
                if "lane" in kinds:
                    connection.execute(NEW_LANE, [f"w{writer}-{number}"])
                if "risk" in kinds:
                    take(connection, "SELECT id FROM configbus.risk_config WHERE status = 'active' FOR UPDATE")
                    connection.execute(DRAWDOWN, [value * 10])
                if "trading" in kinds:
                    take(connection, "SELECT id FROM configbus.trading_config WHERE status = 'active' FOR UPDATE")
                    if number % 2:
                        connection.execute(ARCHIVE)
                        connection.execute(ACTIVATE, ["production", value])
                    else:
                        connection.execute(SCORE, [value])
                if number % 3 == 2:
                    connection.rollback()
                else:
                    connection.commit()
                    kept.append(reason)
                seen_without_gap(connection)
        return kept

    def author(writer: int) -> list[str]:
        kept = []
        mine = authors()
        for number in range(rounds):
            reason = f"author {writer} {number}"
            value = writer * rounds + number + 1
            changes = {"trading.max_slippage_entry_bps": value, "risk.drawdown_lookback_days": value}
            mine.set(dict([*changes.items()][: 1 + number % 2]), reason=reason)
            kept.append(reason)
        return kept

    reasons_by_writer = together(lambda number: raw(number) if number < 8 else author(number - 8), 16)
    committed = [reason for reasons in reasons_by_writer for reason in reasons]

    check_history(psql)
    reasons = psql.execute("SELECT reason FROM configbus.release WHERE reason <> 'migrate'").fetchall()
    assert sorted(reason for (reason,) in reasons) == sorted(committed)


def take(connection: Psql, query: LiteralString) -> None:
    """Locks the active row; one that another writer replaced while we waited is not it any more."""
    while not connection.execute(query).fetchall():
        pass


def seen_without_gap(connection: Psql) -> None:
    """Whoever sees a release sees all before it: that is what commit order means to a reader."""
    ((count, newest),) = connection.execute("SELECT count(*), max(revision) FROM configbus.release").fetchall()
    assert count == newest
    connection.rollback()


def test_sixty_four_simultaneous_sets_of_one_block_all_succeed_or_conflict(
    psql: Psql, authors: Callable[[], Author]
) -> None:
    before = len(check_history(psql))

    def attempt(value: int) -> Release | Conflict:
        try:
            return authors().set({"trading.max_slippage_exit_bps": 1000 + value})
        except Conflict as conflict:
            return conflict

    outcomes = together(attempt, 64)
    released = [outcome.revision for outcome in outcomes if isinstance(outcome, Release)]
    assert sorted(released) == list(range(before + 1, before + 1 + len(released)))
    assert released
    assert check_history(psql)[before:] == [("trading",)] * len(released)
    assert psql.execute("SELECT count(*) FROM configbus.trading_config WHERE status = 'active'").fetchall() == [(1,)]


def test_writers_of_overlapping_pairs_in_any_order_meet_no_deadlock(psql: Psql, authors: Callable[[], Author]) -> None:
    paths = {
        "lane/a": "lane/a.slow_bars",
        "lane/b": "lane/b.slow_bars",
        "risk": "risk.drawdown_lookback_days",
        "trading": "trading.max_slippage_exit_bps",
    }
    psql.execute(NEW_LANE, ["a"])
    psql.execute(NEW_LANE, ["b"])
    before = len(check_history(psql))
    pairs = [("trading", "lane/a"), ("lane/a", "trading"), ("lane/b", "risk"), ("risk", "lane/b")]
    pairs += [("trading", "risk"), ("lane/b", "lane/a"), ("risk", "lane/a"), ("trading", "lane/b")]

    def attempt(writer: int) -> list[Release | Conflict]:
        author, outcomes = authors(), list[Release | Conflict]()
        for number in range(10):
            value = 100 + writer * 10 + number
            try:
                outcomes.append(author.set({paths[name]: value for name in pairs[writer]}))
            except Conflict as conflict:
                outcomes.append(conflict)
        return outcomes

    attempts = together(attempt, 8)
    told = check_history(psql)
    released = [outcome for outcomes in attempts for outcome in outcomes if isinstance(outcome, Release)]
    assert sorted(outcome.revision for outcome in released) == list(range(before + 1, len(told) + 1))
    assert all(told[outcome.revision - 1] == outcome.blocks for outcome in released)
    assert {tuple(sorted(pair)) for pair in pairs} == {outcome.blocks for outcome in released}
    for table in ("trading_config", "risk_config", "lane_config"):
        query = sql.SQL("SELECT key, count(*) FROM configbus.{} WHERE status = 'active' GROUP BY key")
        rows = psql.execute(query.format(sql.Identifier(table))).fetchall()
        assert {count for _, count in rows} == {1}


def test_an_author_that_met_a_deadlock_with_raw_sql_tries_again(
    psql: Psql, sample_database_url: str, authors: Callable[[], Author]
) -> None:
    psql.execute(NEW_LANE, ["a"])
    before = len(check_history(psql))
    ((database,),) = psql.execute("SELECT current_database()").fetchall()
    psql.execute(sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '10ms'").format(sql.Identifier(database)))
    other_order, blocker = (psycopg.connect(sample_database_url) for _ in range(2))
    with other_order, blocker, ThreadPoolExecutor() as pool:
        other_order.execute("SET deadlock_timeout = '1min'")
        blocker.execute(DRAWDOWN, [11])
        changes = {"lane/a.fast_bars": 3, "risk.drawdown_lookback_days": 3, "trading.max_slippage_exit_bps": 3}
        author = pool.submit(authors().set, changes)
        until_waiting(psql, 1)
        other_order.execute(SCORE, ["0.1"])
        raw = pool.submit(other_order.execute, "UPDATE configbus.lane_config SET slow_bars = 99")
        until_waiting(psql, 2)
        blocker.commit()
        raw.result()
        other_order.commit()
        release = author.result()
    assert check_history(psql)[before:] == [("risk",), ("lane/a", "trading"), ("lane/a", "risk", "trading")]
    assert release.revision == before + 3
    assert content_of(psql, "lane/a")["slow_bars"] == 99


def until_waiting(psql: Psql, count: int) -> None:
    """Returns when so many sessions of this database wait for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND wait_event <> 'advisory'"
    )
    while psql.execute(query).fetchall() != [(count,)]:
        pass


def test_a_writer_whose_snapshot_is_too_old_fails_and_leaves_no_gap(psql: Psql, sample_database_url: str) -> None:
    before = len(check_history(psql))
    with psycopg.connect(sample_database_url) as late:
        late.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        late.execute(DRAWDOWN, [11])
        psql.execute(SCORE, ["0.1"])
        with pytest.raises(psycopg.errors.SerializationFailure):
            late.commit()
    psql.execute(SCORE, ["0.2"])
    assert check_history(psql)[before:] == [("trading",), ("trading",)]


def test_one_transaction_over_domains_is_one_release(psql: Psql) -> None:
    before = len(check_history(psql))
    with psql.transaction():
        psql.execute(SCORE, ["0.1"])
        psql.execute(DRAWDOWN, [11])
        psql.execute(SCORE, ["0.2"])
        psql.execute(NEW_LANE, ["a"])
    assert check_history(psql)[before:] == [("lane/a", "risk", "trading")]
    assert content_of(psql, "trading")["score_threshold"] == "0.200"


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("again", [None, 1, 2])
def test_a_transaction_is_one_release_wherever_constraints_become_immediate(
    psql: Psql, at: int, again: int | None
) -> None:
    before = len(check_history(psql))
    statements: list[tuple[LiteralString, list[Any]]] = [
        (DRAWDOWN, [11]),
        (SCORE, ["0.1"]),
        (DRAWDOWN, [12]),
        (NEW_LANE, ["a"]),
        (SCORE, ["0.2"]),
    ]
    statements.insert(at, (IMMEDIATE, []))
    if again:
        statements.insert(at + again, (DEFERRED, []))
    with psql.transaction():
        for statement, values in statements:
            psql.execute(statement, values)
    assert check_history(psql)[before:] == [("lane/a", "risk", "trading")]
    assert content_of(psql, "trading")["score_threshold"] == "0.200"
    assert content_of(psql, "risk")["max_drawdown_pct"] == "12.00"


@pytest.mark.parametrize("mode", [IMMEDIATE, DEFERRED])
def test_what_was_rolled_back_to_a_savepoint_is_in_no_release(psql: Psql, mode: LiteralString) -> None:
    before = len(check_history(psql))
    with psql.transaction():
        psql.execute(SCORE, ["0.1"])
        with psql.transaction() as part:
            psql.execute(DRAWDOWN, [11])
            psql.execute(NEW_LANE, ["a"])
            psql.execute(SCORE, ["0.2"])
            psql.execute(mode)
            raise psycopg.Rollback(part)
        psql.execute(mode)
        with psql.transaction():
            psql.execute(NEW_LANE, ["b"])
    assert check_history(psql)[before:] == [("lane/b", "trading")]
    assert content_of(psql, "trading")["score_threshold"] == "0.100"


@pytest.mark.parametrize("mode", [IMMEDIATE, DEFERRED])
def test_a_transaction_whose_parts_were_all_rolled_back_makes_no_release(psql: Psql, mode: LiteralString) -> None:
    before = len(check_history(psql))
    with psql.transaction(), psql.transaction() as part:
        psql.execute(SCORE, ["0.1"])
        psql.execute(mode)
        raise psycopg.Rollback(part)
    assert len(check_history(psql)) == before
    psql.execute(SCORE, ["0.2"])
    assert check_history(psql)[before:] == [("trading",)]


@pytest.mark.parametrize("mode", [IMMEDIATE, DEFERRED])
def test_a_rolled_back_transaction_leaves_nothing_at_all(psql: Psql, mode: LiteralString) -> None:
    def everything() -> list[tuple[Any, ...]]:
        return psql.execute(
            "SELECT (SELECT revision FROM configbus.environment), (SELECT count(*) FROM configbus.release),"
            " (SELECT count(*) FROM configbus.release_block), (SELECT count(*) FROM configbus.config_audit_log),"
            " (SELECT count(*) FROM configbus.trading_config), (SELECT max(updated_at) FROM configbus.trading_config)"
        ).fetchall()

    before, releases = everything(), check_history(psql)
    with psql.transaction() as whole:
        psql.execute(SCORE, ["0.1"])
        psql.execute(mode)
        psql.execute(ARCHIVE) if mode == DEFERRED else None
        psql.execute(ACTIVATE, ["production", "0.2"]) if mode == DEFERRED else None
        raise psycopg.Rollback(whole)
    assert everything() == before
    psql.execute(SCORE, ["0.3"])
    assert check_history(psql) == [*releases, ("trading",)]


@pytest.mark.parametrize("end", ["commit", IMMEDIATE])
def test_archive_and_activate_in_two_statements_is_one_release(psql: Psql, end: LiteralString) -> None:
    before = len(check_history(psql))
    with psql.transaction():
        psql.execute(ARCHIVE)
        psql.execute(ACTIVATE, ["production", "0.2"])
        if end != "commit":
            psql.execute(end)
    assert check_history(psql)[before:] == [("trading",)]
    assert content_of(psql, "trading")["score_threshold"] == "0.200"


def test_deleting_and_replacing_the_active_row_is_one_release(psql: Psql) -> None:
    before = len(check_history(psql))
    with psql.transaction():
        psql.execute("DELETE FROM configbus.trading_config WHERE status = 'active'")
        psql.execute(ACTIVATE, ["production", "0.2"])
    assert check_history(psql)[before:] == [("trading",)]


def test_a_value_set_and_set_back_in_one_transaction_is_released_as_it_was(psql: Psql) -> None:
    content = content_of(psql, "trading")
    with psql.transaction():
        psql.execute(SCORE, ["0.1"])
        psql.execute(IMMEDIATE)
        psql.execute(SCORE, [content["score_threshold"]])
    check_history(psql)
    assert content_of(psql, "trading") == content


def test_a_keyed_block_that_came_and_went_in_one_transaction_was_never_there(psql: Psql) -> None:
    before = check_history(psql)
    with psql.transaction():
        psql.execute(NEW_LANE, ["a"])
        psql.execute("DELETE FROM configbus.lane_config")
    assert check_history(psql) == before


def test_an_update_that_changes_no_value_makes_no_release(psql: Psql) -> None:
    before = check_history(psql)
    psql.execute("UPDATE configbus.trading_config SET score_threshold = score_threshold")
    assert check_history(psql) == before


@pytest.mark.parametrize("status", ["default", "draft"])
def test_rows_that_are_not_active_make_no_release(psql: Psql, status: str) -> None:
    before = check_history(psql)
    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', %s)",
        [status],
    )
    psql.execute("UPDATE configbus.lane_config SET fast_bars = 3")
    psql.execute("DELETE FROM configbus.lane_config")
    assert check_history(psql) == before


@pytest.mark.parametrize("count", [1, 2, 33, 34, 40])
def test_blocks_of_a_release_name_their_partners_up_to_thirty_two(psql: Psql, count: int) -> None:
    names = [f"lane/k{number:02}" for number in range(count)]
    with psql.transaction():
        for name in reversed(names):
            psql.execute(NEW_LANE, [name.removeprefix("lane/")])
    assert check_history(psql)[-1] == tuple(names)
    ((partners,),) = psql.execute(
        "SELECT envelope->'@with' FROM configbus.release_block WHERE name = 'lane/k00'"
    ).fetchall()
    assert partners == (names[1:] if count <= PARTNERS_NAMED + 1 else "*")


def test_many_blocks_changed_by_one_statement_are_one_release(psql: Psql) -> None:
    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, status)"
        " SELECT 'production', 'k' || number, 'active' FROM generate_series(1, 40) AS number"
    )
    psql.execute("UPDATE configbus.lane_config SET slow_bars = slow_bars + 1")
    assert [len(names) for names in check_history(psql)[-2:]] == [40, 40]


@pytest.mark.parametrize(
    "retirement", ["DELETE FROM configbus.lane_config", "UPDATE configbus.lane_config SET status = 'archived'"]
)
def test_a_keyed_block_is_retired_and_may_return(psql: Psql, retirement: LiteralString) -> None:
    psql.execute(NEW_LANE, ["a"])
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute(retirement)
        psql.execute(SCORE, ["0.1"])
    ((content, envelope, revision),) = psql.execute(
        "SELECT content, envelope, revision FROM configbus.release_block WHERE name = 'lane/a'"
        " ORDER BY revision DESC LIMIT 1"
    ).fetchall()
    assert content is None
    assert envelope.pop("@activated_at").endswith("Z")
    assert envelope == {"@retired": True, "@activated_by": "ana", "@revision": revision, "@with": ["trading"]}
    check_history(psql)
    psql.execute(NEW_LANE, ["a"])
    assert check_history(psql)[-1] == ("lane/a",)
    assert content_of(psql, "lane/a")["fast_bars"] == 20


def test_the_envelope_tells_row_and_activation(psql: Psql) -> None:
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute("UPDATE configbus.trading_config SET name = 'calm', score_threshold = 0.1 WHERE status = 'active'")
    ((envelope,),) = psql.execute(
        "SELECT envelope FROM configbus.release_block WHERE name = 'trading' ORDER BY revision DESC LIMIT 1"
    ).fetchall()
    ((row, at, revision),) = psql.execute(
        "SELECT id::text, to_char(activated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),"
        " (SELECT revision FROM configbus.environment) FROM configbus.trading_config WHERE status = 'active'"
    ).fetchall()
    assert envelope == {
        "@id": row,
        "@name": "calm",
        "@version": 2,
        "@revision": revision,
        "@activated_at": at,
        "@activated_by": "ana",
        "@with": [],
    }


def test_release_tells_actor_reason_and_source(psql: Psql, authors: Callable[[], Author]) -> None:
    psql.execute(SCORE, ["0.1"])
    with psql.transaction():
        psql.execute("SET LOCAL configbus.actor = 'ana'")
        psql.execute("SET LOCAL configbus.reason = 'calm market'")
        psql.execute(SCORE, ["0.2"])
    authors().set({"trading.score_threshold": "0.3"}, reason="storm")
    authors().set({"trading.score_threshold": "0.4"})
    told = psql.execute("SELECT actor, reason, source FROM configbus.release ORDER BY revision DESC LIMIT 4").fetchall()
    assert told[::-1] == [
        ("database:configbus", None, "sql"),
        ("ana", "calm market", "sql"),
        ("ana", "storm", "author"),
        ("ana", None, "author"),
    ]


def test_environments_have_revisions_of_their_own_in_one_transaction(psql: Psql) -> None:
    before = len(check_history(psql))
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    with psql.transaction():
        psql.execute(ACTIVATE, ["staging", "0.1"])
        psql.execute(SCORE, ["0.2"])
    assert check_history(psql)[before:] == [("trading",)]
    assert psql.execute("SELECT revision, prev FROM configbus.release WHERE environment = 'staging'").fetchall() == [
        (1, EMPTY_STATE)
    ]


TEXTS = [
    "",
    " ",
    "\"double\" 'single' `back` \\ back\\\\slash \\u0041 \\n",
    "".join(map(chr, range(1, 32))) + "\x7f\x80\x85\xa0\u2028\u2029\ufeff",
    "Grüße 漢字 🚀 e\u0301 \U0010ffff \u200b\u202e",
    "</script> {{ }} %s $1 :x ::y @with * ? [",
]
NUMBERS = [0, -0.0, 0.1, 1e-7, 5e-324, 1.7976931348623157e308, 2**53 + 1, 10**30, -(10**300), 1.5e300]
DOCUMENTS: list[dict[str, Any]] = [
    {},
    {"": "", "a": None, "bb": [True, False, [], {}, [[{}]]]},
    {text: text for text in TEXTS},
    {f"n{place}": number for place, number in enumerate(NUMBERS)},
    {"z": 1, "aa": 2, "ä": 3, "Z": 4, "@revision": 5, "deep": {"zz": {"b": {"a": [1, {"c": "d"}]}}}},
]


@pytest.mark.parametrize("text", TEXTS)
def test_digests_of_any_text_can_be_recomputed(psql: Psql, text: str) -> None:
    psql.execute(
        "UPDATE configbus.sample_config SET note = %s, remark = %s, name = %s || 'n' WHERE status = 'active'",
        [text, text, text[:99]],
    )
    check_history(psql)
    assert content_of(psql, "sample")["note"] == text


@pytest.mark.parametrize("number", NUMBERS)
def test_digests_of_any_number_can_be_recomputed(psql: Psql, number: float) -> None:
    psql.execute("UPDATE configbus.sample_config SET free = %s", [float(number)])
    check_history(psql)
    assert float(content_of(psql, "sample")["free"]) == float(number)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_digests_of_any_document_can_be_recomputed(psql: Psql, document: dict[str, Any]) -> None:
    psql.execute("UPDATE configbus.sample_config SET document = %s, extra = %s", [Jsonb(document), Jsonb(document)])
    check_history(psql)
    query = "SELECT document = %s AND extra = %s FROM configbus.sample_config WHERE status = 'active'"
    assert psql.execute(query, [Jsonb(document), Jsonb(document)]).fetchall() == [(True,)]


def test_content_is_canonical_text_of_every_kind(psql: Psql) -> None:
    psql.execute(
        "UPDATE configbus.sample_config SET ratio = 0.1, free = 5e-324, amount = 1.5, count = -9223372036854775808,"
        " enabled = false, parent = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', since = '2026-03-29 02:30:00+02',"
        " until = '2026-12-31T23:59:59.9999995Z', document = '{\"b\": 1.10, \"a\": 1e2}'"
    )
    ((told,),) = psql.execute(
        "SELECT content::text FROM configbus.release_block WHERE name = 'sample' ORDER BY revision DESC LIMIT 1"
    ).fetchall()
    content = content_of(psql, "sample")
    assert content["parent"] == str(UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"))
    assert content["since"] == "2026-03-29T00:30:00.000000Z"
    assert content["until"] == "2027-01-01T00:00:00.000000Z"
    assert content["amount"] == "1.50000000"
    assert '"ratio": 0.1,' in told
    assert '"count": -9223372036854775808,' in told
    assert '"document": {"a": 100, "b": 1.10}' in told
    assert '"enabled": false' in told


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("TimeZone", "Asia/Kolkata"),
        ("DateStyle", "German, DMY"),
        ("extra_float_digits", "0"),
        ("bytea_output", "escape"),
        ("search_path", "pg_catalog"),
        ("standard_conforming_strings", "off"),
    ],
)
def test_content_does_not_depend_on_the_settings_of_a_session(psql: Psql, setting: str, value: str) -> None:
    psql.execute("SELECT set_config(%s, %s, false)", [setting, value])
    psql.execute("UPDATE configbus.sample_config SET free = 0.1::float8 + 0.2::float8, small = 2")
    psql.execute("RESET ALL")
    check_history(psql)
    assert content_of(psql, "sample")["since"] == "2026-01-31T12:00:00.123456Z"
    assert content_of(psql, "sample")["free"] == 0.1 + 0.2


def test_a_change_that_a_session_would_not_show_is_a_version_as_well(psql: Psql) -> None:
    before = psql.execute(VERSION).fetchall()[0][0]
    psql.execute("SET extra_float_digits = -15")
    psql.execute("UPDATE configbus.sample_config SET ratio = 0.24 WHERE status = 'active'")
    psql.execute("RESET ALL")
    check_history(psql)
    assert (content_of(psql, "sample")["ratio"], psql.execute(VERSION).fetchall()) == (0.24, [(before + 1,)])


@pytest.mark.parametrize("writer", ["sql", "author"])
def test_no_digit_of_a_decimal_is_lost(psql: Psql, authors: Callable[[], Author], writer: str) -> None:
    largest, smallest = "999999999999.99999999", "0.00000001"
    if writer == "sql":
        psql.execute(
            "UPDATE configbus.trading_config SET max_position_sol = 999999999999.99999999,"
            " min_position_sol = 0.00000001 WHERE status = 'active'"
        )
    else:
        authors().set({"trading.max_position_sol": largest, "trading.min_position_sol": smallest})
    check_history(psql)
    content = content_of(psql, "trading")
    assert (content["max_position_sol"], content["min_position_sol"]) == (largest, smallest)


def test_what_publishers_read_is_what_was_released(psql: Psql, sample_database_url: str) -> None:
    psql.execute("UPDATE configbus.sample_config SET document = %s", [Jsonb(DOCUMENTS[2])])
    psql.execute(NEW_LANE, ["a"])
    psql.execute("DELETE FROM configbus.lane_config")
    told = check_history(psql)
    with connected(sample_database_url) as connection:
        full = newest_state(connection, PLACE)
        releases = [*releases_after(connection, PLACE, full.head, 0, 2)]
        releases += releases_after(connection, PLACE, full.head, 2, len(told))
        assert releases_after(connection, PLACE, full.head, len(told), 1) == []
    assert [tuple(entry.name for entry in release.entries) for release in releases] == told
    digests: dict[str, str] = {}
    for release in releases:
        assert release.prev == xor(EMPTY_STATE, digests.values())
        digests |= {entry.name: entry.mark.digest for entry in release.entries}
        assert all(digest_of(entry.name, entry.text) == entry.mark.digest for entry in release.entries)
        assert release.head.state == xor(EMPTY_STATE, digests.values())
    assert {entry.name: entry.mark.digest for entry in full.entries} == digests
    assert full.head == releases[-1].head


def test_a_raw_edit_rings_the_bell_and_an_author_without_redis_does_so_too(
    psql: Psql, sample_database_url: str, authors: Callable[[], Author]
) -> None:
    with psycopg.connect(sample_database_url, autocommit=True) as relay:
        relay.execute("LISTEN configbus")
        psql.execute(SCORE, ["0.1"])
        authors().set({"trading.score_threshold": "0.2"})
        with psql.transaction() as whole:
            psql.execute(SCORE, ["0.3"])
            psql.execute(IMMEDIATE)
            raise psycopg.Rollback(whole)
        psql.execute("NOTIFY configbus, 'end'")
        heard = []
        for notice in relay.notifies(timeout=10):
            heard.append(notice.payload)
            if notice.payload == "end":
                break
    assert heard == ["production", "production", "end"]
