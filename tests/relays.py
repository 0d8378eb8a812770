"""A relay in a thread of the test."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from configbus.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.settings import Settings


@contextmanager
def running_relay(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    relay = Relay(settings, stop)
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
