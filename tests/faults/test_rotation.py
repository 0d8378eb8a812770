"""Keys and passwords are exchanged while everything runs: one process after another is restarted, none is stale."""

from __future__ import annotations

import secrets
import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from waiting import until

from configbus.cli.rights import RedisRole, rules_of
from configbus.wire import read_head
from faults.checker import check_ended, longest_not_live
from faults.cluster import KEYS, note_times
from faults.forgery import key_of
from faults.history import read_commits
from faults.load import Load, by_author

if TYPE_CHECKING:
    from faults.cluster import Cluster
    from faults.history import Life

NOT_LIVE_SECONDS = 3.0
LIMIT = 2.0
OLD, NEW = key_of("a", "a"), key_of("b", "b")
ROLES = (RedisRole.WORKER, RedisRole.RELAY, RedisRole.AUTHOR)

pytestmark = pytest.mark.long


class Rotation:
    """Processes that are ended, and others that take their places: each once the one before is live."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.ended: list[Life] = []
        self._turns = 0

    def relay(self, **more: str) -> None:
        self.cluster.relays[-1].end(signal.SIGTERM)
        self.cluster.start_relay(**more)

    def workers(self, redis_url: str = "") -> None:
        self._turns += 1
        for worker in list(self.cluster.workers):
            driver = "thread" if "thread" in worker.name else "asyncio"
            self.ended += self.cluster.end_worker(worker)
            self.cluster.start_workers(prefix=f"{self._turns}-", drivers=(driver,), redis_url=redis_url)
            until(self.is_live)

    def is_live(self) -> bool:
        """Whether every worker that runs has said so."""
        return all(any(sample.state == "live" for sample in life.samples) for life in self.cluster.lives())

    def finish(self, fault: str) -> None:
        """Judge every life, those that were ended too."""
        times = self.cluster.finish(limit=LIMIT)
        check_ended(read_commits(self.cluster.database_url), self.ended)
        longest = max(longest_not_live(life) for life in [*self.ended, *self.cluster.lives()])
        assert longest <= NOT_LIVE_SECONDS
        note_times("D4", f"{fault} exchanged: never not live for more than {longest:.2f} s", LIMIT, times)


def signers(client: Any) -> set[str]:
    """With which keys what is in Redis is signed."""
    blocks = client.keys(KEYS.block("*"))
    found = [client.hget(KEYS.head, "signature"), *(client.hget(block, "@signature").strip('"') for block in blocks)]
    return {signature.partition(":")[0] for signature in found}


def test_d4_a_signing_key_is_exchanged_and_nobody_is_stale(bare_cluster: Cluster) -> None:
    cluster, rotation = bare_cluster, Rotation(bare_cluster)
    cluster.signing_keys = OLD
    cluster.start_relay()
    cluster.start_workers()
    cluster.settle()
    with cluster.redis() as client:
        with cluster.load(240):
            cluster.signing_keys = f"{OLD},{NEW}"
            rotation.relay()
            rotation.workers()
            cluster.signing_keys = f"{NEW},{OLD}"
            rotation.relay()
        with cluster.load(220) as load:
            load.reached(5)
            until(lambda: signers(client) == {"b"})
            cluster.signing_keys = NEW
            rotation.relay()
            rotation.workers()
        cluster.healed()
        with cluster.load(20):
            pass
        assert "signatures_renewed" in "".join(relay.log for relay in cluster.relays)
        assert signers(client) == {"b"}
        assert read_head(client.hgetall(KEYS.head)).revision == cluster.head()
    rotation.finish("signing key")


def url_of(cluster: Cluster, role: RedisRole, password: str) -> str:
    where = urlsplit(cluster.valkey.url)
    return where._replace(netloc=f"configbus-{role}:{password}@{where.hostname}:{where.port}").geturl()


def author_load(cluster: Cluster, password: str, count: int) -> Load:
    return Load(by_author(cluster.settings | {"redis_url": url_of(cluster, RedisRole.AUTHOR, password)}), count)


def test_d4_the_redis_password_is_exchanged_and_nobody_is_stale(bare_cluster: Cluster) -> None:
    cluster, rotation = bare_cluster, Rotation(bare_cluster)
    old, new = secrets.token_hex(8), secrets.token_hex(8)
    with cluster.redis() as client:

        def set_users(*rules: str) -> None:
            for role in ROLES:
                client.execute_command("ACL", "SETUSER", f"configbus-{role}", *rules)

        for role in ROLES:
            client.execute_command("ACL", "SETUSER", f"configbus-{role}", "on", f">{old}", *rules_of(role, KEYS))
        cluster.start_relay(CONFIGBUS_REDIS_URL=url_of(cluster, RedisRole.RELAY, old))
        cluster.start_workers(redis_url=url_of(cluster, RedisRole.WORKER, old))
        cluster.settle()
        with author_load(cluster, old, 200):
            set_users(f">{new}")
            rotation.relay(CONFIGBUS_REDIS_URL=url_of(cluster, RedisRole.RELAY, new))
            rotation.workers(redis_url=url_of(cluster, RedisRole.WORKER, new))
        with author_load(cluster, new, 100) as load:
            load.reached(40)
            set_users(f"<{old}")
            for role in ROLES:
                client.execute_command("CLIENT", "KILL", "USER", f"configbus-{role}")
            cluster.healed()
            with pytest.raises(redis.AuthenticationError), redis.Redis.from_url(url_of(cluster, ROLES[0], old)) as late:
                late.ping()
    rotation.finish("Redis password")
