"""The built-in catalogue, one file per domain."""

from configbus.domains.risk import RiskConfig
from configbus.domains.trading import DrawdownTier, TradingConfig

__all__ = ["DrawdownTier", "RiskConfig", "TradingConfig"]
