"""Authors on a database that holds the sample domains, and what a refused call must leave as it was."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from waiting import until

from configbus.author import Author
from configbus.errors import ConfigBusError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

Psql = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

DOMAINS = ("configbus.domains", "sample_domains")
WAITING = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
CONTENTS = (
    "SELECT DISTINCT ON (name) name, content::text FROM configbus.release_block"
    " WHERE environment = 'production' AND revision <= %s ORDER BY name, revision DESC"
)


def author_of(url: str, **options: Any) -> Author:
    """An author without Redis: what is tested stands in Postgres."""
    given = {"actor": "ana", "environment": "production", "domains": DOMAINS} | options
    return Author.connect(database_url=url, **given)


def everything(psql: Psql) -> dict[str, Any]:
    """A digest of each table, to be compared with a later one."""
    tables = psql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'configbus' ORDER BY 1").fetchall()
    digest = sql.SQL("SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM configbus.{} AS t")
    return {name: psql.execute(digest.format(sql.Identifier(name))).fetchall() for (name,) in tables}


def revision_of(psql: Psql) -> int:
    """The newest revision of production."""
    query = "SELECT revision FROM configbus.environment WHERE name = 'production'"
    number: int = psql.execute(query).fetchall()[0][0]
    return number


def contents(psql: Psql, revision: int | None = None) -> dict[str, str]:
    """The released content, as text, of every block that was live at a revision; at the newest one."""
    rows = psql.execute(CONTENTS, [revision_of(psql) if revision is None else revision]).fetchall()
    return {name: content for name, content in rows if content is not None}


def gather(futures: list[Future[T]]) -> list[T | ConfigBusError]:
    """What each call answered: its result, or the error of ours that it raised; any other error is raised."""
    found: list[T | ConfigBusError] = []
    for future in futures:
        try:
            found.append(future.result(30))
        except ConfigBusError as error:
            found.append(error)
    return found


def run_behind_a_lock(
    psql: Psql, lock: LiteralString, calls: list[Callable[[], T]], *, undone: bool = False
) -> list[T | ConfigBusError]:
    """Start the calls in order while somebody holds the lock that this query takes, each once those before it wait.

    What the query did is committed then, or `undone`.
    """
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = []
        with psql.transaction(force_rollback=undone):
            assert psql.execute(lock).fetchall()
            for number, call in enumerate(calls, 1):
                futures.append(threads.submit(call))
                until(lambda number=number: psql.execute(WAITING).fetchall() == [(number,)])  # type: ignore[misc]  # mypy infers no default of a lambda
        return gather(futures)
