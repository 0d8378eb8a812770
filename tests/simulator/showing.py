"""Whether what a worker shows is what Postgres held at that very position: whole releases, and reasons for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configbus.follow import Follower
from configbus.names import split_block
from configbus.protocol import DONE, Adopt, Failed, Subscribe
from configbus.snapshot import NOWHERE, Adopted
from simulator.blocks import is_refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from configbus.block import Block
    from configbus.lastgood import LastGood
    from configbus.snapshot import Snapshot
    from configbus.wire import Entry
    from simulator.history import History, Life
    from simulator.postgres import Truth


def truths_of(
    history: History, life: Life, at: float, before: Snapshot | None, snapshot: Snapshot
) -> tuple[list[Truth], str | None]:
    """The states of Postgres that a snapshot shows, given the one before it; if none, what is wrong with it."""
    if before is not None and snapshot.position < before.position:
        return [], f"position goes back from {before.position} to {snapshot.position}"
    if snapshot.origin == "layers":
        fresh = before is None and snapshot.position == NOWHERE
        return [], None if fresh else "it falls back to its layers"
    known = [truth for truth in history.record.truths.get(snapshot.position, ()) if truth.at <= at]
    if not known:
        return [], f"Postgres was never at {snapshot.position}"
    faults = [_fault(history, life, before, snapshot, truth) for truth in known]
    if None not in faults:
        return [], faults[0]
    return [truth for truth, fault in zip(known, faults, strict=True) if fault is None], None


def _fault(history: History, life: Life, before: Snapshot | None, snapshot: Snapshot, truth: Truth) -> str | None:
    followed = {name: entry for name, entry in truth.entries.items() if name in life.selection}
    contents = history.record.contents
    last = before.adopted if before is not None and before.origin != "layers" else {}
    for name, entry in followed.items():
        adopted = snapshot.adopted.get(name)
        if adopted is None:
            return f"{name} is missing"
        if name in snapshot.held:
            if name in last and adopted != last[name] and (adopted.mark or last[name].mark):
                return f"{name} is held, and not at its last content"
            if name not in last and adopted != Adopted(None if last and "/" in name else _default(life, name), None):
                return f"{name} is held from the first on, and shows {adopted}"
        elif adopted.mark != entry.mark or _values(adopted.block) != contents[entry.mark]:
            return f"{name} is not what Postgres holds at {snapshot.position}"
    strangers = snapshot.adopted.keys() - followed.keys()
    if any(snapshot.adopted[name].block is not None for name in strangers if "/" in name):
        return f"one of {sorted(strangers)} is shown, and Postgres holds none at {snapshot.position}"
    refused = {name for name, entry in followed.items() if is_refused(life.catalogue, contents[entry.mark])}
    if snapshot.held.keys() - followed.keys() or refused - snapshot.held.keys() or (snapshot.held and not refused):
        return f"held are {sorted(snapshot.held)}, invalid are {sorted(refused)}"
    for name in snapshot.held.keys() - refused:
        if not any(_tied(followed[name], followed[other]) for other in snapshot.held if other != name):
            return f"{name} is held without a reason"
    return _torn(snapshot, followed, truth, knows_all=life.found is None)


def _tied(entry: Entry, other: Entry) -> bool:
    """Whether the release that changed a block may have changed the other, too."""
    if entry.partners == "*":
        return other.mark.revision >= entry.mark.revision
    return other.name in entry.partners


def _torn(snapshot: Snapshot, followed: Mapping[str, Entry], truth: Truth, *, knows_all: bool) -> str | None:
    """A release of which one block is shown and another is not, though no later release changed that one. Of a worker
    that started from a file it is not known whether a block that is absent never was good.
    """
    known = {entry.mark for release in truth.releases for entry in release.entries}
    for release in truth.releases:
        new, old = [], []
        for name, mark in ((entry.name, entry.mark) for entry in release.entries if entry.name in followed):
            shown = snapshot.adopted[name]
            if shown.mark == mark:
                new.append(name)
            elif (knows_all and shown == Adopted(None, None)) or (
                shown.mark in known and shown.mark.revision < mark.revision
            ):
                old.append(name)
        if new and old:
            return f"torn: {new} are shown as of {release.head.revision}, {old} are older"
    return None


def start_fault(history: History) -> str | None:
    """What is wrong with where a worker stands that starts from what one in this history kept, and finds nobody."""
    for life in history.lives:
        for at, snapshot, kept in life.kept:
            if snapshot.held and (start := _start(life, kept)):
                found = (start.position, _marks(start), sorted(start.held))
                kept_at = (snapshot.position, _marks(snapshot), sorted(snapshot.held))
                if found != kept_at:
                    return f"seed {history.seed}, {life.name} at {at:.4f}: shown {kept_at}, after a start {found}"
    return None


def _start(life: Life, kept: LastGood) -> Snapshot:
    steps = Follower(life.catalogue, life.selection, None, last_good=kept).run()
    command = next(steps)
    while not isinstance(command, Adopt):
        command = steps.send((Failed("nobody is there") if isinstance(command, Subscribe) else DONE, 0.0))
    return command.snapshot


def _marks(snapshot: Snapshot) -> dict[str, int]:
    return {name: adopted.mark.revision for name, adopted in sorted(snapshot.adopted.items()) if adopted.mark}


def _values(block: Block | None) -> dict[str, object] | None:
    return None if block is None else block.model_dump(mode="json")


def _default(life: Life, name: str) -> Block:
    return life.catalogue.domain(split_block(name)[0]).model()
