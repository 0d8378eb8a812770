"""Who is told of what: targets of a subscription, the changes it sees, and what waits while it is busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from configbus.block import Block, domain_of
from configbus.names import split_block, split_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.catalogue import Catalogue
    from configbus.snapshot import Snapshot

B = TypeVar("B", bound=Block)


@dataclass(frozen=True, slots=True)
class Change(Generic[B]):
    """What happened to one block. `old` is None for a first sight, `new` for a retired block."""

    block_name: str
    revision: int
    old: B | None
    new: B | None

    @property
    def fields(self) -> dict[str, tuple[Any, Any]]:
        """The fields that differ, with old and new values; None stands for a block that is not there."""
        present = self.old if self.new is None else self.new
        names = () if present is None else type(present).model_fields
        pairs = ((name, (getattr(self.old, name, None), getattr(self.new, name, None))) for name in names)
        return {name: pair for name, pair in pairs if pair[0] != pair[1]}


@dataclass(frozen=True, slots=True)
class Target:
    """What a subscription watches: everything, a domain, one block, or one field of it."""

    domain: str | None = None
    block: str | None = None
    field: str | None = None

    def matches(self, change: Change[Any]) -> bool:
        """Whether this change concerns the target."""
        if self.domain is not None and split_block(change.block_name)[0] != self.domain:
            return False
        if self.block is not None and change.block_name != self.block:
            return False
        return self.field is None or self.field in change.fields


def read_target(target: str | type[Block], catalogue: Catalogue) -> Target:
    """A target from `*`, a class, `strategy/*`, `trading` or `trading.score_threshold`.

    Raises UnknownBlock or UnknownField for names that the catalogue does not have.
    """
    if not isinstance(target, str):
        return Target(domain=catalogue.domain(domain_of(target).name).name)
    if target == "*":
        return Target()
    name, parts = split_path(target)
    domain = catalogue.domain(split_block(name)[0])
    field = parts[0] if parts else None
    if field is not None:
        catalogue.require_field(domain, field)
    if domain.keyed and name in (domain.name, f"{domain.name}/*"):
        return Target(domain=domain.name, field=field)
    catalogue.locate(name)
    return Target(domain=domain.name, block=name, field=field)


def changes_between(before: Snapshot | None, after: Snapshot) -> Iterator[Change[Any]]:
    """Every block that differs between two snapshots; unequal marks with equal values are no change."""
    for name, now in after.adopted.items():
        was = before.adopted.get(name) if before is not None else None
        if was is now:
            continue
        old = was.block if was is not None else None
        if old != now.block:
            revision = now.mark.revision if now.mark is not None else after.revision
            yield Change(name, revision, old, now.block)


class Pending:
    """What a subscription has not seen yet: per block the latest, with the oldest unseen as its old."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._waiting: dict[str, Change[Any]] = {}

    def offer(self, change: Change[Any]) -> bool:
        """Take a change in; True if there is something to tell now."""
        if (waiting := self._waiting.pop(change.block_name, None)) is not None:
            change = Change(change.block_name, change.revision, waiting.old, change.new)
        if change.old != change.new and self.target.matches(change):
            self._waiting[change.block_name] = change
        return bool(self._waiting)

    def take(self) -> Change[Any] | None:
        """The change that waited longest, or None."""
        for name in self._waiting:
            return self._waiting.pop(name)
        return None
