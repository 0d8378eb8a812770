"""Fixtures for tests of programs that use configbus, there wherever it is installed beside pytest.

    def test_in_memory(config_bus: FakeBus) -> None: ...
    def test_on_servers(configbus_author: Author, configbus_live_bus: ConfigBus) -> None: ...

The domains are those of CONFIGBUS_DOMAINS, else of the ini option `configbus_domains`, else the built-in ones.
Every run of pytest loads this module, so that it imports what its fixtures need when one is asked for.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.author import Author
    from configbus.client import ConfigBus
    from configbus.settings import Settings
    from configbus.testing import FakeAsyncBus, FakeBus

ENVIRONMENT = "test"
TEMPLATE = "configbus_template"
LIVE_SECONDS = 20.0
STOP_SECONDS = 10.0
ROOM = 2 << 30
"""Free bytes in memory from which on the servers' files are kept there: copying a database is 20 times as fast."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers of this run are. The URLs hold passwords."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("configbus_domains", "modules whose Block classes the fixtures of configbus know", type="linelist")


@pytest.fixture(scope="session")
def configbus_domains(pytestconfig: pytest.Config) -> tuple[str, ...]:
    """The modules whose Block classes the other fixtures know."""
    from configbus.testing.memory import domains_of

    chosen = os.environ.get("CONFIGBUS_DOMAINS") or os.environ.get("CONFIGBUS_DOMAINS_FILE")
    return domains_of(None if chosen else ",".join(pytestconfig.getini("configbus_domains")) or None)


@pytest.fixture
def config_bus(configbus_domains: tuple[str, ...]) -> Iterator[FakeBus]:
    """A ConfigBus in memory, on the models' defaults; its `set_values` and `with_values` change it."""
    from configbus.testing import fake_bus

    with fake_bus(domains=configbus_domains) as bus:
        yield bus


@pytest.fixture
def async_config_bus(configbus_domains: tuple[str, ...]) -> FakeAsyncBus:
    """An AsyncConfigBus in memory, on the models' defaults."""
    from configbus.testing import fake_async_bus

    return fake_async_bus(domains=configbus_domains)


@pytest.fixture(scope="session")
def configbus_servers() -> Iterator[Servers]:
    """Postgres and Valkey on loopback, in a directory of their own, for the whole run."""
    import shutil
    import tempfile

    _check_installed()
    from configbus.embedded import EmbeddedPostgres, EmbeddedValkey

    memory = Path("/dev/shm")  # noqa: S108  # a directory with a random name is made in it
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    with (
        tempfile.TemporaryDirectory(prefix="configbus-", dir=memory if roomy else None) as directory,
        EmbeddedPostgres(Path(directory, "postgres"), durable=False) as postgres,
        EmbeddedValkey(Path(directory, "valkey")) as valkey,
    ):
        yield Servers(postgres.url, valkey.url)


@pytest.fixture(scope="session")
def _configbus_template(configbus_servers: Servers, configbus_domains: tuple[str, ...]) -> str:
    """The name of a migrated database, which each test gets a copy of."""
    from configbus.catalogue import load_catalogue
    from configbus.store.connect import connected
    from configbus.store.schema import migrate

    _administer(configbus_servers, f"CREATE DATABASE {TEMPLATE}")
    with connected(_url_of(configbus_servers, TEMPLATE)) as connection, connection.begin():
        migrate(connection, load_catalogue(configbus_domains), "configbus", ENVIRONMENT)
    return TEMPLATE


@pytest.fixture
def configbus_settings(
    configbus_servers: Servers, configbus_domains: tuple[str, ...], _configbus_template: str
) -> Iterator[Settings]:
    """Settings of a database and a namespace that are this test's alone; a relay runs while the test does.

    For a bus of one's own: `AsyncConfigBus.connect(**dataclasses.asdict(configbus_settings))`.
    """
    import secrets

    from configbus.settings import load_settings

    token = secrets.token_hex(6)
    _administer(configbus_servers, f"CREATE DATABASE test_{token} TEMPLATE {_configbus_template}")
    signing = {name: value for name, value in os.environ.items() if name.startswith("CONFIGBUS_SIGNING_KEYS")}
    settings = load_settings(
        signing,  # a bus that a test makes has them, too
        database_url=_url_of(configbus_servers, f"test_{token}"),
        redis_url=configbus_servers.redis_url,
        environment=ENVIRONMENT,
        namespace=f"test-{token}",
        domains=configbus_domains,
        actor="pytest",
    )
    try:
        with _relayed(settings):
            yield settings
    finally:
        _administer(configbus_servers, f"DROP DATABASE test_{token} WITH (FORCE)")


@pytest.fixture
def configbus_author(configbus_settings: Settings) -> Iterator[Author]:
    """An author on this test's own database."""
    from configbus.author import Author

    with Author(configbus_settings) as author:
        yield author


@pytest.fixture
def configbus_live_bus(configbus_settings: Settings) -> Iterator[ConfigBus]:
    """A connected bus that is live, and follows everything in this test's own environment."""
    from configbus.client import ConfigBus

    with ConfigBus.connect(require="live", start_timeout=LIVE_SECONDS, **asdict(configbus_settings)) as bus:
        yield bus


@contextmanager
def _relayed(settings: Settings) -> Iterator[None]:
    import threading

    from configbus.relay import Relay

    stop = threading.Event()
    relay = Relay(settings, stop)
    relay.bring_up()
    thread = threading.Thread(target=relay.run, name="configbus-relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(STOP_SECONDS)


def _administer(servers: Servers, statement: str) -> None:
    import psycopg

    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _url_of(servers: Servers, database: str) -> str:
    return urlsplit(servers.database_url)._replace(path=f"/{database}").geturl()


def _check_installed() -> None:
    """Fail in a sentence where the servers or the store are not installed."""
    try:
        import configbus.embedded
        import configbus.store.schema  # noqa: F401  # for what they import
    except ModuleNotFoundError as error:
        missing = error.name
    else:
        return
    pytest.fail(
        f"there is no {missing}; for the servers: pip install 'configbus[embedded,store,testing]'", pytrace=False
    )
