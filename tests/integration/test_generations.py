"""What lies within documents is held to the model, too, when a later generation of it is migrated to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from pydantic import BaseModel, ConfigDict, Field

from configbus.block import Block
from configbus.catalogue import catalogue_of
from configbus.errors import MigrationRefused
from configbus.store.connect import LONG, connected
from configbus.store.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

Psql = psycopg.Connection[tuple[Any, ...]]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Inner(Frozen):
    port: int = Field(80, ge=1, le=65_535)


class Part(Frozen):
    host: str = "localhost"
    inner: Inner = Inner()


class Desk(Block, domain="desk"):
    n: int = 1
    part: Part = Part()
    lanes: tuple[Part, ...] = ()


class RenamedPart(Frozen):
    hostname: str = "localhost"
    inner: Inner = Inner()


class Renamed(Block, domain="desk"):
    n: int = 1
    part: RenamedPart = RenamedPart()
    lanes: tuple[Part, ...] = ()


class BareInner(Frozen):
    pass


class BarePart(Frozen):
    host: str = "localhost"
    inner: BareInner = BareInner()


class Removed(Block, domain="desk"):
    n: int = 1
    part: BarePart = BarePart()
    lanes: tuple[Part, ...] = ()


class LowInner(Frozen):
    port: int = Field(80, ge=1, le=100)


class LowPart(Frozen):
    host: str = "localhost"
    inner: LowInner = LowInner()


class Tighter(Block, domain="desk"):
    n: int = 1
    part: LowPart = LowPart()
    lanes: tuple[LowPart, ...] = ()


class Grown(Frozen):
    host: str = "localhost"
    inner: Inner = Inner()
    retries: int = 3


class Later(Block, domain="desk"):
    n: int = 1
    part: Grown = Grown()
    lanes: tuple[Grown, ...] = ()


def migrated(url: str, model: type[Block]) -> list[str]:
    with connected(url, LONG) as connection, connection.begin():
        return migrate(connection, catalogue_of([model]), "configbus", "production")


@pytest.fixture
def operator(empty_database_url: str) -> Iterator[Psql]:
    migrated(empty_database_url, Desk)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE configbus.desk_config SET part = %s WHERE status = 'active'",
            ['{"host": "prod-1", "inner": {"port": 8080}}'],
        )
        yield connection


def live(operator: Psql) -> Any:
    (content,) = operator.execute(
        "SELECT content FROM configbus.release_block WHERE name = 'desk' ORDER BY revision DESC LIMIT 1"
    ).fetchone() or (None,)
    return content


def refused(url: str, model: type[Block]) -> MigrationRefused:
    with pytest.raises(MigrationRefused) as caught:
        migrated(url, model)
    return caught.value


def test_a_part_that_is_renamed_is_refused_with_sql_that_carries_it_over(
    empty_database_url: str, operator: Psql
) -> None:
    error = refused(empty_database_url, Renamed)
    assert "desk.part.host: documents hold it, and the model does not have it any more" in str(error)
    assert "Was it renamed to 'hostname'?" in str(error)
    assert "active production: desk.part.host = prod-1" in str(error)
    assert live(operator)["part"]["host"] == "prod-1"

    for statement in error.ddl:
        operator.execute(statement.encode())
    migrated(empty_database_url, Renamed)
    assert live(operator)["part"] == {"hostname": "prod-1", "inner": {"port": 8080}}
    assert migrated(empty_database_url, Renamed) == []


def test_a_part_that_is_removed_at_any_depth_is_refused_until_it_is_taken_out(
    empty_database_url: str, operator: Psql
) -> None:
    error = refused(empty_database_url, Removed)
    assert "desk.part.inner.port: documents hold it" in str(error)
    assert "renamed" not in str(error)
    for statement in error.ddl:
        operator.execute(statement.encode())
    migrated(empty_database_url, Removed)
    assert live(operator)["part"] == {"host": "prod-1", "inner": {}}


def test_a_tighter_bound_within_a_document_names_the_rows_that_break_it(
    empty_database_url: str, operator: Psql
) -> None:
    error = refused(empty_database_url, Tighter)
    assert "desk.part.inner.port: rows hold what the model does not allow: Input should be less than or" in str(error)
    assert "1 row stands against it (0 archived): " in str(error)
    assert "desk.part.inner.port = 8080" in str(error)
    operator.execute("""UPDATE configbus.desk_config SET part = '{"inner": {"port": 90}}' WHERE status = 'active'""")
    migrated(empty_database_url, Tighter)


def test_a_part_in_a_list_is_named_where_it_stands(empty_database_url: str, operator: Psql) -> None:
    operator.execute(
        """UPDATE configbus.desk_config SET lanes = '[{}, {"inner": {"port": 101}}]' WHERE status = 'active'"""
    )
    assert "desk.lanes.1.inner.port = 101" in str(refused(empty_database_url, Tighter))


def test_a_part_that_is_added_is_no_obstacle(empty_database_url: str, operator: Psql) -> None:
    migrated(empty_database_url, Later)
    assert live(operator)["part"] == {"host": "prod-1", "inner": {"port": 8080}}


def test_a_row_that_raw_sql_broke_stops_no_migration_to_the_same_model(empty_database_url: str, operator: Psql) -> None:
    operator.execute("""UPDATE configbus.desk_config SET part = '{"inner": {"port": -1}}' WHERE status = 'active'""")
    assert migrated(empty_database_url, Desk) == []


def test_archived_rows_are_history_and_stand_against_nothing(empty_database_url: str, operator: Psql) -> None:
    with operator.transaction():
        operator.execute("UPDATE configbus.desk_config SET status = 'archived' WHERE status = 'active'")
        operator.execute(
            "INSERT INTO configbus.desk_config (environment, name, status) VALUES ('production', 'low', 'active')"
        )
    migrated(empty_database_url, Tighter)


def test_an_operators_check_stays_whatever_it_is_called_and_one_of_the_model_goes_with_its_rule(
    empty_database_url: str, operator: Psql
) -> None:
    class Ruled(Block, domain="desk"):
        table_checks = {"small": "n < 1000"}
        n: int = Field(1, ge=0)
        part: Part = Part()
        lanes: tuple[Part, ...] = ()

    migrated(empty_database_url, Ruled)
    operator.execute("ALTER TABLE configbus.desk_config ADD CONSTRAINT desk_max_rule CHECK (n < 50)")
    assert migrated(empty_database_url, Ruled) == []
    assert migrated(empty_database_url, Desk) == [
        "check n_range of desk_config: dropped",
        "check small_rule of desk_config: dropped",
    ]
    with pytest.raises(psycopg.errors.CheckViolation, match="desk_max_rule"):
        operator.execute("UPDATE configbus.desk_config SET n = 50 WHERE status = 'active'")


@pytest.mark.parametrize("check", ["n < ", "n < missing", "n < count(*)"])
def test_a_rule_that_is_no_sql_is_refused_with_its_domain_and_name(empty_database_url: str, check: str) -> None:
    class Broken(Block, domain="broken"):
        table_checks = {"small": check}
        n: int = 1

    assert "the table of 'broken' cannot be made: " in str(refused(empty_database_url, Broken))
    assert f"small: {check}" in str(refused(empty_database_url, Broken))
