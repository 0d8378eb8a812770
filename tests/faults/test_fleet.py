"""A fleet of fifty: who has a release, who has not, and why."""

from __future__ import annotations

import signal
from statistics import median
from typing import TYPE_CHECKING

import pytest
from waiting import until

from configbus.author import Author
from configbus.reads import now
from configbus.receipt import Outcome

if TYPE_CHECKING:
    from faults.cluster import Cluster

RECEIPT_SECONDS = 2.2
STRAGGLER_SECONDS = 1.5


@pytest.mark.long
def test_a_receipt_of_fifty_workers_names_the_one_that_hangs_and_the_one_that_refuses(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    cluster.start_workers(each=24)
    cluster.start_workers(each=0, apart=1, prefix="hangs-", drivers=("thread",))
    hangs = cluster.workers[-1]
    cluster.start_workers(
        each=0, apart=1, prefix="refuses-", drivers=("asyncio",), CONFIGBUS_DOMAINS="faults.strict_domains"
    )
    with Author.connect(**cluster.settings, actor="tester") as author:
        first = author.set({"trading.max_slippage_exit_bps": 180})
        until(lambda: len(author.receipt(first, 0).of(Outcome.APPLIED)) == 50)

        hangs.send(signal.SIGSTOP)
        began = now()
        release = author.set({"trading.max_slippage_exit_bps": 300})
        receipt = author.receipt(release, 2.0)
        taken = now() - began
        assert len(receipt.workers) == 50
        applied = receipt.of(Outcome.APPLIED)
        assert len(applied) == 48
        (missing,) = receipt.of(Outcome.MISSING)
        assert (missing.worker, missing.revision) == ("hangs-thread-apart0", first.revision)
        (held,) = receipt.of(Outcome.HELD)
        assert (held.worker, held.block, held.field) == ("refuses-asyncio-apart0", "trading", "max_slippage_exit_bps")
        assert "less than or equal to 200" in held.reason
        assert taken <= RECEIPT_SECONDS
        assert median(one.latency or 0.0 for one in applied) < 1.0

        hangs.send(signal.SIGCONT)
        back = now()
        until(lambda: not author.receipt(release, 0).of(Outcome.MISSING), STRAGGLER_SECONDS)
        assert now() - back <= STRAGGLER_SECONDS
