"""The command line. Data on stdout, logs on stderr; each command imports what it needs when it runs."""

from __future__ import annotations

import contextlib
import os
import sys

from configbus.errors import (
    ConfigBusError,
    Conflict,
    HistoryLost,
    InvalidValue,
    MigrationRefused,
    SettingsError,
    Superseded,
    Unavailable,
    UnknownName,
)

EXIT_STATUS: dict[type[ConfigBusError], int] = {
    SettingsError: 2,
    InvalidValue: 3,
    UnknownName: 4,
    Conflict: 5,
    MigrationRefused: 5,
    Superseded: 5,
    HistoryLost: 5,
    Unavailable: 6,
}
DIFFERENT = 8
NOT_EVERYWHERE = 9


def main() -> None:
    """Run one command and exit with its status; an error of ours or of the system is told on stderr in a line."""
    if sys.stdout is None:
        sys.exit("configbus: stdout is closed")
    try:
        from configbus.cli.app import app
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        sys.exit(f"configbus: {error.name} is not installed: pip install 'configbus[cli,store]'")
    try:
        app()
    except ConfigBusError as error:
        told = "\n".join(map(printable, str(error).split("\n")))
        sys.stderr.write(f"configbus: {told}\n")
        sys.exit(next((status for kind, status in EXIT_STATUS.items() if isinstance(error, kind)), 1))
    except ModuleNotFoundError as error:
        sys.exit(f"configbus: {error.name} is not installed: pip install 'configbus[store,embedded]'")
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        with contextlib.suppress(OSError):  # what a full disk did not take would be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"configbus: {printable(str(error))}")


def printable(text: str) -> str:
    """The text with everything written as an escape that a terminal might obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
