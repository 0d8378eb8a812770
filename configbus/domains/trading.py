"""How large positions are, how many there may be, and which signals open one."""

import itertools
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configbus.block import Block
from configbus.domains.quantities import BasisPoints, Count, Percent, Ratio, Sol


class DrawdownTier(BaseModel):
    """From this drawdown on, new positions are smaller by that much."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    threshold_pct: Percent = Field(description="drawdown at which the tier begins, in percent")
    size_reduction_pct: Percent = Field(description="how much smaller new positions are, in percent")


class TradingConfig(Block, domain="trading"):
    """Position sizing, limits, concentration, thresholds and slippage."""

    table_checks = {"position_range": "min_position_sol <= max_position_sol"}

    base_position_pct: Percent = Field(Decimal("2.00"), description="size of a position, percent of capital")
    max_position_sol: Sol = Field(Decimal("1.00000000"), description="largest position, in SOL")
    min_position_sol: Sol = Field(Decimal("0.05000000"), description="smallest position, in SOL")
    high_conviction_multiplier: Decimal = Field(
        Decimal("1.50"), ge=1, le=100, max_digits=5, decimal_places=2, description="factor on high-conviction positions"
    )
    sizing_mode: Literal["risk_based", "fixed_percent"] = Field("risk_based", description="how a position is sized")
    risk_per_trade_pct: Percent = Field(Decimal("1.00"), description="capital risked by one trade, in percent")
    max_concurrent_positions: Count = Field(5, description="positions open at the same time")
    daily_loss_limit_pct: Percent = Field(Decimal("5.00"), description="loss of a day that stops trading, in percent")
    daily_loss_limit_enabled: bool = Field(default=True, description="whether the daily loss limit is in force")
    max_concentration_token_pct: Percent = Field(Decimal("25.00"), description="capital in one token, in percent")
    max_concentration_cluster_pct: Percent = Field(Decimal("50.00"), description="capital in one cluster, in percent")
    max_positions_per_cluster: Count = Field(3, description="positions open in one cluster")
    drawdown_reduction_tiers: list[DrawdownTier] = Field(
        [
            DrawdownTier(threshold_pct=Decimal(5), size_reduction_pct=Decimal(0)),
            DrawdownTier(threshold_pct=Decimal(10), size_reduction_pct=Decimal(25)),
            DrawdownTier(threshold_pct=Decimal(15), size_reduction_pct=Decimal(50)),
            DrawdownTier(threshold_pct=Decimal(20), size_reduction_pct=Decimal(100)),
        ],
        description="smaller positions as the drawdown grows, in percent, thresholds rising",
    )
    score_threshold: Ratio = Field(Decimal("0.700"), description="lowest score that opens a position, 0 to 1")
    high_conviction_threshold: Ratio = Field(
        Decimal("0.850"), description="score from which conviction is high, 0 to 1"
    )
    max_slippage_entry_bps: BasisPoints = Field(100, description="slippage accepted on entry, in basis points")
    max_slippage_exit_bps: BasisPoints = Field(150, description="slippage accepted on exit, in basis points")

    @model_validator(mode="after")
    def _ordered(self) -> "TradingConfig":
        if self.min_position_sol > self.max_position_sol:
            raise ValueError("min_position_sol must not be above max_position_sol")
        thresholds = [tier.threshold_pct for tier in self.drawdown_reduction_tiers]
        if any(later <= earlier for earlier, later in itertools.pairwise(thresholds)):
            raise ValueError("drawdown_reduction_tiers must have rising thresholds")
        reductions = [tier.size_reduction_pct for tier in self.drawdown_reduction_tiers]
        if any(later < earlier for earlier, later in itertools.pairwise(reductions)):
            raise ValueError("drawdown_reduction_tiers must not have a falling size_reduction_pct")
        return self
