"""One connection to Redis, used command by command, that never reconnects behind its user's back.

redis-py's clients and pools reconnect silently, and its PubSub re-subscribes silently; here each
new connection is an event that the protocol must know of, so the connection object itself is used.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from configbus.errors import SettingsError, Unavailable
from configbus.protocol import ANSWER_SECONDS, Arrived, Event, Pong, Reading, Subscribed
from configbus.wire import Keys, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

REPLY_OF_EXEC = -1
CHUNK = 500
"""Hashes that are read in one transaction."""
FAULTS = (redis.RedisError, OSError)
WORDS: dict[type[BaseException], str] = {
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.ReadOnlyError: "READONLY",
}
"""What these replies of the server begin with, which redis-py takes away."""
FILES = {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"}
LOGIN = {"host", "port", "path", "username", "password", "client_name", "lib_name", "lib_version"}
URL_OPTIONS = FILES | LOGIN | {"ssl_ca_data", "ssl_cert_reqs", "ssl_ciphers", "ssl_password"}
URL_OPTIONS |= {"decode_responses", "encoding", "protocol"}  # which `options` overrules
URL_OPTIONS |= redis.connection.URL_QUERY_ARGUMENT_PARSERS.keys() - {"retry_on_error"}
"""Those that a text can stand for; others are objects of Python, and end in a TypeError far from here."""
BAD_URL = (
    "CONFIGBUS_REDIS_URL is not a Redis URL such as redis://default:PASSWORD@HOST:6379/0;"
    " write / # ? @ and % in the password percent-encoded"
)


def options(seconds: float | None, worker: str) -> dict[str, Any]:
    """What the protocol needs of a connection, whatever its URL says: RESP2, bytes, no retries, limits."""
    return {
        "protocol": 2,
        "decode_responses": False,
        "encoding": "utf-8",
        "health_check_interval": 0,
        "socket_timeout": seconds,
        "socket_connect_timeout": ANSWER_SECONDS if seconds is None else seconds,
        "client_name": re.sub(r"[^!-~]+", "-", f"configbus {worker}".strip()),
    }


def unopened(pools: Any, url: str) -> Any:
    """A pool by its URL, of which nothing is opened. Raises SettingsError, which names the option that does not fit.

    With TLS the server's name is checked unless the URL says otherwise: redis-py does so from 6.0 on.
    """
    base, _, query = url.partition("?")
    try:
        pools.from_url(base)
    except ValueError:
        raise SettingsError(BAD_URL) from None
    for name, value in parse_qsl(query):
        if name in FILES and not os.access(value, os.R_OK):
            raise SettingsError(f"CONFIGBUS_REDIS_URL names {value} as its {name}, which cannot be read")
        try:
            if name in URL_OPTIONS:
                pools.from_url(f"{base}?{urlencode([(name, value)])}").make_connection()
                continue
        except (TypeError, ValueError, redis.RedisError):
            pass
        raise SettingsError(
            f"CONFIGBUS_REDIS_URL has the option {name!r}, which redis-py does not take in a URL, or not with this"
            f" value, or not with {base.partition(':')[0]}://"
        )
    pool = pools.from_url(url)
    if base.startswith("rediss://"):
        checked = pool.connection_kwargs.get("ssl_cert_reqs") != "none"
        pool.connection_kwargs.setdefault("ssl_check_hostname", checked)
    return pool


def database_of(url: str) -> int:
    """The number of the database that a Redis URL names."""
    return int(unopened(redis.ConnectionPool, url).connection_kwargs.get("db") or 0)


def without_library(connection: Any) -> Any:
    """The same, that does not tell the server which library it is: Redis 7.0 does not know that command, and a user
    without rights for it would be noted in its log at each connection.
    """
    connection.driver_info = connection.lib_name = connection.lib_version = None
    return connection


def reason(error: BaseException, connection: Any, otherwise: str = "") -> str:
    """What went wrong, beginning with the word of the server's reply, and with which server."""
    told = " ".join(filter(None, (WORDS.get(type(error)), str(error) or otherwise)))
    where = getattr(connection, "path", None) or f"{connection.host}:{connection.port}"
    if isinstance(error, redis.exceptions.NoPermissionError | redis.AuthenticationError):
        where = f"{where}, user {connection.username or 'default'}"
    return told if where in told else f"{told.rstrip('.')} ({where})"


def refusal_in(reply: Any, connection: Any) -> str | None:
    """The first error among the replies of an EXEC."""
    errors = [part for part in reply if isinstance(part, redis.ResponseError)] if isinstance(reply, list) else []
    return reason(errors[0], connection) if errors else None


class Link:
    """A connection that is opened on first use and dropped at the first fault; `generation` counts openings."""

    def __init__(self, url: str, seconds: float = ANSWER_SECONDS, worker: str = "") -> None:
        pool = unopened(redis.ConnectionPool, url)
        pool.connection_kwargs |= options(seconds, worker) | {"retry": Retry(NoBackoff(), 0)}
        self._connection: Any = without_library(pool.make_connection())
        self.database = int(self._connection.db)
        self._open = False
        self.generation = 0

    def limit(self, seconds: float) -> None:
        """How long the next opening, and each answer after it, may take."""
        self._connection.socket_timeout = self._connection.socket_connect_timeout = seconds

    def open(self) -> None:
        """Connect now, if not connected. Raises Unavailable."""
        if self._open:
            return
        try:
            self._connection.connect()
        except FAULTS as error:
            raise Unavailable("Redis", reason(error, self._connection)) from error
        self._open = True
        self.generation += 1

    def fileno(self) -> int:
        """The socket's descriptor, to wait on it together with others."""
        return int(self._connection._sock.fileno())  # noqa: SLF001  # redis-py has no public way to it

    def readable(self) -> bool:
        """Whether a read would not wait. Raises Unavailable if the connection is gone."""
        return bool(self._guarded(self._connection.can_read))

    def send(self, *commands: Sequence[Any]) -> None:
        """Send commands without reading their replies. Raises Unavailable."""
        self.open()
        packed = self._connection.pack_commands(commands)
        self._guarded(lambda: self._connection.send_packed_command(packed))

    def receive(self) -> Any:
        """The next reply. Raises Unavailable for a fault of the connection and for an error reply."""
        return self._guarded(self._connection.read_response)

    def call(self, *commands: Sequence[Any]) -> list[Any]:
        """Send commands at once and return their replies. Raises Unavailable; then the connection is dropped."""
        self.send(*commands)
        return [self.receive() for _ in commands]

    def attempt(self, *commands: Sequence[Any]) -> str | None:
        """Send commands that the server may refuse: None, or its first error, which leaves the connection open.

        Raises Unavailable.
        """
        self.send(*commands)
        refusals = [self._guarded(self._refusal) for _ in commands]
        return next((refusal for refusal in refusals if refusal), None)

    def _refusal(self) -> str | None:
        try:
            reply = self._connection.read_response()
        except redis.ResponseError as error:
            return reason(error, self._connection)
        return refusal_in(reply, self._connection)

    def script(self, sha: str, source: str, keys: Sequence[str | bytes], arguments: Sequence[str | bytes]) -> Any:
        """Run a Lua script by its digest, by its text where the server does not know it yet."""
        rest = (str(len(keys)), *keys, *arguments)
        self.open()
        try:
            self._connection.send_command("EVALSHA", sha, *rest)
            return self._connection.read_response()
        except redis.exceptions.NoScriptError:
            return self.call(("EVAL", source, *rest))[0]
        except FAULTS as error:
            self.close()
            raise Unavailable("Redis", reason(error, self._connection)) from error

    def close(self) -> None:
        """Drop the connection; the next use opens a new one."""
        self._open = False
        self._connection.disconnect()

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except FAULTS as error:
            self.close()
            raise Unavailable("Redis", reason(error, self._connection)) from error


def reading_commands(keys: Keys, names: Iterable[str]) -> list[tuple[str, ...]]:
    """One transaction that reads the clock, head, index and these blocks."""
    return [
        ("MULTI",),
        ("TIME",),
        ("HGETALL", keys.head),
        ("HGETALL", keys.index),
        *(("HGETALL", keys.block(name)) for name in names),
        ("EXEC",),
    ]


def looking_commands(keys: Keys) -> list[tuple[str, ...]]:
    """One transaction that reads the clock and the head."""
    return [("MULTI",), ("TIME",), ("HGETALL", keys.head), ("EXEC",)]


def reading_of(replies: Sequence[Any], names: Sequence[str]) -> Reading:
    """What `reading_commands` or `looking_commands` brought. Raises Malformed."""
    time, head, *rest = replies[REPLY_OF_EXEC]
    index, *blocks = rest or [[]]
    found = {name: _texts(reply) for name, reply in zip(names, blocks, strict=True)}
    return Reading(int(time[0]) * 1_000_000 + int(time[1]), _texts(head), _texts(index), found)


def hashes(link: Link, keys: Sequence[str]) -> list[dict[str, str]]:
    """What these hashes hold, empty where there is none, or something else. Raises Unavailable."""
    found = []
    for first in range(0, len(keys), CHUNK):
        commands = [("HGETALL", key) for key in keys[first : first + CHUNK]]
        *_, replies = link.call(("MULTI",), *commands, ("EXEC",))
        for reply in replies:
            texts = [] if isinstance(reply, Exception) else [part.decode(errors="replace") for part in reply]
            found.append(dict(zip(texts[::2], texts[1::2], strict=True)))
    return found


def pushed(reply: Any) -> Event:
    """What a reply on the push connection means: [kind, channel, payload], or a pong."""
    match reply:
        case [b"message", _, bytes(data)]:
            return Arrived(data)
        case [b"subscribe", *_]:
            return Subscribed()
    return Pong()


def _texts(reply: Any) -> Mapping[str, str]:
    if isinstance(reply, Exception):
        raise Malformed(str(reply))
    try:
        flat = [part.decode() for part in reply]
    except UnicodeDecodeError as error:
        raise Malformed(f"a hash is not UTF-8: {error}") from error
    return dict(zip(flat[::2], flat[1::2], strict=True))
