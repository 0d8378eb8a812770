"""Histories as Postgres would have written them, and a catalogue for them: material for tests of the core."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configbus.block import Block
from configbus.catalogue import catalogue_of
from configbus.domains import RiskConfig, TradingConfig
from configbus.names import split_block
from configbus.snapshot import Origin, Selection, Snapshot
from configbus.wire import EMPTY_STATE, Entry, Head, announcement, bookmark, digest_of, entry_text, make_entry, xor

AT = "2026-01-31T12:00:00.123456Z"
BUS = "b0a1c2d3e4f5"
SYSTEM = "7311111111111111111"
EPOCH = 1_769_860_800_001


class Parameters(BaseModel):
    """A document within a block."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    size: int = 1
    venues: list[str] = ["left", "right"]


class StrategyConfig(Block, domain="strategy", keyed=True):
    """A keyed domain. A size of 66 makes its validator fail with an error that is not about the value."""

    size: int = Field(1, ge=0, le=100)
    mode: Literal["slow", "fast"] = "slow"
    parameters: Parameters = Parameters()
    notes: dict[str, Any] = {"first": {"second": [10, 20]}}

    @model_validator(mode="after")
    def _broken(self) -> Self:
        if self.size == 66:
            raise RuntimeError("a fault of the program, not of the value")
        return self


CATALOGUE = catalogue_of([TradingConfig, RiskConfig, StrategyConfig])
EVERYTHING = Selection(CATALOGUE, None)


@dataclass(frozen=True)
class Step:
    """One release, as it is published."""

    head: Head
    prev: str
    entries: tuple[Entry, ...]

    @property
    def message(self) -> bytes:
        return announcement(self.head, self.prev, AT, self.entries).encode()

    @property
    def names_only(self) -> bytes:
        """The same release as it is announced where its blocks are too large."""
        whole = json.loads(self.message)
        whole["names"] = list(whole.pop("blocks"))
        del whole["digests"]
        return json.dumps(whole).encode()

    @property
    def bookmark(self) -> bytes:
        return bookmark(self.head, AT).encode()


class History:
    """Releases of one environment, one after another."""

    def __init__(self, epoch: int = EPOCH, bus: str = BUS) -> None:
        self.head = Head(bus, SYSTEM, epoch, 0, EMPTY_STATE)
        self.entries: dict[str, Entry] = {}
        self._content: dict[str, dict[str, Any]] = {}

    def release(self, changes: Mapping[str, Mapping[str, Any] | None], *, many: bool = False) -> Step:
        """Change fields of blocks, or retire them (None); `many` writes `*` in place of the partners' names."""
        revision, prev = self.head.revision + 1, self.head.state
        entries = tuple(self._entry(name, change, revision, changes, many=many) for name, change in changes.items())
        gone = [self.entries[name].mark.digest for name in changes if name in self.entries]
        state = xor(prev, gone + [entry.mark.digest for entry in entries])
        self.head = Head(self.head.bus, self.head.system, self.head.epoch, revision, state)
        self.entries |= {entry.name: entry for entry in entries}
        return Step(self.head, prev, entries)

    @property
    def index(self) -> dict[str, str]:
        """As the hash holds it."""
        return {name: str(entry.mark) for name, entry in self.entries.items()}

    def snapshot(
        self, before: Snapshot | None = None, selection: Selection = EVERYTHING, origin: Origin = "redis"
    ) -> Snapshot:
        """What a worker adopts that has received all of this."""
        from configbus.adoption import adopt

        received = {name: entry for name, entry in self.entries.items() if name in selection}
        return adopt(received, self.head.position, origin, before, CATALOGUE, selection)

    def _entry(
        self, name: str, change: Mapping[str, Any] | None, revision: int, together: Iterable[str], *, many: bool
    ) -> Entry:
        partners = "*" if many else [other for other in together if other != name]
        envelope: dict[str, Any] = {"@revision": revision, "@with": partners}
        content: dict[str, Any] = {}
        if change is None:
            envelope["@retired"] = True
        else:
            model = CATALOGUE.domain(split_block(name)[0]).model
            content = {**(self._content.get(name) or json.loads(model().model_dump_json())), **change}
        self._content[name] = content
        fields = {field: json.dumps(value) for field, value in (content | envelope).items()}
        return entry_of(name, fields)


def entry_of(name: str, fields: Mapping[str, str]) -> Entry:
    """An entry with these fields, its digest computed as Postgres does."""
    ordered = sorted(fields.items(), key=lambda pair: (len(pair[0]), pair[0]))
    return make_entry(name, ordered, digest_of(name, entry_text(fields.items())))


def history_of(*changes: Mapping[str, Mapping[str, Any] | None]) -> History:
    """A history of these releases."""
    history = History()
    for change in changes:
        history.release(change)
    return history
