"""`migrate` brings a table to a later generation of its model, and refuses what would lose something."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, LiteralString

import psycopg
import pytest
from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, create_model
from waiting import until

from configbus.block import Block
from configbus.catalogue import catalogue_of
from configbus.errors import MigrationRefused
from configbus.store.connect import LONG, connected
from configbus.store.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

Psql = psycopg.Connection[tuple[Any, ...]]

AWKWARD = 'it\'s 100% "of" :colon, a ::cast, %s %(a)s, {schema} and a\\b'


def migrated(url: str, *models: type[Block], environment: str = "production", schema: str = "configbus") -> list[str]:
    with connected(url, LONG) as connection, connection.begin():
        return migrate(connection, catalogue_of(models), schema, environment)


@pytest.fixture
def url(empty_database_url: str) -> str:
    return empty_database_url


@pytest.fixture
def operator(url: str) -> Iterator[Psql]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        yield connection


def described(psql: Psql, schema: str, table: str) -> dict[str, Any]:
    """Everything that Postgres knows of a table but the order of its columns, without the schema's name."""
    name = {"table": f"{schema}.{table}", "schema": schema}
    queries: dict[str, LiteralString] = {
        "columns": (
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),"
            " col_description(a.attrelid, a.attnum) FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d"
            " ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
            " WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1"
        ),
        "constraints": (
            "SELECT conname, contype::text, pg_get_constraintdef(oid), convalidated FROM pg_constraint"
            " WHERE conrelid = %(table)s::regclass AND contype <> 't' ORDER BY 1"
        ),
        "indexes": (
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname || '.' || tablename = %(table)s ORDER BY 1"
        ),
        "triggers": (
            "SELECT tgname, pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger"
            " WHERE tgrelid = %(table)s::regclass AND NOT tgisinternal ORDER BY 1"
        ),
        "content": (
            "SELECT prosrc, proconfig::text FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace"
            " AND proname = 'content' AND proargtypes[0] = %(table)s::regclass::text::regtype"
        ),
        "comment": "SELECT obj_description(%(table)s::regclass, 'pg_class')",
    }
    found = {part: psql.execute(query, name).fetchall() for part, query in queries.items()}
    return {
        part: [tuple(v.replace(schema, "SCHEMA") if isinstance(v, str) else v for v in row) for row in rows]
        for part, rows in found.items()
    }


def contents(psql: Psql, schema: str, table: str, status: str) -> list[Any]:
    place, function = sql.Identifier(schema, table), sql.Identifier(schema, "content")
    query = sql.SQL("SELECT {}(t) FROM {} AS t WHERE status = %s ORDER BY environment, key, version")
    return [content for (content,) in psql.execute(query.format(function, place), [status])]


def everything(psql: Psql) -> list[Any]:
    """What a refused migration must leave as it was: every table, as it is and with its rows, and all names."""
    names = [
        name
        for (name,) in psql.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'configbus'::regnamespace AND relkind = 'r' ORDER BY 1"
        )
    ]
    rows = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1")
    return [
        psql.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1").fetchall(),
        psql.execute(
            "SELECT oid::regprocedure::text, prosrc FROM pg_proc WHERE prosrc ~ 'SELECT' ORDER BY 1"
        ).fetchall(),
        *(
            (described(psql, "configbus", n), psql.execute(rows.format(sql.Identifier("configbus", n))).fetchall())
            for n in names
        ),
    ]


def releases(psql: Psql) -> list[tuple[str, int, str, list[str]]]:
    """Environment, number and reason of each release, and its blocks."""
    return psql.execute(
        "SELECT r.environment, r.revision, r.reason, array_agg(b.name ORDER BY b.name)"
        " FROM configbus.release AS r JOIN configbus.release_block AS b USING (environment, revision)"
        " GROUP BY r.environment, r.revision, r.reason ORDER BY 1, 2"
    ).fetchall()


# Three generations of one singleton and one keyed domain.


class Side(StrEnum):
    BUY = "buy"
    SELL = "it's a: 50% sell"


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    soft: int = 10
    note: str = AWKWARD


class Desk1(Block, domain="desk"):
    """The first desk."""

    table_checks = {"order": "low <= high"}

    low: int = Field(1, ge=0, le=10, description="the low end")
    high: int = Field(5, ge=-7, le=100)
    price: Decimal = Field(Decimal("2.50"), max_digits=5, decimal_places=2, gt=0)
    narrow: Decimal = Field(Decimal("2.500"), max_digits=8, decimal_places=3)
    mode: Literal["a", "b:c"] = "a"
    label: str = Field("plain", max_length=10)
    maybe: int | None = None
    sure: str = "x"
    gone_description: bool = Field(True, description="to be forgotten")
    ratio: float = Field(-0.25, ge=-1)
    untouched: datetime = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


class Desk2(Block, domain="desk"):
    """The second: it's 100% :better"""

    table_checks = {"order": "low <= high", "spread": "high - low < 200 OR label LIKE '%:wide'"}

    low: int = Field(1, ge=-5, le=10, description="the low end")
    high: int = Field(6, ge=-7, le=2**40)
    price: Decimal = Field(Decimal("-3.250"), max_digits=7, decimal_places=3)
    narrow: Decimal = Field(Decimal("2.5"), max_digits=7, decimal_places=2)
    mode: Literal["a", "b:c", "it's 100%"] = "it's 100%"
    label: str = Field(AWKWARD, max_length=100, description=AWKWARD)
    maybe: int | None = 7
    sure: str | None = "x"
    gone_description: bool = True
    ratio: float = Field(1e300, ge=-2)
    untouched: datetime = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
    amount: Decimal = Field(Decimal("0.00000001"), max_digits=20, decimal_places=8, ge=0)
    side: Side = Side.SELL
    part: Part = Part()
    since: datetime = Field(datetime(2026, 1, 31, 12, 0, 0, 123456, UTC), ge=datetime(2020, 1, 1, tzinfo=UTC))


class Desk3(Block, domain="desk"):
    table_checks = {"spread": "high - low < 300 OR label LIKE '%:wide'", "parts": "tags <> '[]' OR maybe > 0"}

    since: datetime = Field(datetime(2026, 2, 28, tzinfo=UTC), ge=datetime(2021, 1, 1, tzinfo=UTC))
    low: int = Field(-2, ge=-5, le=7, description="it's the 'low' end: 100%")
    high: int = Field(6, ge=-(2**33), le=2**40)
    price: Decimal = Field(Decimal("-3.250"), max_digits=7, decimal_places=3)
    narrow: Decimal = Field(Decimal("2.5"), max_digits=6, decimal_places=2)
    mode: Literal["a", "it's 100%"] = "it's 100%"
    label: str = AWKWARD
    maybe: int = 7
    sure: str | None = None
    gone_description: bool = True
    ratio: float = -2.5
    untouched: datetime = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
    amount: Decimal | None = Field(None, max_digits=20, decimal_places=8, ge=0)
    side: Side | None = Side.SELL
    part: Part = Part(soft=11)
    free: float | None = Field(None, lt=5)
    tags: tuple[str, ...] = (AWKWARD,)
    count: int = Field(-(2**62), ge=-(2**63), le=2**63 - 1)


class Lane1(Block, domain="lane", keyed=True):
    bars: int = Field(20, ge=2, le=500)
    venue: str = "home"


class Lane2(Block, domain="lane", keyed=True):
    """With limits."""

    bars: int = Field(20, ge=2, le=5000, description="how many")
    venue: str = Field("home", min_length=1)
    limit: Decimal = Field(Decimal("1.5"), max_digits=4, decimal_places=1)
    optional: str | None = None


class Lane3(Block, domain="lane", keyed=True):
    """With tighter limits."""

    table_checks = {"fits": '"limit" < bars'}

    bars: int = Field(30, ge=10, le=600, description="how many")
    venue: str = Field("home", min_length=2)
    limit: Decimal = Field(Decimal("2.5"), max_digits=6, decimal_places=2)
    optional: str | None = Field(None, max_length=5)
    parts: dict[str, Any] = {"a": AWKWARD}


def live(psql: Psql, schema: str) -> None:
    """Rows of every status, with values that all generations allow."""
    for statement in (
        (
            "UPDATE {}.desk_config SET low = 2, high = 50, mode = 'a', maybe = 3"
            " WHERE status = 'active' AND environment = 'production'"
        ),
        "INSERT INTO {}.desk_config (environment, low, price, maybe) VALUES ('production', 3, 1.25, 4)",
        "INSERT INTO {}.desk_config (environment, low, status, maybe) VALUES ('production', 4, 'archived', 5)",
        "INSERT INTO {}.lane_config (environment, key, status, bars) VALUES ('production', 'a', 'active', 40)",
        "INSERT INTO {}.lane_config (environment, key, bars) VALUES ('production', 'b', 500)",
        "INSERT INTO {}.lane_config (environment, key, status) VALUES ('production', 'c', 'default')",
    ):
        psql.execute(sql.SQL(statement).format(sql.Identifier(schema)))  # type: ignore[arg-type, unused-ignore]  # text of this test


def test_a_database_built_step_by_step_equals_one_built_at_once(url: str, operator: Psql) -> None:
    migrated(url, Desk1, Lane1, schema="stepwise")
    live(operator, "stepwise")
    assert migrated(url, Desk2, Lane2, schema="stepwise")
    assert migrated(url, Desk2, Lane2, schema="stepwise") == []
    assert migrated(url, Desk3, Lane3, schema="stepwise")
    assert migrated(url, Desk3, Lane3, schema="stepwise") == []
    migrated(url, Desk3, Lane3, schema="at_once")
    for table in ("desk_config", "lane_config"):
        assert described(operator, "stepwise", table) == described(operator, "at_once", table)
    (default,) = contents(operator, "stepwise", "desk_config", "default")
    assert [default] == contents(operator, "at_once", "desk_config", "default")
    assert Desk3.model_validate(default) == Desk3()
    (lane,) = contents(operator, "stepwise", "lane_config", "default")
    assert Lane3.model_validate(lane) == Lane3()


def test_rows_keep_their_values_through_generations(url: str, operator: Psql) -> None:
    migrated(url, Desk1, Lane1)
    live(operator, "configbus")
    migrated(url, Desk2, Lane2)
    migrated(url, Desk3, Lane3)
    (active,) = contents(operator, "configbus", "desk_config", "active")
    (draft,) = contents(operator, "configbus", "desk_config", "draft")
    (archived,) = contents(operator, "configbus", "desk_config", "archived")
    first, second, third = Desk1(), Desk2(), Desk3()
    old = {name: getattr(first, name) for name in Desk1.model_fields}
    added = {name: getattr(second, name) for name in Desk2.model_fields if name not in old}
    added |= {name: getattr(third, name) for name in Desk3.model_fields if name not in old and name not in added}
    assert Desk3.model_validate(active) == Desk3(**old | added | {"low": 2, "high": 50, "maybe": 3})
    assert Desk3.model_validate(draft) == Desk3(**old | added | {"low": 3, "price": Decimal("1.25"), "maybe": 4})
    assert Desk3.model_validate(archived) == Desk3(**old | added | {"low": 4, "maybe": 5})
    assert active["price"] == "2.500"
    assert [lane["bars"] for lane in contents(operator, "configbus", "lane_config", "active")] == [40]


def test_a_migration_tells_what_it_did(url: str, operator: Psql) -> None:
    migrated(url, Lane1)
    operator.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    )
    operator.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'default')"
    )
    assert migrated(url, Lane2) == [
        "column limit of lane_config",
        "column optional of lane_config",
        "content function of lane_config",
        "check bars_range of lane_config",
        "check limit_finite of lane_config",
        "check venue_length of lane_config",
        "column bars of lane_config: description",
        "description of lane_config",
        "active rows of lane_config: 1",
    ]
    assert migrated(url, Lane3) == [
        "column parts of lane_config",
        "column bars of lane_config: default",
        "column limit of lane_config: numeric(4,1) to numeric(6,2)",
        "column limit of lane_config: default",
        "content function of lane_config",
        "default rows of lane_config: 1",
        "check bars_range of lane_config",
        "check fits_rule of lane_config",
        "check optional_length of lane_config",
        "check venue_length of lane_config",
        "description of lane_config",
        "active rows of lane_config: 1",
    ]


# What is refused.


def refused(url: str, psql: Psql, *models: type[Block]) -> MigrationRefused:
    """The refusal, which told each DDL and changed nothing."""
    before = everything(psql)
    with pytest.raises(MigrationRefused) as refusal:
        migrated(url, *models)
    assert everything(psql) == before
    for statement in refusal.value.ddl:
        assert f"{statement};" in str(refusal.value)
    return refusal.value


def by_hand(psql: Psql, statements: tuple[str, ...]) -> None:
    for statement in statements:
        psql.execute(statement.encode())


class Old(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int | None = None


class Removed(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    maybe: int | None = None


class Renamed(Block, domain="item"):
    table_checks = {"used": "limit_of_it <> 5 OR note = '5'"}

    limit_of_it: int = Field(5, ge=0, le=10)
    other: int = 3
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int | None = None


class Retyped(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: int = 7
    maybe: int | None = None


class Whole(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: int = 1
    note: str = "5"
    maybe: int | None = None


class Tighter(Block, domain="item"):
    limit: int = Field(5, ge=0, le=7)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int | None = None


class Ruled(Block, domain="item"):
    table_checks = {"sum": '"limit" + fresh < 15', "product": "\"limit\" * fresh < 35 AND note NOT LIKE '%:x'"}

    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int | None = None
    fresh: int = 6


class Required(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int = 3


class Rougher(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.00"), max_digits=6, decimal_places=2)
    note: str = "5"
    maybe: int | None = None


class Smaller(Block, domain="item"):
    limit: int = Field(5, ge=0, le=10)
    big: int = 5
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int | None = None


class Higher(Block, domain="item"):
    limit: int = Field(12, ge=8, le=20)
    big: int = Field(5, le=2**40)
    price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
    note: str = "5"
    maybe: int | None = None


class Keyed(Old, domain="item", keyed=True):
    pass


@dataclass(frozen=True)
class Case:
    """A later model, what was written before, what is told, and what is to be changed by hand before the DDL."""

    model: type[Block]
    rows: LiteralString
    told: tuple[str, ...]
    first: LiteralString = ""


ALTER = 'ALTER TABLE "configbus"."item_config" '
UPDATE = 'UPDATE "configbus"."item_config" SET '
SET = "UPDATE configbus.item_config SET "
CASES = {
    "removed": Case(
        Removed,
        SET + "note = 'it''s 100%' WHERE status = 'active'",
        (
            (
                "item has no field 'note' any more; or an older version of the code runs migrate\n"
                f'  {ALTER}DROP COLUMN "note";\n  1 row stands against it (0 archived): '
            ),
            " active production: note = it's 100%",
        ),
    ),
    "renamed": Case(
        Renamed,
        SET + "\"limit\" = 6, note = '6'",
        (
            (
                "item has no field 'limit' any more; or an older version of the code runs migrate."
                " Was it renamed to 'limit_of_it', which is new and of the same type?"
                f' If not: {ALTER}DROP COLUMN "limit";\n'
                f'  {ALTER}RENAME COLUMN "limit" TO "limit_of_it";\n  2 rows stand against it (0 archived): '
            ),
            " default production: limit = 6",
        ),
    ),
    "of another kind": Case(
        Retyped,
        SET + "note = 'many' WHERE status = 'active'",
        ("item.note changed from text to integer, which is another kind of value", " active production: note = many"),
        SET + "note = '12' WHERE status = 'active'",
    ),
    "a decimal that is whole now": Case(
        Whole,
        SET + "price = 1.5 WHERE status = 'active'",
        (
            "item.price changed from numeric(6,3) to integer",
            " 1 row stands against it",
            " active production: price = 1.500",
        ),
        SET + "price = 2 WHERE status = 'active'",
    ),
    "tighter than active rows": Case(
        Tighter,
        SET + "\"limit\" = 8 WHERE status = 'active'",
        (
            (
                "item: rows break the check limit_range; change those that are not archived first\n"
                f'  {ALTER}DROP CONSTRAINT IF EXISTS "limit_range", ADD CONSTRAINT "limit_range"'
                ' CHECK ("limit" >= 0 AND "limit" <= 7);\n  1 row stands against it (0 archived): '
            ),
            " active production: limit = 8",
        ),
        SET + "\"limit\" = 7 WHERE status = 'active'",
    ),
    "tighter than archived rows": Case(
        Tighter,
        'INSERT INTO configbus.item_config (environment, status, "limit")'
        " SELECT 'production', 'archived', 8 FROM generate_series(1, 7)",
        (
            'CHECK ("limit" >= 0 AND "limit" <= 7) NOT VALID;\n  7 rows stand against it (7 archived): ',
            " archived production: limit = 8; and 2 more",
        ),
    ),
    "tighter than the default row": Case(
        Tighter,
        SET + "\"limit\" = 8 WHERE status = 'default'",
        (" default production: limit = 8",),
        SET + "\"limit\" = 7 WHERE status = 'default'",
    ),
    "a rule that archived rows break with a new field": Case(
        Ruled,
        "INSERT INTO configbus.item_config (environment, status, \"limit\") VALUES ('production', 'archived', 9)",
        (
            (
                f"  {ALTER}ADD COLUMN IF NOT EXISTS fresh INTEGER DEFAULT 6 NOT NULL,"
                ' DROP CONSTRAINT IF EXISTS "sum_rule",'
                ' ADD CONSTRAINT "sum_rule" CHECK ("limit" + fresh < 15) NOT VALID;'
            ),
            "NOT LIKE '%:x') NOT VALID;",
            " archived production: fresh = 6, limit = 9",
        ),
    ),
    "required, and draft rows have none": Case(
        Required,
        "INSERT INTO configbus.item_config (environment) VALUES ('production');"
        " UPDATE configbus.item_config SET maybe = 1 WHERE status = 'active'",
        (
            (
                "item.maybe must not be null any more; change those that are not archived first\n"
                f'  {UPDATE}"maybe" = CASE WHEN'
            ),
            f'  {ALTER}ALTER COLUMN "maybe" SET NOT NULL;\n  1 row stands against it (0 archived): ',
            " draft production: maybe = NULL",
        ),
        SET + "maybe = 4 WHERE status = 'draft'",
    ),
    "required, and archived rows have none": Case(
        Required,
        'INSERT INTO configbus.item_config (environment, status, "limit")'
        " VALUES ('production', 'archived', 9);"
        " UPDATE configbus.item_config SET maybe = 1 WHERE status = 'active'",
        (f'  {ALTER}ADD NOT NULL "maybe" NOT VALID;', " archived production: maybe = NULL"),
    ),
    "with fewer places than values have": Case(
        Rougher,
        SET + "price = 1.005 WHERE status = 'active'",
        (
            (
                "item.price changed from numeric(6,3) to numeric(6,2), which cannot hold the values of all rows\n"
                f'  {ALTER}ALTER COLUMN "price" TYPE numeric(6,2);'
            ),
            " active production: price = 1.005",
        ),
    ),
    "tighter than a draft, with another default": Case(
        Higher,
        "INSERT INTO configbus.item_config (environment, \"limit\") VALUES ('production', 6);"
        " UPDATE configbus.item_config SET \"limit\" = 9 WHERE status = 'active'",
        (" draft production: limit = 6",),
        SET + "\"limit\" = 8 WHERE status = 'draft'",
    ),
    "too small for values": Case(
        Smaller,
        SET + "big = 3000000000 WHERE status = 'active'",
        (
            "item.big changed from bigint to integer, which cannot hold the values of all rows",
            " active production: big = 3000000000",
        ),
        SET + "big = 3 WHERE status = 'active'",
    ),
    "keyed now": Case(
        Keyed,
        SET + "\"limit\" = 8 WHERE status = 'active'",
        ("item has keys now and had none.", '  DROP TABLE "configbus"."item_config" CASCADE;\n  2 rows stand'),
    ),
}


def without_history(psql: Psql, schema: str) -> dict[str, Any]:
    """The table of items, but for what tells that archived rows were not looked at, and how a column was called."""
    found = described(psql, schema, "item_config")
    return found | {
        "constraints": [
            (name, rule.removesuffix(" NOT VALID")) for name, kind, rule, _ in found["constraints"] if kind != "n"
        ]
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_would_lose_something_is_refused_with_ddl_that_works(url: str, operator: Psql, case: Case) -> None:
    migrated(url, Old)
    operator.execute(case.rows)
    refusal = refused(url, operator, case.model)
    for words in case.told:
        assert words in str(refusal)
    if case.first:
        operator.execute(case.first)
    by_hand(operator, refusal.ddl)
    migrated(url, case.model)
    assert migrated(url, case.model) == []
    migrated(url, case.model, schema="at_once")
    assert without_history(operator, "configbus") == without_history(operator, "at_once")
    values = contents(operator, "configbus", "item_config", "active")
    published = operator.execute(
        "SELECT content FROM configbus.release_block WHERE name = 'item' ORDER BY revision DESC"
    )
    assert next(row for (row,) in published.fetchall()) == (values[0] if values else None)


def test_a_keyed_domain_that_has_no_keys_any_more_is_refused(url: str, operator: Psql) -> None:
    migrated(url, Keyed)
    operator.execute(
        "INSERT INTO configbus.item_config (environment, key, status) VALUES ('production', 'a', 'active')"
    )
    refusal = refused(url, operator, Old)
    assert "item has no keys now and had some." in str(refusal)
    assert " active production/a: name = draft " in str(refusal)
    by_hand(operator, refusal.ddl)
    migrated(url, Old)
    assert migrated(url, Old) == []
    assert [names for *_, names in releases(operator)] == [["item/a"], ["item/a"], ["item"]]


def test_a_column_of_a_narrower_type_is_held_to_its_new_bounds_in_the_same_message(url: str, operator: Psql) -> None:
    class Least(Block, domain="item"):
        limit: int = Field(5, ge=0, le=10)
        big: int = Field(5, le=100)
        price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
        note: str = "5"
        maybe: int | None = None

    migrated(url, Old)
    operator.execute("UPDATE configbus.item_config SET big = 3000000000 WHERE status = 'active'")
    operator.execute("INSERT INTO configbus.item_config (environment, big) VALUES ('production', 500)")
    message = str(refused(url, operator, Least))
    assert "item.big changed from bigint to integer" in message
    assert " draft production: big = 500" in message


def test_a_new_field_succeeds_one_that_is_gone_and_the_nearest_in_name(url: str, operator: Psql) -> None:
    class Before(Block, domain="item"):
        upper_bound: int = 1
        lower_limit: int = 2
        note: str = "x"

    class After(Block, domain="item"):
        comment: str = "x"
        low: int = 3
        lower: int = 2

    class Last(Block, domain="item"):
        lower: int = 2

    migrated(url, Before)
    renames = ('"lower_limit" TO "lower"', '"upper_bound" TO "low"', '"note" TO "comment"')
    assert sorted(refused(url, operator, After).ddl) == sorted(f"{ALTER}RENAME COLUMN {rename}" for rename in renames)
    assert refused(url, operator, Last).ddl == (
        f'{ALTER}DROP COLUMN "upper_bound"',
        f'{ALTER}RENAME COLUMN "lower_limit" TO "lower"',
        f'{ALTER}DROP COLUMN "note"',
    )


def test_rules_about_a_renamed_field_are_judged_once_it_has_its_name(url: str, operator: Psql) -> None:
    migrated(url, Old)
    operator.execute(CASES["renamed"].rows)
    assert refused(url, operator, Renamed).ddl == (f'{ALTER}RENAME COLUMN "limit" TO "limit_of_it"',)


def test_checks_of_a_field_go_with_its_type(url: str, operator: Psql) -> None:
    class Chosen(Block, domain="item"):
        table_checks = {"known": "mode <> '3'"}

        mode: Literal["1", "2"] = "1"

    class Counted(Block, domain="item"):
        mode: int = 1

    migrated(url, Chosen)
    by_hand(operator, refused(url, operator, Counted).ddl)
    assert migrated(url, Counted) == ["active rows of item_config: 1"]
    assert contents(operator, "configbus", "item_config", "active") == [{"mode": 1}]


def test_an_active_row_that_is_required_to_have_a_value_is_told(url: str, operator: Psql) -> None:
    migrated(url, Old)
    assert " active production: maybe = NULL" in str(refused(url, operator, Required))


def test_every_problem_of_every_domain_is_in_one_message(url: str, operator: Psql) -> None:
    class Worse(Block, domain="item"):
        limit: int = Field(5, ge=0, le=7)
        big: str = "x"
        price: Decimal = Field(Decimal("1.00"), max_digits=6, decimal_places=2)
        maybe: int = 3

    class Lane(Block, domain="lane", keyed=True):
        bars: int = Field(20, ge=2, le=50)
        venue: str = "home"
        added: int = 1

    migrated(url, Old, Lane1)
    operator.execute('UPDATE configbus.item_config SET "limit" = 9, price = 1.005')
    operator.execute("INSERT INTO configbus.lane_config (environment, key, bars) VALUES ('production', 'b', 500)")
    refusal = refused(url, operator, Worse, Lane)
    for words in (
        "item has no field 'note' any more",
        "item.big changed from bigint to text",
        "item.price changed from numeric(6,3) to numeric(6,2)",
        "item: rows break the check limit_range",
        "item.maybe must not be null any more",
        "lane: rows break the check bars_range",
        " draft production/b: bars = 500",
    ):
        assert words in str(refusal)
    assert len(refusal.ddl) == 7


def test_old_code_against_a_newer_table_is_refused(url: str, operator: Psql) -> None:
    migrated(url, Desk1, Lane1)
    live(operator, "configbus")
    migrated(url, Desk2, Lane2)
    message = str(refused(url, operator, Desk1, Lane1))
    for field in ("desk has no field 'side'", "lane has no field 'limit'"):
        assert f"{field} any more; or an older version of the code runs migrate" in message


def test_a_table_that_configbus_did_not_make_is_refused(url: str, operator: Psql) -> None:
    operator.execute("CREATE SCHEMA configbus")
    operator.execute("CREATE TABLE configbus.item_config (id int, status text, note text)")
    refusal = refused(url, operator, Old)
    assert "item_config is not a table that configbus made: it lacks id, environment, key" in str(refusal)
    by_hand(operator, refusal.ddl)
    assert "table item_config" in migrated(url, Old)


def test_a_table_whose_domain_is_not_in_the_catalogue_is_left_alone(url: str, operator: Psql) -> None:
    migrated(url, Old, Lane1)
    before = described(operator, "configbus", "item_config")
    migrated(url, Lane2)
    assert described(operator, "configbus", "item_config") == before


# What becomes of rows, releases and what others put beside ours.


def test_one_release_per_environment_brings_new_fields_to_workers(url: str, operator: Psql) -> None:
    migrated(url, Desk1, Lane1)
    migrated(url, Desk1, Lane1, environment="staging")
    live(operator, "configbus")
    operator.execute("INSERT INTO configbus.environment (name, epoch) VALUES ('empty', 1)")
    before = releases(operator)
    rows = "SELECT id, version, activated_at FROM configbus.desk_config WHERE status = 'active' ORDER BY 1"
    kept = operator.execute(rows).fetchall()
    migrated(url, Desk2, Lane2)
    assert releases(operator) == sorted(
        [
            *before,
            ("production", 4, "migrate", ["desk", "lane/a"]),
            ("staging", 2, "migrate", ["desk"]),
        ],
        key=lambda release: release[:2],
    )
    assert operator.execute(rows).fetchall() == kept
    newest = "SELECT content FROM configbus.release_block WHERE environment = %s AND name = %s ORDER BY revision DESC"
    for environment, low in (("production", 2), ("staging", 1)):
        (content,) = operator.execute(newest, [environment, "desk"]).fetchall()[0]
        assert Desk2.model_validate(content).part == Part()
        assert (content["amount"], content["price"], content["low"]) == ("0.00000001", "2.500", low)
    (content,) = operator.execute(newest, ["production", "lane/a"]).fetchall()[0]
    assert content == {"bars": 40, "venue": "home", "limit": "1.5", "optional": None}
    told = operator.execute(
        "SELECT action, reason, old_values, new_values FROM configbus.config_audit_log"
        " WHERE config_table = 'lane_config' AND key = 'a' ORDER BY id DESC LIMIT 1"
    ).fetchall()
    assert told == [("update", "migrate", {"bars": 40, "venue": "home"}, content)]


def test_versions_count_on_from_where_they_were(url: str, operator: Psql) -> None:
    migrated(url, Lane1)
    operator.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    )
    edit = "UPDATE configbus.lane_config SET bars = bars + 1 WHERE status = 'active' RETURNING version, bars"
    assert operator.execute(edit).fetchall() == [(2, 21)]
    migrated(url, Lane2)
    assert operator.execute(edit).fetchall() == [(3, 22)]


def test_what_changes_nothing_live_makes_no_release(url: str, operator: Psql) -> None:
    class Lane(Block, domain="lane", keyed=True):
        """Other words."""

        table_checks = {"some": "bars <> 3"}

        bars: int = Field(25, ge=-1, le=2**40, description="other words")
        venue: str | None = Field("away", max_length=9)

    migrated(url, Lane1)
    operator.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    )
    row = operator.execute("TABLE configbus.lane_config").fetchall()
    before, log = releases(operator), operator.execute("TABLE configbus.config_audit_log").fetchall()
    assert migrated(url, Lane)
    assert (releases(operator), operator.execute("TABLE configbus.config_audit_log").fetchall()) == (before, log)
    assert operator.execute("TABLE configbus.lane_config").fetchall() == row


def test_default_rows_follow_the_model_where_nobody_changed_them(url: str, operator: Psql) -> None:
    class Later(Block, domain="item"):
        limit: int = Field(12, ge=11, le=20)
        big: int = Field(6, le=2**40)
        price: Decimal = Field(Decimal("2.000"), max_digits=6, decimal_places=3)
        note: str = AWKWARD
        maybe: int = 3

    migrated(url, Old)
    operator.execute("UPDATE configbus.item_config SET price = 9 WHERE status = 'default'")
    operator.execute("UPDATE configbus.item_config SET maybe = 1 WHERE status = 'active'")
    operator.execute("ALTER TABLE configbus.item_config DROP CONSTRAINT limit_range")
    operator.execute("UPDATE configbus.item_config SET \"limit\" = 15 WHERE status = 'active'")
    before = releases(operator)
    assert "default rows of item_config: 1" in migrated(url, Later)
    (default,) = contents(operator, "configbus", "item_config", "default")
    assert default == {"limit": 12, "big": 6, "price": "9.000", "note": AWKWARD, "maybe": 3}
    (active,) = contents(operator, "configbus", "item_config", "active")
    assert active == {"limit": 15, "big": 5, "price": "1.000", "note": "5", "maybe": 1}
    assert releases(operator) == before
    ((action, reason, fields),) = operator.execute(
        "SELECT action, reason, changed_fields FROM configbus.config_audit_log ORDER BY id DESC LIMIT 1"
    ).fetchall()
    assert (action, reason, fields) == ("update", "migrate", ["big", "limit", "maybe", "note"])


def test_a_default_row_that_was_edited_is_left_alone(url: str, operator: Psql) -> None:
    class Later(Block, domain="lane", keyed=True):
        bars: int = Field(25, ge=2, le=500)
        venue: str = "home"

    migrated(url, Lane1)
    operator.execute(
        "INSERT INTO configbus.lane_config (environment, key, status, bars) VALUES ('production', 'a', 'default', 30)"
    )
    rows = operator.execute("TABLE configbus.lane_config").fetchall()
    assert migrated(url, Later) == ["column bars of lane_config: default"]
    assert operator.execute("TABLE configbus.lane_config").fetchall() == rows


def test_with_nothing_to_do_nobody_is_waited_for(url: str, operator: Psql) -> None:
    migrated(url, Old)
    with operator.transaction():
        operator.execute("UPDATE configbus.item_config SET \"limit\" = 6 WHERE status = 'active'")
        assert migrated(url, Old) == []


def test_rows_that_are_being_written_are_waited_for_and_judged(url: str, operator: Psql) -> None:
    class Short(Block, domain="item"):
        limit: int = Field(5, ge=0, le=10)
        big: int = Field(5, le=2**40)
        price: Decimal = Field(Decimal("1.000"), max_digits=6, decimal_places=3)
        note: str = Field("5", max_length=3)
        maybe: int | None = None

    migrated(url, Old)
    waits = "SELECT FROM pg_locks WHERE NOT granted"
    with psycopg.connect(url, autocommit=True) as watcher, ThreadPoolExecutor(1) as pool:
        with operator.transaction():
            operator.execute("INSERT INTO configbus.item_config (environment, note) VALUES ('production', 'too long')")
            migration = pool.submit(migrated, url, Short)
            until(lambda: watcher.execute(waits).fetchall())
        with pytest.raises(MigrationRefused, match="draft production: note = too long"):
            migration.result()


def test_an_operators_own_check_and_index_survive(url: str, operator: Psql) -> None:
    migrated(url, Desk1, Lane1)
    live(operator, "configbus")
    operator.execute("ALTER TABLE configbus.desk_config ADD CONSTRAINT sane CHECK (price < 900)")
    operator.execute("CREATE INDEX by_price ON configbus.desk_config (price)")

    def own() -> list[Any]:
        found = described(operator, "configbus", "desk_config")
        return [row for part in ("constraints", "indexes") for row in found[part] if row[0] in ("sane", "by_price")]

    before = own()
    assert len(before) == 2
    migrated(url, Desk2, Lane2)
    migrated(url, Desk3, Lane3)
    assert migrated(url, Desk3, Lane3) == []
    assert own() == before


def test_a_check_that_was_left_unvalidated_is_left_so(url: str, operator: Psql) -> None:
    migrated(url, Old)
    operator.execute(CASES["tighter than archived rows"].rows)
    by_hand(operator, refused(url, operator, Tighter).ddl)
    assert "check limit_range of item_config" not in migrated(url, Tighter)
    with pytest.raises(psycopg.errors.CheckViolation):
        operator.execute("UPDATE configbus.item_config SET \"limit\" = 8 WHERE status = 'active'")


@pytest.mark.parametrize("text", [AWKWARD, "'", "\\", "%", ":x", "\\:y", "''::text", "$$", "a\nb\t"])
def test_texts_keep_their_punctuation(url: str, operator: Psql, text: str) -> None:
    class Plain(Block, domain="prose"):
        note: str = "plain"
        mode: Literal["plain"] = "plain"

    fields: dict[str, Any] = {
        "note": (str, Field(text, description=text)),
        "mode": (Literal["plain", text], text),
        "added": (str, Field(text, description=text)),
        "choice": (Literal[text] | None, None),
    }
    rules = {"rule": f"note <> 'NOT' || $q${text}$q$"}
    base: Any = type("Base", (Block,), {"__module__": __name__, "__annotations__": {}, "table_checks": rules})
    make: Any = create_model
    model: type[Block] = make("Later", __base__=base, __doc__=text, __cls_kwargs__={"domain": "prose"}, **fields)
    migrated(url, Plain, schema="stepwise")
    migrated(url, model, schema="stepwise")
    assert migrated(url, model, schema="stepwise") == []
    migrated(url, model, schema="at_once")
    assert described(operator, "stepwise", "prose_config") == described(operator, "at_once", "prose_config")
    for schema in ("stepwise", "at_once"):
        (default,) = contents(operator, schema, "prose_config", "default")
        assert default == {"note": text, "mode": text, "added": text, "choice": None}


def test_two_schemas_are_migrated_at_once(url: str) -> None:
    for schema in ("one", "two"):
        migrated(url, Old, schema=schema)
    with connected(url) as connection, connection.begin():
        assert migrate(connection, catalogue_of([Ruled]), "one", "production")
        assert migrated(url, Ruled, schema="two")
    assert migrated(url, Ruled, schema="one") == []
