"""How long anything waits in Postgres: limits that end with the transaction, and what is told when one is met."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from configbus.errors import Conflict, Unavailable
from configbus.reader import Reader
from configbus.store.connect import LONG, Limits, connected, translated
from configbus.store.versions import begin_authoring

if TYPE_CHECKING:
    from configbus.settings import Settings

SHOWN = text("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")


def test_limits_are_the_transactions_and_nobody_elses(settings: Settings) -> None:
    with connected(settings.require("database_url"), LONG) as connection:
        with connection.begin():
            begin_authoring(connection, "ana", "a reason", publishes=True)
            assert connection.execute(SHOWN).one() == ("3s", "10min")
        raw = connection.connection.cursor()
        raw.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
                    " current_setting('configbus.actor')")  # fmt: skip
        assert raw.fetchone() == ("0", "0", "")


def test_a_reader_waits_for_no_lock_for_long_and_says_how_to_find_its_holder(settings: Settings) -> None:
    with psycopg.connect(settings.require("database_url")) as holder, Reader(settings) as reader:
        holder.execute("LOCK TABLE configbus.risk_config IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(Conflict, match="nothing of it was done") as raised:
            reader.active("risk")
        assert time.monotonic() - began < 5
        query = str(raised.value).partition("longest first: ")[2]
        with psycopg.connect(settings.require("database_url")) as operator:
            found = operator.execute(query.encode()).fetchall()
        assert [(row[1], str(row[2]).rpartition(".")[2]) for row in found] == [(holder.info.backend_pid, "risk_config")]


@pytest.mark.parametrize(
    ("limits", "statement", "error", "told"),
    [
        (Limits(3, 3, 0.1), "SELECT pg_sleep(3)", Unavailable, "it took longer than it may"),
        (Limits(3, 0.1, 3), "SELECT pg_advisory_lock(1)", Conflict, "holds a lock"),
        (Limits.of(0.5), "SELECT pg_advisory_lock(1)", Conflict, "holds a lock"),
    ],
    ids=["a statement", "a lock", "the same for both"],
)
def test_what_took_too_long_is_told(
    limits: Limits, statement: str, error: type[Exception], told: str, settings: Settings
) -> None:
    url = settings.require("database_url")
    with ExitStack() as stack:
        stack.enter_context(psycopg.connect(url)).execute("SELECT pg_advisory_lock(1)")
        connection = stack.enter_context(connected(url, limits))
        with pytest.raises(error, match=told), translated(), connection.begin():
            connection.execute(text(statement))
