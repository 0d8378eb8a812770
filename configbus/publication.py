"""What a publisher does about the head it finds in Redis; a pure decision, as the simulator knows it too."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from configbus.wire import Head, Malformed, NotUnderstood, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping


class Verdict(Enum):
    """What to do so that Redis stands where Postgres stands."""

    DONE = "Redis is there already, or beyond"
    REPLAY = "publish the releases that are missing, in order"
    LAY_DOWN = "lay down the whole state: the head is missing, broken or of an older history"
    SUPERSEDED = "Redis follows a newer history: this Postgres is not the truth any more"
    DIVERGED = "Redis has other content at the same position"
    FOREIGN = "another installation, or a newer configbus, uses these keys"


def judge(found: Mapping[str, str], truth: Head) -> tuple[Verdict, Head | None]:
    """The verdict on the head's fields as found in Redis, and the head if it is a whole one."""
    if not found:
        return Verdict.LAY_DOWN, None
    try:
        head = read_head(found)
    except NotUnderstood:
        return Verdict.FOREIGN, None
    except Malformed:
        return Verdict.LAY_DOWN, None
    if head.bus != truth.bus:
        return Verdict.FOREIGN, head
    if head.epoch != truth.epoch:
        return (Verdict.SUPERSEDED if head.epoch > truth.epoch else Verdict.LAY_DOWN), head
    if head.revision < truth.revision:
        return Verdict.REPLAY, head
    if head.revision == truth.revision and head.state != truth.state:
        return Verdict.DIVERGED, head
    return Verdict.DONE, head
