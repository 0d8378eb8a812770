"""The domain of the benchmarks: a strategy with one block per instrument."""

from decimal import Decimal

from pydantic import Field

from configbus.block import Block


class LaneConfig(Block, domain="lane", keyed=True):
    """One block per instrument."""

    table_checks = {"fast_below_slow": "fast_bars < slow_bars"}

    fast_bars: int = Field(20, ge=2, le=500, description="bars in the fast window")
    slow_bars: int = Field(60, ge=2, le=5000, description="bars in the slow window")
    threshold: Decimal = Field(Decimal("0.0150"), max_digits=6, decimal_places=4, gt=0, description="entry, as ratio")
    enabled: bool = Field(default=True, description="whether it trades")
    note: str = Field("", max_length=200, description="for people")
