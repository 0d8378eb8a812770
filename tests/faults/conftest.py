"""What a row stands on: servers that may be killed, and a cluster of one relay and ten workers."""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from configbus.catalogue import load_catalogue
from configbus.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from configbus.store.connect import connected
from configbus.store.schema import migrate
from faults.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEMPLATE = "template_for_faults"


class _Tracebacks(logging.Handler):
    """Collects what is told with a traceback, by whomever."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.records.append(record)


@pytest.fixture(autouse=True)
def nothing_is_told_with_a_traceback() -> Iterator[None]:
    """By authors, buses and relays in the test's own process, or by asyncio: what nobody foresaw is told so."""
    heard = _Tracebacks()
    logging.getLogger().addHandler(heard)
    yield
    logging.getLogger().removeHandler(heard)
    assert not heard.records, logging.Formatter().format(heard.records[0])


@pytest.fixture(scope="session")
def mortal_postgres(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    """Of these tests alone, since they kill it; what it acknowledged survives that."""
    with EmbeddedPostgres(server_directory / "mortal-postgres") as server:
        with psycopg.connect(server.url, autocommit=True) as administrator:
            administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        with connected(f"{server.url.rpartition('/')[0]}/{TEMPLATE}") as connection, connection.begin():
            migrate(connection, load_catalogue(["configbus.domains"]), "configbus", "production")
        yield server


@pytest.fixture
def bare_cluster(mortal_postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Cluster]:
    """A database of its own and an empty Valkey; no process runs yet."""
    with suppress(EmbeddedError):  # it runs, unless the test before failed while it was down
        mortal_postgres.start()
    database = f"test_{secrets.token_hex(6)}"
    copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(database), sql.Identifier(TEMPLATE))
    with psycopg.connect(mortal_postgres.url, autocommit=True) as connection:
        connection.execute(copy)
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        cluster = Cluster(tmp_path, mortal_postgres, valkey, database)
        yield cluster
        cluster.close()


@pytest.fixture
def cluster(bare_cluster: Cluster) -> Cluster:
    """A relay and ten workers run, all of them live."""
    bare_cluster.start_relay()
    bare_cluster.start_workers()
    bare_cluster.settle()
    return bare_cluster
