"""`configbus acl` and `configbus grants`: exactly the rights that each part needs, as input for redis-cli and psql."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from configbus.cli.options import DatabaseUrl, Environment, Json, settings_of
from configbus.cli.output import show_json
from configbus.errors import SettingsError

if TYPE_CHECKING:
    from configbus.wire import Keys

USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)
CONNECTING = "auth ping select multi exec time client|setname"
SAYING = "hset pexpire zadd zremrangebyscore del zrem"
PUBLISHING = f"{CONNECTING} type hgetall hmget hset del exists publish eval evalsha scan"
ASKING = "zrange"
DIAGNOSING = "info subscribe unsubscribe"


class RedisRole(StrEnum):
    """Who connects to Redis."""

    WORKER = "worker"
    RELAY = "relay"
    AUTHOR = "author"
    OPERATOR = "operator"


class DatabaseRole(StrEnum):
    """Who connects to Postgres."""

    AUTHOR = "author"
    RELAY = "relay"
    READER = "reader"


def acl(
    role: Annotated[RedisRole, typer.Argument(help="worker, relay, author or operator")],
    user: Annotated[str, typer.Option(help="The Redis user; configbus-ROLE.", show_default=False)] = "",
    environment: Environment = None,
    as_json: Json = False,
) -> None:
    """Print the Redis rights that one part needs, as a command for redis-cli; the password is yours to set.

    configbus acl worker | redis-cli
    """
    from configbus.wire import Keys

    settings = settings_of(environment=environment)
    name = _checked(user or f"configbus-{role}")
    rules = rules_of(role, Keys(settings.namespace, settings.environment))
    if as_json:
        show_json({"user": name, "rules": rules})
    else:
        typer.echo(" ".join(["ACL SETUSER", name, "on", "resetkeys", "resetchannels", "-@all", *rules]))


def rules_of(role: RedisRole, keys: Keys) -> list[str]:
    """What a Redis user of this part may do, as ACL SETUSER takes it."""
    shared, blocks, workers = [keys.head, keys.index], keys.block("*"), [keys.worker("*"), keys.workers]
    match role:
        case RedisRole.WORKER:
            patterns = [f"%R~{key}" for key in (*shared, blocks)] + [f"%W~{key}" for key in workers]
            commands = f"{CONNECTING} hgetall subscribe unsubscribe {SAYING}"
        case RedisRole.RELAY:
            patterns = [f"~{key}" for key in (*shared, blocks)]
            commands = PUBLISHING
        case RedisRole.AUTHOR | RedisRole.OPERATOR:
            patterns = [f"~{key}" for key in (*shared, blocks)] + [f"%R~{key}" for key in workers]
            commands = f"{PUBLISHING} {ASKING} {DIAGNOSING if role is RedisRole.OPERATOR else ''}"
    return [*patterns, f"&{keys.channel}", *(f"+{command}" for command in commands.split())]


def grants(
    role: Annotated[DatabaseRole, typer.Argument(help="author, relay or reader")],
    user: Annotated[str, typer.Option(help="The Postgres role; configbus_ROLE.", show_default=False)] = "",
    database_url: DatabaseUrl = None,
) -> None:
    """Print the Postgres rights that one part needs, as SQL for the schema's owner; again after a new domain.

    configbus grants author | psql "$OWNER_URL"
    """
    from configbus.catalogue import load_catalogue
    from configbus.store.connect import quoted

    settings = settings_of(database_url=database_url)
    schema, name = quoted(settings.schema), quoted(_checked(user or f"configbus_{role}"))
    tables = [f"{schema}.{quoted(domain.table)}" for domain in load_catalogue(settings.domains)]
    lines = [f"GRANT USAGE ON SCHEMA {schema} TO {name};", f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name};"]
    match role:
        case DatabaseRole.AUTHOR:
            lines += [f"GRANT INSERT, UPDATE, DELETE ON {', '.join(tables)} TO {name};"]
            lines += [f"GRANT INSERT, UPDATE ON {schema}.idempotency TO {name};"]
        case DatabaseRole.RELAY:
            functions = [
                "capture_drift(text)",
                "raise_epoch(text, bigint, bigint, text)",
                "record_repair(text, text, uuid, text, jsonb, jsonb)",
            ]
            lines += [f"GRANT EXECUTE ON FUNCTION {schema}.{function} TO {name};" for function in functions]
    for line in lines:
        typer.echo(line)


def _checked(user: str) -> str:
    if not USER.fullmatch(user):
        raise SettingsError(f"--user is {user!r}, but must be 1 to 63 of a-z, A-Z, 0-9, _, . and -")
    return user
