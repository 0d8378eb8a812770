"""A version from draft to archive, as authors in Python meet it: each step whole, recorded, and done once."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from authors import DOMAINS, author_of, contents, everything, gather, revision_of, run_behind_a_lock
from psycopg import sql
from sample_domains import AWKWARD

from configbus.block import Block, domain_of
from configbus.catalogue import load_catalogue
from configbus.errors import (
    ConfigBusError,
    Conflict,
    InvalidValue,
    UnknownBlock,
    UnknownEnvironment,
    UnknownField,
    UnknownVersion,
)
from configbus.store.connect import connected
from configbus.store.schema import migrate
from configbus.wire import Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authors import Psql

    from configbus.author import Author

ACTIVE_TRADING = "SELECT id FROM configbus.trading_config WHERE status = 'active' FOR UPDATE"
ACTIVE_RISK = "SELECT id FROM configbus.risk_config WHERE status = 'active' FOR UPDATE"
ACTIVE_LANE = "SELECT id FROM configbus.lane_config WHERE status = 'active' FOR UPDATE"
DRAFTS = "SELECT id FROM configbus.lane_config WHERE status = 'draft' FOR UPDATE"
NEW_LANE = (
    "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'new', 'active') RETURNING id"
)
NEWEST_AUDIT = "SELECT coalesce(max(id), 0) FROM configbus.config_audit_log"


class AliasConfig(Block, domain="alias"):
    """Fields that are called like what our SQL calls rows, columns and parameters."""

    t: int = 1
    r: int = 1
    b: int = 1
    n: int = 1
    row: int = 1
    old: int = 1
    new: int = 1
    given: int = 1
    before: int = 1
    content: int = 1
    config: int = 1
    environments: int = 1
    status_of_it: int = 1
    now: int = 1
    place: int = 1
    live: int = 1
    last: int = 1
    subject: int = 1
    block: int = 1
    revision: int = 1


class KeysConfig(Block, domain="locksmith"):
    """`dict(block)` asks any object for its `keys`."""

    keys: int = 1


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url) as author:
        yield author


@pytest.fixture
def bob(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url, actor="bob") as bob:
        yield bob


def make_lane(author: Author, key: str, **values: Any) -> Release:
    return author.activate(author.draft(f"lane/{key}", values).id)


def audited(psql: Psql, after: int) -> list[tuple[Any, ...]]:
    """Action, actor, reason, old and new values of what was audited after an id."""
    query = (
        "SELECT action, performed_by, reason, old_values, new_values FROM configbus.config_audit_log"
        " WHERE id > %s ORDER BY id"
    )
    return psql.execute(query, [after]).fetchall()


def newest_audit(psql: Psql) -> int:
    number: int = psql.execute(NEWEST_AUDIT).fetchall()[0][0]
    return number


def test_a_draft_is_a_copy_of_the_active_row_with_values_put_in(author: Author) -> None:
    author.set({"trading.max_slippage_exit_bps": 7})
    row = author.draft("trading", {"score_threshold": "0.9", "max_concurrent_positions": 6})
    assert (row.block, row.environment, row.status, row.version) == ("trading", "production", "draft", 3)
    assert (row.created_by, row.updated_by, row.activated_at, row.activated_by) == ("ana", "ana", None, None)
    changed = {"score_threshold": "0.900", "max_concurrent_positions": 6}
    assert row.content == author.active("trading").content | changed
    assert row.content["max_slippage_exit_bps"] == 7
    assert author.version(row.id) == row


def test_a_draft_changes_nothing_live_and_makes_no_release(psql: Psql, author: Author) -> None:
    before, live = everything(psql), author.active("trading")
    row = author.draft("trading", {"score_threshold": "0.9"})
    author.edit(row.id, {"score_threshold": "0.8"})
    after = everything(psql)
    assert {name for name in before if before[name] != after[name]} == {
        "trading_config",
        "config_audit_log",
        "audit_line",
    }
    assert author.active("trading") == live
    author.discard(row.id)
    assert {name for name, told in everything(psql).items() if told != before[name]} == {
        "config_audit_log",
        "audit_line",
    }


def test_a_draft_without_values_is_the_base_itself(author: Author) -> None:
    assert author.draft("trading").texts == author.active("trading").texts
    assert author.draft("trading", {}).version == 2


def test_a_draft_begins_with_the_base_that_was_asked_for(author: Author) -> None:
    first = author.active("trading")
    author.set({"trading.score_threshold": "0.8"})
    other = author.edit(author.draft("trading", {"score_threshold": "0.6"}).id, {"score_threshold": "0.5"})
    bases: dict[str | UUID | None, tuple[int, str]] = {
        None: (3, "0.800"),
        "active": (3, "0.800"),
        "default": (2, "0.700"),
        first.id: (2, "0.700"),
        first.short_id: (2, "0.700"),
        str(first.id).upper(): (2, "0.700"),
        other.id: (5, "0.500"),
    }
    for base, expected in bases.items():
        row = author.draft("trading", {"max_slippage_exit_bps": 7}, base=base)
        assert (row.version, row.content["score_threshold"]) == expected, base
        assert row.content["max_slippage_exit_bps"] == 7


def test_a_draft_of_a_key_that_holds_nothing_begins_with_the_defaults(psql: Psql, author: Author) -> None:
    for base in (None, "default"):
        row = author.draft("lane/BTC-USD", {"fast_bars": 3}, base=base)
        assert (row.block, row.version) == ("lane/BTC-USD", 1)
        defaults = load_catalogue(DOMAINS).domain("lane").model().model_dump(mode="json")
        assert row.content == defaults | {"fast_bars": 3}
    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, status, fast_bars)"
        " VALUES ('production', 'BTC-USD', 'default', 9)"
    )
    row = author.draft("lane/BTC-USD")
    assert (row.version, row.content["fast_bars"]) == (2, 9)


def test_a_draft_of_a_keyed_block_begins_with_its_active_row_or_that_of_another_key(author: Author) -> None:
    make_lane(author, "a", fast_bars=3)
    author.set({"lane/a.fast_bars": 4})
    assert (author.draft("lane/a").version, author.draft("lane/a").content["fast_bars"]) == (3, 4)
    row = author.draft("lane/b", {"slow_bars": 61}, base=author.active("lane/a").id)
    assert (row.block, row.version, row.content["fast_bars"], row.content["slow_bars"]) == ("lane/b", 3, 4, 61)


def test_values_are_put_at_nested_paths(author: Author) -> None:
    row = author.draft("lane/a", {"venue.host": "Zürich", "venue.weight": "2.50"})
    assert row.content["venue"] == {"host": "Zürich", "weight": "2.50"}
    row = author.edit(row.id, {"venue.host": "Bern"})
    assert row.content["venue"] == {"host": "Bern", "weight": "2.50"}
    deep = author.draft("sample", {"limits.venue.host": AWKWARD})
    assert deep.content["limits"] == {"soft": 10, "venue": {"host": AWKWARD, "weight": "1.0"}}


BASES: dict[str, tuple[str, str | UUID, type[Exception], str]] = {
    "active where there is none": ("lane/a", "active", UnknownBlock, r"'lane/a' has no active row in production"),
    "unknown id": ("trading", UUID(int=1), UnknownVersion, "production has no version row"),
    "no id": ("trading", "nonsense", UnknownVersion, "'nonsense' is not the id of a version row"),
    "empty": ("trading", "", UnknownVersion, "is not the id of a version row"),
}


@pytest.mark.parametrize(("block", "base", "error", "words"), BASES.values(), ids=BASES)
def test_a_base_that_is_not_there_is_refused(
    psql: Psql, author: Author, block: str, base: str | UUID, error: type[Exception], words: str
) -> None:
    before = everything(psql)
    with pytest.raises(error, match=words):
        author.draft(block, base=base)
    assert everything(psql) == before


def test_a_base_of_another_domain_is_refused(psql: Psql, author: Author) -> None:
    risk = author.active("risk")
    before = everything(psql)
    with pytest.raises(UnknownVersion, match=rf"row {risk.short_id} is one of risk, not of trading"):
        author.draft("trading", base=risk.id)
    assert everything(psql) == before


def test_a_draft_in_an_environment_that_was_never_set_up_says_so(psql: Psql, sample_database_url: str) -> None:
    before = everything(psql)
    with author_of(sample_database_url, environment="prodution") as author:
        for block in ("trading", "lane/a"):
            with pytest.raises(UnknownEnvironment, match=r"no environment 'prodution'.*did you mean 'production'"):
                author.draft(block)
    assert everything(psql) == before


def test_a_draft_has_the_name_that_it_was_given_or_one_of_its_own(author: Author) -> None:
    unnamed = author.draft("trading")
    assert unnamed.name == f"draft {unnamed.short_id}"
    for name in ("calm", AWKWARD[:100], "x" * 100, "🚀" * 100, "%s {schema} :name ' \" \\ --", "  "):
        assert author.draft("trading", name=name).name == name


def test_a_name_that_another_row_of_the_block_has_is_a_conflict(psql: Psql, author: Author) -> None:
    calm = author.draft("trading", name="calm")
    author.draft("risk", name="calm")
    make_lane(author, "a")
    author.draft("lane/a", name="calm")
    author.draft("lane/b", name="calm")
    before = everything(psql)
    for name in ("calm", "Active Configuration", "System Defaults"):
        with pytest.raises(Conflict, match="trading: another row of this block has that name; only archived rows may"):
            author.draft("trading", name=name)
    assert everything(psql) == before
    author.activate(calm.id)
    with pytest.raises(Conflict, match="has that name"):
        author.draft("trading", name="calm")
    author.activate(author.draft("trading").id)
    assert author.draft("trading", name="calm").name == "calm"


def test_a_draft_is_valid_or_it_is_not_made(psql: Psql, author: Author) -> None:
    before = everything(psql)
    with pytest.raises(InvalidValue) as refusal:
        author.draft("trading", {"score_threshold": 7, "max_concurrent_positions": "many"})
    assert {problem.path for problem in refusal.value.problems} == {
        "trading.score_threshold",
        "trading.max_concurrent_positions",
    }
    with pytest.raises(InvalidValue, match="min_position_sol must not be above max_position_sol"):
        author.draft("trading", {"min_position_sol": 5})
    with pytest.raises(InvalidValue, match="lane: breaks the rule fast_below_slow"):
        author.draft("lane/a", {"fast_bars": 60})
    with pytest.raises(UnknownField, match="did you mean 'score_threshold'"):
        author.draft("trading", {"score_treshold": "0.8"})
    assert everything(psql) == before


def test_an_edit_changes_the_fields_it_names_and_raises_the_version(author: Author, bob: Author) -> None:
    row = author.draft("trading", {"score_threshold": "0.9"})
    edited = bob.edit(row.short_id, {"max_slippage_exit_bps": 7, "score_threshold": "0.8"})
    assert (edited.id, edited.version, edited.status) == (row.id, row.version + 1, "draft")
    assert (edited.created_by, edited.updated_by) == ("ana", "bob")
    assert edited.content == row.content | {"max_slippage_exit_bps": 7, "score_threshold": "0.800"}
    assert author.version(row.id) == edited


@pytest.mark.parametrize("values", [{}, {"score_threshold": "0.90"}, {"score_threshold": Decimal("9e-1")}])
def test_an_edit_that_changes_nothing_leaves_version_and_audit_log(
    psql: Psql, author: Author, values: dict[str, Any]
) -> None:
    row = author.draft("trading", {"score_threshold": "0.9"})
    before = newest_audit(psql)
    edited = author.edit(row.id, values)
    assert (edited.version, edited.texts) == (row.version, row.texts)
    assert audited(psql, before) == []


def test_an_edit_expects_the_version_that_was_read(psql: Psql, author: Author, bob: Author) -> None:
    row = author.draft("trading", {"score_threshold": "0.9"})
    bob.edit(row.id, {"score_threshold": "0.8"}, expect=row.version)
    before = everything(psql)
    told = rf"draft {row.short_id} of trading is at version 3, and version 2 was expected; bob changed it last"
    with pytest.raises(Conflict, match=told):
        author.edit(row.id, {"max_slippage_exit_bps": 7}, expect=row.version)
    with pytest.raises(Conflict, match="version 4 was expected"):
        author.edit(row.id, {"max_slippage_exit_bps": 7}, expect=4)
    assert everything(psql) == before
    assert author.edit(row.id, {"max_slippage_exit_bps": 7}, expect=3).version == 4


def test_an_invalid_edit_leaves_the_draft_as_it_was(psql: Psql, author: Author) -> None:
    row = author.draft("trading")
    before = everything(psql)
    with pytest.raises(InvalidValue, match=r"trading\.score_threshold: .*less than or equal to 1"):
        author.edit(row.id, {"max_slippage_exit_bps": 7, "score_threshold": 2})
    with pytest.raises(UnknownField, match="did you mean 'score_threshold'"):
        author.edit(row.id, {"max_slippage_exit_bps": 7, "score_treshold": "0.8"})
    with pytest.raises(UnknownField, match="whole block"):
        author.edit(row.id, {"": 1})
    assert everything(psql) == before


def test_two_editors_at_once_lose_nothing_of_each_other(psql: Psql, author: Author, bob: Author) -> None:
    row = author.draft("lane/a")
    edits: list[Callable[[], Any]] = [
        lambda: author.edit(row.id, {"fast_bars": 3}),
        lambda: bob.edit(row.id, {"slow_bars": 61}),
    ]
    answers: list[Any] = run_behind_a_lock(psql, DRAFTS, edits)
    assert sorted(answer.version for answer in answers) == [2, 3]
    content = author.version(row.id).content
    assert (content["fast_bars"], content["slow_bars"]) == (3, 61)


def test_of_two_editors_who_expect_the_same_version_one_is_refused(psql: Psql, author: Author, bob: Author) -> None:
    row = author.draft("lane/a")
    edits: list[Callable[[], Any]] = [
        lambda: author.edit(row.id, {"fast_bars": 3}, expect=1),
        lambda: bob.edit(row.id, {"fast_bars": 4}, expect=1),
    ]
    answers: list[Any] = run_behind_a_lock(psql, DRAFTS, edits)
    first, second = answers
    assert (first.version, type(second)) == (2, Conflict)
    assert author.version(row.id).content["fast_bars"] == 3


def test_a_discarded_draft_is_gone_and_its_values_stay_in_the_audit_log(psql: Psql, author: Author) -> None:
    row = author.draft("trading", {"score_threshold": "0.9"}, name="calm")
    before = newest_audit(psql)
    assert author.discard(row.short_id) == row
    ((action, actor, _, old, new),) = audited(psql, before)
    assert (action, actor, new) == ("delete", "ana", None)
    assert old == row.content | {"name": "calm", "status": "draft", "description": None}
    with pytest.raises(UnknownVersion, match="no version row"):
        author.version(row.id)
    with pytest.raises(UnknownVersion, match="no version row"):
        author.discard(row.id)


def test_activating_a_draft_archives_what_was_active(psql: Psql, author: Author, bob: Author) -> None:
    former, head = author.active("trading"), revision_of(psql)
    row = author.draft("trading", {"score_threshold": "0.9"}, name="calm")
    before = newest_audit(psql)
    release = bob.activate(row.id, expect=row.version, reason="calm market")
    assert (release.revision, release.blocks) == (head + 1, ("trading",))
    live = author.active("trading")
    assert (live.id, live.status, live.version, live.name) == (row.id, "active", row.version, "calm")
    assert (live.texts, live.created_by, live.activated_by) == (row.texts, "ana", "bob")
    archived = author.version(former.id)
    assert (archived.status, archived.texts, archived.version) == ("archived", former.texts, former.version)
    record = author.release(release.revision)
    assert (record.actor, record.reason, record.source, record.epoch) == ("bob", "calm market", "author", release.epoch)
    assert record.blocks == {"trading": {"score_threshold": ("0.700", "0.900")}}
    told = [(action, actor, reason) for action, actor, reason, *_ in audited(psql, before)]
    assert told == [("archive", "bob", "calm market"), ("activate", "bob", "calm market")]
    assert json.loads(contents(psql)["trading"]) == row.content


def test_the_first_activation_of_a_key_makes_the_block(author: Author) -> None:
    row = author.draft("lane/a", {"fast_bars": 3})
    with pytest.raises(UnknownBlock):
        author.active("lane/a")
    assert author.activate(row.id).blocks == ("lane/a",)
    assert author.active("lane/a").id == row.id


def test_an_activation_expects_the_version_that_was_read(psql: Psql, author: Author, bob: Author) -> None:
    row = author.draft("trading", {"score_threshold": "0.9"})
    bob.edit(row.id, {"score_threshold": "0.1"})
    before = everything(psql)
    with pytest.raises(Conflict, match="is at version 3, and version 2 was expected; bob changed it last"):
        author.activate(row.id, expect=row.version)
    assert everything(psql) == before
    author.activate(row.id, expect=3)
    assert author.active("trading").content["score_threshold"] == "0.100"


@pytest.mark.parametrize("status", ["archived", "active", "default"])
@pytest.mark.parametrize("verb", ["edited", "discarded", "activated"])
def test_only_a_draft_can_be_edited_discarded_or_activated(psql: Psql, author: Author, status: str, verb: str) -> None:
    author.set({"trading.score_threshold": "0.8"})
    row = next(row for row in author.versions("trading") if row.status == status)
    calls: dict[str, Callable[[], object]] = {
        "edited": lambda: author.edit(row.id, {"score_threshold": "0.5"}),
        "discarded": lambda: author.discard(row.id),
        "activated": lambda: author.activate(row.id),
    }
    before = everything(psql)
    words = rf"row {row.short_id} of trading is {status}, and only a draft can be {verb}; .*--from {row.short_id}"
    with pytest.raises(Conflict, match=words):
        calls[verb]()
    assert everything(psql) == before


def insert_lane(psql: Psql, row: str, environment: str = "production", key: str = "a") -> None:
    psql.execute(
        "INSERT INTO configbus.lane_config (id, environment, key) VALUES (%s, %s, %s)", [row, environment, key]
    )


@pytest.mark.parametrize("verb", ["edit", "discard", "activate", "version", "draft"])
def test_an_id_that_names_no_row_or_several_is_refused(psql: Psql, author: Author, verb: str) -> None:
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    insert_lane(psql, "abcdef00-0000-4000-8000-000000000001")
    insert_lane(psql, "abcdef01-0000-4000-8000-000000000001")
    insert_lane(psql, "abcd0000-0000-4000-8000-000000000001", "staging")
    insert_lane(psql, "abce0000-0000-4000-8000-000000000001")
    insert_lane(psql, "abce0000-0000-4000-8000-000000000002", "staging")
    calls: dict[str, Callable[[str], object]] = {
        "edit": lambda given: author.edit(given, {"fast_bars": 3}),
        "discard": author.discard,
        "activate": author.activate,
        "version": author.version,
        "draft": lambda given: author.draft("lane/a", base=given),
    }
    before = everything(psql)
    for given, words in {
        "abcdef": r"2 rows begin with abcdef: abcdef0\d+, abcdef0\d+ .*give more of the id",
        "abcd0": "row abcd0 belongs to 'staging', not to 'production'",
        "abcd0000-0000-4000-8000-000000000001": "belongs to 'staging'",
        "abcdef02": "production has no version row 'abcdef02'",
        str(uuid4()): "production has no version row",
    }.items():
        with pytest.raises(UnknownVersion, match=words):
            calls[verb](given)
    assert everything(psql) == before
    calls[verb]("abce")


def test_a_draft_that_raw_sql_made_invalid_is_not_activated_until_it_is_mended(psql: Psql, author: Author) -> None:
    row = author.draft("sample", {"small": 2})
    psql.execute(
        'UPDATE configbus.sample_config SET tags = \'[1, "a"]\', limits = \'{"soft": "x"}\' WHERE id = %s', [row.id]
    )
    before = everything(psql)
    for attempt in (lambda: author.activate(row.id), lambda: author.edit(row.id, {"small": 3})):
        with pytest.raises(InvalidValue) as refusal:
            attempt()
        assert {problem.path for problem in refusal.value.problems} == {"sample.tags.0", "sample.limits.soft"}
    assert everything(psql) == before
    author.edit(row.id, {"tags": ["a"], "limits": {}})
    author.activate(row.id)
    assert author.active("sample").content["tags"] == ["a"]


def test_a_draft_that_raw_sql_gave_a_field_that_is_unknown_is_not_activated(psql: Psql, author: Author) -> None:
    row = author.draft("lane/a")
    psql.execute('UPDATE configbus.lane_config SET venue = \'{"hots": "x"}\' WHERE id = %s', [row.id])
    with pytest.raises(InvalidValue, match=r"lane/a\.venue\.hots: .*did you mean 'host'"):
        author.activate(row.id)
    assert author.version(row.id).status == "draft"


def test_retiring_archives_the_active_row_without_a_successor(psql: Psql, author: Author, bob: Author) -> None:
    make_lane(author, "a", fast_bars=3)
    make_lane(author, "b")
    former, head, before = author.active("lane/a"), revision_of(psql), newest_audit(psql)
    release = bob.retire("lane/a", reason="closed")
    assert (release.revision, release.blocks) == (head + 1, ("lane/a",))
    assert author.version(former.id).status == "archived"
    assert contents(psql).keys() & {"lane/a", "lane/b"} == {"lane/b"}
    assert [(entry[0], entry[1], entry[2]) for entry in audited(psql, before)] == [
        ("archive", "bob", "closed"),
        ("retire", "bob", "closed"),
    ]
    record = author.release(release.revision)
    assert (record.actor, record.reason, record.retired) == ("bob", "closed", ("lane/a",))
    make_lane(author, "a", fast_bars=4)
    assert author.active("lane/a").content["fast_bars"] == 4


def test_what_cannot_be_retired_is_refused(psql: Psql, author: Author) -> None:
    make_lane(author, "alpha")
    make_lane(author, "gone")
    author.retire("lane/gone")
    author.draft("lane/drafted")
    before = everything(psql)
    with pytest.raises(Conflict, match="'trading' has no keys and always has an active row: only a keyed block"):
        author.retire("trading")
    for key in ("gone", "drafted", "never"):
        with pytest.raises(UnknownBlock, match=f"'lane/{key}' has no active row in production"):
            author.retire(f"lane/{key}")
    with pytest.raises(UnknownBlock, match="did you mean 'lane/alpha'"):
        author.retire("lane/alpah")
    with pytest.raises(UnknownBlock, match="'lane' needs a key"):
        author.retire("lane")
    with pytest.raises(UnknownBlock, match="did you mean 'lane'"):
        author.retire("lan/a")
    assert everything(psql) == before


def test_one_set_changes_singletons_and_keyed_blocks_in_one_release(psql: Psql, author: Author) -> None:
    make_lane(author, "a")
    make_lane(author, "b")
    head = revision_of(psql)
    release = author.set(
        {
            "lane/b.venue.host": "Bern",
            "trading.score_threshold": "0.8",
            "lane/a.fast_bars": 3,
            "lane/a.venue.host": "Genf",
            "sample.limits.soft": 11,
        },
        reason="storm",
    )
    assert (release.revision, release.blocks) == (head + 1, ("lane/a", "lane/b", "sample", "trading"))
    assert author.release(release.revision).blocks == {
        "lane/a": {"fast_bars": (20, 3), "venue.host": ("localhost", "Genf")},
        "lane/b": {"venue.host": ("localhost", "Bern")},
        "sample": {"limits.soft": (10, 11)},
        "trading": {"score_threshold": ("0.700", "0.800")},
    }
    assert {author.active(block).version for block in release.blocks} == {2}


EXACT: dict[str, Any] = {
    "ratio": 0.1 + 0.2,
    "free": 5e-324,
    "amount": "123456789012.10000000",
    "count": 2**53 + 1,
    "note": AWKWARD,
    "remark": "\x7f\u200b\u202e\ufeff e\u0301 " + AWKWARD,
    "limits.venue.weight": "2.50",
    "document": {"": {"a.b": [1, {"c": None}]}, "n": 2**53 + 1, "big": 10**30, "x": 1.5, "note": AWKWARD},
    "extra": {"deep": {"er": [[], {}, [None]]}},
    "tags": ("b", "a", AWKWARD),
}
SHOWN = EXACT | {"limits": {"soft": 10, "venue": {"host": "localhost", "weight": "2.50"}}, "tags": ["b", "a", AWKWARD]}
del SHOWN["limits.venue.weight"]


def test_values_survive_drafting_editing_activating_and_rolling_back_exactly(psql: Psql, author: Author) -> None:
    draft = author.draft("sample", EXACT)
    assert {field: draft.content[field] for field in SHOWN} == SHOWN
    first = author.edit(draft.id, {"small": 2})
    released = author.activate(first.id)
    texts = contents(psql)["sample"]
    again = author.draft("sample", {"small": 3}, base=draft.id)
    assert again.texts == {**draft.texts, "small": "3"}
    author.activate(again.id)
    author.set({"sample.small": 4, "sample.limits.soft": 5})
    assert author.active("sample").texts["document"] == draft.texts["document"]
    author.rollback(["sample"], to=released.revision)
    assert contents(psql)["sample"] == texts
    assert author.active("sample").texts == first.texts
    assert load_catalogue(DOMAINS).domain("sample").model.model_validate_json(texts, strict=True).model_dump()[
        "count"
    ] == (2**53 + 1)


LONG = '{"long": 12345678901234567890.12345678901234567890, "e": 1e25, "zero": 1.10, "deep": {"x": [1.0, 2.500]}}'


def test_an_edit_of_one_field_leaves_every_digit_of_the_others(psql: Psql, author: Author) -> None:
    psql.execute("UPDATE configbus.sample_config SET document = %s WHERE status = 'active'", [LONG])
    query = "SELECT document::text FROM configbus.sample_config WHERE id = %s"
    ((stored,),) = psql.execute(query, [author.active("sample").id]).fetchall()
    row = author.draft("sample", {"small": 2})
    author.edit(row.id, {"small": 3, "limits.soft": 7})
    author.activate(row.id)
    assert psql.execute(query, [row.id]).fetchall() == [(stored,)]
    assert json.loads(contents(psql)["sample"], parse_float=str)["document"] == json.loads(stored, parse_float=str)


def test_a_nested_edit_leaves_every_digit_of_what_stands_beside_it_in_the_document(psql: Psql, author: Author) -> None:
    document = LONG[:-1] + ', "note": "old"}'
    psql.execute("UPDATE configbus.sample_config SET document = %s WHERE status = 'active'", [document])
    author.set({"sample.document.note": "new"})
    query = "SELECT document = %s::jsonb, document::text FROM configbus.sample_config WHERE status = 'active'"
    assert psql.execute(query, [document.replace("old", "new")]).fetchall()[0][0], "digits were lost"


@pytest.mark.parametrize("model", [AliasConfig, KeysConfig])
def test_a_field_may_be_called_like_what_our_sql_and_python_call_theirs(
    empty_database_url: str, model: type[Block]
) -> None:
    with connected(empty_database_url) as connection, connection.begin():
        migrate(connection, load_catalogue([__name__]), "configbus", "production")
    domain, update = domain_of(model), sql.SQL("UPDATE configbus.{} SET {} WHERE status = 'active'")
    name = domain.name

    def all_of(value: int) -> dict[str, int]:
        return dict.fromkeys(model.model_fields, value)

    with (
        psycopg.connect(empty_database_url, autocommit=True) as psql,
        author_of(empty_database_url, domains=[__name__]) as author,
    ):
        told = [json.loads(contents(psql)[name])]
        made = author.set({f"{name}.{field}": 2 for field in model.model_fields})
        told.append(json.loads(contents(psql)[name]))
        author.activate(author.edit(author.draft(name, all_of(3)).id, all_of(4)).id)
        told.append(author.active(name).content)
        fields = [sql.SQL("{} = 5").format(sql.Identifier(field)) for field in model.model_fields]
        psql.execute(update.format(sql.Identifier(domain.table), sql.SQL(", ").join(fields)))
        told.append(json.loads(contents(psql)[name]))
        author.rollback([name], to=made.revision)
        told.append(json.loads(contents(psql)[name]))
        assert told == [all_of(1), all_of(2), all_of(4), all_of(5), all_of(2)]
        assert {*author.audit(name, 1)[0].changed_fields} == {*model.model_fields}
        assert author.history(name)[0].changes == dict.fromkeys(model.model_fields, (5, 2))


BOTH = {"score_threshold": "0.9", "max_slippage_exit_bps": 7}


@pytest.mark.parametrize(
    ("drafted", "meanwhile", "undone"),
    [
        ({"score_threshold": "0.6"}, [{"max_slippage_exit_bps": 7}], "max_slippage_exit_bps"),
        ({"score_threshold": "0.6"}, [BOTH], "max_slippage_exit_bps"),
        ({}, [BOTH], "score_threshold, max_slippage_exit_bps"),
        ({}, [{"score_threshold": "0.9"}, {"max_slippage_exit_bps": 7}], "score_threshold, max_slippage_exit_bps"),
        ({"score_threshold": "0.6"}, [{"score_threshold": "0.9"}], ""),
        (BOTH, [{"max_slippage_exit_bps": 7}], ""),
        ({"score_threshold": "0.6"}, [{"max_slippage_exit_bps": 7}, {"max_slippage_exit_bps": 150}], ""),
        ({"score_threshold": "0.6"}, [], ""),
    ],
)
def test_an_activation_that_undoes_what_others_changed_since_the_draft_was_made_says_so(
    author: Author,
    bob: Author,
    caplog: pytest.LogCaptureFixture,
    drafted: dict[str, Any],
    meanwhile: list[dict[str, Any]],
    undone: str,
) -> None:
    author.set({"trading.max_slippage_entry_bps": 80})
    draft = author.draft("trading", drafted)
    for values in meanwhile:
        bob.set({f"trading.{field}": value for field, value in values.items()})
    live = bob.active("trading")
    author.activate(draft.id)
    assert author.active("trading").texts == draft.texts
    told = [(record.levelname, vars(record)["facts"]) for record in caplog.records]
    assert [(level, facts["event"], facts["block"], facts["fields"]) for level, facts in told] == (
        [("WARNING", "activation_undoes", "trading", undone)] if undone else []
    )
    assert all(f"configbus diff trading {live.short_id}" in facts["hint"] for _, facts in told)


def keyed_calls(author: Author) -> dict[str, Callable[[str], Release]]:
    """For each call that makes a release, that call with a key."""
    make_lane(author, "a")
    author.set({"trading.score_threshold": "0.9"})
    draft = author.draft("trading", {"score_threshold": "0.6"})
    return {
        "set": lambda key: author.set({"risk.max_drawdown_pct": 15}, reason="why", idempotency_key=key),
        "activate": lambda key: author.activate(draft.id, expect=draft.version, idempotency_key=key),
        "retire": lambda key: author.retire("lane/a", reason="why", idempotency_key=key),
        "rollback": lambda key: author.rollback(["trading"], to=1, idempotency_key=key),
    }


KINDS = ("set", "activate", "retire", "rollback")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_call_with_the_same_key_finds_its_release_even_later(psql: Psql, author: Author, kind: str) -> None:
    call = keyed_calls(author)[kind]
    head = revision_of(psql)
    first = call("night shift 7")
    assert (first.revision, len(first.blocks)) == (head + 1, 1)
    before = everything(psql)
    assert call("night shift 7") == first
    assert everything(psql) == before
    author.set({"risk.max_drawdown_pct": 30, "trading.score_threshold": "0.1"})
    author.activate(author.draft("lane/a", {"fast_bars": 5}).id)
    before = everything(psql)
    assert call("night shift 7") == first
    assert everything(psql) == before


def test_an_activation_is_the_same_call_by_any_form_of_the_id(psql: Psql, author: Author) -> None:
    draft = author.draft("trading", {"score_threshold": "0.6"})
    first = author.activate(draft.short_id, idempotency_key="k")
    assert first.blocks == ("trading",)
    before = everything(psql)
    for given in (draft.id, str(draft.id), str(draft.id).upper(), draft.id.hex, draft.short_id):
        assert author.activate(given, idempotency_key="k") == first
    assert everything(psql) == before


ITSELF: list[Any] = []
ITSELF.append(ITSELF)
NO_VALUES: dict[str, Any] = {
    "names of several types": {1: 2, "a": float("nan")},
    "itself": ITSELF,
    "lone surrogate": "\ud800",
    "NUL": {"a\0": 1},
    "bytes": b"a",
    "object": object(),
    "number of 5,000 digits": 10**5000,
    "set": {1},
    "NaN": float("nan"),
    "too large": "x" * 300_000,
}


@pytest.mark.parametrize("value", NO_VALUES.values(), ids=NO_VALUES)
def test_a_key_does_not_change_what_is_said_of_an_invalid_value(psql: Psql, author: Author, value: Any) -> None:
    before = everything(psql)
    told = []
    for key in (None, "k", "k"):
        with pytest.raises(InvalidValue) as refusal:
            author.set({"sample.document": {"a": value}}, idempotency_key=key)
        told.append(refusal.value.problems)
    assert told[0] == told[1] == told[2]
    assert everything(psql) == before


def test_names_of_several_types_within_a_document_do_not_make_two_calls_one(psql: Psql, author: Author) -> None:
    first = author.set({"sample.document": {1: 2, "a": 3}}, idempotency_key="k")
    assert first.blocks == ("sample",)
    before = everything(psql)
    assert author.set({"sample.document": {1: 2, "a": 3}}, idempotency_key="k") == first
    with pytest.raises(Conflict, match="idempotency key 'k' was used by another call"):
        author.set({"sample.document": {1: 5, "a": 3}}, idempotency_key="k")
    assert everything(psql) == before


def test_the_key_of_one_author_finds_the_release_of_another(psql: Psql, author: Author, bob: Author) -> None:
    first = author.set({"risk.max_drawdown_pct": 15}, idempotency_key="k")
    author.set({"risk.max_drawdown_pct": 16})
    before = everything(psql)
    assert bob.set({"risk.max_drawdown_pct": 15}, idempotency_key="k") == first
    assert everything(psql) == before


def test_another_call_with_a_key_that_was_used_is_a_conflict(psql: Psql, author: Author) -> None:
    make_lane(author, "a")
    make_lane(author, "b")
    draft, other = author.draft("trading", {"score_threshold": "0.6"}), author.draft("trading")
    made = {
        "set": author.set({"risk.max_drawdown_pct": 15}, idempotency_key="set").revision,
        "activate": author.activate(draft.id, idempotency_key="activate").revision,
        "retire": author.retire("lane/a", idempotency_key="retire").revision,
        "rollback": author.rollback(["trading"], to=1, idempotency_key="rollback").revision,
    }
    calls: list[tuple[str, Callable[[str], Release]]] = [
        ("set", lambda key: author.set({"risk.max_drawdown_pct": 16}, idempotency_key=key)),
        ("set", lambda key: author.set({"risk.max_drawdown_pct": 15}, reason="other", idempotency_key=key)),
        ("set", lambda key: author.set({}, idempotency_key=key)),
        ("set", lambda key: author.retire("lane/b", idempotency_key=key)),
        ("activate", lambda key: author.activate(other.id, idempotency_key=key)),
        ("activate", lambda key: author.activate(draft.id, expect=draft.version, idempotency_key=key)),
        ("retire", lambda key: author.retire("lane/b", idempotency_key=key)),
        ("retire", lambda key: author.retire("lane/a", reason="other", idempotency_key=key)),
        ("rollback", lambda key: author.rollback(["trading"], to=2, idempotency_key=key)),
        ("rollback", lambda key: author.rollback(["trading", "risk"], to=1, idempotency_key=key)),
        ("rollback", lambda key: author.rollback(to=1, all=True, idempotency_key=key)),
    ]
    before = everything(psql)
    for kind, call in calls:
        words = f"idempotency key '{kind}' was used by another call, at revision {made[kind]}"
        with pytest.raises(Conflict, match=words):
            call(kind)
    assert everything(psql) == before


def test_a_call_that_found_nothing_to_change_changes_nothing_when_it_is_repeated_later(
    psql: Psql, author: Author
) -> None:
    first = author.set({"trading.score_threshold": "0.7"}, idempotency_key="k")
    assert first.blocks == ()
    author.set({"trading.score_threshold": "0.9"})
    before = everything(psql)
    assert author.set({"trading.score_threshold": "0.7"}, idempotency_key="k") == first
    assert everything(psql) == before


def test_an_instant_and_the_order_of_names_do_not_make_another_call(psql: Psql, author: Author) -> None:
    at = author.release(author.set({"trading.score_threshold": "0.8"}).revision).released_at
    author.set({"trading.score_threshold": "0.9", "risk.max_drawdown_pct": 15})
    first = author.rollback(["trading", "risk"], to=at, idempotency_key="k")
    put = author.set({"trading.score_threshold": "0.1", "risk.max_drawdown_pct": 30}, idempotency_key="l")
    before = everything(psql)
    assert author.rollback(["risk", "trading"], to=at, idempotency_key="k") == first
    again = {"risk.max_drawdown_pct": 30, "trading.score_threshold": Decimal("0.1")}
    assert author.set(again, idempotency_key="l") == put
    assert everything(psql) == before


def test_a_key_of_a_refused_call_is_free(author: Author) -> None:
    with pytest.raises(InvalidValue):
        author.set({"risk.max_drawdown_pct": -1}, idempotency_key="k")
    assert author.set({"risk.max_drawdown_pct": 15}, idempotency_key="k").blocks == ("risk",)


def test_a_key_belongs_to_its_environment(psql: Psql, sample_database_url: str, author: Author) -> None:
    author.set({"risk.max_drawdown_pct": 15}, idempotency_key="k")
    psql.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('staging', 1)")
    with author_of(sample_database_url, environment="staging") as other:
        draft = other.draft("lane/a")
        assert other.activate(draft.id, idempotency_key="k").blocks == ("lane/a",)


BAD_KEYS = ["", "x" * 201, "a\nb", "a\0b", "\ud800", "a\u200bb", "\x1b[31m", "\t"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_key_is_refused_by_every_call(psql: Psql, author: Author, kind: str) -> None:
    call = keyed_calls(author)[kind]
    before = everything(psql)
    for key in BAD_KEYS:
        with pytest.raises(InvalidValue, match="idempotency_key: must be 1 to 200 printable characters"):
            call(key)
    assert everything(psql) == before


@pytest.mark.parametrize("key", ["x" * 200, "'; DROP TABLE configbus.release; --", "%s {schema} :key", "漢字", " "])
def test_any_printable_key_is_taken_as_it_is(psql: Psql, author: Author, key: str) -> None:
    first = author.set({"risk.max_drawdown_pct": 15}, idempotency_key=key)
    author.set({"risk.max_drawdown_pct": 16}, idempotency_key=f"{key[1:]}!")
    before = everything(psql)
    assert author.set({"risk.max_drawdown_pct": 15}, idempotency_key=key) == first
    assert everything(psql) == before


LOCKS: dict[str, LiteralString] = {
    "set": ACTIVE_RISK,
    "activate": ACTIVE_TRADING,
    "retire": ACTIVE_LANE,
    "rollback": ACTIVE_TRADING,
    "activate a new key": DRAFTS,
}


@pytest.mark.parametrize("kind", LOCKS)
def test_two_calls_with_one_key_at_once_make_one_release_and_both_get_it(
    psql: Psql, author: Author, bob: Author, kind: str
) -> None:
    author.set({"trading.score_threshold": "0.9"})
    if kind == "retire":
        make_lane(author, "a")
    draft = author.draft("lane/new" if kind.endswith("key") else "trading")

    def call(who: Author) -> Release:
        match kind:
            case "set":
                return who.set({"risk.max_drawdown_pct": 15}, idempotency_key="k")
            case "retire":
                return who.retire("lane/a", idempotency_key="k")
            case "rollback":
                return who.rollback(["trading"], to=1, idempotency_key="k")
        return who.activate(draft.id, idempotency_key="k")

    head = revision_of(psql)
    first, second = run_behind_a_lock(psql, LOCKS[kind], [lambda: call(author), lambda: call(bob)])
    assert revision_of(psql) == head + 1
    assert isinstance(first, Release)
    assert second == first


def test_of_many_who_activate_drafts_of_one_block_each_succeeds_or_is_told_of_a_conflict(
    psql: Psql, author: Author, sample_database_url: str
) -> None:
    drafts = [author.draft("trading", {"max_slippage_exit_bps": number}) for number in range(16)]
    head, seen = revision_of(psql), set()
    authors = [author_of(sample_database_url, actor=f"author {number}") for number in range(16)]
    ready = threading.Barrier(16)

    def activate(number: int) -> Release:
        ready.wait(20)
        return authors[number].activate(drafts[number].id, expect=drafts[number].version)

    with ThreadPoolExecutor(16) as threads:
        futures = [threads.submit(activate, number) for number in range(16)]
        query = "SELECT count(*), min(max_slippage_exit_bps) FROM configbus.trading_config WHERE status = 'active'"
        while not all(future.done() for future in futures):
            seen.add(psql.execute(query).fetchall()[0][0])
        answers = gather(futures)
    for one in authors:
        one.close()
    assert seen == {1}
    assert {type(answer) for answer in answers} <= {Release, Conflict}
    won = {answer.revision: number for number, answer in enumerate(answers) if isinstance(answer, Release)}
    assert sorted(won) == list(range(head + 1, head + 1 + len(won)))
    assert revision_of(psql) == max(won)
    assert author.active("trading").id == drafts[won[max(won)]].id
    for revision, number in won.items():
        assert author.release(revision).actor == f"author {number}"
        assert json.loads(contents(psql, revision)["trading"])["max_slippage_exit_bps"] == number


def test_of_many_who_make_the_same_new_key_each_succeeds_or_is_told_of_a_conflict(
    psql: Psql, author: Author, sample_database_url: str
) -> None:
    drafts = [author.draft("lane/new", {"fast_bars": 2 + number}) for number in range(8)]
    authors = [author_of(sample_database_url) for _ in drafts]
    head = revision_of(psql)
    calls: list[Callable[[], Release]] = [
        lambda who=who, draft=draft: who.activate(draft.id)  # type: ignore[misc]  # mypy infers no default of a lambda
        for who, draft in zip(authors, drafts, strict=True)
    ]
    with ThreadPoolExecutor(8) as threads:
        answers = gather([threads.submit(call) for call in calls])
    for one in authors:
        one.close()
    assert {type(answer) for answer in answers} <= {Release, Conflict}
    won = sorted(answer.revision for answer in answers if isinstance(answer, Release))
    assert won == list(range(head + 1, revision_of(psql) + 1))
    assert won
    assert psql.execute("SELECT count(*) FROM configbus.lane_config WHERE status = 'active'").fetchall() == [(1,)]


@pytest.mark.parametrize("undone", [True, False], ids=["one that came to nothing", "one by raw SQL"])
def test_first_activations_of_one_key_queue_behind_another_and_all_are_done(
    psql: Psql,
    author: Author,
    bob: Author,
    undone: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    drafts = [author.draft("lane/new", {"fast_bars": 3}), author.draft("lane/new", {"fast_bars": 4})]
    head = revision_of(psql) + (not undone)
    calls: list[Callable[[], Release]] = [
        lambda: author.activate(drafts[0].id, expect=1),
        lambda: bob.activate(drafts[1].id, expect=1),
    ]
    answers = run_behind_a_lock(psql, NEW_LANE, calls, undone=undone)
    assert not [answer for answer in answers if isinstance(answer, ConfigBusError)]
    ends = {
        answer.revision: draft for answer, draft in zip(answers, drafts, strict=True) if isinstance(answer, Release)
    }
    assert sorted(ends) == [head + 1, head + 2]
    assert author.active("lane/new").id == ends[head + 2].id
    assert author.version(ends[head + 1].id).status == "archived"
    assert json.loads(contents(psql, head + 1)["lane/new"])["fast_bars"] == ends[head + 1].content["fast_bars"]


def test_pairs_of_blocks_set_in_opposite_orders_show_no_deadlock(
    psql: Psql, author: Author, sample_database_url: str
) -> None:
    make_lane(author, "a")
    make_lane(author, "b")
    head = revision_of(psql)
    authors = [author_of(sample_database_url) for _ in range(8)]
    ready = threading.Barrier(8)

    def change(number: int) -> list[Release]:
        paths = ["lane/a.slow_bars", "lane/b.slow_bars", "risk.max_order_attempts", "trading.max_slippage_exit_bps"]
        if number % 2:
            paths.reverse()
        ready.wait(20)
        return [authors[number].set(dict.fromkeys(paths[turn % 3 : turn % 3 + 2], 61 + number)) for turn in range(6)]

    with ThreadPoolExecutor(8) as threads:
        answers = gather([threads.submit(change, number) for number in range(8)])
    for one in authors:
        one.close()
    assert [type(answer) for answer in answers] == [list] * 8
    releases = psql.execute("SELECT revision FROM configbus.release WHERE revision > %s ORDER BY 1", [head]).fetchall()
    assert [number for (number,) in releases] == list(range(head + 1, revision_of(psql) + 1))
    ends = {name: json.loads(text) for name, text in contents(psql).items()}
    assert 61 <= ends["lane/b"]["slow_bars"] <= 68
    assert 61 <= ends["risk"]["max_order_attempts"] <= 68


def test_an_edit_and_an_activation_of_one_draft_at_once_end_in_one_of_the_two_orders(
    psql: Psql, author: Author, bob: Author
) -> None:
    row = author.draft("lane/new", {"fast_bars": 3})
    calls: list[Callable[[], Any]] = [
        lambda: author.activate(row.id, expect=1),
        lambda: bob.edit(row.id, {"fast_bars": 4}),
    ]
    first, second = run_behind_a_lock(psql, DRAFTS, calls)
    assert isinstance(first, Release)
    assert isinstance(second, Conflict)
    assert author.active("lane/new").content["fast_bars"] == 3


def test_operators_of_somebodys_own_change_nothing_about_what_a_row_may_do(
    author: Author, psql: Psql, sample_database_url: str
) -> None:
    author.set({"risk.max_order_attempts": 4})
    for statement in (
        "CREATE SCHEMA app",
        """CREATE FUNCTION app.eq(configbus.config_status, configbus.config_status) RETURNS boolean LANGUAGE sql
           IMMUTABLE AS 'SELECT false'""",
        """CREATE OPERATOR app.= (LEFTARG = configbus.config_status, RIGHTARG = configbus.config_status,
           FUNCTION = app.eq)""",
        """CREATE FUNCTION app.clock_timestamp() RETURNS timestamptz LANGUAGE sql
           AS $$ SELECT timestamptz '2001-01-01' $$""",
    ):
        psql.execute(statement.encode())
    change = "UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status OPERATOR(pg_catalog.=) "
    with psycopg.connect(sample_database_url, autocommit=True) as clerk:
        clerk.execute("SET search_path = app, pg_catalog")
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="is archived"):
            clerk.execute(f"{change} 'archived'".encode())
        clerk.execute(f"{change} 'active'".encode())
    activated_at = author.active("risk").activated_at
    assert activated_at is not None
    assert activated_at.year > 2001
