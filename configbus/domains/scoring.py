"""How much each signal counts in a score, and what a wallet, its timing and its market must show."""

from decimal import Decimal

from pydantic import Field, model_validator

from configbus.block import Block
from configbus.domains.quantities import Amplification, Hours, Ratio, Usd


class ScoringConfig(Block, domain="scoring"):
    """Weights of signals and of wallet figures, timing decay, market thresholds and cluster amplification."""

    table_checks = {
        "signal_weights": "wallet_score_weight + timing_score_weight + market_score_weight + cluster_score_weight = 1",
        "wallet_weights": "wallet_win_rate_weight + wallet_avg_pnl_weight + wallet_consistency_weight = 1",
    }

    wallet_score_weight: Ratio = Field(Decimal("0.300"), description="weight of the wallet in a score, 0 to 1")
    timing_score_weight: Ratio = Field(Decimal("0.250"), description="weight of timing in a score, 0 to 1")
    market_score_weight: Ratio = Field(Decimal("0.200"), description="weight of the market in a score, 0 to 1")
    cluster_score_weight: Ratio = Field(Decimal("0.250"), description="weight of the cluster in a score, 0 to 1")
    wallet_win_rate_weight: Ratio = Field(
        Decimal("0.400"), description="weight of the win rate in a wallet's score, 0 to 1"
    )
    wallet_avg_pnl_weight: Ratio = Field(
        Decimal("0.300"), description="weight of average profit in a wallet's score, 0 to 1"
    )
    wallet_consistency_weight: Ratio = Field(
        Decimal("0.300"), description="weight of consistency in a wallet's score, 0 to 1"
    )
    timing_decay_hours: Hours = Field(4, description="age at which a signal has lost its timing score, in hours")
    timing_freshness_bonus: Ratio = Field(
        Decimal("0.200"), description="added to the timing score of a fresh signal, 0 to 1"
    )
    market_liquidity_threshold: Usd = Field(
        Decimal("10000.00"), description="liquidity that a market should have, in US dollars"
    )
    market_volume_threshold: Usd = Field(
        Decimal("5000.00"), description="trading volume that a market should have, in US dollars"
    )
    cluster_min_sync_ratio: Ratio = Field(
        Decimal("0.300"), description="share of a cluster that must move together for it to count, 0 to 1"
    )
    cluster_amplification_factor: Amplification = Field(
        Decimal("1.200"), description="factor on the score of a signal that a cluster confirms, 1 or more"
    )

    @model_validator(mode="after")
    def _weighted(self) -> "ScoringConfig":
        signals = (
            self.wallet_score_weight + self.timing_score_weight + self.market_score_weight + self.cluster_score_weight
        )
        if signals != 1:
            raise ValueError(
                "wallet_score_weight, timing_score_weight, market_score_weight and cluster_score_weight must sum to 1"
            )
        if self.wallet_win_rate_weight + self.wallet_avg_pnl_weight + self.wallet_consistency_weight != 1:
            raise ValueError(
                "wallet_win_rate_weight, wallet_avg_pnl_weight and wallet_consistency_weight must sum to 1"
            )
        return self
