"""An author who dies at any step of a change: the same call again leaves exactly one version and one line of audit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psycopg
import redis
from relays import running_relay
from sqlalchemy import Engine, event
from waiting import until

from configbus.author import Author
from configbus.link import Link

if TYPE_CHECKING:
    from configbus.settings import Settings

STEPS = 40
DIED, LIVED = 9, 0


def change(settings: Settings, number: int, *, dies_at: int) -> int:
    """The exit status of a process that makes a change and dies before this statement, commit or command."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = iter(range(dies_at - 1, -1, -1))

    def step(*_anything: object, **_named: object) -> None:
        if next(left, 1) == 0:
            os._exit(DIED)

    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)
    send = Link.send

    def send_or_die(link: Link, *commands: Any) -> None:
        step()
        send(link, *commands)

    Link.send = send_or_die  # type: ignore[method-assign,assignment]  # a fail-point
    try:
        with Author(settings) as author:
            author.set({"risk.max_order_attempts": number}, idempotency_key=f"call {number}")
    finally:
        os._exit(LIVED)


def test_killed_at_any_step_and_called_again_it_is_one_change(published: Settings) -> None:
    outcomes = []
    with psycopg.connect(published.require("database_url"), autocommit=True) as operator:
        for number in range(1, STEPS + 1):
            outcomes.append(change(published, 10 + number, dies_at=number))
            with Author(published) as author:
                author.set({"risk.max_order_attempts": 10 + number}, idempotency_key=f"call {10 + number}")
            found = operator.execute(
                "SELECT (SELECT count(*) FROM configbus.risk_config WHERE max_order_attempts = %(n)s),"
                " (SELECT count(*) FROM configbus.config_audit_log WHERE config_table = 'risk_config'"
                "  AND action = 'activate' AND new_values ->> 'max_order_attempts' = %(n)s::text),"
                " (SELECT revision FROM configbus.environment)",
                {"n": 10 + number},
            ).fetchone()
            assert found == (1, 1, 1 + number)
    assert outcomes[0] == DIED
    assert outcomes[-1] == LIVED
    assert outcomes.count(DIED) >= 10
    with running_relay(published), redis.Redis.from_url(published.require("redis_url")) as client:
        until(lambda: client.hget("configbus:{production}:head", "revision") == str(1 + STEPS).encode())
        assert client.hget("configbus:{production}:block:risk", "max_order_attempts") == str(10 + STEPS).encode()
