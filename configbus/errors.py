"""Every error that configbus raises, as one tree.

Driver errors are translated at the edge (`raise ... from exc`), so that a caller needs no
import of redis or psycopg to tell them apart. What a program may want to know stands in
attributes; the message says what was wrong, where, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from configbus.hints import hint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class ConfigBusError(Exception):
    """The root of the tree."""


class DefinitionError(ConfigBusError, TypeError):
    """A class cannot be a domain; raised when the class is defined."""


class SettingsError(ConfigBusError, ValueError):
    """One of this process's own settings is missing or malformed."""


class UnknownName(ConfigBusError, LookupError):
    """A name that nothing answers to; `near` holds similar names that exist."""

    def __init__(self, message: str, near: Sequence[str] = ()) -> None:
        hint = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
        super().__init__(message + hint)
        self.near = tuple(near)


class UnknownBlock(UnknownName):
    """No such block: its domain is not in the catalogue, or the key holds nothing."""


class UnknownField(UnknownName):
    """The block has no such field, or the nested part does not exist."""


class UnknownEnvironment(UnknownName):
    """The environment was never set up in this database."""


class UnknownVersion(UnknownName):
    """No version row has that id, or several have that beginning of one."""


class UnknownRevision(UnknownName):
    """There is no such release, or nothing had been released by that instant."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one value: a path such as `trading.score_threshold`, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class InvalidValue(ConfigBusError, ValueError):
    """Values that the model or the database refuses; `problems` names each with its path."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class Conflict(ConfigBusError):
    """Somebody else changed the same thing, or a rule between rows forbids it."""


class MigrationRefused(ConfigBusError):
    """The schema cannot be brought there without losing something; `ddl` is what a person may review and run."""

    def __init__(self, message: str, ddl: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.ddl = tuple(ddl)


class Unavailable(ConfigBusError):
    """A server did not answer; `server` is `Postgres` or `Redis`."""

    def __init__(self, server: str, message: str) -> None:
        super().__init__(f"{server} is not available: {message.rstrip('.')}.{hint(server, message)}")
        self.server = server


class Superseded(ConfigBusError):
    """Redis follows a newer history than this Postgres: it is not the source of truth any more."""

    def __init__(self, epoch: int, newer: int) -> None:
        super().__init__(
            f"Redis follows epoch {newer}, this Postgres is at epoch {epoch}: another database took over. "
            "Point CONFIGBUS_DATABASE_URL at the new primary.",
        )
        self.epoch = epoch
        self.newer = newer


class HistoryLost(ConfigBusError):
    """Redis holds what this Postgres does not know any more: it was set back. A relay begins a new epoch then."""

    def __init__(self, epoch: int, revision: int, found_epoch: int, found_revision: int) -> None:
        super().__init__(
            f"Redis is at epoch {found_epoch} revision {found_revision}, which this Postgres, at epoch {epoch} "
            f"revision {revision}, does not know: it was set back. A relay begins a new epoch, or by hand: "
            "configbus epoch raise",
        )
        self.epoch = epoch
        self.revision = revision
        self.found_epoch = found_epoch


class NotReady(ConfigBusError):
    """A worker could not start on what its `require` asks for within its time."""


class NotInTime(ConfigBusError, TimeoutError):
    """What was waited for did not happen within the time allowed."""


class Stale(ConfigBusError):
    """A value may be older than `max_age` allows: the copy cannot be vouched for, or its block is held."""


class Rejected(ConfigBusError):
    """This worker holds back the release that was waited for; `reasons` maps block to reason."""

    def __init__(self, revision: int, reasons: dict[str, str]) -> None:
        self.revision = revision
        self.reasons = reasons
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        super().__init__(f"revision {revision} is held back in this worker: {told}")


class Closed(ConfigBusError):
    """The bus was closed: it still serves its last values, but follows nothing any more."""
