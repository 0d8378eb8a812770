"""One Postgres and one Valkey per session or xdist worker, and a database of its own for each test."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql

from configbus.catalogue import load_catalogue
from configbus.embedded import EmbeddedPostgres, EmbeddedValkey
from configbus.store.connect import connected
from configbus.store.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

Psql = psycopg.Connection[tuple[Any, ...]]

PROCESS_EVENTS = {"unknown_setting"}
"""Those of a process, before it knows its environment."""
TEMPLATE = "template_for_tests"


def prepare_template(url: str, *domains: str) -> None:
    """Fills a database that tests' own are copies of: with these domains, in `production`."""
    with connected(url) as connection, connection.begin():
        migrate(connection, load_catalogue(domains or ["configbus.domains"]), "configbus", "production")


class _Lines(logging.Handler):
    """Collects what the library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record)


@pytest.fixture(autouse=True)
def lines_say_whose_they_are(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test makes the library log names an event and an environment, and holds no password."""
    logger, heard = logging.getLogger("configbus"), _Lines()
    logger.addHandler(heard)
    yield
    logger.removeHandler(heard)
    servers = [request.getfixturevalue(name) for name in ("postgres", "valkey") if name in request.fixturenames]
    passwords = [urlsplit(server.url).password or "" for server in servers]
    for record in heard.lines:
        shown = logging.Formatter().format(record)
        facts = vars(record)["facts"]
        assert facts["event"] in PROCESS_EVENTS or facts.get("environment"), shown
        assert not any(password in shown for password in passwords), record.getMessage().partition(" ")[0]


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    # Not pytest's own, which keeps those of three runs; in memory where there is room, because
    # CREATE DATABASE writes 300 files: 7 ms there, 150 to 250 ms on a slow disk.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    with tempfile.TemporaryDirectory(prefix="configbus-", dir=memory if roomy else None) as directory:
        yield Path(directory)


@pytest.fixture
def tmp_path(server_directory: Path) -> Path:
    """Instead of pytest's own: in memory, gone with the session, and short enough for any socket."""
    return Path(tempfile.mkdtemp(dir=server_directory))


@pytest.fixture(scope="session")
def postgres(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(server_directory / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def administrator(postgres: EmbeddedPostgres) -> Iterator[Psql]:
    """Makes and drops the databases of tests."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres, administrator: Psql) -> str:
    """The name of a database that was migrated with the built-in catalogue."""
    administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    prepare_template(_url(postgres, TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="session")
def valkey(server_directory: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(server_directory / "valkey") as server:
        yield server


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, administrator: Psql, template: str) -> Iterator[str]:
    yield from _database(postgres, administrator, template)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres, administrator: Psql) -> Iterator[str]:
    """A database that nothing was migrated in."""
    yield from _database(postgres, administrator, "template1")


@pytest.fixture(scope="session")
def sample_template(postgres: EmbeddedPostgres, administrator: Psql, template: str) -> str:
    name = f"{template}_with_samples"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    administrator.execute(copy)
    prepare_template(_url(postgres, name), "configbus.domains", "sample_domains")
    return name


@pytest.fixture
def sample_database_url(postgres: EmbeddedPostgres, administrator: Psql, sample_template: str) -> Iterator[str]:
    """A database with the domains of `sample_domains` beside the built-in ones."""
    yield from _database(postgres, administrator, sample_template)


@pytest.fixture
def psql(sample_database_url: str) -> Iterator[Psql]:
    """An operator at the database itself; every statement outside `transaction()` is one of its own."""
    with psycopg.connect(sample_database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


def _database(server: EmbeddedPostgres, administrator: Psql, template: str) -> Iterator[str]:
    name = sql.Identifier(database := f"test_{secrets.token_hex(6)}")
    administrator.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, sql.Identifier(template)))
    yield _url(server, database)
    administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


def _url(server: EmbeddedPostgres, database: str) -> str:
    return f"{server.url.rpartition('/')[0]}/{database}"
