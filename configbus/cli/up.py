"""`configbus up`: everything on this machine, in the foreground, until it is stopped."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configbus.cli.migrating import prepare
from configbus.cli.options import Environment, settings_of
from configbus.cli.running import until_stopped

if TYPE_CHECKING:
    from configbus.settings import Settings


def up(
    data_dir: Annotated[Path, typer.Option(help="Where the data live; they survive.")] = Path(".configbus"),
    environment: Environment = None,
) -> None:
    """Run embedded Postgres and Valkey, migrations and the relay; DIR/env says how to reach them."""
    from configbus.embedded import EmbeddedPostgres, EmbeddedValkey, without_libpq_variables
    from configbus.relay import Relay

    variables = data_dir / "env"
    with until_stopped() as stop, without_libpq_variables():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with EmbeddedPostgres(data_dir / "postgres") as postgres, EmbeddedValkey(data_dir / "valkey") as valkey:
            variables.unlink(missing_ok=True)
            settings = settings_of(database_url=postgres.url, redis_url=valkey.url, environment=environment)
            prepare(settings)
            relay = Relay(settings, stop)
            relay.bring_up()
            try:
                lines = [f"export {name}={shlex.quote(value)}\n" for name, value in exports(settings).items()]
                _write_private(variables, "".join(lines))
                typer.echo(f"ready; in another terminal:  . {shlex.quote(str(variables))}")
                relay.run()
            finally:
                variables.unlink(missing_ok=True)
    typer.echo("stopped")


def exports(settings: Settings) -> dict[str, str]:
    """The variables by which another process finds these servers and this catalogue."""
    return {
        "CONFIGBUS_DATABASE_URL": settings.require("database_url"),
        "CONFIGBUS_REDIS_URL": settings.require("redis_url"),
        "CONFIGBUS_ENVIRONMENT": settings.environment,
        "CONFIGBUS_NAMESPACE": settings.namespace,
        "CONFIGBUS_SCHEMA": settings.schema,
        "CONFIGBUS_DOMAINS": ",".join(settings.domains),
    }


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and readable by its owner only: the URLs hold passwords."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text, encoding="utf8")
    fresh.rename(path)
