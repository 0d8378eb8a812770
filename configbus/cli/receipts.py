"""What a command that makes a release answers: its revision and, if somebody waits for it, who has it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import typer

from configbus.cli import NOT_EVERYWHERE, printable
from configbus.cli.output import plain, show_json, show_table
from configbus.errors import ConfigBusError

if TYPE_CHECKING:
    from configbus.author import Author
    from configbus.receipt import Receipt
    from configbus.settings import Settings
    from configbus.wire import Release


def check_wait(settings: Settings, wait: float | None) -> None:
    """Raises SettingsError where nobody could be asked, before anything is done."""
    if wait is not None:
        settings.require("redis_url")


def finish(author: Author, release: Release, wait: float | None, *, as_json: bool) -> None:
    """Show a release, and wait for its workers where that is asked for. Exit status 9 unless they all have it."""
    if not as_json:
        typer.echo(release.revision)
        if not release.blocks:
            typer.echo("nothing differs from what is in force", err=True)
    if wait is None:
        if as_json:
            show_json(release)
        return
    receipt, fault = None, ""
    try:
        receipt = author.receipt(release, wait)
    except ConfigBusError as error:
        fault = f"revision {release.revision} is live and goes to the workers; who has it cannot be told: {error}"
    if as_json:
        workers = None if receipt is None else receipt.workers
        show_json(plain(release) | {"applied": receipt is not None and receipt.is_applied, "workers": workers})
    elif receipt is not None:
        _show(receipt)
    if fault:
        typer.echo(f"configbus: {printable(fault)}", err=True)
    if receipt is None or not receipt.is_applied:
        raise typer.Exit(NOT_EVERYWHERE)


def _show(receipt: Receipt) -> None:
    from configbus.receipt import Outcome

    applied, unconcerned = receipt.of(Outcome.APPLIED), receipt.of(Outcome.NOT_FOLLOWED)
    if not receipt.workers:
        typer.echo("no worker was heard of: does CONFIGBUS_REDIS_URL point to theirs?")
        return
    taken = sorted(one.latency for one in applied if one.latency is not None)
    speed = f", median {median(taken) * 1000:.0f} ms, slowest {taken[-1] * 1000:.0f} ms" if taken else ""
    besides = f"; {len(unconcerned)} more follow none of its blocks" if unconcerned else ""
    concerned = len(receipt.workers) - len(unconcerned)
    typer.echo(f"applied by {len(applied)} of {concerned} workers{speed}{besides}")
    others = [one for one in receipt.workers if one.outcome in (Outcome.HELD, Outcome.MISSING)]
    if others:
        rows = [[one.worker, one.outcome, one.revision, one.block, one.field, one.reason] for one in others]
        show_table(["worker", "outcome", "revision", "block", "field", "reason"], rows)
