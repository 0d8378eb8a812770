"""A wall clock that is a day wrong, or jumps by days: neither the order of things nor their freshness goes by it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from buses import connected_bus
from relays import running_relay

from configbus.author import Author
from configbus.settings import load_settings
from faults.cluster import last_for, note_times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from faults.cluster import Cluster

DAY = 86_400.0
DOWN = "redis://127.0.0.1:1/0"
DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])


def set_clock(path: Path, wrong: float) -> None:
    """A clock that goes wrong by so many seconds, at once and for all who read this file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(str(wrong))
    fresh.rename(path)


@pytest.mark.long
def test_c8_jumps_of_the_wall_clock_change_nothing(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    clock = cluster.directory / "clock"
    set_clock(clock, 0.0)
    kept = str(cluster.directory / "kept")
    cluster.start_relay()
    cluster.start_workers(WALL_CLOCK=str(clock), CONFIGBUS_SNAPSHOT_DIR=kept)
    cluster.settle()
    last_for(1.0)
    cluster.healed()
    with cluster.load(240) as load:
        for number, wrong in enumerate((DAY, -DAY, 0.0, -DAY, DAY), 1):
            load.reached(40 * number)
            set_clock(clock, wrong)
            cluster.healed()
    times = cluster.finish(limit=0.5)
    for life in cluster.lives():
        assert {sample.state for sample in life.samples if sample.at > cluster.heals[0]} == {"live"}
        assert max(told.at for told in life.told) < cluster.heals[0], "nobody was told of anything"
    note_times("C8", "wall clock a day wrong, both ways", 0.5, times)


@contextmanager
def wrong_clock(monkeypatch: pytest.MonkeyPatch, wrong: float) -> Iterator[None]:
    real = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + wrong)
        yield


@DRIVERS
@pytest.mark.parametrize(("written", "read"), [(0.0, 0.0), (DAY, 0.0), (-DAY, 0.0), (DAY, -DAY)])
def test_c8_what_is_kept_is_never_of_the_future(
    driver: str, written: float, read: float, bare_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = bare_cluster
    ordinary: dict[str, Any] = {name: value for name, value in cluster.settings.items() if name != "database_url"}
    keeping = ordinary | {"snapshot_dir": str(cluster.directory / "kept")}
    with (
        running_relay(load_settings({}, **cluster.settings)),
        wrong_clock(monkeypatch, written),
        Author.connect(**cluster.settings, actor="tester") as author,
        connected_bus(driver, **keeping, require="live") as bus,
    ):
        bus.wait_for(author.set({"risk.drawdown_lookback_days": 77}))
        assert 0 <= bus.reads.age <= 3
    with (
        wrong_clock(monkeypatch, read),
        connected_bus(driver, **keeping | {"redis_url": DOWN}, require="known", start_timeout=0.5) as again,
    ):
        assert (again.reads.origin, again.reads.state, again.reads.revision) == ("snapshot", "offline", 2)
        assert again.reads.age >= 0, "what seems to be of the future has an unknown age, or none"
        if read >= written:
            assert 0 <= again.reads.age - (read - written) <= 60
        with wrong_clock(monkeypatch, -DAY):
            assert again.reads.age >= 0
