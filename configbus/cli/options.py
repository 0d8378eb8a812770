"""The options that several commands share, and the settings they make."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from configbus.cli.logs import log_to_stderr
from configbus.settings import Settings, check_urls, read_settings, warn_of_unknown

DatabaseUrl = Annotated[str | None, typer.Option(help="Postgres; CONFIGBUS_DATABASE_URL.", show_default=False)]
RedisUrl = Annotated[str | None, typer.Option(help="Redis; CONFIGBUS_REDIS_URL.", show_default=False)]
Environment = Annotated[
    str | None, typer.Option("--environment", "-e", help="CONFIGBUS_ENVIRONMENT.", show_default=False)
]
By = Annotated[str | None, typer.Option("--by", help="Who does it; CONFIGBUS_ACTOR.", show_default=False)]
Reason = Annotated[str | None, typer.Option(help="Why; it stands in history and audit log.", show_default=False)]
IdempotencyKey = Annotated[
    str | None,
    typer.Option("--idempotency-key", help="The same call with the same key makes one release.", show_default=False),
]
Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", min=0, max=3600, metavar="SECONDS", help="Wait for all workers; exit status 9 if one has it not."
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many, the newest first.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, or one per line.")]


def settings_of(**given: Any) -> Settings:
    """The settings of this command; from here on logs go to stderr."""
    settings = unchecked_settings_of(**given)
    check_urls(settings)
    return settings


def unchecked_settings_of(**given: Any) -> Settings:
    """The same, whatever the URLs are."""
    settings = read_settings(**given)
    log_to_stderr(settings.log_level, settings.log_format)
    warn_of_unknown(os.environ, settings.environment)
    return settings
