"""`configbus prune`, as the owner of a schema runs it, and as somebody else tries to."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from shell import QuickShell, Shell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(database_url: str, redis_url: str, tmp_path: Path) -> Shell:
    shell = QuickShell(tmp_path, CONFIGBUS_DATABASE_URL=database_url, CONFIGBUS_REDIS_URL=redis_url)
    for number in (4, 5):
        assert shell("set", f"risk.max_order_attempts={number}", "--reason", "a test").returncode == 0
    return shell


def test_what_is_old_goes_and_history_begins_later(shell: Shell) -> None:
    tried = shell("prune", "--keep", "0s", "--dry-run")
    assert tried.stdout.splitlines() == [
        "would be pruned: 1 releases, 2 archived rows, 16 lines of the audit log, 0 idempotency keys",
        "known in full from revision 3 on",
    ]
    assert shell("release", "2").returncode == 0
    assert shell("prune", "--keep", "1h", "--json").stdout == (
        '{"revision": 0, "releases": 0, "lines": 0, "rows": 0, "calls": 0, "dry_run": false}\n'
    )
    done = shell("prune", "--keep", "0s", "--by", "olga", "--json")
    assert json.loads(done.stdout) | {"lines": 0} == {
        "revision": 3, "releases": 1, "lines": 0, "rows": 2, "calls": 0, "dry_run": False
    }  # fmt: skip
    refused = shell("rollback", "risk", "--to", "2")
    assert refused.returncode == 4
    assert "revision 2 of production was pruned" in refused.stderr
    assert "what was before is pruned" in shell("history", "risk").stdout
    assert "before revision 3 history was pruned" in shell("audit", "--verify").stdout
    (line, *_) = map(json.loads, shell("audit", "--json").stdout.splitlines())
    assert (line["action"], line["performed_by"], line["reason"]) == ("prune", "olga", "keep 0s")
    assert shell("verify").returncode == 0


@pytest.mark.parametrize("age", ["90", "-1d", "9 months", "", "999999999w"])
def test_an_age_that_is_none_is_refused(age: str, shell: Shell) -> None:
    done = shell("prune", f"--keep={age}")
    assert done.returncode == 3
    assert "is no age such as 90d" in done.stderr


def test_an_unknown_environment_is_named(shell: Shell) -> None:
    done = shell("prune", "--keep", "1d", "-e", "staging")
    assert (done.returncode, "there is no environment 'staging'" in done.stderr) == (4, True)


def test_only_the_owner_may(shell: Shell, database_url: str) -> None:
    name, password = f"author_{secrets.token_hex(4)}", "a-password-of-tests"  # of a server that ends with the test
    with psycopg.connect(database_url, autocommit=True) as owner:
        role = sql.Identifier(name)
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        try:
            owner.execute(shell("grants", "author", "--user", name).stdout.encode())
            where = urlsplit(database_url)
            url = where._replace(netloc=f"{name}:{password}@{where.hostname}:{where.port}").geturl()
            done = shell("prune", "--keep", "0s", CONFIGBUS_DATABASE_URL=url)
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
    assert done.returncode == 1
    assert "permission denied for function prune" in done.stderr
    assert "use the owner of the schema" in done.stderr
