"""The commands, gathered from the files that define them."""

import typer

from configbus.cli import authoring, demo, running, up

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
    authoring.migrate,
    running.relay,
    authoring.get,
    authoring.set_,
    running.watch,
    running.status,
):
    app.command(command.__name__.rstrip("_"))(command)
