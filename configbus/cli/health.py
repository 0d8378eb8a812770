"""`configbus health`: a yes or no for the health check of a relay's container; `status` tells the whole."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, Any

import typer

from configbus.cli import EXIT_STATUS, printable, standing
from configbus.cli.options import DatabaseUrl, Environment, Json, RedisUrl, settings_of
from configbus.errors import ConfigBusError, SettingsError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.settings import Settings

LIMIT_SECONDS = 2.2
"""For all of it: with the start of the process it stays below three seconds."""
AGAIN_SECONDS = 1.0
LOOK_SECONDS = 0.5
"""What a second look must have left; with less the first one decides."""
HEALTHY, FAILED = 0, 1


def health(
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Say whether some relay keeps Redis fresh and in step with Postgres, within three seconds.

    Exit status 0 if so, 1 if not, 6 if a server does not answer. A no is looked at twice, a second apart.
    """
    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment)
    deadline = time.monotonic() + LIMIT_SECONDS
    status, reason = _look(settings, deadline)
    if status == FAILED and time.monotonic() + AGAIN_SECONDS + LOOK_SECONDS < deadline:
        time.sleep(AGAIN_SECONDS)
        status, reason = _look(settings, deadline)
    if as_json:
        typer.echo(json.dumps({"healthy": status == HEALTHY, "reason": reason or None}))
    elif status == HEALTHY:
        typer.echo("healthy")
    if status != HEALTHY:
        typer.echo(f"configbus: {printable(reason)}", err=True)
        raise typer.Exit(status)


def _look(settings: Settings, deadline: float) -> tuple[int, str]:
    """The exit status, and why it is not 0."""
    asked = {"Postgres": _ask(standing.of_postgres, settings), "Redis": _ask(standing.of_redis, settings)}
    try:
        postgres, redis = (_answer(server, answer, deadline) for server, answer in asked.items())
    except SettingsError:
        raise
    except Unavailable as error:
        return EXIT_STATUS[Unavailable], str(error)
    except ConfigBusError as error:
        return FAILED, str(error)
    if faults := [found["error"] for found in (postgres, redis) if "error" in found]:
        return EXIT_STATUS[Unavailable], " ".join(faults)
    reason = _fault(postgres, redis)
    return (FAILED, reason) if reason else (HEALTHY, "")


def _ask(look: Callable[[Settings], dict[str, Any]], settings: Settings) -> Future[dict[str, Any]]:
    """A look in a thread that nobody joins: neither a name server nor a frozen server delays the answer."""
    answer: Future[dict[str, Any]] = Future()

    def ask() -> None:
        try:
            answer.set_result(look(settings))
        except Exception as error:  # noqa: BLE001  # raised where the answer is awaited
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer


def _answer(server: str, answer: Future[dict[str, Any]], deadline: float) -> dict[str, Any]:
    try:
        return answer.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise Unavailable(server, f"no answer within {LIMIT_SECONDS} s") from None


def _fault(postgres: dict[str, Any], redis: dict[str, Any]) -> str:
    """What is wrong and what to do; nothing where all is well."""
    from configbus.snapshot import LIVE_SECONDS

    if "missing" in redis:
        return f"{redis['missing']}; start a relay: configbus relay"
    if "damaged" in redis:
        return f"the head in Redis is damaged: {redis['damaged']}; a relay of this version replaces it, see its log"
    faults, remedy = [], "see the relay's log and configbus status"
    if not standing.in_step(postgres, redis):
        told = [f"epoch {found['epoch']} revision {found['revision']}" for found in (redis, postgres)]
        faults.append(f"Redis is at {told[0]}, Postgres at {told[1]}")
    age = redis["age"]
    if age is None or not 0 <= age < LIVE_SECONDS:
        faults.append("the head in Redis has no stamp" if age is None else f"the stamp of Redis is {age:.1f} s old")
        remedy = "start a relay (configbus relay), or see why it does not stamp in its log"
    return "; ".join([*faults, remedy]) if faults else ""
