"""The judge of a finished run: every promise that a worker makes is held against what Postgres committed."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from configbus.snapshot import LIVE_SECONDS, State, state_of
from simulator.showing import truths_of

if TYPE_CHECKING:
    from configbus.snapshot import Snapshot
    from simulator.history import History, Life
    from simulator.postgres import Truth

SLACK_SECONDS = 0.001
CURRENT_SECONDS = 3.0
"""After the last fault every worker stands at the head: a connection may have become half-open just then."""
SURE_SECONDS = 5.5
"""... and has known so ever since: a load on a dead connection takes 1 s, what waited in the other is heard then,
silence there is asked about after 1.5 s and given up after 1 s more, and two looks at the stamp follow, 0.6 s apart.
"""


def check(history: History) -> None:
    """AssertionError, with the seed and the last events, for the first broken promise of any worker."""
    if fault := _needless_epoch(history):
        _fail(history, "relay", history.end, fault)
    if history.differences:
        _fail(history, "redis", history.end, f"it is not complete after the faults: {history.differences[0]}")
    for life in history.lives:
        for at, leak in life.leaks:
            _fail(history, life.name, at, f"an exception leaked: {leak}")
        shown = _Shown(history, life)
        if fault := _untrue_state(history, life, shown) or _untrue_vouch(history, life, shown) or _untrue_refresh(life):
            _fail(history, life.name, history.end, fault)
        if life.end == math.inf and (fault := _unfinished(history, life, shown)):
            _fail(history, life.name, history.end, fault)


def _fail(history: History, who: str, at: float, fault: str) -> NoReturn:
    raise AssertionError(f"seed {history.seed}, {who} at {at:.4f}: {fault}\n{history.told(at)}")


@dataclass(frozen=True, slots=True)
class _View:
    """What a worker shows from an instant on, and the states of Postgres that this may be."""

    snapshot: Snapshot
    truths: list[Truth]

    def lacks(self, commit: Truth) -> bool:
        """Whether a commit is neither shown nor overtaken."""
        position = commit.head.position
        return self.snapshot.position < position or (
            self.snapshot.position == position and not any(commit is truth for truth in self.truths)
        )


class _Shown:
    """All that one worker showed, each of it right."""

    def __init__(self, history: History, life: Life) -> None:
        self.instants: list[float] = []
        self.views: list[_View] = []
        before = life.base
        for at, snapshot in life.adoptions:
            truths, fault = truths_of(history, life, at, before, snapshot)
            if fault is not None:
                _fail(history, life.name, at, fault)
            self.instants.append(at)
            self.views.append(_View(snapshot, truths))
            before = snapshot

    def at(self, instant: float) -> _View | None:
        count = bisect_right(self.instants, instant)
        return self.views[count - 1] if count else None


def _needless_epoch(history: History) -> str | None:
    """At most one new epoch for each lost history: after a set-back or failover, and after an old primary that nobody
    had fenced raised its own.
    """
    record = history.record
    for at, _ in record.raises:
        began = [(when, when < server.deposed) for when, server in record.raises if when <= at]
        losses = sum(loss <= at for loss in record.losses)
        own = sum(is_truth for _, is_truth in began)
        if own > losses + len(began) - own:
            return f"the epoch was raised at {at:.4f}, and no further history was lost"
    return None


def _commits(history: History) -> list[Truth]:
    """Everything that the server which was the truth committed."""
    return [truth for truths in history.record.truths.values() for truth in truths if truth.lost > truth.at]


def _is_excused(history: History, view: _View, since: float, commit: Truth | None) -> bool:
    """Whether an old primary said so that nobody had fenced yet: of its workers nothing is promised but what it holds
    itself. Without a commit: that the history which is shown is not lost.
    """
    return any(
        since < server.fenced
        and any(truth in server.line for truth in view.truths)
        and (commit is None or commit not in server.line)
        for server in history.record.servers
        if server.deposed < math.inf
    )


def _untrue_vouch(history: History, life: Life, shown: _Shown) -> str | None:
    commits = _commits(history)
    for at, since, adoptions in life.vouches:
        view = shown.views[adoptions - 1] if adoptions else shown.at(at)
        if view is None:
            return f"at {at:.4f} it is vouched to be complete, and shows nothing"
        for commit in commits:
            if commit.at < since - SLACK_SECONDS and commit.lost > at and view.lacks(commit):
                if _is_excused(history, view, since, commit):
                    continue
                return f"at {at:.4f} it is vouched to be complete at {since:.4f}, without {commit.head.position}"
        lost = max((truth.lost for truth in view.truths), default=math.inf)
        known = not any(truth.hidden for truth in view.truths)
        if known and lost < since - SLACK_SECONDS and not _is_excused(history, view, since, None):
            return f"at {at:.4f} it is vouched to be complete at {since:.4f}, what it shows was lost at {lost:.4f}"
    return None


def _untrue_state(history: History, life: Life, shown: _Shown) -> str | None:
    """LIVE or PARTIAL at an instant when something committed more than 3 s before was not there."""
    commits = _commits(history)
    vouches = _Vouches(life)
    instants = sorted({*shown.instants, *(vouched.at for vouched in life.vouches), min(life.end, history.end)})
    for begin, end in pairwise(instants):
        view, vouched = shown.at(begin), vouches.at(begin)
        if view is None or vouched is None:
            continue
        for commit in commits:
            late = max(begin, commit.at + LIVE_SECONDS) + SLACK_SECONDS
            if late < min(end, commit.lost) and view.lacks(commit):
                state = state_of(view.snapshot, vouched, late)
                if state in (State.LIVE, State.PARTIAL) and not _is_excused(history, view, vouched, commit):
                    return f"{state} at {late:.4f} without {commit.head.position}, committed at {commit.at:.4f}"
    return None


def _untrue_refresh(life: Life) -> str | None:
    for ticket, fault, began in life.answers:
        if fault is None and began < life.asked[ticket - 1]:
            return f"refresh {ticket} is answered by a reading that began before it"
    return None


def _unfinished(history: History, life: Life, shown: _Shown) -> str | None:
    """What is amiss when the faults are over."""
    truth = history.truth
    view = shown.at(history.quiet + CURRENT_SECONDS)
    if truth is None or view is None or not any(truth is known for known in view.truths):
        stands = view and f"{view.snapshot.position} from {view.snapshot.origin}"
        return f"it stands at {stands} after the faults, Postgres at {truth and truth.head.position}"
    vouches = _Vouches(life)
    sure = history.quiet + SURE_SECONDS
    times = (*shown.instants, *(vouched.at for vouched in life.vouches))
    for begin, end in pairwise(sorted({sure, *(at for at in times if at > sure), history.end})):
        view = shown.at(begin)
        state = state_of(view.snapshot if view else None, vouches.at(begin), end - SLACK_SECONDS)
        if view is None or state is not (State.PARTIAL if view.snapshot.held else State.LIVE):
            return f"it is {state} at {end:.4f}, long after the faults"
    if life.asked and max((ticket for ticket, _, _ in life.answers), default=0) < len(life.asked):
        return "a refresh was never answered"
    return None


class _Vouches:
    """Up to when a worker's copy was known to be complete, at each instant."""

    def __init__(self, life: Life) -> None:
        self._instants: list[float] = []
        self._since: list[float] = []
        newest = -math.inf
        for at, since, _ in life.vouches:
            newest = max(newest, since)
            self._instants.append(at)
            self._since.append(newest)

    def at(self, instant: float) -> float | None:
        count = bisect_right(self._instants, instant)
        return self._since[count - 1] if count else None
