"""What a person is advised to try: by the error, never by a name that happens to stand in it."""

from __future__ import annotations

import pytest

from configbus.errors import Unavailable

RUNNING = "Is it running there, and is the port right?"
NOBODY = "Nobody answers there"


@pytest.mark.parametrize(
    ("server", "message", "advice"),
    [
        ("Redis", "Error 111 connecting to redis-readonly.prod:6379. Connection refused.", RUNNING),
        ("Redis", "Error 111 connecting to classroom1:6379. Connection refused.", RUNNING),
        ("Redis", "Error 111 connecting to timeout-noauth:6379. Connect call failed ('10.0.0.1', 6379).", RUNNING),
        ("Redis", "Timeout connecting to server (wrongpass-1:6379)", NOBODY),
        ("Redis", "READONLY You can't write against a read only replica (h:6379)", "It is a replica"),
        ("Redis", "OOM command not allowed when used memory > 'maxmemory' (h:6379)", "Its memory is used up"),
        ("Redis", "Authentication required (h:6379)", "It wants a password"),
        ("Redis", "NOAUTH Authentication required (h:6379)", "It wants a password"),
        ("Redis", "invalid username-password pair or user is disabled (h:6379)", "User or password are wrong"),
        ("Redis", "NOPERM User oom has no permissions to run the 'hset' command (h:6379)", "lacks this right"),
        ("Redis", "LOADING Valkey is loading the dataset in memory (h:6379)", "wait a little"),
        ("Redis", "DB index is out of range (h:6379)", "There is no such database number"),
        ("Redis", "Error 1 connecting to h:6379. [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)", "TLS"),
        (
            "Postgres",
            'connection failed: connection to server at "timeout", port 1 failed: Connection refused',
            RUNNING,
        ),
        ("Postgres", "failed to resolve host 'refused': [Errno -2] Name or service not known", "The host name"),
        ("Postgres", 'server at "h", port 1 failed: FATAL:  database "timed out" does not exist', "spelt right?"),
        ("Postgres", 'server at "certificate", port 1 failed: FATAL:  sorry, too many clients already', "used up"),
        ("Postgres", "connection timeout expired", NOBODY),
        ("Postgres", "connection failed: Connection timed out", NOBODY),
        ("Redis", "Connection closed by server (h:6379)", "was it stopped?"),
        ("Redis", "Error 110 connecting to h:6379. Connection timed out.", NOBODY),
    ],
)
def test_the_advice_fits_the_error(server: str, message: str, advice: str) -> None:
    told = str(Unavailable(server, message))
    assert advice in told
    assert told.count(" See CONFIGBUS_") == 1


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("Postgres", "canceling statement due to statement timeout: it took longer than it may"),
        ("Postgres", 'relation "nope.environment" does not exist. Is CONFIGBUS_SCHEMA right?'),
        ("Postgres", "no answer within 2.2 s"),
        ("Redis", "unknown command 'READONLY' (oom-loading:6379)"),
        ("Else", "Connection refused"),
    ],
)
def test_where_none_fits_there_is_none(server: str, message: str) -> None:
    assert "See " not in str(Unavailable(server, message))
