"""What a worker holds: one immutable snapshot of typed blocks, and how far it can be vouched for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from configbus.block import Block, domain_of
from configbus.errors import UnknownBlock, UnknownField
from configbus.names import block_name, near, split_block, split_path
from configbus.wire import Mark, Position

if TYPE_CHECKING:
    from configbus.catalogue import Catalogue

B = TypeVar("B", bound=Block)
Origin = Literal["redis", "postgres", "snapshot", "layers"]

LIVE_SECONDS = 3.0
INDEX_DIGITS = 10
NOWHERE = Position(0, 0)


class _Missing:
    """Stands for a default that was not given."""


MISSING = _Missing()


class State(StrEnum):
    """How far a worker's copy can be trusted now."""

    LIVE = "live"
    """Holds everything committed more than 3 s ago."""
    PARTIAL = "partial"
    """Current, but some blocks are held at older content: see `held`."""
    STALE = "stale"
    """Cannot vouch for its copy; values go on being served."""
    OFFLINE = "offline"
    """Never reached Redis since the start."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a block is held back. `field` is empty where no single field is at fault; `last_good` is
    the revision it is held at, None when it stands on its defaults because it never had a good one.
    `error` is what a validator raised that failed instead of refusing.
    """

    revision: int
    field: str
    reason: str
    last_good: int | None
    error: Exception | None = dataclass_field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Adopted:
    """A block in force, with the mark of the content it came from; no block where it was retired."""

    block: Block | None
    mark: Mark | None


class _Values(dict[str, Any]):
    """Values by path, each resolved when first asked for: reads are dictionary look-ups, adopting is free.

    Only its `__getitem__` is handed out, as `Snapshot.read`: nobody can write to it.
    """

    __slots__ = ("_snapshot",)

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot

    def __missing__(self, path: str) -> Any:
        value = self[path] = self._snapshot.resolve(path)
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One state of all followed blocks. Immutable: use one for a whole decision.

    `revision` and `epoch` say which release it shows; `held` names blocks that show an older one.
    """

    position: Position
    origin: Origin
    adopted: Mapping[str, Adopted]
    held: Mapping[str, Rejection]
    catalogue: Catalogue
    read: Callable[[str], Any] = dataclass_field(init=False, repr=False)
    """`get` without a default."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", _Values(self).__getitem__)

    @property
    def revision(self) -> int:
        return self.position.revision

    @property
    def epoch(self) -> int:
        return self.position.epoch

    def get(self, path: str, default: Any = MISSING) -> Any:
        """The value at a path such as `trading.score_threshold` or `strategy/mm.parameters.size`.

        Raises UnknownBlock or UnknownField, both LookupError, unless a default is given.
        """
        if default is MISSING:
            return self.read(path)
        try:
            return self.read(path)
        except LookupError:
            return default

    @overload
    def block(self, target: type[B], key: str = "") -> B: ...
    @overload
    def block(self, target: str, key: str = "") -> Block: ...
    def block(self, target: type[Block] | str, key: str = "") -> Block:
        """A whole block, by class (and key) or by block name. Raises UnknownBlock."""
        name = block_name(target if isinstance(target, str) else domain_of(target).name, key)
        found = self.adopted.get(name)
        if found is None or found.block is None:
            raise self._unknown(name)
        return found.block

    def keys(self, target: type[Block] | str) -> list[str]:
        """The keys of a keyed domain that hold a block now, sorted."""
        domain = self.catalogue.domain(target if isinstance(target, str) else domain_of(target).name).name
        names = (split_block(name) for name, adopted in self.adopted.items() if adopted.block is not None)
        return sorted(key for found, key in names if found == domain and key)

    def resolve(self, path: str) -> Any:
        """The value at a path, found part by part; `read` remembers it."""
        name, parts = split_path(path)
        value: Any = self.block(name)
        for part in parts:
            value = _part(value, part, path)
        return value

    def _unknown(self, name: str) -> UnknownBlock:
        present = [known for known, adopted in self.adopted.items() if adopted.block is not None]
        self.catalogue.locate(name)
        why = "is not followed by this worker, or does not exist in this environment"
        return UnknownBlock(f"block {name!r} {why}", near(name, present))


def _part(value: Any, part: str, path: str) -> Any:
    match value:
        case Block() if part in type(value).model_fields:
            return getattr(value, part)
        case Mapping() if part in value:
            return value[part]
        case list() | tuple() if part.isdecimal() and len(part) < INDEX_DIGITS and int(part) < len(value):
            return value[int(part)]
    if part in (fields := getattr(type(value), "model_fields", ())):
        return getattr(value, part)
    known = value if isinstance(value, Mapping) else fields
    raise UnknownField(f"{path!r}: there is no {part!r} in it", near(part, map(str, known)))


def state_of(snapshot: Snapshot | None, vouched: float | None, now: float) -> State:
    """The state at an instant: `vouched` is the instant up to which the copy is known to be complete."""
    if snapshot is None or snapshot.origin != "redis":
        return State.OFFLINE
    if vouched is None or now - vouched >= LIVE_SECONDS:
        return State.STALE
    return State.PARTIAL if snapshot.held else State.LIVE


class Selection:
    """Which blocks a worker follows: block names, `domain/*` for all keys, nothing for everything."""

    def __init__(self, catalogue: Catalogue, patterns: Iterable[str] | None) -> None:
        self._domains: set[str] = set()
        self._names: set[str] = set()
        for pattern in [domain.name for domain in catalogue] if patterns is None else patterns:
            name = pattern.removesuffix("/*")
            if (
                catalogue.domain(split_block(name)[0]).keyed
                and "/" not in name
                and (patterns is None or pattern != name)
            ):
                self._domains.add(name)
            else:
                catalogue.locate(pattern)
                self._names.add(pattern)
        self.singletons = sorted(name for name in self._names if "/" not in name)
        self.patterns = sorted({*self._names, *(f"{name}/*" for name in self._domains)})

    def __contains__(self, name: str) -> bool:
        return name in self._names or split_block(name)[0] in self._domains
