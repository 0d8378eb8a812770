"""The platform's domains: its strategies by key, the system they run in, and the limits of risk.

Fractions are parts of one (0.02 is two percent), money is in US dollars. Defaults of `strategy` are
the template that a new strategy begins with; those of `system` and `risk` are for development.
"""

from __future__ import annotations

import zoneinfo
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from configbus import Block

Timeframe = Literal["1m", "5m", "15m", "30m", "1h", "4h", "1d"]

Fraction = Annotated[Decimal, Field(ge=0, le=1, max_digits=7, decimal_places=6)]
Leverage = Annotated[Decimal, Field(ge=1, le=100, max_digits=5, decimal_places=2)]
Usd = Annotated[Decimal, Field(ge=0, max_digits=20, decimal_places=2)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
Count = Annotated[int, Field(ge=1, le=10_000)]
ClockTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]

# The same for parameters that not every strategy has.
MaybeFraction = Annotated[Decimal | None, Field(ge=0, le=1, max_digits=7, decimal_places=6)]
MaybeLeverage = Annotated[Decimal | None, Field(ge=1, le=100, max_digits=5, decimal_places=2)]
MaybeUsd = Annotated[Decimal | None, Field(ge=0, max_digits=20, decimal_places=2)]
MaybeSeconds = Annotated[int | None, Field(ge=1, le=86_400)]
MaybeMinutes = Annotated[int | None, Field(ge=1, le=1_440)]
MaybeCount = Annotated[int | None, Field(ge=1, le=10_000)]


def _zone(name: str) -> str:
    if name == "UTC":  # also where there is no time zone database
        return name
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; write one such as 'UTC' or 'Europe/Berlin'") from None
    return name


class Part(BaseModel):
    """A part of a document: what it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Parameters(Part):
    """Everything that a strategy of any kind can be tuned by; None is for those that others have."""

    # trading
    size: MaybeUsd = Field(None, description="size of an order, in USD")
    position_size: MaybeFraction = Field(None, description="size of a position, fraction of the portfolio")
    max_positions: MaybeCount = Field(None, description="positions open at the same time")
    leverage: MaybeLeverage = Field(None, description="factor on the capital of a position")
    symbol: str | None = Field(None, min_length=1, max_length=40, description="the one of the symbols that is quoted")

    # bars
    timeframe: Timeframe | None = Field(None, description="length of a bar")
    lookback_period: MaybeCount = Field(None, description="bars that an indicator looks back")
    num_bars: MaybeCount = Field(None, description="bars that are loaded")
    correlation_window: MaybeCount = Field(None, description="bars over which correlation is measured")

    # signals
    perc_from_lh: MaybeFraction = Field(None, description="distance from low and high, fraction of their range")
    quartile: MaybeFraction = Field(None, description="part of the range, from its edges, that is traded in")
    max_lh: MaybeUsd = Field(None, description="range from low to high up to which is traded, in USD")
    max_tr: MaybeUsd = Field(None, description="true range of a bar up to which is traded, in USD")
    deviation_threshold: Decimal | None = Field(
        None,
        gt=0,
        le=20,
        max_digits=5,
        decimal_places=3,
        description="deviation that is a signal, in standard deviations",
    )
    min_correlation: MaybeFraction = Field(None, description="correlation below which nothing is opened, 0 to 1")
    divergence_threshold: MaybeFraction = Field(None, description="divergence that is a signal, fraction of the price")

    # risk
    stop_loss: MaybeFraction = Field(None, description="loss that closes a position, fraction of its price")
    take_profit: MaybeFraction = Field(None, description="gain that closes a position, fraction of its price")
    max_drawdown: MaybeFraction = Field(None, description="drawdown that stops the strategy, fraction")
    max_risk: MaybeUsd = Field(None, description="exposure that is closed at once, in USD")
    sl_perc: MaybeFraction = Field(None, description="distance of the stop, fraction of the entry price")
    exit_perc: MaybeFraction = Field(None, description="distance of the exit, fraction of the entry price")
    profit_target: MaybeFraction = Field(None, description="gain that closes a pair, fraction of its value")

    # execution
    order_type: Literal["limit", "market"] | None = Field(None, description="kind of the orders")
    slippage_tolerance: MaybeFraction = Field(None, description="slippage accepted, fraction of the price")
    close_seconds: MaybeSeconds = Field(None, description="age at which an order is withdrawn, in seconds")
    trade_pause_mins: MaybeMinutes = Field(None, description="pause after a trade, in minutes")
    time_limit: MaybeMinutes = Field(None, description="longest time in a position, in minutes")
    sleep: MaybeSeconds = Field(None, description="time between two rounds, in seconds")


class TradingHours(Part):
    """From when to when on a day, both in the schedule's time zone."""

    start: ClockTime = Field("00:00", description="first minute, HH:MM")
    end: ClockTime = Field("23:59", description="last minute, HH:MM")

    @model_validator(mode="after")
    def _ordered(self) -> TradingHours:
        if self.start >= self.end:
            raise ValueError("start must be before end")
        return self


class Schedule(Part):
    """When a strategy trades."""

    enabled: bool = Field(default=True, description="whether the schedule is observed")
    timezone: Annotated[str, AfterValidator(_zone)] = Field("UTC", max_length=60, description="name, as IANA has it")
    trading_hours: TradingHours = Field(TradingHours(), description="hours of a day")
    exclude_weekends: bool = Field(default=False, description="whether Saturday and Sunday are left out")


class StrategyConfig(Block, domain="strategy", keyed=True):
    """One strategy: what it trades, where, when, and how it is tuned."""

    table_checks = {"template_version_form": "template_version ~ '^[0-9]+[.][0-9]+[.][0-9]+$'"}

    title: str = Field("template_strategy", min_length=1, max_length=100, description="what people call it")
    template_version: str = Field(
        "1.0.0", pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=20, description="version of its template, X.Y.Z"
    )
    enabled: bool = Field(default=True, description="whether it trades")
    exchange: tuple[str, ...] = Field((), max_length=10, description="the exchanges it trades on")
    symbols: tuple[str, ...] = Field((), max_length=100, description="the instruments it trades")
    symbol_pairs: tuple[tuple[str, str], ...] = Field(
        (), max_length=100, description="the pairs it trades, an instrument of the first exchange and one of the second"
    )
    parameters: Parameters = Field(
        Parameters(
            position_size=Decimal("0.02"),
            max_positions=5,
            leverage=Decimal("2.0"),
            timeframe="5m",
            lookback_period=20,
            stop_loss=Decimal("0.02"),
            take_profit=Decimal("0.04"),
            max_drawdown=Decimal("0.15"),
            order_type="limit",
            slippage_tolerance=Decimal("0.001"),
        ),
        description="what it is tuned by",
    )
    schedule: Schedule = Field(Schedule(), description="when it trades")

    @model_validator(mode="after")
    def _consistent(self) -> StrategyConfig:
        for field in ("exchange", "symbols", "symbol_pairs"):
            named = getattr(self, field)
            if len(set(named)) < len(named):
                raise ValueError(f"{field} names something twice")
        symbol = self.parameters.symbol
        if symbol is not None and symbol not in self.symbols:
            raise ValueError("parameters.symbol must be one of symbols")
        return self


class Database(Part):
    """Where the platform's own Postgres is. None: from the environment of the process."""

    host: str | None = Field("localhost", max_length=253, description="host name")
    port: int | None = Field(5432, ge=1, le=65_535, description="TCP port")
    name: str | None = Field("moondev_dev", max_length=63, description="database")
    username: str | None = Field("postgres", max_length=63, description="user; the password is never here")
    pool_size: Count = Field(5, description="connections kept open")
    max_overflow: int = Field(10, ge=0, le=10_000, description="connections beyond those, at most")
    ssl_mode: Literal["disable", "prefer", "require", "verify-full"] | None = Field(
        None, description="whether TLS is asked for; None leaves it to the driver"
    )


class Redis(Part):
    """Where the platform's own Redis is. None: from the environment of the process."""

    host: str | None = Field("localhost", max_length=253, description="host name")
    port: int | None = Field(6379, ge=1, le=65_535, description="TCP port")
    db: int = Field(0, ge=0, le=15, description="number of the database")


class Api(Part):
    """The platform's HTTP interface."""

    host: str = Field("0.0.0.0", max_length=253, description="address it listens on")  # noqa: S104  # it serves others
    port: int = Field(8000, ge=1, le=65_535, description="TCP port")
    workers: int = Field(4, ge=1, le=256, description="processes")
    cors_origins: tuple[str, ...] = Field(("http://localhost:3000",), description="origins that browsers may call from")


class Orchestrator(Part):
    """What runs the strategies."""

    max_concurrent_strategies: int = Field(10, ge=1, le=1_000, description="strategies running at the same time")
    strategy_timeout: Seconds = Field(300, description="silence after which a strategy counts as hung, in seconds")
    health_check_interval: Seconds = Field(30, description="time between two checks, in seconds")
    restart_on_failure: bool = Field(default=True, description="whether a failed strategy is started again")

    @model_validator(mode="after")
    def _checked_in_time(self) -> Orchestrator:
        if self.health_check_interval > self.strategy_timeout:
            raise ValueError("health_check_interval must not be above strategy_timeout")
        return self


class Performance(Part):
    """What the platform is measured against."""

    max_latency_ms: int = Field(100, ge=1, le=60_000, description="longest time from tick to order, in milliseconds")
    throughput_target: int = Field(1000, ge=1, le=10_000_000, description="messages per second")
    memory_limit_mb: int = Field(2048, ge=64, le=1_048_576, description="memory of the platform, in MiB")


class SystemConfig(Block, domain="system"):
    """What is not about trading: servers, processes, logging."""

    deployment: Literal["development", "staging", "production"] = Field("development", description="what this is")
    debug: bool = Field(default=True, description="whether tracebacks and SQL are shown")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", description="least that is logged"
    )
    database: Database = Field(Database(), description="the platform's own Postgres")
    redis: Redis = Field(Redis(), description="the platform's own Redis")
    api: Api = Field(Api(), description="the HTTP interface")
    orchestrator: Orchestrator = Field(Orchestrator(), description="what runs the strategies")
    performance: Performance = Field(Performance(), description="what the platform is measured against")


class GlobalLimits(Part):
    """Limits on everything together."""

    max_portfolio_risk: Fraction = Field(Decimal("0.25"), description="largest drawdown of the portfolio, fraction")
    max_position_size: Fraction = Field(Decimal("0.10"), description="largest position, fraction of the portfolio")
    max_strategy_drawdown: Fraction = Field(Decimal("0.15"), description="largest drawdown of a strategy, fraction")
    max_leverage: Leverage = Field(Decimal("3.0"), description="largest factor on capital")
    max_correlation: Fraction = Field(Decimal("0.7"), description="largest correlation between strategies, 0 to 1")
    min_liquidity: Usd = Field(Decimal(5000), description="least liquidity of an instrument, in USD")
    max_daily_loss: Fraction = Field(Decimal("0.08"), description="loss of a day that stops trading, fraction")
    position_timeout: Seconds = Field(7200, description="longest time that a position is open, in seconds")


class PositionSizing(Part):
    """How large a position is."""

    base_size: Fraction = Field(Decimal("0.02"), description="usual size, fraction of the portfolio")
    max_size: Fraction = Field(Decimal("0.05"), description="largest size, fraction of the portfolio")
    volatility_adjustment: bool = Field(default=True, description="whether volatile instruments get less")
    correlation_adjustment: bool = Field(default=True, description="whether correlated instruments get less")
    kelly_fraction: Fraction = Field(Decimal("0.25"), description="part of the Kelly criterion's size, 0 to 1")


class CircuitBreakers(Part):
    """What stops all trading for a while."""

    loss_threshold: Fraction = Field(Decimal("0.10"), description="loss that does, fraction of the portfolio")
    profit_target: Fraction = Field(Decimal("0.20"), description="gain that does, fraction of the portfolio")
    timeout_period: Seconds = Field(300, description="how long, in seconds")


class ExchangeLimits(Part):
    """Limits on one exchange."""

    max_open_orders: Count = Field(description="orders open at the same time")
    max_position_value: Usd = Field(description="largest position, in USD")
    rate_limit_per_second: Count = Field(description="requests per second")


class RiskConfig(Block, domain="risk"):
    """What no strategy may exceed, together or alone."""

    table_checks = {
        "sizing_rises": "(position_sizing ->> 'base_size')::numeric <= (position_sizing ->> 'max_size')::numeric",
        "sizing_within_limit": "(position_sizing ->> 'max_size')::numeric"
        " <= (global_limits ->> 'max_position_size')::numeric",
    }

    global_limits: GlobalLimits = Field(GlobalLimits(), description="limits on everything together")
    position_sizing: PositionSizing = Field(PositionSizing(), description="how large a position is")
    circuit_breakers: CircuitBreakers = Field(CircuitBreakers(), description="what stops all trading")
    exchange_limits: dict[str, ExchangeLimits] = Field(
        {
            "hyperliquid": ExchangeLimits(
                max_open_orders=20, max_position_value=Decimal(50_000), rate_limit_per_second=10
            ),
            "phemex": ExchangeLimits(max_open_orders=15, max_position_value=Decimal(30_000), rate_limit_per_second=5),
        },
        description="limits by exchange",
    )

    @model_validator(mode="after")
    def _within_limits(self) -> RiskConfig:
        if self.position_sizing.base_size > self.position_sizing.max_size:
            raise ValueError("position_sizing.base_size must not be above position_sizing.max_size")
        if self.position_sizing.max_size > self.global_limits.max_position_size:
            raise ValueError("position_sizing.max_size must not be above global_limits.max_position_size")
        return self
