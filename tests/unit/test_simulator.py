"""The protocol core among faults: a thousand worlds by seed, and worlds in which a defence was taken away."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from simulator.checker import check
from simulator.mutants import MUTANTS, Mutant
from simulator.world import simulate

if TYPE_CHECKING:
    from simulator.history import History

SEEDS = 1000
SHARE = 250
MUTANT_SEEDS = 2000


@pytest.mark.parametrize("first", range(0, SEEDS, SHARE))
def test_every_promise_is_kept_in_every_world(first: int) -> None:
    for seed in range(first, first + SHARE):
        check(simulate(seed))


@pytest.mark.parametrize("name", MUTANTS)
def test_the_checker_notices_a_missing_defence(name: str) -> None:
    mutant = MUTANTS[name]
    assert any(is_caught(mutant, seed) for seed in range(MUTANT_SEEDS))


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
    return re.search(mutant.broken, fault) is not None and (
        mutant.base is None or fault_of(simulate(seed, mutant.base)) == ""
    )


def fault_of(history: History) -> str:
    try:
        check(history)
    except AssertionError as broken:
        return str(broken).partition("\n")[0]
    return ""
