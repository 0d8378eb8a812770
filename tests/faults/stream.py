"""Publishes so many made-up releases of two blocks as fast as told: `python -m faults.stream COUNT PER_SECOND`.

They follow on what Redis holds (CONFIGBUS_REDIS_URL); Postgres knows nothing of them, so no relay may run.
"""

from __future__ import annotations

import os
import sys
import threading

from entries import AT, History

from configbus import wire
from configbus.link import Link, reading_commands, reading_of
from configbus.publisher import Publisher
from configbus.reads import now
from configbus.store.connect import Place
from configbus.store.releases import Published

KEYS = wire.Keys("configbus", "production")
HIGHEST = 3000


def history_in_redis(link: Link) -> History:
    """What Redis holds, to be gone on with."""
    names = tuple(reading_of(link.call(*reading_commands(KEYS, ())), ()).index)
    reading = reading_of(link.call(*reading_commands(KEYS, names)), names)
    history = History()
    history.head = wire.read_head(reading.head)
    history.entries = {name: wire.read_entry(name, reading.blocks[name]) for name in names}
    return history


def main() -> None:
    count, per_second = map(int, sys.argv[1:])
    link, clock = Link(os.environ["CONFIGBUS_REDIS_URL"]), threading.Event()
    history = history_in_redis(link)
    publisher = Publisher(link, KEYS, Place("configbus", "production"))
    began = now()
    for number in range(count):
        if (early := began + number / per_second - now()) > 0:
            clock.wait(early)
        both = number % HIGHEST + 1
        step = history.release(
            {"trading": {"max_slippage_entry_bps": both}, "risk": {"drawdown_lookback_days": both}},
        )
        assert publisher.publish(Published(step.head, step.prev, AT, step.entries))
    sys.stdout.write(f"published in {now() - began:.1f} s\n")
    link.close()


if __name__ == "__main__":
    main()
