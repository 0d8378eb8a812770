"""`configbus migrate`: the schema, the tables of the catalogue, the first rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from configbus.cli.options import By, DatabaseUrl, Environment, Json, settings_of

if TYPE_CHECKING:
    from configbus.settings import Settings


def migrate(
    down: Annotated[str | None, typer.Option(help="Go down to this revision; `base` is nothing at all.")] = None,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Create or upgrade the schema, the tables of the catalogue and the first rows. Twice changes nothing."""
    settings = settings_of(database_url=database_url, environment=environment, actor=by)
    if down is not None:
        _go_down(settings, down)
    done = [f"down to {down}"] if down is not None else prepare(settings)
    if as_json:
        typer.echo(json.dumps({"done": done}))
        return
    for line in done or ["nothing to do"]:
        typer.echo(line)


def prepare(settings: Settings) -> list[str]:
    """Schema, tables and first rows, in one transaction; what was done, a line each."""
    from configbus.catalogue import load_catalogue
    from configbus.store.connect import LONG, begun, connected
    from configbus.store.schema import migrate
    from configbus.store.versions import begin_authoring

    with connected(settings.require("database_url"), LONG) as connection, begun(connection):
        begin_authoring(connection, settings.actor, "migrate", publishes=False)
        return migrate(connection, load_catalogue(settings.domains), settings.schema, settings.environment)


def _go_down(settings: Settings, revision: str) -> None:
    from configbus.store.connect import LONG, begun, connected
    from configbus.store.schema import downgrade

    with connected(settings.require("database_url"), LONG) as connection, begun(connection):
        downgrade(connection, settings.schema, revision)
