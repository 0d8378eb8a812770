"""Buses for tests of programs that use configbus: values in memory, no server, no thread, no network.

    bus = fake_bus({"trading.score_threshold": "0.8", "strategy/market_maker.parameters.size": 1200})
    run_the_code_under_test(bus)
    bus.set_values({"trading.score_threshold": "0.9"})
    with bus.with_values({"risk.max_drawdown_pct": 15}): ...

They are a ConfigBus and an AsyncConfigBus to whoever takes one, and read, validate and tell of
changes by the same code. What only Postgres checks, `table_checks` in SQL, is not checked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configbus.testing.aiofake import FakeAsyncBus
from configbus.testing.fake import FakeBus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FakeAsyncBus", "FakeBus", "fake_async_bus", "fake_bus"]


def fake_bus(values: Mapping[str, Any] | None = None, *, domains: Iterable[str] | str | None = None) -> FakeBus:
    """A bus on the models' defaults and the given values, at revision 1.

    Paths are those of `Author.set`, and a block's name may stand with a mapping of its fields:
    `{"strategy/market_maker": {"parameters.size": 1200}}`. Naming a keyed block makes it exist, with `{}`
    on its defaults. `domains` are modules, by default those of CONFIGBUS_DOMAINS.
    Raises InvalidValue, UnknownBlock and UnknownField just as an author does, and SettingsError.
    """
    return FakeBus(values, domains)


def fake_async_bus(
    values: Mapping[str, Any] | None = None, *, domains: Iterable[str] | str | None = None
) -> FakeAsyncBus:
    """The same for asyncio programs; it may be made where no loop runs."""
    return FakeAsyncBus(values, domains)
