"""The example of a strategy platform does what its README says, in a schema and a namespace of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zoneinfo
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
import redis
from shell import QuickShell
from strategy_platform.domains import (
    Api,
    Database,
    ExchangeLimits,
    Orchestrator,
    Parameters,
    Performance,
    Redis,
    RiskConfig,
    Schedule,
    StrategyConfig,
    SystemConfig,
    TradingHours,
)
from waiting import until

from configbus import ConfigBus
from configbus.block import domain_of
from configbus.errors import InvalidValue, UnknownBlock
from configbus.values import default_texts, with_values

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0
ROOT = Path(__file__).parents[2]
README = (ROOT / "examples/strategy_platform/README.md").read_text(encoding="utf8")
TEMPLATE = Parameters(
    position_size=Decimal("0.02"),
    max_positions=5,
    leverage=Decimal(2),
    timeframe="5m",
    lookback_period=20,
    stop_loss=Decimal("0.02"),
    take_profit=Decimal("0.04"),
    max_drawdown=Decimal("0.15"),
    order_type="limit",
    slippage_tolerance=Decimal("0.001"),
)


FIRST = {"market_maker": 2, "mean_reversion": 3}
"""The revision at which a strategy is first live."""


class Worker:
    """A running process of the platform, and the lines that it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def says(self, beginning: str) -> str:
        """The first line that begins like this, once it is said."""
        until(lambda: self._found(beginning) or not self._reader.is_alive(), PATIENCE)
        assert self._found(beginning), f"it ended without saying {beginning!r}, after {self.lines}"
        return self._found(beginning)[0]

    def changes(self) -> list[str]:
        """What it said of changes, without what blocks hold when they are first seen."""
        return [line for line in self.lines if " holds " not in line]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def _found(self, beginning: str) -> list[str]:
        return [line for line in self.lines if line.startswith(beginning)]

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))


class Platform:
    """Runs commands in the root of the checkout, with the variables of the example's `env` and these servers."""

    def __init__(self, **servers: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGBUS_")}
        told = subprocess.run(
            ["/bin/sh", "-c", ". examples/strategy_platform/env && env -0"],
            env=clean,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.environ = dict(entry.split("=", 1) for entry in told.split("\0") if entry) | servers
        self.servers = servers
        self._started: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for worker in self._started:
            worker.end(signal.SIGKILL)

    def shell(self, command: str, environment: str = "development", *, status: int = 0) -> str:
        """What a command says on stdout; `.venv/bin/` is where this Python is."""
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace(".venv/bin/", f"{Path(sys.executable).parent}/")],
            env=self.environ | {"CONFIGBUS_ENVIRONMENT": environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def configbus(self, command: str, environment: str = "development", *, status: int = 0) -> str:
        """What `configbus` says on stdout, without a process of its own."""
        done = QuickShell(ROOT, **self.environ | {"CONFIGBUS_ENVIRONMENT": environment})(*command.split())
        assert done.returncode == status, done.stderr
        return done.stdout

    def start(self, *arguments: str) -> Worker:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=self.environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(worker := Worker(process))
        return worker

    def worker(self, key: str) -> Worker:
        return self.start("strategy_platform.worker", key)

    def migrate(self, environment: str = "development") -> None:
        self.configbus("migrate", environment)

    def first_values(self, environment: str = "development") -> list[str]:
        return self.shell(".venv/bin/python -m strategy_platform.first_values", environment).splitlines()

    def bus(self, environment: str = "development") -> ConfigBus:
        return ConfigBus.connect(
            redis_url=self.servers["CONFIGBUS_REDIS_URL"],
            environment=environment,
            namespace="strategy-platform",
            domains="strategy_platform.domains",
            require="known",
        )


@pytest.fixture
def platform(empty_database_url: str, redis_url: str) -> Iterator[Platform]:
    with Platform(
        CONFIGBUS_DATABASE_URL=empty_database_url,
        CONFIGBUS_REDIS_URL=redis_url,
        CONFIGBUS_ENVIRONMENT="development",
        CONFIGBUS_ACTOR="ana",
    ) as platform:
        yield platform


def rows(platform: Platform, query: Any) -> list[Any]:
    with psycopg.connect(platform.servers["CONFIGBUS_DATABASE_URL"]) as connection:
        return connection.execute(query).fetchall()


def set_values(parameters: Parameters) -> dict[str, Any]:
    """The parameters that a strategy has, numbers as they are compared with."""
    return parameters.model_dump(exclude_none=True)


def test_the_first_values_are_those_of_the_platform_and_are_put_once(platform: Platform) -> None:
    platform.migrate()
    assert platform.first_values() == [
        "strategy/market_maker: activated, revision 2",
        "strategy/mean_reversion: activated, revision 3",
        "strategy/correlation_arbitrage: activated, revision 4",
        "system: is so already",
    ]
    before = rows(platform, "SELECT revision, reason, actor FROM strategy_platform.release ORDER BY 1")
    assert before[1:] == [(number, "first values", "ana") for number in (2, 3, 4)]
    again = platform.first_values()
    assert again[0] == "strategy/market_maker: is there already"
    assert rows(platform, "SELECT revision, reason, actor FROM strategy_platform.release ORDER BY 1") == before

    with platform.bus() as bus:
        assert bus.revision == 4
        assert bus.keys(StrategyConfig) == ["correlation_arbitrage", "market_maker", "mean_reversion"]

        maker = bus.block(StrategyConfig, key="market_maker")
        assert (maker.title, maker.template_version, maker.enabled) == ("Market Maker", "1.0.0", True)
        assert (maker.exchange, maker.symbols, maker.symbol_pairs) == (("hyperliquid",), ("BTC-USD", "ETH-USD"), ())
        assert set_values(maker.parameters) == {
            "size": 1000,
            "symbol": "BTC-USD",
            "perc_from_lh": Decimal("0.35"),
            "close_seconds": 2820,
            "trade_pause_mins": 15,
            "max_lh": 1250,
            "timeframe": "5m",
            "num_bars": 180,
            "max_risk": 1100,
            "sl_perc": Decimal("0.1"),
            "exit_perc": Decimal("0.004"),
            "max_tr": 550,
            "quartile": Decimal("0.33"),
            "time_limit": 120,
            "sleep": 30,
        }
        reversion = bus.block(StrategyConfig, key="mean_reversion")
        assert (reversion.title, reversion.enabled) == ("Mean Reversion", True)
        assert (reversion.exchange, reversion.symbols) == (("hyperliquid",), ("BTC-USD", "ETH-USD", "SOL-USD"))
        assert set_values(reversion.parameters) == {
            "lookback_period": 20,
            "deviation_threshold": 2,
            "position_size": Decimal("0.015"),
            "max_positions": 3,
            "stop_loss": Decimal("0.025"),
            "take_profit": Decimal("0.03"),
            "timeframe": "15m",
        }
        arbitrage = bus.block(StrategyConfig, key="correlation_arbitrage")
        assert (arbitrage.title, arbitrage.enabled) == ("Correlation Arbitrage", False)
        assert (arbitrage.exchange, arbitrage.symbols) == (("hyperliquid", "phemex"), ())
        assert arbitrage.symbol_pairs == (("BTC-USD", "BTC/USDT"),)
        assert set_values(arbitrage.parameters) == {
            "correlation_window": 100,
            "min_correlation": Decimal("0.8"),
            "divergence_threshold": Decimal("0.02"),
            "position_size": Decimal("0.01"),
            "max_positions": 2,
            "profit_target": Decimal("0.005"),
            "timeframe": "5m",
        }
        always = Schedule(
            enabled=True,
            timezone="UTC",
            trading_hours=TradingHours(start="00:00", end="23:59"),
            exclude_weekends=False,
        )
        assert {bus.get(f"strategy/{key}.schedule") for key in bus.keys(StrategyConfig)} == {always}

        assert bus.block(SystemConfig) == SystemConfig(
            deployment="development",
            debug=True,
            log_level="INFO",
            database=Database(
                host="localhost", port=5432, name="moondev_dev", username="postgres", pool_size=5, max_overflow=10
            ),
            redis=Redis(host="localhost", port=6379, db=0),
            api=Api(host="0.0.0.0", port=8000, workers=4, cors_origins=("http://localhost:3000",)),  # noqa: S104  # a value, nothing listens
            orchestrator=Orchestrator(
                max_concurrent_strategies=10, strategy_timeout=300, health_check_interval=30, restart_on_failure=True
            ),
            performance=Performance(max_latency_ms=100, throughput_target=1000, memory_limit_mb=2048),
        )
        risk = bus.block(RiskConfig)
        assert risk.global_limits.model_dump() == {
            "max_portfolio_risk": Decimal("0.25"),
            "max_position_size": Decimal("0.10"),
            "max_strategy_drawdown": Decimal("0.15"),
            "max_leverage": 3,
            "max_correlation": Decimal("0.7"),
            "min_liquidity": 5000,
            "max_daily_loss": Decimal("0.08"),
            "position_timeout": 7200,
        }
        assert risk.position_sizing.model_dump() == {
            "base_size": Decimal("0.02"),
            "max_size": Decimal("0.05"),
            "volatility_adjustment": True,
            "correlation_adjustment": True,
            "kelly_fraction": Decimal("0.25"),
        }
        assert risk.circuit_breakers.model_dump() == {
            "loss_threshold": Decimal("0.10"),
            "profit_target": Decimal("0.20"),
            "timeout_period": 300,
        }
        assert risk.exchange_limits == {
            "hyperliquid": ExchangeLimits(
                max_open_orders=20, max_position_value=Decimal(50000), rate_limit_per_second=10
            ),
            "phemex": ExchangeLimits(max_open_orders=15, max_position_value=Decimal(30000), rate_limit_per_second=5),
        }


def test_production_has_a_system_of_its_own_and_no_secret(platform: Platform, redis_url: str) -> None:
    for environment in ("development", "production", "staging"):
        platform.migrate(environment)
    assert platform.first_values("production")[-1] == "system: set, revision 5"
    assert platform.first_values("production")[-1] == "system: left as it is"
    assert platform.first_values("staging")[-1] == "system: left as it is"
    with platform.bus("production") as bus:
        assert bus.block(SystemConfig) == SystemConfig(
            deployment="production",
            debug=False,
            log_level="WARNING",
            database=Database(
                host=None, port=None, name=None, username=None, pool_size=20, max_overflow=40, ssl_mode="require"
            ),
            redis=Redis(host=None, port=None, db=0),
            api=Api(host="0.0.0.0", port=8000, workers=12, cors_origins=("https://dashboard.moondev.com",)),  # noqa: S104  # as above
            orchestrator=Orchestrator(
                max_concurrent_strategies=50, strategy_timeout=180, health_check_interval=15, restart_on_failure=True
            ),
            performance=Performance(max_latency_ms=50, throughput_target=5000, memory_limit_mb=8192),
        )
        assert bus.block(RiskConfig) == RiskConfig()
    assert platform.configbus("get system.deployment") == "development\n"

    assert rows(platform, "SELECT to_regnamespace('configbus')") == [(None,)]
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        keys = sorted(client.scan_iter())
    assert keys
    assert {key.partition("{")[0] for key in keys} == {"strategy-platform:"}
    with pytest.raises(UnknownBlock, match="trading"), platform.bus("production") as bus:
        bus.get("trading.score_threshold")


def test_first_values_bring_back_nothing_that_somebody_took_away(platform: Platform) -> None:
    platform.migrate("production")
    platform.first_values("production")
    platform.configbus("set system.debug=true", "production")
    platform.configbus("retire strategy/mean_reversion", "production")
    assert "strategy/mean_reversion: is there already" in platform.first_values("production")
    assert platform.configbus("get system.debug", "production") == "true\n"
    platform.configbus("get strategy/mean_reversion", "production", status=4)


@pytest.mark.timeout(120)
def test_what_the_readme_shows_happens(platform: Platform) -> None:
    commands = [
        command.replace("\n    ", " ")
        for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
        for command in re.findall(r"^\$ (.*(?:\n    .*)*)", block, re.MULTILINE)
    ]
    shown = [block.splitlines() for block in re.findall(r"```text\n(.*?)```", README, re.DOTALL)]
    promised = dict(zip(("market_maker", "mean_reversion"), shown, strict=True))
    workers: dict[str, Worker] = {}
    said: dict[str, str] = {}
    for command in commands:
        if command.startswith(". "):
            continue
        if command == ".venv/bin/configbus up":
            platform.migrate()
            platform.start("configbus", "relay")
        elif "strategy_platform.worker" in command:
            key = command.split()[-1]
            workers[key] = platform.worker(key)
            workers[key].says(f"revision {FIRST[key]}: strategy/{key} holds")
            workers[key].says("revision 1: risk holds")
        elif command.split()[0] not in ("psql", "redis-cli") or shutil.which(command.split()[0]):
            said[command] = platform.shell(command)
            for key, lines in promised.items():
                for line in lines:
                    if line.startswith(f"revision {said[command].strip()}:"):
                        workers[key].says(line)
    maker, reversion = workers["market_maker"], workers["mean_reversion"]
    assert "parameters.size 1000" in maker.says("revision 2: ")
    assert maker.changes() == promised["market_maker"]
    back = reversion.says("revision 8: ").removeprefix("revision 8: ")
    assert back == reversion.says("revision 3: ").removeprefix("revision 3: ")
    assert sorted(reversion.changes()) == sorted(promised["mean_reversion"])
    assert "refused\n" in said.values()
    assert "deployment = production\n" in said[".venv/bin/configbus get system --environment production"]
    with platform.bus() as bus:
        assert bus.block(StrategyConfig, key="scalper") == StrategyConfig(
            title="Scalper", enabled=False, parameters=TEMPLATE
        )
        assert bus.get("strategy/market_maker.parameters.size") == 1200
        assert bus.get("strategy/mean_reversion.parameters.max_positions") == 3
    assert maker.end(signal.SIGTERM) == 0
    assert reversion.end(signal.SIGINT) == 0


def test_a_worker_waits_for_a_strategy_that_is_not_there_yet(platform: Platform) -> None:
    platform.migrate()
    platform.configbus("set risk.circuit_breakers.timeout_period=301")
    worker = platform.worker("market_maker")
    assert worker.says("revision 2") == "revision 2: strategy/market_maker is not there"
    platform.first_values()
    worker.says("revision 3: strategy/market_maker holds title Market Maker")
    platform.configbus("set risk.exchange_limits.phemex.max_open_orders=16")
    worker.says("revision 6: risk.exchange_limits.phemex.max_open_orders 15 -> 16")
    assert worker.end(signal.SIGINT) == 0


def test_rules_across_fields_hold_for_plain_sql_too(platform: Platform) -> None:
    platform.migrate()
    refused = {
        "position_sizing = jsonb_set(position_sizing, '{base_size}', '\"0.06\"')": "sizing_rises",
        "position_sizing = jsonb_set(position_sizing, '{max_size}', '\"0.11\"')": "sizing_within_limit",
    }
    for change, rule in refused.items():
        with pytest.raises(psycopg.errors.CheckViolation, match=rule):
            rows(platform, f"UPDATE strategy_platform.risk_config SET {change} RETURNING 1")  # noqa: S608  # fixed texts


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("parameters.size", -1, "greater than or equal to 0"),
        ("parameters.size", "0.001", "decimal places"),
        ("parameters.perc_from_lh", "1.5", "less than or equal to 1"),
        ("parameters.max_positions", 0, "greater than or equal to 1"),
        ("parameters.timeframe", "5min", "'5m'"),
        ("parameters.symbol", "SOL-USD", "must be one of symbols"),
        ("parameters", {"sise": 1}, "did you mean 'size'"),
        ("symbols", ["BTC-USD", "BTC-USD"], "names something twice"),
        ("template_version", "1.0", "pattern"),
        ("schedule.timezone", "Mars/Olympus", "no time zone"),
        ("schedule.timezone", "../etc/passwd", "no time zone"),
        ("schedule.trading_hours.end", "24:00", "pattern"),
        ("schedule.trading_hours.end", "00:00", "start must be before end"),
    ],
)
def test_the_models_refuse_what_makes_no_sense(path: str, value: Any, words: str) -> None:
    domain = domain_of(StrategyConfig)
    with pytest.raises(InvalidValue, match=re.escape(words)):
        with_values(domain, "strategy/x", default_texts(domain), [(path.split("."), value)])


@pytest.mark.skipif("Europe/Berlin" not in zoneinfo.available_timezones(), reason="there is no time zone database here")
def test_a_strategy_may_keep_the_hours_of_another_place() -> None:
    domain = domain_of(StrategyConfig)
    schedule = {
        "enabled": True,
        "timezone": "Europe/Berlin",
        "trading_hours": {"start": "09:00", "end": "17:30"},
        "exclude_weekends": True,
    }
    block = with_values(domain, "strategy/x", default_texts(domain), [(["schedule"], schedule)])
    assert block.model_dump()["schedule"] == schedule
