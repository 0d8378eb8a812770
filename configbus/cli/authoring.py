"""Commands that change configuration: set, draft, edit, discard, activate, retire, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from configbus.cli.instants import is_relative, read_moment
from configbus.cli.options import (
    By,
    DatabaseUrl,
    Environment,
    IdempotencyKey,
    Json,
    Reason,
    RedisUrl,
    Wait,
    settings_of,
)
from configbus.cli.output import show_row
from configbus.cli.receipts import check_wait, finish
from configbus.errors import InvalidValue, Problem
from configbus.names import split_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from configbus.catalogue import Catalogue

RowId = Annotated[str, typer.Argument(metavar="ID", help="A row's id, or a unique beginning of it.")]
Expect = Annotated[int | None, typer.Option(help="The version it was read at; another one is a conflict.")]
Fields = Annotated[list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="score_threshold=0.9")]


def set_(
    assignments: Annotated[list[str], typer.Argument(metavar="PATH=VALUE", help="trading.score_threshold=0.8")],
    reason: Reason = None,
    key: IdempotencyKey = None,
    wait: Wait = None,
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
    check_wait(settings, wait)
    changes = _read_assignments(assignments, load_catalogue(settings.domains))
    with Author(settings) as author:
        finish(author, author.set(changes, reason=reason, idempotency_key=key), wait, as_json=as_json)


def draft(
    block: Annotated[str, typer.Argument(help="trading, strategy/market_maker")],
    assignments: Fields = None,
    base: Annotated[
        str | None, typer.Option("--from", help="active, default, or a row's id; active where there is one.")
    ] = None,
    name: Annotated[str, typer.Option(help="What to call it; made where not given.", show_default=False)] = "",
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Prepare a draft and print its id and version."""
    from configbus.author import Author
    from configbus.catalogue import load_catalogue

    settings = settings_of(database_url=database_url, environment=environment, actor=by)
    values = _read_fields(block, assignments or (), load_catalogue(settings.domains))
    with Author(settings) as author:
        show_row(author.draft(block, values, base=base, name=name), as_json=as_json)


def edit(
    row_id: RowId,
    assignments: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE", help="score_threshold=0.9")],
    expect: Expect = None,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Change values of a draft and print its id and version."""
    from configbus.author import Author
    from configbus.catalogue import load_catalogue

    settings = settings_of(database_url=database_url, environment=environment, actor=by)
    with Author(settings) as author:
        row = author.version(row_id)
        values = _read_fields(row.block, assignments, load_catalogue(settings.domains))
        show_row(author.edit(row.id, values, expect=expect), as_json=as_json)


def discard(
    row_id: RowId,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Delete a draft; the audit log keeps its values."""
    from configbus.author import Author

    settings = settings_of(database_url=database_url, environment=environment, actor=by)
    with Author(settings) as author:
        show_row(author.discard(row_id), as_json=as_json)


def activate(
    row_id: RowId,
    expect: Expect = None,
    reason: Reason = None,
    key: IdempotencyKey = None,
    wait: Wait = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Make a draft the active version, and print the revision."""
    from configbus.author import Author

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment, actor=by)
    check_wait(settings, wait)
    with Author(settings) as author:
        release = author.activate(row_id, expect=expect, reason=reason, idempotency_key=key)
        finish(author, release, wait, as_json=as_json)


def retire(
    block: Annotated[str, typer.Argument(help="strategy/market_maker")],
    reason: Reason = None,
    key: IdempotencyKey = None,
    wait: Wait = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Take a keyed block away from all workers, and print the revision."""
    from configbus.author import Author

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment, actor=by)
    check_wait(settings, wait)
    with Author(settings) as author:
        finish(author, author.retire(block, reason=reason, idempotency_key=key), wait, as_json=as_json)


def rollback(
    to: Annotated[str, typer.Option(help="A revision, an instant such as 2026-11-20T08:00:00Z, or '2h ago'.")],
    blocks: Annotated[list[str] | None, typer.Argument(metavar="BLOCK", help="trading risk")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every block that changed since.")] = False,
    reason: Reason = None,
    key: IdempotencyKey = None,
    wait: Wait = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Make one new release with the contents of an earlier one, and print its revision."""
    from configbus.author import Author

    if bool(blocks) == everything:
        raise typer.BadParameter("name the blocks to roll back, or give --all")
    if key is not None and is_relative(to):
        raise typer.BadParameter(f"{to!r} is another instant each time; with a key give a revision or ISO 8601")
    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment, actor=by)
    check_wait(settings, wait)
    with Author(settings) as author:
        moment = read_moment(to, author.now)
        release = author.rollback(blocks or (), to=moment, all=everything, reason=reason, idempotency_key=key)
        finish(author, release, wait, as_json=as_json)


def _read_fields(block: str, assignments: Iterable[str], catalogue: Catalogue) -> dict[str, Any]:
    """Values by path below the block."""
    catalogue.locate(block)
    changes = _read_assignments([f"{block}.{assignment}" for assignment in assignments], catalogue)
    return {path.removeprefix(f"{block}."): value for path, value in changes.items()}


def _read_assignments(assignments: Iterable[str], catalogue: Catalogue) -> dict[str, Any]:
    from configbus.values import from_text

    changes: dict[str, Any] = {}
    faults: list[Problem] = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise typer.BadParameter(f"{assignment!r} has no value; write it as PATH=VALUE")
        if path in changes:
            raise typer.BadParameter(f"{path!r} is given twice")
        name, parts = split_path(path)
        domain = catalogue.locate(name)
        catalogue.require_field(domain, parts[0] if parts else "", name)
        try:
            changes[path] = from_text(domain, parts[0], text, path)
        except InvalidValue as error:
            faults += error.problems
    if faults:
        raise InvalidValue(faults)
    return changes
