"""`configbus doctor`, on what is well and on what is not."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from poolers import PGBOUNCER, pgbouncer
from psycopg import sql
from relays import running_relay
from shell import QuickShell, Shell
from waiting import until

from configbus import ConfigBus
from configbus.embedded import EmbeddedValkey
from configbus.settings import load_settings
from configbus.store.connect import connected
from configbus.store.schema import downgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    LayDown: TypeAlias = Callable[..., None]

PREFIX = "configbus:{production}:"
A, OTHER_A, B = (
    f"{name}:{base64.b64encode(secret * 32).decode()}" for name, secret in (("a", b"a"), ("a", b"x"), ("b", b"b"))
)


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    return QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=redis_url)


@pytest.fixture
def relay(database_url: str, redis_url: str) -> Iterator[None]:
    settings = load_settings({}, database_url=database_url, redis_url=redis_url, environment="production")
    with running_relay(settings), redis.Redis.from_url(redis_url) as client:
        until(lambda: client.hget(f"{PREFIX}head", "asof") is not None)
        yield


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def published(database_url: str, redis_url: str) -> LayDown:
    """Gives a way to lay down the state, after which no relay is there that would put anything right."""

    def lay_down(client: Any, **given: str) -> None:
        servers = {"database_url": database_url, "redis_url": redis_url, "environment": "production"}
        with running_relay(load_settings({}, **servers | given)):
            until(lambda: client.hget(f"{PREFIX}head", "asof") is not None)

    return lay_down


def told(shell: Shell, status: int | None, **variables: str) -> dict[str, dict[str, Any]]:
    """Its findings by what they are about, which must lead to this exit status; None where a stamp's age decides."""
    done = shell("doctor", "--json", **variables)
    assert status is None or done.returncode == status, done.stdout
    assert "Traceback" not in done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(finding["remedy"] for finding in told if finding["level"] != "ok")
    return {finding["about"]: finding for finding in told}


def findings(shell: Shell) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shell("doctor", "--json").stdout.splitlines()]


@pytest.mark.usefixtures("relay")
def test_where_all_is_well_nothing_is_an_error(shell: Shell) -> None:
    found = told(shell, 0)
    assert {about for about, finding in found.items() if finding["level"] == "ok"} == {
        "postgres", "schema", "listen", "redis", "eviction", "persistence", "relay",
    }  # fmt: skip
    assert {about for about, finding in found.items() if finding["level"] == "warning"} == {"rights", "signing"}
    lines = shell("doctor").stdout.splitlines()
    assert lines[0].split() == ["level", "about", "found", "remedy"]


def test_without_a_relay_it_says_so(shell: Shell) -> None:
    assert told(shell, 1)["head"]["remedy"] == "start a relay: configbus relay"


@pytest.mark.usefixtures("relay")
def test_what_is_wrong_in_redis_is_named(shell: Shell, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.set(f"{PREFIX}notes", "x")
        found = told(shell, 0)
        client.config_set("maxmemory-policy", "noeviction")
        assert "allkeys-lru" in found["eviction"]["found"]
        assert found["keys"]["found"] == f"nobody's: {PREFIX}notes"
        client.delete(f"{PREFIX}notes")


@pytest.mark.usefixtures("relay")
def test_content_and_workers_that_refuse_it_are_named(shell: Shell, redis_url: str) -> None:
    with ConfigBus.connect(redis_url=redis_url, environment="production", worker="alpha", require="live") as bus:
        with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as operator:
            operator.execute(
                "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'"
            )
        until(lambda: "trading" in bus.held)
        until(lambda: "; 1 worker holds it back" in shell("doctor").stdout)
        found = told(shell, 1)
    assert found["content"]["found"].startswith("trading: drawdown_reduction_tiers")
    assert "worker" not in found, "one row for one cause"


@pytest.mark.usefixtures("relay")
def test_what_is_wrong_in_postgres_is_named(shell: Shell) -> None:
    url = shell.environ["CONFIGBUS_DATABASE_URL"]
    with psycopg.connect(url) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("DELETE FROM configbus.risk_config WHERE status = 'active'")
    assert told(shell, 1)["drift"]["found"] == "changed behind the triggers: risk"


@pytest.mark.usefixtures("relay")
@pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer on this machine: doctor behind a real pooler is not tried")
def test_a_pooler_that_no_bell_comes_through_is_named(shell: Shell, tmp_path: Path) -> None:
    with pgbouncer(shell.environ["CONFIGBUS_DATABASE_URL"], tmp_path) as url:
        found = told(shell, 0, CONFIGBUS_DATABASE_URL=url)
    assert found["listen"] == {
        "level": "warning",
        "about": "listen",
        "found": "no bell is heard: perhaps a pooler is between",
        "remedy": "give the relay a direct URL; until then it looks ten times a second",
    }


def test_an_older_schema_is_named(shell: Shell) -> None:
    with connected(shell.environ["CONFIGBUS_DATABASE_URL"]) as connection, connection.begin():
        downgrade(connection, "configbus", "0005")
    found = told(shell, 1)
    assert (found["schema"]["level"], found["schema"]["remedy"]) == ("error", "configbus migrate")
    assert "postgres" not in found


def test_servers_that_do_not_answer_are_findings(shell: Shell) -> None:
    found = told(shell, 1, CONFIGBUS_REDIS_URL="redis://127.0.0.1:1/0")
    assert found["redis"]["level"] == "error"
    assert found["postgres"]["level"] == "ok"
    found = told(shell, 1, CONFIGBUS_REDIS_URL="redis://127.0.0.1:1/0?nonsense=1")
    assert "'nonsense'" in found["redis"]["found"]
    found = told(shell, 1, CONFIGBUS_DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert "Connection refused" in found["postgres"]["found"]
    assert found["redis"]["level"] == "ok"
    found = told(shell, 1, CONFIGBUS_DATABASE_URL="", CONFIGBUS_REDIS_URL="")
    assert found["redis"]["remedy"] == found["postgres"]["remedy"] == "set it"


INDEX_DAMAGES: dict[str, Callable[[Any], object]] = {
    "it is missing": lambda client: client.rename(f"{PREFIX}index", "x"),
    "it is a text": lambda client: client.set(f"{PREFIX}index", "x"),
    "it is no text": lambda client: client.hset(f"{PREFIX}index", "risk", b"\xff"),
    "it lacks a block": lambda client: client.hdel(f"{PREFIX}index", "risk"),
    "it has no mark": lambda client: client.hset(f"{PREFIX}index", "risk", "x"),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGES.values(), ids=INDEX_DAMAGES.keys())
def test_with_a_damaged_index_no_block_is_called_nobodys(
    shell: Shell, client: Any, published: LayDown, damage: Callable[[Any], object]
) -> None:
    published(client)
    damage(client)
    found = told(shell, 1)
    assert found["index"]["level"] == "error"
    assert found["index"]["found"].startswith("the index in Redis is damaged: ")
    assert "configbus verify --repair" in found["index"]["remedy"]
    assert "keys" not in found


def test_keys_are_nobodys_only_where_postgres_was_read(shell: Shell, client: Any, published: LayDown) -> None:
    published(client)
    client.set(f"{PREFIX}notes", "x")
    assert told(shell, None)["keys"]["found"] == f"nobody's: {PREFIX}notes"
    assert "keys" not in told(shell, 1, CONFIGBUS_DATABASE_URL="")


HEAD_DAMAGES: dict[str, Callable[[Any], object]] = {
    "it is a text": lambda client: client.set(f"{PREFIX}head", "x"),
    "it is no text": lambda client: client.hset(f"{PREFIX}head", "published_at", b"\xff"),
    "it lacks a field": lambda client: client.hdel(f"{PREFIX}head", "state"),
    "it does not fit": lambda client: client.hset(f"{PREFIX}head", "revision", "7"),
}


@pytest.mark.parametrize("damage", HEAD_DAMAGES.values(), ids=HEAD_DAMAGES.keys())
def test_a_damaged_head_is_a_finding_among_the_others(
    shell: Shell, client: Any, published: LayDown, damage: Callable[[Any], object]
) -> None:
    published(client)
    damage(client)
    found = told(shell, 1)
    assert found["head"]["level"] == "error"
    assert found["head"]["found"].startswith("the head in Redis is damaged: ")
    assert found["head"]["remedy"].startswith("a relay lays it down")
    assert {"postgres", "schema", "rights", "listen", "redis", "eviction"} <= found.keys()
    assert found.keys().isdisjoint({"keys", "index", "relay"})


def test_findings_before_a_fault_of_doctor_itself_are_shown(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_anything: object) -> object:
        raise RuntimeError

    monkeypatch.setattr("configbus.doctor.find_workers", look)
    done = shell("doctor", "--json")
    assert (done.returncode, "RuntimeError" in done.stderr) == (1, True)
    assert [json.loads(line)["about"] for line in done.stdout.splitlines()][-1] == "head"


@pytest.mark.parametrize(
    ("theirs", "ours", "level", "words"),
    [
        (B, A, "error", "the head is signed with key b, which is not in CONFIGBUS_SIGNING_KEYS"),
        (OTHER_A, A, "error", "the head does not fit its signature with key a"),
        ("", A, "error", "what is in Redis is not signed: its relays and authors lack CONFIGBUS_SIGNING_KEYS"),
        (B, "", "warning", "what is in Redis is signed with key b, and CONFIGBUS_SIGNING_KEYS is not set here"),
        ("", "", "warning", "what is in Redis is not signed"),
        (B, B, None, ""),
    ],
    ids=["another key", "another of that name", "none there", "none here", "none", "the same"],
)
def test_whose_keys_do_not_fit_is_told_once(
    shell: Shell, client: Any, published: LayDown, theirs: str, ours: str, level: str | None, words: str
) -> None:
    published(client, **({"signing_keys": theirs} if theirs else {}))
    found = told(shell, 1 if level == "error" else None, **({"CONFIGBUS_SIGNING_KEYS": ours} if ours else {}))
    assert found.keys().isdisjoint({"head", "index", "keys"})
    assert found.get("signing", {}).get("level") == level
    assert found.get("signing", {"found": ""})["found"].startswith(words)


def test_another_installation_on_our_keys_is_named(shell: Shell, client: Any, published: LayDown) -> None:
    published(client)
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("UPDATE configbus.environment SET bus = gen_random_uuid()")
    client.set(f"{PREFIX}theirs", "x")
    found = told(shell, 1)
    assert found["head"]["found"].startswith("another installation uses these keys: its bus is ")
    for name in ("CONFIGBUS_NAMESPACE", "CONFIGBUS_ENVIRONMENT", "CONFIGBUS_REDIS_URL"):
        assert name in found["head"]["remedy"]
    assert found.keys().isdisjoint({"keys", "relay", "signing"})


def test_a_mistyped_environment_is_told_with_those_that_there_are(shell: Shell) -> None:
    found = told(shell, 1, CONFIGBUS_ENVIRONMENT="produktion")
    assert found["environment"]["found"] == "there is no 'produktion' in this database; there are: production"
    assert found["environment"]["remedy"].startswith("set CONFIGBUS_ENVIRONMENT to one of them")
    assert found.keys().isdisjoint({"head", "postgres"})
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("DELETE FROM configbus.environment")
    assert told(shell, 1)["environment"]["remedy"] == "configbus migrate"


@contextmanager
def a_role(shell: Shell) -> Iterator[tuple[psycopg.Connection[Any], str, str]]:
    """A role without rights: the connection of the schema's owner, its name, its URL."""
    url, role = shell.environ["CONFIGBUS_DATABASE_URL"], f"doctor_{secrets.token_hex(4)}"
    where = urlsplit(url)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'a-password-of-tests'".encode())
        yield owner, role, where._replace(netloc=f"{role}:a-password-of-tests@{where.hostname}:{where.port}").geturl()
        owner.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize(
    ("granted", "level", "words", "remedy"),
    [
        ("", "error", "this role may not use the schema configbus", "configbus grants reader --user ROLE | psql"),
        (
            "USAGE",
            "error",
            "this role may not read api_config, audit_line, cluster_config, ",
            "configbus grants reader",
        ),
        (
            "reader",
            "warning",
            "enough to read; a relay could not run with this role",
            "configbus grants relay --user ROLE | psql",
        ),
        ("relay", "ok", "enough to read and for a relay", ""),
    ],
)
def test_what_the_role_lacks_is_told_with_the_grants(
    shell: Shell, granted: str, level: str, words: str, remedy: str
) -> None:
    with a_role(shell) as (owner, role, theirs):
        if granted:
            usage = f"GRANT USAGE ON SCHEMA configbus TO {role}"
            owner.execute((usage if granted == "USAGE" else shell("grants", granted, "--user", role).stdout).encode())
        rights = told(shell, 1, CONFIGBUS_DATABASE_URL=theirs)["rights"]
    assert (rights["level"], rights["found"].startswith(words)) == (level, True), rights
    assert remedy.replace("ROLE", role) in rights["remedy"]


def test_a_role_that_could_not_verify_history_is_told(shell: Shell) -> None:
    with a_role(shell) as (owner, role, theirs):
        owner.execute(shell("grants", "reader", "--user", role).stdout.encode())
        owner.execute(f"REVOKE SELECT ON configbus.audit_line FROM {role}".encode())  # noqa: S608  # a name of ours
        refused = shell("audit", "--verify", CONFIGBUS_DATABASE_URL=theirs)
        rights = told(shell, 1, CONFIGBUS_DATABASE_URL=theirs)["rights"]
    assert (refused.returncode, "audit_line" in refused.stderr) == (1, True)
    assert (rights["level"], rights["found"]) == ("error", "this role may not read audit_line")


def test_a_full_redis_is_named(shell: Shell, client: Any) -> None:
    client.config_set("maxmemory", "1kb")
    try:
        found = told(shell, 1)
    finally:
        client.config_set("maxmemory", "0")
    assert found["memory"]["level"] == "error"
    assert "of 1024 bytes: it takes no writes" in found["memory"]["found"]


def test_a_redis_that_cannot_save_is_named(shell: Shell, tmp_path: Path) -> None:
    directory = tmp_path / "valkey"
    with EmbeddedValkey(directory) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        shutil.rmtree(client.config_get("dir")["dir"])
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        found = told(shell, 1, CONFIGBUS_REDIS_URL=server.url)
        directory.mkdir(exist_ok=True)
    assert found["persistence"]["level"] == "error"
    assert "rdb_last_bgsave_status err" in found["persistence"]["found"]


def test_a_replica_is_named(shell: Shell, client: Any) -> None:
    client.replicaof("127.0.0.1", 1)
    try:
        found = told(shell, 1)
    finally:
        client.replicaof("NO", "ONE")
    assert (found["replica"]["level"], "127.0.0.1:1" in found["replica"]["found"]) == ("error", True)
    assert "primary" in found["replica"]["remedy"]


def test_only_clear_bloat_is_told_with_sql_that_runs(shell: Shell) -> None:
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"], autocommit=True) as operator:
        for table, count, kept in (("bloated", 20_000, 100), ("busy", 20_000, 8_000), ("small", 9_000, 0)):
            for statement in (
                "CREATE TABLE configbus.{table} (n int) WITH (autovacuum_enabled = off)",
                "INSERT INTO configbus.{table} SELECT generate_series(1, {count})",
                "DELETE FROM configbus.{table} WHERE n > {kept}",
            ):
                operator.execute(sql.SQL(statement).format(table=sql.Identifier(table), count=count, kept=kept))
    bloat = [each for each in findings(shell) if each["about"] == "bloat"]
    assert [each["found"] for each in bloat] == ["bloated has 19900 dead rows beside 100"]
    assert bloat[0]["remedy"].startswith('VACUUM "configbus"."bloated"; -- ')
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"], autocommit=True) as operator:
        for statement in bloat[0]["remedy"].replace("-- if they stay: ", "").split("; "):
            operator.execute(statement.encode())


def present(client: Any, name: str, state: str, held: dict[str, Any]) -> None:
    """A worker that says so of itself."""
    at = client.time()[0] * 1_000_000
    numbers = {"epoch": 1, "revision": 1, "applied_at": at, "said_at": at}
    texts = {"state": state, "held": json.dumps(held), "follows": "[]"}
    client.hset(f"{PREFIX}worker:{name}", mapping=numbers | texts)
    client.zadd(f"{PREFIX}workers", {name: at})


@pytest.mark.parametrize("damaged", ["never", "long ago", "no head"])
def test_where_no_relay_stamps_stale_workers_are_no_findings(
    shell: Shell, client: Any, published: LayDown, damaged: str
) -> None:
    published(client)
    match damaged:
        case "never":
            client.hdel(f"{PREFIX}head", "asof")
        case "long ago":
            client.hset(f"{PREFIX}head", "asof", "1")
        case _:
            client.delete(f"{PREFIX}head")
    for number in range(3):
        present(client, f"worker-{number}", "stale", {})
    found = told(shell, 1)
    assert found["workers"]["found"] == "3 are known"
    assert "worker" not in found
    assert ("head" if damaged == "no head" else "relay") in found


@pytest.mark.usefixtures("relay")
def test_a_stale_worker_is_named_where_a_relay_stamps(shell: Shell, client: Any) -> None:
    present(client, "alpha", "stale", {})
    assert told(shell, 0)["worker"]["found"] == "alpha is stale"


@pytest.mark.usefixtures("relay")
def test_a_block_that_only_workers_refuse_is_one_finding(shell: Shell, client: Any) -> None:
    why = {"revision": 1, "field": "max_order_attempts", "reason": "is unknown", "last_good": None}
    for number in range(7):
        present(client, f"worker-{number}", "partial", {"risk": why})
    rows = [each for each in findings(shell) if each["about"] == "worker"]
    names = ", ".join(f"worker-{number}" for number in range(5))
    assert [each["found"] for each in rows] == [
        f"7 workers hold back risk: max_order_attempts is unknown ({names} and 2 more)"
    ]
