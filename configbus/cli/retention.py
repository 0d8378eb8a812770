"""`configbus prune`: history that is older than an age is taken away."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from configbus.cli.instants import read_age
from configbus.cli.options import By, DatabaseUrl, Environment, Json, Reason, settings_of
from configbus.cli.output import show_json


def prune(
    keep: Annotated[str, typer.Option(metavar="AGE", help="What is younger stays: 90d, 12w, 36h.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it would be.")] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Also where history was tampered with.")] = False,
    reason: Reason = None,
    database_url: DatabaseUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Take away releases, archived rows and lines of the audit log that are older than an age.

    Whatever was live since then stays: it can be shown, rolled back to and verified. The newest entry of each block
    always stays. For the owner of the schema alone. Refused (exit status 5) where history is not what was written: what
    was tampered with would not show any more.
    """
    from configbus.store.connect import Place, begun, connected, translated
    from configbus.store.releases import newest_head
    from configbus.store.retention import LIMITS, prune
    from configbus.store.versions import begin_authoring

    age = read_age(keep)
    settings = settings_of(database_url=database_url, environment=environment, actor=by)
    place = Place(settings.schema, settings.environment)
    database_url = settings.require("database_url")
    with translated(), connected(database_url, LIMITS) as connection, begun(connection) as transaction:
        begin_authoring(connection, settings.actor, reason or f"keep {keep}", publishes=False)
        newest_head(connection, place)
        pruned = prune(connection, place, age, anyway=anyway)
        if dry_run:
            transaction.rollback()
    if as_json:
        show_json(asdict(pruned) | {"dry_run": dry_run})
        return
    done = "would be pruned" if dry_run else "pruned"
    typer.echo(
        f"{done}: {pruned.releases} releases, {pruned.rows} archived rows, {pruned.lines} lines of the audit log, "
        f"{pruned.calls} idempotency keys"
    )
    if pruned.revision:
        typer.echo(f"known in full from revision {pruned.revision} on")
