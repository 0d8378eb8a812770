"""Servers of this machine's distribution, which the wheels cannot stand for: Redis 7.0, and both with TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest

from configbus.embedded import EmbeddedPostgres, EmbeddedValkey, _launcher, _unprivileged_user

REDIS = shutil.which("redis-server")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
NO_REDIS = pytest.mark.skipif(REDIS is None, reason="no redis-server is installed")
NO_SERVERS = pytest.mark.skipif(
    REDIS is None or not POSTGRES or shutil.which("openssl") is None,
    reason="redis-server, PostgreSQL and openssl are not all installed",
)


NEW = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj")


class InstalledRedis(EmbeddedValkey):
    """The redis-server of this machine's distribution, with these settings besides."""

    name = "installed Redis"

    def __init__(self, directory: Path, settings: tuple[str, ...] = ()) -> None:
        super().__init__(directory)
        self._settings = settings

    def _serve(self, lock: int) -> subprocess.Popen[bytes]:
        settings = ["bind 127.0.0.1", f"port {self.port}", f"requirepass {self._password}", 'save ""', "appendonly no"]
        command = [*_launcher(self.stop_signal), str(REDIS), "-"]
        return self._spawn(command, lock, "\n".join([*settings, *self._settings, ""]))


class TlsRedis(InstalledRedis):
    """One that speaks TLS at a second port, and wants a certificate of its clients there."""

    def __init__(self, directory: Path, authority: Authority, port: int) -> None:
        self.tls_port = port
        self._authority = authority
        settings = (
            f"tls-port {port}",
            f"tls-cert-file {authority.path('server.crt')}",
            f"tls-key-file {authority.path('server.key')}",
            f"tls-ca-cert-file {authority.path('ca.crt')}",
            "tls-auth-clients yes",
        )
        super().__init__(directory, settings)

    def tls_url(self, **changed: str) -> str:
        files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"} | changed
        options = urlencode({name: self._authority.path(file) for name, file in files.items() if file})
        return f"rediss://default:{self._password}@127.0.0.1:{self.tls_port}/0?{options}"


class TlsPostgres(EmbeddedPostgres):
    """The newest PostgreSQL that is installed, for clients with TLS and a certificate of the role's name alone."""

    name = "installed Postgres"

    def __init__(self, directory: Path, authority: Authority) -> None:
        super().__init__(directory, durable=False)
        self._authority = authority

    @property
    def url(self) -> str:
        return self.tls_url()

    def tls_url(self, sslmode: str = "verify-full", host: str = "127.0.0.1", **changed: str) -> str:
        files = {"sslrootcert": "ca.crt", "sslcert": "client.crt", "sslkey": "client.key"} | changed
        options = {name: self._authority.path(file) for name, file in files.items() if file} | {"sslmode": sslmode}
        return f"postgresql://configbus:{self._password}@{host}:{self.port}/configbus?{urlencode(options)}"

    def _program(self, name: str) -> list[str]:
        return [*_launcher(self.stop_signal, _unprivileged_user()), str(POSTGRES[-1].with_name(name))]

    def _prepare(self, lock: int) -> None:
        super()._prepare(lock)
        (self._data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n")
        for name in ("server.key", "server.crt", "ca.crt"):
            shutil.copy(self._authority.path(name), self._data)
            (self._data / name).chmod(0o600)
            if user := _unprivileged_user():
                os.chown(self._data / name, user.pw_uid, user.pw_gid)
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n"
            )


class Authority:
    """A certificate authority for one test: `ca`, `server` for 127.0.0.1, `client` for the role `configbus`; and
    `stranger`, an authority that nobody trusts.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir()
        for name in ("ca", "stranger"):
            self._openssl(*NEW, f"/CN={name}", *self._pair(name))
        for name, subject, extension in [
            ("server", "127.0.0.1", "subjectAltName=IP:127.0.0.1"),
            ("client", "configbus", "extendedKeyUsage=clientAuth"),
        ]:
            signed = ["-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"), "-addext", extension]
            self._openssl(*NEW, f"/CN={subject}", *signed, *self._pair(name))

    def path(self, name: str) -> str:
        return str(self._directory / name)

    def _pair(self, name: str) -> list[str]:
        return ["-keyout", self.path(f"{name}.key"), "-out", self.path(f"{name}.crt")]

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)  # noqa: S607  # of this machine
