"""The one factory of domain tables: from a domain's columns to table, checks, content function, triggers.

Built-in and user domains go through it alike, so bounds declared on a model hold for raw SQL too.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy import Column as TableColumn
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.schema import CreateIndex, CreateTable, SetColumnComment, SetTableComment

from configbus.errors import MigrationRefused
from configbus.store.connect import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.types import TypeEngine

    from configbus.block import Domain
    from configbus.fields import Column

TYPES: dict[str, type[TypeEngine[Any]]] = {
    "integer": Integer,
    "bigint": BigInteger,
    "boolean": Boolean,
    "text": Text,
    "uuid": Uuid,
    "float": Double,
}
INFINITE = {
    "numeric": "{0} NOT IN ('NaN', 'Infinity', '-Infinity')",
    "timestamp": "{0} >= '0001-01-01 00:00:00+00' AND {0} < '10000-01-01 00:00:00+00'",
}
INFINITE["float"] = INFINITE["numeric"]
CONTENT_PAIRS = 40
"""Fields per jsonb_build_object: Postgres allows a function 100 arguments."""


@lru_cache(maxsize=256)
def config_table(domain: Domain, schema: str) -> Table:
    """The typed table of a domain, `<domain>_config`."""
    metadata = MetaData(schema=schema)
    Table("environment", metadata, TableColumn("name", Text, primary_key=True))
    status = Enum("default", "draft", "active", "archived", name="config_status", schema=schema, create_type=False)
    instant = TIMESTAMP(timezone=True)
    key_rule = "key ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'" if domain.keyed else "key = ''"
    return Table(
        domain.table,
        metadata,
        TableColumn("id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
        TableColumn("environment", Text, ForeignKey("environment.name"), nullable=False),
        TableColumn("key", Text, nullable=False, server_default=text("''")),
        TableColumn("name", String(100), nullable=False),
        TableColumn("status", status, nullable=False, server_default=text("'draft'")),
        TableColumn("version", Integer, nullable=False, server_default=text("1")),
        *(_column(column, domain) for column in domain.columns),
        TableColumn("description", Text),
        TableColumn("created_at", instant, nullable=False),
        TableColumn("created_by", Text, nullable=False),
        TableColumn("updated_at", instant, nullable=False),
        TableColumn("updated_by", Text, nullable=False),
        TableColumn("activated_at", instant),
        TableColumn("activated_by", Text),
        CheckConstraint(key_rule, name="key_allowed"),
        *(check for column in domain.columns for check in _checks(column)),
        *(_check(sql, f"{name}_rule") for name, sql in domain.model.table_checks.items()),
        Index(
            f"{domain.table}_one_active",
            "environment",
            "key",
            unique=True,
            postgresql_where=text("status = 'active'"),
        ),
        Index(
            f"{domain.table}_name",
            "environment",
            "key",
            "name",
            unique=True,
            postgresql_where=text("status <> 'archived'"),
        ),
        comment=(domain.model.__doc__ or "").strip(),
    )


def table_ddl(domain: Domain, schema: str) -> Iterator[Any]:
    """Every statement that makes a domain's table, in order."""
    table = config_table(domain, schema)
    yield CreateTable(table)
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        yield CreateIndex(index)
    yield SetTableComment(table)
    for column in table.columns:
        if column.comment:
            yield SetColumnComment(column)
    yield from (text(_escaped(statement)) for statement in _programs(domain, schema))


@contextmanager
def naming_checks(domain: Domain) -> Iterator[None]:
    """A table that cannot be made is told with the SQL that its model brought along."""
    try:
        yield
    except ProgrammingError as error:
        told = str(error.orig).strip().splitlines()[0]
        checks = "; ".join(f"{name}: {check}" for name, check in domain.model.table_checks.items())
        raise MigrationRefused(
            f"the table of {domain.name!r} cannot be made: {told}. Its table_checks are {checks or 'none'}"
        ) from error


def content_function(domain: Domain, schema: str) -> str:
    """SQL of the function that makes a row's canonical content: the only place where its texts are made."""
    pairs = [f"'{column.name}', {_canonical(column)}" for column in domain.columns]
    chunks = [pairs[start : start + CONTENT_PAIRS] for start in range(0, len(pairs), CONTENT_PAIRS)]
    objects = " || ".join(f"jsonb_build_object({', '.join(chunk)})" for chunk in chunks)
    place = quoted(schema)
    exact = " SET extra_float_digits = 1" if any(column.kind == "float" for column in domain.columns) else ""
    return (
        f"CREATE OR REPLACE FUNCTION {place}.content(r {place}.{domain.table}) RETURNS jsonb LANGUAGE sql STABLE{exact}"
        f" AS $$ SELECT {objects.replace('{schema}', place)} $$"
    )


def _column(column: Column, domain: Domain) -> TableColumn[Any]:
    default = json.loads(domain.model().model_dump_json(include={column.name}))[column.name]
    kind: TypeEngine[Any]
    if column.kind == "numeric":
        kind = Numeric(column.digits, column.places)
    elif column.kind == "timestamp":
        kind = TIMESTAMP(timezone=True)
    elif column.kind == "json":
        kind = JSONB(none_as_null=True)
    else:
        kind = TYPES[column.kind]()
    return TableColumn(
        column.name,
        kind,
        nullable=column.nullable,
        server_default=None if default is None else text(_escaped(_literal(default, column))),
        comment=column.description or None,
    )


def _literal(value: Any, column: Column) -> str:
    if column.kind == "json":
        return text_literal(json.dumps(value, ensure_ascii=False))
    if column.kind == "numeric":
        return f"{Decimal(value):.{column.places}f}"
    return text_literal(value) if isinstance(value, str) else json.dumps(value)


def text_literal(value: str) -> str:
    """A text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


def _checks(column: Column) -> Iterator[CheckConstraint]:
    name = quoted(column.name)
    if column.kind in INFINITE:
        yield _check(INFINITE[column.kind].format(name), f"{column.name}_finite")
    if column.bounds:
        rule = " AND ".join(f"{name} {operator} {_bound(bound)}" for operator, bound in column.bounds)
        yield _check(rule, f"{column.name}_range")
    if column.choices:
        listed = ", ".join(map(text_literal, column.choices))
        yield _check(f"{name} IN ({listed})", f"{column.name}_choice")
    lengths = [(">=", column.min_length), ("<=", column.max_length)]
    if rule := " AND ".join(f"char_length({name}) {op} {limit}" for op, limit in lengths if limit is not None):
        yield _check(rule, f"{column.name}_length")


def _check(rule: str, name: str) -> CheckConstraint:
    return CheckConstraint(text(_escaped(rule)), name=name)


def _bound(bound: Any) -> str:
    return text_literal(bound.isoformat()) if isinstance(bound, datetime) else str(bound)


def _canonical(column: Column) -> str:
    name = quoted(column.name)
    match column.kind:
        case "numeric":
            return f"r.{name}::text"
        case "timestamp":
            return f"{{schema}}.instant(r.{name})"
        case _:
            return f"r.{name}"


def _programs(domain: Domain, schema: str) -> Iterator[str]:
    place = quoted(schema)
    table = f"{place}.{domain.table}"
    yield content_function(domain, schema)
    yield (
        f"CREATE TRIGGER lifecycle BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {place}.lifecycle()"
    )
    yield (
        f"CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION {place}.audit('{domain.name}')"
    )
    for event, condition in (
        ("INSERT", "NEW.status = 'active'"),
        ("UPDATE", "OLD.status = 'active' OR NEW.status = 'active'"),
        ("DELETE", "OLD.status = 'active'"),
    ):
        yield (
            f"CREATE CONSTRAINT TRIGGER capture_{event.lower()} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED"
            f" FOR EACH ROW WHEN ({condition})"
            f" EXECUTE FUNCTION {place}.capture('{domain.name}', '{str(domain.keyed).lower()}')"
        )
    yield (
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table}"
        f" EXECUTE FUNCTION {place}.refuse('it would take the active configuration away; archive rows one by one')"
    )


def _escaped(sql: str) -> str:
    """The same SQL inside text(), where a colon would begin a parameter."""
    return sql.replace(":", "\\:")
