"""What workers say of themselves in Redis, and what an author is told of a release."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from buses import connected_bus
from relays import running_relay
from waiting import until

from configbus import AsyncConfigBus, ConfigBus
from configbus.author import Author
from configbus.errors import SettingsError, UnknownRevision
from configbus.receipt import Outcome
from configbus.settings import load_settings
from configbus.wire import Release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.settings import Settings

DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])
PREFIX = "configbus:{production}:"


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def said(client: Any, worker: str) -> dict[str, str]:
    facts: dict[str, str] = client.hgetall(f"{PREFIX}worker:{worker}")
    return facts


@DRIVERS
@pytest.mark.usefixtures("relay")
def test_a_worker_says_where_it_stands_and_takes_its_leave(
    driver: str, worker: dict[str, Any], author: Author, client: Any
) -> None:
    with connected_bus(driver, **worker, worker="alpha", follow=["trading", "risk"], require="live") as driven:
        until(lambda: said(client, "alpha").get("state") == "live")
        first = said(client, "alpha")
        release = author.set({"risk.max_order_attempts": 4})
        driven.wait_for(release)
        until(lambda: said(client, "alpha")["revision"] == str(release.revision))
        later = said(client, "alpha")
        assert 10_000 < client.pttl(f"{PREFIX}worker:alpha") <= 15_000
        assert client.zrange(f"{PREFIX}workers", 0, -1) == ["alpha"]
    assert (first["revision"], first["held"]) == ("1", "{}")
    assert json.loads(later["follows"]) == ["risk", "trading"]
    assert (later["host"], later["pid"], later["epoch"]) == (socket.gethostname(), str(os.getpid()), str(release.epoch))
    seconds, micros = client.time()
    assert 0 <= seconds * 1_000_000 + micros - int(later["applied_at"]) < 5_000_000
    assert int(later["applied_at"]) <= int(later["said_at"])
    assert not client.exists(f"{PREFIX}worker:alpha", f"{PREFIX}workers")


@DRIVERS
def test_it_says_again_and_again_and_when_it_is_stale(driver: str, published: Settings, client: Any) -> None:
    options = {"redis_url": published.redis_url, "environment": "production", "worker": "alpha"}
    with connected_bus(driver, **options):
        with running_relay(published):
            until(lambda: said(client, "alpha").get("state") == "live")
            client.delete(f"{PREFIX}worker:alpha")
            until(lambda: said(client, "alpha").get("state") == "live", 8.0)
        until(lambda: said(client, "alpha").get("state") == "stale", 6.0)


@DRIVERS
def test_after_redis_was_emptied_it_says_so_at_once(
    driver: str, published: Settings, worker: dict[str, Any], client: Any
) -> None:
    with running_relay(published), connected_bus(driver, **worker, worker="alpha", require="live"):
        for _ in range(3):
            until(lambda: said(client, "alpha").get("state") == "live")
            client.flushall()
            until(lambda: said(client, "alpha"), 2.0)


@DRIVERS
@pytest.mark.parametrize("name", ["wörk", "a\x1bb", "two words"])
def test_any_name_is_one_to_work_under(driver: str, name: str, published: Settings, client: Any) -> None:
    options = {"redis_url": published.redis_url, "environment": "production", "worker": name}
    with running_relay(published), connected_bus(driver, **options, require="live"):
        until(lambda: client.zrange(f"{PREFIX}workers", 0, -1) == [name])


@pytest.mark.usefixtures("relay")
def test_one_that_is_not_listed_says_nothing(worker: dict[str, Any], client: Any) -> None:
    with ConfigBus.connect(**worker, worker="silent", listed=False, require="live") as bus:
        bus.refresh()
    assert client.keys(f"{PREFIX}work*") == []


@DRIVERS
def test_what_redis_refuses_is_told_once_and_disturbs_nothing(
    driver: str, published: Settings, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.acl_setuser(
        "watcher", enabled=True, nopass=True, commands=["+@all", "-hset"], keys=["*"], channels=["*"], reset=True
    )
    address = published.require("redis_url").rpartition("@")[2]
    options = {"redis_url": f"redis://watcher:any@{address}", "environment": "production", "worker": "alpha"}
    with running_relay(published), connected_bus(driver, **options, require="live") as driven:
        generation = driven.bus._poll._link.generation  # noqa: SLF001  # that it is not opened anew is seen only here
        with Author(published) as author:
            for attempts in (4, 5):
                driven.wait_for(author.set({"risk.max_order_attempts": attempts}))
        until(lambda: any("presence_failed" in record.message for record in caplog.records))
        assert driven.bus._poll._link.generation == generation  # noqa: SLF001  # the same
    told = [record.message for record in caplog.records if "presence_failed" in record.message]
    assert len(told) == 1
    assert "NOPERM" in told[0]
    client.acl_deluser("watcher")


def test_a_receipt_tells_of_every_worker(published: Settings, author: Author, worker: dict[str, Any]) -> None:
    with (
        running_relay(published),
        ConfigBus.connect(**worker, worker="all", require="live"),
        ConfigBus.connect(**worker, worker="other", follow=["discovery"], require="live"),
        psycopg.connect(published.require("database_url")) as sql,
    ):
        until(lambda: len(author.receipt(Release(1, author_epoch(author), ()), 0).workers) == 2)
        receipt = author.receipt(author.set({"risk.max_order_attempts": 4}))
        assert receipt.is_applied
        assert [(one.worker, one.outcome) for one in receipt.workers] == [
            ("all", Outcome.APPLIED),
            ("other", Outcome.NOT_FOLLOWED),
        ]
        latency = receipt.workers[0].latency
        assert latency is not None
        assert 0 < latency < 1

        sql.execute("UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'")
        sql.commit()
        until(lambda: author.history("trading", 1)[0].revision == 3)
        receipt = author.receipt(Release(3, receipt.release.epoch, ("trading",)))
        assert not receipt.is_applied
        (held,) = receipt.of(Outcome.HELD)
        assert (held.worker, held.block, held.field) == ("all", "trading", "drawdown_reduction_tiers.0")
        assert held.reason
        earlier = author.receipt(Release(1, receipt.release.epoch, ("trading",)), 0)
        assert earlier.of(Outcome.HELD) == [], "it had that one in force"


def test_a_call_that_changes_nothing_is_applied_only_where_what_it_asks_for_is_in_force(
    published: Settings, author: Author, worker: dict[str, Any], client: Any
) -> None:
    with running_relay(published), ConfigBus.connect(**worker, worker="alpha", require="live") as bus:
        bus.wait_for(author.set({"risk.max_order_attempts": 4}))
        nothing = author.set({"risk.max_order_attempts": 4})
        assert nothing.blocks == ()
        assert author.receipt(nothing).is_applied
        with psycopg.connect(published.require("database_url")) as sql:
            sql.execute("UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]' WHERE status = 'active'")
        until(lambda: "trading" in bus.held)
        (held,) = author.receipt(author.set({"risk.max_order_attempts": 4})).of(Outcome.HELD)
        assert (held.worker, held.block) == ("alpha", "trading")
        client.delete(f"{PREFIX}worker:alpha")
        assert not author.receipt(nothing, 0).is_applied


def test_content_of_a_history_that_was_lost_is_no_later_one(
    published: Settings, author: Author, worker: dict[str, Any], client: Any
) -> None:
    with running_relay(published), ConfigBus.connect(**worker, worker="alpha", require="live"):
        release = author.set({"risk.max_order_attempts": 4})
        assert author.receipt(release).is_applied
        held = {"risk": {"revision": release.revision, "field": "x", "reason": "y", "last_good": 7}}
        client.hset(f"{PREFIX}worker:alpha", "held", json.dumps(held))
        (one,) = author.receipt(release, 0).workers
        assert one.outcome is Outcome.HELD


@DRIVERS
@pytest.mark.usefixtures("relay")
def test_a_word_that_did_not_get_through_is_soon_said_again(
    driver: str, author: Author, worker: dict[str, Any], client: Any
) -> None:
    with connected_bus(driver, **worker, worker="alpha", require="live") as driven:
        until(lambda: said(client, "alpha").get("state") == "live")
        for each in client.client_list():
            if each["name"] == "configbus-alpha" and each["sub"] == "0":
                client.client_kill_filter(_id=each["id"])
        release = author.set({"risk.max_order_attempts": 4})
        driven.wait_for(release)
        assert author.receipt(release, 3.0).is_applied


def author_epoch(author: Author) -> int:
    return author.release(1).epoch


def test_a_worker_that_lags_is_missing_and_one_of_a_later_revision_has_it(
    published: Settings, author: Author, worker: dict[str, Any], client: Any
) -> None:
    with running_relay(published), ConfigBus.connect(**worker, worker="alpha", require="live") as bus:
        release = author.set({"risk.max_order_attempts": 4})
        bus.wait_for(author.set({"risk.max_order_attempts": 5}))
        (one,) = author.receipt(release).workers
        assert (one.outcome, one.revision) == (Outcome.APPLIED, 3)
        ahead = Release(3, release.epoch + 1000, ("risk",))
        (one,) = author.receipt(ahead, 0.1).workers
        assert (one.outcome, one.reason) == (Outcome.MISSING, "it says live")
        client.hset(f"{PREFIX}worker:alpha", "held", "junk")
        (one,) = author.receipt(ahead, 0).workers
        assert one.outcome is Outcome.MISSING
        assert one.reason.startswith("what it says of itself cannot be read: ")
        client.delete(f"{PREFIX}worker:alpha")
        (one,) = author.receipt(ahead, 0).workers
        assert (one.outcome, one.reason) == (Outcome.MISSING, "it says nothing of itself any more")
        with pytest.raises(UnknownRevision):
            author.receipt(Release(9, release.epoch, ("risk",)), 0)


@pytest.mark.parametrize("score", [9e17, None])
def test_of_very_many_names_those_count_that_were_heard_of_last(
    published: Settings, author: Author, worker: dict[str, Any], client: Any, score: float | None
) -> None:
    with running_relay(published), ConfigBus.connect(**worker, worker="alpha", require="live"):
        release = author.set({"risk.max_order_attempts": 4})
        assert author.receipt(release).is_applied
        earlier = (client.time()[0] - 2) * 1_000_000 if score is None else score
        client.zadd(f"{PREFIX}workers", {f"ghost {number}": earlier for number in range(12_000)})
        receipt = author.receipt(release, 0)
        (alpha,) = receipt.of(Outcome.APPLIED)
        assert alpha.worker == "alpha"
        assert len(receipt.workers) == (10_000 if score is None else 1)


def test_what_a_worker_says_of_itself_is_cut_to_what_can_be_shown(
    published: Settings, author: Author, worker: dict[str, Any], client: Any
) -> None:
    with running_relay(published), ConfigBus.connect(**worker, worker="alpha", require="live"):
        release = author.set({"risk.max_order_attempts": 4})
        assert author.receipt(release).is_applied
        facts = said(client, "alpha") | {"applied_at": "9" * 18}
        held = {"risk": {"revision": 9, "field": "x" * 5000, "reason": "y" * 5000, "last_good": None}}
        now = client.time()[0] * 1_000_000
        client.zadd(f"{PREFIX}workers", {"a" * 5000: now, "later": now})
        client.hset(f"{PREFIX}worker:{'a' * 5000}", mapping=facts | {"held": json.dumps(held)})
        client.hset(f"{PREFIX}worker:later", mapping=facts)
        receipt = author.receipt(release, 0)
        (one,) = receipt.of(Outcome.HELD)
        assert (len(one.worker), len(one.field), len(one.reason)) == (200, 200, 300)
        assert all(one.latency < 60 for one in receipt.of(Outcome.APPLIED) if one.latency is not None)
        assert "later" in {one.worker for one in receipt.of(Outcome.APPLIED)}


def test_without_redis_there_is_no_receipt(settings: Settings) -> None:
    with Author(load_settings({}, database_url=settings.database_url, environment="production")) as author:
        release = author.set({"risk.max_order_attempts": 4})
        with pytest.raises(SettingsError, match="CONFIGBUS_REDIS_URL"):
            author.receipt(release)


async def test_an_asyncio_worker_that_is_closed_at_once_leaves_nothing(published: Settings, client: Any) -> None:
    for _ in range(5):
        async with AsyncConfigBus.connect(redis_url=published.redis_url, environment="production", worker="alpha"):
            pass
    assert client.keys(f"{PREFIX}work*") == []


async def test_closing_before_a_word_was_said_leaves_no_coroutine_behind(published: Settings) -> None:
    with running_relay(published):
        for turns in range(12):
            bus = await AsyncConfigBus.connect(redis_url=published.redis_url, environment="production", worker="alpha")
            for _ in range(turns):
                await asyncio.sleep(0)
            await bus.close()
    gc.collect()
