"""`configbus.bus()`: one bus for the whole process."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import configbus
from configbus.errors import ConfigBusError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def variables(relay: Any, worker: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CONFIGBUS_REDIS_URL", worker["redis_url"])
    monkeypatch.setenv("CONFIGBUS_ENVIRONMENT", relay.environment)
    yield
    configbus.bus().close()


@pytest.mark.usefixtures("variables")
def test_every_thread_gets_the_one_bus_that_the_first_one_connected() -> None:
    with ThreadPoolExecutor(8) as threads:
        buses = list(threads.map(lambda _: configbus.bus(), range(32)))
    assert len(set(map(id, buses))) == 1
    assert configbus.bus().get("trading.max_slippage_entry_bps") == 100


@pytest.mark.usefixtures("variables")
def test_after_it_was_closed_another_one_is_connected() -> None:
    first = configbus.bus()
    first.close()
    assert first.closed
    second = configbus.bus()
    assert second is not first
    assert not second.closed


@pytest.mark.usefixtures("variables")
def test_inside_a_running_event_loop_it_names_the_bus_that_belongs_there() -> None:
    async def program() -> None:
        with pytest.raises(ConfigBusError, match="AsyncConfigBus"):
            configbus.bus()

    asyncio.run(program())


def test_without_settings_it_says_which_one_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONFIGBUS_REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="CONFIGBUS_REDIS_URL is not set"):
        configbus.bus()
