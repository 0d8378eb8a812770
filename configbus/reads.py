"""What the two drivers share: reads, what they are connected to, and what is checked at the door."""

from __future__ import annotations

import inspect
import json
import math
import os
import random
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from configbus.block import Block
from configbus.change import changes_between
from configbus.errors import NotReady, Rejected, SettingsError, Stale
from configbus.follow import Follower
from configbus.lastgood_file import LastGoodFile
from configbus.link import database_of
from configbus.log import log
from configbus.names import split_path
from configbus.presence import RENEW_SECONDS
from configbus.protocol import Reading, Report
from configbus.snapshot import LIVE_SECONDS, MISSING, Origin, Rejection, Selection, Snapshot, State, state_of
from configbus.wire import Keys, Position, Release, entry_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from structlog.stdlib import BoundLogger

    from configbus.catalogue import Catalogue
    from configbus.change import Change
    from configbus.settings import Settings

B = TypeVar("B", bound=Block)

READY_SHARE = 0.8
"""Part of the start's time after which a worker stands on its layers, so that it returns within all of it."""


def now() -> float:
    """Seconds on a clock that never jumps, and counts while the machine sleeps where there is such a clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Reads:
    """Everything that is read from memory: never a network access, never a lock."""

    _snapshot: Snapshot
    _vouched: float | None = None

    @property
    def snapshot(self) -> Snapshot:
        """One immutable state of all followed blocks; use one for a whole decision."""
        return self._snapshot

    def get(self, path: str, default: Any = MISSING, *, max_age: float | None = None) -> Any:
        """The value at a path such as `trading.score_threshold`. Raises UnknownBlock or UnknownField
        (both LookupError) unless a default is given.

        With `max_age`, in seconds, the value must be one that was in force no longer ago than that: where the copy
        cannot be vouched for, or its block is held, the default is returned, or Stale raised where there is none. Only
        Redis vouches for a copy: after a start from Postgres alone its age is infinite.
        """
        if max_age is not None:
            return self._get_fresh(path, default, max_age)
        snapshot = self._snapshot
        if default is MISSING:
            return snapshot.read(path)
        return snapshot.get(path, default)

    @overload
    def block(self, target: type[B], key: str = "") -> B: ...
    @overload
    def block(self, target: str, key: str = "") -> Block: ...
    def block(self, target: type[Block] | str, key: str = "") -> Block:
        """A whole block, by class (and key) or by block name. Raises UnknownBlock."""
        return self._snapshot.block(target, key)

    def keys(self, target: type[Block] | str) -> list[str]:
        """The keys of a keyed domain that hold a block now, sorted."""
        return self._snapshot.keys(target)

    def _get_fresh(self, path: str, default: Any, max_age: float) -> Any:
        age = self.age  # before the snapshot: one that is adopted in between is no older
        snapshot = self._snapshot
        if (why := self._too_old(snapshot, path, age, max_age)) is None:
            return snapshot.get(path, default)
        if default is MISSING:
            raise why
        return default

    def _too_old(self, snapshot: Snapshot, path: str, age: float, max_age: float) -> Stale | None:
        held = snapshot.held
        if held and (name := split_path(path)[0]) in held:
            return Stale(f"{path}: {name} is held at older content: {held[name].reason}")
        if age <= max_age:
            return None
        return Stale(f"{path} was last known to be current {age:.1f} s ago, and may be {max_age} s old; {self.state}")

    @property
    def revision(self) -> int:
        """The release that the snapshot shows; 0 for none."""
        return self._snapshot.revision

    @property
    def epoch(self) -> int:
        """The history that the revision counts in; 0 for none."""
        return self._snapshot.epoch

    @property
    def held(self) -> Mapping[str, Rejection]:
        """Blocks held at older content, with the reason."""
        return self._snapshot.held

    @property
    def origin(self) -> Origin:
        """Where the snapshot came from: `redis`, `postgres`, `snapshot` (the last-good file), or `layers` (the models'
        defaults).
        """
        return self._snapshot.origin

    @property
    def state(self) -> State:
        """How far the copy can be trusted at this moment."""
        return state_of(self._snapshot, self._vouched, now())

    @property
    def age(self) -> float:
        """Seconds since the copy was last known to be complete; infinite if it never was."""
        _ = self._snapshot  # in a child made by fork this is a use
        vouched = self._vouched  # read once: a bus that is closed meanwhile has none
        return math.inf if vouched is None else now() - vouched

    @property
    def seconds_to_expiry(self) -> float | None:
        """When the state will turn by itself, unless the copy is vouched for again; None if it will not."""
        left = LIVE_SECONDS - self.age
        return left + 0.001 if left >= 0 else None


class Offered(Protocol):
    """A subscription, of either driver."""

    def offer(self, change: Change[Any]) -> None: ...


def offer_changes(before: Snapshot | None, after: Snapshot, subscriptions: Sequence[Offered]) -> None:
    """Offer every block that differs between two snapshots to every subscription."""
    if subscriptions:
        for change in changes_between(before, after):
            for subscription in subscriptions:
                subscription.offer(change)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a bus is to do, from its settings and arguments, checked before anything is opened."""

    settings: Settings
    catalogue: Catalogue
    selection: Selection
    keys: Keys
    require: str | None
    start_timeout: float
    patterns: tuple[str, ...]
    listed: bool = True

    @property
    def logger(self) -> BoundLogger:
        """The logger of this bus: each line says whose it is."""
        return log.bind(environment=self.settings.environment, worker=self.settings.worker)

    @property
    def file(self) -> LastGoodFile | None:
        """Where the last good state is kept, if it is."""
        directory = self.settings.snapshot_dir
        return LastGoodFile(directory, self.keys, self.patterns, self.logger) if directory else None

    @property
    def identity(self) -> dict[str, str]:
        """What its own hash in Redis says of this worker, whatever it stands on."""
        from importlib.metadata import version

        return {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "version": version("configbus"),
            "follows": json.dumps(self.selection.patterns),
        }

    def follower(self, parent: Follower | None = None) -> Follower:
        """The protocol for this plan; it knows by when it must stand on something, and what was kept for that. In a
        child made by fork it goes on from what its parent had adopted.
        """
        renew_seconds = random.uniform(*RENEW_SECONDS) if self.listed else None  # noqa: S311  # jitter, not a secret
        if parent is not None:
            child = parent.successor()
            child.renew_seconds = renew_seconds
            return child
        by = now() + READY_SHARE * self.start_timeout
        kept = self.file.read() if self.file is not None else None
        if kept is not None and kept.vouched is not None:
            kept = replace(kept, vouched=now() - max(time.time() - kept.vouched, 0.0))
        return Follower(
            self.catalogue,
            self.selection,
            None if self.require else by,
            has_store=self.settings.database_url is not None,
            last_good=kept,
            last_good_at=by,
            keeps=self.file is not None,
            ring=self.settings.keyring,
            database=database_of(self.settings.require("redis_url")),
            renew_seconds=renew_seconds,
        )

    def is_ready(self, reads: Reads) -> bool:
        """Whether what was found suffices for `require`."""
        match self.require:
            case "live":
                return reads.state is State.LIVE
            case "known":
                held = reads.held.values()
                return reads.origin != "layers" and all(rejection.last_good is not None for rejection in held)
            case _:
                return True

    def not_ready(self, reads: Reads | None) -> NotReady:
        """The error for a start that did not come to what `require` asks for."""
        state = reads.state if reads is not None else State.OFFLINE
        held = "; ".join(f"{name}: {why.reason}" for name, why in reads.held.items()) if reads is not None else ""
        return NotReady(
            f"not ready after {self.start_timeout} s: require={self.require!r}, the state is {state}"
            + (f", held back: {held}" if held else "")
            + ". Is the relay running, and does CONFIGBUS_REDIS_URL point to its Redis?",
        )


def plan(
    follow: Iterable[str] | None,
    require: str | None,
    start_timeout: float,
    options: dict[str, Any],
    *,
    listed: bool = True,
) -> Plan:
    """A plan from keyword arguments, with CONFIGBUS_* for what is not given. Raises SettingsError."""
    from configbus.catalogue import load_catalogue
    from configbus.settings import load_settings

    if require not in (None, "known", "live"):
        raise ValueError(f"require is {require!r}; it may be None, 'known' or 'live'")
    settings = load_settings(**options)
    if settings.snapshot_dir:  # a daemon goes to another directory later
        settings = replace(settings, snapshot_dir=str(Path(settings.snapshot_dir).absolute()))
    catalogue = load_catalogue(settings.domains)
    patterns = None if follow is None else list(follow)
    keys = Keys(settings.namespace, settings.environment)
    selection = Selection(catalogue, patterns)
    named = tuple(patterns if patterns is not None else (domain.name for domain in catalogue))
    return Plan(settings, catalogue, selection, keys, require, start_timeout, named, listed)


def check_callback(callback: Callable[..., Any], arguments: int, *, coroutines: bool) -> None:
    """TypeError now, for a callback that could never be called later."""
    if not callable(callback):
        raise TypeError(f"{callback!r} is not callable")
    if inspect.iscoroutinefunction(callback) and not coroutines:
        raise TypeError(f"{callback!r} is a coroutine function: use AsyncConfigBus, or a plain function")
    try:
        inspect.signature(callback).bind(*[None] * arguments)
    except TypeError as error:
        raise TypeError(f"{callback!r} must take {arguments} argument(s): {error}") from error
    except ValueError:
        return


def reached(reads: Reads, release: Release | int) -> bool:
    """Whether the snapshot is at the release or beyond it. Raises Rejected if this worker holds it back."""
    snapshot = reads.snapshot
    at = release.position if isinstance(release, Release) else Position(snapshot.epoch, release)
    if snapshot.position < at:
        return False
    if isinstance(release, Release):
        held = {
            name: why for name, why in snapshot.held.items() if name in release.blocks and why.revision >= at.revision
        }
    else:
        held = {name: why for name, why in snapshot.held.items() if why.revision == at.revision}
    if held:
        raise Rejected(at.revision, {name: why.reason for name, why in held.items()})
    return True


def read_store(settings: Settings, seconds: float) -> Reading:
    """The newest state in Postgres: the one seam through which a worker imports the store."""
    try:
        from configbus.store.connect import Limits, Place, connected
        from configbus.store.releases import newest_state
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"CONFIGBUS_DATABASE_URL is set, and {error.name} is not installed: pip install 'configbus[store]'"
        ) from None

    with connected(settings.require("database_url"), Limits.of(seconds)) as connection:
        state = newest_state(connection, Place(settings.schema, settings.environment))
    index = {entry.name: str(entry.mark) for entry in state.entries}
    return Reading(0, state.head.fields(), index, {entry.name: entry_fields(entry) for entry in state.entries})


def report(told: Report, plan: Plan) -> None:
    """Log what the follower reported."""
    getattr(plan.logger, told.level)(told.event, **told.facts)
