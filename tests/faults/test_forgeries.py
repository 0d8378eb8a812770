"""What somebody writes into Redis who knows how, but has no key: no worker ever adopts any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.cluster import note_times
from faults.forgery import FORGERIES, OURS, SAME_NAME, STRANGE, fooled, is_right, ring_of

if TYPE_CHECKING:
    from faults.cluster import Cluster

REPAIR_SECONDS = 1.5
APART = 25
FORGERS = {"nobody": "", "a strange key": STRANGE, "another key of our key's name": SAME_NAME}
REASONS = {
    "nobody": "is not signed",
    "a strange key": "signed with a key that is not in CONFIGBUS_SIGNING_KEYS",
    "another key of our key's name": "does not fit its signature with key a",
}


@pytest.mark.long
@pytest.mark.parametrize("signer", FORGERS)
def test_a4_with_signing_no_well_made_forgery_is_ever_adopted(
    signer: str, bare_cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, ours = bare_cluster, ring_of(OURS)
    strange = ring_of(FORGERS[signer]) if FORGERS[signer] else None
    cluster.signing_keys = OURS
    cluster.start_relay()
    cluster.start_workers()
    cluster.settle()
    with cluster.load(APART * (len(FORGERIES) + 1)) as load, cluster.redis() as client:
        for number, forge in enumerate(FORGERIES, 1):
            load.reached(APART * number)
            forge(client, strange)
            cluster.healed()
            cluster.healed_within(lambda: is_right(client, cluster.valkey.url, ours), REPAIR_SECONDS, forge.__name__)
    times = cluster.finish(limit=REPAIR_SECONDS)
    assert fooled(cluster.lives()) == []
    for worker in cluster.workers:
        assert "ERROR message_ignored" in worker.log
        assert REASONS[signer] in worker.log
    assert any(told in cluster.relays[0].log + caplog.text for told in ("state_laid_down", "redis_repaired"))
    note_times("A4", f"forged and signed by {signer}, {len(FORGERIES)} ways", REPAIR_SECONDS, times, cluster.repaired)
