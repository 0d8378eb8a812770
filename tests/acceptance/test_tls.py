"""Both servers over TLS, with certificates of both sides."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from acceptance.installed import NO_SERVERS, Authority, TlsPostgres, TlsRedis
from buses import connected_bus
from relays import running_relay
from shell import QuickShell

from configbus.author import Author
from configbus.catalogue import load_catalogue
from configbus.errors import NotReady, Unavailable
from configbus.settings import load_settings
from configbus.store.connect import connected
from configbus.store.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = NO_SERVERS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def tls_redis(tmp_path: Path, authority: Authority) -> Iterator[TlsRedis]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TlsRedis(tmp_path / "redis", authority, port) as server:
        yield server


@pytest.fixture
def tls_postgres(tmp_path: Path, authority: Authority) -> Iterator[TlsPostgres]:
    with TlsPostgres(tmp_path / "postgres", authority) as server:
        with connected(server.url) as connection, connection.begin():
            migrate(connection, load_catalogue(["configbus.domains"]), "configbus", "production")
        yield server


@pytest.mark.parametrize("driver", ["thread", "asyncio"])
def test_everything_goes_over_tls(driver: str, tls_redis: TlsRedis, tls_postgres: TlsPostgres) -> None:
    servers = {"redis_url": tls_redis.tls_url(), "database_url": tls_postgres.url}
    settings = load_settings({}, **servers, environment="production")
    options = {"redis_url": tls_redis.tls_url(), "environment": "production", "require": "live"}
    with running_relay(settings), connected_bus(driver, **options) as driven, Author(settings) as author:
        release = author.set({"risk.max_order_attempts": 4})
        driven.wait_for(release)
        assert driven.reads.get("risk.max_order_attempts") == 4
        assert author.receipt(release).is_applied


@pytest.mark.parametrize("driver", ["thread", "asyncio"])
def test_a_certificate_of_another_host_is_refused_by_workers_and_authors(
    driver: str, tls_redis: TlsRedis, tls_postgres: TlsPostgres
) -> None:
    servers = {"database_url": tls_postgres.url, "environment": "production"}
    elsewhere = tls_redis.tls_url().replace("@127.0.0.1:", "@localhost:")
    options = {"environment": "production", "require": "live", "start_timeout": 2.0}
    with running_relay(load_settings({}, redis_url=tls_redis.tls_url(), **servers)):
        with pytest.raises(NotReady), connected_bus(driver, redis_url=elsewhere, **options):
            pass
        with Author(load_settings({}, redis_url=elsewhere, **servers)) as author:
            release = author.set({"risk.max_order_attempts": 4})
            with pytest.raises(Unavailable, match="Hostname mismatch"):
                author.receipt(release, 0)
        for option in ("ssl_check_hostname=false", "ssl_cert_reqs=none"):
            with connected_bus(driver, redis_url=f"{elsewhere}&{option}", **options) as driven:
                driven.wait_for(release)


def test_redis_says_what_does_not_fit(tls_redis: TlsRedis, tmp_path: Path) -> None:
    shell = QuickShell(tmp_path)
    plain = tls_redis.tls_url().replace("rediss://", "redis://").partition("?")[0]
    wrong = {
        tls_redis.tls_url(ssl_ca_certs="stranger.crt"): ("certificate verify failed",),
        tls_redis.tls_url(ssl_certfile="", ssl_keyfile=""): (
            "a certificate of its clients",
            "ended the",
            "reset by peer",
        ),
        plain: ("a port with TLS wants rediss://", "reset by peer"),
        tls_redis.url.replace("redis://", "rediss://"): ("redis:// instead of rediss://", "to a port without it"),
        tls_redis.tls_url(ssl_ca_certs="nowhere.crt"): ("as its ssl_ca_certs, which cannot be read",),
    }
    for url, told in wrong.items():
        done = shell("workers", "--redis-url", url)
        assert done.returncode in (2, 6), url
        assert any(reason in done.stderr for reason in told), (url, done.stderr)
        assert "Traceback" not in done.stderr


def test_postgres_says_what_does_not_fit(tls_postgres: TlsPostgres, tmp_path: Path) -> None:
    shell = QuickShell(tmp_path)
    wrong = {
        tls_postgres.tls_url(sslrootcert="stranger.crt"): "certificate verify failed",
        tls_postgres.tls_url(host="localhost"): "does not match host name",
        tls_postgres.tls_url(sslmode="disable"): "no encryption",
        tls_postgres.tls_url(sslcert="", sslkey=""): "client certificate",
        tls_postgres.tls_url(sslrootcert="nowhere.crt"): "nowhere.crt",
    }
    for url, told in wrong.items():
        done = shell("history", "risk", "--database-url", url)
        assert done.returncode == 6, (url, done.stdout)
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    assert shell("history", "risk", "--database-url", tls_postgres.url).returncode == 0
