"""Readers in many threads never see half a release, however fast releases come."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from buses import connected_bus

from configbus.relay import Relay
from configbus.settings import load_settings

if TYPE_CHECKING:
    from buses import Driven

    from faults.cluster import Cluster

READERS = 8
READS = 1_000_000
UPDATES_PER_SECOND = 1000
BOTH = ("trading.max_slippage_entry_bps", "risk.drawdown_lookback_days")


class Reader:
    """Reads two fields of one snapshot again and again, and counts what must not be."""

    def __init__(self, bus: Driven) -> None:
        self.torn = 0
        self.backwards = 0
        self.revisions = 0
        self._bus = bus
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        reads, first, last = self._bus.reads, self._bus.reads.revision, 0
        for _ in range(READS):
            snapshot = reads.snapshot
            one, other = snapshot.read(BOTH[0]), snapshot.read(BOTH[1])
            revision = snapshot.revision
            self.torn += one != other and revision != first
            self.backwards += revision < last
            self.revisions += revision != last
            last = revision


@pytest.mark.parametrize("driver", ["thread", "asyncio"])
@pytest.mark.long
def test_c3_no_read_is_torn(driver: str, bare_cluster: Cluster) -> None:
    Relay(load_settings({}, **bare_cluster.settings, actor="tester"), threading.Event()).bring_up()
    settings: dict[str, Any] = {name: bare_cluster.settings[name] for name in ("redis_url", "environment")}
    with connected_bus(driver, **settings, require="known") as bus:
        stream = bare_cluster.start_stream(20_000, UPDATES_PER_SECOND)
        bus.wait_for(2)
        readers = [Reader(bus) for _ in range(READERS)]
        for reader in readers:
            reader.join()
        assert stream.popen.poll() is None, "releases came all the time"
        stream.kill()
        adopted = bus.reads.revision
    assert sum(reader.torn for reader in readers) == 0
    assert sum(reader.backwards for reader in readers) == 0
    assert adopted > 1000
    assert sum(reader.revisions for reader in readers) > 3 * READERS
