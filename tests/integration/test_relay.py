"""The relay: delivers what nobody else publishes, and never vouches for what it has not just seen."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from relays import running_relay
from waiting import until

import configbus.relay
from configbus.author import Author
from configbus.link import Link
from configbus.store.connect import Place, connected
from configbus.store.releases import newest_head
from configbus.wire import Head, Keys, Message, bookmark, read_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.settings import Settings

KEYS = Keys("configbus", "production")
STAMP = (Path(configbus.relay.__file__).parent / "stamp.lua").read_text()
SHA = hashlib.sha1(STAMP.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def edit(settings: Settings, number: int) -> None:
    with psycopg.connect(settings.require("database_url")) as connection:
        connection.execute("UPDATE configbus.risk_config SET max_order_attempts = %s WHERE status = 'active'", [number])


def test_plain_sql_is_published(relay: Settings, client: Any) -> None:
    edit(relay, 9)
    until(lambda: client.hget(KEYS.block("risk"), "max_order_attempts") == "9")


def test_plain_sql_is_published_even_if_no_bell_rings(relay: Settings, client: Any) -> None:
    with psycopg.connect(relay.require("database_url")) as connection:
        connection.execute("SELECT set_config('configbus.publishes', 'on', true)")
        connection.execute("UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")
    until(lambda: client.hget(KEYS.block("risk"), "max_order_attempts") == "9")


def test_what_a_dead_author_left_is_published(relay: Settings, client: Any) -> None:
    with Author(replace(relay, redis_url="redis://127.0.0.1:1/0")) as author:
        author.set({"risk.max_order_attempts": 11})
    until(lambda: client.hget(KEYS.block("risk"), "max_order_attempts") == "11")


def test_an_emptied_redis_is_filled_again(relay: Settings, client: Any) -> None:
    client.flushall()
    until(lambda: client.hget(KEYS.head, "asof") is not None)
    assert client.hget(KEYS.block("risk"), "max_order_attempts") == "3"
    assert relay.environment == "production"


def test_many_relays_do_what_one_does(published: Settings, client: Any) -> None:
    with running_relay(published), running_relay(published), running_relay(published):
        for number in range(4, 24):
            edit(published, number)
        until(lambda: client.hget(KEYS.block("risk"), "max_order_attempts") == "23")
        until(lambda: client.hget(KEYS.head, "revision") == "21")


def test_bookmarks_come_and_the_stamp_moves(relay: Settings, client: Any) -> None:
    channel = client.pubsub()
    channel.subscribe(KEYS.channel)
    first = client.hget(KEYS.head, "asof")
    heads: list[Message] = []
    while len(heads) < 2:
        message = channel.get_message(timeout=2.0)
        assert message is not None
        if message["type"] == "message":
            heads.append(read_message(message["data"].encode()))
    channel.close()
    assert [(bookmark.head.revision, bookmark.entries) for bookmark in heads] == [(1, None), (1, None)]
    until(lambda: client.hget(KEYS.head, "asof") > first)
    assert relay.environment == "production"


def test_a_relay_waits_for_its_servers_and_comes_back(
    settings: Settings, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    down = replace(settings, redis_url="redis://127.0.0.1:1/0")
    with running_relay(down):
        until(lambda: any("relay_waits" in record.message for record in caplog.records))
    assert not client.exists(KEYS.head)


class Stamped:
    """The stamp script run as a relay would that has read `head` from Postgres."""

    def __init__(self, settings: Settings) -> None:
        with connected(settings.require("database_url")) as connection:
            self.head = newest_head(connection, Place("configbus", "production"))
        self._url = settings.require("redis_url")

    def __call__(self, head: Head, stamp: int) -> str:
        link = Link(self._url)
        facts = [str(stamp), head.bus, str(head.epoch), str(head.revision), head.state]
        answer = link.script(SHA, STAMP, [KEYS.head], [*facts, KEYS.channel, bookmark(head, "")])
        link.close()
        return str(answer.decode())


def test_a_stamp_is_stored_as_it_is(published: Settings, client: Any) -> None:
    stamp = Stamped(published)
    assert stamp(stamp.head, 2_000_000_000_000_000) == "stamped"
    assert stamp(stamp.head, 1_000_000_000_000_000) == "stamped"
    assert client.hget(KEYS.head, "asof") == "1000000000000000"


def test_a_zombie_relay_of_an_older_history_cannot_stamp(published: Settings, client: Any) -> None:
    """It read its own, superseded Postgres; what Redis holds is not what it has seen."""
    stamp = Stamped(published)
    before = client.hget(KEYS.head, "asof")
    assert stamp(replace(stamp.head, epoch=stamp.head.epoch - 1), 7) == "another history"
    assert stamp(replace(stamp.head, epoch=stamp.head.epoch + 1), 7) == "another history"
    assert stamp(replace(stamp.head, bus="0123456789ab"), 7) == "another history"
    assert client.hget(KEYS.head, "asof") == before


def test_a_head_behind_postgres_is_not_stamped(published: Settings, client: Any) -> None:
    """The publish script was refused while the stamp would work: Redis lacks what is committed."""
    stamp = Stamped(published)
    before = client.hget(KEYS.head, "asof")
    assert stamp(replace(stamp.head, revision=stamp.head.revision + 1), 7) == "behind"
    assert client.hget(KEYS.head, "asof") == before


def test_a_head_of_another_state_at_the_same_revision_is_not_stamped(published: Settings, client: Any) -> None:
    stamp = Stamped(published)
    before = client.hget(KEYS.head, "asof")
    assert stamp(replace(stamp.head, state="f" * 32), 7) == "another state"
    assert client.hget(KEYS.head, "asof") == before


def test_a_redis_set_back_to_an_old_copy_is_not_stamped_but_brought_up(relay: Settings, client: Any) -> None:
    raw: Any = redis.Redis.from_url(relay.require("redis_url"))
    old = {key: raw.dump(key) for key in raw.keys("configbus:*")}
    with Author(relay) as author:
        author.set({"risk.max_order_attempts": 12})
    for key, value in old.items():
        raw.restore(key, 0, value, replace=True)
    stamp = Stamped(relay)
    until(lambda: client.hget(KEYS.head, "revision") == "2")
    assert client.hget(KEYS.block("risk"), "max_order_attempts") == "12"
    assert stamp(stamp.head, 7) == "stamped"
    raw.close()


def test_no_stamp_without_a_head(published: Settings, client: Any) -> None:
    stamp = Stamped(published)
    client.delete(KEYS.head)
    assert stamp(stamp.head, 7) == "no head"
    client.set(KEYS.head, "text")
    assert stamp(stamp.head, 7) == "no head"
    assert client.get(KEYS.head) == "text"


def test_a_session_of_postgres_that_hangs_is_given_up_for_another(
    published: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("configbus.relay.HANG_SECONDS", 1.0)
    caplog.set_level("INFO", "configbus")
    sessions = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'configbus'"
        " AND query !~ '^LISTEN'"
    )
    with psycopg.connect(published.require("database_url"), autocommit=True) as operator, running_relay(published):
        until(lambda: any("relay_started" in record.message for record in caplog.records))
        ((session,),) = operator.execute(sessions).fetchall()
        os.kill(session, signal.SIGSTOP)
        try:
            until(lambda: any("relay_waits" in record.message for record in caplog.records))
            until(lambda: any("relay_recovered" in record.message for record in caplog.records))
        finally:
            os.kill(session, signal.SIGCONT)
