"""`configbus audit --verify`: what it takes for a witness of history, and what not."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from shell import QuickShell, Shell

from configbus.wire import Keys, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = Keys("configbus", "production")
NO_WITNESS = "Redis has no hash to compare with, so that an end that was cut would not show: "
SIGNING = {"CONFIGBUS_SIGNING_KEYS": f"a:{base64.b64encode(b'a' * 32).decode()}"}


@pytest.fixture(params=[{}, SIGNING], ids=["without keys", "with keys"])
def shell(request: pytest.FixtureRequest, database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    variables = {"CONFIGBUS_DATABASE_URL": database_url, "CONFIGBUS_REDIS_URL": redis_url} | request.param
    shell = QuickShell(tmp_path, **variables)
    for number in (4, 5):
        assert shell("set", f"risk.max_order_attempts={number}").returncode == 0
    return shell


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def cut_the_end(shell: Shell) -> None:
    with psycopg.connect(shell.environ["CONFIGBUS_DATABASE_URL"]) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("""
            DELETE FROM configbus.config_audit_log
            WHERE id IN (SELECT id FROM configbus.audit_line WHERE revision = 3 OR revision IS NULL)""")
        owner.execute("DELETE FROM configbus.audit_line WHERE revision = 3 OR revision IS NULL")
        owner.execute("DELETE FROM configbus.release_block WHERE revision = 3")
        owner.execute("DELETE FROM configbus.release WHERE revision = 3")
        owner.execute("UPDATE configbus.environment SET revision = 2")


def test_an_end_that_was_cut_is_told_by_the_head_in_redis(shell: Shell) -> None:
    whole = shell("audit", "--verify")
    assert (whole.returncode, whole.stderr) == (0, "")
    cut_the_end(shell)
    told = shell("audit", "--verify", "--json")
    (broken,) = json.loads(told.stdout)["broken"]
    assert (told.returncode, told.stderr) == (8, "")
    assert (broken["number"], broken["why"]) == (3, "it is gone, or not what the head in Redis says")


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["for people", "for programs"])
def test_the_head_of_another_installation_is_no_witness(shell: Shell, client: Any, as_json: list[str]) -> None:
    head = read_head(client.hgetall(KEYS.head))
    client.hset(KEYS.head, mapping=replace(head, bus="theirs", revision=2).fields() | {"chain": "0" * 64})
    told = shell("audit", "--verify", *as_json)
    assert (told.returncode, told.stderr) == (
        0, f"{NO_WITNESS}the head there is of another installation, whose bus is theirs\n"
    )  # fmt: skip


def test_a_head_without_a_hash_is_no_witness(shell: Shell, client: Any) -> None:
    client.hdel(KEYS.head, "chain")
    told = shell("audit", "--verify")
    why = (
        "the index does not fit its signature with key a"
        if SIGNING.items() <= shell.environ.items()
        else "the head there has none"
    )
    assert (told.returncode, told.stderr) == (0, f"{NO_WITNESS}{why}\n")
    client.delete(KEYS.head)
    assert shell("audit", "--verify").stderr == f"{NO_WITNESS}there is no head\n"


@pytest.mark.parametrize("shell", [SIGNING], indirect=True)
def test_with_keys_a_hash_that_none_of_ours_signed_is_no_witness(shell: Shell, client: Any) -> None:
    client.hset(KEYS.head, "chain", "0" * 64)
    told = shell("audit", "--verify")
    assert (told.returncode, told.stderr) == (0, f"{NO_WITNESS}the index does not fit its signature with key a\n")


def test_of_an_environment_that_there_is_not_nothing_is_said_to_be_well(shell: Shell) -> None:
    assert shell("audit", "--verify", "-e", "staging").returncode == 4
