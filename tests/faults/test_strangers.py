"""A second relay that has no business here: with another key, of another installation, of another environment."""

from __future__ import annotations

import secrets
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from conftest import prepare_template
from waiting import until

from configbus import ConfigBus
from configbus.catalogue import load_catalogue
from configbus.errors import NotReady
from configbus.reads import now
from configbus.store.connect import connected
from configbus.store.schema import migrate
from configbus.wire import Keys
from faults.cluster import KEYS, last_for, note_times
from faults.databases import copy, run, url_of
from faults.forgery import FORGED, OURS, RISK, STRANGE, fooled, is_right, ring_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.cluster import Cluster, Process

LIMIT = 1.5
IN_FLIGHT_SECONDS = 0.2
STAGING = Keys("configbus", "staging")
STRANGE_KEY = "signed with a key that is not in CONFIGBUS_SIGNING_KEYS"

pytestmark = pytest.mark.long
SIGNED = pytest.mark.parametrize("keys", [OURS, ""], ids=["signed", "unsigned"])


def start(cluster: Cluster, keys: str) -> None:
    cluster.signing_keys = keys
    cluster.start_relay()
    cluster.start_workers()
    cluster.settle()


def change(database_url: str, environment: str = "production") -> None:
    """Release the value that none of ours has, in somebody else's database or environment."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE configbus.risk_config SET drawdown_lookback_days = %s WHERE status = 'active' AND environment = %s",
            [FORGED, environment],
        )


def another_installation(cluster: Cluster) -> str:
    """The URL of a database that was made anew, not copied."""
    name = f"another_{secrets.token_hex(6)}"
    run(cluster, "CREATE DATABASE {name}", name=name)
    url = url_of(cluster, name)
    prepare_template(url)
    change(url)
    return url


@contextmanager
def stranger(cluster: Cluster, **more: str) -> Iterator[Process]:
    """A relay beside ours, for a while."""
    cluster.hurt()
    relay = cluster.start_relay(**more)
    yield relay
    relay.end(signal.SIGTERM)
    cluster.healed()


def complained(cluster: Cluster, event: str, reason: str = "") -> None:
    """Every process of workers has said so."""
    until(lambda: all(any(event in line and reason in line for line in w.log.splitlines()) for w in cluster.workers))


def test_a15_nothing_of_a_relay_with_another_key_is_adopted_when_it_is_alone(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    start(cluster, OURS)
    with cluster.load(240, raw=True) as load, cluster.redis() as client:
        load.reached(20)
        cluster.relays[0].end(signal.SIGTERM)
        cluster.hurt()
        relay = cluster.start_relay(CONFIGBUS_SIGNING_KEYS=STRANGE)
        until(lambda: client.hget(KEYS.head, "signature").startswith("x:"))
        last_for(3.5)
        relay.end(signal.SIGTERM)
        back = now()
        cluster.start_relay()
        cluster.healed()
        cluster.healed_within(lambda: is_right(client, cluster.valkey.url, ring_of(OURS)), LIMIT)
    times = cluster.finish(limit=LIMIT)
    for life in cluster.lives():
        hurt = cluster.hurts[0] + IN_FLIGHT_SECONDS
        assert not [adoption for adoption in life.adoptions if hurt < adoption.at < back], life.worker
        assert "stale" in {sample.state for sample in life.samples if hurt < sample.at < back}
    complained(cluster, "ERROR message_ignored", STRANGE_KEY)
    note_times("A15", "a relay with another key in the place of ours", LIMIT, times, cluster.repaired)


def test_a15_nothing_of_a_relay_with_another_key_and_content_is_adopted_beside_ours(
    bare_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = bare_cluster
    other = url_of(cluster, copy(cluster))
    change(other)
    start(cluster, OURS)
    with cluster.load(200) as load, cluster.redis() as client:
        load.reached(40)
        with stranger(cluster, CONFIGBUS_DATABASE_URL=other, CONFIGBUS_SIGNING_KEYS=STRANGE):
            until(lambda: client.hget(KEYS.head, "signature").startswith("x:"))
            last_for(2.0)
        cluster.healed_within(lambda: is_right(client, cluster.valkey.url, ring_of(OURS)), LIMIT)
    times = cluster.finish(limit=LIMIT)
    assert fooled(cluster.lives()) == []
    complained(cluster, "ERROR message_ignored", STRANGE_KEY)
    told = [*cluster.relays[0].log.splitlines(), *(record.message for record in caplog.records)]
    assert any("state_laid_down" in line and STRANGE_KEY in line for line in told), "by the relay, or by the author"
    note_times("A15", "a relay with another key and content beside ours", LIMIT, times, cluster.repaired)


@SIGNED
def test_a15_nothing_of_another_installation_is_adopted(keys: str, bare_cluster: Cluster) -> None:
    """Its relay on our keys waits; one on another database of the same Redis shares our channel."""
    cluster = bare_cluster
    other = another_installation(cluster)
    start(cluster, keys)
    with cluster.load(200) as load:
        load.reached(40)
        with stranger(cluster, CONFIGBUS_DATABASE_URL=other) as relay:
            relay.wait_for("relay_waits")
            elsewhere = cluster.valkey.url.removesuffix("/0") + "/1"
            with stranger(cluster, CONFIGBUS_DATABASE_URL=other, CONFIGBUS_REDIS_URL=elsewhere):
                last_for(1.5)
        assert "another installation" in relay.log
    times = cluster.finish(limit=LIMIT)
    assert fooled(cluster.lives()) == []
    complained(cluster, "other_database_ignored")
    note_times("A15", f"another installation's relays, {'signed' if keys else 'unsigned'}", LIMIT, times)


@SIGNED
def test_a15_nothing_of_a_copy_in_another_database_of_the_same_redis_is_adopted(
    keys: str, bare_cluster: Cluster
) -> None:
    """It has our keys, bus, epoch and state, and shares our channel."""
    cluster = bare_cluster
    start(cluster, keys)
    with cluster.load(80):
        pass
    cluster.settle()
    cluster.relays[0].end(signal.SIGTERM)
    other = url_of(cluster, copy(cluster))
    cluster.start_relay()
    elsewhere = cluster.valkey.url.removesuffix("/0") + "/1"
    with stranger(cluster, CONFIGBUS_DATABASE_URL=other, CONFIGBUS_REDIS_URL=elsewhere):
        change(other)
        complained(cluster, "other_database_ignored")
    with cluster.load(40):
        pass
    times = cluster.finish(limit=LIMIT)
    assert fooled(cluster.lives()) == []
    note_times("A15", f"a copy in another database of Redis, {'signed' if keys else 'unsigned'}", LIMIT, times)


def copy_keys(client: Any) -> None:
    """Another environment's keys over ours, as a script would that names the wrong one."""
    names = [key.removeprefix(STAGING.prefix) for key in client.keys(f"{STAGING.prefix}*")]
    with client.pipeline(transaction=True) as everything:
        for name in names:
            if name.startswith(("head", "index", "block:")):
                everything.copy(STAGING.prefix + name, KEYS.prefix + name, replace=True)
        everything.execute()


@SIGNED
def test_a15_nothing_of_another_environment_is_adopted(keys: str, bare_cluster: Cluster) -> None:
    """The relay takes it for somebody's live data and waits, until the head is deleted."""
    cluster = bare_cluster
    with connected(cluster.database_url) as connection, connection.begin():
        migrate(connection, load_catalogue(["configbus.domains"]), "configbus", "staging")
    start(cluster, keys)
    cluster.start_relay(CONFIGBUS_ENVIRONMENT="staging")
    change(cluster.database_url, "staging")
    ring = ring_of(keys) if keys else None
    with cluster.load(200) as load, cluster.redis() as client:
        until(lambda: client.hget(STAGING.block("risk"), "drawdown_lookback_days") == str(FORGED))
        load.reached(40)
        cluster.hurt()
        copy_keys(client)
        cluster.relays[0].wait_for("another installation")
        assert client.hget(RISK, "drawdown_lookback_days") == str(FORGED)
        complained(cluster, "head_ignored" if keys else "other_bus_ignored")
        if keys:
            with pytest.raises(NotReady):
                ConfigBus.connect(**ordinary(cluster), require="known", start_timeout=1.0)
        client.delete(KEYS.head)
        cluster.healed()
        cluster.healed_within(lambda: is_right(client, cluster.valkey.url, ring), LIMIT)
    times = cluster.finish(limit=LIMIT)
    assert fooled(cluster.lives()) == []
    kind = "signed" if keys else "unsigned"
    note_times("A15", f"another environment's keys copied over ours, {kind}", LIMIT, times, cluster.repaired)


def ordinary(cluster: Cluster) -> dict[str, Any]:
    return {name: value for name, value in cluster.settings.items() if name != "database_url"}
