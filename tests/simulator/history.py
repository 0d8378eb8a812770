"""What happened in a run, for the checker to judge and for people to read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from configbus.snapshot import Snapshot

if TYPE_CHECKING:
    from configbus.catalogue import Catalogue
    from configbus.lastgood import LastGood
    from configbus.publication import Difference
    from configbus.snapshot import Selection
    from simulator.postgres import Record, Truth

SHOWN = 40


class Vouched(NamedTuple):
    """When a worker was told, the instant up to which its copy is complete, and how often it had adopted by then."""

    at: float
    since: float
    adoptions: int


@dataclass(slots=True)
class Life:
    """One run of a worker's program, from its start to its end."""

    name: str
    catalogue: Catalogue
    selection: Selection
    keeps: bool = False
    found: LastGood | None = None
    """The last-good state that it began with."""
    base: Snapshot | None = None
    """What the worker showed that kept it."""
    adoptions: list[tuple[float, Snapshot]] = field(default_factory=list)
    kept: list[tuple[float, Snapshot, LastGood]] = field(default_factory=list)
    """When something was kept for the next start, what was shown then, and what was kept."""
    vouches: list[Vouched] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    """When a refresh was asked for; the first has ticket 1."""
    answers: list[tuple[int, str | None, float]] = field(default_factory=list)
    """Ticket, fault, and when the last reading before it began."""
    leaks: list[tuple[float, str]] = field(default_factory=list)
    end: float = math.inf


@dataclass(slots=True)
class History:
    """A whole run. `events` are instants, who, and what, with the facts that belong to it."""

    seed: int
    record: Record
    truth: Truth | None = None
    """Where Postgres stood at the end."""
    differences: list[Difference] = field(default_factory=list)
    """What was wrong in Redis 3 s after the last fault."""
    lives: list[Life] = field(default_factory=list)
    events: list[tuple[float, str, str, Any]] = field(default_factory=list)
    quiet: float = math.inf
    end: float = math.inf

    def told(self, until: float) -> str:
        """The last events up to an instant."""
        events = [event for event in self.events if event[0] <= until][-SHOWN:]
        return "\n".join(f"{at:9.4f}  {who:8} {what} {_fact(facts)}" for at, who, what, facts in events)


def _fact(fact: Any) -> str:
    if isinstance(fact, Snapshot):
        shown = {
            name: adopted.mark.revision if adopted.mark else None for name, adopted in sorted(fact.adopted.items())
        }
        return f"{fact.epoch % 1000}:{fact.revision} from {fact.origin} {shown} held {sorted(fact.held)}"
    return "" if fact is None else str(fact)
