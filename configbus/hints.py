"""What to try when a server does not answer or refuses: by what its driver says, the setting to look at first.

A sign stands at the beginning of the message, or holds a space: no host name does, and one may be called `oom-1`.
"""

from __future__ import annotations

import re

COMMON = (
    (r"Connection refused|^Error 111 |\[Errno 111\] ", "Is it running there, and is the port right?"),
    (r"(?:Name or service|servname.*) not known|^Error -2 ", "The host name does not exist: is it spelt right?"),
    (r"name resolution", "The host name cannot be looked up: is there a network?"),
    (r"No such file or directory", "The socket is not there: is the server running, and the path right?"),
)
HINTS = {
    "Postgres": (
        (
            r"FATAL: +password authentication failed",
            "User or password are wrong; / # ? @ and % in it are percent-encoded.",
        ),
        (r"no password supplied", "The server wants a password: postgresql://USER:PASSWORD@HOST/DATABASE."),
        (r'FATAL: +(?:database|role) ".*" does not exist', "Is the database, or the role, spelt right?"),
        (r"server does not support SSL", "The server has no TLS: leave sslmode=require away, or switch TLS on there."),
        (
            r"certificate (?:file|for|verify|is) ",
            "The certificate does not fit: look at sslmode, sslrootcert and the host name.",
        ),
        (r"FATAL: +no pg_hba\.conf entry", "The server lets nobody in from here this way: look at its pg_hba.conf."),
        (
            r"FATAL: +(?:sorry, )?(?:too many|remaining) ",
            "Its connections are used up: raise max_connections, or end some.",
        ),
        (
            r"^connection timeout expired|(?:^| )timed out\b",
            "Nobody answers there: is a firewall between, or the host wrong?",
        ),
        *COMMON,
    ),
    "Redis": (
        (
            r"^NOAUTH |^Authentication required",
            "It wants a password: redis://USER:PASSWORD@HOST; the user may be `default`.",
        ),
        (r"^WRONGPASS |^invalid username-password|^invalid password", "User or password are wrong."),
        (r"^AUTH .*without any password configured", "It wants no password: leave it away."),
        (r"^NOPERM ", "Its user lacks this right: configbus acl prints what each part needs."),
        (r"^READONLY ", "It is a replica: point it at the primary."),
        (r"^OOM ", "Its memory is used up: raise maxmemory there."),
        (r"^MISCONF ", "It cannot save to its disk, and takes no writes until it can."),
        (r"^LOADING ", "It is reading its data from disk: wait a little."),
        (r"^(?:invalid )?DB index ", "There is no such database number."),
        (r"^max number of clients ", "Its connections are used up: raise maxclients, or end some."),
        (
            r"\[SSL(?:: \w+)?\] (?:wrong version number|record layer failure)",
            "TLS to a port without it: write redis:// instead of rediss://.",
        ),
        (
            r"EOF occurred in violation of protocol|certificate required",
            "It ended the TLS handshake: does it want a certificate of its clients (ssl_certfile, ssl_keyfile)?",
        ),
        (
            r"\[SSL: CERTIFICATE_|certificate verify failed",
            "The certificate does not fit the host, or its authority is not trusted.",
        ),
        (
            r"^Timeout (?:connecting|reading|writing) |(?:^| )timed out\b|^no answer within ",
            "Nobody answers there: a firewall, the wrong host, or TLS (rediss://) to a port without it?",
        ),
        (
            r"^Connection closed by server",
            "It ended the connection: was it stopped? Where it always does so, a port with TLS wants rediss://.",
        ),
        *COMMON,
    ),
}
SETTINGS = {"Postgres": "CONFIGBUS_DATABASE_URL", "Redis": "CONFIGBUS_REDIS_URL"}


def hint(server: str, message: str) -> str:
    """One sentence to put behind the message, or nothing where there is no better advice than the message."""
    for sign, advice in HINTS.get(server, ()):
        if re.search(sign, message, re.IGNORECASE):
            return f" {advice} See {SETTINGS[server]}."
    return ""
