"""The pages in docs/ run as they stand there, one after another in one directory, and print what they show.

In them `…` stands for any text, and alone on a line for any lines; ids and instants stand for others of their shape.
A block is saved where it names a file; a python block is one script with the former where it says `continued`, and is a
script of its own otherwise. An expression with a comment behind it shows its value; a text block shows what the
script, or the worker that runs, says.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from shell import EVERYTHING, PATIENCE, QuickShell, line_with

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("quickstart", "workers", "outages", "authoring", "fleet", "security", "testing", "from-ttl-cache")
PAGES = [DOCS / f"{name}.md" for name in NAMES]
LONGEST_PAGE = 150
INSTALLING = ("python3 -m venv ", ".venv/bin/pip install ", ". .venv/bin/activate")
"""What another test does."""

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STEP = re.compile(r"^\$ (.*(?:\n {4}.*)*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PLAIN = re.compile(r"(?:(?P<variable>\w+)=\$\()?configbus (?P<command>[^|&;<>`()]+)(?(variable) \| cut -d' ' -f1\))")
"""What needs no shell: `configbus ...` or `id=$(configbus ... | cut -d' ' -f1)`."""
SHAPES = {
    r"(?<![.\w])(?=[a-f]*[0-9])[0-9a-f]{8}(?![.\w])": r"[0-9a-f]{8}",
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]+)?Z": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]+)?Z",
    r"(?<!T)\b[0-9]{2}:[0-9]{2}:[0-9]{2}\b": r"[0-9]{2}:[0-9]{2}:[0-9]{2}",
    "…": ".*",
}
SHAPE = re.compile("|".join(f"({shape})" for shape in SHAPES))
SHOWS = """
def __shows__(value, shown):
    import re
    fits = re.compile(re.escape(shown).replace("…", ".*"), re.DOTALL).fullmatch
    assert fits(repr(value)) or fits(str(value)), f"{value!r} is shown as {shown}"
"""


@dataclass
class Step:
    """A command, a file, a script, or lines that the worker says, with what is shown of it."""

    kind: str
    text: str
    shown: str = ""


def steps_of(page: str) -> list[Step]:
    """What a page asks its reader to do, in order."""
    steps: list[Step] = []
    for kind, about, text in BLOCK.findall(page):
        if kind == "console":
            found = STEP.findall(text)
            assert found, f"no command in {text!r}"
            steps += [Step("command", command, shown) for command, shown in found]
        elif kind == "python" and about == "continued":
            script = next(step for step in reversed(steps) if step.kind == "script")
            script.text += text
        elif kind == "python" or about:
            steps.append(Step(about or "script", text))
        elif steps[-1].kind == "script":
            steps[-1].shown += text
        else:
            assert kind == "text", f"{kind!r} is no kind of block that is known here"
            steps.append(Step("said", "", text))
    return steps


def pattern_of(shown: str) -> re.Pattern[str]:
    """What fits an output that a page shows, blank lines and blanks at the ends of lines aside."""
    found = []
    for line in shown.splitlines():
        if line.strip() == "…":
            found.append("(?:.*\n)*")
        elif line.strip():
            parts, end = [], 0
            for shape in SHAPE.finditer(line := line.rstrip()):
                parts += [re.escape(line[end : shape.start()]), [*SHAPES.values()][(shape.lastindex or 0) - 1]]
                end = shape.end()
            found.append("".join((*parts, re.escape(line[end:]), "\n")))
    return re.compile("".join(found))


def without_blanks(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


def with_values_checked(script: str) -> str:
    """The script, failing where an expression's value is not the one in the comment behind it."""
    lines = script.splitlines()
    for node in ast.walk(ast.parse(script)):
        if isinstance(node, ast.Expr) and node.lineno == node.end_lineno:
            expression, mark, shown = lines[node.lineno - 1].partition("  # ")
            if mark:
                indent = " " * node.col_offset
                lines[node.lineno - 1] = f"{indent}__shows__(({expression.strip()}), {shown!r})"
    return "\n".join((SHOWS, *lines))


class Reader:
    """Somebody who follows the pages in a directory, with a terminal for `configbus up` and one for the rest."""

    def __init__(self, directory: Path) -> None:
        (directory / ".venv").symlink_to(sys.prefix)
        self._directory = directory
        self._shell = QuickShell(directory)
        for name in [name for name in self._shell.environ if name in EVERYTHING or name.startswith("PYTEST_")]:
            del self._shell.environ[name]
        self._shell.environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._up: subprocess.Popen[str] | None = None
        self._worker: subprocess.Popen[str] | None = None
        self._status = 0

    def follow(self, step: Step) -> None:
        if step.kind == "command":
            self._command(step.text, step.shown)
        elif step.kind == "script":
            (self._directory / "script.py").write_text(with_values_checked(step.text), encoding="utf8")
            done = self._run("python", "-W", "error", "script.py")
            assert (done.returncode, done.stderr) == (0, ""), f"{done.stderr}\nin\n{step.text}"
            assert pattern_of(step.shown).fullmatch(without_blanks(done.stdout)), done.stdout
        elif step.kind == "said":
            self._hear(step.shown)
        else:
            (self._directory / step.kind).write_text(step.text, encoding="utf8")

    def end(self) -> None:
        """Press Return, which ends the worker, and Ctrl-C in the terminal of `configbus up`."""
        assert self._status == 0, "the last command failed, and the page does not say so"
        if self._worker is not None:
            said, complaints = self._worker.communicate("\n", timeout=PATIENCE)
            assert (said, complaints, self._worker.returncode) == ("", "", 0)
            self._worker = None
        if self._up is not None:
            self._up.send_signal(signal.SIGINT)
            said, _ = self._up.communicate(timeout=PATIENCE)
            assert (said, self._up.returncode) == ("stopped\n", 0)
            self._up = None

    def kill(self) -> None:
        for process in (self._worker, self._up):
            if process is not None:
                process.kill()
                process.communicate()

    def _command(self, command: str, shown: str) -> None:
        tool, *arguments = shlex.split(command, comments=True)
        if command.startswith(INSTALLING):
            return
        if command.startswith("configbus up"):
            self._up = self._start(*shlex.split(command), stderr=subprocess.DEVNULL)
            line_with(self._up, self._up.stdout, "ready")
            return
        if tool in ("psql", "redis-cli") and shutil.which(tool) is None:
            if tool == "psql":
                with psycopg.connect(self._shell.environ["CONFIGBUS_DATABASE_URL"], autocommit=True) as connection:
                    connection.execute(arguments[-1].encode())
            return
        if command == "echo $?":
            assert pattern_of(shown).fullmatch(f"{self._status}\n"), f"{self._status} is shown as {shown}"
            self._status = 0
            return
        assert self._status == 0, f"the command before {command!r} failed, and the page does not say so"
        if tool == "python":
            self._worker = self._start("python", "-W", "error", *arguments)
            self._hear(shown)
            return
        if plain := PLAIN.fullmatch(command):
            done = self._configbus(plain["command"])
            if plain["variable"]:
                self._shell.environ[plain["variable"]] = done.stdout.split()[0]
        else:
            done = self._in_shell(command.replace("redis-cli", "redis-cli --no-raw"))
        self._status = done.returncode
        outputs = [done.stdout + done.stderr, done.stderr + done.stdout]
        if tool in ("psql", "redis-cli"):  # of a password in a URL redis-cli warns
            outputs = [done.stdout] if done.stdout else [done.stderr]
        fits = pattern_of(shown).fullmatch
        assert not shown.strip() or any(fits(without_blanks(output)) for output in outputs), (
            f"$ {command}\n{outputs[0]}\nis shown as\n{shown}"
        )
        assert shown.strip() or not self._status, f"$ {command}\n{done.stderr}"

    def _configbus(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command without a process, with variables put in, and modules of the directory as they are now."""
        words = string.Template(command).substitute(self._shell.environ)
        with pytest.MonkeyPatch.context() as process:
            if "PYTHONPATH" in self._shell.environ:
                process.syspath_prepend(str(self._directory))
                process.setattr(sys, "dont_write_bytecode", True)
                for module in self._directory.glob("*.py"):
                    sys.modules.pop(module.stem, None)
            return self._shell(*shlex.split(words))

    def _in_shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command in a shell, and afterwards its variables."""
        left = self._directory / "variables"
        done = self._run("/bin/sh", "-c", f"set -a\n{command}\nstatus=$?\nenv -0 >{left}\nexit $status")
        found = (entry.split("=", 1) for entry in left.read_text(encoding="utf8").split("\0") if entry)
        self._shell.environ = {name: value for name, value in found if name != "status"}
        return done

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self._shell.environ,
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def _start(self, *command: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=self._shell.environ,
            cwd=self._directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def _hear(self, shown: str) -> None:
        """The worker's next lines are those shown."""
        assert self._worker is not None, "nothing runs that could say this"
        assert self._worker.stdout is not None
        said = "".join(self._worker.stdout.readline() for _ in shown.splitlines())
        assert pattern_of(shown).fullmatch(said), f"{said}\nis shown as\n{shown}"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.kill()


@pytest.mark.timeout(300)
def test_the_pages_run_one_after_another_in_one_place_and_print_what_they_show(reader: Reader) -> None:
    for page in PAGES:
        for step in steps_of(page.read_text(encoding="utf8")):
            try:
                reader.follow(step)
            except BaseException as error:
                error.add_note(f"in {page.name}")
                raise
        reader.end()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf8").splitlines()) <= LONGEST_PAGE


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
