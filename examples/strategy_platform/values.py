"""What stands in the platform's first configuration, as plain data. What a strategy does not say is not a parameter
of it; `risk`, and `system` in development, are the defaults of their models.
"""

from __future__ import annotations

from typing import Any

STRATEGIES: dict[str, dict[str, Any]] = {
    "market_maker": {
        "title": "Market Maker",
        "template_version": "1.0.0",
        "enabled": True,
        "exchange": ["hyperliquid"],
        "symbols": ["BTC-USD", "ETH-USD"],
        "parameters": {
            "size": 1000,
            "symbol": "BTC-USD",
            "perc_from_lh": "0.35",
            "close_seconds": 2820,
            "trade_pause_mins": 15,
            "max_lh": 1250,
            "timeframe": "5m",
            "num_bars": 180,
            "max_risk": 1100,
            "sl_perc": "0.1",
            "exit_perc": "0.004",
            "max_tr": 550,
            "quartile": "0.33",
            "time_limit": 120,
            "sleep": 30,
        },
    },
    "mean_reversion": {
        "title": "Mean Reversion",
        "template_version": "1.0.0",
        "enabled": True,
        "exchange": ["hyperliquid"],
        "symbols": ["BTC-USD", "ETH-USD", "SOL-USD"],
        "parameters": {
            "lookback_period": 20,
            "deviation_threshold": "2.0",
            "position_size": "0.015",
            "max_positions": 3,
            "stop_loss": "0.025",
            "take_profit": "0.03",
            "timeframe": "15m",
        },
    },
    "correlation_arbitrage": {
        "title": "Correlation Arbitrage",
        "template_version": "1.0.0",
        "enabled": False,
        "exchange": ["hyperliquid", "phemex"],
        "symbol_pairs": [["BTC-USD", "BTC/USDT"]],
        "parameters": {
            "correlation_window": 100,
            "min_correlation": "0.8",
            "divergence_threshold": "0.02",
            "position_size": "0.01",
            "max_positions": 2,
            "profit_target": "0.005",
            "timeframe": "5m",
        },
    },
}

SYSTEM: dict[str, dict[str, Any]] = {
    "development": {
        "deployment": "development",
        "debug": True,
        "log_level": "INFO",
        "database": {
            "host": "localhost",
            "port": 5432,
            "name": "moondev_dev",
            "username": "postgres",
            "pool_size": 5,
            "max_overflow": 10,
        },
        "redis": {"host": "localhost", "port": 6379, "db": 0},
        "api": {"host": "0.0.0.0", "port": 8000, "workers": 4, "cors_origins": ["http://localhost:3000"]},  # noqa: S104  # it serves others
        "orchestrator": {
            "max_concurrent_strategies": 10,
            "strategy_timeout": 300,
            "health_check_interval": 30,
            "restart_on_failure": True,
        },
        "performance": {"max_latency_ms": 100, "throughput_target": 1000, "memory_limit_mb": 2048},
    },
    "production": {
        "deployment": "production",
        "debug": False,
        "log_level": "WARNING",
        # None: each process takes it from its own environment, as it does passwords.
        "database": {
            "host": None,
            "port": None,
            "name": None,
            "username": None,
            "pool_size": 20,
            "max_overflow": 40,
            "ssl_mode": "require",
        },
        "redis": {"host": None, "port": None, "db": 0},
        "api": {"host": "0.0.0.0", "port": 8000, "workers": 12, "cors_origins": ["https://dashboard.moondev.com"]},  # noqa: S104  # it serves others
        "orchestrator": {
            "max_concurrent_strategies": 50,
            "strategy_timeout": 180,
            "health_check_interval": 15,
            "restart_on_failure": True,
        },
        "performance": {"max_latency_ms": 50, "throughput_target": 5000, "memory_limit_mb": 8192},
    },
}
