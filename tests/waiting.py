"""Waiting for what another process or thread brings about, with an end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def until(holds: Callable[[], Any], seconds: float = 20.0) -> None:
    """Return as soon as something is so; AssertionError if it is not in time."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("not so in time")
