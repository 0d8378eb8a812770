"""Writes docs/reference.md from the code: commands, exit statuses, settings, Python names, domains.

Run it as `.venv/bin/python docs/generate_reference.py` after a change of any of them; a test compares.
"""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.main import get_command

import configbus
from configbus import errors
from configbus.author import Author
from configbus.catalogue import load_catalogue
from configbus.cli import DIFFERENT, EXIT_STATUS, NOT_EVERYWHERE
from configbus.cli.app import app
from configbus.fields import Column, nested_models
from configbus.reader import Reader
from configbus.settings import PREFIX, Settings
from configbus.snapshot import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PAGE = Path(__file__).with_name("reference.md")
OPENING = "# Reference\n\nMade from the code by `docs/generate_reference.py`: change the code, then run it."
QUOTED = re.compile(r"(: |-> )(['\"])(.*?)\2")  # an annotation in a signature
SHARED = 5  # commands that have an option, from which on it is explained once for all
MADE = {"actor": "the system's user", "worker": "`HOST:PID`", "environment": "`ENVIRONMENT`, else `development`"}
MADE |= {"domains": f"`{','.join(Settings().domains)}`", "database_url": "none", "redis_url": "none"}


def reference() -> str:
    """The whole page."""
    return "\n\n".join([OPENING, *_commands(), *_names(), *_domains()]) + "\n"


def _commands() -> Iterator[str]:
    group: Any = get_command(app)
    found = {}
    for name, command in _flat(group, ""):
        context = command.make_context(name, [], resilient_parsing=True)
        found[name] = command.help, [part.get_help_record(context) for part in command.params]
    count = Counter(option for _, options in found.values() for option in options)
    shared = [option for option, number in count.items() if number >= SHARED and option[0].startswith("-")]
    yield "## Commands\n\n`configbus COMMAND`, or `python -m configbus COMMAND`. Options that many have:"
    yield _list(shared)
    for name, (told, options) in found.items():
        yield f"### configbus {name}\n\n{_first(told)}"
        if own := [option for option in options if option not in shared]:
            yield _list(own)
        if also := [f"`{option[0].split()[-2 if '<' in option[0] else -1]}`" for option in options if option in shared]:
            yield f"Also {', '.join(also)}."
    meanings = {0: ["done"], 1: ["any other error, or what `health` or `doctor` found"], 2: ["wrong usage"]}
    meanings |= {DIFFERENT: ["differences found"], NOT_EVERYWHERE: ["released, and not known to be applied everywhere"]}
    for kind, status in EXIT_STATUS.items():
        meanings.setdefault(status, []).append(f"`{kind.__name__}`")
    rows = [(status, ", ".join(told)) for status, told in sorted(meanings.items())]
    yield "## Exit status\n\n" + _table(("status", "means"), rows)
    yield "## Settings\n\nVariables. The same name with `_FILE` behind it names a file that holds the value."
    defaults = {field.name: f"`{field.default}`" for field in fields(Settings)} | MADE
    variables = [(f"`{PREFIX}{name.upper()}`", default) for name, default in defaults.items()]
    yield _table(("variable", "default"), variables)


def _flat(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _flat(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _names() -> Iterator[str]:
    yield "## Python\n\nFrom `configbus`, except `Author` (`configbus.author`) and `Reader` (`configbus.reader`)."
    exported = [getattr(configbus, name) for name in configbus.__all__ if name != "ConfigBusError"]
    for value in [*exported, Author, Reader]:
        shape = "" if isinstance(value, type) else _signature(value)
        yield f"### {value.__name__}{shape}\n\n{_first(inspect.getdoc(value))}"
        if isinstance(value, type) and (lines := list(_members(value))):
            yield "\n".join(lines)
    yield "## Errors\n\nFrom `configbus.errors`; `ConfigBusError` from `configbus`, too."
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    rows = [(f"`{k.__name__}`", ", ".join(f"`{b.__name__}`" for b in k.__bases__), _first(k.__doc__)) for k in kinds]
    yield _table(("error", "is a", "meaning"), rows)


def _members(kind: type) -> Iterator[str]:
    if issubclass(kind, Enum):
        yield from (f"- `{member.name}` = `{member.value}`" for member in kind)
    if is_dataclass(kind):
        yield from (f"- `{field.name}: {field.type}`" for field in fields(kind))
    if kind is Author:
        yield "- everything that `Reader` has"
    for name in sorted(dir(kind)):
        static = inspect.getattr_static(kind, name)
        function = getattr(static, "__func__", getattr(static, "fget", static))
        inherited = kind is Author and inspect.getattr_static(Reader, name, None) is static
        ours = inspect.isfunction(function) and function.__module__.startswith("configbus")
        if ours and not inherited and not name.startswith("_"):
            shape = f": {function.__annotations__['return']}" if isinstance(static, property) else _signature(function)
            word = "async " if inspect.iscoroutinefunction(function) else ""
            told = _first(inspect.getdoc(getattr(kind, name)))
            yield f"- `{word}{name}{shape}`" + (f": {told}" if told else "")


def _domains() -> Iterator[str]:
    yield "## Domains\n\nThe built-in catalogue, `configbus.domains`. A numeric is a text in JSON, so that it is exact."
    for domain in sorted(load_catalogue(["configbus.domains"]), key=lambda domain: domain.name):
        yield f"### {domain.name}\n\n`{domain.model.__name__}`: {_first(domain.model.__doc__)}"
        defaults = domain.model().model_dump(mode="json")
        rows = [_row(column, defaults[column.name]) for column in domain.columns]
        yield _table(("field", "type", "default", "bounds", "description"), rows)
        for model in (m for field in domain.model.model_fields.values() for m in nested_models(field.annotation)):
            yield f"`{model.__name__}`:\n\n" + _list((n, f.description or "") for n, f in model.model_fields.items())
        if domain.model.table_checks:
            yield "Rules across fields:\n\n" + "\n".join(f"- `{rule}`" for rule in domain.model.table_checks.values())


def _row(column: Column, default: object) -> tuple[str, ...]:
    kind = f"numeric({column.digits},{column.places})" if column.kind == "numeric" else column.kind
    lengths = [(">=", column.min_length), ("<=", column.max_length)]
    bounds = [f"{operator} {bound}" for operator, bound in column.bounds] + [f"`{one}`" for one in column.choices]
    bounds += [f"length {operator} {limit}" for operator, limit in lengths if limit is not None]
    kind += " or null" if column.nullable else ""
    return f"`{column.name}`", kind, f"`{json.dumps(default)}`", ", ".join(bounds), column.description


def _signature(function: Any) -> str:
    given = inspect.signature(function)
    parts = [part for part in given.parameters.values() if part.name not in ("self", "cls")]
    unquoted = QUOTED.sub(r"\1\3", str(given.replace(parameters=parts)))
    return unquoted.replace(repr(MISSING), "...")


def _first(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _list(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- `{name}`: {' '.join(told.split())}" for name, told in rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf8")
