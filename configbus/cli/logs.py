"""Logs of the command line: to stderr, for people or as JSON."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from configbus.cli import printable
from configbus.log import masked


class _Console(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in masked(super().format(record)).split("\n"))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", None) or {"event": masked(record.getMessage())}
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), **facts}
        if record.exc_info:
            line["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: masked(str(value)))


def log_to_stderr(level: str, form: str) -> None:
    """Show the library's log on stderr from now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Console())
    logger = logging.getLogger("configbus")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
