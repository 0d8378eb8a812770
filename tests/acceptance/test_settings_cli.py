"""What a person is told of settings: what holds, where it came from, and which one to look at when a server is away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from shell import QuickShell

from configbus.log import masked

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
    ("url", "shown"),
    [
        ("postgres:/configbus:S3CRET@h/x", "***"),
        ("configbus:S3CRET@h/x", "***"),
        ("postgresql//u:S3CRET@h/x", "***"),
        ("host=h password=S3CRET", "***"),
        ("S3CRET://h", "***"),
        ("postgresql://u:S3CRET/x", "postgresql://***"),
        ("redis://u:S3C@RET@h/0", "redis://***"),
        ("redis://u:S3C RET@h/0", "redis://***"),
    ],
)
@pytest.mark.parametrize("name", ["database_url", "redis_url"])
@pytest.mark.parametrize("by", ["variable", "option"])
def test_what_is_no_url_is_not_shown_and_called_so(shell: QuickShell, name: str, by: str, url: str, shown: str) -> None:
    variable = f"CONFIGBUS_{name.upper()}"
    if by == "option":
        done = shell("settings", "--json", f"--{name.replace('_', '-')}", url)
    else:
        done = shell("settings", "--json", **{variable: url})
    assert (done.returncode, done.stderr) == (0, "")
    assert not any(part in done.stdout for part in ("S3C", "RET"))
    (found,) = [row for row in map(json.loads, done.stdout.splitlines()) if row["variable"] == variable]
    assert found["value"].startswith(f"{shown} (not a URL such as ")


@pytest.mark.parametrize("command", ["list", "health", "relay"])
def test_a_password_that_is_not_encoded_is_refused_before_anything_is_looked_up(
    shell: QuickShell, command: str
) -> None:
    done = shell(
        command, CONFIGBUS_DATABASE_URL="postgresql://u:S3C@RET@127.0.0.1:1/x", CONFIGBUS_REDIS_URL="redis://h"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("configbus: CONFIGBUS_DATABASE_URL is not a URL such as ")
    assert not any(part in done.stderr for part in ("S3C", "RET"))


@pytest.mark.parametrize("command", ["list", "health", "relay"])
@pytest.mark.parametrize("option", ["prepare_threshold=0", "bogus=1", "sslmode=nonsense", "plugin=x"])
def test_an_option_that_postgres_does_not_take_is_named(
    shell: QuickShell, database_url: str, redis_url: str, command: str, option: str
) -> None:
    done = shell(command, CONFIGBUS_DATABASE_URL=changed(database_url, query=option), CONFIGBUS_REDIS_URL=redis_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("configbus: CONFIGBUS_DATABASE_URL has ")
    assert option.partition("=")[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["health"], ["relay"], ["set", "risk.max_order_attempts=5"], ["watch"]])
@pytest.mark.parametrize(
    ("scheme", "option"), [("redis", "foo=bar"), ("redis", "ssl_ca_certs=/x"), ("rediss", "ssl_cert_reqs=bad")]
)
def test_an_option_that_redis_does_not_take_is_named(
    shell: QuickShell, database_url: str, redis_url: str, command: list[str], scheme: str, option: str
) -> None:
    url = changed(redis_url, scheme=scheme, query=option)
    done = shell(*command, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("configbus: CONFIGBUS_REDIS_URL ")
    assert option.partition("=")[0] in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_option_goes_before_a_file_that_is_not_there(shell: QuickShell, database_url: str) -> None:
    done = shell("list", "--database-url", database_url, CONFIGBUS_DATABASE_URL_FILE="/nope")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_misspelt_variable_is_told_of_in_the_chosen_format(shell: QuickShell) -> None:
    done = shell("domains", CONFIGBUS_LOG_FORMAT="json", CONFIGBUS_ENVIROMENT="staging")
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["event"], line["variable"]) == ("unknown_setting", "CONFIGBUS_ENVIROMENT")
    assert line["environment"] == "production"


def test_a_schema_that_is_not_there_is_not_blamed_on_the_url(shell: QuickShell, database_url: str) -> None:
    done = shell("list", CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_SCHEMA="nope")
    assert done.returncode == 6
    assert "CONFIGBUS_SCHEMA" in done.stderr
    assert "CONFIGBUS_DATABASE_URL" not in done.stderr


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
    where = urlsplit(redis_url)
    assert f"{change.get('host', where.hostname)}:{change.get('port', where.port)}" in told
    assert (urlsplit(redis_url).password or "?") not in done.stdout + done.stderr


def changed(url: str, **change: object) -> str:
    parts = urlsplit(url)
    user, password = change.get("user", parts.username), change.get("password", parts.password)
    who = f"{user}:{password}@" if user or password else ""
    where = f"{change.get('host', parts.hostname)}:{change.get('port', parts.port)}"
    query = f"?{change['query']}" if "query" in change else ""
    return f"{change.get('scheme', parts.scheme)}://{who}{where}{change.get('path', parts.path)}{query}"
