"""The judge of a finished run: every promise that a worker makes is held against what Postgres committed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from configbus.names import split_block
from configbus.snapshot import LIVE_SECONDS, NOWHERE, Adopted, Snapshot, State, state_of
from simulator.blocks import is_refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.block import Block
    from configbus.wire import Entry, Position
    from simulator.history import History, Life

SLACK_SECONDS = 0.001
CURRENT_SECONDS = 3.0
"""After the last fault every worker stands at the head: a connection may have become half-open just then."""
SURE_SECONDS = 5.0
"""... and has known so ever since."""


def check(history: History) -> None:
    """AssertionError, with the seed and the last events, for the first broken promise of any worker."""
    for life in history.lives:
        for at, leak in life.leaks:
            _fail(history, life, at, f"an exception leaked: {leak}")
        snapshots = [snapshot for _, snapshot in life.adoptions]
        for before, (at, snapshot) in zip([None, *snapshots], life.adoptions, strict=False):
            if fault := _fault(history, life, before, snapshot):
                _fail(history, life, at, fault)
        if fault := _untrue_state(history, life) or _untrue_vouch(history, life) or _untrue_refresh(life):
            _fail(history, life, history.end, fault)
        if life.end == math.inf and (fault := _unfinished(history, life)):
            _fail(history, life, history.end, fault)


def _fail(history: History, life: Life, at: float, fault: str) -> NoReturn:
    raise AssertionError(f"seed {history.seed}, {life.name} at {at:.4f}: {fault}\n{history.told(at)}")


def _fault(history: History, life: Life, before: Snapshot | None, snapshot: Snapshot) -> str | None:
    """What is wrong with a snapshot, given the one before it."""
    if before is not None and snapshot.position < before.position:
        return f"position goes back from {before.position} to {snapshot.position}"
    if snapshot.origin == "layers":
        return None if before is None and snapshot.position == NOWHERE else "it falls back to its layers"
    truth = history.postgres.states.get(snapshot.position)
    if truth is None:
        return f"Postgres was never at {snapshot.position}"
    followed = {name: entry for name, entry in truth.items() if name in life.selection}
    last = before.adopted if before is not None and before.origin != "layers" else {}
    for name, entry in followed.items():
        adopted = snapshot.adopted.get(name)
        if adopted is None:
            return f"{name} is missing"
        if name in snapshot.held:
            if name in last and adopted != last[name]:
                return f"{name} is held, and not at its last content"
            if name not in last and adopted != Adopted(None if last and "/" in name else _default(life, name), None):
                return f"{name} is held from the first on, and shows {adopted}"
        elif adopted.mark != entry.mark or _values(adopted.block) != history.postgres.contents[entry.mark]:
            return f"{name} is not what Postgres holds at {snapshot.position}"
    refused = {
        name for name, entry in followed.items() if is_refused(life.catalogue, history.postgres.contents[entry.mark])
    }
    if snapshot.held.keys() - followed.keys() or refused - snapshot.held.keys() or (snapshot.held and not refused):
        return f"held are {sorted(snapshot.held)}, invalid are {sorted(refused)}"
    for name in snapshot.held.keys() - refused:
        if not any(_tied(followed[name], followed[other]) for other in snapshot.held if other != name):
            return f"{name} is held without a reason"
    return _torn(snapshot, followed, history)


def _tied(entry: Entry, other: Entry) -> bool:
    """Whether the release that changed a block may have changed the other, too."""
    if entry.partners == "*":
        return other.mark.revision >= entry.mark.revision
    return other.name in entry.partners


def _torn(snapshot: Snapshot, followed: Mapping[str, Entry], history: History) -> str | None:
    """A release of which one block is shown and another is not, though no later release changed that one."""
    releases = history.postgres.released(snapshot.position)
    known = {entry.mark for release in releases for entry in release.entries}
    for release in releases:
        new, old = [], []
        for name, mark in ((entry.name, entry.mark) for entry in release.entries if entry.name in followed):
            shown = snapshot.adopted[name]
            if shown.mark == mark:
                new.append(name)
            elif shown == Adopted(None, None) or (shown.mark in known and shown.mark.revision < mark.revision):
                old.append(name)
        if new and old:
            return f"torn: {new} are shown as of {release.head.revision}, {old} are older"
    return None


def _untrue_vouch(history: History, life: Life) -> str | None:
    for at, since in life.vouches:
        position = _position(life, at)
        for commit in history.postgres.commits:
            if commit.at < since - SLACK_SECONDS and commit.position > position and commit.lost > at:
                return f"at {at:.4f} it is vouched to be complete at {since:.4f}, without {commit.position}"
    return None


def _untrue_state(history: History, life: Life) -> str | None:
    """LIVE or PARTIAL at an instant when something committed more than 3 s before was not there."""
    instants = sorted({at for at, _ in (*life.adoptions, *life.vouches)} | {min(life.end, history.end)})
    for begin, end in pairwise(instants):
        snapshot, vouched = _snapshot(life, begin), _vouched(life, begin)
        for commit in history.postgres.commits:
            late = max(begin, commit.at + LIVE_SECONDS) + SLACK_SECONDS
            until = min(end, commit.lost)
            if late < until and snapshot is not None and snapshot.position < commit.position:
                state = state_of(snapshot, vouched, late)
                if state in (State.LIVE, State.PARTIAL):
                    return f"{state} at {late:.4f} without {commit.position}, committed at {commit.at:.4f}"
    return None


def _untrue_refresh(life: Life) -> str | None:
    for ticket, fault, began in life.answers:
        if fault is None and began < life.asked[ticket - 1]:
            return f"refresh {ticket} is answered by a reading that began before it"
    return None


def _unfinished(history: History, life: Life) -> str | None:
    """What is amiss when the faults are over."""
    head = history.postgres.head.position
    snapshot = _snapshot(life, history.quiet + CURRENT_SECONDS)
    if snapshot is None or snapshot.position != head:
        return f"it stands at {snapshot and snapshot.position} after the faults, Postgres at {head}"
    sure = history.quiet + SURE_SECONDS
    instants = sorted({sure, *(at for at, _ in (*life.adoptions, *life.vouches) if at > sure), history.end})
    for begin, end in pairwise(instants):
        snapshot, vouched = _snapshot(life, begin), _vouched(life, begin)
        state = state_of(snapshot, vouched, end - SLACK_SECONDS)
        if snapshot is None or state is not (State.PARTIAL if snapshot.held else State.LIVE):
            return f"it is {state} at {end:.4f}, long after the faults"
    if life.asked and max((ticket for ticket, _, _ in life.answers), default=0) < len(life.asked):
        return "a refresh was never answered"
    return None


def _vouched(life: Life, at: float) -> float | None:
    return max((since for when, since in life.vouches if when <= at), default=None)


def _snapshot(life: Life, at: float) -> Snapshot | None:
    return next((snapshot for when, snapshot in reversed(life.adoptions) if when <= at), None)


def _position(life: Life, at: float) -> Position:
    snapshot = _snapshot(life, at)
    return NOWHERE if snapshot is None else snapshot.position


def _values(block: Block | None) -> dict[str, object] | None:
    return None if block is None else block.model_dump(mode="json")


def _default(life: Life, name: str) -> Block:
    return life.catalogue.domain(split_block(name)[0]).model()
