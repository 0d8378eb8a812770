"""Commands for damage and restores: verify, epoch raise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from configbus.cli import DIFFERENT
from configbus.cli.options import By, DatabaseUrl, Environment, Json, Reason, RedisUrl, settings_of
from configbus.cli.output import show_json, show_table, shown

if TYPE_CHECKING:
    from configbus.verification import Finding

epoch_commands = typer.Typer(name="epoch", help="The history that revisions count in.", no_args_is_help=True)


def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Put right what differs.")] = False,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Compare active rows, release tables and Redis, field by field, and check contents against the models.

    Exit status 8 where something differs that was not put right.
    """
    from configbus.verification import verify as find

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment)
    findings = find(settings, repair=repair)
    for finding in findings if as_json else ():
        show_json(finding)
    if findings and not as_json:
        show_table(("where", "block", "field", "found", "expected", "repaired"), map(_row, findings))
    elif not as_json:
        typer.echo("active rows, release tables and Redis are the same, and valid")
    if any(not finding.repaired for finding in findings):
        raise typer.Exit(DIFFERENT)


@epoch_commands.command("raise")
def raise_(
    reason: Reason = None,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Begin a new history after a restore: every worker then follows this Postgres. Prints the epoch."""
    from configbus.verification import begin_epoch

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment, actor=by)
    epoch = begin_epoch(settings, reason or "configbus epoch raise")
    if as_json:
        show_json({"epoch": epoch})
    else:
        typer.echo(epoch)


def _row(finding: Finding) -> tuple[Any, ...]:
    found, expected = (shown(text) if text is not None else None for text in (finding.found, finding.expected))
    return finding.where, finding.block, finding.field, found, expected, "yes" if finding.repaired else "no"
