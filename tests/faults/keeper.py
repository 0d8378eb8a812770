"""A worker whose last-good file has trouble: `python -m faults.keeper DRIVER`, its directory in CONFIGBUS_SNAPSHOT_DIR.

It obeys lines on stdin and answers each: `hold REVISION` with its state and revision once it is there, `kept REVISION`
with the revision in its file likewise, `hurt` and `heal` a fault. What a fault breaks is this process's alone.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from buses import connected_bus
from waiting import until

from configbus.reads import plan

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = Path(os.environ.get("CONFIGBUS_SNAPSHOT_DIR", "."))
PATIENCE = 5.0
SMALL = 512


def reached(revision_of: Callable[[], int], wanted: int) -> None:
    try:
        until(lambda: revision_of() == wanted, PATIENCE)
    except AssertionError:
        return


def kept_revision() -> int:
    file = plan(None, None, 1.0, {}).file
    found = file.read() if file is not None else None
    return found.head.revision if found is not None else 0


def remount(how: str) -> None:
    subprocess.run(["/usr/bin/env", "mount", "-o", f"remount,{how}", str(KEPT)], check=True)


def break_file(fault: str) -> None:
    if fault == "disk full":
        with (KEPT / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                return
    if fault == "read-only":
        remount("ro")
    if fault == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, resource.RLIM_INFINITY))


def mend_file(fault: str) -> None:
    if fault == "disk full":
        (KEPT / "filler").unlink()
    if fault == "read-only":
        remount("rw")
    if fault == "limited":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as any Python program has it, said for the reader
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    with connected_bus(sys.argv[1], require="live") as bus:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            told = rest
            if word == "hold":
                reached(lambda: bus.reads.revision, int(rest))
                told = f"{bus.reads.state} {bus.reads.revision}"
            elif word == "kept":
                reached(kept_revision, int(rest))
                told = str(kept_revision())
            elif word == "hurt":
                break_file(rest)
            else:
                mend_file(rest)
            os.write(1, told.encode() + b"\n")


if __name__ == "__main__":
    main()
