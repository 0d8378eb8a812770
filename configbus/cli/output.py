"""How commands show what they found: a table for people, one JSON object per line for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from configbus.cli import printable
from configbus.errors import InvalidValue, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from configbus.difference import Differences
    from configbus.store.versions import VersionRow

LISTED = 3
LONGEST = 40
NARROWEST = 12
WHOLE = {
    "action",
    "active since",
    "at",
    "block",
    "by",
    "changed",
    "drafts",
    "id",
    "revision",
    "status",
    "version",
    "worker",
}
"""Columns of a table that are never folded, since people copy them into the next command."""


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table: fitted to the terminal as far as its texts can be folded, or one plain line per row in a pipe."""
    lines = [columns, *([cell(value) for value in row] for row in rows)]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            typer.echo("  ".join(map(str.ljust, line, widths)).rstrip())
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, *texts in zip(table.columns, *lines, strict=True):
        width = max(map(cell_len, texts))
        column.overflow = "fold"
        column.no_wrap = column.header in WHOLE
        column.min_width = width if column.no_wrap else min(width, NARROWEST)
    for line in lines[1:]:
        table.add_row(*line)
    least = sum((column.min_width or 0) + 2 for column in table.columns)
    table.width = least if least > console.width else None
    console.print(table, crop=False)


def show_json(record: Any) -> None:
    """One line of JSON."""
    try:
        typer.echo(json.dumps(plain(record)))
    except RecursionError:
        raise InvalidValue([Problem("document", "is nested too deep to be shown")]) from None


def show_row(row: VersionRow, *, as_json: bool) -> None:
    """What a command that prepares a version answers: id and version."""
    if as_json:
        show_json(row)
    else:
        typer.echo(f"{row.short_id} version {row.version}")


def plain(value: Any) -> Any:
    """The same as JSON has it: instants in ISO 8601, ids and names as texts."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case UUID():
            return str(value)
        case dict():
            return {name: plain(part) for name, part in value.items()}
        case list() | tuple():
            return [plain(part) for part in value]
        case _ if dataclasses.is_dataclass(value):
            names = ["content" if field.name == "texts" else field.name for field in dataclasses.fields(value)]
            return {name: plain(getattr(value, name)) for name in names}
    return value


def cell(value: Any) -> str:
    """A value on one line, without anything that a terminal would obey. Instants are shown to the millisecond,
    rounded up, so that what was released by then includes the release they came from.
    """
    if value is None:
        return ""
    if isinstance(value, datetime):
        shown = value.astimezone(UTC) + timedelta(microseconds=-value.microsecond % 1000)
        return shown.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return printable(str(value))


def shown(value: Any) -> str:
    """A configuration value as people write it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def brief(changes: Differences) -> str:
    """The first few differences on one line."""
    if len(changes) > LISTED and all(old is None for old, _ in changes.values()):
        return "appeared"
    told = [f"{path} {_short(old)} -> {_short(new)}" for path, (old, new) in list(changes.items())[:LISTED]]
    more = [f"and {len(changes) - LISTED} more"] if len(changes) > LISTED else []
    return ", ".join(told + more)


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
