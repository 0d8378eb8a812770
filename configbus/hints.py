"""What to try when a server does not answer or refuses: by what its driver says, the setting to look at first."""

from __future__ import annotations

COMMON = (
    ("refused", "Is it running there, and is the port right?"),
    ("not known", "The host name does not exist: is it spelt right?"),
    ("name resolution", "The host name cannot be looked up: is there a network?"),
    ("timed out", "Nobody answers there: is a firewall between, or the host wrong?"),
    ("timeout", "Nobody answers there: is a firewall between, or the host wrong?"),
    ("No such file", "The socket is not there: is the server running, and the path right?"),
)
HINTS = {
    "Postgres": (
        ("password authentication failed", "User or password are wrong; / # ? @ and % in it are percent-encoded."),
        ("no password supplied", "The server wants a password: postgresql://USER:PASSWORD@HOST/DATABASE."),
        ("does not exist", "Is the database, or the role, spelt right?"),
        ("does not support SSL", "The server has no TLS: leave sslmode=require away, or switch TLS on there."),
        ("certificate", "The certificate does not fit: look at sslmode, sslrootcert and the host name."),
        ("pg_hba.conf", "The server lets nobody in from here this way: look at its pg_hba.conf."),
        ("too many", "Its connections are used up: raise max_connections, or end some."),
        *COMMON,
    ),
    "Redis": (
        ("NOAUTH", "It wants a password: redis://USER:PASSWORD@HOST; the user may be `default`."),
        ("Authentication required", "It wants a password: redis://USER:PASSWORD@HOST; the user may be `default`."),
        ("WRONGPASS", "User or password are wrong."),
        ("invalid username-password", "User or password are wrong."),
        ("NOPERM", "Its user lacks this right: look at ACL LIST there."),
        ("no permissions", "Its user lacks this right: look at ACL LIST there."),
        ("wrong version number", "TLS to a port without it: write redis:// instead of rediss://."),
        ("record layer failure", "TLS to a port without it: write redis:// instead of rediss://."),
        ("certificate", "The certificate does not fit the host, or its authority is not trusted."),
        ("timeout", "Nobody answers there: a firewall, the wrong host, or TLS (rediss://) to a port without it?"),
        ("timed out", "Nobody answers there: a firewall, the wrong host, or TLS (rediss://) to a port without it?"),
        ("DB index", "There is no such database number."),
        ("MISCONF", "It cannot save to its disk, and takes no writes until it can."),
        ("OOM", "Its memory is used up: raise maxmemory there."),
        ("READONLY", "It is a replica: point it at the primary."),
        ("LOADING", "It is reading its data from disk: wait a little."),
        ("closed by server", "It ended the connection: a port with TLS wants rediss://."),
        *COMMON,
    ),
}
SETTINGS = {"Postgres": "CONFIGBUS_DATABASE_URL", "Redis": "CONFIGBUS_REDIS_URL"}


def hint(server: str, message: str) -> str:
    """One sentence to put behind the message, or nothing where there is no better advice than the message."""
    for sign, advice in HINTS.get(server, ()):
        if sign.lower() in message.lower():
            return f" {advice} See {SETTINGS[server]}."
    return ""
