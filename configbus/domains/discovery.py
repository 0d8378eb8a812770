"""Which wallets are found and kept, how often that is looked into, and what is taken for a pump."""

from decimal import Decimal

from pydantic import Field

from configbus.block import Block
from configbus.domains.quantities import Count, Days, Hours, Minutes, Ratio, Spike


class DiscoveryConfig(Block, domain="discovery"):
    """Discovery runs, criteria for wallets, decay and pump detection."""

    run_interval_minutes: Minutes = Field(60, description="time from one discovery run to the next, in minutes")
    max_wallets_per_run: int = Field(100, ge=1, le=1_000_000, description="wallets looked at in one run")
    min_wallet_age_days: int = Field(30, ge=0, le=3_650, description="lowest age of a wallet, in days")
    min_win_rate: Ratio = Field(Decimal("0.550"), description="lowest share of trades won, 0 to 1")
    min_trades: Count = Field(10, description="lowest number of trades that a wallet is judged by")
    min_avg_pnl_pct: Decimal = Field(
        Decimal("20.00"),
        ge=-100,
        le=100_000,
        max_digits=8,
        decimal_places=2,
        description="lowest average profit of a trade, in percent",
    )
    max_avg_loss_pct: Decimal = Field(
        Decimal("-30.00"),
        ge=-100,
        le=0,
        max_digits=8,
        decimal_places=2,
        description="worst average of losing trades, in percent, negative",
    )
    decay_lookback_days: Days = Field(30, description="days over which a wallet's decay is measured")
    decay_threshold: Ratio = Field(Decimal("0.150"), description="fall of the win rate that counts as decay, 0 to 1")
    decay_check_interval_hours: Hours = Field(24, description="time from one check for decay to the next, in hours")
    pump_volume_spike_threshold: Spike = Field(
        Decimal("3.00"), description="volume that is taken for a pump, in multiples of the usual"
    )
    pump_price_spike_threshold: Spike = Field(
        Decimal("2.00"), description="price that is taken for a pump, in multiples of the usual"
    )
