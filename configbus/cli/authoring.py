"""Commands that read and change what is in Postgres: migrate, get, set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configbus.cli.options import By, DatabaseUrl, Environment, Json, RedisUrl, settings_of
from configbus.errors import InvalidValue, Problem, UnknownField
from configbus.names import near, split_block, split_path
from configbus.snapshot import INDEX_DIGITS

if TYPE_CHECKING:
    from configbus.catalogue import Catalogue
    from configbus.settings import Settings


def migrate(
    down: Annotated[str | None, typer.Option(help="Go down to this revision; `base` is nothing at all.")] = None,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    by: By = None,
) -> None:
    """Create or upgrade the schema, the tables of the catalogue and the first rows. Twice changes nothing."""
    settings = settings_of(database_url=database_url, environment=environment, actor=by)
    if down is not None:
        _go_down(settings, down)
        typer.echo(f"down to {down}")
        return
    for line in prepare(settings) or ["nothing to do"]:
        typer.echo(line)


def prepare(settings: Settings) -> list[str]:
    """Schema, tables and first rows, in one transaction; what was done, a line each."""
    from configbus.catalogue import load_catalogue
    from configbus.store.connect import connected
    from configbus.store.schema import migrate
    from configbus.store.versions import begin_authoring

    with connected(settings.require("database_url")) as connection, connection.begin():
        begin_authoring(connection, settings.actor, "migrate", publishes=False)
        return migrate(connection, load_catalogue(settings.domains), settings.schema, settings.environment)


def _go_down(settings: Settings, revision: str) -> None:
    from configbus.store.connect import connected
    from configbus.store.schema import downgrade

    with connected(settings.require("database_url")) as connection, connection.begin():
        downgrade(connection, settings.schema, revision)


def get(
    path: Annotated[str, typer.Argument(help="trading, trading.score_threshold, strategy/mm.parameters.size")],
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Print a value, a block or a nested part from the active version in Postgres."""
    from configbus.catalogue import load_catalogue
    from configbus.store.connect import Place, connected
    from configbus.store.versions import active_row

    settings = settings_of(database_url=database_url, environment=environment)
    catalogue = load_catalogue(settings.domains)
    name, parts = split_path(path)
    domain = catalogue.locate(name)
    if parts:
        catalogue.require_field(domain, parts[0])
    with connected(settings.require("database_url")) as connection:
        place = Place(settings.schema, settings.environment)
        row = active_row(connection, place, domain, split_block(name)[1])
    if parts:
        value = _read(row.content[parts[0]], path)
        for part in parts[1:]:
            value = _inside(value, part, path)
    else:
        value = {field.name: _read(row.content[field.name], f"{name}.{field.name}") for field in domain.columns}
    if as_json:
        typer.echo(json.dumps({"path": path, "value": value, "version": row.version, "id": str(row.id)}))
    elif parts:
        typer.echo(_shown(value))
    else:
        for field, part in value.items():
            typer.echo(f"{field} = {_shown(part)}")


def set_(
    assignments: Annotated[list[str], typer.Argument(metavar="PATH=VALUE...", help="trading.score_threshold=0.8")],
    reason: Annotated[str | None, typer.Option(help="Why; it stands in the audit log.")] = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Change values, all in one release, and print its revision."""
    from configbus.author import Author
    from configbus.catalogue import load_catalogue

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment, actor=by)
    changes = _read_assignments(assignments, load_catalogue(settings.domains))
    with Author(settings) as author:
        release = author.set(changes, reason=reason)
    if as_json:
        typer.echo(json.dumps({"revision": release.revision, "epoch": release.epoch, "blocks": list(release.blocks)}))
    else:
        typer.echo(release.revision)
        if not release.blocks:
            typer.echo("nothing differs from what is in force", err=True)


def _read_assignments(assignments: list[str], catalogue: Catalogue) -> dict[str, Any]:
    from configbus.values import from_text

    changes: dict[str, Any] = {}
    faults: list[Problem] = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{assignment!r} is not PATH=VALUE, such as trading.score_threshold=0.8")
        if path in changes:
            raise typer.BadParameter(f"{path} is given twice")
        name, parts = split_path(path)
        domain = catalogue.locate(name)
        catalogue.require_field(domain, parts[0] if parts else "")
        try:
            changes[path] = from_text(domain, parts[0], text, path)
        except InvalidValue as error:
            faults += error.problems
    if faults:
        raise InvalidValue(faults)
    return changes


def _read(text: str, path: str) -> Any:
    from configbus.wire import read_value

    try:
        return read_value(text)
    except ValueError as error:
        raise InvalidValue([Problem(path, f"cannot be shown: {error}; set it anew")]) from error


def _inside(value: Any, part: str, path: str) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list) and part.isdecimal() and len(part) < INDEX_DIGITS and int(part) < len(value):
        return value[int(part)]
    known = value if isinstance(value, dict) else ()
    raise UnknownField(f"{path!r}: there is no {part!r} in it", near(part, known))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
