"""Both drivers behind one face, so that what they share is written once and run on both."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from configbus import AsyncConfigBus, ConfigBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from configbus.reads import Reads
    from configbus.wire import Release

PATIENCE = 10.0


class Driven:
    """A bus as a test uses it from its own thread, whichever driver is behind it."""

    def __init__(self, bus: ConfigBus | AsyncConfigBus, loop: asyncio.AbstractEventLoop | None) -> None:
        self.bus = bus
        self._loop = loop

    @property
    def reads(self) -> Reads:
        return self.bus

    def on_change(self, target: Any, callback: Callable[[Any], object]) -> Any:
        return self._there(lambda: self.bus.on_change(target, callback))

    def on_state(self, callback: Callable[[Any, Any], object]) -> None:
        self._there(lambda: self.bus.on_state(callback))

    def cancel(self, subscription: Any) -> None:
        self._there(subscription.cancel)

    def wait_for(self, release: Release | int, timeout: float = PATIENCE) -> None:
        self._finish(self.bus.wait_for(release, timeout))

    def refresh(self, timeout: float = PATIENCE) -> None:
        self._finish(self.bus.refresh(timeout))

    def close(self) -> None:
        self._finish(self._there(self.bus.close))

    def until(self, holds: Callable[[Reads], bool], timeout: float = PATIENCE) -> None:
        """Wait, without polling faster than a person could, until something is so; AssertionError otherwise."""
        pause = threading.Event()
        for _ in range(int(timeout / 0.01)):
            if holds(self.bus):
                return
            pause.wait(0.01)
        snapshot = self.bus.snapshot
        raise AssertionError(f"not so within {timeout} s: {self.bus.state}, {snapshot.position}, held {snapshot.held}")

    def _there(self, action: Callable[[], Any]) -> Any:
        """Do something where the bus lives: in its loop, or right here."""
        if self._loop is None:
            return action()

        async def run() -> Any:
            result = action()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(2 * PATIENCE)

    def _finish(self, outcome: Coroutine[Any, Any, None] | None) -> None:
        if outcome is not None and self._loop is not None:
            asyncio.run_coroutine_threadsafe(outcome, self._loop).result(2 * PATIENCE)


@contextmanager
def running_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own; whatever it complains of fails the test."""
    loop = asyncio.new_event_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
    assert not complaints


@contextmanager
def connected_bus(driver: str, **options: Any) -> Iterator[Driven]:
    """A connected bus of the driver `thread` or `asyncio`, closed at the end."""
    if driver == "thread":
        with ConfigBus.connect(**options) as threaded:
            yield Driven(threaded, None)
        return
    with running_loop() as loop:

        async def connect() -> AsyncConfigBus:
            return await AsyncConfigBus.connect(**options)

        bus = asyncio.run_coroutine_threadsafe(connect(), loop).result(2 * PATIENCE)
        driven = Driven(bus, loop)
        try:
            yield driven
        finally:
            driven.close()
            left = asyncio.run_coroutine_threadsafe(_tasks_left(), loop).result(PATIENCE)
            assert not left, f"tasks left behind: {left}"


async def _tasks_left() -> list[str]:
    return [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
