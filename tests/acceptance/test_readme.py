"""What README shows runs as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from shell import PATIENCE, Shell, line_with

from configbus.cli.demo import demo

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["worker", "author"])
def test_an_example_of_the_readme_runs(example: str, database_url: str, redis_url: str) -> None:
    variables = {
        "CONFIGBUS_DATABASE_URL": database_url,
        "CONFIGBUS_REDIS_URL": redis_url,
        "CONFIGBUS_ENVIRONMENT": "production",
    }
    if "Author" not in example:
        publish = "from configbus.author import Author; Author.connect().set({'risk.max_order_attempts': 4})"
        subprocess.run([sys.executable, "-c", publish], env=os.environ | variables, timeout=30, check=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_demo_is_promised_to_take_as_long_everywhere() -> None:
    duration = "about half a minute"
    assert duration in README.partition("```\n")[0]
    assert duration in (demo.__doc__ or "")


CHANGING = README.partition("## Changing something")[2].partition("\n## ")[0]
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", CHANGING, re.DOTALL))
STEPS = [
    (command, shown) for command, shown in re.findall(r"^\$ ((?:.|\n {4})*)\n((?:[^$\n].*\n)*)", CONSOLE, re.MULTILINE)
]
PSQL = "import sys, psycopg; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[3])"
WITHOUT = {"psql": f'psql() {{ .venv/bin/python -c {shlex.quote(PSQL)} "$@"; }}', "redis-cli": ""}


def test_the_readme_s_console_runs_and_prints_what_is_shown(
    empty_database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Servers and a relay stand in for `up`; what README leaves to a person's pace waits for the relay."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".configbus").mkdir()
    variables = {
        "CONFIGBUS_DATABASE_URL": empty_database_url,
        "CONFIGBUS_REDIS_URL": redis_url,
        "CONFIGBUS_ENVIRONMENT": "development",
    }
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    (tmp_path / ".configbus" / "env").write_text("".join(exports), encoding="utf8")
    missing = [tool for tool in WITHOUT if shutil.which(tool) is None]
    steps = [
        (command, shown) for command, shown in STEPS if not (command.startswith("redis-cli") and "redis-cli" in missing)
    ]
    assert len(steps) >= 12, CONSOLE
    lines = ["set -eu", *(WITHOUT[tool] for tool in missing), "trap 'kill $!' EXIT"]
    for number, (command, _) in enumerate(steps):
        if command.startswith("redis-cli"):
            lines.append("until .venv/bin/configbus status >/dev/null; do :; done")
        lines.append(f"echo step {number}")
        lines.append(command)

    shell = Shell(tmp_path, **variables)
    assert shell("migrate").returncode == 0
    relay = shell.start("relay")
    try:
        assert relay.stderr is not None
        line_with(relay, relay.stderr, "relay_started")
        done = subprocess.run(
            ["/usr/bin/env", "timeout", "40", "/bin/sh", "-c", "\n".join(lines)],
            env={name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    finally:
        relay.terminate()
        relay.communicate(timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    printed = [part.splitlines() for part in re.split(r"^step [0-9]+\n", done.stdout, flags=re.MULTILINE)[1:]]
    assert len(printed) == len(steps)
    for (command, shown), found in zip(steps, printed, strict=True):
        for line in shown.splitlines():
            assert {line, str(json.loads(line))} & {*found}, command  # redis-cli quotes for people alone
    assert [line for found in printed for line in found if line.isdecimal()] == ["2", "4", "5"]
