"""The commands as a person runs them: processes of their own, with their exit status, stdout and stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 20.0
EVERYTHING = {"CONFIGBUS_ENVIRONMENT": "production", "CONFIGBUS_ACTOR": "ana"}


class Shell:
    """Runs `configbus` with these variables and nothing else of CONFIGBUS_*."""

    def __init__(self, directory: Path, **variables: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
        self.environ = clean | EVERYTHING | variables
        self.directory = directory

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "configbus", *arguments],
            capture_output=True,
            text=True,
            env=self.environ | variables,
            cwd=self.directory,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "configbus", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
            cwd=self.directory,
        )


def line_with(process: subprocess.Popen[str], stream: Any, word: str) -> str:
    """The next line of a stream that holds the word; the test's own time limit ends a wait in vain."""
    for line in stream:
        if word in line:
            return str(line)
    raise AssertionError(f"{process.args!r} ended without saying {word!r}")
