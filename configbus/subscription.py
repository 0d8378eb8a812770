"""A callback of a `ConfigBus`, called in a thread of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.stdlib import BoundLogger

    from configbus.change import Change, Pending, Target

    Callback = Callable[[Change[Any]], object]


class Subscription:
    """What `on_change` returns: calls one callback, in order, in a thread of its own, until cancelled."""

    def __init__(
        self,
        pending: Pending,
        callback: Callback,
        name: str,
        forget: Callable[[Subscription], None],
        logger: BoundLogger,
    ) -> None:
        self._forget = forget
        self._callback = callback
        self._name = name
        self._cancelled = False
        self.restart(pending, logger)

    def restart(self, pending: Pending, logger: BoundLogger) -> None:
        """Begin anew, with a thread and the name of this process."""
        self._pending = pending
        self._logger = logger
        self._ready = threading.Condition()
        threading.Thread(target=self._run, name=f"configbus-{self._name}", daemon=True).start()

    @property
    def target(self) -> Target:
        """What it is told of."""
        return self._pending.target

    def offer(self, change: Change[Any]) -> None:
        """Take in a change to tell of, latest wins."""
        with self._ready:
            if self._pending.offer(change):
                self._ready.notify()

    def cancel(self) -> None:
        """Call no more; a call that runs now runs to its end."""
        self._forget(self)
        with self._ready:
            self._cancelled = True
            self._ready.notify()

    def _next(self) -> Change[Any] | None:
        with self._ready:
            while not self._cancelled:
                if (change := self._pending.take()) is not None:
                    return change
                self._ready.wait()
        return None

    def _run(self) -> None:
        while (change := self._next()) is not None:
            try:
                self._callback(change)
            except Exception:
                self._logger.exception("callback_failed", block=change.block_name, revision=change.revision)
