"""When trading stops by itself, and how hard orders are retried."""

from decimal import Decimal

from pydantic import Field

from configbus.block import Block
from configbus.domains.quantities import Days, Percent, SecondsOrZero


class RiskConfig(Block, domain="risk"):
    """Circuit breaker, drawdown limit, order retries and emergency exit."""

    circuit_breaker_enabled: bool = Field(default=True, description="whether losses stop trading")
    circuit_breaker_loss_threshold: Percent = Field(Decimal("10.00"), description="loss that stops trading, in percent")
    circuit_breaker_cooldown_minutes: int = Field(60, ge=0, le=525_600, description="pause after a stop, in minutes")
    max_drawdown_pct: Percent = Field(Decimal("20.00"), description="largest drawdown allowed, in percent")
    drawdown_lookback_days: Days = Field(30, description="days over which drawdown is measured")
    max_order_attempts: int = Field(3, ge=1, le=100, description="attempts to place an order, the first included")
    retry_delay_base_seconds: SecondsOrZero = Field(5, description="wait before the first retry, in seconds")
    retry_delay_multiplier: Decimal = Field(
        Decimal("3.00"),
        ge=1,
        le=99,
        max_digits=4,
        decimal_places=2,
        description="factor from one retry's wait to the next",
    )
    emergency_exit_threshold_pct: Percent = Field(
        Decimal("50.00"), description="loss of a position that closes it at once, in percent"
    )
