"""Connections to Postgres, statements in our schema, and driver errors in our words."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Engine, NullPool, TextClause, create_engine, event, exc, make_url, text

from configbus.errors import ConfigBusError, Conflict, InvalidValue, Problem, SettingsError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection, Pool, RootTransaction

SOMEWHERE = ("host", "hostaddr", "port", "service")
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
T = TypeVar("T")

ATTEMPTS = 4
"""Of a transaction that others are in the way of."""
DEADLOCK, SERIALIZATION = "40P01", "40001"
CANCELED = "57014"
CHECK, UNIQUE, FOREIGN_KEY, LOCK_TIMEOUT, ELSEWHERE = "23514", "23505", "23503", "55P03", "55000"
NO_TABLE, NO_SCHEMA, NO_FUNCTION = "42P01", "3F000", "42883"


class Limits(NamedTuple):
    """Seconds that anything waits at most: for a connection, for a lock, for a statement."""

    connect: float
    lock: float
    statement: float

    @classmethod
    def of(cls, seconds: float) -> Limits:
        """The same for each, a lock a little sooner: it is told as what it is."""
        return cls(seconds, 0.9 * seconds, seconds)


SHORT = Limits.of(3.0)
"""For what is asked again soon."""
LONG = Limits(connect=3.0, lock=3.0, statement=600.0)
"""For what somebody asks for: much may have to be read or written."""
COMMIT_SECONDS = 10.0
HURRY = """
    SELECT set_config('lock_timeout', floor(greatest(500, 3000 - 1000 * extract(
        epoch FROM clock_timestamp() - transaction_timestamp())))::text, true)"""
"""Whoever waited for one lock, of the 3 s above, has so much less time for the next."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which schema, and which environment in it."""

    schema: str
    environment: str


HINTS = {
    "42501": "The role of CONFIGBUS_DATABASE_URL lacks this right; grant it, or use the owner of the schema.",
    "25006": "It is a standby: point CONFIGBUS_DATABASE_URL at the primary.",
}


def quoted(name: str) -> str:
    """An SQL identifier, safe to stand in a statement."""
    return '"' + name.replace('"', '""') + '"'


@lru_cache(maxsize=256)
def sql(statement: str, schema: str, table: str = "", columns: tuple[str, ...] = ()) -> TextClause:
    """A statement with `{schema}`, `{table}` and `{columns}` put in as identifiers; values go in as parameters."""
    names = {"{schema}": quoted(schema), "{table}": quoted(table), "{columns}": ", ".join(map(quoted, columns))}
    for placeholder, name in names.items():
        statement = statement.replace(placeholder, name)
    return text(statement)


def driver_url(url: str) -> URL:
    """The URL for SQLAlchemy, from `postgres://` or `postgresql://`, with options that libpq takes. Raises
    SettingsError.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise SettingsError("CONFIGBUS_DATABASE_URL must begin with postgresql://")
    try:
        parsed = make_url(f"postgresql+psycopg://{rest}")
    except (exc.ArgumentError, ValueError):
        raise SettingsError(
            "CONFIGBUS_DATABASE_URL is not a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE;"
            " write / # ? @ and % in the password percent-encoded"
        ) from None
    if parsed.query:
        _check_options(parsed.query)
    return parsed


def make_engine(url: str, limits: Limits = LONG, pool: type[Pool] | None = None) -> Engine:
    """An engine that notices a dead peer, and on which nothing waits longer than the limits.

    They are set in each transaction: behind a pooler, what is set for a session is somebody else's next.
    """
    arguments = _ours(limits.connect)
    engine = create_engine(
        driver_url(url), connect_args=arguments, poolclass=pool, pool_pre_ping=True, hide_parameters=True
    )
    lock, statement = (max(1, math.ceil(seconds * 1000)) for seconds in (limits.lock, limits.statement))

    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {statement}")

    event.listen(engine, "begin", limit)
    return engine


@contextmanager
def connected(url: str, limits: Limits = SHORT) -> Iterator[Connection]:
    """One connection outside any pool. Raises Unavailable."""
    engine = make_engine(url, limits, NullPool)
    with translated(), engine.connect() as connection:
        yield connection


def connect_listener(url: str) -> psycopg.Connection[tuple[object, ...]]:
    """A plain connection for LISTEN, which would hold any other one. Raises Unavailable."""
    engine = make_engine(url, SHORT, NullPool)
    arguments = dict(engine.dialect.create_connect_args(engine.url)[1])
    try:
        return psycopg.connect(**arguments | _ours(SHORT.connect), autocommit=True)
    except psycopg.Error as error:
        raise Unavailable("Postgres", _first_line(error)) from error


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the driver as ours: InvalidValue, Conflict or Unavailable."""
    try:
        yield
    except (exc.DBAPIError, psycopg.Error) as error:
        raise _in_our_words(error.orig if isinstance(error, exc.DBAPIError) else error) from error


@contextmanager
def begun(connection: Connection) -> Iterator[RootTransaction]:
    """A transaction that writes, whose commit is `answered`; doing the same again must do no harm."""
    with connection.begin() as transaction:
        yield transaction
        if transaction.is_active:
            with answered(connection, "do the same again"):
                transaction.commit()


@contextmanager
def answered(connection: Connection, otherwise: str) -> Iterator[None]:
    """Around a commit: where its answer does not come, nobody knows whether it was done. No limit of the server holds
    for a commit, which may wait for a standby for ever. What helps is to look, or what is said here.
    """
    limit = threading.Timer(COMMIT_SECONDS, _hang_up, [connection.connection.dbapi_connection])
    limit.daemon = True
    limit.start()
    try:
        yield
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise Unavailable(
            "Postgres",
            f"{_first_line(error.orig)}: whether the change was made is not known. Look, or {otherwise}",
        ) from error
    finally:
        limit.cancel()


@contextmanager
def watched(connection: Connection, seconds: float) -> Iterator[Callable[[], None]]:
    """Ends the connection once nothing was heard of its user for that time, as where the server hangs as a whole. What
    this gives is to be called again and again.
    """
    raw, ended, heard = connection.connection.dbapi_connection, threading.Event(), [time.monotonic()]

    def watch() -> None:
        while not ended.wait(seconds / 4):
            if time.monotonic() > heard[0] + seconds:
                _hang_up(raw)

    def hear() -> None:
        heard[0] = time.monotonic()

    thread = threading.Thread(target=watch, name="configbus-watch", daemon=True)
    thread.start()
    try:
        yield hear
    finally:
        ended.set()
        thread.join()


def _hang_up(connection: Any) -> None:
    """End a connection below somebody who waits for it."""
    with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as its_own:
        its_own.shutdown(socket.SHUT_RDWR)


def retried(commit: Callable[[], T]) -> T:
    """What a transaction brings, tried again where another one was in its way. Raises Conflict when it always is."""
    for _ in range(ATTEMPTS):
        try:
            return commit()
        except exc.DBAPIError as error:
            if not _is_retriable(error):
                raise
    raise Conflict("the transaction met deadlocks again and again; try later")


def _is_retriable(error: BaseException | None) -> bool:
    """Whether the same transaction may succeed when tried again: a deadlock, a serialization failure, or a block
    that somebody else activated at the same time for the first time.
    """
    if not isinstance(error, exc.DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state in (DEADLOCK, SERIALIZATION) or (state == UNIQUE and _constraint(error.orig).endswith("_one_active"))


def _ours(seconds: float) -> dict[str, Any]:
    """Nothing is prepared on the server: behind a pooler the next transaction is on another session."""
    ours = {"connect_timeout": max(1, math.ceil(seconds)), "application_name": "configbus", "prepare_threshold": None}
    return ours | KEEPALIVE


def _check_options(query: Mapping[str, Any]) -> None:
    """Let libpq look at the options' names and values, with a socket that is not there instead of a server."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if unknown := sorted(query.keys() - known):
        raise SettingsError(f"CONFIGBUS_DATABASE_URL has the option {unknown[0]!r}, which libpq does not know")
    options = {name: value for name, value in query.items() if name not in SOMEWHERE}
    attempt = pq.PGconn.connect_start(make_conninfo(**options, host="/nowhere").encode())
    fault = attempt.error_message.decode().strip()
    attempt.finish()
    if fault.startswith(("invalid ", "weak ")):
        raise SettingsError(f"CONFIGBUS_DATABASE_URL has an option that does not fit: {fault}")


def _in_our_words(error: BaseException | None) -> Exception:
    state, message = getattr(error, "sqlstate", None), _first_line(error)
    constraint = _constraint(error)
    table = getattr(getattr(error, "diag", None), "table_name", None) or ""
    domain = table.removesuffix("_config")
    if state == CHECK:
        return InvalidValue([Problem(domain, f"breaks the rule {constraint}")])
    if state == UNIQUE and constraint == f"{table}_name":
        return Conflict(f"{domain}: another row of this block has that name; only archived rows may share one")
    if state == UNIQUE:
        return Conflict(f"{domain}: somebody else changed it at the same time ({constraint}); try again")
    if state in (NO_TABLE, NO_SCHEMA, NO_FUNCTION):
        return Unavailable("Postgres", f"{message}. Is CONFIGBUS_SCHEMA right? Then run: configbus migrate")
    if state == CANCELED:
        return Unavailable("Postgres", f"{message}: it took longer than it may, and nothing of it was done")
    if state == LOCK_TIMEOUT:
        return Conflict(
            "somebody holds a lock on what this needs, and nothing of it was done. Who, longest first: SELECT DISTINCT"
            " xact_start, pid, relation::regclass, query FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE granted"
            " AND relation > 16383 AND mode <> 'AccessShareLock' AND pid <> pg_backend_pid() ORDER BY 1"
        )
    if state == ELSEWHERE or (state is not None and state.startswith("23")):
        return Conflict(message)
    if isinstance(error, psycopg.errors.DataError):
        return InvalidValue([Problem("value", message)])
    if state in HINTS:
        return ConfigBusError(f"Postgres refuses: {message}. {HINTS[state]}")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Unavailable("Postgres", message)
    return ConfigBusError(f"Postgres refuses: {message}")


def _constraint(error: BaseException | None) -> str:
    return getattr(getattr(error, "diag", None), "constraint_name", None) or ""


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
