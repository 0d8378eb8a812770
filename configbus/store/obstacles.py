"""What stands against a migration, told to a person who decides: the DDL to review, and the rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from configbus.errors import MigrationRefused
from configbus.names import block_name

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN_ROWS = 5
SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Against:
    """Rows that stand against a change: how many, how many of them may still be edited, and the first few."""

    total: int = 0
    living: int = 0
    shown: tuple[str, ...] = ()

    @property
    def way(self) -> str:
        """What becomes of rows that break a rule: those that may still be edited must keep it before it is made."""
        return (
            "change those that are not archived first" if self.living else "NOT VALID leaves archived rows as they are"
        )

    def __str__(self) -> str:
        if not self.total:
            return "no row stands against it"
        more = f"; and {self.total - len(self.shown)} more" if self.total > len(self.shown) else ""
        stand = "1 row stands" if self.total == 1 else f"{self.total} rows stand"
        return f"{stand} against it ({self.total - self.living} archived): {'; '.join(self.shown)}{more}"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a table cannot be brought to its model, and what a person might do about it."""

    what: str
    ddl: tuple[str, ...]
    rows: Against | None = None
    columns: frozenset[str] = frozenset()

    def __str__(self) -> str:
        ddl = "".join(f"\n  {statement};" for statement in self.ddl)
        return f"{self.what}{ddl}" + (f"\n  {self.rows}" if self.rows else "")


def shown_row(row: str, status: str, environment: str, key: str, values: dict[str, Any]) -> str:
    """One of those rows: shortened id, status, where it belongs, and the values in question on one line."""
    told = ", ".join(f"{name} = {_shown(value)}" for name, value in values.items())
    return f"{row} {status} {block_name(environment, key)}: {told}"


def refuse(schema: str, obstacles: Sequence[Obstacle]) -> None:
    """Raises MigrationRefused with all of them, if there are any."""
    if obstacles:
        raise MigrationRefused(
            f"schema {schema!r} cannot be brought to these models without losing something, so nothing was changed. "
            "Review the DDL, run what is right of it, and migrate again:\n" + "\n".join(map(str, obstacles)),
            [statement for obstacle in obstacles for statement in obstacle.ddl],
        )


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:SHOWN_CHARACTERS] if text.isprintable() else json.dumps(text[:SHOWN_CHARACTERS])
