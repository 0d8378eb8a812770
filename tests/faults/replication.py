"""A second Postgres that follows the first one by streaming replication, is cut off from it, and takes over."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psycopg
from waiting import until

from configbus.embedded import EmbeddedError, EmbeddedPostgres, _unprivileged_user

if TYPE_CHECKING:
    from pathlib import Path

REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
WRITTEN = "SELECT pg_current_wal_lsn()::text"
RECEIVING = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"


class Standby(EmbeddedPostgres):
    """An asynchronous standby of a running primary, until it is promoted."""

    name = "standby"

    def __init__(self, directory: Path, primary: EmbeddedPostgres) -> None:
        super().__init__(directory)
        self._primary = primary
        directory.mkdir()
        secret = directory / "password"  # everything is replicated, the superuser's password too
        secret.touch(mode=0o600)
        secret.write_text((primary.directory / "password").read_text())

    def caught_up(self) -> None:
        """Return once everything that is committed at the primary can be read here."""
        with psycopg.connect(self._primary.url) as primary, psycopg.connect(self.url, autocommit=True) as standby:
            written = primary.execute(WRITTEN).fetchone()
            until(lambda: standby.execute(REPLAYED, written).fetchone() == (True,))

    def cut_off(self) -> None:
        """Return once nothing more comes from the primary."""
        with psycopg.connect(self.url, autocommit=True) as standby:
            standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
            standby.execute("SELECT pg_reload_conf()")
            until(lambda: standby.execute(RECEIVING).fetchone() == (0,))

    def promote(self) -> None:
        """Become a primary, on a timeline of its own."""
        with psycopg.connect(self.url, autocommit=True) as standby:
            assert standby.execute("SELECT pg_promote(true, 20)").fetchone() == (True,)

    def _prepare(self, lock: int) -> None:
        self._data.mkdir(mode=0o700)
        if user := _unprivileged_user():
            os.chown(self._data, user.pw_uid, user.pw_gid)
        source = self._primary.url.replace("/configbus?", "/postgres?")
        command = [*self._program("pg_basebackup"), "-d", source, "-D", str(self._data)]
        command += ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        with self._spawn(command, lock) as backup:
            if backup.wait():
                raise EmbeddedError(f"{self}: pg_basebackup failed:\n{self._log()}")
