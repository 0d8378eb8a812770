"""A callback of an `AsyncConfigBus`, or an iteration over its changes, in the loop that the bus lives in."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.stdlib import BoundLogger

    from configbus.change import Change, Pending

    Callback = Callable[[Change[Any]], object]


class Subscription:
    """What `on_change` returns; also what `changes` waits on. Calls in order, never two at once."""

    def __init__(self, pending: Pending, siblings: list[Subscription]) -> None:
        self._siblings = siblings
        self._siblings.append(self)
        self._pending = pending
        self._ready = asyncio.Event()
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None

    def offer(self, change: Change[Any]) -> None:
        """Take in a change to tell of, latest wins."""
        if self._pending.offer(change):
            self._ready.set()

    def cancel(self) -> None:
        """Call no more; a call that runs now runs to its end."""
        self.cancelled = True
        if self in self._siblings:
            self._siblings.remove(self)
        self._ready.set()

    async def next(self) -> Change[Any] | None:
        """The next change, when there is one; None once cancelled."""
        while not self.cancelled:
            if (change := self._pending.take()) is not None:
                return change
            self._ready.clear()
            await self._ready.wait()
        return None

    async def call(self, callback: Callback, logger: BoundLogger) -> None:
        """Tell the callback of every change until cancelled."""
        while (change := await self.next()) is not None:
            try:
                outcome = callback(change)
                if inspect.isawaitable(outcome):
                    await outcome
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                logger.exception("callback_failed", block=change.block_name, revision=change.revision)
            except Exception:
                logger.exception("callback_failed", block=change.block_name, revision=change.revision)


def is_cancelled() -> bool:
    """Whether the current task itself is being cancelled, and not something that its callback waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
