"""Who has a release: asked of every worker that is there, in Redis."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from configbus.errors import Unavailable
from configbus.link import hashes
from configbus.presence import NAME_LENGTH, Worker, is_there, listing_commands, read_names, read_worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from configbus.link import Link
    from configbus.snapshot import Rejection
    from configbus.wire import Keys, Release

PAUSE_SECONDS = 0.02
PAUSE_SHARE = 0.1
"""Of its time that asking may take: with very many workers it is done less often."""


class Outcome(StrEnum):
    """What became of a release at one worker."""

    APPLIED = "applied"
    HELD = "held"
    """It refused a block of it, or of a release that changed nothing holds any: see block, field and reason."""
    NOT_FOLLOWED = "not followed"
    """It takes none of the blocks that changed."""
    MISSING = "missing"
    """It is there, and has not got so far."""


@dataclass(frozen=True, slots=True)
class WorkerReceipt:
    """One worker's part of a receipt. `latency` is in seconds, from the instant of the release, which lies before its
    commit, until the worker adopted it or a later one that it went on to: `revision` is where it stands.
    """

    worker: str
    outcome: Outcome
    revision: int | None
    latency: float | None = None
    block: str = ""
    field: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a release at all workers that were heard of within the last 15 s."""

    release: Release
    workers: tuple[WorkerReceipt, ...]

    @property
    def is_applied(self) -> bool:
        """Whether every worker that follows one of its blocks has them in force; not where no worker was heard of. Of a
        call that changed nothing: whether every worker has all in force that was live then.
        """
        outcomes = {one.outcome for one in self.workers}
        return bool(outcomes) and outcomes <= {Outcome.APPLIED, Outcome.NOT_FOLLOWED}

    def of(self, outcome: Outcome) -> list[WorkerReceipt]:
        """The workers with which that came of it."""
        return [one for one in self.workers if one.outcome is outcome]


def clock_of(link: Link) -> int:
    """Redis' clock in microseconds. Raises Unavailable."""
    ((seconds, micros),) = link.call(("TIME",))
    return int(seconds) * 1_000_000 + int(micros)


def find_workers(link: Link, keys: Keys) -> tuple[int, list[Worker]]:
    """Redis' clock in microseconds, and the workers that have not taken their leave, by name: at most the 10,000 that
    were heard of last. Raises Unavailable.
    """
    clock = clock_of(link)
    *_, replies = link.call(*listing_commands(keys, clock))
    if fault := next((reply for reply in replies if isinstance(reply, Exception)), None):
        remedy = f"DEL {keys.workers}, and the workers write it again"
        raise Unavailable("Redis", f"no worker can be seen: {fault}; {remedy}")
    heard = {name: at for reply in replies for name, at in read_names(reply).items()}
    there = [name for name, at in heard.items() if is_there(at, clock)]
    found = dict(zip(there, hashes(link, [keys.worker(name) for name in there]), strict=True))
    workers = [
        read_worker(name, at, found[name]) if name in found else Worker(name[:NAME_LENGTH], at, None)
        for name, at in heard.items()
    ]
    return clock, sorted(workers, key=lambda worker: worker.name)


def await_receipt(link: Link, keys: Keys, release: Release, age: float, timeout: float) -> Receipt:
    """What became of a release once no worker is on its way any more, or when the time is over; timeout in seconds.

    `age` is for how long it has been there, in seconds. Raises Unavailable where Redis answers at no time.
    """
    began = time.monotonic()
    while True:
        started = time.monotonic()
        try:
            clock, workers = find_workers(link, keys)
        except Unavailable:
            if started + PAUSE_SECONDS >= began + timeout:
                raise
            time.sleep(PAUSE_SECONDS)
            continue
        there = [worker for worker in workers if is_there(worker.heard_at, clock)]
        missing = any(_outcome(worker, release) is Outcome.MISSING for worker in there)
        now = time.monotonic()
        if not missing or now >= began + timeout:
            released_at = clock - round((age + started - began) * 1_000_000)
            return Receipt(release, tuple(_receipts(there, release, released_at, clock)))
        time.sleep(min(max(PAUSE_SECONDS, (now - started) / PAUSE_SHARE), began + timeout - now))


def _receipts(workers: Iterable[Worker], release: Release, released_at: int, clock: int) -> Iterable[WorkerReceipt]:
    for worker in workers:
        outcome, presence = _outcome(worker, release), worker.presence
        if presence is None:
            yield WorkerReceipt(worker.name, outcome, None, reason=worker.silence(clock))
            continue
        revision = presence.position.revision
        match outcome:
            case Outcome.APPLIED:
                latency = max(min(presence.applied_at, clock) - released_at, 0) / 1_000_000
                yield WorkerReceipt(worker.name, outcome, revision, latency if release.blocks else None)
            case Outcome.HELD:
                block = _held(worker, release)[0]
                why = presence.held[block]
                yield WorkerReceipt(worker.name, outcome, revision, None, block, why.field, why.reason)
            case _:
                reason = f"it says {presence.state}" if outcome is Outcome.MISSING else ""
                yield WorkerReceipt(worker.name, outcome, revision, reason=reason)


def _outcome(worker: Worker, release: Release) -> Outcome:
    presence = worker.presence
    if presence is not None and release.blocks and not any(map(worker.is_following, release.blocks)):
        return Outcome.NOT_FOLLOWED
    if presence is None or presence.position < release.position:
        return Outcome.MISSING
    return Outcome.HELD if _held(worker, release) else Outcome.APPLIED


def _held(worker: Worker, release: Release) -> list[str]:
    """The blocks of a release that a worker holds back, and did not have in force before it held a later one back. For
    a release without blocks whatever it holds of an earlier one counts: that is what was to be in force already.
    """
    presence = worker.presence
    if presence is None:
        return []
    if not release.blocks:
        return [name for name, held in presence.held.items() if held.revision <= release.revision]
    found = []
    for name in release.blocks:
        held = presence.held.get(name)
        if held is not None and held.revision >= release.revision > _last_good(held):
            found.append(name)
    return found


def _last_good(held: Rejection) -> int:
    """The revision in force of a block that is held; 0 where it is one of a history that was lost."""
    return held.last_good if held.last_good is not None and held.last_good < held.revision else 0
