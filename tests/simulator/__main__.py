"""`make simulate`: as many worlds as one likes, over all processors, up to the first broken promise."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from simulator import seeds
from simulator.share import first_broken

SHARE = 25
PROGRESS_SECONDS = 10.0


def main() -> int:
    """Zero where every promise was kept in every world."""
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    parser.add_argument("seeds", type=int, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    until = given.first + given.seeds
    shares = [range(first, min(first + SHARE, until)) for first in range(given.first, until, SHARE)]
    began = told = time.monotonic()
    done = 0
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for count, broken in pool.imap_unordered(first_broken, shares):
            done += count
            if broken is not None:
                seed, history = broken
                _tell(f"{history}\n\nseed {seed} failed, after {done} of {given.seeds}; it is kept in {seeds.FILE}")
                seeds.keep(seed, history.partition("\n")[0].partition(": ")[2])
                return 1
            if time.monotonic() >= told + PROGRESS_SECONDS:
                told = time.monotonic()
                rate = done / (told - began)
                _tell(
                    f"{done} of {given.seeds} seeds, {rate:.0f} in a second, {(given.seeds - done) / rate:.0f} s left"
                )
    _tell(f"{done} seeds from {given.first} on, every promise kept, in {time.monotonic() - began:.0f} s")
    return 0


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
