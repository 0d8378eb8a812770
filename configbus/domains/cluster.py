"""Which wallets are a cluster, who leads it, and how far that may lift a score."""

from decimal import Decimal

from pydantic import Field, model_validator

from configbus.block import Block
from configbus.domains.quantities import Amplification, Count, Minutes, Ratio


class ClusterConfig(Block, domain="cluster"):
    """Cluster size and similarity, synchronous trades, leaders and amplification."""

    table_checks = {"size_range": "min_cluster_size <= max_cluster_size"}

    min_cluster_size: Count = Field(3, description="fewest wallets in a cluster")
    max_cluster_size: Count = Field(20, description="most wallets in a cluster")
    similarity_threshold: Ratio = Field(
        Decimal("0.700"), description="similarity from which wallets belong together, 0 to 1"
    )
    sync_time_window_minutes: Minutes = Field(
        60, description="time within which trades count as synchronous, in minutes"
    )
    sync_token_overlap_threshold: Ratio = Field(
        Decimal("0.300"), description="share of tokens that synchronous wallets have in common, 0 to 1"
    )
    leader_min_followers: Count = Field(2, description="fewest wallets that follow a leader")
    leader_time_advantage_minutes: Minutes = Field(5, description="how far a leader trades ahead, in minutes")
    enable_cluster_amplification: bool = Field(default=True, description="whether clusters amplify scores")
    amplification_max_boost: Amplification = Field(
        Decimal("1.500"), description="largest factor that a cluster puts on a score, 1 or more"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "ClusterConfig":
        if self.min_cluster_size > self.max_cluster_size:
            raise ValueError("min_cluster_size must not be above max_cluster_size")
        return self
