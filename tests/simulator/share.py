"""What one process of a long campaign does: a share of the seeds, up to the first broken promise."""

from __future__ import annotations

import traceback

from simulator.checker import check
from simulator.world import simulate


def first_broken(share: range) -> tuple[int, tuple[int, str] | None]:
    """How many seeds were run, and the first that failed with what it says."""
    for seed in share:
        try:
            check(simulate(seed))
        except AssertionError as broken:
            return seed - share.start + 1, (seed, str(broken))
        except Exception:  # noqa: BLE001  # the simulator itself broke: the seed must be known
            return seed - share.start + 1, (seed, f"seed {seed}: it broke\n{traceback.format_exc()}")
    return len(share), None
