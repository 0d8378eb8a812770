"""What somebody writes into Redis by hand: what does not fit is never believed, and all of it is put right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from buses import connected_bus
from entries import entry_of
from waiting import until

from configbus import wire
from configbus.author import Author
from faults.cluster import KEYS, last_for, note_times, redis_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cluster import Cluster

REPAIR_SECONDS = 1.5
RISK = KEYS.block("risk")
FORGED = 3333

Damage = dict[str, "Callable[[Any], object]"]


def another_type(client: Any, key: str, make: Callable[[Any, str], object]) -> None:
    client.delete(key)
    make(client, key)


def set_text(client: Any, key: str) -> None:
    client.set(key, "junk")


def push_text(client: Any, key: str) -> None:
    client.lpush(key, "junk")


def set_head(client: Any, **fields: str) -> None:
    client.hset(KEYS.head, mapping=fields)


FIELDS: Damage = {
    "a changed value": lambda client: client.hset(RISK, "drawdown_lookback_days", "7"),
    "a missing value": lambda client: client.hdel(RISK, "drawdown_lookback_days"),
    "a changed envelope": lambda client: client.hset(RISK, "@revision", "999"),
    "an entry of the index changed": lambda client: client.hset(KEYS.index, "risk", f"1:{'0' * 32}"),
    "an entry of the index missing": lambda client: client.hdel(KEYS.index, "risk"),
}
HEADS: Damage = {
    "junk": lambda client: set_head(client, revision="junk"),
    "an absurd revision": lambda client: set_head(client, revision=str(2**60)),
    "a negative epoch": lambda client: set_head(client, epoch="-1"),
    "another state": lambda client: set_head(client, state="f" * 32),
    "no check": lambda client: client.hdel(KEYS.head, "check"),
}
TYPES: Damage = {
    "head is a text": lambda client: another_type(client, KEYS.head, set_text),
    "index is a list": lambda client: another_type(client, KEYS.index, push_text),
    "a block is a text": lambda client: another_type(client, RISK, set_text),
    "a block is a list": lambda client: another_type(client, RISK, push_text),
}
MESSAGES = (
    b"",
    b"junk",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'{"revision": 5}',
    b'{"bus": 1, "v": "1", "system": null, "epoch": "x", "revision": -1, "state": "", "check": ""}',
)


@pytest.mark.long
@pytest.mark.parametrize("group", ["fields", "heads", "types"])
def test_a4_what_does_not_fit_is_never_believed_and_soon_put_right(cluster: Cluster, group: str) -> None:
    damages = {"fields": FIELDS, "heads": HEADS, "types": TYPES}[group]
    with cluster.load(40):
        pass
    cluster.settle()
    with cluster.redis() as client:
        for what, damage in damages.items():
            told = len(cluster.relays[0].log)
            damage(client)
            cluster.healed()
            cluster.healed_within(
                lambda: client.exists(KEYS.head) and redis_fault(cluster.valkey.url) is None, REPAIR_SECONDS, what
            )
            assert client.hget(KEYS.head, "revision") == str(cluster.head()), what
            until(lambda told=told: len(cluster.relays[0].log) > told, 1.0)  # type: ignore[misc]  # mypy infers no default of a lambda
            if "head" not in what and group != "heads":
                named = "index" if "index is" in what else "risk"
                assert named in cluster.relays[0].log[told:], what
    with cluster.load(40):
        pass
    times = cluster.finish(limit=REPAIR_SECONDS)
    note_times("A4", f"{group}: {', '.join(damages)}", REPAIR_SECONDS, times, cluster.repaired)


def test_a4_broken_messages_change_nothing(cluster: Cluster) -> None:
    with cluster.load(60) as load, cluster.redis() as client:
        for number in range(1, 11):
            load.reached(5 * number)
            for message in MESSAGES:
                client.publish(KEYS.channel, message)
        head = client.hgetall(KEYS.head)
        client.publish(KEYS.channel, json.dumps(head | {"revision": "999999", "check": "0" * 32}))
        cluster.healed()
    note_times("A4", "broken messages on the channel", REPAIR_SECONDS, cluster.finish(limit=REPAIR_SECONDS))


@pytest.mark.long
@pytest.mark.parametrize("driver", ["thread", "asyncio"])
def test_a4_a_well_made_forgery_is_put_right(driver: str, bare_cluster: Cluster) -> None:
    """Its digests and its check are right, so a worker without a signing key believes it until the relay looks."""
    cluster = bare_cluster
    cluster.start_relay()
    settings = {name: cluster.settings[name] for name in ("redis_url", "environment")}
    with connected_bus(driver, **settings, require="live") as bus, cluster.redis() as client:
        raw = client.hgetall(RISK) | {"drawdown_lookback_days": str(FORGED)}
        forged = entry_of("risk", raw)
        head = wire.read_head(client.hgetall(KEYS.head))
        index = wire.read_index(client.hgetall(KEYS.index))
        state = wire.xor(head.state, [index["risk"].digest, forged.mark.digest])
        lie = wire.Head(head.bus, head.system, head.epoch, head.revision, state)
        with client.pipeline(transaction=True) as everything:
            everything.hset(RISK, mapping=raw)
            everything.hset(KEYS.index, "risk", str(forged.mark))
            everything.hset(KEYS.head, mapping=lie.fields())
            everything.publish(KEYS.channel, wire.bookmark(lie, ""))
            everything.execute()
        cluster.healed()
        cluster.healed_within(
            lambda: (
                client.hget(RISK, "drawdown_lookback_days") == "30"
                and redis_fault(cluster.valkey.url) is None
                and bus.reads.get("risk.drawdown_lookback_days") == 30
            ),
            REPAIR_SECONDS,
        )
        last_for(0.5)
        assert bus.reads.get("risk.drawdown_lookback_days") == 30
        with Author.connect(**cluster.settings, actor="tester") as author:
            bus.wait_for(author.set({"risk.drawdown_lookback_days": 77}))
        assert bus.reads.get("risk.drawdown_lookback_days") == 77
