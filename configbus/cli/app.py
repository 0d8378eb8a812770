"""The commands, gathered from the files that define them."""

import typer

from configbus.cli import (
    authoring,
    demo,
    doctor,
    health,
    migrating,
    reading,
    retention,
    rights,
    running,
    settings,
    up,
    verifying,
    workers,
)

app = typer.Typer(
    name="configbus",
    help="Live, typed configuration: Postgres is the truth, workers are told through Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    up.up,
    demo.demo,
    migrating.migrate,
    running.relay,
    reading.domains,
    reading.schema,
    reading.list_,
    reading.get,
    authoring.set_,
    authoring.draft,
    authoring.edit,
    authoring.discard,
    authoring.activate,
    authoring.retire,
    authoring.rollback,
    reading.history,
    reading.release,
    reading.diff,
    reading.audit,
    running.watch,
    running.status,
    health.health,
    doctor.doctor,
    workers.workers,
    rights.acl,
    rights.grants,
    verifying.verify,
    retention.prune,
    settings.settings,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(verifying.epoch_commands)
