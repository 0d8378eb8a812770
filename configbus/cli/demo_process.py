"""What the demo runs beside itself: a relay, or a worker that prints what it holds after each change."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from configbus.cli.demo_workers import SHOWN
from configbus.cli.options import settings_of

if TYPE_CHECKING:
    from configbus.change import Change
    from configbus.reads import Reads
    from configbus.snapshot import State

TOLD_OF = ("trading", "risk", "strategy/*")


def main(parent: int, role: str, driver: str = "", name: str = "") -> None:
    """Run until SIGTERM ends it at once, whatever it is about to do, or until the demo that started it is gone."""
    settings = settings_of(worker=name or None)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if role == "relay":
        from configbus.relay import Relay

        Relay(settings, threading.Event()).run()
    elif driver == "asyncio":
        asyncio.run(_work_in_loop())
    else:
        _work()


def _work() -> None:
    from configbus import ConfigBus

    with ConfigBus.connect(require="known", start_timeout=30.0) as bus:
        screen = _Screen(bus)
        for block in TOLD_OF:
            bus.on_change(block, screen.changed)
        bus.on_state(screen.moved)
        signal.pause()


async def _work_in_loop() -> None:
    from configbus import AsyncConfigBus

    async with AsyncConfigBus.connect(require="known", start_timeout=30.0) as bus:
        screen = _Screen(bus)
        for block in TOLD_OF:
            bus.on_change(block, screen.changed)
        bus.on_state(screen.moved)
        await asyncio.Event().wait()


class _Screen:
    """Prints a line of JSON after each change of values or of state."""

    def __init__(self, bus: Reads) -> None:
        self._bus = bus
        self._changed_at = 0.0

    def changed(self, _change: Change[Any]) -> None:
        self._changed_at = time.time()
        self._tell()

    def moved(self, _old: State, _new: State) -> None:
        self._tell()

    def _tell(self) -> None:
        now = self._bus.snapshot
        told = {
            "at": self._changed_at,
            "epoch": now.epoch,
            "revision": now.revision,
            "state": self._bus.state,
            "strategies": {key: now.get(f"strategy/{key}.lots") for key in now.keys("strategy")},
            **{path: str(now.get(path)) for path in SHOWN},
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
