"""What was signed once is put back later by somebody without a key: nobody stands on it."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from buses import connected_bus
from relays import running_relay
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.errors import NotReady, Unavailable
from configbus.relay import Relay
from configbus.wire import Keys, Mark, xor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from configbus.settings import Settings

    Replay = Callable[[Any, dict[str, str], str], object]

KEYS = Keys("configbus", "production")
KEY = "a:" + base64.b64encode(b"a" * 32).decode()
DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def signed(settings: Settings) -> Settings:
    return replace(settings, signing_keys=KEY)


@pytest.fixture
def trusting(settings: Settings) -> dict[str, Any]:
    return {"redis_url": settings.redis_url, "environment": "production", "signing_keys": KEY}


def digest(mark: str) -> str:
    return mark.partition(":")[2]


def put_back(client: Any, old: dict[str, str], mark: str) -> None:
    """An older content of a block, and a name that makes the index add up again."""
    made_up = xor(digest(mark), [digest(client.hget(KEYS.index, "risk"))])
    with client.pipeline() as together:
        together.delete(KEYS.block("risk"))
        together.hset(KEYS.block("risk"), mapping=old)
        together.hset(KEYS.index, mapping={"risk": mark, "zzz": str(Mark(1, made_up))})
        together.execute()


def leave_out(client: Any, _old: dict[str, str], _mark: str) -> None:
    with client.pipeline() as together:
        together.hset(KEYS.index, "zzz", str(Mark(1, digest(client.hget(KEYS.index, "risk")))))
        together.hdel(KEYS.index, "risk")
        together.execute()


REPLAYS = pytest.mark.parametrize("replay", [put_back, leave_out])


def history(settings: Settings, client: Any) -> tuple[dict[str, str], str]:
    """Revision 2 holds 4 attempts, 3 holds 7; the hash of revision 2, and its place in the index."""
    Relay(settings, threading.Event()).bring_up()
    with Author(settings) as author:
        author.set({"risk.max_order_attempts": 4})
        old = client.hgetall(KEYS.block("risk")), client.hget(KEYS.index, "risk")
        author.set({"risk.max_order_attempts": 7})
    return old


@REPLAYS
def test_a_worker_with_keys_does_not_start_on_what_was_put_back(
    replay: Replay, signed: Settings, trusting: dict[str, Any], client: Any
) -> None:
    replay(client, *history(signed, client))
    with pytest.raises(NotReady):
        ConfigBus.connect(**trusting, require="known", start_timeout=0.5)
    with running_relay(signed), ConfigBus.connect(**trusting, require="live") as bus:
        assert bus.get("risk.max_order_attempts") == 7


@REPLAYS
@DRIVERS
def test_a_worker_with_keys_that_loads_just_then_keeps_what_it_has(
    driver: str, replay: Replay, signed: Settings, trusting: dict[str, Any], client: Any
) -> None:
    old = history(signed, client)
    seen: list[int] = []
    with connected_bus(driver, **trusting, require="known") as driven:
        driven.on_change("risk", lambda change: seen.append(change.new.max_order_attempts))
        replay(client, *old)
        with pytest.raises(Unavailable, match="the index does not fit its signature"):
            driven.refresh()
        with running_relay(signed), Author(signed) as author:
            driven.until(lambda reads: reads.state == "live")
            driven.wait_for(author.set({"trading.score_threshold": "0.9"}))
        assert driven.reads.get("risk.max_order_attempts") == 7
    assert set(seen) <= {7}


@REPLAYS
@DRIVERS
def test_without_keys_it_is_followed_until_the_relay_has_repaired_it(
    driver: str, replay: Replay, settings: Settings, trusting: dict[str, Any], client: Any
) -> None:
    replay(client, *history(settings, client))
    with connected_bus(driver, **trusting | {"signing_keys": None}, require="known") as driven:
        assert driven.reads.get("risk.max_order_attempts") != 7
        with running_relay(settings), Author(settings) as author:
            driven.until(lambda reads: reads.get("risk.max_order_attempts") == 7 and reads.state == "live")
            driven.wait_for(author.set({"trading.score_threshold": "0.9"}))
            assert driven.reads.get("risk.max_order_attempts") == 7


@pytest.mark.parametrize("touch", ["f" * 64, None], ids=["changed", "deleted"])
def test_the_hash_of_history_in_redis_is_signed_too(touch: str | None, signed: Settings, client: Any) -> None:
    history(signed, client)
    right = client.hget(KEYS.head, "chain")
    if touch is None:
        client.hdel(KEYS.head, "chain")
    else:
        client.hset(KEYS.head, "chain", touch)
    with running_relay(signed):
        until(lambda: client.hget(KEYS.head, "chain") == right)


def test_with_keys_releases_are_published_one_by_one_all_the_same(
    signed: Settings, trusting: dict[str, Any], client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    history(signed, client)
    caplog.clear()
    caplog.set_level("INFO", "configbus")
    with running_relay(signed), ConfigBus.connect(**trusting, require="live") as bus, Author(signed) as author:
        for number in (3, 4, 5):
            bus.wait_for(author.set({"risk.max_order_attempts": number}))
    told = [record.message for record in caplog.records]
    assert not [line for line in told if "state_laid_down" in line or "redis_repaired" in line]
