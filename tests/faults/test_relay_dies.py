"""A relay that dies before or after anything that it sends: whatever it left, the next one loses nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import Connection as PsycopgConnection
from redis.connection import AbstractConnection
from relays import running_relay
from sqlalchemy import Engine, event

from configbus.relay import Relay
from configbus.settings import load_settings
from faults.cluster import KEYS, note_times, redis_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.settings import Settings
    from faults.cluster import Cluster

STEPS = 140
"""More than a relay takes from its start through its first look, stamp and comparison, repair included."""
BEYOND = 8
"""Steps that are tried after the one at which all is right: what is written down of it comes last."""
DIED, LIVED = 9, 0
BACK_SECONDS = 2.0

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class NeverEnds:
    """The stop of a relay that only its death ends."""

    def is_set(self) -> bool:
        return False

    def wait(self, _seconds: float) -> bool:
        raise AssertionError("the relay met a fault before it died")


def relay_that_dies(settings: Settings, *, at: int) -> int:
    """The exit status of a relay in a process of its own, which dies at this statement, commit, command or reply."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = iter(range(at - 1, -1, -1))

    def step(*_anything: object, **_named: object) -> None:
        if next(left, 1) == 0:
            os._exit(DIED)

    def at_each(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def stepping(*given: Any, **named: Any) -> Any:
            step()
            return real(*given, **named)

        setattr(owner, name, stepping)

    try:
        event.listen(Engine, "before_cursor_execute", step)
        event.listen(Engine, "commit", step)
        at_each(PsycopgConnection, "execute")
        at_each(PsycopgConnection, "notifies")
        at_each(AbstractConnection, "send_packed_command")
        at_each(AbstractConnection, "read_response")
        Relay(settings, NeverEnds()).run()  # type: ignore[arg-type]  # all of an Event that a relay uses
    finally:
        os._exit(LIVED)


def edit(cluster: Cluster, number: int, *, bypass: bool = False) -> None:
    with psycopg.connect(cluster.database_url) as connection:
        if bypass:
            connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE configbus.risk_config SET drawdown_lookback_days = %s WHERE status = 'active'", [number]
        )


def flush(cluster: Cluster, _number: int) -> None:
    with cluster.redis() as client:
        client.flushall()


def damage(cluster: Cluster, number: int) -> None:
    with cluster.redis() as client:
        client.hset(KEYS.block("risk"), "drawdown_lookback_days", str(number))


WORK: dict[str, Callable[[Cluster, int], None]] = {
    "a release": edit,
    "past the triggers": lambda cluster, number: edit(cluster, number, bypass=True),
    "everything gone": flush,
    "a changed field": damage,
}


def is_right(cluster: Cluster, number: int, work: str) -> bool:
    if redis_fault(cluster.valkey.url) is not None:
        return False
    with cluster.redis() as client:
        head, value = client.hget(KEYS.head, "revision"), client.hget(KEYS.block("risk"), "drawdown_lookback_days")
    wanted = str(number) if work in ("a release", "past the triggers") else "30"
    return (head, value) == (str(cluster.head()), wanted)


@pytest.mark.long
@pytest.mark.parametrize("work", WORK)
def test_b3_a_relay_that_dies_at_any_step_leaves_nothing_undone(bare_cluster: Cluster, work: str) -> None:
    cluster = bare_cluster
    settings = load_settings({}, **cluster.settings)
    with running_relay(settings):
        cluster.start_workers(each=2)
        cluster.settle()
    whole = 0
    for number in range(1, STEPS + 1):
        cluster.hurt()
        WORK[work](cluster, 100 + number)
        assert relay_that_dies(settings, at=number) == DIED
        whole += is_right(cluster, 100 + number, work)
        with running_relay(settings):
            cluster.healed()
            cluster.healed_within(lambda: is_right(cluster, 100 + number, work), BACK_SECONDS, f"step {number}")  # noqa: B023  # called at once
        if whole > BEYOND:
            break
    assert whole > BEYOND
    with running_relay(settings):
        cluster.settle()
        times = cluster.finish(limit=BACK_SECONDS)
    note_times("B3", f"relay killed at each of {number} steps, {work}", BACK_SECONDS, times, cluster.repaired)
