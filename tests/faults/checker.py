"""The judge of a row: histories of all workers against what Postgres committed, without any server.

`check` raises Broken for the first promise that a worker broke, and returns how long it took them all to be
current again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from faults.history import Adoption, Call, Commit, Life

LIVE_SECONDS = 3.0
TOLERANCE_SECONDS = 0.1
"""A release is stamped under the lock, a little before it is committed and can be read by anybody else."""
STEADY_SECONDS = 1.0
"""Longest delay of a release that was committed when nothing was broken any more, on a busy machine."""
PROMPT_SECONDS = 0.1
"""A release that came within it did not find its worker lagging behind."""
REACH_SECONDS = 0.5
"""A worker that a fault cut off shows it at the first release within this time."""
CURRENT = ("live", "partial")


class Broken(AssertionError):
    """A worker broke a promise."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from a heal instant until no worker lagged behind Postgres any more, and until all of them said that
    they are current; the longest of all heal instants.
    """

    caught_up: float
    live: float


def check(
    commits: Sequence[Commit], lives: Sequence[Life], heals: Sequence[float], limit: float, hurts: Sequence[float] = ()
) -> Times:
    """Judge every life; after each heal instant all must be current within the limit. Raises Broken.

    `hurts` are the instants at which faults began, where they lasted for a while.
    """
    for life in lives:
        for judge in (_check_adoptions, _check_states, _check_calls, _check_end, _check_left):
            if fault := judge(commits, life):
                raise Broken(f"{life.worker}: {fault}")
    begins = sorted([*heals, *hurts, math.inf])
    spans = [(heal, next(begin for begin in begins if begin > heal)) for heal in heals]
    times = Times(
        max((_catch_up(commits, life, heal, until) for life in lives for heal, until in spans), default=0.0),
        max((_live_again(life, heal) for life in lives for heal in heals), default=0.0),
    )
    if times.caught_up > limit:
        raise Broken(f"caught up {times.caught_up:.3f} s after the fault, {limit} s are allowed")
    for life in lives:
        if heals and (fault := _late(commits, life, max(heals) + limit)):
            raise Broken(f"{life.worker}: {fault}")
    return times


def check_ended(commits: Sequence[Commit], lives: Sequence[Life]) -> None:
    """Judge lives that were over before all was. Raises Broken."""
    for life in lives:
        for judge in (_check_adoptions, _check_states, _check_calls, _check_left):
            if fault := judge(commits, life):
                raise Broken(f"{life.worker}: {fault}")


def longest_not_live(life: Life) -> float:
    """Seconds in which a worker did not say `live`, at the most at once, from its first adoption on."""
    live = [sample.at for sample in life.samples if sample.state == "live"]
    return max(later - earlier for earlier, later in pairwise([life.adoptions[0].at, *live, life.samples[-1].at]))


def delays(commits: Sequence[Commit], lives: Sequence[Life]) -> list[float]:
    """From each commit to the callback of every worker that follows everything, sorted; of those never skipped."""
    at = {commit.position.revision: commit.at for commit in commits}
    found = [
        call.at - at[call.revision]
        for life in lives
        for call in life.calls
        if call.enter and call.subscription == "*" and at[call.revision] > life.adoptions[0].at
    ]
    return sorted(found)


def _check_adoptions(commits: Sequence[Commit], life: Life) -> str | None:
    truth = {commit.position: commit.values for commit in commits}
    for before, adoption in pairwise([None, *life.adoptions]):
        assert adoption is not None
        if before is not None and adoption.position < before.position:
            return f"position goes back from {before.position} to {adoption.position}"
        if adoption.origin == "layers":
            if before is None:
                continue
            return f"it falls back to its defaults at {adoption.at:.3f}"
        if adoption.position not in truth:
            return f"Postgres was never at {adoption.position}"
        if fault := _untrue(truth[adoption.position], adoption, before):
            return f"{fault} at {adoption.position}"
    return None


def _untrue(truth: dict[str, dict[str, object]], adoption: Adoption, before: Adoption | None) -> str | None:
    """What a snapshot shows that Postgres does not hold at its position; a held block shows what it showed before."""
    for name, values in truth.items():
        shown = adoption.values.get(name)
        if name not in adoption.held:
            if shown != values:
                return f"{name} is not what Postgres holds: {_difference(values, shown)}"
        elif before is not None and before.origin != "layers" and shown != before.values.get(name):
            return f"{name} is held, and not at its last content"
    return None


def _check_states(commits: Sequence[Commit], life: Life) -> str | None:
    ordered = iter(commits)
    upcoming, due = next(ordered, None), None
    for sample in life.samples:
        while upcoming is not None and upcoming.at < sample.at - LIVE_SECONDS - TOLERANCE_SECONDS:
            due, upcoming = upcoming, next(ordered, None)
        if due is not None and sample.state in CURRENT and sample.position < due.position:
            lacking = next(commit for commit in commits if commit.position > sample.position)
            return (
                f"it says {sample.state} at {sample.position}, and {lacking.position} "
                f"was committed {sample.at - lacking.at:.2f} s before"
            )
    for earlier, later in pairwise(life.told):
        if later.old != earlier.new:
            return f"told of {earlier.old} to {earlier.new}, then of {later.old} to {later.new}"
    return None


def _check_calls(_commits: Sequence[Commit], life: Life) -> str | None:
    running: dict[str, Call] = {}
    newest: dict[tuple[str, str], int] = {}
    lowered: dict[tuple[str, str], int] = {}
    pairs = pairwise(adoption for adoption in life.adoptions if adoption.origin != "layers")
    epochs = [later.at for earlier, later in pairs if later.position.epoch > earlier.position.epoch]
    for call in life.calls:
        if not call.enter:
            if running.pop(call.subscription, None) is None:
                return f"a call of {call.subscription!r} ended that never began"
            continue
        if call.subscription in running:
            return f"two calls of {call.subscription!r} at once, at {call.at:.3f}"
        running[call.subscription] = call
        one = (call.subscription, call.block)
        if call.revision < newest.get(one, 0):
            begun = sum(at <= call.at for at in epochs)
            if lowered.get(one, 0) < begun:  # revisions may begin lower in a new history, once
                lowered[one], newest[one] = begun, call.revision
                continue
            return f"{call.subscription!r} is told of {call.block} at {newest[one]}, then at {call.revision}"
        newest[one] = call.revision
    return None


def _check_end(commits: Sequence[Commit], life: Life) -> str | None:
    """What is amiss when all is over."""
    if not life.adoptions:
        return "it adopted nothing"
    last = life.adoptions[-1]
    if commits and last.position != commits[-1].position:
        return f"it ends at {last.position}, Postgres at {commits[-1].position}"
    if life.samples and life.samples[-1].state not in CURRENT:
        return f"it ends {life.samples[-1].state}"
    if life.samples and life.told and life.told[-1].new != life.samples[-1].state:
        return f"it was told {life.told[-1].new} last, and ends {life.samples[-1].state}"
    seen = {(call.subscription, call.block): call.values for call in life.calls if call.enter}
    for (subscription, block), values in seen.items():
        if block in last.values and values != last.values[block]:
            return f"the last call of {subscription!r} for {block} has not seen the last state"
    return None


def _check_left(_commits: Sequence[Commit], life: Life) -> str | None:
    if life.killed:
        return None
    if not life.left:
        return "it did not come to its end: nothing says what it left behind"
    if left := {what: number for what, number in life.left.items() if number > 0}:
        return f"left behind: {left}"
    return None


def _catch_up(commits: Sequence[Commit], life: Life, heal: float, until: float) -> float:
    """Seconds from a heal instant until the worker lagged no more; 0 if it did not lag then, nor at the first release
    soon after: one that is late by itself later on is no trace of the fault.

    What comes after the next fault, at `until`, is not counted.
    """
    end, soon = heal, heal + REACH_SECONDS
    for commit, held in _arrivals(commits, life):
        lagged = held - commit.at > PROMPT_SECONDS and held > heal
        if lagged and commit.at <= max(end, soon) and commit.at < until - PROMPT_SECONDS:
            end = max(end, held)
        if commit.at > heal:
            soon = heal
    return end - heal


def _arrivals(commits: Sequence[Commit], life: Life) -> Iterator[tuple[Commit, float]]:
    """Each commit of the worker's time, with the instant at which it held it."""
    adoptions = iter(life.adoptions)
    adoption = next(adoptions, None)
    for commit in commits:
        while adoption is not None and adoption.position < commit.position:
            adoption = next(adoptions, None)
        if adoption is not None:
            yield commit, adoption.at


def _live_again(life: Life, heal: float) -> float:
    """Seconds from an instant until the worker was seen to say that it is current."""
    at = next((sample.at for sample in life.samples if sample.at >= heal and sample.state in CURRENT), None)
    return at - heal if at is not None else 0.0


def _late(commits: Sequence[Commit], life: Life, well: float) -> str | None:
    """A release that came late when all should have been well again."""
    for commit, held in _arrivals(commits, life):
        if commit.at > well and held > commit.at + STEADY_SECONDS:
            return f"{commit.position} took {held - commit.at:.2f} s, long after the fault"
    return None


def _difference(wanted: dict[str, object], shown: dict[str, object] | None) -> str:
    if shown is None:
        return "it is not there"
    names = wanted.keys() | shown.keys()
    return ", ".join(
        f"{name} {shown.get(name)!r} for {wanted.get(name)!r}"
        for name in sorted(names)
        if shown.get(name) != wanted.get(name)
    )
