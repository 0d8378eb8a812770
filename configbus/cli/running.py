"""Commands that run beside the servers: relay, watch, status."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from configbus.cli import DIFFERENT, EXIT_STATUS, printable, standing
from configbus.cli.options import DatabaseUrl, Environment, Json, RedisUrl, settings_of
from configbus.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from configbus.change import Change

SHUTDOWN_SIGNALS = [number for number in signal.Signals if number.name in ("SIGHUP", "SIGINT", "SIGTERM")]


@contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set instead of ending the process; the second of them ends it."""
    stop = threading.Event()

    def end(*_signal: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    with told_to_stop(end):
        yield stop


@contextmanager
def told_to_stop(end: Callable[..., object]) -> Iterator[None]:
    """Call this at each such signal. A SIGHUP that is ignored, as `nohup` wants it, stays ignored."""
    heard = [n for n in SHUTDOWN_SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def relay(database_url: DatabaseUrl = None, redis_url: RedisUrl = None, environment: Environment = None) -> None:
    """Publish until stopped: what plain SQL changed, and what an author could not publish."""
    from configbus.relay import Relay

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment)
    with until_stopped() as stop:
        Relay(settings, stop).run()


def watch(
    target: Annotated[str, typer.Argument(help='"*", trading, trading.score_threshold, strategy/*')] = "*",
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Print one line per change as a worker sees it, until stopped."""
    from configbus.client import ConfigBus
    from configbus.log import log

    settings = settings_of(redis_url=redis_url, environment=environment)
    show = _change_json if as_json else _change_line
    with (
        until_stopped() as stop,
        ConfigBus.connect(redis_url=settings.redis_url, environment=environment, listed=False) as bus,
    ):
        known = dict(bus.snapshot.adopted)

        def tell(change: Change[Any]) -> None:
            sight = known.pop(change.block_name, None)
            if sight is None or change.old is not None or sight.block != change.new:
                typer.echo(show(change))

        bus.on_change(target, tell)
        logger = log.bind(environment=settings.environment)
        logger.info("watching", target=target, revision=bus.revision, state=bus.state)
        bus.on_state(lambda old, new: logger.info("state_changed", old=str(old), new=str(new), revision=bus.revision))
        stop.wait()


def status(
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show where Postgres and Redis stand, and how fresh Redis is. Exit status 8 where they differ."""
    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment)
    found: dict[str, Any] = {
        "environment": settings.environment,
        "postgres": standing.of_postgres(settings),
        "redis": standing.of_redis(settings),
    }
    found["lag"] = standing.lag_of(found["postgres"], found["redis"])
    found["in_step"] = standing.in_step(found["postgres"], found["redis"])
    typer.echo(json.dumps(found) if as_json else _status_text(found))
    faults = [found[server]["error"] for server in ("postgres", "redis") if "error" in found[server]]
    if faults:
        raise typer.Exit(EXIT_STATUS[Unavailable])
    if not found["in_step"]:
        raise typer.Exit(DIFFERENT)


def _status_text(found: dict[str, Any]) -> str:
    lines = [f"environment  {found['environment']}"]
    for server in ("postgres", "redis"):
        facts = found[server]
        where = (
            f"epoch {facts['epoch']} revision {facts['revision']} state {facts['state']}" if "epoch" in facts else ""
        )
        lines.append(f"{server:<12} {where or next(iter(facts.values()))}")
    if "signed" in found["redis"]:
        key = found["redis"]["signed"]
        lines.append(f"signed       {f'with key {printable(key)}' if key else 'no'}")
    age = found["redis"].get("age")
    lines.append(f"fresh        {f'as of {age:.1f} s ago' if age is not None else 'not known: is a relay running?'}")
    lines.append(f"in step      {'yes' if found['in_step'] else 'no'}{_distance(found)}")
    return "\n".join(lines)


def _distance(found: dict[str, Any]) -> str:
    """How far Redis is from Postgres."""
    epochs = [found[server].get("epoch") for server in ("postgres", "redis")]
    if None in epochs or epochs[0] == epochs[1]:
        return f", lag {found['lag']}" if found["lag"] else ""
    return f", Redis follows {'a newer' if epochs[1] > epochs[0] else 'an older'} epoch"


def _change_line(change: Change[Any]) -> str:
    at = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    opening = f"{at} {change.block_name} revision {change.revision}"
    if change.new is None:
        return f"{opening} retired"
    if change.old is None:
        return f"{opening} appeared"
    return f"{opening} " + ", ".join(
        f"{name} {_text(old)} -> {_text(new)}" for name, (old, new) in change.fields.items()
    )


def _change_json(change: Change[Any]) -> str:
    blocks = {"old": change.old, "new": change.new}
    sides = {side: block.model_dump(mode="json") if block is not None else None for side, block in blocks.items()}
    fields = {name: [(sides[side] or {}).get(name) for side in ("old", "new")] for name in change.fields}
    at = datetime.now().astimezone().isoformat(timespec="milliseconds")
    return json.dumps({"at": at, "block": change.block_name, "revision": change.revision, "fields": fields})


def _text(value: Any) -> str:
    return str(value) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
