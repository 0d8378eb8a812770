"""URLs as both drivers, the store and its listener read them: one reading, and errors that name the setting."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
import redis
from buses import connected_bus
from psycopg import sql

from configbus.aiolink import AsyncLink
from configbus.errors import SettingsError, Unavailable
from configbus.link import Link, reason, unopened
from configbus.store.connect import connect_listener, connected

if TYPE_CHECKING:
    from conftest import Psql

BOTH = pytest.mark.parametrize("driver", ["thread", "asyncio"])
UNFIT = [
    ("redis", "foo=bar", "foo"),
    ("redis", "ssl_ca_certs=/dev/null", "ssl_ca_certs"),
    ("redis", "db=one", "db"),
    ("redis", "credential_provider=x", "credential_provider"),
    ("redis", "max_connections=5&retry_on_error=x", "retry_on_error"),
    ("rediss", "ssl_cert_reqs=bad", "ssl_cert_reqs"),
    ("rediss", "ssl_ca_certs=/nope", "/nope as its ssl_ca_certs"),
]


@pytest.mark.parametrize("password", ["S3C/RET", "@#?:%", "100%zz", "pass word"])
def test_the_listener_reads_the_url_as_the_store_does(administrator: Psql, database_url: str, password: str) -> None:
    role = sql.Identifier("listener_of_test")
    administrator.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, password))
    try:
        where = urlsplit(database_url)
        url = f"postgres://listener_of_test:{quote(password, safe='%')}@{where.hostname}:{where.port}{where.path}"
        with connected(url) as connection, connect_listener(url) as listener:
            found = connection.exec_driver_sql("SELECT current_user").scalar_one()
            assert (found,) == listener.execute("SELECT current_user").fetchone() == ("listener_of_test",)
            assert listener.autocommit
    finally:
        administrator.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.parametrize("option", ["prepare_threshold=0", "bogus=1", "sslmode=nonsense", "autocommit=1"])
def test_the_listener_refuses_an_option_by_name(database_url: str, option: str) -> None:
    with pytest.raises(SettingsError, match=f"CONFIGBUS_DATABASE_URL .*{option.partition('=')[0]}"):
        connect_listener(f"{database_url}?{option}")


def test_options_that_postgres_takes_are_taken(database_url: str) -> None:
    url = f"{database_url}?sslmode=prefer&options=-c%20work_mem%3D1MB&application_name=x&connect_timeout=9"
    with connect_listener(url) as listener:
        assert listener.execute("SHOW work_mem").fetchone() == ("1MB",)


@BOTH
@pytest.mark.parametrize(("scheme", "query", "told"), UNFIT)
def test_an_option_that_does_not_fit_is_named_when_a_worker_connects(
    redis_url: str, driver: str, scheme: str, query: str, told: str
) -> None:
    url = f"{redis_url.replace('redis', scheme, 1)}?{query}"
    with (
        pytest.raises(SettingsError, match=f"CONFIGBUS_REDIS_URL .*{told}"),
        connected_bus(driver, redis_url=url, environment="production"),
    ):
        raise AssertionError("it connected")


@BOTH
def test_an_option_of_postgres_that_does_not_fit_is_named_where_a_worker_asks_it(
    database_url: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    urls = {"redis_url": "redis://127.0.0.1:1/0", "database_url": f"{database_url}?prepare_threshold=0"}
    with connected_bus(driver, **urls, environment="production", start_timeout=1.0) as bus:
        assert bus.reads.origin == "layers"
    assert "CONFIGBUS_DATABASE_URL has the option 'prepare_threshold'" in caplog.text
    assert "Traceback" not in caplog.text


@BOTH
def test_a_password_that_is_not_encoded_is_refused_when_a_worker_connects(driver: str) -> None:
    for name in ("redis_url", "database_url"):
        with (
            pytest.raises(SettingsError, match=f"CONFIGBUS_{name.upper()} .*percent-encoded") as caught,
            connected_bus(driver, **{name: f"{name}://u:S3C@RET@h/0"}),
        ):
            raise AssertionError("it connected")
        assert "RET" not in str(caught.value)


def test_options_that_redis_takes_are_taken(redis_url: str) -> None:
    link = Link(f"{redis_url}?health_check_interval=2&decode_responses=True&encoding=utf-16&client_name=x&db=1")
    assert link.call(("PING",)) == [b"PONG"]
    link.close()


@pytest.mark.parametrize(
    ("who", "path", "told"),
    [
        ("default:wrong@", "/0", "invalid username-password pair"),
        ("", "/0", "Authentication required"),
        (None, "/99", "DB index is out of range"),
    ],
)
async def test_both_links_say_which_server_refuses(redis_url: str, who: str | None, path: str, told: str) -> None:
    where = urlsplit(redis_url)
    login = f"{where.username}:{where.password}@" if who is None else who
    url = f"redis://{login}{where.hostname}:{where.port}{path}"
    link, twin = Link(url), AsyncLink(url, "w")
    with pytest.raises(Unavailable, match=told) as caught:
        link.call(("PING",))
    with pytest.raises(Unavailable, match=told) as of_twin:
        await twin.call(("PING",))
    for error in (caught.value, of_twin.value):
        assert f"({where.hostname}:{where.port}" in str(error)
        assert "See CONFIGBUS_REDIS_URL." in str(error)
        assert str(where.password) not in str(error)


async def test_both_links_keep_the_word_of_a_refusal(redis_url: str) -> None:
    script = ("EVAL", "return redis.error_reply(ARGV[1])", "0", "READONLY You can't write against a read only replica.")
    link, twin = Link(redis_url), AsyncLink(redis_url, "w")
    with pytest.raises(Unavailable, match=r"READONLY You .* It is a replica"):
        link.call(script)
    with pytest.raises(Unavailable, match=r"READONLY You .* It is a replica"):
        await twin.call(script)


async def test_a_server_that_is_not_there_is_named_once() -> None:
    link, twin = Link("redis://127.0.0.1:1"), AsyncLink("redis://127.0.0.1:1", "w")
    with pytest.raises(Unavailable) as caught:
        link.call(("PING",))
    with pytest.raises(Unavailable) as of_twin:
        await twin.call(("PING",))
    for error in (caught.value, of_twin.value):
        assert str(error).count("127.0.0.1:1.") == 1
        assert "Is it running there" in str(error)


def test_a_server_at_a_socket_is_named_by_its_path() -> None:
    connection = unopened(redis.ConnectionPool, "unix:///run/redis.sock").make_connection()
    assert reason(OSError("gone"), connection) == "gone (/run/redis.sock)"
