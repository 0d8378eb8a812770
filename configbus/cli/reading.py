"""Commands that read what is and was: get, list, history, release, diff, audit, domains, schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configbus.cli.instants import read_reference
from configbus.cli.options import DatabaseUrl, Environment, Json, Limit, settings_of
from configbus.cli.output import brief, cell, show_json, show_table, shown
from configbus.errors import InvalidValue, Problem, UnknownField
from configbus.names import near, split_path
from configbus.snapshot import INDEX_DIGITS

if TYPE_CHECKING:
    from configbus.store.history import HistoryEntry

BlockName = Annotated[str, typer.Argument(metavar="BLOCK", help="trading, strategy/market_maker")]
OptionalBlock = Annotated[str | None, typer.Argument(metavar="[BLOCK]", help="trading, strategy/market_maker")]


def get(
    path: Annotated[str, typer.Argument(help="trading, trading.score_threshold, strategy/mm.parameters.size")],
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Print a value, a block or a nested part from the active version in Postgres."""
    from configbus.catalogue import load_catalogue
    from configbus.reader import Reader

    settings = settings_of(database_url=database_url, environment=environment)
    catalogue = load_catalogue(settings.domains)
    name, parts = split_path(path)
    domain = catalogue.locate(name)
    if parts:
        catalogue.require_field(domain, parts[0])
    with Reader(settings) as reader:
        row = reader.active(name)
    if parts:
        value = _read(row.texts[parts[0]], path)
        for part in parts[1:]:
            value = _inside(value, part, path)
    else:
        value = {field.name: _read(row.texts[field.name], f"{name}.{field.name}") for field in domain.columns}
    if as_json:
        show_json({"path": path, "value": value, "version": row.version, "id": row.id})
    elif parts:
        typer.echo(shown(value))
    else:
        for field, part in value.items():
            typer.echo(f"{field} = {cell(shown(part))}")


def list_(
    block: OptionalBlock = None,
    limit: Limit = 20,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """List the blocks, or the version rows of one block with their status."""
    from configbus.reader import Reader

    with Reader(settings_of(database_url=database_url, environment=environment)) as reader:
        found: list[Any] = reader.blocks() if block is None else reader.versions(block, limit)
    if as_json:
        for record in found:
            show_json(record)
    elif block is None:
        rows = [(b.block, b.version, b.activated_at, b.activated_by, b.name, b.drafts or None) for b in found]
        show_table(("block", "version", "active since", "by", "name", "drafts"), rows)
    else:
        rows = [(v.short_id, v.status, v.version, v.updated_at, v.updated_by, v.name) for v in found]
        show_table(("id", "status", "version", "changed", "by", "name"), rows)


def history(
    block: BlockName,
    limit: Limit = 20,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show the releases that changed a block, newest first: who, when, why, what."""
    from configbus.reader import Reader

    with Reader(settings_of(database_url=database_url, environment=environment)) as reader:
        entries = reader.history(block, limit)
    if as_json:
        for entry in entries:
            show_json(entry)
        return
    rows = [(e.revision, e.released_at, e.actor, e.version, _change(e), e.reason) for e in entries]
    show_table(("revision", "at", "by", "version", "change", "reason"), rows)


def release(
    revision: Annotated[int, typer.Argument(metavar="N", help="A revision.")],
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show one release with everything that it changed."""
    from configbus.reader import Reader

    with Reader(settings_of(database_url=database_url, environment=environment)) as reader:
        found = reader.release(revision)
    if as_json:
        show_json(found)
        return
    why = f": {cell(found.reason)}" if found.reason else ""
    typer.echo(f"revision {found.revision} of {cell(found.released_at)} by {cell(found.actor)}{why}".rstrip())
    rows = []
    for block, changes in found.blocks.items():
        if block in found.retired:
            rows.append((block, "retired", "", ""))
        else:
            rows += [(block, path, shown(old), shown(new)) for path, (old, new) in changes.items()]
    show_table(("block", "field", "old", "new"), rows)


def diff(
    block: BlockName,
    a: Annotated[str, typer.Argument(help="A revision, an instant, active, default, or a row's id.")],
    b: Annotated[str, typer.Argument(help="The same.")] = "active",
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show what differs in a block from A to B."""
    from configbus.reader import Reader
    from configbus.store.versions import SHORT

    settings = settings_of(database_url=database_url, environment=environment)
    with Reader(settings) as reader:
        changes = reader.diff(block, *(read_reference(side, reader.now, SHORT) for side in (a, b)))
    if as_json:
        show_json({"block": block, "fields": changes})
    elif changes:
        show_table(("field", a, b), [(path, shown(old), shown(new)) for path, (old, new) in changes.items()])
    else:
        typer.echo("nothing differs", err=True)


def audit(
    block: OptionalBlock = None,
    limit: Limit = 20,
    verify: Annotated[bool, typer.Option("--verify", help="Hold all of it against the chain of hashes.")] = False,
    expect: Annotated[
        str | None, typer.Option(metavar="HASH", help="With --verify: a hash that was noted elsewhere.")
    ] = None,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show the audit log, newest first, of one block or of all.

    With --verify name what was changed or removed in it, or in the releases; exit status 8 where anything was.
    """
    from configbus.cli.chain import show_chain
    from configbus.difference import differences
    from configbus.reader import Reader

    if expect is not None and not verify:
        raise typer.BadParameter("--expect goes with --verify")
    settings = settings_of(database_url=database_url, environment=environment)
    if verify:
        show_chain(settings, expect, as_json=as_json)
        return
    with Reader(settings) as reader:
        entries = reader.audit(block, limit)
    if as_json:
        for entry in entries:
            show_json(entry)
        return
    rows = [
        (e.performed_at, e.block, e.action, e.performed_by, brief(differences(e.old, e.new)), e.reason) for e in entries
    ]
    show_table(("at", "block", "action", "by", "change", "reason"), rows)


def domains(as_json: Json = False) -> None:
    """List the domains of the catalogue."""
    from configbus.catalogue import load_catalogue

    found = [
        {
            "domain": domain.name,
            "keyed": domain.keyed,
            "fields": len(domain.columns),
            "class": f"{domain.model.__module__}.{domain.model.__qualname__}",
            "description": " ".join((domain.model.__doc__ or "").split()),
        }
        for domain in load_catalogue(settings_of().domains)
    ]
    if as_json:
        for record in found:
            show_json(record)
    else:
        rows = [(*record.values(),) for record in (r | {"keyed": "keyed" if r["keyed"] else ""} for r in found)]
        show_table(tuple(found[0]), rows)


def schema(
    domain: Annotated[str, typer.Argument(help="trading")],
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a domain: fields, types, bounds, defaults, descriptions."""
    from configbus.catalogue import load_catalogue

    model = load_catalogue(settings_of().domains).domain(domain).model
    typer.echo(json.dumps(model.model_json_schema(), indent=None if as_json else 2))


def _change(entry: HistoryEntry) -> str:
    if entry.retired:
        return "retired"
    return "what was before is pruned" if entry.pruned else brief(entry.changes)


def _read(text: str, path: str) -> Any:
    from configbus.jsontext import read_value, readable

    try:
        read_value(text)
    except ValueError as error:
        raise InvalidValue([Problem(path, f"cannot be shown: {error}; set it anew")]) from error
    return readable(text)


def _inside(value: Any, part: str, path: str) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list) and part.isdecimal() and len(part) < INDEX_DIGITS and int(part) < len(value):
        return value[int(part)]
    known = value if isinstance(value, dict) else ()
    raise UnknownField(f"{path!r}: there is no {part!r} in it", near(part, known))
