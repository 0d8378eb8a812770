"""Which strategy closes a position by default, when holding it has lasted too long, and how its price is followed."""

from decimal import Decimal
from uuid import UUID

from pydantic import Field

from configbus.block import Block
from configbus.domains.quantities import Days, Hours, Percent, Seconds


class ExitConfig(Block, domain="exit"):
    """Default exit strategies, holding time, stagnation and price history."""

    default_strategy_standard_id: UUID | None = Field(
        None, description="id of the exit strategy of standard positions, none if empty"
    )
    default_strategy_high_conviction_id: UUID | None = Field(
        None, description="id of the exit strategy of high-conviction positions, none if empty"
    )
    default_max_hold_hours: Hours = Field(168, description="longest time that a position is held, in hours")
    stagnation_hours: Hours = Field(24, description="time over which stagnation is measured, in hours")
    stagnation_threshold_pct: Percent = Field(
        Decimal("5.00"), description="price change below which a position stagnates, in percent"
    )
    price_collection_interval_seconds: Seconds = Field(
        5, description="time from one price taken to the next, in seconds"
    )
    price_history_retention_days: Days = Field(30, description="how long prices are kept, in days")
