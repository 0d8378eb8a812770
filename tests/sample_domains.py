"""Domains that only tests have: every type a column can be of, with and without keys.

Named in `domains=` beside `configbus.domains`; importable because pytest puts `tests` on the path.
"""

from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from configbus.block import Block

AWKWARD = 'it\'s "quoted": 100% of a\\b, {braces}, :colon ::cast, tab\there, line\nbreak, Grüße 漢字 🚀'


class Mode(StrEnum):
    SLOW = "slow and steady"
    FAST = "fast"


class Pace(Enum):
    """Its members are no texts themselves: what is stored is the value, not the name."""

    SLOW = "slow and steady"
    FAST = "fast"


class Venue(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    host: str = "localhost"
    weight: Decimal = Field(Decimal("1.0"), max_digits=6, decimal_places=2)


class Limits(BaseModel):
    """A document within a document."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    soft: int = 10
    venue: Venue = Venue()


class SampleConfig(Block, domain="sample"):
    """One field of each kind."""

    table_checks = {"ratio_below_ceiling": "ratio <= ceiling"}

    ratio: float = Field(0.25, ge=-1e300, le=1e300, description="100% of: a 'quoted' ratio")
    ceiling: float = 1e300
    free: float | None = None
    amount: Decimal = Field(Decimal("0.00000001"), max_digits=20, decimal_places=8)
    count: int = Field(0, ge=-(2**63), le=2**63 - 1)
    small: int = 1
    enabled: bool = True
    note: Annotated[str, Field(max_length=200)] = AWKWARD
    remark: str | None = None
    token: UUID = UUID("00000000-0000-0000-0000-000000000001")
    parent: UUID | None = None
    since: datetime = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
    until: datetime | None = None
    mode: Mode = Mode.SLOW
    pace: Pace | None = None
    side: Literal["buy", "sell: all", "it's"] = "buy"
    limits: Limits = Limits()
    document: dict[str, Any] = {"note": AWKWARD, "list": [1, 2.5, None, True]}
    extra: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()


class LaneConfig(Block, domain="lane", keyed=True):
    """One block per key."""

    table_checks = {"fast_below_slow": "fast_bars < slow_bars"}

    fast_bars: int = Field(20, ge=2, le=500, description="bars in the fast window")
    slow_bars: int = Field(60, ge=2, le=5000, description="bars in the slow window")
    threshold: Decimal = Field(Decimal("0.0150"), max_digits=6, decimal_places=4, gt=0)
    venue: Venue = Venue()
    label: str = ""
