"""`migrate` makes exactly what a catalogue declares, once, and takes it away only while nothing would be lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from threading import Barrier
from typing import TYPE_CHECKING, Any, Literal, LiteralString

import psycopg
import pytest
from psycopg import sql
from pydantic import Field, create_model
from sqlalchemy import text

from configbus.author import Author
from configbus.block import Block
from configbus.catalogue import Catalogue, catalogue_of, load_catalogue
from configbus.domains import TradingConfig
from configbus.errors import MigrationRefused, UnknownEnvironment
from configbus.store.chain import verify_chain
from configbus.store.connect import LONG, Place, connected, quoted
from configbus.store.releases import newest_head, newest_state
from configbus.store.schema import downgrade, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.block import Domain

Psql = psycopg.Connection[tuple[Any, ...]]

BUILT_IN = load_catalogue(["configbus.domains"])
EVERYTHING = load_catalogue(["configbus.domains", "sample_domains"])

DOMAINS = ("api", "cluster", "discovery", "exit", "risk", "scoring", "trading")
FIRST_ROWS = [f"{status} row of {name}_config" for name in DOMAINS for status in ("default", "active")]

LIFECYCLE = {
    "id": ("uuid", True),
    "environment": ("text", True),
    "key": ("text", True),
    "name": ("character varying(100)", True),
    "status": ("configbus.config_status", True),
    "version": ("integer", True),
    "description": ("text", False),
    "created_at": ("timestamp with time zone", True),
    "created_by": ("text", True),
    "updated_at": ("timestamp with time zone", True),
    "updated_by": ("text", True),
    "activated_at": ("timestamp with time zone", False),
    "activated_by": ("text", False),
}
SAMPLE = {
    "ratio": ("double precision", True),
    "free": ("double precision", False),
    "amount": ("numeric(20,8)", True),
    "count": ("bigint", True),
    "small": ("integer", True),
    "enabled": ("boolean", True),
    "note": ("text", True),
    "remark": ("text", False),
    "token": ("uuid", True),
    "parent": ("uuid", False),
    "since": ("timestamp with time zone", True),
    "until": ("timestamp with time zone", False),
    "mode": ("text", True),
    "pace": ("text", False),
    "side": ("text", True),
    "limits": ("jsonb", True),
    "document": ("jsonb", True),
    "extra": ("jsonb", False),
    "tags": ("jsonb", True),
}


def migrated(
    url: str, catalogue: Catalogue = BUILT_IN, schema: str = "configbus", environment: str = "production"
) -> list[str]:
    with connected(url, LONG) as connection, connection.begin():
        return migrate(connection, catalogue, schema, environment)


def brought_down(url: str, schema: str = "configbus") -> None:
    with connected(url) as connection, connection.begin():
        downgrade(connection, schema, "base")


@pytest.fixture
def operator(empty_database_url: str) -> Iterator[Psql]:
    """Without our schema in the search path, which it is in by default where user and schema have one name."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog")
        yield connection


def columns(psql: Psql, table: str) -> dict[str, tuple[str, bool]]:
    """Type and whether NULL is refused, of each column."""
    query = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return {name: (kind, required) for name, kind, required in psql.execute(query, [table])}


def checks(psql: Psql, table: str) -> dict[str, str]:
    """Named checks of a table but that of its key."""
    query = (
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'"
        " AND pg_get_constraintdef(oid) !~ '\\mkey\\M'"
    )
    found: dict[str, str] = dict(psql.execute(query, [table]).fetchall())
    return found


def objects(psql: Psql, schema: str) -> list[tuple[Any, ...]]:
    """Everything with a name in a schema, to see that nothing was left or changed."""
    return psql.execute(
        "SELECT 'relation', relname, relkind::text FROM pg_class WHERE relnamespace = %(schema)s::regnamespace"
        " UNION ALL SELECT 'function', oid::regprocedure::text, md5(prosrc) FROM pg_proc"
        " WHERE pronamespace = %(schema)s::regnamespace"
        " UNION ALL SELECT 'type', typname, typtype::text FROM pg_type WHERE typnamespace = %(schema)s::regnamespace"
        " UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = %(schema)s::regnamespace AND contype <> 't'"
        " UNION ALL SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE NOT tgisinternal ORDER BY 1, 2, 3",
        {"schema": quoted(schema)},
    ).fetchall()


def rows(psql: Psql, table: sql.Composable) -> list[tuple[Any, ...]]:
    query = sql.SQL("SELECT environment, key, status::text, name, version FROM configbus.{} ORDER BY 1, 2, 3")
    return psql.execute(query.format(table)).fetchall()


def test_a_new_database_gets_frame_tables_environment_and_first_rows(empty_database_url: str, operator: Psql) -> None:
    assert migrated(empty_database_url) == [
        "frame 0007",
        *(f"table {name}_config" for name in DOMAINS),
        "environment production",
        *FIRST_ROWS,
    ]
    for name in DOMAINS:
        assert rows(operator, sql.Identifier(f"{name}_config")) == [
            ("production", "", "active", "Active Configuration", 1),
            ("production", "", "default", "System Defaults", 1),
        ]
    told = operator.execute("SELECT revision, reason, actor FROM configbus.release").fetchall()
    assert told == [(1, "migrate", "database:configbus")]


def test_a_release_is_made_before_the_commit_which_nobody_waits_for_long(empty_database_url: str) -> None:
    with connected(empty_database_url, LONG) as connection, connection.begin():
        migrate(connection, BUILT_IN, "configbus", "production")
        told = connection.execute(text("SELECT revision, chain IS NOT NULL FROM configbus.release")).all()
    assert told == [(1, True)]


def test_migrating_again_changes_nothing(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, EVERYTHING)
    before = objects(operator, "configbus"), operator.execute("TABLE configbus.config_audit_log").fetchall()
    assert migrated(empty_database_url, EVERYTHING) == []
    assert (objects(operator, "configbus"), operator.execute("TABLE configbus.config_audit_log").fetchall()) == before


def test_a_domain_that_is_new_in_the_catalogue_gets_its_table(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    assert migrated(empty_database_url, EVERYTHING) == [
        "table sample_config",
        "table lane_config",
        "default row of sample_config",
        "active row of sample_config",
    ]
    names = operator.execute("SELECT name FROM configbus.release_block WHERE revision = 2").fetchall()
    assert names == [("sample",)]


def test_a_second_environment_has_rows_and_revisions_of_its_own(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    with Author.connect(actor="ana", database_url=empty_database_url, environment="production") as author:
        author.set({"trading.score_threshold": "0.1"})
    assert migrated(empty_database_url, environment="staging-2") == ["environment staging-2", *FIRST_ROWS]
    with connected(empty_database_url) as connection:
        production = newest_state(connection, Place("configbus", "production"))
        staging = newest_state(connection, Place("configbus", "staging-2"))
    assert (production.head.revision, staging.head.revision) == (2, 1)
    assert production.head.bus != staging.head.bus
    assert production.head.system == staging.head.system
    assert [entry.name for entry in staging.entries] == list(DOMAINS)
    scores = operator.execute(
        "SELECT environment, score_threshold FROM configbus.trading_config WHERE status = 'active' ORDER BY 1"
    ).fetchall()
    assert scores == [("production", Decimal("0.100")), ("staging-2", Decimal("0.700"))]


def test_an_active_row_that_is_there_is_left_alone(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    with Author.connect(actor="ana", database_url=empty_database_url, environment="production") as author:
        author.set({"trading.score_threshold": "0.1"})
    operator.execute("DELETE FROM configbus.trading_config WHERE status = 'default'")
    assert migrated(empty_database_url) == ["default row of trading_config"]
    active = operator.execute("SELECT score_threshold FROM configbus.trading_config WHERE status = 'active'").fetchall()
    assert active == [(Decimal("0.100"),)]


def test_two_migrators_at_once_make_everything_once(empty_database_url: str, operator: Psql) -> None:
    barrier = Barrier(4)

    def at_once(_: int) -> list[str]:
        barrier.wait()
        return migrated(empty_database_url)

    with ThreadPoolExecutor(4) as pool:
        done = sorted(pool.map(at_once, range(4)), key=len)
    assert done[:3] == [[], [], []]
    assert len(done[3]) == 2 + 3 * len(DOMAINS)
    assert [row[2] for row in rows(operator, sql.Identifier("trading_config"))] == ["active", "default"]


def test_a_migration_that_fails_leaves_nothing(empty_database_url: str, operator: Psql) -> None:
    class BrokenConfig(Block, domain="broken"):
        table_checks = {"wrong": "no_such_column > 0"}
        amount: int = 1

    with pytest.raises(Exception, match="no_such_column"):
        migrated(empty_database_url, catalogue_of([TradingConfig, BrokenConfig]))
    assert operator.execute("SELECT FROM pg_namespace WHERE nspname = 'configbus'").fetchall() == []


def test_down_to_base_takes_everything_away_and_up_again_brings_it_back(
    empty_database_url: str, operator: Psql
) -> None:
    migrated(empty_database_url, EVERYTHING)
    before = objects(operator, "configbus")
    brought_down(empty_database_url)
    left = {name for kind, name, _ in objects(operator, "configbus") if kind != "constraint"}
    assert {name for name in left if not name.startswith(("migration", "_migration"))} == set()
    assert migrated(empty_database_url, EVERYTHING)[0] == "frame 0007"
    assert objects(operator, "configbus") == before


MORE: dict[str, Any] = {
    "a release": "UPDATE configbus.trading_config SET score_threshold = 0.1 WHERE status = 'active'",
    "a draft": "INSERT INTO configbus.trading_config (environment) VALUES ('production')",
    "a keyed block": (
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    ),
    "a draft of a keyed block": "INSERT INTO configbus.lane_config (environment, key) VALUES ('production', 'a')",
    "an edited default row": "UPDATE configbus.trading_config SET score_threshold = 0.1 WHERE status = 'default'",
    "a default row of a keyed block": (
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'default')"
    ),
}


@pytest.mark.parametrize("statement", MORE.values(), ids=MORE)
def test_going_down_is_refused_while_there_is_more_than_the_first_rows(
    empty_database_url: str, operator: Psql, statement: Any
) -> None:
    migrated(empty_database_url, EVERYTHING)
    operator.execute(statement)
    before = objects(operator, "configbus")
    with pytest.raises(MigrationRefused, match=r"schema 'configbus' holds more than the first rows .* would lose them"):
        brought_down(empty_database_url)
    assert objects(operator, "configbus") == before


def test_going_down_is_refused_after_an_author_wrote(empty_database_url: str) -> None:
    migrated(empty_database_url)
    with Author.connect(actor="ana", database_url=empty_database_url, environment="production") as author:
        author.set({"trading.score_threshold": "0.1"}, reason="migrate")
    with pytest.raises(MigrationRefused, match="more than the first rows"):
        brought_down(empty_database_url)


def test_going_down_is_refused_where_there_is_nothing(empty_database_url: str) -> None:
    with pytest.raises(MigrationRefused, match="nothing of configbus in schema 'configbus'"):
        brought_down(empty_database_url)


@pytest.mark.parametrize("definition", ["status text DEFAULT 'x'", "amount int"])
def test_going_down_leaves_tables_of_others_alone(empty_database_url: str, operator: Psql, definition: str) -> None:
    operator.execute("CREATE SCHEMA configbus")
    operator.execute(sql.SQL("CREATE TABLE configbus.other_config ({})").format(sql.SQL(definition)))  # type: ignore[arg-type, unused-ignore]  # text of this test
    migrated(empty_database_url)
    brought_down(empty_database_url)
    assert operator.execute("SELECT count(*) FROM configbus.other_config").fetchall() == [(0,)]


@pytest.mark.parametrize("domain", list(BUILT_IN), ids=lambda domain: domain.name)
def test_a_table_has_the_lifecycle_columns_and_tells_what_it_and_its_fields_are(
    empty_database_url: str, operator: Psql, domain: Domain
) -> None:
    migrated(empty_database_url)
    table = f"configbus.{domain.table}"
    found = columns(operator, table)
    assert {name: found[name] for name in LIFECYCLE} == LIFECYCLE
    comments = operator.execute(
        "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = %s::regclass", [table]
    ).fetchall()
    described = {name: field.description for name, field in domain.model.model_fields.items()}
    assert {name: comment for name, comment in comments if name in described} == described
    ((comment,),) = operator.execute("SELECT obj_description(%s::regclass)", [table]).fetchall()
    assert comment == domain.model.__doc__


def test_columns_of_every_kind_are_as_declared(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, EVERYTHING)
    found = columns(operator, "configbus.sample_config")
    assert {name: kind for name, kind in found.items() if name not in LIFECYCLE and name != "ceiling"} == SAMPLE
    model = EVERYTHING.domain("sample").model
    with connected(empty_database_url) as connection:
        ((content,),) = connection.execute(
            text("SELECT configbus.content(t) FROM configbus.sample_config AS t WHERE status = 'active'")
        )
    assert model.model_validate(content) == model()


def test_bounds_are_named_checks(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, EVERYTHING)
    found = checks(operator, "configbus.trading_config")
    numbers = [column for column in BUILT_IN.domain("trading").columns if column.kind in ("numeric", "integer")]
    assert set(found) == {
        *(f"{column.name}_finite" for column in numbers if column.kind == "numeric"),
        *(f"{column.name}_range" for column in numbers),
        "sizing_mode_choice",
        "position_range_rule",
    }
    assert found["position_range_rule"] == "CHECK ((min_position_sol <= max_position_sol))"
    assert "score_threshold <= (1)" in found["score_threshold_range"]
    assert set(checks(operator, "configbus.lane_config")) == {
        "fast_bars_range",
        "slow_bars_range",
        "threshold_finite",
        "threshold_range",
        "fast_below_slow_rule",
    }
    sample = checks(operator, "configbus.sample_config")
    assert {"since_finite", "until_finite", "ratio_finite", "ratio_range", "note_length", "mode_choice"} <= set(sample)
    assert "'it''s'" in sample["side_choice"]


def test_one_active_row_and_one_name_are_partial_unique_indexes(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    indexes: dict[str, str] = dict(
        operator.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'trading_config'").fetchall()
    )
    assert set(indexes) == {"trading_config_pkey", "trading_config_one_active", "trading_config_name"}
    assert indexes["trading_config_one_active"].startswith("CREATE UNIQUE INDEX")
    assert "(environment, key) WHERE (status = 'active'" in indexes["trading_config_one_active"]
    assert "(environment, key, name) WHERE (status <> 'archived'" in indexes["trading_config_name"]


def test_the_audit_log_has_the_columns_that_were_asked_for(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    found = columns(operator, "configbus.config_audit_log")
    assert {name: kind for name, (kind, _) in found.items()} == {
        "id": "bigint",
        "config_table": "character varying(50)",
        "config_id": "uuid",
        "environment": "text",
        "key": "text",
        "action": "character varying(20)",
        "old_values": "jsonb",
        "new_values": "jsonb",
        "changed_fields": "text[]",
        "reason": "text",
        "performed_by": "text",
        "performed_at": "timestamp with time zone",
        "source_ip": "character varying(45)",
        "user_agent": "text",
    }


def test_a_keyed_domain_gets_a_table_without_rows(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, EVERYTHING)
    assert rows(operator, sql.Identifier("lane_config")) == []
    operator.execute(
        "INSERT INTO configbus.lane_config (environment, key, status) VALUES ('production', 'a', 'active')"
    )
    environment = {"environment": "production", "domains": ["configbus.domains", "sample_domains"]}
    with Author.connect(actor="ana", database_url=empty_database_url, **environment) as author:
        assert author.set({"lane/a.fast_bars": 30}).blocks == ("lane/a",)
    assert operator.execute("SELECT fast_bars, version, status FROM configbus.lane_config ORDER BY 2").fetchall() == [
        (20, 1, "archived"),
        (30, 2, "active"),
    ]


@pytest.mark.parametrize("schema", ["select", "Trading-Desk_2", "x" * 63])
def test_a_schema_may_be_called_what_settings_allow(empty_database_url: str, operator: Psql, schema: str) -> None:
    assert migrated(empty_database_url, schema=schema)
    assert migrated(empty_database_url, schema=schema) == []
    with Author.connect(
        actor="ana", database_url=empty_database_url, environment="production", schema=schema
    ) as author:
        assert author.set({"trading.score_threshold": "0.1"}).revision == 2
    edit = sql.SQL("UPDATE {}.trading_config SET score_threshold = 0.2 WHERE status = 'active'")
    operator.execute(edit.format(sql.Identifier(schema)))
    with connected(empty_database_url) as connection:
        assert newest_head(connection, Place(schema, "production")).revision == 3
        assert verify_chain(connection, Place(schema, "production"), ()).broken == ()
        assert newest_state_of(empty_database_url, schema) == list(DOMAINS)
    migrated(empty_database_url, schema="other")
    brought_down(empty_database_url, "other")


def newest_state_of(url: str, schema: str) -> list[str]:
    with connected(url) as connection:
        return [entry.name for entry in newest_state(connection, Place(schema, "production")).entries]


def test_two_schemas_in_one_database_know_nothing_of_each_other(empty_database_url: str) -> None:
    migrated(empty_database_url, schema="one")
    migrated(empty_database_url, schema="two", environment="staging")
    with connected(empty_database_url) as connection:
        assert newest_head(connection, Place("one", "production")).revision == 1
        with pytest.raises(UnknownEnvironment, match=r"no environment 'production' .* configbus migrate"):
            newest_head(connection, Place("two", "production"))


def test_a_table_that_lacks_a_column_gets_it(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url)
    before = objects(operator, "configbus")
    operator.execute("ALTER TABLE configbus.trading_config DROP COLUMN sizing_mode CASCADE")
    assert migrated(empty_database_url) == [
        "column sizing_mode of trading_config",
        "check sizing_mode_choice of trading_config",
    ]
    assert objects(operator, "configbus") == before
    assert migrated(empty_database_url) == []


def test_a_table_with_a_column_that_nobody_declared_is_refused_and_named(
    empty_database_url: str, operator: Psql
) -> None:
    migrated(empty_database_url)
    operator.execute("ALTER TABLE configbus.risk_config ADD COLUMN mood text")
    before = objects(operator, "configbus")
    with pytest.raises(MigrationRefused, match=r"risk has no field 'mood' any more; or an older version"):
        migrated(empty_database_url, EVERYTHING)
    assert objects(operator, "configbus") == before


class ReservedConfig(Block, domain="reserved"):
    """Words of SQL are names like any other, in bounds as well."""

    table_checks = {"below": '"limit" <= "offset"'}

    limit: int = Field(5, ge=0)
    offset: int = Field(5, ge=0)
    order: float = 1.0
    user: str = Field("somebody with a long name", max_length=30)
    select: Literal["table", "where"] = "table"
    end: Decimal = Field(Decimal("1.0"), max_digits=5, decimal_places=1)
    current_date: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    session_user: str = Field("", max_length=0)


class PunctuationMode(StrEnum):
    COLON = ":colon"
    SPACED = "a :b"
    CAST = "x::y"
    PERCENT = "50%"
    FORMAT = "%(x)s"
    QUOTE = "it's"
    BACKSLASH = "a\\b"
    BRACE = "{schema}"


class PunctuationConfig(Block, domain="punctuation"):
    mode: PunctuationMode = PunctuationMode.COLON


class RuleConfig(Block, domain="rule"):
    table_checks = {"like": "note NOT LIKE '%:x' AND note <> ':y' AND amount::bigint > 0"}

    amount: int = 1
    note: str = ""


class ProseConfig(Block, domain="prose"):
    """It's a 100% "doc" with a :colon, a ::cast, a {brace} and a %s"""

    note: str = Field(
        "it's 50% of :x or ::y, {schema} %s %(a)s \\ \\: \n", description="it's 50% of :x, {z} %s %(a)s \\"
    )


class KeyRuleConfig(Block, domain="key_rule"):
    table_checks = {"key": "amount <> 7"}

    amount: int = 1


class TimeConfig(Block, domain="time"):
    start: datetime = Field(datetime(2026, 1, 1, tzinfo=UTC), ge=datetime(2020, 1, 1, tzinfo=UTC))


LONG_NAMES = [f"field_{number:03}_{'x' * 30}" for number in range(250)]
ManyConfig = create_model(
    "ManyConfig",
    __base__=Block,
    __cls_kwargs__={"domain": "m" * 40},
    **{name: (int, Field(number, ge=0)) for number, name in enumerate(LONG_NAMES)},  # type: ignore[call-overload]  # the stubs are narrower than the call
)


def refused(psql: Psql, statement: LiteralString, constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as violation:
        psql.execute(statement)
    assert violation.value.diag.constraint_name == constraint


def test_fields_may_be_called_like_words_of_sql(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([ReservedConfig]))
    refused(operator, 'UPDATE configbus.reserved_config SET "limit" = -1', "limit_range")
    refused(operator, "UPDATE configbus.reserved_config SET \"order\" = 'NaN'", "order_finite")
    refused(operator, """UPDATE configbus.reserved_config SET "user" = repeat('x', 31)""", "user_length")
    refused(operator, """UPDATE configbus.reserved_config SET "select" = 'from'""", "select_choice")
    refused(operator, """UPDATE configbus.reserved_config SET "end" = 'NaN'""", "end_finite")
    refused(operator, """UPDATE configbus.reserved_config SET "current_date" = 'infinity'""", "current_date_finite")
    operator.execute("""UPDATE configbus.reserved_config SET "user" = 'bob' WHERE status = 'active'""")
    query = "SELECT content->'user' FROM configbus.release_block ORDER BY revision DESC LIMIT 1"
    assert operator.execute(query).fetchall() == [("bob",)]


def test_choices_keep_their_punctuation(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([PunctuationConfig]))
    for mode in PunctuationMode:
        operator.execute("UPDATE configbus.punctuation_config SET mode = %s", [mode.value])
    refused(operator, "UPDATE configbus.punctuation_config SET mode = 'NULL'", "mode_choice")


def test_rules_keep_their_punctuation(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([RuleConfig]))
    operator.execute("UPDATE configbus.rule_config SET note = 'NULL'")
    operator.execute("UPDATE configbus.rule_config SET note = 'ends with NULL'")
    refused(operator, "UPDATE configbus.rule_config SET note = ':y'", "like_rule")
    refused(operator, "UPDATE configbus.rule_config SET note = 'ends with :x'", "like_rule")
    refused(operator, "UPDATE configbus.rule_config SET amount = 0", "like_rule")


def test_defaults_and_comments_keep_their_punctuation(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([ProseConfig]))
    assert operator.execute("SELECT DISTINCT note FROM configbus.prose_config").fetchall() == [(ProseConfig().note,)]
    ((comment, described),) = operator.execute(
        "SELECT obj_description(attrelid), col_description(attrelid, attnum) FROM pg_attribute"
        " WHERE attrelid = 'configbus.prose_config'::regclass AND attname = 'note'"
    ).fetchall()
    assert comment == ProseConfig.__doc__
    assert described == ProseConfig.model_fields["note"].description


def test_bounds_of_times_are_checks(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([TimeConfig]))
    refused(operator, "UPDATE configbus.time_config SET start = '2019-12-31T23:59:59Z'", "start_range")


def test_a_rule_may_be_called_key(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([KeyRuleConfig]))
    with pytest.raises(psycopg.errors.CheckViolation):
        operator.execute("UPDATE configbus.key_rule_config SET amount = 7")


def test_a_domain_may_have_hundreds_of_fields_with_long_names(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, catalogue_of([ManyConfig]))
    ((content,),) = operator.execute("SELECT content FROM configbus.release_block").fetchall()
    assert content == {name: number for number, name in enumerate(LONG_NAMES)}
    table = sql.Identifier("configbus", "m" * 40 + "_config")
    operator.execute(sql.SQL("UPDATE {} SET {} = 7").format(table, sql.Identifier(LONG_NAMES[-1])))
    tables = operator.execute("SELECT DISTINCT config_table FROM configbus.config_audit_log").fetchall()
    assert tables == [("m" * 40 + "_config",)]
