"""`configbus doctor`: what is wrong, or will be, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from configbus.cli.options import DatabaseUrl, Environment, Json, RedisUrl, settings_of
from configbus.cli.output import show_json, show_table

if TYPE_CHECKING:
    from configbus.doctor import Finding

FAILED = 1


def doctor(
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Look at connections, rights, schema, Redis, relay, workers and content, each finding with its remedy.

    Exit status 1 where there is an error; warnings alone leave it 0.
    """
    from configbus.doctor import examine

    settings = settings_of(database_url=database_url, redis_url=redis_url, environment=environment)
    findings: list[Finding] = []
    try:
        findings.extend(examine(settings))
    finally:
        _show(findings, as_json=as_json)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(FAILED)


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        for finding in findings:
            show_json(finding)
    else:
        show_table(("level", "about", "found", "remedy"), [(f.level, f.about, f.found, f.remedy) for f in findings])
