"""The commands as a person runs them, with their exit status, stdout and stderr."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from configbus.cli import main

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


class QuickShell(Shell):
    """The same without a process for each command, which half a second goes to: for tables of many commands."""

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        out, err, status = io.StringIO(), io.StringIO(), 0
        logger = logging.getLogger("configbus")
        before = logger.handlers[:], logger.level, logger.propagate
        environ = self.environ | variables
        with (
            pytest.MonkeyPatch.context() as process,
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            for name in os.environ.keys() - environ.keys():
                process.delenv(name)
            for name, value in environ.items():
                process.setenv(name, value)
            process.setattr(sys, "argv", ["configbus", *arguments])
            try:
                main()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except Exception:  # noqa: BLE001  # as the interpreter does at the end of a process
                traceback.print_exc()
                status = 1
            finally:
                logger.handlers[:], logger.level, logger.propagate = before
        return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def line_with(process: subprocess.Popen[str], stream: Any, word: str) -> str:
    """The next line of a stream that holds the word; the test's own time limit ends a wait in vain."""
    for line in stream:
        if word in line:
            return str(line)
    raise AssertionError(f"{process.args!r} ended without saying {word!r}")
