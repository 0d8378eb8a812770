"""A pooler in transaction mode, between a program and a database."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
from waiting import until

from configbus.embedded import _free_port, _launcher, _unprivileged_user

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = 4
ignore_startup_parameters = extra_float_digits
"""


@contextmanager
def pgbouncer(database_url: str, directory: Path) -> Iterator[str]:
    """A URL that goes through a pooler in transaction mode."""
    assert PGBOUNCER is not None
    server, port = urlsplit(database_url), _free_port()
    users = directory / "users.txt"
    users.write_text(f'"{server.username}" "{server.password}"\n')
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(server=server.port, port=port, users=users))
    launcher = _launcher(signal.SIGTERM, _unprivileged_user())
    url = database_url.replace(f":{server.port}/", f":{port}/")
    with (directory / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([*launcher, PGBOUNCER, str(configuration)], stdout=log, stderr=log)
    try:
        until(lambda: answers(url) or process.poll() is not None)
        assert process.poll() is None, (directory / "pgbouncer.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
