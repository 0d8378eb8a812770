"""`configbus.bus()`: the one bus of a process, connected on first use."""

from __future__ import annotations

import asyncio
import os
import threading

from configbus.client import ConfigBus
from configbus.errors import ConfigBusError

_lock = threading.Lock()
_held: list[ConfigBus] = []


def bus() -> ConfigBus:
    """The process-wide bus, with settings from CONFIGBUS_*; it ends with the process.

    Every thread gets the same one; where it was closed a new one is connected. Raises what
    `ConfigBus.connect()` raises, and ConfigBusError inside a running event loop, whose programs
    connect an AsyncConfigBus instead.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise ConfigBusError(
            "configbus.bus() would block the event loop that runs here: use `await AsyncConfigBus.connect()`"
        )
    with _lock:
        if not _held or _held[0].closed:
            _held[:] = [ConfigBus.connect()]
        return _held[0]


def _begin_in_child() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held it, and is not in the child
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_begin_in_child)
