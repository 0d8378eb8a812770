"""The built-in catalogue, one file per domain."""

from configbus.domains.api import ApiConfig
from configbus.domains.cluster import ClusterConfig
from configbus.domains.discovery import DiscoveryConfig
from configbus.domains.exit import ExitConfig
from configbus.domains.risk import RiskConfig
from configbus.domains.scoring import ScoringConfig
from configbus.domains.trading import DrawdownTier, TradingConfig

__all__ = [
    "ApiConfig",
    "ClusterConfig",
    "DiscoveryConfig",
    "DrawdownTier",
    "ExitConfig",
    "RiskConfig",
    "ScoringConfig",
    "TradingConfig",
]
