"""An author admits nothing invalid, says what is wrong, and leaves nothing behind when it refuses."""

from __future__ import annotations

import contextlib
import socket
import traceback
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

import psycopg
import pytest

from configbus.author import Author
from configbus.catalogue import load_catalogue
from configbus.errors import (
    ConfigBusError,
    InvalidValue,
    SettingsError,
    Unavailable,
    UnknownBlock,
    UnknownEnvironment,
    UnknownField,
)
from configbus.store.connect import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Psql = psycopg.Connection[tuple[Any, ...]]

DOMAINS = ("configbus.domains", "sample_domains")
CATALOGUE = load_catalogue(DOMAINS)


def options(url: str) -> dict[str, Any]:
    return {"actor": "ana", "database_url": url, "environment": "production", "domains": DOMAINS}


@pytest.fixture
def author(sample_database_url: str) -> Iterator[Author]:
    with Author.connect(**options(sample_database_url)) as author:
        yield author


@pytest.fixture
def lanes(psql: Psql) -> None:
    psql.execute(
        "INSERT INTO configbus.lane_config (environment, key, status)"
        " VALUES ('production', 'a', 'active'), ('production', 'b', 'active')"
    )


def everything(psql: Psql) -> list[Any]:
    """A digest of all that a refused change must leave as it was."""
    tables: tuple[LiteralString, ...] = (
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.trading_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.risk_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.sample_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.lane_config AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.environment AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.release AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.release_block AS t",
        "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.config_audit_log AS t",
    )
    return [psql.execute(table).fetchall() for table in tables]


def content_of(psql: Psql, name: str) -> Any:
    """The newest content that was released of a block."""
    query = "SELECT content FROM configbus.release_block WHERE name = %s ORDER BY revision DESC LIMIT 1"
    return psql.execute(query, [name]).fetchall()[0][0]


def revision(psql: Psql) -> int:
    number: int = psql.execute("SELECT revision FROM configbus.environment").fetchall()[0][0]
    return number


def test_a_change_archives_the_active_row_and_puts_another_in_its_place(psql: Psql, author: Author) -> None:
    before, ((epoch,),) = revision(psql), psql.execute("SELECT epoch FROM configbus.environment").fetchall()
    release = author.set({"trading.score_threshold": "0.8"}, reason="storm")
    assert (release.revision, release.epoch, release.blocks) == (before + 1, epoch, ("trading",))
    rows = psql.execute(
        "SELECT status, name, version, score_threshold, activated_by, max_slippage_exit_bps"
        " FROM configbus.trading_config WHERE status <> 'default' ORDER BY version"
    ).fetchall()
    assert rows == [
        ("archived", "Active Configuration", 1, Decimal("0.700"), "database:configbus", 150),
        ("active", "Active Configuration", 2, Decimal("0.800"), "ana", 150),
    ]
    audit = psql.execute(
        "SELECT action, performed_by, reason, changed_fields FROM configbus.config_audit_log ORDER BY id DESC LIMIT 2"
    ).fetchall()
    assert audit == [("activate", "ana", "storm", ["score_threshold"]), ("archive", "ana", "storm", ["status"])]


def test_several_blocks_are_one_release(psql: Psql, author: Author, lanes: None) -> None:  # noqa: ARG001  # a fixture, for its effect
    before = revision(psql)
    release = author.set(
        {
            "trading.score_threshold": "0.8",
            "lane/b.fast_bars": 3,
            "risk.max_drawdown_pct": 15,
            "lane/a.fast_bars": 3,
            "trading.max_slippage_exit_bps": 7,
        }
    )
    assert (release.revision, release.blocks) == (before + 1, ("lane/a", "lane/b", "risk", "trading"))
    assert revision(psql) == before + 1
    assert content_of(psql, "trading")["score_threshold"] == "0.800"
    assert content_of(psql, "trading")["max_slippage_exit_bps"] == 7


def test_blocks_whose_values_are_in_force_already_are_not_in_the_release(psql: Psql, author: Author) -> None:
    release = author.set({"trading.score_threshold": "0.70", "risk.max_drawdown_pct": 15})
    assert release.blocks == ("risk",)
    assert psql.execute("SELECT max(version) FROM configbus.trading_config").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trading.score_threshold": "0.7"},
        {"trading.score_threshold": "0.70000"},
        {"trading.score_threshold": Decimal("7e-1")},
        {"trading.max_concurrent_positions": 5, "risk.circuit_breaker_enabled": True},
        {"sample.since": datetime(2026, 1, 31, 13, 0, 0, 123456, timezone(timedelta(hours=1)))},
        {"sample.document": CATALOGUE.domain("sample").model().model_dump()["document"]},
        {"sample.limits.venue.weight": "1.00"},
        {"lane/a.venue.weight": Decimal(1)},
        {"lane/a.venue": {"host": "localhost", "weight": Decimal("1.00")}},
    ],
    ids=", ".join,
)
@pytest.mark.usefixtures("lanes")
def test_values_that_are_in_force_make_no_release(psql: Psql, author: Author, changes: dict[str, Any]) -> None:
    before = everything(psql)
    release = author.set(changes)
    assert (release.revision, release.blocks) == (revision(psql), ())
    assert everything(psql) == before


@pytest.mark.parametrize(
    ("old", "new"), [(1, True), (True, 1), (0, False), (2, 2.0), (2.0, 2), (None, False), ("1", 1), ({}, [])], ids=repr
)
@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: [{"deep": [0, part]}]], ids=["plain", "deep"])
def test_a_value_of_another_type_within_a_document_is_a_change(
    psql: Psql, author: Author, old: Any, new: Any, wrap: Callable[[Any], Any]
) -> None:
    author.set({"sample.document": {"n": wrap(old)}})
    assert author.set({"sample.document.n": wrap(new)}).blocks == ("sample",)
    assert repr(content_of(psql, "sample")["document"]["n"]) == repr(wrap(new))
    assert author.set({"sample.document": {"n": wrap(new)}}).blocks == ()
    assert author.set({"sample.document": {"n": wrap(old)}}).blocks == ("sample",)


GIVEN: list[tuple[str, Any, Any]] = [
    ("trading.score_threshold", "0.75", "0.750"),
    ("trading.score_threshold", 1, "1.000"),
    ("trading.score_threshold", 0.1, "0.100"),
    ("trading.score_threshold", Decimal("0.123"), "0.123"),
    ("trading.score_threshold", "+5e-1", "0.500"),
    ("trading.max_position_sol", "999999999999.99999999", "999999999999.99999999"),
    ("trading.max_position_sol", Decimal("123456789012.12345678"), "123456789012.12345678"),
    ("trading.sizing_mode", "fixed_percent", "fixed_percent"),
    ("trading.drawdown_reduction_tiers", [], []),
    (
        "trading.drawdown_reduction_tiers",
        [{"threshold_pct": 5, "size_reduction_pct": "12.50"}],
        [{"threshold_pct": "5", "size_reduction_pct": "12.50"}],
    ),
    ("sample.ratio", 1, 1.0),
    ("sample.ratio", 1e-300, 1e-300),
    ("sample.count", 2**63 - 1, 2**63 - 1),
    ("sample.count", -(2**63), -(2**63)),
    ("sample.enabled", False, False),
    ("sample.note", "🚀" * 200, "🚀" * 200),
    ("sample.remark", "", ""),
    ("sample.remark", "x" * 200_000, "x" * 200_000),
    ("sample.token", UUID(int=7), str(UUID(int=7))),
    ("sample.parent", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("sample.since", datetime(2026, 3, 29, 0, 30, tzinfo=UTC), "2026-03-29T00:30:00.000000Z"),
    ("sample.until", "2026-03-29T02:30:00+02:00", "2026-03-29T00:30:00.000000Z"),
    ("sample.mode", "fast", "fast"),
    ("sample.pace", "slow and steady", "slow and steady"),
    ("sample.side", "it's", "it's"),
    ("sample.limits.soft", 11, {"soft": 11, "venue": {"host": "localhost", "weight": "1.0"}}),
    ("sample.limits.venue.host", "Zürich", {"soft": 10, "venue": {"host": "Zürich", "weight": "1.0"}}),
    ("sample.limits.venue", {"weight": "2.50"}, {"soft": 10, "venue": {"host": "localhost", "weight": "2.50"}}),
    ("sample.document", {"": {"a.b": [1, {"c": None}]}}, {"": {"a.b": [1, {"c": None}]}}),
    ("sample.extra", {"n": 10**30, "x": 1.5}, {"n": 10**30, "x": 1.5}),
    ("sample.tags", ("b", "a"), ["b", "a"]),
]


def shown(path: str, value: Any) -> str:
    try:
        return f"{path}={ascii(value)[:40]}"
    except (RecursionError, ValueError):
        return f"{path}=too long to be shown"


@pytest.mark.parametrize(("path", "value", "content"), GIVEN, ids=[shown(path, value) for path, value, _ in GIVEN])
def test_a_value_is_released_as_it_was_given(psql: Psql, author: Author, path: str, value: Any, content: Any) -> None:
    name, field = path.split(".")[:2]
    assert author.set({path: value}).blocks == (name,)
    assert content_of(psql, name)[field] == content
    block = CATALOGUE.domain(name).model.model_validate(content_of(psql, name))
    assert author.set({f"{name}.{field}": getattr(block, field)}).blocks == ()


@pytest.mark.parametrize("field", ["free", "remark", "parent", "until", "pace", "extra"])
def test_none_takes_a_value_away_again(psql: Psql, author: Author, field: str) -> None:
    values: dict[str, Any] = {"free": 1.5, "parent": UUID(int=7), "until": datetime.now(UTC), "extra": {"a": 1}}
    author.set({f"sample.{field}": values.get(field, "fast")})
    assert content_of(psql, "sample")[field] is not None
    author.set({f"sample.{field}": None})
    assert content_of(psql, "sample")[field] is None


def test_none_in_a_document_is_null_in_sql_too(psql: Psql, author: Author) -> None:
    author.set({"sample.extra": {"a": 1}})
    author.set({"sample.extra": None})
    nulls = psql.execute("SELECT extra IS NULL FROM configbus.sample_config WHERE status = 'active'").fetchall()
    assert nulls == [(True,)]


def test_an_enum_member_is_stored_as_its_value(psql: Psql, author: Author) -> None:
    fields = CATALOGUE.domain("sample").model.model_fields
    mode: Any = fields["mode"].default
    author.set({"sample.mode": type(mode).FAST})
    assert content_of(psql, "sample")["mode"] == "fast"


UNKNOWN: dict[str, tuple[type[ConfigBusError], str, tuple[str, ...]]] = {
    "tradng.score_threshold": (UnknownBlock, "there is no domain 'tradng'; did you mean 'trading'", ("trading",)),
    "trading.score_treshold": (UnknownField, "trading has no field 'score_treshold'", ("score_threshold",)),
    "trading/a.score_threshold": (UnknownBlock, "trading has no keys", ("trading",)),
    "lane.fast_bars": (UnknownBlock, "'lane' needs a key: lane/KEY", ()),
    "lane/.fast_bars": (UnknownBlock, "needs a key", ()),
    "lane/a/b.fast_bars": (UnknownBlock, "needs a key", ()),
    "lane/c.fast_bars": (UnknownBlock, "'lane/c' has no active row in production", ()),
    "trading": (UnknownField, "trading", ()),
    "trading.": (UnknownField, "trading.FIELD", ()),
    "": (UnknownBlock, "there is no domain ''", ()),
    "..": (UnknownBlock, "there is no domain ''", ()),
    "trading.__proto__": (UnknownField, "__proto__", ()),
    "trading.status": (UnknownField, "trading has no field 'status'", ()),
    "sample.limits.venue.wieght": (UnknownField, r"sample has no 'limits.venue.wieght'; did you mean", ("weight",)),
    "sample.limits.nowhere.at.all": (UnknownField, r"sample has no 'limits.nowhere.at.all'", ()),
    "sample.small.x": (UnknownField, r"sample has no 'small.x'", ()),
    "sample.extra.x": (UnknownField, r"sample has no 'extra.x'", ()),
    "trading.drawdown_reduction_tiers.0.threshold_pct": (UnknownField, "drawdown_reduction_tiers", ()),
}


@pytest.mark.parametrize(("path", "error", "words", "near"), [(path, *told) for path, told in UNKNOWN.items()])
def test_unknown_names_are_refused_with_near_misses(
    psql: Psql,
    author: Author,
    lanes: None,  # noqa: ARG001  # a fixture, for its effect
    path: str,
    error: type[ConfigBusError],
    words: str,
    near: tuple[str, ...],
) -> None:
    before = everything(psql)
    with pytest.raises(error, match=words) as refusal:
        author.set({"risk.max_drawdown_pct": 15, path: 1})
    assert getattr(refusal.value, "near", ()) == near
    assert everything(psql) == before


def nested(depth: int) -> list[Any]:
    whole: list[Any] = []
    for _ in range(depth):
        whole = [whole]
    return whole


INVALID: list[tuple[str, Any, str]] = [
    ("trading.score_threshold", "1.001", "less than or equal to 1"),
    ("trading.score_threshold", "0.7001", "no more than 3 decimal places"),
    ("trading.score_threshold", "high", "decimal"),
    ("trading.score_threshold", "", "decimal"),
    ("trading.score_threshold", None, "Decimal"),
    ("trading.score_threshold", True, "Decimal"),
    ("trading.score_threshold", "NaN", "finite"),
    ("trading.score_threshold", Decimal("NaN"), "finite"),
    ("trading.score_threshold", Decimal("Infinity"), "finite"),
    ("trading.score_threshold", float("nan"), "nan is not a finite number"),
    ("trading.score_threshold", "1e1000000000", "digits|less than"),
    ("trading.score_threshold", Decimal("1e1000000000"), "digits|less than"),
    ("trading.score_threshold", "\uff11", "plain digits"),
    ("trading.score_threshold", "0_1", "plain digits"),
    ("trading.score_threshold", " 1\n", "plain digits"),
    ("trading.min_position_sol", 0, "greater than 0"),
    ("trading.max_concurrent_positions", True, "valid integer"),
    ("trading.max_concurrent_positions", 3.0, "valid integer"),
    ("trading.max_concurrent_positions", "3", "valid integer"),
    ("trading.max_concurrent_positions", 10**5000, "integer|less than|digits"),
    ("trading.daily_loss_limit_enabled", 1, "valid boolean"),
    ("trading.daily_loss_limit_enabled", "true", "valid boolean"),
    ("trading.sizing_mode", "none", "'risk_based' or 'fixed_percent'"),
    ("trading.drawdown_reduction_tiers", {}, "list|array"),
    ("trading.drawdown_reduction_tiers", [{"threshold_pct": 5}], "required"),
    ("sample.small", 2**31, "less than or equal to 2147483647"),
    ("sample.count", 2**63, "less than or equal to 9223372036854775807"),
    ("sample.ratio", float("inf"), "inf is not a finite number"),
    ("sample.ratio", "0.5", "valid number"),
    ("sample.ratio", True, "valid number"),
    ("sample.note", "x" * 201, "at most 200 characters"),
    ("sample.note", 5, "valid string"),
    ("sample.remark", "a\0b", "NUL character"),
    ("sample.remark", "\ud800", "half of a surrogate pair"),
    ("sample.remark", b"bytes", "a bytes cannot be a configuration value"),
    ("sample.document", {"a": {"b\0": 1}}, "NUL character"),
    ("sample.document", {"a": ["\udfff"]}, "half of a surrogate pair"),
    ("sample.document", {"a": float("-inf")}, "not a finite number"),
    ("sample.document", {"a": 10**5000}, "digits|large|long"),
    ("sample.document", {"a": nested(100_000)}, "deep|nested|recursion"),
    ("sample.document", [], "object|dictionary|dict"),
    ("sample.document", {1, 2}, "a set cannot be a configuration value"),
    ("sample.token", "not-a-uuid", "UUID"),
    ("sample.since", datetime(2026, 1, 31, 12), "no zone"),  # noqa: DTZ001  # that is what is refused
    ("sample.since", "2026-01-31T12:00:00", "zone"),
    ("sample.since", "2026-02-30T12:00:00Z", "datetime"),
    ("sample.since", "9999-12-31T23:59:59-12:00", "range|datetime|year|late"),
    ("sample.since", "0001-01-01T00:00:00+12:00", "range|datetime|year|early"),
    ("sample.mode", "FAST", "'slow and steady' or 'fast'"),
    ("sample.limits", {"sofd": 1}, "sofd: .*soft"),
    ("sample.limits.venue.weight", "1.001", "no more than 2 decimal places"),
    ("sample.limits.venue.weight", "\uff11", "plain digits"),
    ("sample.tags", "abc", "array|tuple|list"),
]


@pytest.mark.parametrize(("path", "value", "words"), INVALID, ids=[shown(path, value) for path, value, _ in INVALID])
def test_an_invalid_value_is_refused_with_its_path_and_reason(
    psql: Psql, author: Author, path: str, value: Any, words: str
) -> None:
    before = everything(psql)
    with pytest.raises(InvalidValue, match=rf"{path}.*({words})") as refusal:
        author.set({path: value})
    assert [problem.path.startswith(path) for problem in refusal.value.problems] == [True]
    assert everything(psql) == before


def test_every_problem_of_a_block_is_told_at_once(psql: Psql, author: Author) -> None:
    before = everything(psql)
    with pytest.raises(InvalidValue) as refusal:
        author.set(
            {
                "trading.score_threshold": "7",
                "trading.max_concurrent_positions": "many",
                "trading.base_position_pct": -1,
                "trading.sizing_mode": "fixed_percent",
                "trading.drawdown_reduction_tiers": [{"threshold_pct": 1, "size_reduction_pct": 101}],
            }
        )
    assert {problem.path for problem in refusal.value.problems} == {
        "trading.score_threshold",
        "trading.max_concurrent_positions",
        "trading.base_position_pct",
        "trading.drawdown_reduction_tiers.0.size_reduction_pct",
    }
    assert everything(psql) == before


def test_problems_of_every_block_are_told_at_once(author: Author) -> None:
    with pytest.raises(InvalidValue) as refusal:
        author.set({"trading.score_threshold": "7", "risk.max_drawdown_pct": -1, "sample.remark": "\0"})
    paths = {problem.path for problem in refusal.value.problems}
    assert paths == {"trading.score_threshold", "risk.max_drawdown_pct", "sample.remark"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trading.min_position_sol": 2}, "trading: min_position_sol must not be above max_position_sol"),
        ({"sample.ratio": 2.0, "sample.ceiling": 1.0}, "sample: breaks the rule ratio_below_ceiling"),
        ({"lane/a.fast_bars": 60}, "lane.*: breaks the rule fast_below_slow"),
        (
            {
                "trading.drawdown_reduction_tiers": [
                    {"threshold_pct": 5, "size_reduction_pct": 1},
                    {"threshold_pct": 5, "size_reduction_pct": 2},
                ]
            },
            "trading: drawdown_reduction_tiers must have rising thresholds",
        ),
    ],
)
def test_a_broken_rule_across_fields_is_named(
    psql: Psql,
    author: Author,
    lanes: None,  # noqa: ARG001  # a fixture, for its effect
    changes: dict[str, Any],
    words: str,
) -> None:
    before = everything(psql)
    with pytest.raises(InvalidValue, match=words):
        author.set({"risk.max_drawdown_pct": 15, **changes})
    assert everything(psql) == before


def test_one_invalid_block_keeps_the_others_from_being_changed(psql: Psql, author: Author) -> None:
    before = everything(psql)
    with pytest.raises(InvalidValue):
        author.set({"risk.max_drawdown_pct": 15, "trading.score_threshold": 7})
    assert everything(psql) == before
    assert author.set({"risk.max_drawdown_pct": 15}).blocks == ("risk",)


def test_a_reason_that_postgres_cannot_hold_is_refused(psql: Psql, author: Author) -> None:
    before = everything(psql)
    for reason in ("a\0b", "a\ud800b"):
        with pytest.raises(InvalidValue, match="reason"):
            author.set({"risk.max_drawdown_pct": 15}, reason=reason)
    assert everything(psql) == before


def test_a_block_that_raw_sql_made_invalid_can_be_mended(psql: Psql, author: Author) -> None:
    psql.execute("""UPDATE configbus.trading_config SET drawdown_reduction_tiers = '["x"]' WHERE status = 'active'""")
    with pytest.raises(InvalidValue, match=r"trading\.drawdown_reduction_tiers\.0"):
        author.set({"trading.score_threshold": "0.8"})
    assert author.set({"trading.score_threshold": "0.8", "trading.drawdown_reduction_tiers": []}).blocks == ("trading",)


def test_changing_one_field_leaves_every_digit_of_the_others(psql: Psql, author: Author) -> None:
    stored = '{"long": 12345678901234567890.12345678901234567890, "whole": 123456789012345678901234567890, "e": 1e25}'
    psql.execute("UPDATE configbus.sample_config SET document = %s WHERE status = 'active'", [stored])
    query = "SELECT document = %s FROM configbus.sample_config WHERE status = 'active'"
    assert psql.execute(query, [stored]).fetchall() == [(True,)]
    author.set({"sample.small": 99})
    assert psql.execute(query, [stored]).fetchall() == [(True,)]


def test_a_number_too_long_for_python_does_not_lock_a_block_up(psql: Psql, author: Author) -> None:
    psql.execute("""UPDATE configbus.sample_config SET document = '{"x": 1e5000}' WHERE status = 'active'""")
    with contextlib.suppress(InvalidValue):
        author.set({"sample.small": 99})
    assert author.set({"sample.document": {}}).blocks == ("sample",)
    assert content_of(psql, "sample")["document"] == {}


def test_one_unreadable_block_does_not_keep_others_from_being_published(
    psql: Psql, sample_database_url: str, redis_url: str
) -> None:
    psql.execute("""UPDATE configbus.sample_config SET document = '{"x": 1e5000}' WHERE status = 'active'""")
    with Author.connect(**options(sample_database_url), redis_url=redis_url) as author:
        assert author.set({"trading.score_threshold": "0.8"}).blocks == ("trading",)


def test_a_committed_change_is_no_failure_while_redis_is_down(
    psql: Psql, sample_database_url: str, closed_port: int
) -> None:
    url = f"redis://127.0.0.1:{closed_port}"
    with Author.connect(**options(sample_database_url), redis_url=url) as author:
        release = author.set({"trading.score_threshold": "0.8"})
    assert (release.revision, release.blocks) == (revision(psql), ("trading",))


LEFT_NAME = "UPDATE configbus.lane_config SET venue = jsonb_set(venue, '{port}', '80') WHERE status = 'active'"


@pytest.mark.parametrize("path", ["fast_bars", "venue.host"])
@pytest.mark.usefixtures("lanes")
def test_a_name_that_an_earlier_model_left_in_a_document_stays_and_is_in_nobodys_way(
    psql: Psql, author: Author, path: str
) -> None:
    psql.execute(LEFT_NAME)
    value: Any = 3 if path == "fast_bars" else "Bern"
    assert author.set({f"lane/a.{path}": value}).blocks == ("lane/a",)
    venue = {"host": "localhost", "weight": "1.0", "port": 80} | ({"host": value} if "host" in path else {})
    assert content_of(psql, "lane/a")["venue"] == venue
    draft = author.draft("lane/b", {path: value})
    assert draft.content["venue"] == venue
    with pytest.raises(InvalidValue, match=r"lane/b\.venue\.port: "):
        author.activate(draft.id)


@pytest.mark.parametrize(
    "changes",
    [
        {"lane/a.venue.port": 81},
        {"lane/a.venue": {"port": 80}},
        {"lane/a.venue": {"host": "x", "weight": "1.0", "port": 80}},
        {"lane/a.venue.port": 80, "lane/a.fast_bars": 3},
    ],
    ids=", ".join,
)
@pytest.mark.usefixtures("lanes")
def test_a_name_that_an_earlier_model_left_cannot_be_given_any_more(
    psql: Psql, author: Author, changes: dict[str, Any]
) -> None:
    psql.execute(LEFT_NAME)
    before = everything(psql)
    with pytest.raises(InvalidValue, match=r"lane/a\.venue\.port: "):
        author.set(changes)
    assert everything(psql) == before


def test_a_statement_that_takes_too_long_is_unavailable_and_says_that_nothing_was_done(psql: Psql) -> None:
    psql.execute("SET statement_timeout = 1")
    told = "statement timeout: it took longer than it may, and nothing of it was done"
    with pytest.raises(Unavailable, match=told), translated():
        psql.execute("SELECT pg_sleep(5)")


def test_after_a_refusal_the_same_author_goes_on(psql: Psql, author: Author) -> None:
    before = revision(psql)
    with pytest.raises(InvalidValue):
        author.set({"trading.score_threshold": 7})
    with pytest.raises(UnknownField):
        author.set({"trading.nothing": 7})
    assert author.set({"trading.score_threshold": "0.8"}).revision == before + 1


def test_an_author_goes_on_after_its_connection_was_lost(psql: Psql, author: Author) -> None:
    author.set({"trading.score_threshold": "0.8"})
    before = revision(psql)
    psql.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    try:
        author.set({"trading.score_threshold": "0.9"})
    except Unavailable:
        assert revision(psql) == before
        author.set({"trading.score_threshold": "0.9"})
    assert revision(psql) == before + 1


def test_a_key_that_was_retired_meanwhile_is_unknown(
    psql: Psql,
    author: Author,
    lanes: None,  # noqa: ARG001  # a fixture, for its effect
) -> None:
    psql.execute("UPDATE configbus.lane_config SET status = 'archived' WHERE key = 'a'")
    before = everything(psql)
    with pytest.raises(UnknownBlock, match="'lane/a' has no active row in production"):
        author.set({"lane/b.fast_bars": 3, "lane/a.fast_bars": 3})
    assert everything(psql) == before


def test_an_unknown_environment_is_named_with_near_misses(psql: Psql, sample_database_url: str) -> None:
    before = everything(psql)
    with (
        Author.connect(**options(sample_database_url) | {"environment": "prodution"}) as author,
        pytest.raises(UnknownEnvironment, match="no environment 'prodution'") as refusal,
    ):
        author.set({"trading.score_threshold": "0.8"})
    assert refusal.value.near == ("production",)
    assert everything(psql) == before


def test_a_database_without_the_schema_asks_for_migrate(empty_database_url: str) -> None:
    with (
        Author.connect(**options(empty_database_url)) as author,
        pytest.raises(Unavailable, match="configbus migrate") as refusal,
    ):
        author.set({"trading.score_threshold": "0.8"})
    assert refusal.value.server == "Postgres"


def test_a_domain_without_a_table_asks_for_migrate(database_url: str) -> None:
    with Author.connect(**options(database_url)) as author, pytest.raises(Unavailable, match="configbus migrate"):
        author.set({"sample.small": 2})


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken and refuses every connection."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        yield port


def told(error: BaseException) -> str:
    """All that a traceback would show."""
    return "".join(traceback.format_exception(error))


def test_postgres_down_is_unavailable(closed_port: int) -> None:
    url = f"postgresql://configbus:very-secret@127.0.0.1:{closed_port}/configbus"
    with Author.connect(**options(url)) as author, pytest.raises(Unavailable, match=str(closed_port)) as refusal:
        author.set({"trading.score_threshold": "0.8"})
    assert refusal.value.server == "Postgres"
    assert "very-secret" not in told(refusal.value)


@pytest.mark.parametrize("password", ["very-secret", "very-secret%2F%40%3A%25", ""])
def test_a_wrong_password_is_unavailable_and_never_told(sample_database_url: str, password: str) -> None:
    address = sample_database_url.rpartition("@")[2]
    with (
        Author.connect(**options(f"postgresql://configbus:{password}@{address}")) as author,
        pytest.raises(Unavailable, match="password") as refusal,
    ):
        author.set({"trading.score_threshold": "0.8"})
    assert "very-secret" not in told(refusal.value)
    assert "very-secret" not in repr(author)


def test_a_missing_database_is_unavailable_by_name(sample_database_url: str) -> None:
    url = sample_database_url.rpartition("/")[0] + "/nowhere"
    with (
        Author.connect(**options(url)) as author,
        pytest.raises(Unavailable, match='database "nowhere" does not exist'),
    ):
        author.set({"trading.score_threshold": "0.8"})


@pytest.mark.parametrize(
    "url",
    [
        "mysql://configbus:very-secret@127.0.0.1/configbus",
        "configbus:very-secret@127.0.0.1/configbus",
        "postgresql://configbus:very-secret@127.0.0.1:port/configbus",
        "postgresql://configbus:very-secret@[::1/configbus",
        "very-secret",
    ],
)
def test_a_broken_url_is_a_settings_error_that_names_the_variable(url: str) -> None:
    with pytest.raises(SettingsError, match="CONFIGBUS_DATABASE_URL") as refusal:
        Author.connect(**options(url))
    assert "very-secret" not in told(refusal.value)


def test_no_database_url_is_a_settings_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONFIGBUS_DATABASE_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL", "postgresql://other/application")
    with pytest.raises(SettingsError, match="CONFIGBUS_DATABASE_URL is not set"):
        Author.connect(actor="ana")
