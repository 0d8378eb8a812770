"""`configbus workers`: who is there, who is behind, for how long, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configbus.cli import printable, standing
from configbus.cli.options import DatabaseUrl, Environment, Json, RedisUrl, settings_of
from configbus.cli.output import show_json, show_table
from configbus.cli.running import until_stopped
from configbus.errors import ConfigBusError

if TYPE_CHECKING:
    from configbus.link import Link
    from configbus.presence import Worker
    from configbus.settings import Settings

PAUSE_SECONDS = 1.0
WHY_LENGTH = 1_000
AGES = 100
"""Of releases that workers wait for; each is a query."""
COLUMNS = ("worker", "state", "revision", "behind", "applied", "host", "pid", "version", "why")


def workers(
    watch: Annotated[bool, typer.Option("--watch", help="Again every second, until stopped.")] = False,
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show every worker: its state and revision, how far and how long it is behind, and why.

    A worker is `gone` when nothing was heard of it for 15 s and it has not taken its leave, and `unknown` when it
    cannot be read what it says of itself. How long one is behind needs Postgres.
    """
    from configbus.link import Link

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment)
    link = Link(settings.require("redis_url"))
    try:
        _show(_found(settings, link), as_json=as_json)
        if watch:
            with until_stopped() as stop:
                while not stop.wait(PAUSE_SECONDS):
                    _part(as_json=as_json)
                    try:
                        _show(_found(settings, link), as_json=as_json)
                    except ConfigBusError as error:
                        typer.echo(f"configbus: {printable(str(error))}", err=True)
    finally:
        link.close()


def _part(*, as_json: bool) -> None:
    """What parts one showing from the next: in a terminal it takes its place."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().clear()
    elif not as_json:
        typer.echo()


def _show(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for facts in found:
            show_json(facts)
    elif not found:
        typer.echo("no worker is there")
    else:
        show_table(COLUMNS, ([_cell(facts, column) for column in COLUMNS] for facts in found))


def _cell(facts: dict[str, Any], column: str) -> Any:
    if column == "applied" and facts["applied"] is not None:
        return f"{facts['applied']:.1f} s ago"
    if column == "behind" and facts["behind"]:
        seconds = facts["behind_seconds"]
        releases = "1 release" if facts["behind"] == 1 else f"{facts['behind']} releases"
        return releases + (f", {seconds:.1f} s" if seconds is not None else "")
    return facts[column]


def _found(settings: Settings, link: Link) -> list[dict[str, Any]]:
    from configbus.receipt import find_workers
    from configbus.wire import Keys

    clock, found = find_workers(link, Keys(settings.namespace, settings.environment))
    postgres = standing.of_postgres(settings) if settings.database_url else {}
    newest = postgres if "revision" in postgres else standing.of_redis(settings)
    facts = [_facts(worker, clock, newest) for worker in found]
    if "revision" in postgres:
        lagging = {one["revision"] for one in facts if one["behind"]}
        ages = standing.ages_of(settings, [revision + 1 for revision in sorted(lagging)[:AGES]])
        for one in facts:
            if one["behind"]:
                one["behind_seconds"] = ages.get(one["revision"] + 1)
    return facts


def _facts(worker: Worker, clock: int, newest: dict[str, Any]) -> dict[str, Any]:
    """All that is known of a worker; times in seconds before now."""
    heard = (clock - worker.heard_at) / 1_000_000
    state = "unknown" if worker.fault else "gone"
    facts: dict[str, Any] = {"worker": worker.name, "state": state, "epoch": None, "revision": None}
    facts |= {"behind": None, "behind_seconds": None, "applied": None, "heard": heard, "held": {}}
    facts |= {"why": worker.silence(clock), "follows": worker.follows}
    facts |= {"host": worker.host, "pid": worker.pid, "version": worker.version}
    if (presence := worker.presence) is None:
        return facts
    epoch, revision = presence.position.epoch, presence.position.revision
    why = [f"{block}: {field_and_reason(held.field, held.reason)}" for block, held in presence.held.items()]
    if presence.state == "stale":
        why.append("it cannot vouch for its copy: is a relay running?")
    elif presence.state == "offline":
        why.append("it has found nothing in Redis that it may follow: its log tells why")
    behind = None
    if newest.get("epoch") == epoch:
        behind = max(newest["revision"] - revision, 0)
    elif "epoch" in newest:
        why.append(f"it follows epoch {epoch}, and the newest is {newest['epoch']}")
    facts |= {"state": str(presence.state), "epoch": epoch, "revision": revision, "behind": behind}
    facts |= {"applied": max(clock - presence.applied_at, 0) / 1_000_000, "held": dict(presence.held)}
    return facts | {"why": "; ".join(why)[:WHY_LENGTH]}


def field_and_reason(field: str, reason: str) -> str:
    """Why a block is held back, in a few words."""
    return f"{field} {reason}" if field else reason
