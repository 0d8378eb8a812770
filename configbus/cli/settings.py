"""`configbus settings`: what this process would work with, and where each of it came from."""

from __future__ import annotations

import os

from configbus.cli.options import DatabaseUrl, Environment, Json, RedisUrl, unchecked_settings_of
from configbus.cli.output import show_json, show_table
from configbus.settings import origins


def settings(
    database_url: DatabaseUrl = None,
    redis_url: RedisUrl = None,
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Show every setting, its value with passwords masked, and where it came from."""
    given = {"database_url": database_url, "redis_url": redis_url, "environment": environment}
    found = origins(unchecked_settings_of(**given), os.environ, given)
    if as_json:
        for origin in found:
            show_json(origin)
    else:
        show_table(("setting", "value", "from"), [(o.variable, o.value, o.source) for o in found])
