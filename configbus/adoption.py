"""Adopting: which of the received blocks become the worker's, and which are held at their last good.

The blocks of one release belong together. A block that is invalid in this worker holds back its
own release, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from configbus.block import problems
from configbus.names import split_block
from configbus.snapshot import NOWHERE, Adopted, Origin, Rejection, Selection, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from configbus.block import Block
    from configbus.catalogue import Catalogue
    from configbus.wire import Entry, Position


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the content of a block is not valid; `error` is what a validator raised that failed instead of refusing."""

    field: str
    reason: str
    error: Exception | None = None


def adopt(
    received: Mapping[str, Entry],
    position: Position,
    origin: Origin,
    before: Snapshot | None,
    catalogue: Catalogue,
    selection: Selection,
) -> Snapshot:
    """The snapshot that follows `before` now that `received` is what Redis holds."""
    last = before.adopted if before is not None and before.origin != "layers" else {}
    changed = {name: entry for name, entry in received.items() if name not in last or last[name].mark != entry.mark}
    parsed = {name: parse_entry(entry, catalogue) for name, entry in changed.items()}
    held = {name: result for name, result in parsed.items() if isinstance(result, Refusal)}
    if last:
        _hold_partners(changed, received, held)

    adopted = dict(last)
    rejections = {}
    for name, entry in changed.items():
        match held.get(name, parsed[name]):
            case Refusal(field, reason, error):
                good = last[name].mark if name in last else None
                at = good.revision if good else None
                rejections[name] = Rejection(entry.mark.revision, field, reason, at, error)
                if name not in last:
                    appeared = bool(last) and name != split_block(name)[0]
                    adopted[name] = Adopted(None if appeared else _defaults(name, catalogue), None)
            case block:
                adopted[name] = Adopted(block, entry.mark)
    for name in last.keys() - received.keys():
        if "/" in name:
            adopted[name] = Adopted(None, None)
    for name in selection.singletons:
        if name not in adopted:
            adopted[name] = Adopted(_defaults(name, catalogue), None)
    return Snapshot(position, origin, MappingProxyType(adopted), MappingProxyType(rejections), catalogue)


def on_layers(catalogue: Catalogue, selection: Selection) -> Snapshot:
    """The snapshot of a worker that knows nothing: the models' defaults."""
    return adopt({}, NOWHERE, "layers", None, catalogue, selection)


def with_defaults(snapshot: Snapshot, names: Iterable[str]) -> Snapshot:
    """The same, with these blocks on their models' defaults, or where they have keys not there."""
    gone = {name: Adopted(None if "/" in name else _defaults(name, snapshot.catalogue), None) for name in names}
    return replace(snapshot, adopted=MappingProxyType({**snapshot.adopted, **gone}))


def _hold_partners(changed: Mapping[str, Entry], received: Mapping[str, Entry], held: dict[str, Refusal]) -> None:
    """A changed block is held while a followed block of its release is held; repeated until nothing is added."""
    added = True
    while added:
        added = False
        for name, entry in changed.items():
            if name in held:
                continue
            if entry.partners == "*":
                culprits = [other for other in held if received[other].mark.revision >= entry.mark.revision]
            else:
                culprits = [other for other in entry.partners if other in held]
            if culprits:
                held[name] = Refusal("", f"its release also changed {culprits[0]}, which is held")
                added = True


def parse_entry(entry: Entry, catalogue: Catalogue) -> Block | Refusal | None:
    """The block that an entry holds, why it holds none that is valid, or None where it was retired."""
    if entry.retired:
        return None
    model = catalogue.domain(split_block(entry.name)[0]).model
    try:
        return model.model_validate_json(entry.text, strict=True)
    except ValidationError as error:
        first, *others = problems("", error)
        more = f" (and {len(others)} more)" if others else ""
        return Refusal(first.path.lstrip("."), first.reason + more)
    except Exception as error:  # noqa: BLE001  # a user's validator is foreign code; the follower reports it
        return Refusal("", f"its validator failed: {type(error).__name__}: {error}", error)


def _defaults(name: str, catalogue: Catalogue) -> Block:
    return catalogue.domain(split_block(name)[0]).model()
