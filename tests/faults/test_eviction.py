"""A Redis that throws keys away, ours among them: they come back again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from configbus.doctor import examine
from configbus.settings import load_settings
from faults.cluster import KEYS, note_times, redis_fault

if TYPE_CHECKING:
    from faults.cluster import Cluster

MEMORY = "3mb"
JUNK = 20_000
CHUNK = 500
ROUNDS = 5
OURS = (KEYS.head, KEYS.index, *(KEYS.block(name) for name in ("trading", "risk", "discovery")))
BACK_SECONDS = 1.5


def fill(client: Any, number: int) -> set[str]:
    """Write junk until there is too much of it; which of our keys were seen to be gone meanwhile."""
    gone: set[str] = set()
    for first in range(0, JUNK, CHUNK):
        with client.pipeline(transaction=False) as pipeline:
            for key in range(first, first + CHUNK):
                pipeline.set(f"junk:{number}:{key}", "x" * 100)
            for ours in OURS:
                pipeline.exists(ours)
            answers = pipeline.execute(raise_on_error=False)[-len(OURS) :]
        gone |= {ours for ours, answer in zip(OURS, answers, strict=True) if answer == 0}
    return gone


def is_out_of_memory(client: Any) -> bool:
    try:
        client.set("junk", "x")
    except redis.OutOfMemoryError:
        return True
    return False


@pytest.mark.long
def test_a5_what_is_evicted_comes_back_each_time(cluster: Cluster) -> None:
    evicted: list[str] = []
    with cluster.load(400) as load, cluster.redis() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        for number in range(1, ROUNDS + 1):
            load.reached(number * 400 // (ROUNDS + 2))
            cluster.hurt()
            client.config_set("maxmemory", MEMORY)
            evicted += sorted(fill(client, number))
            if is_out_of_memory(client):
                client.config_set("maxmemory", 0)
            cluster.healed()
            cluster.healed_within(
                lambda: client.exists(*OURS) == len(OURS) and redis_fault(cluster.valkey.url) is None,
                BACK_SECONDS,
                f"round {number}",
            )
        assert client.info("stats")["evicted_keys"] > ROUNDS * JUNK // 2
    (found,) = [each for each in examine(load_settings({}, **cluster.settings)) if each.about == "eviction"]
    assert (found.level, "allkeys-lru" in found.found) == ("warning", True)
    assert "noeviction" in found.remedy
    assert len(evicted) >= ROUNDS, "each round took some of our keys"
    assert {KEYS.head, KEYS.index} & set(evicted)
    times = cluster.finish(limit=BACK_SECONDS)
    note_times("A5", f"{MEMORY}, allkeys-lru, {JUNK} keys, {ROUNDS} times", BACK_SECONDS, times, cluster.repaired)
