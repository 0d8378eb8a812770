"""With CONFIGBUS_SIGNING_KEYS nothing is adopted that nobody with a key wrote."""

from __future__ import annotations

import base64
import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from buses import connected_bus
from edits import restless
from entries import entry_of
from relays import running_relay
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.errors import Conflict, NotReady
from configbus.reads import now
from configbus.relay import Relay
from configbus.wire import Head, Keys, announcement, bookmark, entry_fields, read_entry, read_head, xor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from configbus.settings import Settings

KEYS = Keys("configbus", "production")
DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])
FIRST, SECOND, STRANGE = (f"{name}:{base64.b64encode(name.encode() * 32).decode()}" for name in ("a", "b", "x"))


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def signing(settings: Settings) -> Settings:
    return replace(settings, signing_keys=FIRST)


@pytest.fixture
def trusting(worker: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for a worker that has the key."""
    return worker | {"signing_keys": FIRST}


@DRIVERS
def test_what_is_signed_is_followed(
    driver: str, signing: Settings, trusting: dict[str, Any], client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with running_relay(signing), connected_bus(driver, **trusting, require="live") as driven, Author(signing) as author:
        driven.wait_for(author.set({"risk.max_order_attempts": 4}))
        with psycopg.connect(signing.require("database_url")) as operator:
            operator.execute("UPDATE configbus.risk_config SET max_order_attempts = 5 WHERE status = 'active'")
        driven.until(lambda reads: reads.get("risk.max_order_attempts") == 5)
        client.hset(KEYS.block("risk"), "max_order_attempts", "9")
        until(lambda: client.hget(KEYS.block("risk"), "max_order_attempts") == "5")
        driven.until(lambda reads: reads.age < 1.0)
        assert driven.reads.get("risk.max_order_attempts") == 5
    assert client.hget(KEYS.head, "signature").startswith("a:")
    assert client.hget(KEYS.block("risk"), "@signature").startswith('"a:')
    told = [record.message for record in caplog.records if "no head" not in record.message]
    assert not [message for message in told if "ignored" in message or "load_failed" in message]


def forged(client: Any, position: int = 0) -> tuple[Head, Any, Head]:
    """The head, a block that nobody released and the head that would fit it, that many revisions further."""
    head = read_head(client.hgetall(KEYS.head))
    entry = read_entry("risk", client.hgetall(KEYS.block("risk")))
    fields = entry_fields(entry) | {"max_order_attempts": "9", "@revision": str(entry.mark.revision + position)}
    made = entry_of("risk", fields)
    state = xor(head.state, [entry.mark.digest, made.mark.digest])
    return head, made, Head(head.bus, head.system, head.epoch, head.revision + position, state)


def forge_hashes(client: Any) -> None:
    _, entry, head = forged(client)
    with client.pipeline() as together:
        together.hset(KEYS.block("risk"), mapping=entry_fields(entry))
        together.hset(KEYS.index, "risk", str(entry.mark))
        together.hset(KEYS.head, mapping=head.fields())
        together.execute()


def forge_all_but_signatures(client: Any) -> None:
    """As somebody would who has seen signatures, and has no key."""
    _, entry, head = forged(client, 1)
    with client.pipeline() as together:
        together.hset(KEYS.block("risk"), mapping=entry_fields(entry))
        together.hset(KEYS.index, "risk", str(entry.mark))
        together.hset(KEYS.head, mapping=head.fields() | {"signature": "a:" + "0" * 64})
        together.publish(KEYS.channel, bookmark(head, "")[:-1] + ', "signature": "a:' + "0" * 64 + '"}')
        together.execute()


def forge_announcement(client: Any) -> None:
    before, entry, head = forged(client, 1)
    client.publish(KEYS.channel, announcement(head, before.state, "2026-01-01T00:00:00.000000Z", [entry]))


def forge_epoch(client: Any) -> None:
    _, _, head = forged(client)
    client.hset(KEYS.head, mapping=replace(head, epoch=head.epoch + 1).fields())


def forge_newer_protocol(client: Any) -> None:
    client.publish(KEYS.channel, '{"v": 2, "bus": "other"}')


ALARMS = ("redis_repaired", "state_laid_down", "message_ignored")
FORGERIES = (forge_hashes, forge_all_but_signatures, forge_announcement, forge_epoch, forge_newer_protocol)


@pytest.mark.parametrize("forge", FORGERIES)
@DRIVERS
def test_nothing_forged_is_adopted_and_all_of_it_is_put_right(
    driver: str,
    forge: Callable[[Any], None],
    signing: Settings,
    trusting: dict[str, Any],
    client: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[Any] = []
    with running_relay(signing), connected_bus(driver, **trusting, require="live") as driven:
        driven.on_change("risk", lambda change: seen.append(change.new.max_order_attempts))
        epoch, right = driven.reads.epoch, client.hgetall(KEYS.block("risk"))
        forge(client)
        began = now()
        until(lambda: client.hgetall(KEYS.block("risk")) == right and healthy(client, signing), 1.5)
        assert now() - began <= 1.5
        driven.until(lambda reads: reads.age < 1.0 and now() > began + 1.0)
        with Author(signing) as author:
            driven.wait_for(author.set({"risk.max_order_attempts": 4}))
        assert (driven.reads.epoch, driven.reads.get("risk.max_order_attempts")) == (epoch, 4)
        until(lambda: len(seen) == 2)
    assert seen == [3, 4]
    assert any(alarm in record.message for alarm in ALARMS for record in caplog.records)


def healthy(client: Any, signing: Settings) -> bool:
    fields = client.hgetall(KEYS.head)
    ring = signing.keyring
    assert ring is not None
    return ring.is_signed(read_head(fields), fields)


def test_a_worker_with_keys_stands_on_nothing_unsigned_until_a_relay_signs_it(
    published: Settings, signing: Settings, trusting: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running_relay(published), pytest.raises(NotReady):
        ConfigBus.connect(**trusting, require="known", start_timeout=1.0)
    told = [record for record in caplog.records if "the head is not signed" in record.message]
    assert {record.levelname for record in told} == {"ERROR"}
    with running_relay(signing), ConfigBus.connect(**trusting, require="live") as bus:
        assert (bus.epoch, bus.revision) == (bus.snapshot.epoch, 1)


def test_who_has_no_keys_follows_and_does_not_write_over_signatures(
    settings: Settings, signing: Settings, worker: dict[str, Any], client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with running_relay(signing), ConfigBus.connect(**worker, require="live") as bus, Author(settings) as author:
        before = client.hget(KEYS.head, "signature")
        bus.wait_for(author.set({"risk.max_order_attempts": 4}))
        assert client.hget(KEYS.head, "signature") != before
        assert healthy(client, signing)
        assert any("publish_left_to_relay" in r.message and "is signed" in r.message for r in caplog.records)
    with Author(settings) as author:
        author.set({"risk.max_order_attempts": 5})
    with pytest.raises(Conflict, match="CONFIGBUS_SIGNING_KEYS is not set here"):
        Relay(settings, threading.Event()).bring_up()


def test_a_relay_with_another_key_has_nothing_adopted(
    signing: Settings, trusting: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stranger = replace(signing, signing_keys=STRANGE)
    with running_relay(signing), ConfigBus.connect(**trusting, require="live") as bus, Author(signing) as author:
        with running_relay(stranger):
            until(lambda: any("with a key that is not in CONFIGBUS_SIGNING_KEYS" in r.message for r in caplog.records))
            bus.wait_for(author.set({"risk.max_order_attempts": 4}))
        until(lambda: bus.state == "live" and bus.age < 1.0)
        assert bus.get("risk.max_order_attempts") == 4


def test_a_key_is_exchanged_while_everything_runs(signing: Settings, worker: dict[str, Any], client: Any) -> None:
    both, newer = f"{FIRST},{SECOND}", f"{SECOND},{FIRST}"
    states: list[str] = []
    with (
        restless(signing, 0.025),
        ExitStack() as earlier,
        ConfigBus.connect(**worker, signing_keys=both, start_timeout=1.0) as bus,
        Author(replace(signing, signing_keys=both)) as author,
    ):
        earlier.enter_context(running_relay(replace(signing, signing_keys=both)))
        until(lambda: bus.state == "live")
        bus.on_state(lambda _old, new: states.append(str(new)))
        with running_relay(replace(signing, signing_keys=newer)):
            earlier.close()
            until(lambda: signatures(client) == {"b"}, 5.0)
            with ConfigBus.connect(**worker, signing_keys=SECOND, require="live") as late:
                bus.wait_for(author.set({"trading.max_slippage_exit_bps": 180}))
                until(lambda: late.get("trading.max_slippage_exit_bps") == 180)
                until(lambda: bus.age < 1.0 and late.age < 1.0)
    assert states == []


def signatures(client: Any) -> set[str]:
    """With which keys what is in Redis is signed."""
    blocks = client.keys(KEYS.block("*"))
    found = [client.hget(KEYS.head, "signature"), *(client.hget(block, "@signature").strip('"') for block in blocks)]
    return {signature.partition(":")[0] for signature in found}


def test_a_forged_stamp_vouches_for_nothing(signing: Settings, trusting: dict[str, Any], client: Any) -> None:
    with ConfigBus.connect(**trusting) as bus:
        with running_relay(signing):
            until(lambda: bus.state == "live")
        until(lambda: keep_stamping(client) and bus.state == "stale", 6.0)


def keep_stamping(client: Any) -> bool:
    seconds, micros = client.time()
    client.hset(KEYS.head, "asof", str(seconds * 1_000_000 + micros))
    return True
