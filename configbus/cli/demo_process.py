"""What the demo runs beside itself: a relay, or a worker that prints what it holds after each change."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from configbus.cli.demo import SHOWN
from configbus.cli.options import settings_of
from configbus.cli.running import until_stopped

if TYPE_CHECKING:
    from configbus.change import Change
    from configbus.reads import Reads


def main(parent: int, role: str, kind: str = "", name: str = "") -> None:
    """Run until stopped, or until the demo that started it is gone."""
    settings = settings_of(worker=name or None)
    with until_stopped() as stop:
        threading.Thread(target=_end_with, args=(parent, stop), daemon=True).start()
        if role == "relay":
            from configbus.relay import Relay

            Relay(settings, stop).run()
        elif kind == "asyncio":
            asyncio.run(_work_in_loop(stop))
        else:
            _work(stop)


def _work(stop: threading.Event) -> None:
    from configbus import ConfigBus

    with ConfigBus.connect(require="known", start_timeout=30.0) as bus:
        for block in ("trading", "risk"):
            bus.on_change(block, lambda _change: _tell(bus, time.time()))
        stop.wait()


async def _work_in_loop(stop: threading.Event) -> None:
    from configbus import AsyncConfigBus

    async with AsyncConfigBus.connect(require="known", start_timeout=30.0) as bus:

        async def tell(_change: Change[Any]) -> None:
            _tell(bus, time.time())

        for block in ("trading", "risk"):
            bus.on_change(block, tell)
        await asyncio.to_thread(stop.wait)


def _tell(bus: Reads, at: float) -> None:
    now = bus.snapshot
    told = {"at": at, "epoch": now.epoch, "revision": now.revision, **{path: str(now.get(path)) for path in SHOWN}}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _end_with(parent: int, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        if os.getppid() != parent:
            stop.set()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
