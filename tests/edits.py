"""Somebody with psql who edits again and again while a test goes on."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.settings import Settings


@contextmanager
def restless(settings: Settings, pause: float) -> Iterator[None]:
    """Plain edits, with so many seconds between two of them, which only relays publish."""
    ended = threading.Event()

    def edit() -> None:
        with psycopg.connect(settings.require("database_url"), autocommit=True) as operator:
            for number in count():
                if ended.wait(pause):
                    return
                operator.execute(
                    "UPDATE configbus.risk_config SET max_order_attempts = %s WHERE status = 'active'", [number % 6 + 3]
                )

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
