"""configbus: typed configuration in Postgres, changed in transactions, new in every worker at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configbus.errors import ConfigBusError

if TYPE_CHECKING:
    from configbus.aio import AsyncConfigBus
    from configbus.block import Block
    from configbus.change import Change
    from configbus.client import ConfigBus
    from configbus.shared import bus
    from configbus.snapshot import Snapshot, State
    from configbus.wire import Release

__all__ = ["AsyncConfigBus", "Block", "Change", "ConfigBus", "ConfigBusError", "Release", "Snapshot", "State", "bus"]

_HOMES = {
    "AsyncConfigBus": "aio",
    "Block": "block",
    "Change": "change",
    "ConfigBus": "client",
    "Release": "wire",
    "Snapshot": "snapshot",
    "State": "snapshot",
    "bus": "shared",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and nothing else: the asyncio half costs a worker on threads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'configbus' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"configbus.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
