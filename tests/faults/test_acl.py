"""Rights in Redis that are taken away while everything runs, and given back."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from waiting import until

from configbus.cli.rights import RedisRole, rules_of
from faults.cluster import KEYS, last_for, note_times

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cluster import Cluster

LIMIT = 2.0
USER = "configbus-worker"


def no_channel(client: Any) -> None:
    client.execute_command("ACL", "SETUSER", USER, "resetchannels")


def no_keys(client: Any) -> None:
    client.execute_command("ACL", "SETUSER", USER, "resetkeys")


def no_user(client: Any) -> None:
    client.execute_command("ACL", "DELUSER", USER)


def no_password(client: Any) -> None:
    client.execute_command("ACL", "SETUSER", USER, "resetpass", ">another")
    client.execute_command("CLIENT", "KILL", "USER", USER)


REVOKED: dict[Callable[[Any], None], str] = {
    no_channel: "No permissions to access a channel",
    no_keys: "No permissions to access a key",
    no_user: "invalid username-password pair",
    no_password: "invalid username-password pair",
}


@pytest.mark.long
@pytest.mark.parametrize("revoke", REVOKED)
def test_a11_a_right_that_is_missing_is_named_and_workers_are_back_with_it(
    revoke: Callable[[Any], None], bare_cluster: Cluster
) -> None:
    cluster, password = bare_cluster, secrets.token_hex(8)

    def allow(client: Any) -> None:
        client.execute_command("ACL", "SETUSER", USER, "on", f">{password}", *rules_of(RedisRole.WORKER, KEYS))

    where = urlsplit(cluster.valkey.url)
    url = where._replace(netloc=f"{USER}:{password}@{where.hostname}:{where.port}").geturl()
    with cluster.redis() as client:
        allow(client)
        cluster.start_relay()
        cluster.start_workers(redis_url=url)
        cluster.settle()
        with cluster.load(300) as load:
            load.reached(20)
            revoke(client)
            last_for(3.0)
            allow(client)
            cluster.healed()
        times = cluster.finish(limit=LIMIT)
    for worker in cluster.workers:
        until(lambda worker=worker: REVOKED[revoke] in worker.log)  # type: ignore[misc]  # mypy infers no default of a lambda
        assert f"user {USER})" in worker.log
    note_times("A11", f"ACL: {revoke.__name__} for 3 s", LIMIT, times)
