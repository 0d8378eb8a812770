"""What both fakes share: the values, how a test changes them, and what is known of the state."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from configbus.catalogue import load_catalogue
from configbus.change import Change, Pending, changes_between, read_target
from configbus.difference import same
from configbus.errors import Closed, Conflict, InvalidValue, NotInTime, Problem
from configbus.names import split_path
from configbus.reads import Offered, Reads, offer_changes
from configbus.settings import load_settings
from configbus.snapshot import Adopted, Snapshot, State
from configbus.values import default_texts, texts_of
from configbus.values import with_values as block_with
from configbus.wire import Mark, Position, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from configbus.block import Block, Domain
    from configbus.snapshot import Rejection

    Callback = Callable[[Change[Any]], object]
    StateCallback = Callable[[State, State], object]

S = TypeVar("S", bound=Offered)

EPOCH = 1


class InMemory(Reads, Generic[S]):
    """What both fakes share: the values, how a test changes them, and what is known of the state."""

    def __init__(self, values: Mapping[str, Any] | None, domains: Iterable[str] | str | None) -> None:
        self._catalogue = load_catalogue(domains_of(domains))
        self._listeners: list[S] = []
        self._watchers: list[StateCallback] = []
        self._pretended = State.LIVE
        self._finished = False
        nothing: dict[str, Adopted] = {}
        self._snapshot = Snapshot(
            Position(EPOCH, 0), "redis", MappingProxyType(nothing), MappingProxyType({}), self._catalogue
        )
        self._put({domain.name: {} for domain in self._catalogue if not domain.keyed} | dict(values or {}))

    @classmethod
    def connect(cls, **_options: Any) -> NoReturn:
        """There is nothing to connect to."""
        raise TypeError(f"{cls.__name__} connects to nothing: make one with fake_bus() or fake_async_bus()")

    @property
    def state(self) -> State:
        """LIVE, unless `set_state` said otherwise; STALE once closed."""
        return self._pretended

    @property
    def age(self) -> float:
        """0 while the state says that the copy is current, else infinite."""
        return 0.0 if self._pretended in (State.LIVE, State.PARTIAL) else math.inf

    @property
    def closed(self) -> bool:
        """Whether the bus was closed."""
        return self._finished

    @property
    def seconds_to_expiry(self) -> float | None:
        return None

    def _put(self, values: Mapping[str, Any]) -> Release:
        self._refuse_closed("set_values")
        return self._release(self._validated(values))

    def _retire(self, name: str) -> Release:
        self._refuse_closed("retire")
        if not self._catalogue.locate(name).keyed:
            raise Conflict(f"{name!r} has no keys and always has a value: only a keyed block can be retired")
        self.block(name)
        return self._release({name: None})

    def _put_back(self, before: Snapshot) -> None:
        """Make a release with everything as it was; a bus that was closed meanwhile stays as it is."""
        if not self._finished:
            gone = dict.fromkeys(self._snapshot.adopted.keys() - before.adopted.keys())
            self._release(gone | {name: was.block for name, was in before.adopted.items()})

    def _pretend(self, state: State, held: Mapping[str, Rejection] | None) -> State:
        self._refuse_closed("set_state")
        for name in held or ():
            self._catalogue.locate(name)
        before, self._pretended = self._pretended, state
        self._snapshot = replace(self._snapshot, held=MappingProxyType(dict(held or {})))
        return before

    def _finish(self) -> None:
        self._finished = True
        self._pretended = State.STALE
        self._watchers.clear()

    def _refuse_closed(self, action: str) -> None:
        if self._finished:
            raise Closed(f"{action}: the bus is closed; make a new one")

    def _pending(self, target: str | type[Block]) -> Pending:
        """What a new subscription has not seen yet, which is everything there is."""
        self._refuse_closed("on_change")
        pending = Pending(read_target(target, self._catalogue))
        for change in changes_between(None, self._snapshot):
            pending.offer(change)
        return pending

    def _late(self, release: Release | int, timeout: float) -> Exception:
        return NotInTime(f"{release} did not arrive within {timeout} s; at revision {self.revision}, {self.state}")

    def _validated(self, values: Mapping[str, Any]) -> dict[str, Block]:
        """The blocks that these values make. Raises one InvalidValue for all that is wrong with them."""
        by_block: dict[str, list[tuple[list[str], Any]]] = {}
        for path, value in values.items():
            name, parts = split_path(path)
            domain = self._catalogue.locate(name)
            whole = not parts and isinstance(value, Mapping)
            within = [(below.split("."), part) for below, part in value.items()] if whole else [(parts, value)]
            for below, _ in within:
                self._catalogue.require_field(domain, below[0] if below else "", name)
            by_block.setdefault(name, []).extend(within)
        blocks: dict[str, Block] = {}
        found: list[Problem] = []
        for name in sorted(by_block):
            domain, present = self._catalogue.locate(name), self._present(name)
            texts = texts_of(present, set(domain.model.model_fields)) if present else default_texts(domain)
            try:
                blocks[name] = _as_stored(domain, block_with(domain, name, texts, by_block[name]))
            except InvalidValue as error:
                found += error.problems
        if found:
            raise InvalidValue(found)
        return blocks

    def _release(self, blocks: Mapping[str, Block | None]) -> Release:
        """Make these blocks the current ones, where they differ; the callbacks are still to be told."""
        before = self._snapshot
        changed = {name: block for name, block in blocks.items() if not same(self._present(name), block)}
        if not changed:
            return Release(before.revision, before.epoch, ())
        revision = before.revision + 1
        fresh = {name: Adopted(block, Mark(revision, "")) for name, block in changed.items()}
        adopted = MappingProxyType({**before.adopted, **fresh})
        self._snapshot = replace(before, position=Position(EPOCH, revision), adopted=adopted)
        offer_changes(before, self._snapshot, self._listeners)
        return Release(revision, EPOCH, tuple(sorted(changed)))

    def _present(self, name: str) -> Block | None:
        adopted = self._snapshot.adopted.get(name)
        return None if adopted is None else adopted.block


def domains_of(domains: Iterable[str] | str | None) -> tuple[str, ...]:
    """These modules, else those of CONFIGBUS_DOMAINS: no other setting matters to a bus in memory."""
    named = {name: value for name, value in os.environ.items() if name.startswith("CONFIGBUS_DOMAINS")}
    return load_settings(named, domains=domains, actor="test", worker="test").domains


def raise_all(failures: Sequence[BaseException]) -> None:
    """Raise what callbacks raised: the one error, or several as a group."""
    if len(failures) > 1:
        raise BaseExceptionGroup("callbacks failed", failures)
    for failure in failures:
        raise failure


def _as_stored(domain: Domain, block: Block) -> Block:
    """The block as Postgres gives it back: decimals with all their places, times in UTC."""
    kept: dict[str, Any] = {}
    for column in domain.columns:
        value = getattr(block, column.name)
        if value is None:
            continue
        if column.kind == "numeric":
            kept[column.name] = type(value)(f"{value:.{column.places}f}")
        elif column.kind == "timestamp":
            kept[column.name] = value.astimezone(UTC)
    return block.model_copy(update=kept)
