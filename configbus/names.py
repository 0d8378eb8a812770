"""What may be called what, and how names are put together and taken apart.

A *block name* is `trading` or, in a keyed domain, `strategy/market_maker`; a *path* adds a
field and nested parts: `strategy/market_maker.parameters.size`.
"""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)
REVISION = re.compile(r"[0-9]{1,15}", re.ASCII)
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", re.ASCII)

LIFECYCLE_COLUMNS = (
    "id",
    "environment",
    "key",
    "name",
    "status",
    "version",
    "description",
    "created_at",
    "created_by",
    "updated_at",
    "updated_by",
    "activated_at",
    "activated_by",
)
SYSTEM_COLUMNS = ("cmax", "cmin", "ctid", "tableoid", "xmax", "xmin")
"""Columns that Postgres gives to every table."""


def is_environment(text: str) -> bool:
    """Whether the text may name an environment or a namespace."""
    return ENVIRONMENT.fullmatch(text) is not None


def is_key(text: str) -> bool:
    """Whether the text may be the key of a block."""
    return KEY.fullmatch(text) is not None


def identifier_fault(text: str) -> str | None:
    """Why the text cannot name a domain or a field; None if it can."""
    if not IDENTIFIER.fullmatch(text):
        return "must be 1 to 40 of a-z, 0-9 and _, beginning with a letter"
    if "__" in text:
        return "must not contain two underscores in a row"
    if keyword.iskeyword(text):
        return "is a Python keyword"
    return None


def block_name(domain: str, key: str = "") -> str:
    """The one name of a block, the same in Redis, in Postgres and in Python."""
    return f"{domain}/{key}" if key else domain


def split_block(name: str) -> tuple[str, str]:
    """Domain and key (empty for a singleton) of a block name."""
    domain, _, key = name.partition("/")
    return domain, key


def split_path(path: str) -> tuple[str, list[str]]:
    """Block name and the parts behind it: field first, then nested names."""
    name, *parts = path.split(".")
    return name, parts


def near(wanted: str, known: Iterable[str]) -> list[str]:
    """At most two known names that look like the wanted one, best first."""
    import difflib

    names = list(known)
    beginnings = [name for name in names if wanted and name.startswith(wanted)]
    return (difflib.get_close_matches(wanted, names, n=2, cutoff=0.6) or beginnings)[:2]
