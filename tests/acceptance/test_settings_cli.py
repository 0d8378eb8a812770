"""What a person is told of settings: what holds, where it came from, and which one to look at when a server is away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from shell import QuickShell

from configbus.settings import masked

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path) -> QuickShell:
    return QuickShell(tmp_path)


def test_every_setting_is_shown_with_where_it_came_from_and_no_password(shell: QuickShell, tmp_path: Path) -> None:
    secret = tmp_path / "redis_url"
    secret.write_text("redis://default:geheim@host:6379/0\n", encoding="utf8")
    done = shell(
        "settings",
        "--json",
        "--database-url",
        "postgresql://ana:geheim@host/db?sslpassword=geheim",
        CONFIGBUS_REDIS_URL_FILE=str(secret),
        CONFIGBUS_LOG_LEVEL="WARNING",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "geheim" not in done.stdout
    found = {row["variable"]: (row["value"], row["source"]) for row in map(json.loads, done.stdout.splitlines())}
    assert found["CONFIGBUS_DATABASE_URL"] == ("postgresql://ana:***@host/db?sslpassword=***", "option")
    assert found["CONFIGBUS_REDIS_URL"] == ("redis://default:***@host:6379/0", f"file {secret}")
    assert found["CONFIGBUS_LOG_LEVEL"] == ("WARNING", "variable")
    assert found["CONFIGBUS_NAMESPACE"] == ("configbus", "default")
    assert found["CONFIGBUS_DOMAINS"] == ("configbus.domains", "default")


def test_the_environment_may_come_from_the_variable_that_others_use(shell: QuickShell) -> None:
    done = shell("settings", CONFIGBUS_ENVIRONMENT="", ENVIRONMENT="staging")
    assert ["CONFIGBUS_ENVIRONMENT", "staging", "variable", "ENVIRONMENT"] in [
        line.split() for line in done.stdout.splitlines()
    ]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:geheim@host", "redis://:***@host"),
        ("postgresql://ana@host/db", "postgresql://ana@host/db"),
        ("postgresql://ana:ge@he/im@host/db", "postgresql://ana:***@host/db"),
        ("unix://ana:geheim@/run/redis.sock?db=1&password=geheim", "unix://ana:***@/run/redis.sock?db=1&password=***"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("staging", "staging"),
    ],
)
def test_a_password_is_masked_however_badly_it_is_written(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "wrong"}, "User or password are wrong"),
        ({"path": "/nowhere"}, "Is the database, or the role, spelt right?"),
        ({"port": 1}, "Is it running there, and is the port right?"),
        ({"host": "nowhere.invalid"}, "The host name"),
        ({"query": "sslmode=require"}, "The server has no TLS"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_wrong_postgres_url_names_the_setting_and_what_to_try(
    shell: QuickShell, database_url: str, change: dict[str, object], words: str
) -> None:
    done = shell("list", CONFIGBUS_DATABASE_URL=changed(database_url, **change))
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("configbus: Postgres is not available: ")
    assert words in done.stderr
    assert done.stderr.endswith("See CONFIGBUS_DATABASE_URL.\n")
    assert len(done.stderr.splitlines()) == 1
    assert (urlsplit(database_url).password or "?") not in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "wrong"}, "User or password are wrong"),
        ({"user": "", "password": ""}, "It wants a password"),
        ({"port": 1}, "Is it running there, and is the port right?"),
        ({"host": "nowhere.invalid"}, "The host name"),
        ({"scheme": "rediss"}, "TLS (rediss://) to a port without it"),
        ({"path": "/99"}, "There is no such database number"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_wrong_redis_url_names_the_setting_and_what_to_try(
    shell: QuickShell, database_url: str, redis_url: str, change: dict[str, object], words: str
) -> None:
    done = shell("status", CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=changed(redis_url, **change))
    assert done.returncode == 6
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("redis ")]
    assert words in told
    assert told.endswith("See CONFIGBUS_REDIS_URL.")
    assert (urlsplit(redis_url).password or "?") not in done.stdout + done.stderr


def changed(url: str, **change: object) -> str:
    parts = urlsplit(url)
    user, password = change.get("user", parts.username), change.get("password", parts.password)
    who = f"{user}:{password}@" if user or password else ""
    where = f"{change.get('host', parts.hostname)}:{change.get('port', parts.port)}"
    query = f"?{change['query']}" if "query" in change else ""
    return f"{change.get('scheme', parts.scheme)}://{who}{where}{change.get('path', parts.path)}{query}"
