"""The last-good snapshot file of one selection: whole or not there, its owner's alone, never older than before.

It is written by a thread of its own, off the way by which changes arrive, under a lock that several processes of one
machine share; again now and then while nothing changes, since it also tells up to when it was complete.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from configbus.lastgood import from_text, read_heading, to_text
from configbus.wire import FARTHEST, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from structlog.stdlib import BoundLogger

    from configbus.lastgood import LastGood
    from configbus.wire import Keys

LARGEST_BYTES = 256 << 20
LONGEST_LINE = 300
PAUSE_SECONDS = 0.2
"""Between two writings: what comes meanwhile is written as one."""
AGAIN_SECONDS = 30.0
"""While nothing changes."""
END_SECONDS = 2.0
LOCK_SECONDS, LOCK_PAUSE_SECONDS = 1.5, 0.01
FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, Malformed)
"""What reading brings where the file is not what was written, checksum or not."""


class LastGoodFile:
    """Reads and writes the file for one environment and one selection of blocks."""

    def __init__(self, directory: str, keys: Keys, patterns: Iterable[str], logger: BoundLogger) -> None:
        token = hashlib.sha256("\n".join(sorted(patterns)).encode()).hexdigest()[:8]
        self.path = Path(directory) / f"{keys.namespace}.{keys.environment}.{token}.snapshot"
        self._where = keys.prefix
        self._logger = logger.bind(file=str(self.path))
        self._told = ""

    def read(self) -> LastGood | None:
        """What is kept there, with `vouched` as seconds since 1970; None, and a warning, where it is not to be used."""
        try:
            return self._load()
        except FileNotFoundError:
            return None
        except FAULTS as fault:
            self._logger.warning("snapshot_refused", reason=_told(fault))
            return None

    def write(self, kept: LastGood) -> bool:
        """Replace the file by rename, unless what is there is newer; False where it cannot be written, which is logged
        once.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened(os.O_RDWR | os.O_CREAT, self.path.with_suffix(".lock")) as lock:
                _lock(lock)
                try:
                    if (merged := self._merged(kept)) is not None:
                        self._replace(to_text(merged, self._where).encode())
                finally:
                    fcntl.flock(lock, fcntl.LOCK_UN)  # a child made by fork holds the file open, too
        except OSError as fault:
            if self._told != _told(fault):
                self._logger.warning("snapshot_not_written", revision=kept.head.revision, reason=_told(fault))
            self._told = _told(fault)
            return False
        self._told = ""
        return True

    def _load(self) -> LastGood:
        with self._opened(os.O_RDONLY, self.path) as file:
            _check_owned(file)
            with open(file, "rb", closefd=False) as whole:
                kept = from_text(whole.read(LARGEST_BYTES).decode(), self._where)
        known = kept.vouched is not None and kept.vouched <= time.time()
        return kept if known else replace(kept, vouched=None)

    def _merged(self, kept: LastGood) -> LastGood | None:
        """What is to be written over what another process wrote there; None where that is newer. The first line tells
        whether the rest must be read.
        """
        try:
            with self._opened(os.O_RDONLY, self.path) as file, open(file, "rb", closefd=False) as whole:
                heading = read_heading(whole.readline(LONGEST_LINE).decode())
            if heading is None:
                return kept
            position, held = heading
            newer = kept.head.position < position and position.epoch <= kept.head.epoch + FARTHEST
            unknown = kept.vouched is None and position == kept.head.position
            if not (newer or held or unknown):
                return kept
            there = self._load()
            if there.head.bus != kept.head.bus or (kept.signed and not there.signed):
                return kept
        except FAULTS:
            return kept
        return None if newer else kept.beside(there)

    def _replace(self, content: bytes) -> None:
        fresh = self.path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        with self._opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL, fresh) as file:
            with open(file, "wb", closefd=False) as whole:
                whole.write(content)
            os.fsync(file)
        fresh.rename(self.path)
        with self._opened(os.O_RDONLY | os.O_DIRECTORY, self.path.parent) as directory:
            os.fsync(directory)

    @contextlib.contextmanager
    def _opened(self, flags: int, path: Path) -> Iterator[int]:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            yield file
        finally:
            os.close(file)


class LastGoodWriter:
    """A thread that keeps a file current: the latest state wins, and nobody waits for it but `close`."""

    def __init__(self, file: LastGoodFile) -> None:
        self._file = file
        self._changed = threading.Condition()
        self._waiting: LastGood | None = None
        self._vouched: float | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="configbus-snapshot", daemon=True)
        self._thread.start()

    def keep(self, state: LastGood) -> None:
        """Have this written soon."""
        with self._changed:
            self._waiting = state
            self._changed.notify()

    def vouch(self, seconds_ago: float) -> None:
        """Note up to when the state was complete."""
        with self._changed:
            self._vouched = time.time() - seconds_ago
            self._changed.notify()

    def end(self) -> None:
        """Write what waits, and no more; returns at once."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        """The same, and wait for it."""
        self.end()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        state: LastGood | None = None
        tried = written = None
        while True:
            with self._changed:
                never = state is not None and tried is None
                self._changed.wait_for(
                    lambda: self._waiting is not None or self._closing or (never and self._vouched is not None),  # noqa: B023  # used before it changes
                    AGAIN_SECONDS,
                )
                due = self._waiting is not None or self._vouched != written
                state, self._waiting = self._waiting or state, None
                vouched, closing = self._vouched, self._closing
            if state is not None and due:
                tried = vouched
                if self._file.write(replace(state, vouched=vouched)):
                    written = vouched
            if closing:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closing, PAUSE_SECONDS)


def _lock(file: int) -> None:
    """Whoever holds it for longer than any writing takes hangs, or is a child of one that was killed while it wrote."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise OSError(errno.EAGAIN, f"another process holds its lock for more than {LOCK_SECONDS} s") from None
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return


def _check_owned(file: int) -> None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise Malformed("is no regular file")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise Malformed("belongs to another user, or others may write to it")


def _told(fault: Exception) -> str:
    if isinstance(fault, OSError):
        return fault.strerror or str(fault)
    return str(fault) if isinstance(fault, Malformed) else f"cannot be read: {type(fault).__name__}: {fault}"
