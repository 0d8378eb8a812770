"""The functions that judge history, held against what the migrations make: they live in the database that they judge,
and its owner can replace them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from configbus import migrations
from configbus.store.connect import quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

JUDGES = ("broken_chain", "chain_of", "digest", "instant", "kept_until", "line_digest", "state_until")
DEFINITION = re.compile(r"CREATE (?:OR REPLACE )?FUNCTION {schema}\.(\w+)\(.*?\$\$(.*?)\$\$", re.DOTALL)
FOUND = """
    SELECT proname, prosrc, lanname, proconfig FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace
    JOIN pg_language AS l ON l.oid = prolang WHERE nspname = :schema AND proname = ANY(:names)"""


def replaced_judges(connection: Connection, schema: str) -> list[str]:
    """The names of those that are not what this version makes, or not alone of their name.

    For the rest of the transaction operators and all else come from Postgres' own schema: they can be somebody's, too.
    """
    connection.execute(text("SET LOCAL search_path = pg_catalog, pg_temp"))
    scripts = sorted(Path(next(iter(migrations.__path__)), "versions").glob("*.sql"))
    made = {name: body for path in scripts for name, body in DEFINITION.findall(path.read_text(encoding="utf8"))}
    found: dict[str, list[tuple[str, str, list[str] | None]]] = {name: [] for name in JUDGES}
    for row in connection.execute(text(FOUND), {"schema": schema, "names": list(JUDGES)}):
        found[row.proname].append((row.prosrc, row.lanname, row.proconfig))
    return [name for name in JUDGES if found[name] != [(made[name].replace("{schema}", quoted(schema)), "sql", None)]]
