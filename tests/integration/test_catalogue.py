"""The built-in catalogue, field by field: what is asked for, what Postgres has, and what model and database refuse."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import ValidationError

from configbus.catalogue import load_catalogue
from configbus.domains import DrawdownTier, TradingConfig
from configbus.names import LIFECYCLE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.block import Block
    from configbus.fields import Column

Psql = psycopg.Connection[dict[str, Any]]

# Domain, field, type and default; of a tier, the threshold and the reduction. Only what has no default may be NULL.
ASKED_FOR = """\
trading base_position_pct numeric(5,2) 2.00
trading max_position_sol numeric(20,8) 1.00000000
trading min_position_sol numeric(20,8) 0.05000000
trading high_conviction_multiplier numeric(5,2) 1.50
trading sizing_mode text risk_based
trading risk_per_trade_pct numeric(5,2) 1.00
trading max_concurrent_positions integer 5
trading daily_loss_limit_pct numeric(5,2) 5.00
trading daily_loss_limit_enabled boolean true
trading max_concentration_token_pct numeric(5,2) 25.00
trading max_concentration_cluster_pct numeric(5,2) 50.00
trading max_positions_per_cluster integer 3
trading drawdown_reduction_tiers jsonb 5:0,10:25,15:50,20:100
trading score_threshold numeric(4,3) 0.700
trading high_conviction_threshold numeric(4,3) 0.850
trading max_slippage_entry_bps integer 100
trading max_slippage_exit_bps integer 150
scoring wallet_score_weight numeric(4,3) 0.300
scoring timing_score_weight numeric(4,3) 0.250
scoring market_score_weight numeric(4,3) 0.200
scoring cluster_score_weight numeric(4,3) 0.250
scoring wallet_win_rate_weight numeric(4,3) 0.400
scoring wallet_avg_pnl_weight numeric(4,3) 0.300
scoring wallet_consistency_weight numeric(4,3) 0.300
scoring timing_decay_hours integer 4
scoring timing_freshness_bonus numeric(4,3) 0.200
scoring market_liquidity_threshold numeric(20,2) 10000.00
scoring market_volume_threshold numeric(20,2) 5000.00
scoring cluster_min_sync_ratio numeric(4,3) 0.300
scoring cluster_amplification_factor numeric(4,3) 1.200
discovery run_interval_minutes integer 60
discovery max_wallets_per_run integer 100
discovery min_wallet_age_days integer 30
discovery min_win_rate numeric(4,3) 0.550
discovery min_trades integer 10
discovery min_avg_pnl_pct numeric(8,2) 20.00
discovery max_avg_loss_pct numeric(8,2) -30.00
discovery decay_lookback_days integer 30
discovery decay_threshold numeric(4,3) 0.150
discovery decay_check_interval_hours integer 24
discovery pump_volume_spike_threshold numeric(8,2) 3.00
discovery pump_price_spike_threshold numeric(8,2) 2.00
cluster min_cluster_size integer 3
cluster max_cluster_size integer 20
cluster similarity_threshold numeric(4,3) 0.700
cluster sync_time_window_minutes integer 60
cluster sync_token_overlap_threshold numeric(4,3) 0.300
cluster leader_min_followers integer 2
cluster leader_time_advantage_minutes integer 5
cluster enable_cluster_amplification boolean true
cluster amplification_max_boost numeric(4,3) 1.500
risk circuit_breaker_enabled boolean true
risk circuit_breaker_loss_threshold numeric(5,2) 10.00
risk circuit_breaker_cooldown_minutes integer 60
risk max_drawdown_pct numeric(5,2) 20.00
risk drawdown_lookback_days integer 30
risk max_order_attempts integer 3
risk retry_delay_base_seconds integer 5
risk retry_delay_multiplier numeric(4,2) 3.00
risk emergency_exit_threshold_pct numeric(5,2) 50.00
exit default_strategy_standard_id uuid NULL
exit default_strategy_high_conviction_id uuid NULL
exit default_max_hold_hours integer 168
exit stagnation_hours integer 24
exit stagnation_threshold_pct numeric(5,2) 5.00
exit price_collection_interval_seconds integer 5
exit price_history_retention_days integer 30
api dexscreener_requests_per_minute integer 30
api birdeye_requests_per_minute integer 60
api jupiter_requests_per_minute integer 100
api helius_requests_per_minute integer 100
api api_timeout_seconds integer 10
api rpc_timeout_seconds integer 30
api api_retry_count integer 3
api api_retry_backoff_seconds integer 1
api price_cache_ttl_seconds integer 5
api token_info_cache_ttl_seconds integer 300
""".splitlines()

CATALOGUE = load_catalogue(["configbus.domains"])
NAMES = ("trading", "scoring", "discovery", "cluster", "risk", "exit", "api")
FIELDS = [line.split()[:3] for line in ASKED_FOR]
NUMBERS = [(domain, field) for domain, field, kind in FIELDS if kind.startswith(("numeric", "integer"))]
ENDLESS = {("trading", "max_position_sol"), ("trading", "min_position_sol")}
"""Bounded above by the digits of their columns alone."""
REFUSALS = {">=": "greater_than_equal", ">": "greater_than", "<=": "less_than_equal", "<": "less_than"}

SIGNALS = ("wallet_score_weight", "timing_score_weight", "market_score_weight", "cluster_score_weight")
WALLET = ("wallet_win_rate_weight", "wallet_avg_pnl_weight", "wallet_consistency_weight")
SIZES = ("min_cluster_size", "max_cluster_size")
POSITIONS = ("min_position_sol", "max_position_sol")

Values = dict[str, Any]

BROKEN: list[tuple[str, str, tuple[str, ...], Values]] = [
    *(("scoring", "signal_weights", SIGNALS, {name: value}) for name in SIGNALS for value in ("0.199", "0.301")),
    *(("scoring", "wallet_weights", WALLET, {name: value}) for name in WALLET for value in ("0.299", "0.401")),
    ("cluster", "size_range", SIZES, {"min_cluster_size": 21}),
    ("cluster", "size_range", SIZES, {"max_cluster_size": 2}),
    ("trading", "position_range", POSITIONS, {"min_position_sol": "1.00000001"}),
    ("trading", "position_range", POSITIONS, {"max_position_sol": "0.04999999"}),
]
KEPT: list[tuple[str, Values]] = [
    ("scoring", dict(zip(SIGNALS, ("0.299", "0.251", "0.201", "0.249"), strict=True))),
    ("scoring", dict(zip(SIGNALS, ("0", "0", "1", "0"), strict=True))),
    ("scoring", dict(zip(WALLET, ("0.333", "0.333", "0.334"), strict=True))),
    ("cluster", {"min_cluster_size": 20}),
    ("cluster", {"max_cluster_size": 3}),
    ("trading", {"min_position_sol": "1"}),
    ("trading", {"score_threshold": "0.9", "high_conviction_threshold": "0.8"}),
]


@pytest.fixture
def psql(database_url: str) -> Iterator[Psql]:
    """An operator at the database itself; every statement is a transaction of its own."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("SET search_path = configbus")
        yield connection


def model_of(domain: str) -> type[Block]:
    return CATALOGUE.domain(domain).model


def column_of(domain: str, field: str) -> Column:
    return next(column for column in CATALOGUE.domain(domain).columns if column.name == field)


def columns(psql: Psql, domain: str) -> list[dict[str, Any]]:
    """Name, type, whether NULL is refused, and the comment of each column but those of the lifecycle, in order."""
    query = (
        "SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS required,"
        " col_description(attrelid, attnum) AS comment FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    found = psql.execute(query, [f"{domain}_config"]).fetchall()
    return [column for column in found if column["name"] not in LIFECYCLE_COLUMNS]


def update(psql: Psql, domain: str, values: Values) -> None:
    """An operator's own edit of the active row."""
    table = sql.Identifier(f"{domain}_config")
    pairs = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
    statement = sql.SQL("UPDATE {} SET {} WHERE status = 'active'").format(table, pairs)
    assert psql.execute(statement, list(values.values())).rowcount == 1


def written(value: Any) -> str:
    """A value as the list above has it."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value).lower()
        case list():
            tiers = [tier if isinstance(tier, dict) else tier.model_dump() for tier in value]
            return ",".join(f"{tier['threshold_pct']}:{tier['size_reduction_pct']}" for tier in tiers)
        case _:
            return str(value)


def refusals(model: type[Block], values: Values) -> list[tuple[str, str]]:
    """Where and for what kind of fault the model refuses the values."""
    try:
        model(**values)
    except ValidationError as error:
        return [(".".join(map(str, fault["loc"])), fault["type"]) for fault in error.errors()]
    return []


def beside(column: Column, operator: str, bound: Any) -> tuple[Decimal, Decimal]:
    """The outermost value that a bound lets through, and the next one, which it does not."""
    step = Decimal(1).scaleb(-column.places) * (1 if operator.startswith(">") else -1)
    inside = bound if operator.endswith("=") else bound + step
    return Decimal(inside), inside - step


def test_the_built_in_domains_are_those_asked_for() -> None:
    assert {domain.name for domain in CATALOGUE} == set(NAMES) == {domain for domain, *_ in FIELDS}
    assert not any(domain.keyed for domain in CATALOGUE)


@pytest.mark.parametrize("status", ["default", "active"])
@pytest.mark.parametrize("domain", NAMES)
def test_table_and_first_rows_are_as_asked_for(psql: Psql, domain: str, status: str) -> None:
    query = sql.SQL("SELECT * FROM {} WHERE status = {}").format(
        sql.Identifier(f"{domain}_config"), sql.Literal(status)
    )
    (row,) = psql.execute(query).fetchall()
    found = columns(psql, domain)
    lines = [f"{domain} {column['name']} {column['type']} {written(row[column['name']])}" for column in found]
    assert lines == [line for line in ASKED_FOR if line.startswith(f"{domain} ")]
    assert [column["required"] for column in found] == [not line.endswith(" NULL") for line in lines]


@pytest.mark.parametrize("domain", NAMES)
def test_model_defaults_are_as_asked_for(domain: str) -> None:
    block = model_of(domain)()
    lines = [f"{domain} {name} {written(getattr(block, name))}" for name in type(block).model_fields]
    asked = [line.split() for line in ASKED_FOR if line.startswith(f"{domain} ")]
    assert lines == [f"{domain} {name} {default}" for _, name, _, default in asked]


@pytest.mark.parametrize("domain", NAMES)
def test_every_column_has_the_comment_that_its_field_has(psql: Psql, domain: str) -> None:
    fields = model_of(domain).model_fields
    comments = {column["name"]: column["comment"] for column in columns(psql, domain)}
    assert [name for name in fields if not (comments[name] or "").strip()] == []
    assert comments == {name: field.description for name, field in fields.items()}
    (table,) = psql.execute("SELECT obj_description(%s::regclass) AS comment", [f"{domain}_config"]).fetchall()
    assert table["comment"] == model_of(domain).__doc__


@pytest.mark.parametrize(("domain", "field", "kind"), FIELDS, ids=[f"{domain}.{field}" for domain, field, _ in FIELDS])
def test_a_description_tells_the_unit(domain: str, field: str, kind: str) -> None:
    description = model_of(domain).model_fields[field].description or ""
    units = {
        "pct": "percent",
        "bps": "basis points",
        "sol": "SOL",
        "seconds": "seconds",
        "minutes": "minutes",
        "hours": "hours",
        "days": "days",
        "minute": "per minute",
    }
    assert units.get(field.rpartition("_")[2], "") in description
    if kind == "numeric(4,3)":
        assert description.endswith((", 0 to 1", ", 1 or more"))


@pytest.mark.parametrize(("domain", "field"), NUMBERS, ids=map(".".join, NUMBERS))
def test_a_number_beyond_its_bounds_is_refused_by_model_and_database(psql: Psql, domain: str, field: str) -> None:
    model, column = model_of(domain), column_of(domain, field)
    sides = [operator[0] for operator, _ in column.bounds]
    assert sides == ([">"] if (domain, field) in ENDLESS else [">", "<"])
    # Rules across fields would answer first: this is about the check of the one field.
    for rule in model.table_checks:
        drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}")
        psql.execute(drop.format(sql.Identifier(f"{domain}_config"), sql.Identifier(f"{rule}_rule")))
    for operator, bound in column.bounds:
        inside, outside = beside(column, operator, bound)
        update(psql, domain, {field: inside})
        assert field not in dict(refusals(model, {field: inside}))
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            update(psql, domain, {field: outside})
        assert caught.value.diag.constraint_name == f"{field}_range"
        assert refusals(model, {field: outside}) == [(field, REFUSALS[operator])]


@pytest.mark.parametrize(
    ("domain", "rule", "fields", "values"),
    BROKEN,
    ids=[f"{domain}-{'-'.join(f'{name}={value}' for name, value in values.items())}" for domain, *_, values in BROKEN],
)
def test_a_rule_across_fields_holds_in_model_and_database(
    psql: Psql, domain: str, rule: str, fields: tuple[str, ...], values: Values
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        update(psql, domain, values)
    assert caught.value.diag.constraint_name == f"{rule}_rule"
    with pytest.raises(ValidationError) as refused:
        model_of(domain)(**values)
    (fault,) = refused.value.errors()
    assert fault["loc"] == ()
    assert [name for name in fields if name not in fault["msg"]] == []


@pytest.mark.parametrize(("domain", "values"), KEPT, ids=[f"{domain}-{','.join(values)}" for domain, values in KEPT])
def test_what_keeps_the_rules_is_taken_by_model_and_database(psql: Psql, domain: str, values: Values) -> None:
    update(psql, domain, values)
    assert refusals(model_of(domain), values) == []


def test_every_rule_across_fields_is_tested_here() -> None:
    assert {(domain.name, rule) for domain in CATALOGUE for rule in domain.model.table_checks} == {
        (domain, rule) for domain, rule, *_ in BROKEN
    }


def tiers(text: str) -> list[dict[str, str]]:
    pairs = [part.split(":") for part in text.split(",") if part]
    return [{"threshold_pct": threshold, "size_reduction_pct": reduction} for threshold, reduction in pairs]


@pytest.mark.parametrize("given", ["", "0:0", "5:10,10:10", "5:0,10:25,15:50,20:100", "0.01:0,99.99:0.01,100:100"])
def test_drawdown_tiers_that_rise_are_taken(given: str) -> None:
    block = TradingConfig.model_validate({"drawdown_reduction_tiers": tiers(given)})
    assert written(list(block.drawdown_reduction_tiers)) == given
    assert all(isinstance(tier, DrawdownTier) for tier in block.drawdown_reduction_tiers)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("10:0,5:25", "drawdown_reduction_tiers must have rising thresholds"),
        ("5:0,5:25", "drawdown_reduction_tiers must have rising thresholds"),
        ("5:0,10:25,15:50,15:100", "drawdown_reduction_tiers must have rising thresholds"),
        ("5:25,10:0", "drawdown_reduction_tiers must not have a falling size_reduction_pct"),
        ("5:0,10:25,15:50,20:49.99", "drawdown_reduction_tiers must not have a falling size_reduction_pct"),
        ("100.01:0", "less than or equal to 100"),
        ("-0.01:0", "greater than or equal to 0"),
        ("5:100.01", "less than or equal to 100"),
        ("5:-0.01", "greater than or equal to 0"),
        ("5:0.001", "no more than 2 decimal places"),
    ],
)
def test_drawdown_tiers_that_make_no_sense_are_refused(given: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TradingConfig.model_validate({"drawdown_reduction_tiers": tiers(given)})
