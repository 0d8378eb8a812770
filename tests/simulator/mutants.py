"""Defences taken away one by one, to see that the checker notices."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from unittest.mock import patch

from configbus import adoption
from simulator.weak_publishing import (
    ClockAfterPostgres,
    CounterInRedis,
    NoNewEpoch,
    NoRepair,
    StampsAnything,
    publish_over_anything,
    stamp_in_silence,
    stamp_whatever_is_there,
)
from simulator.weak_workers import (
    AcrossGaps,
    EmptyHashBelieved,
    EmptyHeadBelieved,
    FileNoFloor,
    FirstStampBelieved,
    FreshByPush,
    JunkRaises,
    KeyByKey,
    LowerAccepted,
    NeverConfirmed,
    NeverLooking,
    NewerFits,
    NoDigests,
    NoEpoch,
    PrevIgnored,
    StampIgnored,
)
from simulator.world import Parts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from configbus.wire import Entry


def _hold_nothing(_changed: Mapping[str, Entry], _received: Mapping[str, Entry], _held: dict[str, object]) -> None:
    pass


def _hold_everything(changed: Mapping[str, Entry], _received: Mapping[str, Entry], held: dict[str, object]) -> None:
    if held:
        held |= dict.fromkeys(changed.keys() - held.keys(), next(iter(held.values())))


@dataclass(frozen=True, slots=True)
class Mutant:
    """Parts without a defence, and what comes of it, as a pattern; `base` is what passes: the product, or one in which
    another defence is away, that would hide it.
    """

    broken: str
    parts: Parts = field(default_factory=Parts)
    base: Parts = field(default_factory=Parts)
    patch: Callable[[], AbstractContextManager[object]] = nullcontext


def _partners(replacement: object) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(adoption, "_hold_partners", replacement)


BACK = "position goes back"
STUCK = "after the faults"
WRONG = "is not what Postgres holds"
UNTRUE = "vouched to be complete|live at|partial at"

MUTANTS = {
    "counter kept in Redis": Mutant(f"{WRONG}|never at|{STUCK}", Parts(publisher=CounterInRedis)),
    "key-by-key loading": Mutant(WRONG, Parts(follower=NewerFits, poll=KeyByKey), Parts(follower=NewerFits)),
    "no epoch": Mutant(f"{BACK}|{STUCK}", Parts(follower=NoEpoch)),
    "lower revision accepted": Mutant(BACK, Parts(follower=LowerAccepted)),
    "empty hash believed": Mutant(f"is missing|{WRONG}", Parts(follower=EmptyHashBelieved)),
    "empty head believed": Mutant(f"falls back to its layers|{BACK}", Parts(follower=EmptyHeadBelieved)),
    "applying across a gap": Mutant(WRONG, Parts(follower=AcrossGaps)),
    "no compare-and-set": Mutant(
        WRONG, Parts(follower=NewerFits, publish=publish_over_anything), Parts(follower=NewerFits)
    ),
    "no repair": Mutant(STUCK, Parts(relay=NoRepair)),
    "no digests": Mutant(WRONG, Parts(follower=NoDigests)),
    "prev ignored": Mutant(WRONG, Parts(follower=PrevIgnored)),
    "@with ignored": Mutant("torn", patch=_partners(_hold_nothing)),
    "everything frozen by one bad block": Mutant("held without a reason", patch=_partners(_hold_everything)),
    "freshness by push only": Mutant(UNTRUE, Parts(follower=FreshByPush)),
    "stamp after the read": Mutant(UNTRUE, Parts(relay=ClockAfterPostgres)),
    "stamp whatever the head says": Mutant(UNTRUE, Parts(relay=StampsAnything, stamp=stamp_whatever_is_there)),
    "stamp ignored": Mutant(UNTRUE, Parts(follower=StampIgnored)),
    "no poll and no bookmarks": Mutant("it stands at", Parts(poll=NeverLooking, stamp=stamp_in_silence)),
    "first stamp believed": Mutant(UNTRUE, Parts(follower=FirstStampBelieved)),
    "last-good file no floor": Mutant(BACK, Parts(follower=FileNoFloor)),
    "epoch not raised": Mutant(STUCK, Parts(relay=NoNewEpoch)),
    "start from Postgres never confirmed": Mutant("it is offline", Parts(follower=NeverConfirmed)),
    "junk raises": Mutant("an exception leaked", Parts(follower=JunkRaises)),
}
