"""What Postgres says of a domain's table, and what it would say of the one that the factory makes now.

Both are read from the catalogue in its own normal form, so that they compare equal whichever
statements made them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import MetaData, text
from sqlalchemy.schema import CreateSchema, CreateTable, SetColumnComment, SetTableComment

from configbus.names import LIFECYCLE_COLUMNS
from configbus.store.connect import quoted
from configbus.store.tables import config_table, content_function, naming_checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from sqlalchemy import Connection, Table

    from configbus.block import Domain
    from configbus.store.generations import Generation

SCRATCH = "configbus scratch"
"""No schema of ours can have this name: those have no blanks."""
OUR_CHECK = re.compile(r"key_allowed|.*_(range|choice|length|finite|rule)")
FAMILIES = {"bigint": "integer"}

COLUMNS = text("""
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
           col_description(a.attrelid, a.attnum)
    FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = CAST(:table AS regclass) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""")
CHECKS = text("""
    SELECT conname, regexp_replace(pg_get_constraintdef(oid), ' NOT VALID$', ''),
           ARRAY(SELECT CAST(attname AS text) FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey))
    FROM pg_constraint WHERE conrelid = CAST(:table AS regclass) AND contype = 'c' ORDER BY conname""")
REST = text(r"""
    SELECT obj_description(t.oid, 'pg_class'),
           (SELECT prosrc FROM pg_proc WHERE pronamespace = t.relnamespace AND proname = 'content'
            AND pronargs = 1 AND proargtypes[0] = t.reltype),
           (SELECT split_part(encode(tgargs, 'escape'), '\000', 2) = 'true' FROM pg_trigger
            WHERE tgrelid = t.oid AND tgname = 'capture_insert')
    FROM pg_class AS t WHERE t.oid = CAST(:table AS regclass)""")


@dataclass(frozen=True, slots=True)
class ColumnForm:
    """A field's column in Postgres' own words."""

    type: str
    required: bool
    default: str | None
    comment: str | None

    @property
    def family(self) -> str:
        """Types of one family hold the same kind of values, and differ in how many of them."""
        name = self.type.partition("(")[0]
        return FAMILIES.get(name, name)


@dataclass(frozen=True, slots=True)
class CheckForm:
    """A check in Postgres' own words, and the columns that it looks at."""

    rule: str
    columns: frozenset[str]


@dataclass(frozen=True, slots=True)
class TableForm:
    """Everything about a table that a model has a say in; `lifecycle` holds the types of the columns that all have."""

    lifecycle: dict[str, str]
    columns: dict[str, ColumnForm]
    checks: dict[str, CheckForm]
    comment: str | None
    content: str | None
    keyed: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A table that is not what its model asks for."""

    domain: Domain
    schema: str
    has: TableForm
    wants: TableForm

    @property
    def table(self) -> Table:
        return config_table(self.domain, self.schema)

    @property
    def place(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.domain.table)}"

    @property
    def alter(self) -> str:
        return f"ALTER TABLE {self.place}"

    @property
    def added(self) -> list[str]:
        return [name for name in self.wants.columns if name not in self.has.columns]

    @property
    def removed(self) -> list[str]:
        return [name for name in self.has.columns if name not in self.wants.columns]

    def kept(self, stuck: frozenset[str]) -> Iterator[tuple[str, ColumnForm, ColumnForm]]:
        """Each field of both generations, as it is and as it should be, but for those that cannot go on."""
        for name, wants in self.wants.columns.items():
            if name in self.has.columns and name not in stuck:
                yield name, self.has.columns[name], wants


def find_changes(
    connection: Connection, domains: Iterable[Domain], schema: str, recorded: Mapping[str, Generation]
) -> list[Change]:
    """The tables that differ from the factory's, which are made for the comparison and never seen outside it."""
    found = []
    with connection.begin_nested() as savepoint:
        connection.execute(CreateSchema(SCRATCH))
        for domain in domains:
            with naming_checks(domain):
                _make_scratch(connection, config_table(domain, schema))
            made = _form(connection, domain, SCRATCH, None)
            before = recorded.get(domain.name)
            has = _form(connection, domain, schema, before.checks | made.checks.keys() if before else None)
            content = content_function(domain, schema).split("$$")[1]
            found.append(Change(domain, schema, has, replace(made, content=content)))
        savepoint.rollback()
    return [change for change in found if change.has != change.wants]


def _make_scratch(connection: Connection, table: Table) -> None:
    scratch = table.to_metadata(MetaData(), schema=SCRATCH)
    scratch.c.status.type = table.c.status.type
    connection.execute(CreateTable(scratch, include_foreign_key_constraints=[]))
    connection.execute(SetTableComment(scratch))
    for column in scratch.columns:
        if column.comment:
            connection.execute(SetColumnComment(column))


def _form(connection: Connection, domain: Domain, schema: str, ours: AbstractSet[str] | None) -> TableForm:
    """A table with those of its checks that are ours; where that is not recorded, their names must tell."""
    table = {"table": f"{quoted(schema)}.{quoted(domain.table)}"}
    columns = {name: ColumnForm(*rest) for name, *rest in connection.execute(COLUMNS, table)}
    checks = {name: CheckForm(rule, frozenset(names)) for name, rule, names in connection.execute(CHECKS, table)}
    comment, content, keyed = connection.execute(REST, table).one()
    return TableForm(
        {name: columns.pop(name).type for name in LIFECYCLE_COLUMNS if name in columns},
        columns,
        {
            name: check
            for name, check in checks.items()
            if (OUR_CHECK.fullmatch(name) if ours is None else name in ours)
        },
        comment,
        content,
        domain.keyed if keyed is None else keyed,
    )
