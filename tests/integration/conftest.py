"""What the tests of publishing and following stand on: settings, an author, a relay."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from relays import running_relay

from configbus.author import Author
from configbus.relay import Relay
from configbus.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def servers(database_url: str, redis_url: str) -> dict[str, Any]:
    """Keyword arguments for Author.connect and, with the database taken out, for a bus."""
    return {"database_url": database_url, "redis_url": redis_url, "environment": "production"}


@pytest.fixture
def settings(servers: dict[str, Any]) -> Settings:
    return load_settings({}, **servers, actor="tester")


@pytest.fixture
def published(settings: Settings) -> Settings:
    """Redis holds what `migrate` made."""
    Relay(settings, threading.Event()).bring_up()
    return settings


@pytest.fixture
def relay(published: Settings) -> Iterator[Settings]:
    """A relay runs while the test does."""
    with running_relay(published):
        yield published


@pytest.fixture
def author(settings: Settings) -> Iterator[Author]:
    with Author(settings) as author:
        yield author


@pytest.fixture
def worker(servers: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a bus that knows Redis alone."""
    return {name: value for name, value in servers.items() if name != "database_url"}
