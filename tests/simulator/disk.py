"""Where the last-good file of a simulated worker lies: written a moment after it was asked for, by one program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from configbus.lastgood import from_text, to_text
from simulator.server import KEYS

if TYPE_CHECKING:
    from random import Random

    from configbus.lastgood import LastGood
    from configbus.snapshot import Snapshot
    from simulator.clock import Clock

WRITING_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class File:
    """What was kept, and what the worker showed then."""

    kept: LastGood
    shown: Snapshot


class Disk:
    """A file, the older ones that somebody may put back, and what waits to be written."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self.file: File | None = None
        self.images: list[File] = []
        self._clock = clock
        self._random = random
        self._waiting: File | None = None
        self._vouched: float | None = None
        self._writer: object = None

    def read(self) -> LastGood | None:
        """The file as a new program finds it."""
        if self.file is None:
            return None
        kept = self.file.kept
        return replace(from_text(to_text(kept, KEYS.prefix), KEYS.prefix), vouched=kept.vouched)

    def keep(self, state: LastGood, shown: Snapshot) -> None:
        self._waiting = File(state, shown)
        if self._writer is None:
            self._writer = writer = object()
            self._clock.after(WRITING_SECONDS * self._random.random(), lambda: self._write(writer))

    def vouch(self, since: float) -> None:
        self._vouched = since
        if self._waiting is None and self.file is not None:
            self.file = _vouched(self.file, since)

    def end(self, *, closed: bool) -> None:
        if closed:
            self._write(self._writer)
        self._waiting = self._vouched = self._writer = None

    def lose(self) -> None:
        self.file = None

    def put_back(self) -> bool:
        """An older file takes the place of the present one."""
        if self.images:
            self.file = self._random.choice(self.images)
        return bool(self.images)

    def _write(self, writer: object) -> None:
        if writer is not self._writer:
            return
        self._writer = None
        if self._waiting is not None:
            if self.file is not None:
                self.images.append(self.file)
            self.file = _vouched(self._waiting, self._vouched)
            self._waiting = None


def _vouched(file: File, since: float | None) -> File:
    return File(replace(file.kept, vouched=since), file.shown)
