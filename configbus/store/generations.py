"""The models that the tables were last brought to, and the rows that a later one does not read any more.

Columns are Postgres' own business; what lies within documents, and what Python alone judges, is asked of
the model itself, once whenever it changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from sqlalchemy import CheckConstraint

from configbus.fields import options_of, part_of
from configbus.jsontext import readable
from configbus.names import near
from configbus.store.connect import quoted, sql
from configbus.store.obstacles import SHOWN_ROWS, Against, Obstacle, shown_row
from configbus.store.tables import config_table, text_literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_core import ErrorDetails
    from sqlalchemy import Connection, Row

    from configbus.block import Domain

LIVING = """
    SELECT left(_row.id::text, 8) AS id, _row.status::text AS status, _row.environment, _row.key,
           {schema}.content(_row)::text AS content
    FROM {schema}.{table} AS _row WHERE _row.status <> 'archived' ORDER BY _row.environment, _row.key, _row.id"""
RECORDED = "SELECT name, model, checks FROM {schema}.domain"
RECORD = """
    INSERT INTO {schema}.domain (name, model, checks) VALUES (:name, CAST(:model AS jsonb), :checks)
    ON CONFLICT (name) DO UPDATE
        SET model = excluded.model, checks = excluded.checks, migrated_at = DEFAULT, migrated_by = DEFAULT
        WHERE (domain.model, domain.checks) IS DISTINCT FROM (excluded.model, excluded.checks)"""

Fault = tuple[tuple[str, ...], str]
"""Where in a block, and what is wrong there; empty where the model does not know the name."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A model as JSON Schema, and the names of the checks that its table has because of it."""

    model: dict[str, Any]
    checks: frozenset[str]


def generation_of(domain: Domain) -> Generation:
    """The generation that this process knows."""
    constraints = config_table(domain, "configbus").constraints
    checks = frozenset(str(check.name) for check in constraints if isinstance(check, CheckConstraint))
    return Generation(json.loads(json.dumps(domain.model.model_json_schema())), checks)


def recorded_generations(connection: Connection, schema: str) -> dict[str, Generation]:
    """The generations that the tables were last brought to, by domain."""
    rows = connection.execute(sql(RECORDED, schema))
    return {row.name: Generation(row.model, frozenset(row.checks)) for row in rows}


def record_generation(connection: Connection, domain: Domain, schema: str) -> None:
    """Record that the table is one for this generation now."""
    generation = generation_of(domain)
    given = {"name": domain.name, "model": json.dumps(generation.model), "checks": sorted(generation.checks)}
    connection.execute(sql(RECORD, schema), given)


def unreadable_rows(connection: Connection, domain: Domain, schema: str) -> list[Obstacle]:
    """What rows that are not archived hold and the model does not allow or does not know."""
    against: dict[Fault, list[str]] = {}
    rows: dict[Fault, Row[Any]] = {}
    for row in connection.execute(sql(LIVING, schema, domain.table)):
        try:
            domain.model.model_validate_json(row.content, strict=True, extra="forbid")
        except ValidationError as error:
            for found in error.errors():
                where = tuple(map(str, found["loc"]))
                value = {".".join((domain.name, *where)): found["input"] if where else row.content}
                fault = where, "" if found["type"] == "extra_forbidden" else _reason(found)
                against.setdefault(fault, []).append(shown_row(row.id, row.status, row.environment, row.key, value))
                rows.setdefault(fault, row)
    return [
        _obstacle(domain, schema, fault, Against(len(shown), len(shown), tuple(shown[:SHOWN_ROWS])), rows[fault])
        for fault, shown in against.items()
    ]


def _obstacle(domain: Domain, schema: str, fault: Fault, against: Against, row: Row[Any]) -> Obstacle:
    where, reason = fault
    path = ".".join((domain.name, *where))
    if reason:
        return Obstacle(f"{path}: rows hold what the model does not allow: {reason}; change them first", (), against)
    what = f"{path}: documents hold it, and the model does not have it any more"
    if len(where) == 1 or any(part.isdecimal() for part in where):
        return Obstacle(f"{what}; put other values there", (), against)
    place, column = f"{quoted(schema)}.{quoted(domain.table)}", quoted(where[0])
    old = _steps(where[1:])
    drop = f"{column} #- {old}"
    change, otherwise = drop, ""
    if candidates := list(_absent_names(domain, where, readable(row.content))):
        successor = (near(where[-1], candidates) or candidates)[0]
        change = f"jsonb_set({drop}, {_steps((*where[1:-1], successor))}, {column} #> {old})"
        otherwise = f". Was it renamed to {successor!r}? If not: SET {column} = {drop}"
    where_held = f"{column} #> {old} IS NOT NULL AND status <> 'archived'"
    ddl = f"UPDATE {place} SET {column} = {change} WHERE {where_held}"  # noqa: S608  # quoted, and only shown
    return Obstacle(what + otherwise, (ddl,), against)


def _absent_names(domain: Domain, where: tuple[str, ...], content: Any) -> Iterator[str]:
    """Fields of the model at that place which the document does not have: one of them may be a new name."""
    annotation, document = domain.model.model_fields[where[0]].annotation, content[where[0]]
    for part in where[1:-1]:
        annotation, document = part_of(annotation, part)[0], document[part]
    for kind in options_of(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (name for name in kind.model_fields if name not in document)


def _steps(parts: tuple[str, ...]) -> str:
    return f"ARRAY[{', '.join(map(text_literal, parts))}]"


def _reason(found: ErrorDetails) -> str:
    return found["msg"].removeprefix("Value error, ")
