"""The virtual clock: what happens, in the order of its instants."""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappop, heappush

Action = Callable[[], None]
Process = Generator[float, None, None]
"""Steps with the seconds between them."""


class Clock:
    """Seconds since the world began; instants are reached in order, equal ones in the order they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Action]] = []
        self._asked = 0

    def at(self, instant: float, action: Action) -> None:
        self._asked += 1
        heappush(self._agenda, (max(instant, self.now), self._asked, action))

    def after(self, delay: float, action: Action) -> None:
        self.at(self.now + delay, action)

    def spawn(self, process: Process) -> None:
        """Let a process begin now and run to its end."""

        def resume() -> None:
            delay = next(process, None)
            if delay is not None:
                self.at(self.now + delay, resume)

        self.at(self.now, resume)

    def run(self, until: float) -> None:
        agenda = self._agenda
        while agenda and agenda[0][0] <= until:
            self.now, _, action = heappop(agenda)
            action()
        self.now = until
