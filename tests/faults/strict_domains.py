"""The code of a worker whose `trading` has a narrower bound than everybody else's."""

from pydantic import Field

from configbus.block import Block
from configbus.domains import DiscoveryConfig, RiskConfig

__all__ = ["DiscoveryConfig", "RiskConfig", "StrictTrading"]


class StrictTrading(Block, domain="trading"):
    """Knows one field, and takes no more than 200 in it."""

    max_slippage_exit_bps: int = Field(150, ge=0, le=200)
