"""Relays that die and come back, and several that are paused in the middle of whatever they do."""

from __future__ import annotations

import random
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from configbus.wire import read_message
from faults.cluster import KEYS, last_for, note_times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.cluster import Cluster

KILLS = 4
PAUSE_SECONDS = 2.0
PAUSES = 4


@contextmanager
def announcements(client: Any) -> Iterator[list[int]]:
    """The revisions of all releases that the channel announced, once it is over; bookmarks are none."""
    revisions: list[int] = []
    with client.pubsub() as channel:
        channel.subscribe(KEYS.channel)
        assert channel.get_message(timeout=2.0)["type"] == "subscribe"
        yield revisions
        while (message := channel.get_message(timeout=0.1)) is not None:
            found = read_message(message["data"].encode())
            if found.prev is not None:
                revisions.append(found.head.revision)


@pytest.mark.long
def test_b3_a_relay_killed_at_any_moment_loses_nothing(cluster: Cluster) -> None:
    dice = random.Random(3)  # noqa: S311  # when to kill, not a secret
    with cluster.load(320, raw=True) as load:
        load.reached(20)
        for _ in range(KILLS):
            last_for(dice.uniform(0.5, 1.2))
            cluster.hurt()
            cluster.relays[-1].kill()
            cluster.start_relay()
            cluster.healed()
    note_times("B3", f"relay killed, {KILLS} times", 2.0, cluster.finish(limit=2.0))


@pytest.mark.long
def test_b4_three_relays_with_pauses_keep_the_order(cluster: Cluster) -> None:
    dice = random.Random(4)  # noqa: S311  # whom to pause, not a secret
    for _ in range(2):
        cluster.start_relay()
    with cluster.redis() as client, announcements(client) as published, cluster.load(400, raw=True) as load:
        for number in range(1, PAUSES + 1):
            load.reached(number * 80)
            cluster.hurt()
            paused = dice.sample(cluster.relays, dice.choice([1, 2]))
            for relay in paused:
                relay.send(signal.SIGSTOP)
                last_for(dice.uniform(0.0, 0.3))
            last_for(PAUSE_SECONDS)
            for relay in paused:
                relay.send(signal.SIGCONT)
            cluster.healed()
    assert published == sorted(set(published)), "each release was announced once, in order"
    assert len(published) > 200
    note_times("B4", "three relays, pauses of 2 s", 2.0, cluster.finish(limit=2.0))
