"""The whole system under exactly the rights that `configbus acl` and `configbus grants` print."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from acceptance.installed import NO_REDIS, InstalledRedis
from psycopg import sql
from relays import running_relay
from shell import QuickShell, Shell, line_with
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.embedded import EmbeddedValkey
from configbus.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PREFIX = "configbus:{production}:"
PASSWORD = "a-password-of-tests"  # of servers that end with the test
ROLES = ("author", "relay", "reader")


@pytest.fixture(
    params=[EmbeddedValkey, pytest.param(InstalledRedis, marks=NO_REDIS)], ids=["Valkey", "installed Redis"]
)
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with request.param(tmp_path / "redis") as server:
        yield server.url


@dataclass(frozen=True)
class Rights:
    """URLs by role."""

    redis: dict[str, str]
    postgres: dict[str, str]

    def settings(self, redis_role: str, postgres_role: str) -> Settings:
        servers = {"redis_url": self.redis[redis_role], "database_url": self.postgres[postgres_role]}
        return load_settings({}, **servers, environment="production", actor="tester")


@pytest.fixture
def rights(server_url: str, database_url: str, tmp_path: Path) -> Iterator[Rights]:
    """Users on both servers with what the commands print, and nothing else."""
    shell = QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url)
    mark = secrets.token_hex(4)
    redis_urls, postgres_urls = {}, {}
    with redis.Redis.from_url(server_url) as owner:
        for role in ("worker", "relay", "author", "operator"):
            line = shell("acl", role, "--user", f"{role}-{mark}").stdout
            owner.execute_command(*line.split())
            owner.execute_command("ACL", "SETUSER", f"{role}-{mark}", f">{PASSWORD}")
            redis_urls[role] = f"redis://{role}-{mark}:{PASSWORD}@{server_url.rpartition('@')[2]}"
    where = urlsplit(database_url)
    with psycopg.connect(database_url, autocommit=True) as owner_of_schema:
        for role in ROLES:
            name = f"{role}_{mark}"
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(PASSWORD))
            owner_of_schema.execute(create)
            owner_of_schema.execute(shell("grants", role, "--user", name).stdout.encode())
            postgres_urls[role] = where._replace(netloc=f"{name}:{PASSWORD}@{where.hostname}:{where.port}").geturl()
        yield Rights(redis_urls, postgres_urls)
        for role in ROLES:
            gone = sql.Identifier(f"{role}_{mark}")
            owner_of_schema.execute(sql.SQL("DROP OWNED BY {}").format(gone))
            owner_of_schema.execute(sql.SQL("DROP ROLE {}").format(gone))


def test_everything_works_under_these_rights_alone(rights: Rights, tmp_path: Path) -> None:
    worker: dict[str, Any] = {"environment": "production", "database_url": rights.postgres["reader"], "worker": "alpha"}
    with (
        running_relay(rights.settings("relay", "relay")),
        ConfigBus.connect(**worker, redis_url=rights.redis["worker"], require="live") as bus,
        Author(rights.settings("author", "author")) as author,
    ):
        release = author.set({"risk.max_order_attempts": 4}, reason="a test", idempotency_key="one")
        assert author.set({"risk.max_order_attempts": 4}, reason="a test", idempotency_key="one") == release
        bus.wait_for(release)
        until(lambda: author.receipt(release).is_applied and author.receipt(release).workers != ())
        draft = author.edit(author.draft("trading", {"max_slippage_exit_bps": 170}).id, {"max_slippage_exit_bps": 180})
        author.discard(author.draft("trading").id)
        bus.wait_for(author.activate(draft.id))
        bus.wait_for(author.rollback(["trading"], to=1))
        with psycopg.connect(rights.postgres["author"]) as plain:
            plain.execute("UPDATE configbus.risk_config SET max_order_attempts = 5 WHERE status = 'active'")
        until(lambda: bus.get("risk.max_order_attempts") == 5)
        assert [line.action for line in author.audit("risk", limit=1)] == ["update"]

        shell = operator_of(rights, tmp_path)
        assert json.loads(shell("status", "--json").stdout)["in_step"]
        assert "alpha" in shell("workers").stdout
        with redis.Redis.from_url(rights.redis["operator"]) as careless:
            careless.hset(f"{PREFIX}block:risk", "max_order_attempts", "9")
        until(lambda: shell("verify").returncode == 0)
        assert shell("verify", "--repair").returncode == 0
        assert shell("epoch", "raise").returncode == 0
        until(lambda: bus.epoch > release.epoch)
        assert [line.action for line in author.audit(limit=2)] == ["epoch", "repair"]
        seen = shell.start("watch", "--json")
        assert seen.stdout is not None
        line_with(seen, seen.stderr, "watching")
        author.set({"risk.max_order_attempts": 6})
        assert json.loads(next(seen.stdout))["block"] == "risk"
        seen.terminate()
        seen.communicate(timeout=10)
    with ConfigBus.connect(**worker, redis_url="redis://127.0.0.1:1/0") as bus:
        assert bus.origin == "postgres"


def operator_of(rights: Rights, directory: Path) -> Shell:
    variables = {"CONFIGBUS_REDIS_URL": rights.redis["operator"], "CONFIGBUS_DATABASE_URL": rights.postgres["relay"]}
    return QuickShell(directory, **variables)


FORBIDDEN = {
    "worker": [
        ("HSET", f"{PREFIX}block:risk", "max_order_attempts", "9"),
        ("HSET", f"{PREFIX}head", "revision", "9"),
        ("DEL", f"{PREFIX}index"),
        ("PUBLISH", f"{PREFIX}changes", "{}"),
        ("EVAL", "return 1", "0"),
        ("HGETALL", "configbus:{staging}:head"),
        ("HGETALL", f"{PREFIX}worker:other"),
        ("SCAN", "0"),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
    ],
    "relay": [
        ("HSET", "configbus:{staging}:head", "revision", "9"),
        ("HSET", f"{PREFIX}worker:alpha", "state", "live"),
        ("EVAL", "return redis.call('HSET', 'other', 'a', 'b')", "0"),
        ("PUBLISH", "other", "{}"),
        ("FLUSHALL",),
        ("CONFIG", "SET", "maxmemory", "1"),
    ],
    "author": [("HSET", f"{PREFIX}worker:alpha", "state", "live"), ("FLUSHDB",), ("DEL", "other"), ("INFO",)],
    "operator": [("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("SHUTDOWN",), ("ACL", "LIST"), ("DEL", "other")],
}


@pytest.mark.parametrize("role", FORBIDDEN)
def test_in_redis_nothing_else_is_allowed(role: str, rights: Rights) -> None:
    refusals = "(?i)no permissions|NOPERM|can't access|ACL failure"
    with redis.Redis.from_url(rights.redis[role]) as client:
        for command in FORBIDDEN[role]:
            with pytest.raises(redis.exceptions.ResponseError, match=refusals):
                client.execute_command(*command)
        with client.pubsub() as pubsub:
            pubsub.subscribe("configbus:{staging}:changes")
            with pytest.raises(redis.exceptions.ResponseError, match=refusals):
                pubsub.get_message(timeout=5)


ANYBODY = [
    "UPDATE configbus.config_audit_log SET performed_by = 'nobody'",
    "DELETE FROM configbus.config_audit_log",
    "TRUNCATE configbus.config_audit_log",
    "INSERT INTO configbus.config_audit_log OVERRIDING SYSTEM VALUE SELECT * FROM configbus.config_audit_log",
    "UPDATE configbus.audit_line SET digest = 'x'",
    "INSERT INTO configbus.audit_line SELECT * FROM configbus.audit_line",
    "UPDATE configbus.release SET actor = 'nobody'",
    "DELETE FROM configbus.release_block",
    "INSERT INTO configbus.release_block SELECT * FROM configbus.release_block",
    "UPDATE configbus.environment SET revision = 9",
    "UPDATE configbus.domain SET model = '{}'",
    "ALTER TABLE configbus.risk_config DISABLE TRIGGER ALL",
    "SET session_replication_role = replica",
    "TRUNCATE configbus.risk_config",
    "DROP TABLE configbus.risk_config",
    "CREATE TABLE configbus.mine (a int)",
    "SELECT configbus.lock_environment('production')",
    "CREATE TEMP TABLE t (a int); CREATE TRIGGER a AFTER INSERT ON t EXECUTE FUNCTION configbus.audit('risk')",
]
PRIVILEGED = [
    "SELECT configbus.capture_drift('production')",
    "SELECT configbus.raise_epoch('production', 1, 1, 'mine')",
    "SELECT configbus.record_repair('production', 'risk_config', gen_random_uuid(), '', '{}', '{}')",
]
WRITING = [
    "UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'",
    "INSERT INTO configbus.risk_config (environment, status) VALUES ('production', 'draft')",
    "INSERT INTO configbus.idempotency (environment, key, request, called_by) VALUES ('production', 'a', 'b', 'c')",
]
REFUSED = {
    "author": [*ANYBODY, *PRIVILEGED],
    "relay": [*ANYBODY, *WRITING],
    "reader": [*ANYBODY, *PRIVILEGED, *WRITING],
}


@pytest.mark.parametrize("role", ROLES)
def test_in_postgres_nothing_else_is_allowed(role: str, rights: Rights) -> None:
    with psycopg.connect(rights.postgres[role], autocommit=True) as connection:
        for statement in REFUSED[role]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_a_user_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    shell = QuickShell(tmp_path)
    for arguments in (["acl", "worker", "--user", "a b"], ["grants", "author", "--user", 'x"; DROP']):
        done = shell(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
    told = json.loads(shell("acl", "worker", "--json").stdout)
    assert told["user"] == "configbus-worker"
    assert f"&{PREFIX}changes" in told["rules"]
