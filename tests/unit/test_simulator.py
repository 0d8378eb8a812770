"""The protocol among faults: two thousand worlds by seed, and worlds in which a defence was taken away."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest
from simulator import seeds
from simulator.checker import check
from simulator.faults import FAULTS
from simulator.mutants import MUTANTS, Mutant
from simulator.showing import start_fault
from simulator.world import simulate

if TYPE_CHECKING:
    from simulator.history import History

SEEDS = 2000
SHARE = 125
MUTANT_SEEDS = 2000
KINDS = 14


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_every_promise_is_kept_in_every_world(first: int) -> None:
    for seed in range(first, first + SHARE):
        check(simulate(seed))


@pytest.mark.parametrize("seed", seeds.kept())
def test_every_promise_is_kept_in_worlds_that_once_found_something(seed: int) -> None:
    check(simulate(seed))


def test_a_start_from_what_a_worker_kept_stands_where_that_worker_stood() -> None:
    faults = [fault for seed in range(SHARE) if (fault := start_fault(simulate(seed)))]
    assert not faults


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.timeout(120)
def test_the_checker_notices_a_missing_defence(name: str) -> None:
    caught = next((seed for seed in range(MUTANT_SEEDS) if is_caught(MUTANTS[name], seed)), None)
    sys.stdout.write(f"caught by seed {caught}\n")
    assert caught is not None


def test_every_fault_strikes() -> None:
    events = [event for seed in range(SHARE) for event in simulate(seed).events]
    struck = {what for _, who, what, facts in events if who == "fault" and facts != "spared"}
    assert struck == {fault.__name__ for kind in FAULTS.values() for fault in kind}
    assert len(FAULTS) >= KINDS


def test_a_seed_makes_one_history() -> None:
    assert simulate(7).told(99) == simulate(7).told(99)


def test_a_failing_seed_prints_its_history() -> None:
    history = simulate(7)
    history.lives[0].leaks.append((history.end, "something"))
    with pytest.raises(AssertionError, match=r"seed 7.*something\n(.*\n){39}.*vouch"):
        check(history)


def is_caught(mutant: Mutant, seed: int) -> bool:
    """Whether the promise in question is seen to be broken in this world, by the defence that is missing."""
    with mutant.patch():
        fault = fault_of(simulate(seed, mutant.parts))
    return re.search(mutant.broken, fault) is not None and fault_of(simulate(seed, mutant.base)) == ""


def fault_of(history: History) -> str:
    try:
        check(history)
    except AssertionError as broken:
        return str(broken).partition("\n")[0]
    return ""
