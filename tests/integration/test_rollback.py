"""Rollback: older contents become a new release exactly, whole, or not at all, and nothing else is touched."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from authors import DOMAINS, WAITING, author_of, contents, everything, gather, revision_of, run_behind_a_lock
from pydantic import ConfigDict, Field, create_model
from waiting import until

from configbus.block import Block
from configbus.catalogue import load_catalogue
from configbus.errors import (
    ConfigBusError,
    Conflict,
    InvalidValue,
    MigrationRefused,
    UnknownBlock,
    UnknownEnvironment,
    UnknownRevision,
)
from configbus.store.connect import LONG, connected
from configbus.store.schema import migrate
from configbus.wire import Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authors import Psql

    from configbus.author import Author

ACTIVE_RISK = "SELECT id FROM configbus.risk_config WHERE status = 'active' FOR UPDATE"


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url) as author:
        yield author


@pytest.fixture
def bob(sample_database_url: str) -> Iterator[Author]:
    with author_of(sample_database_url, actor="bob") as bob:
        yield bob


def make_lane(author: Author, key: str, **values: Any) -> Release:
    return author.activate(author.draft(f"lane/{key}", values, name=f"lane of {key}").id)


def score(author: Author) -> Any:
    return author.active("trading").content["score_threshold"]


@pytest.fixture
def past(author: Author) -> list[int]:
    """A history with changes of singletons, and keyed blocks that come, change, go and come back; its revisions."""
    first = author.set({"trading.score_threshold": "0.8", "risk.max_drawdown_pct": 15}).revision
    make_lane(author, "a", fast_bars=3)
    author.set({"lane/a.fast_bars": 4, "sample.limits.venue.weight": "2.50"})
    make_lane(author, "b", venue={"host": "Zürich", "weight": "1.10"})
    author.retire("lane/a")
    author.set({"trading.score_threshold": "0.9", "sample.document": {"n": 2**53 + 1, "x": [1.5, None]}})
    last = make_lane(author, "a", fast_bars=5).revision
    return list(range(first, last + 1))


def test_rolling_back_one_block_touches_no_other(psql: Psql, author: Author, past: list[int]) -> None:
    before, former = contents(psql), author.active("trading")
    release = author.rollback(["trading"], to=past[0], reason="too strict")
    assert (release.revision, release.blocks) == (past[-1] + 1, ("trading",))
    assert contents(psql) == before | {"trading": contents(psql, past[0])["trading"]}
    live = author.active("trading")
    assert (live.version, live.name, live.activated_by) == (former.version + 1, former.name, "ana")
    assert live.id != former.id
    assert author.version(former.id).status == "archived"
    record = author.release(release.revision)
    assert (record.actor, record.reason, record.source) == ("ana", "too strict", "author")
    assert record.blocks == {"trading": {"score_threshold": ("0.900", "0.800")}}


def test_a_single_name_need_not_be_in_a_list(author: Author, past: list[int]) -> None:
    assert author.rollback("trading", to=past[0]).blocks == ("trading",)


def test_rolling_back_several_blocks_is_one_release(psql: Psql, author: Author, past: list[int]) -> None:
    before, then = contents(psql), contents(psql, past[1])
    release = author.rollback(["trading", "lane/b", "sample", "trading", "risk"], to=past[1])
    assert (release.revision, release.blocks) == (past[-1] + 1, ("lane/b", "sample", "trading"))
    after = before | {"trading": then["trading"], "sample": then["sample"]}
    del after["lane/b"]
    assert contents(psql) == after


def test_rolling_back_everything_restores_every_revision_exactly(psql: Psql, author: Author, past: list[int]) -> None:
    for target in (*past, *reversed(past)):
        then, head = contents(psql, target), revision_of(psql)
        release = author.rollback(to=target, all=True)
        assert contents(psql) == then, target
        assert release.revision == head + bool(release.blocks)
        assert {row.block for row in author.blocks() if row.version is not None} == set(then)
        for name in then:
            assert json.dumps(author.active(name).content, sort_keys=True) == json.dumps(
                json.loads(then[name]), sort_keys=True
            )


def test_a_keyed_block_that_did_not_exist_then_is_retired(psql: Psql, author: Author, past: list[int]) -> None:
    live = author.active("lane/b")
    release = author.rollback(["lane/b"], to=past[0])
    assert (release.blocks, author.release(release.revision).retired) == (("lane/b",), ("lane/b",))
    assert author.version(live.id).status == "archived"
    assert "lane/b" not in contents(psql)
    assert author.audit("lane/b", limit=1)[0].action == "retire"


def test_a_keyed_block_that_was_retired_since_comes_back(psql: Psql, author: Author, past: list[int]) -> None:
    author.retire("lane/b")
    release = author.rollback(["lane/b"], to=past[-1])
    assert release.blocks == ("lane/b",)
    assert contents(psql)["lane/b"] == contents(psql, past[-1])["lane/b"]
    live = author.active("lane/b")
    assert (live.name, live.status, live.content["venue"]) == (
        "lane of b",
        "active",
        {"host": "Zürich", "weight": "1.10"},
    )


def test_a_retired_block_comes_back_although_a_draft_has_its_name_by_now(psql: Psql, author: Author) -> None:
    there = make_lane(author, "a", fast_bars=3)
    author.retire("lane/a")
    author.draft("lane/a", {"fast_bars": 9}, name="lane of a")
    assert author.rollback(["lane/a"], to=there.revision).blocks == ("lane/a",)
    assert contents(psql)["lane/a"] == contents(psql, there.revision)["lane/a"]


def test_drafts_are_left_as_they_are(author: Author, past: list[int]) -> None:
    drafts = [author.draft("trading", {"score_threshold": "0.1"}), author.draft("lane/b"), author.draft("lane/c")]
    author.rollback(to=past[0], all=True)
    assert [author.version(draft.id) for draft in drafts] == drafts


def test_a_singleton_that_did_not_exist_then_is_left_with_a_warning(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for domains in (DOMAINS[:1], DOMAINS):
        with connected(empty_database_url) as connection, connection.begin():
            migrate(connection, load_catalogue(domains), "configbus", "production")
    with (
        psycopg.connect(empty_database_url, autocommit=True) as psql,
        author_of(empty_database_url) as author,
    ):
        assert "sample" not in contents(psql, 1)
        author.set({"sample.small": 7, "trading.score_threshold": "0.8"})
        left = contents(psql)["sample"]
        release = author.rollback(to=1, all=True)
        assert release.blocks == ("trading",)
        assert contents(psql) == contents(psql, 1) | {"sample": left}
        (warning,) = [record for record in caplog.records if "left_as_it_is" in record.message]
        assert warning.levelname == "WARNING"
        assert "block=sample" in warning.message
        assert "to_revision=1" in warning.message
        before = everything(psql)
        assert author.rollback(["sample"], to=1) == Release(release.revision, release.epoch, ())
        assert everything(psql) == before


def test_an_instant_stands_for_the_revision_that_was_newest_then(psql: Psql, author: Author, past: list[int]) -> None:
    at = {revision: author.release(revision).released_at for revision in past}
    instants = [
        (at[past[1]], past[1]),
        (at[past[1]] - timedelta(microseconds=1), past[0]),
        (at[past[2]].astimezone(timezone(timedelta(hours=5, minutes=45))), past[2]),
        (at[past[2]].astimezone(timezone(timedelta(hours=-11))), past[2]),
    ]
    for instant, revision in instants:
        release = author.rollback(to=instant, all=True)
        assert contents(psql) == contents(psql, revision)
        if release.blocks:
            assert author.release(release.revision).reason == f"rollback to revision {revision}"


def test_an_instant_just_now_changes_nothing(psql: Psql, author: Author, past: list[int]) -> None:
    ((now,),) = psql.execute("SELECT clock_timestamp()").fetchall()
    assert author.rollback(to=now, all=True).revision == past[-1]


IST = timezone(timedelta(hours=1))
MOMENTS: dict[str, tuple[Any, type[ConfigBusError], str]] = {
    "no zone": (datetime(2026, 1, 31, 12), InvalidValue, "instant: 2026-01-31T12:00:00 has no zone; add one"),  # noqa: DTZ001  # that is what is refused
    "future": (datetime(9998, 1, 1, tzinfo=UTC), InvalidValue, "instant: 9998-01-01T00:00:00Z lies in the future"),
    "future by days": (datetime.now(UTC) + timedelta(days=2), InvalidValue, "lies in the future"),
    "before the first": (
        datetime(2001, 1, 1, tzinfo=UTC),
        UnknownRevision,
        "production had no release at 2001-01-01T00:00:00Z; its first release is of 20",
    ),
    "the last instant there is": (datetime.max.replace(tzinfo=UTC), InvalidValue, "lies in the future"),
    "the first instant there is": (datetime.min.replace(tzinfo=UTC), UnknownRevision, "had no release at"),
    "an instant after the last in UTC": (
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        InvalidValue,
        "instant: .*(future|range)",
    ),
    "an instant before the first in UTC": (datetime.min.replace(tzinfo=IST), ConfigBusError, "no release|range"),
    "zero": (0, UnknownRevision, "production has no revision 0; the newest is"),
    "negative": (-1, UnknownRevision, "production has no revision -1"),
    "not there yet": (10**9, UnknownRevision, "production has no revision 1000000000; the newest is"),
    "beyond a bigint": (2**70, UnknownRevision, "has no revision"),
    "true": (True, InvalidValue, "revision: True is neither a revision nor an instant"),
    "text": ("5", InvalidValue, "revision: '5' is neither"),
    "float": (1.0, InvalidValue, "revision: 1.0 is neither"),
    "none": (None, InvalidValue, "revision: None is neither"),
    "date": (datetime(2026, 1, 31, tzinfo=UTC).date(), InvalidValue, "is neither a revision nor an instant"),
}


@pytest.mark.parametrize(("to", "error", "words"), MOMENTS.values(), ids=MOMENTS)
def test_a_moment_that_there_was_not_is_refused(
    psql: Psql, author: Author, to: Any, error: type[ConfigBusError], words: str
) -> None:
    author.set({"trading.score_threshold": "0.8"})
    before = everything(psql)
    choices: tuple[dict[str, Any], ...] = ({"blocks": ["trading"]}, {"all": True})
    for choice in choices:
        with pytest.raises(error, match=words):
            author.rollback(to=to, **choice)
    assert everything(psql) == before


NAMES: dict[str, tuple[list[str], type[ConfigBusError], str]] = {
    "misspelt domain": (["risk", "tradng"], UnknownBlock, "no domain 'tradng'; did you mean 'trading'"),
    "singleton with a key": (["trading/a"], UnknownBlock, "trading has no keys"),
    "keyed without a key": (["lane"], UnknownBlock, "'lane' needs a key"),
    "never released": (["risk", "lane/never"], UnknownBlock, "'lane/never' was never released in production"),
    "drafts only": (["lane/drafted"], UnknownBlock, "'lane/drafted' was never released in production"),
    "empty": ([""], UnknownBlock, "there is no domain ''"),
    "a path": (["trading.score_threshold"], UnknownBlock, r"no domain 'trading\.score_threshold'"),
    "everything, by star": (["*"], UnknownBlock, r"no domain '\*'"),
}


@pytest.mark.parametrize(("names", "error", "words"), NAMES.values(), ids=NAMES)
def test_a_name_that_no_release_holds_is_refused(
    psql: Psql, author: Author, names: list[str], error: type[ConfigBusError], words: str
) -> None:
    author.draft("lane/drafted")
    author.set({"trading.score_threshold": "0.8", "risk.max_drawdown_pct": 15})
    before = everything(psql)
    with pytest.raises(error, match=words):
        author.rollback(names, to=1)
    assert everything(psql) == before


def test_a_name_that_was_never_released_has_near_misses_that_were(author: Author) -> None:
    make_lane(author, "alpha")
    with pytest.raises(UnknownBlock, match="'lane/alpah' was never released") as refusal:
        author.rollback(["lane/alpah"], to=1)
    assert refusal.value.near == ("lane/alpha",)


def test_names_and_everything_exclude_each_other(psql: Psql, author: Author) -> None:
    author.set({"trading.score_threshold": "0.8"})
    before = everything(psql)
    choices: tuple[dict[str, Any], ...] = ({}, {"all": True, "blocks": ["trading"]})
    for choice in choices:
        with pytest.raises(InvalidValue, match="blocks: name the blocks to roll back, or ask for all of them"):
            author.rollback(to=1, **choice)
    assert everything(psql) == before


def test_an_environment_that_was_never_set_up_is_named(psql: Psql, sample_database_url: str) -> None:
    before = everything(psql)
    with author_of(sample_database_url, environment="prodution") as author:
        for to in (1, datetime.now(UTC) - timedelta(hours=1)):
            with pytest.raises(UnknownEnvironment, match="did you mean 'production'"):
                author.rollback(["trading"], to=to)
    assert everything(psql) == before


def test_contents_that_raw_sql_released_and_the_model_refuses_are_all_named(psql: Psql, author: Author) -> None:
    with psql.transaction():
        psql.execute("UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'")
        psql.execute(
            "UPDATE configbus.sample_config SET tags = '[1, \"a\", 2]', small = 9,"
            ' limits = \'{"soft": "x", "venue": {"weight": "9.999"}}\' WHERE status = \'active\''
        )
        psql.execute("UPDATE configbus.risk_config SET max_drawdown_pct = 15 WHERE status = 'active'")
    invalid = revision_of(psql)
    author.set(
        {
            "trading.drawdown_reduction_tiers": [],
            "sample.tags": [],
            "sample.limits": {},
            "risk.max_drawdown_pct": 16,
        }
    )
    before = everything(psql)
    choices: tuple[dict[str, Any], ...] = ({"all": True}, {"blocks": ["risk", "sample", "trading"]})
    for choice in choices:
        with pytest.raises(InvalidValue) as refusal:
            author.rollback(to=invalid, **choice)
        assert sorted(problem.path for problem in refusal.value.problems) == [
            "sample.limits.soft",
            "sample.limits.venue.weight",
            "sample.tags.0",
            "sample.tags.2",
            "trading.drawdown_reduction_tiers.0",
        ]
        assert all(problem.reason for problem in refusal.value.problems)
    assert everything(psql) == before
    assert author.rollback(["risk"], to=invalid).blocks == ("risk",)


def generation(monkeypatch: pytest.MonkeyPatch, name: str, highest: int) -> tuple[str, ...]:
    """A module with a domain whose bounds are these, as a catalogue finds it."""
    window = create_model("Window", __config__=ConfigDict(frozen=True), bars=(int, Field(1, le=highest)))
    gauge = create_model(
        "GaugeConfig",
        __base__=Block,
        __cls_kwargs__={"domain": "gauge", "keyed": True},
        level=(int, Field(1, ge=0, le=highest)),
        window=(window, window()),
    )
    return named(monkeypatch, name, gauge)


def named(monkeypatch: pytest.MonkeyPatch, name: str, model: type[Block]) -> tuple[str, ...]:
    """The catalogue of the samples and of a module that holds this class."""
    module = ModuleType(name)
    vars(module)[model.__name__] = model
    monkeypatch.setitem(sys.modules, name, module)
    return (*DOMAINS, name)


def migrated(url: str, domains: tuple[str, ...]) -> None:
    with connected(url, LONG) as connection, connection.begin():
        migrate(connection, load_catalogue(domains), "configbus", "production")


def grown(monkeypatch: pytest.MonkeyPatch, name: str, **fields: int) -> tuple[str, ...]:
    """A module with a domain that has these fields, and these defaults of them."""
    gauge = create_model(
        "GaugeConfig",
        __base__=Block,
        __cls_kwargs__={"domain": "gauge", "keyed": True},
        **{field: (int, default) for field, default in fields.items()},  # type: ignore[call-overload]  # the stubs are narrower than the call
    )
    return named(monkeypatch, name, gauge)


def test_a_field_that_was_added_since_keeps_its_live_value(
    psql: Psql, sample_database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    young = grown(monkeypatch, "young", level=1)
    migrated(sample_database_url, young)
    with author_of(sample_database_url, domains=young) as author:
        for key in ("a", "b"):
            author.activate(author.draft(f"gauge/{key}", {"level": 2}).id)
        old = author.set({"gauge/a.level": 3}).revision
    older = grown(monkeypatch, "older", level=1, span=10)
    migrated(sample_database_url, older)
    with author_of(sample_database_url, domains=older) as author:
        author.set({"gauge/a.level": 4, "gauge/a.span": 70, "gauge/b.span": 80})
        released = author.rollback(to=old, all=True)
        assert author.active("gauge/a").content == {"level": 3, "span": 70}
        assert author.active("gauge/b").content == {"level": 2, "span": 80}
        assert released.blocks == ("gauge/a",)
        assert json.loads(contents(psql)["gauge/a"]) == {"level": 3, "span": 70}
        author.retire("gauge/a")
        author.rollback(["gauge/a"], to=old)
        assert author.active("gauge/a").content == {"level": 3, "span": 10}
    assert caplog.records == []


def test_a_field_that_the_model_has_no_more_is_left_out_with_a_warning(
    psql: Psql, sample_database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    older = grown(monkeypatch, "older", level=1, span=10, width=20)
    migrated(sample_database_url, older)
    with author_of(sample_database_url, domains=older) as author:
        old = author.activate(author.draft("gauge/a", {"level": 3, "span": 70}).id).revision
        author.set({"gauge/a.level": 4})
    younger = grown(monkeypatch, "younger", level=1)
    with pytest.raises(MigrationRefused) as refusal:
        migrated(sample_database_url, younger)
    for statement in refusal.value.ddl:
        assert "DROP COLUMN" in statement
        psql.execute(statement.encode())
    migrated(sample_database_url, younger)
    with author_of(sample_database_url, domains=younger) as author:
        assert author.rollback(to=old, all=True).blocks == ("gauge/a",)
        assert author.active("gauge/a").content == {"level": 3}
    told = [(record.levelname, vars(record)["facts"]) for record in caplog.records]
    assert [(level, facts["event"], facts["block"], facts["fields"]) for level, facts in told] == [
        ("WARNING", "fields_left_out", "gauge/a", "span, width")
    ]


def test_contents_that_tighter_bounds_refuse_are_all_named(
    psql: Psql, sample_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose, tight = generation(monkeypatch, "loose", 100), generation(monkeypatch, "tight", 50)
    with connected(sample_database_url) as connection, connection.begin():
        migrate(connection, load_catalogue(loose), "configbus", "production")
    with author_of(sample_database_url, domains=loose) as author:
        for key in ("a", "b", "c"):
            author.activate(author.draft(f"gauge/{key}", {"level": 20}).id)
        old = author.set({"gauge/a.level": 99, "gauge/a.window.bars": 70, "gauge/b.level": 51, "gauge/c.level": 50})
        author.set({"gauge/a.level": 10, "gauge/a.window.bars": 7, "gauge/b.level": 10, "gauge/c.level": 10})
    with author_of(sample_database_url, domains=tight) as author:
        before = everything(psql)
        with pytest.raises(InvalidValue) as refusal:
            author.rollback(to=old.revision, all=True)
        assert sorted(str(problem) for problem in refusal.value.problems) == [
            "gauge/a.level: Input should be less than or equal to 50",
            "gauge/a.window.bars: Input should be less than or equal to 50",
            "gauge/b.level: Input should be less than or equal to 50",
        ]
        assert everything(psql) == before
        assert author.rollback(["gauge/c"], to=old.revision).blocks == ("gauge/c",)
        assert author.active("gauge/c").content["level"] == 50


def test_a_block_whose_domain_is_not_in_the_catalogue_is_named_and_the_others_can_be_rolled_back(
    psql: Psql, sample_database_url: str, author: Author
) -> None:
    author.set({"trading.score_threshold": "0.8"})
    make_lane(author, "a")
    with author_of(sample_database_url, domains=DOMAINS[:1]) as stranger:
        before = everything(psql)
        with pytest.raises(UnknownBlock, match=r"lane/a changed after revision 2, .*CONFIGBUS_DOMAINS names no such"):
            stranger.rollback(to=2, all=True)
        with pytest.raises(UnknownBlock, match="there is no domain 'lane'"):
            stranger.rollback(["lane/a"], to=2)
        assert everything(psql) == before
        assert stranger.rollback(["trading"], to=2).blocks == ("trading",)
        head = revision_of(psql)
        assert stranger.rollback(to=head, all=True).revision == head
        stranger.set({"trading.score_threshold": "0.9"})
        assert stranger.rollback(to=head, all=True).blocks == ("trading",)
    assert "lane/a" in contents(psql)


def test_a_rollback_that_changes_nothing_is_the_current_release_without_blocks(
    psql: Psql, author: Author, past: list[int]
) -> None:
    head = revision_of(psql)
    before = everything(psql)
    epoch = author.release(head).epoch
    unchanged = Release(head, epoch, ())
    assert author.rollback(to=head, all=True) == unchanged
    assert author.rollback(["risk"], to=past[0]) == unchanged
    assert everything(psql) == before
    author.set({"trading.score_threshold": "0.1"})
    author.set({"trading.score_threshold": "0.9"})
    before = everything(psql)
    assert author.rollback(to=head, all=True).blocks == ()
    assert everything(psql) == before


@pytest.mark.parametrize("reason", [None, ""])
def test_a_rollback_without_a_reason_says_what_it_went_back_to(author: Author, reason: str | None) -> None:
    author.set({"trading.score_threshold": "0.8"})
    release = author.rollback(["trading"], to=2, reason=reason)
    assert author.release(release.revision).reason == "rollback to revision 2"


def test_rolling_back_a_rollback_brings_back_what_it_took(psql: Psql, author: Author, past: list[int]) -> None:
    undone = author.rollback(to=past[0], all=True)
    assert contents(psql) != contents(psql, past[-1])
    redone = author.rollback(to=undone.revision - 1, all=True)
    assert redone.revision == undone.revision + 1
    assert contents(psql) == contents(psql, past[-1])
    author.rollback(to=undone.revision, all=True)
    assert contents(psql) == contents(psql, past[0])


@pytest.mark.parametrize("everything_", [True, False])
def test_a_rollback_behind_another_author_ends_as_one_of_the_serial_orders(
    psql: Psql,
    author: Author,
    bob: Author,
    everything_: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    old = revision_of(psql)
    author.set({"risk.max_drawdown_pct": 30})
    calls: list[Callable[[], Release]] = [
        lambda: bob.set({"risk.max_drawdown_pct": 15, "trading.score_threshold": "0.8"}),
        lambda: author.rollback([] if everything_ else ["risk", "trading"], to=old, all=everything_),
    ]
    answers = run_behind_a_lock(psql, ACTIVE_RISK, calls)
    assert {type(answer) for answer in answers} <= {Release, Conflict}
    ends = (author.active("risk").content["max_drawdown_pct"], score(author))
    if all(isinstance(answer, Release) for answer in answers):
        assert ends in {("15.00", "0.800"), ("20.00", "0.700")}
    else:
        assert ends in {("15.00", "0.800"), ("20.00", "0.700"), ("30.00", "0.700")}


def test_a_rollback_before_another_author_leaves_that_authors_values(psql: Psql, author: Author, bob: Author) -> None:
    old = revision_of(psql)
    author.set({"risk.max_drawdown_pct": 30})
    calls: list[Callable[[], Release]] = [
        lambda: author.rollback(to=old, all=True),
        lambda: bob.set({"risk.max_drawdown_pct": 15, "trading.score_threshold": "0.8"}),
    ]
    first, second = run_behind_a_lock(psql, ACTIVE_RISK, calls)
    assert isinstance(first, Release)
    assert isinstance(second, Release)
    assert (first.blocks, second.blocks) == (("risk",), ("risk", "trading"))
    assert (author.active("risk").content["max_drawdown_pct"], score(author)) == ("15.00", "0.800")
    assert contents(psql, first.revision) == contents(psql, old)


def test_two_rollbacks_at_once_are_one_release(psql: Psql, author: Author, bob: Author) -> None:
    old = revision_of(psql)
    head = author.set({"risk.max_drawdown_pct": 30}).revision
    calls: list[Callable[[], Release]] = [
        lambda: author.rollback(to=old, all=True),
        lambda: bob.rollback("risk", to=old),
    ]
    first, second = run_behind_a_lock(psql, ACTIVE_RISK, calls)
    assert isinstance(first, Release)
    assert second == Release(head + 1, first.epoch, ())
    assert contents(psql) == contents(psql, old)


@pytest.mark.parametrize("come_back", [True, False], ids=["activated", "activated and retired again"])
def test_a_block_that_comes_back_while_a_rollback_waits_for_another_is_undone_with_it(
    psql: Psql,
    author: Author,
    bob: Author,
    come_back: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    old = revision_of(psql)
    make_lane(author, "k", fast_bars=3)
    author.retire("lane/k")
    author.set({"risk.max_drawdown_pct": 30})
    draft = author.draft("lane/k", {"fast_bars": 4})
    with ThreadPoolExecutor(1) as threads:
        with psql.transaction():
            assert psql.execute(ACTIVE_RISK).fetchall()
            rollback = threads.submit(author.rollback, to=old, all=True)
            until(lambda: psql.execute(WAITING).fetchall() == [(1,)])
            between = bob.activate(draft.id)
            if not come_back:
                between = bob.retire("lane/k")
        (answer,) = gather([rollback])
    assert isinstance(answer, Release)
    assert answer.revision == between.revision + 1
    assert answer.blocks == (("lane/k", "risk") if come_back else ("risk",))
    assert contents(psql) == contents(psql, old)
    assert psql.execute("SELECT count(*) FROM configbus.lane_config WHERE status = 'active'").fetchall() == [(0,)]


def test_a_block_that_comes_back_while_a_rollback_waits_for_another_becomes_what_it_was(
    psql: Psql, author: Author, bob: Author
) -> None:
    make_lane(author, "k", fast_bars=3)
    old = revision_of(psql)
    author.set({"lane/k.fast_bars": 4, "risk.max_drawdown_pct": 30})
    author.retire("lane/k")
    draft = author.draft("lane/k", {"fast_bars": 5})
    with ThreadPoolExecutor(1) as threads:
        with psql.transaction():
            assert psql.execute(ACTIVE_RISK).fetchall()
            rollback = threads.submit(author.rollback, to=old, all=True)
            until(lambda: psql.execute(WAITING).fetchall() == [(1,)])
            between = bob.activate(draft.id)
        (answer,) = gather([rollback])
    assert isinstance(answer, Release)
    assert (answer.revision, answer.blocks) == (between.revision + 1, ("lane/k", "risk"))
    assert contents(psql) == contents(psql, old)
