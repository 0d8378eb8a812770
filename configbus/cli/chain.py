"""`configbus audit --verify`: whether history is what was written, told by its hashes and by what Redis remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from configbus.cli import DIFFERENT, standing
from configbus.cli.output import show_json, show_table

if TYPE_CHECKING:
    from configbus.settings import Settings


def show_chain(settings: Settings, expected: str | None, *, as_json: bool) -> None:
    """Name what is broken, the first break first. Exit status 8 where anything is."""
    from configbus.reader import Reader
    from configbus.store.chain import Witness

    witnesses = [Witness(expected, "--expect")] if expected else []
    redis = standing.of_redis(settings) if settings.redis_url else {}
    if redis.get("chain"):
        witnesses.append(Witness(redis["chain"], "the head in Redis", redis["revision"]))
    with Reader(settings) as reader:
        chain = reader.verify_chain(witnesses)
    if as_json:
        show_json(chain)
    else:
        typer.echo(
            f"{chain.releases} releases and {chain.lines} lines of the audit log, up to revision {chain.revision}; "
            f"hash {chain.hash or 'none'}"
        )
        if chain.pruned:
            typer.echo(f"before revision {chain.pruned} history was pruned; what held then is as it was")
        if chain.broken:
            show_table(("what", "number", "at", "why"), [(b.what, b.number, b.at, b.why) for b in chain.broken])
        if settings.redis_url and not redis.get("chain"):
            typer.echo("Redis has no hash to compare with, so that an end that was cut would not show", err=True)
    if chain.broken:
        raise typer.Exit(DIFFERENT)
