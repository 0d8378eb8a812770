"""Publishing: in order, by compare-and-set, from any number of publishers, never over a newer history."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis

from configbus import wire
from configbus.author import Author
from configbus.errors import ConfigBusError, Conflict, Superseded
from configbus.link import Link, reading_commands, reading_of
from configbus.publisher import Publisher
from configbus.store.connect import Place, connected
from configbus.store.releases import newest_head, newest_state
from configbus.wire import Head, Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.settings import Settings

KEYS = Keys("configbus", "production")
PLACE = Place("configbus", "production")


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def publisher(redis_url: str) -> Iterator[Publisher]:
    link = Link(redis_url)
    yield Publisher(link, KEYS, PLACE)
    link.close()


@pytest.fixture
def lonely(settings: Settings) -> Iterator[Author]:
    """An author who cannot reach Redis: what it commits is left to others."""
    from dataclasses import replace

    with Author(replace(settings, redis_url=None)) as author:
        yield author


def assert_complete(settings: Settings) -> None:
    """Redis holds exactly what Postgres does, every digest and the state included."""
    with connected(settings.require("database_url")) as connection:
        truth = newest_state(connection, PLACE)
    names = tuple(entry.name for entry in truth.entries)
    link = Link(settings.require("redis_url"))
    reading = reading_of(link.call(*reading_commands(KEYS, names)), names)
    link.close()
    assert wire.read_head(reading.head) == truth.head
    assert wire.read_index(reading.index) == {entry.name: entry.mark for entry in truth.entries}
    assert [wire.read_entry(name, reading.blocks[name]) for name in names] == list(truth.entries)
    assert wire.xor(wire.EMPTY_STATE, (entry.mark.digest for entry in truth.entries)) == truth.head.state


def test_an_empty_redis_gets_the_whole_state(settings: Settings, publisher: Publisher) -> None:
    with connected(settings.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert_complete(settings)


def test_missing_releases_are_replayed_in_order(
    published: Settings, publisher: Publisher, lonely: Author, client: Any
) -> None:
    channel = client.pubsub()
    channel.subscribe(KEYS.channel)
    for number in range(1, 151):
        lonely.set({"risk.max_order_attempts": number % 90 + 5})
    with connected(published.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert_complete(published)
    revisions: list[int] = []
    while (message := channel.get_message(timeout=1.0)) is not None:
        if message["type"] == "message":
            revisions.append(wire.read_message(message["data"].encode()).head.revision)
            if revisions[-1] == 151:
                break
    channel.close()
    assert revisions == list(range(2, 152))


def test_a_large_gap_is_laid_down_at_once(
    published: Settings, publisher: Publisher, lonely: Author, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    monkeypatch.setattr("configbus.publisher.REPLAY_LIMIT", 3)
    for number in range(5):
        lonely.set({"risk.max_order_attempts": number + 10})
    client.hset(KEYS.block("nonsense"), "field", "1")
    with connected(published.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert_complete(published)
    assert not client.exists(KEYS.block("nonsense"))


def test_many_publishers_at_once_keep_the_order(published: Settings, client: Any, lonely: Author) -> None:
    channel = client.pubsub()
    channel.subscribe(KEYS.channel)
    done = threading.Event()
    faults: list[Exception] = []

    def publish() -> None:
        link = Link(published.require("redis_url"))
        publisher = Publisher(link, KEYS, PLACE)
        try:
            with connected(published.require("database_url")) as connection:
                while not done.is_set():
                    publisher.bring_up(connection)
                publisher.bring_up(connection)
        except ConfigBusError as fault:
            faults.append(fault)
        link.close()

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(60):
        lonely.set({"risk.max_order_attempts": number % 50 + 5, "trading.max_slippage_exit_bps": number})
    done.set()
    for thread in threads:
        thread.join()
    assert not faults
    assert_complete(published)
    revisions: list[int] = []
    while not revisions or revisions[-1] < 61:
        message = channel.get_message(timeout=1.0)
        assert message is not None
        if message["type"] == "message":
            revisions.append(wire.read_message(message["data"].encode()).head.revision)
    channel.close()
    assert revisions == list(range(2, 62))


def test_publishing_again_changes_nothing(published: Settings, publisher: Publisher, client: Any) -> None:
    before = {key: client.hgetall(key) for key in client.scan_iter()}
    with connected(published.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert {key: client.hgetall(key) for key in client.scan_iter()} == before


def with_head(client: Any, settings: Settings, **changes: Any) -> None:
    """Put a whole, well-made head into Redis that differs in these things."""
    from dataclasses import replace

    with connected(settings.require("database_url")) as connection:
        head = newest_head(connection, PLACE)
    client.hset(KEYS.head, mapping=replace(head, **changes).fields())


def test_a_newer_history_supersedes_the_author(published: Settings, client: Any) -> None:
    with connected(published.require("database_url")) as connection:
        epoch = newest_head(connection, PLACE).epoch
    with_head(client, published, epoch=epoch + 1)
    before = client.hgetall(KEYS.block("trading"))
    with Author(published) as author, pytest.raises(Superseded, match="another database took over"):
        author.set({"trading.score_threshold": "0.9"})
    assert client.hgetall(KEYS.block("trading")) == before


def test_a_head_of_a_newer_epoch_that_does_not_fit_its_check_is_replaced(
    published: Settings, publisher: Publisher, client: Any
) -> None:
    with_head(client, published, epoch=9_999_999_999_999)
    client.hset(KEYS.head, "check", "0" * 32)
    with connected(published.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert_complete(published)


@pytest.mark.parametrize(
    "damage",
    [
        lambda client: client.hset(KEYS.head, "revision", "not a number"),
        lambda client: client.hset(KEYS.head, "revision", "9007199254740993"),
        lambda client: client.hdel(KEYS.head, "state"),
        lambda client: client.hdel(KEYS.head, "v"),
        lambda client: client.delete(KEYS.head),
        lambda client: (client.delete(KEYS.head), client.set(KEYS.head, "text")),
        lambda client: client.hset(KEYS.head, "bus", b"\xff\xfe"),
        lambda client: client.flushall(),
    ],
    ids=[
        "junk",
        "absurd",
        "missing field",
        "missing protocol",
        "missing",
        "other type",
        "not utf-8",
        "everything gone",
    ],
)
def test_a_broken_head_is_replaced(published: Settings, publisher: Publisher, client: Any, damage: Any) -> None:
    damage(client)
    with connected(published.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert_complete(published)


def test_a_key_of_another_type_in_the_way_is_replaced(
    published: Settings, publisher: Publisher, lonely: Author, client: Any
) -> None:
    lonely.set({"risk.max_order_attempts": 10})
    client.delete(KEYS.block("risk"), KEYS.index)
    client.lpush(KEYS.block("risk"), "1")
    client.set(KEYS.index, "text")
    with connected(published.require("database_url")) as connection:
        publisher.bring_up(connection)
    assert_complete(published)


def test_another_installation_is_left_alone(published: Settings, publisher: Publisher, client: Any) -> None:
    with_head(client, published, bus="0123456789ab")
    before = client.hgetall(KEYS.head)
    with connected(published.require("database_url")) as connection, pytest.raises(Conflict, match="installation"):
        publisher.bring_up(connection)
    assert client.hgetall(KEYS.head) == before


def test_a_newer_protocol_is_left_alone(published: Settings, publisher: Publisher, client: Any) -> None:
    client.hset(KEYS.head, "v", "2")
    with connected(published.require("database_url")) as connection, pytest.raises(Conflict, match="newer"):
        publisher.bring_up(connection)


def test_a_release_above_the_limit_is_announced_by_names(published: Settings, client: Any) -> None:
    tiers = [{"threshold_pct": f"{number / 100:.2f}", "size_reduction_pct": "1.00"} for number in range(1, 800)]
    channel = client.pubsub()
    channel.subscribe(KEYS.channel)
    with Author(published) as author:
        release = author.set({"trading.drawdown_reduction_tiers": tiers})
    while (message := channel.get_message(timeout=1.0)) is None or message["type"] != "message":
        assert message is not None
    channel.close()
    assert '"names": ["trading"]' in message["data"]
    assert len(message["data"]) < 1000
    assert wire.read_message(message["data"].encode()).head.revision == release.revision
    assert_complete(published)


def test_redis_down_after_the_commit_leaves_the_release_to_the_relay(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    with Author(replace(settings, redis_url="redis://127.0.0.1:1/0")) as author:
        release = author.set({"risk.max_order_attempts": 10})
    assert release.revision == 2
    assert any("publish_left_to_relay" in record.message for record in caplog.records)
    with psycopg.connect(settings.require("database_url")) as connection:
        row = connection.execute("SELECT max_order_attempts FROM configbus.risk_config WHERE status = 'active'")
        assert row.fetchone() == (10,)


def test_head_fields_are_what_the_contract_names(published: Settings, client: Any) -> None:
    head = client.hgetall(KEYS.head)
    wanted = {"bus", "v", "system", "epoch", "revision", "state", "check", "published_at", "asof", "chain"}
    assert set(head) == wanted
    assert isinstance(wire.read_head(head), Head)
    block = client.hgetall(KEYS.block("trading"))
    envelope = {"@revision", "@version", "@id", "@name", "@activated_at", "@activated_by", "@with"}
    assert {field for field in block if field.startswith("@")} == envelope
    assert block["score_threshold"] == '"0.700"'
    assert block["@with"] == '["api", "cluster", "discovery", "exit", "risk", "scoring"]'
    assert client.hget(KEYS.index, "trading") == f"1:{wire.read_entry('trading', block).mark.digest}"
    assert published.environment == "production"


def test_what_no_worker_can_read_does_not_keep_other_blocks_from_being_published(
    published: Settings, client: Any
) -> None:
    deep = "[" * 1500 + "]" * 1500
    with psycopg.connect(published.require("database_url")) as connection:
        connection.execute(
            "UPDATE configbus.trading_config SET drawdown_reduction_tiers = %s::jsonb WHERE status = 'active'", [deep]
        )
    with Author(published) as author:
        release = author.set({"risk.max_order_attempts": 9})
        assert release.blocks == ("risk",)
        assert client.hget(KEYS.block("risk"), "max_order_attempts") == "9"
        assert_complete(published)
        author.set({"trading.drawdown_reduction_tiers": []})
    assert client.hget(KEYS.block("trading"), "drawdown_reduction_tiers") == "[]"
