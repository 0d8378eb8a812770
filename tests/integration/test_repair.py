"""What is changed in Redis, or in Postgres behind the triggers, is put right, logged and recorded."""

from __future__ import annotations

import itertools
import json
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from psycopg import sql
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.link import Link
from configbus.publisher import Publisher
from configbus.reader import Reader
from configbus.relay import Relay
from configbus.repair import Repair
from configbus.settings import load_settings
from configbus.store.connect import Place, connected
from configbus.verification import begin_epoch, verify
from configbus.wire import Keys, read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from configbus.settings import Settings

KEYS = Keys("configbus", "production")
BYPASS = "SET session_replication_role = replica"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True, encoding_errors="replace") as client:
        yield client


def contents(client: Any) -> dict[str, dict[str, str]]:
    """Everything of the environment in Redis but its times."""
    keys = [key for key in client.keys(KEYS.prefix + "*") if not key.startswith(KEYS.prefix + "worker")]
    found = {key: client.hgetall(key) if client.type(key) == "hash" else {} for key in keys}
    for moving in ("asof", "published_at"):
        found.get(KEYS.head, {}).pop(moving, None)
    return found


def damage(client: Any, how: str) -> None:
    match how:
        case "a changed field":
            client.hset(KEYS.block("trading"), "score_threshold", '"0.999"')
        case "a missing field":
            client.hdel(KEYS.block("trading"), "score_threshold")
        case "a field too many":
            client.hset(KEYS.block("trading"), "stray", "1")
        case "a field within another":
            fields = client.hgetall(KEYS.block("api"))
            first, second = sorted(fields, key=lambda field: (len(field), field))[:2]
            client.hset(KEYS.block("api"), first, f'{fields[first]}, "{second}": {fields[second]}')
            client.hdel(KEYS.block("api"), second)
        case "not UTF-8":
            client.hset(KEYS.block("trading"), "score_threshold", b"\xff\xfe")
        case "a missing block":
            client.delete(KEYS.block("trading"))
        case "a renamed block":
            client.rename(KEYS.block("trading"), "elsewhere")
        case "a block of another type":
            client.delete(KEYS.block("trading"))
            client.lpush(KEYS.block("trading"), "junk")
        case "two blocks":
            client.delete(KEYS.block("trading"), KEYS.block("risk"))
        case "no index":
            client.delete(KEYS.index)
        case "an index of another type":
            client.set(KEYS.index, "junk")
        case "an index entry too many":
            client.hset(KEYS.index, "stray", "1:" + "0" * 32)
        case "a block too many":
            client.hset(KEYS.index, "strategy/ghost", "1:" + "0" * 32)
            client.hset(KEYS.block("strategy/ghost"), "size", "1")
        case "an index entry that forgets":
            client.hdel(KEYS.index, "trading")
        case "a head that is not UTF-8":
            client.hset(KEYS.head, "chain", b"\xff")
        case "no head":
            client.delete(KEYS.head)
        case "a head of another type":
            client.set(KEYS.head, "junk")
        case "a head whose check is wrong":
            client.hset(KEYS.head, "check", "0" * 32)
        case "a head of another system":
            client.hset(KEYS.head, "system", "7399999999999999999")
        case "a head with an absurd epoch":
            client.hset(KEYS.head, "epoch", "9" * 30)
        case "a head with an absurd epoch that fits its check":
            head = read_head(client.hgetall(KEYS.head))
            client.hset(KEYS.head, mapping=replace(head, epoch=999_999_999_999_001).fields())
        case "a head of a protocol that is none":
            client.hset(KEYS.head, "v", "junk")
        case _:
            raise AssertionError(how)


WAYS = (
    "a changed field",
    "a missing field",
    "a field too many",
    "a field within another",
    "not UTF-8",
    "a missing block",
    "a renamed block",
    "a block of another type",
    "two blocks",
    "no index",
    "an index of another type",
    "an index entry too many",
    "a block too many",
    "an index entry that forgets",
    "a head that is not UTF-8",
    "no head",
    "a head of another type",
    "a head whose check is wrong",
    "a head of another system",
    "a head with an absurd epoch",
    "a head with an absurd epoch that fits its check",
    "a head of a protocol that is none",
)


def put_right(client: Any, how: str) -> None:
    right = contents(client)
    damage(client, how)
    assert contents(client) != right
    until(lambda: contents(client) == right)


@pytest.mark.parametrize("how", WAYS)
def test_a_relay_puts_right_what_was_changed_in_redis(relay: Settings, client: Any, how: str) -> None:
    assert relay.environment == "production"
    put_right(client, how)


def test_a_worker_that_runs_sees_nothing_of_the_damage(relay: Settings, client: Any, worker: dict[str, Any]) -> None:
    seen: list[Any] = []
    with ConfigBus.connect(**worker, require="live") as bus:
        bus.on_change("*", lambda change: seen.append(change.fields) if change.old is not None else None)
        for how in WAYS:
            put_right(client, how)
        with Author(relay) as author:
            bus.wait_for(author.set({"risk.max_order_attempts": 9}))
        until(lambda: bus.state == "live")
    assert seen == [{"max_order_attempts": (3, 9)}]


def test_a_forgery_that_fits_together_is_put_right_in_workers_too(
    relay: Settings, client: Any, worker: dict[str, Any]
) -> None:
    from entries import entry_of

    from configbus.wire import Head, entry_fields, read_entry, xor

    assert relay.environment == "production"
    with ConfigBus.connect(**worker, require="live") as bus:
        head = read_head(client.hgetall(KEYS.head))
        entry = read_entry("risk", client.hgetall(KEYS.block("risk")))
        forged = entry_of("risk", entry_fields(entry) | {"max_order_attempts": "77"})
        state = xor(head.state, [entry.mark.digest, forged.mark.digest])
        with client.pipeline() as together:
            together.hset(KEYS.block("risk"), mapping=entry_fields(forged))
            together.hset(KEYS.index, "risk", str(forged.mark))
            together.hset(KEYS.head, mapping=Head(head.bus, head.system, head.epoch, head.revision, state).fields())
            together.execute()
        bus.refresh()
        until(lambda: bus.get("risk.max_order_attempts") == 3 and bus.epoch > head.epoch)


def test_what_differed_and_what_it_was_set_to_is_logged_and_audited(
    relay: Settings, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    right = contents(client)
    with caplog.at_level("WARNING", logger="configbus"):
        client.hset(KEYS.block("trading"), mapping={"score_threshold": '"0.999"', "stray": "1"})
        until(lambda: any("redis_repaired" in record.message for record in caplog.records))
    (record,) = [record for record in caplog.records if "redis_repaired" in record.message]
    facts = vars(record)["facts"]
    assert facts["where"] == "trading"
    assert facts["fields"] == "score_threshold, stray"
    assert facts["changes"] == 'score_threshold "0.999" -> "0.700", stray 1 -> None'
    assert contents(client) == right
    with Reader(relay) as reader:
        line = reader.audit("trading", limit=1)[0]
    assert (line.action, line.block, line.reason) == ("repair", "trading", "Redis differed")
    assert (line.old, line.new) == (
        {"score_threshold": '"0.999"', "stray": "1"},
        {"score_threshold": '"0.700"', "stray": None},
    )
    assert line.changed_fields == ("score_threshold", "stray")


def test_what_bypassed_the_triggers_is_released_and_reaches_workers(
    relay: Settings, client: Any, worker: dict[str, Any]
) -> None:
    with ConfigBus.connect(**worker, require="live") as bus, psycopg.connect(relay.require("database_url")) as bypass:
        bypass.execute(BYPASS)
        bypass.execute("UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")
        bypass.execute("UPDATE configbus.trading_config SET score_threshold = 0.9 WHERE status = 'active'")
        bypass.commit()
        until(lambda: bus.revision == 2)
        assert (bus.get("risk.max_order_attempts"), str(bus.get("trading.score_threshold"))) == (9, "0.900")
    with Reader(relay) as reader:
        released = reader.release(2)
        lines = reader.audit(limit=2)
    assert (released.reason, released.source, released.actor) == ("outside triggers", "drift", "database:configbus")
    assert released.blocks["risk"] == {"max_order_attempts": (3, 9)}
    assert {(line.action, line.block, line.changed_fields) for line in lines} == {
        ("drift", "risk", ("max_order_attempts",)),
        ("drift", "trading", ("score_threshold",)),
    }
    assert client.hget(KEYS.head, "revision") == "2"


def test_a_singleton_whose_row_is_gone_is_named_and_keeps_its_values(
    relay: Settings, worker: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with ConfigBus.connect(**worker, require="live") as bus, psycopg.connect(relay.require("database_url")) as bypass:
        bypass.execute(BYPASS)
        bypass.execute("DELETE FROM configbus.risk_config WHERE status = 'active'")
        bypass.commit()
        until(lambda: any("active_row_missing" in record.message for record in caplog.records))
        with Author(relay) as author:
            bus.wait_for(author.set({"trading.score_threshold": "0.8"}))
        assert bus.get("risk.max_order_attempts") == 3
    assert len([record for record in caplog.records if "active_row_missing" in record.message]) == 1


def test_content_that_workers_refuse_is_named_by_the_relay_once(
    relay: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(relay.require("database_url")) as operator:
        operator.execute(
            "UPDATE configbus.trading_config SET drawdown_reduction_tiers = %s WHERE status = 'active'",
            [json.dumps([{"threshold_pct": "x"}])],
        )
    until(lambda: any("block_invalid" in record.message for record in caplog.records))
    with Author(relay) as author:
        for number in (4, 5):
            author.set({"risk.max_order_attempts": number})
        until(lambda: sum("redis_repaired" in record.message for record in caplog.records) == 0)
    facts = [vars(record)["facts"] for record in caplog.records if "block_invalid" in record.message]
    assert [(each["block"], each["revision"], each["field"].partition(".")[0]) for each in facts] == [
        ("trading", 2, "drawdown_reduction_tiers")
    ]


def test_many_blocks_are_compared_in_parts(published: Settings, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("configbus.repair.CHUNK", 2)
    place = Place(published.schema, published.environment)
    publisher = Publisher(Link(published.require("redis_url")), KEYS, place)
    with connected(published.require("database_url")) as connection:
        repair = Repair(publisher, place)
        assert repair.compare(connection) == []
        client.hset(KEYS.block("api"), "stray", "1")
        client.hset(KEYS.block("trading"), "stray", "1")
        assert [(each.where, each.field) for each in repair.repair(connection) or ()] == [
            ("api", "stray"),
            ("trading", "stray"),
        ]
        assert repair.compare(connection) == []
    publisher.link.close()


class BusyLink(Link):
    """A connection on which somebody else makes a release whenever blocks were read."""

    release: Callable[[], object]

    def call(self, *commands: Sequence[Any]) -> list[Any]:
        replies = super().call(*commands)
        if any(command[:2] == ("HGETALL", KEYS.block("api")) for command in commands):
            self.release()
        return replies


@pytest.mark.parametrize("publishes", [True, False], ids=["published", "plain SQL"])
@pytest.mark.parametrize("how", ["a changed field", "a missing block", "no index", "an index entry too many"])
def test_releases_that_come_in_between_keep_nothing_from_being_repaired(
    published: Settings, client: Any, how: str, *, publishes: bool
) -> None:
    place, link = Place(published.schema, published.environment), BusyLink(published.require("redis_url"))
    numbers = itertools.cycle((4, 5))
    settings = published if publishes else replace(published, redis_url=None)
    with Author(settings) as author, connected(published.require("database_url")) as connection:
        link.release = lambda: author.set({"risk.max_order_attempts": next(numbers)})
        publisher = Publisher(link, KEYS, place)
        repair = Repair(publisher, place)
        damage(client, how)
        repaired = repair.repair(connection)
        assert repaired
        assert {each.where for each in repaired} == {"@index" if "index" in how else "trading"}
        publisher.bring_up(connection)
        assert repair.compare(connection) == []
        assert client.hget(KEYS.block("trading"), "score_threshold") == '"0.700"'
        assert author.release(3).blocks["risk"] == {"max_order_attempts": (4, 5)}
    link.close()


def test_a_head_below_the_first_release_of_an_epoch_is_put_right(relay: Settings, client: Any) -> None:
    with Author(relay) as author:
        for number in (5, 6, 7, 8):
            author.set({"risk.max_order_attempts": number})
        begin_epoch(relay, "a restore")
        until(lambda: client.hget(KEYS.head, "revision") == "5")
        right = contents(client)
        states = [author.release(revision).state for revision in (3, 5)]
    head = read_head(client.hgetall(KEYS.head))
    assert head.state == states[1]
    client.hset(KEYS.head, mapping=replace(head, revision=3, state=states[0]).fields())
    until(lambda: contents(client) == right)


def test_a_role_without_rights_cannot_have_its_own_rows_released(published: Settings) -> None:
    url = published.require("database_url")
    role = f"peeker_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as operator:
        operator.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        operator.execute(sql.SQL("GRANT USAGE ON SCHEMA configbus TO {}").format(sql.Identifier(role)))
        operator.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            operator.execute("SELECT configbus.capture_drift('production')")
        operator.execute("CREATE TEMP TABLE trading_config (environment text, key text)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            operator.execute(
                "CREATE TRIGGER capture_insert AFTER INSERT ON trading_config"
                " FOR EACH ROW EXECUTE FUNCTION configbus.capture('risk', 'false')"
            )
        operator.execute("RESET ROLE")
        operator.execute("CREATE TEMP TABLE risk_config (environment text, key text)")
        operator.execute(
            "CREATE TRIGGER capture_insert AFTER INSERT ON pg_temp.risk_config"
            " FOR EACH ROW EXECUTE FUNCTION configbus.capture('risk', 'false')"
        )
        assert operator.execute("SELECT * FROM configbus.drift('production')").fetchall() == []
        operator.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        operator.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_a_field_that_postgres_cannot_name_is_recorded_too(relay: Settings, client: Any) -> None:
    client.hset(KEYS.block("risk"), "a\0b", "1")
    with Reader(relay) as reader:
        until(lambda: any(line.action == "repair" for line in reader.audit("risk")))
        line = reader.audit("risk", limit=1)[0]
    assert line.changed_fields == ("a\ufffdb",)


def test_verify_repairs_however_many_blocks_bypassed_the_triggers(sample_database_url: str, redis_url: str) -> None:
    servers = {"database_url": sample_database_url, "redis_url": redis_url, "environment": "production"}
    settings = load_settings({}, **servers, domains="configbus.domains,sample_domains", actor="tester")
    Relay(settings, threading.Event()).bring_up()
    with psycopg.connect(sample_database_url) as operator:
        operator.execute(BYPASS)
        operator.execute(
            "INSERT INTO configbus.lane_config (environment, key, name, status, version, activated_at, activated_by,"
            " created_at, created_by, updated_at, updated_by)"
            " SELECT 'production', 'k' || i, 'k' || i, 'active', 1, now(), 'x', now(), 'x', now(), 'x'"
            " FROM generate_series(1, 501) AS i"
        )
    found = verify(settings, repair=True)
    assert len({finding.block for finding in found}) == 501
    assert all(finding.repaired for finding in found)
    assert verify(settings, repair=False) == []


def test_each_damage_is_recorded_however_soon_it_follows_another(relay: Settings, client: Any) -> None:
    for field, value in (("stray", "1"), ("max_order_attempts", "99"), ("max_order_attempts", "98")):
        right = client.hget(KEYS.block("risk"), field)
        client.hset(KEYS.block("risk"), field, value)
        until(lambda: client.hget(KEYS.block("risk"), field) == right)  # noqa: B023  # used before it changes
    with Reader(relay) as reader:
        until(lambda: len([line for line in reader.audit("risk") if line.action == "repair"]) == 3)
        lines = [line for line in reader.audit("risk") if line.action == "repair"]
    assert [line.old for line in lines] == [{"max_order_attempts": "98"}, {"max_order_attempts": "99"}, {"stray": "1"}]


def test_one_that_damages_something_else_each_time_does_not_fill_the_audit_log(
    relay: Settings, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("configbus.repair.RECORDS", 2)
    for number in range(4):
        client.hset(KEYS.block("risk"), "junk", str(number))
        until(lambda: client.hget(KEYS.block("risk"), "junk") is None)
    with Reader(relay) as reader:
        assert len([line for line in reader.audit("risk") if line.action == "repair"]) == 2


def test_what_is_damaged_for_ever_is_recorded_once_a_minute_and_cut(relay: Settings, client: Any) -> None:
    for _ in range(3):
        client.hset(KEYS.block("trading"), "junk", "x" * 100_000)
        until(lambda: client.hget(KEYS.block("trading"), "junk") is None)
    with Reader(relay) as reader:
        lines = [line for line in reader.audit("trading") if line.action == "repair"]
    assert len(lines) == 1
    assert lines[0].old is not None
    assert lines[0].old["junk"].endswith("... (100000 characters)")
