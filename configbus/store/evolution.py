"""Later generations of a domain's model, applied to the table that an earlier one made.

What a table should be is asked of Postgres itself: the factory's table is made beside the one that
exists, both are read from the catalogue in its normal form, and only what differs is touched. What
would lose a value or break a row is refused with the DDL to review.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import CheckConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateColumn, SetColumnComment, SetTableComment

from configbus.names import near
from configbus.store.connect import quoted, sql
from configbus.store.forms import find_changes
from configbus.store.generations import generation_of, recorded_generations, unreadable_rows
from configbus.store.obstacles import SHOWN_CHARACTERS, SHOWN_ROWS, Against, Obstacle, refuse, shown_row
from configbus.store.tables import content_function

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, CursorResult

    from configbus.block import Domain
    from configbus.store.forms import Change

PLAIN = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # SQLAlchemy's own; no parameters, so no % doubled
TEXTS = {"jsonb": "({0} #>> '{{}}')", "numeric": "trim_scale({0})::text"}

TOUCH = """
    UPDATE {schema}.{table} AS _row SET name = name
    WHERE status = 'active' AND {schema}.content(_row) IS DISTINCT FROM (
        SELECT b.content FROM {schema}.release_block AS b WHERE b.environment = _row.environment
        AND b.name = CAST(:domain AS text) || CASE _row.key WHEN '' THEN '' ELSE '/' || _row.key END
        ORDER BY b.revision DESC LIMIT 1)"""
ARCHIVE = "UPDATE {place} SET status = 'archived' WHERE status = 'active'"
NOW_KEYED = """CREATE CONSTRAINT TRIGGER capture_update AFTER UPDATE ON {place} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.status = 'active') EXECUTE FUNCTION {schema}.capture('{domain}', 'true')"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to be done unless rows stand against it: the line to tell, and the statement."""

    line: str
    statement: str
    obstacle: Obstacle | None


def evolve(connection: Connection, domains: Iterable[Domain], schema: str) -> list[str]:
    """Bring the tables of these domains, which exist, to what their models ask for.

    Returns what was done, a line each. Raises MigrationRefused, naming every obstacle there is; the
    transaction must then be rolled back.
    """
    domains = list(domains)
    recorded = recorded_generations(connection, schema)
    changes = find_changes(connection, domains, schema, recorded)
    for change in sorted(changes, key=lambda change: change.domain.name):
        _execute(connection, f"LOCK TABLE {change.place} IN ACCESS EXCLUSIVE MODE")
    done, obstacles = [], []
    for change in changes:
        lines, found = _apply(connection, change)
        done += lines
        obstacles += found
    refuse(schema, obstacles)
    for domain in domains:
        if recorded.get(domain.name) != generation_of(domain):
            obstacles += unreadable_rows(connection, domain, schema)
    refuse(schema, obstacles)
    for domain in domains:
        # Behind all ALTERs, which Postgres refuses while the deferred capture is pending; and for every
        # table, because DDL that was run by hand changed what is live, too.
        touched = connection.execute(sql(TOUCH, schema, domain.table), {"domain": domain.name}).rowcount
        done += [f"active rows of {domain.table}: {touched}"] if touched else []
    return done


def _apply(connection: Connection, change: Change) -> tuple[list[str], list[Obstacle]]:
    """Do all that can be done with one table; what cannot stands in the obstacles."""
    if other := _other_table(connection, change):
        return [], [other]
    obstacles = [*_removals(connection, change), *_retypings(connection, change)]
    stuck = frozenset[str]().union(*(obstacle.columns for obstacle in obstacles))
    if change.removed:
        stuck |= {*change.removed, *change.added}
    table, done = change.domain.table, []
    for line, statement in _alterations(change, stuck):
        _execute(connection, statement)
        done += [line] if line else []
    if change.has.content != change.wants.content:
        _execute(connection, content_function(change.domain, change.schema))
        done.append(f"content function of {table}")
    for statement in _renewal(change, [name for name, _, _ in change.kept(stuck)]):
        renewed = _execute(connection, statement).rowcount
        done += [f"default rows of {table}: {renewed}"] if renewed else []
    for step in (_require, _check):
        for found in step(connection, change, stuck):
            if found.obstacle is not None:
                obstacles.append(found.obstacle)
            else:
                _execute(connection, found.statement)
                done.append(found.line)
    return done + _describe(connection, change), obstacles


def _other_table(connection: Connection, change: Change) -> Obstacle | None:
    """Why this table is none of this domain at all, if it is not."""
    table, place = change.domain.table, change.place
    odd = [name for name, kind in change.wants.lifecycle.items() if change.has.lifecycle.get(name) != kind]
    if odd:
        what = f"{table} is not a table that configbus made: it lacks {', '.join(odd)}, or has it in another type"
        return Obstacle(what, (f"{change.alter} RENAME TO {quoted(f'other_{table}')}",))
    if change.has.keyed == change.domain.keyed:
        return None
    now = "has keys now and had none" if change.domain.keyed else "has no keys now and had some"
    retire = [ARCHIVE.format(place=place), "SET CONSTRAINTS ALL IMMEDIATE"]
    if change.domain.keyed:
        fields = {"place": place, "schema": quoted(change.schema), "domain": change.domain.name}
        retire = [f"DROP TRIGGER capture_update ON {place}", NOW_KEYED.format(**fields), *retire]
    what = (
        f"{change.domain.name} {now}. Give the new model a domain name of its own, and this table stays as it is;"
        " or retire what is active and take the table away, with all its rows"
    )
    return Obstacle(what, (*retire, f"DROP TABLE {place} CASCADE"), _against(connection, change, "true", ["name"]))


def _removals(connection: Connection, change: Change) -> Iterator[Obstacle]:
    successors = _successors(change)
    for name in change.removed:
        has = change.has.columns[name]
        ddl = drop = f"{change.alter} DROP COLUMN {quoted(name)}"
        what = f"{change.domain.name} has no field {name!r} any more; or an older version of the code runs migrate"
        if successor := successors.get(name):
            ddl = f"{change.alter} RENAME COLUMN {quoted(name)} TO {quoted(successor)}"
            what += f". Was it renamed to {successor!r}, which is new and of the same type? If not: {drop};"
        differs = f"{quoted(name)}::text IS DISTINCT FROM ({has.default or 'NULL'})::{has.type}::text"
        yield Obstacle(what, (ddl,), _against(connection, change, differs, [name]), frozenset([name]))


def _successors(change: Change) -> dict[str, str]:
    """New fields that may be removed ones of the same type under another name, similar names first."""
    found: dict[str, str] = {}
    for alike in (True, False):
        for name in change.removed:
            kind = change.has.columns[name].type
            same = [new for new in change.added if change.wants.columns[new].type == kind and new not in found.values()]
            if name not in found and (fitting := near(name, same) if alike else same):
                found[name] = fitting[0]
    return found


def _retypings(connection: Connection, change: Change) -> Iterator[Obstacle]:
    """Fields of another type that this table's rows, or any rows at all, may not be carried over to."""
    for name, has, wants in change.kept(frozenset()):
        if has.type == wants.type:
            continue
        column, new = quoted(name), wants.type
        told = f"{change.domain.name}.{name} changed from {has.type} to {new}"
        if has.family == wants.family:
            exact = (
                f"CASE WHEN {column} IS NULL THEN true WHEN pg_input_is_valid({column}::text, '{new}')"
                f" THEN ({column}::text::{new})::{has.type} IS NOT DISTINCT FROM {column} ELSE false END"
            )
            against = _against(connection, change, f"NOT {exact}", [name])
            if against.total:
                ddl = f"{change.alter} ALTER COLUMN {column} TYPE {new}"
                yield Obstacle(f"{told}, which cannot hold the values of all rows", (ddl,), against, frozenset([name]))
            continue
        source = TEXTS.get(has.family, "{0}::text").format(column)
        made = f"to_jsonb({column})" if new == "jsonb" else f"({source})::{new}"
        parts = [
            f"DROP CONSTRAINT {quoted(check)}" for check, form in change.has.checks.items() if name in form.columns
        ]
        parts += [f"ALTER COLUMN {column} {rest}" for rest in ("DROP DEFAULT", f"TYPE {new} USING {made}")]
        if wants.default is not None:
            parts.append(f"ALTER COLUMN {column} SET DEFAULT {wants.default}")
        invalid = "false" if new == "jsonb" else f"NOT pg_input_is_valid({source}, '{new}')"
        against = _against(connection, change, invalid, [name])
        ddl = f"{change.alter} {', '.join(parts)}"
        yield Obstacle(f"{told}, which is another kind of value", (ddl,), against, frozenset([name]))


def _alterations(change: Change, stuck: frozenset[str]) -> Iterator[tuple[str, str]]:
    """All that no row can stand against, in an order in which each statement finds what it needs."""
    table, alter = change.domain.table, change.alter
    for name, check in change.has.checks.items():
        if change.wants.checks.get(name) != check:
            line = "" if name in change.wants.checks else f"check {name} of {table}: dropped"
            yield line, f"{alter} DROP CONSTRAINT {quoted(name)}"
    for name in change.added:
        yield f"column {name} of {table}", f"{alter} {_addition(change, name)}"
    for name, has, wants in change.kept(stuck):
        told, column = f"column {name} of {table}", f"{alter} ALTER COLUMN {quoted(name)}"
        if has.required and not wants.required:
            yield f"{told}: may be null", f"{column} DROP NOT NULL"
        if has.type != wants.type:
            yield f"{told}: {has.type} to {wants.type}", f"{column} TYPE {wants.type}"
        if has.type != wants.type or has.default != wants.default:
            line = f"{told}: default" if has.default != wants.default else ""
            rest = "DROP DEFAULT" if wants.default is None else f"SET DEFAULT {wants.default}"
            yield line, f"{column} {rest}"


def _renewal(change: Change, names: Iterable[str]) -> list[str]:
    """Rows with status default say what the model says, where nobody gave them another value."""
    assignments, conditions = [], []
    for name in names:
        has, wants = change.has.columns.get(name), change.wants.columns.get(name)
        if has and wants and has.default != wants.default:
            column, old, new = quoted(name), has.default or "NULL", wants.default or "NULL"
            is_old = f"{column} IS NOT DISTINCT FROM ({old})"
            assignments.append(f"{column} = CASE WHEN {is_old} THEN {new} ELSE {column} END")
            conditions.append(f"{is_old} AND {column} IS DISTINCT FROM ({new})")
    if not assignments:
        return []
    where = f"status = 'default' AND ({' OR '.join(conditions)})"
    return [f"UPDATE {change.place} SET {', '.join(assignments)} WHERE {where}"]  # noqa: S608  # Postgres' own texts


def _require(connection: Connection, change: Change, stuck: frozenset[str]) -> Iterator[Step]:
    for name, has, wants in change.kept(stuck):
        if wants.required and not has.required:
            statement = f"{change.alter} ALTER COLUMN {quoted(name)} SET NOT NULL"
            against = _against(connection, change, f"{quoted(name)} IS NULL", [name])
            what = f"{change.domain.name}.{name} must not be null any more; {against.way}"
            ddl = [f"{change.alter} ADD NOT NULL {quoted(name)} NOT VALID"]
            if against.living:
                ddl = [*_renewal(change, [name]), statement]
            obstacle = Obstacle(what, tuple(ddl), against) if against.total else None
            yield Step(f"column {name} of {change.domain.table}: must not be null", statement, obstacle)


def _check(connection: Connection, change: Change, stuck: frozenset[str]) -> Iterator[Step]:
    rules = {
        check.name: _plain(check.sqltext) for check in change.table.constraints if isinstance(check, CheckConstraint)
    }
    # A check can be judged on a column that cannot go on as long as its values are of the kind the check means.
    comparable = {name for name, has, wants in change.kept(frozenset()) if has.family == wants.family}
    for name, form in change.wants.checks.items():
        if change.has.checks.get(name) == form or form.columns & (stuck - comparable):
            continue
        add = f"ADD CONSTRAINT {quoted(name)} CHECK ({rules[name]})"
        against = _against(connection, change, f"NOT ({rules[name]})", sorted(form.columns))
        parts = [_addition(change, column, " IF NOT EXISTS") for column in change.added if column in form.columns]
        parts += [f"DROP CONSTRAINT IF EXISTS {quoted(name)}", add if against.living else f"{add} NOT VALID"]
        what = f"{change.domain.name}: rows break the check {name}; {against.way}"
        ddl = [f"{change.alter} {', '.join(parts)}"]
        if against.living and (renewal := _renewal(change, sorted(form.columns))):
            ddl = [f"{change.alter} DROP CONSTRAINT IF EXISTS {quoted(name)}", *renewal, *ddl]
        obstacle = Obstacle(what, tuple(ddl), against) if against.total else None
        yield Step(f"check {name} of {change.domain.table}", f"{change.alter} {add}", obstacle)


def _describe(connection: Connection, change: Change) -> list[str]:
    done, table = [], change.domain.table
    for name, wants in change.wants.columns.items():
        has = change.has.columns.get(name)
        if wants.comment != (has.comment if has else None):
            connection.execute(SetColumnComment(change.table.c[name]))
            done += [f"column {name} of {table}: description"] if has else []
    if change.has.comment != change.wants.comment:
        connection.execute(SetTableComment(change.table))
        done.append(f"description of {table}")
    return done


def _against(connection: Connection, change: Change, condition: str, columns: list[str]) -> Against:
    values = "".join(f", left({quoted(name)}::text, {SHOWN_CHARACTERS})" for name in columns)
    query = (
        "SELECT count(*) OVER (), count(*) FILTER (WHERE status <> 'archived') OVER (),"  # noqa: S608  # quoted names
        f" left(id::text, 8), status::text, environment, key{values} FROM {change.place} WHERE {condition}"
        f" ORDER BY status = 'archived', environment, key, id LIMIT {SHOWN_ROWS}"
    )
    against = Against()
    rows: list[Any] = list(_execute(connection, query))
    for total, living, *row in rows:
        (short, status, environment, key), told = row[:4], dict(zip(columns, row[4:], strict=True))
        against = Against(total, living, (*against.shown, shown_row(short, status, environment, key, told)))
    return against


def _addition(change: Change, name: str, condition: str = "") -> str:
    return f"ADD COLUMN{condition} {_plain(CreateColumn(change.table.c[name]))}"


def _plain(element: Any) -> str:
    """An element of the factory as SQL that stands alone, with every percent sign and colon as it is."""
    return str(element.compile(dialect=PLAIN)).strip()


def _execute(connection: Connection, statement: str) -> CursorResult[Any]:
    return connection.exec_driver_sql(statement.replace("%", "%%"))
