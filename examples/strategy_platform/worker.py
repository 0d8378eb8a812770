"""A strategy's process: `python -m strategy_platform.worker market_maker`. It trades nothing, it says what it holds."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from configbus import Change, ConfigBus, ConfigBusError
from strategy_platform.domains import StrategyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus import Block


def main(key: str) -> None:
    """Follow one strategy and the limits of risk until SIGTERM or SIGINT."""
    strategy = f"strategy/{key}"
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    with ConfigBus.connect(follow=[strategy, "risk"], require="known") as bus:
        if key not in bus.keys(StrategyConfig):
            print(f"revision {bus.revision}: {strategy} is not there", flush=True)

        @bus.on_change("*")
        def retune(change: Change[Any]) -> None:
            print(f"revision {change.revision}: {_line(change)}", flush=True)

        stop.wait()


def _line(change: Change[Any]) -> str:
    if change.new is None:
        return f"{change.block_name} was retired"
    if change.old is None:
        return f"{change.block_name} {_described(change.new)}"
    found = _differences(change.block_name, change.old, change.new)
    return ", ".join(f"{path} {was} -> {value}" for path, was, value in found)


def _described(block: Block) -> str:
    values = [(path, value) for path, _, value in _differences("", None, block) if value != ()]
    return "holds " + ", ".join(f"{path.removeprefix('.')} {value}" for path, value in values)


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each value that differs, at any depth, with its path, the old one and the new one."""
    if isinstance(new, BaseModel):
        for name in type(new).model_fields:
            yield from _differences(f"{path}.{name}", getattr(old, name, None), getattr(new, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _differences(f"{path}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield path, old, new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="strategy_platform.worker")
    parser.add_argument("key", help="which strategy: market_maker, mean_reversion, ...")
    try:
        main(parser.parse_args().key)
    except ConfigBusError as error:
        sys.exit(f"worker: {error}")
