"""Children made by fork: they connect by themselves on first use, and the parent is left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from waiting import until

from configbus import AsyncConfigBus, ConfigBus
from configbus.domains import RiskConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.author import Author
    from configbus.settings import Settings

pytestmark = pytest.mark.usefixtures("relay")
PATIENCE = 20.0


def in_child(work: Callable[[], Any]) -> Any:
    """What this returns in a child made by os.fork; its traceback where it raises."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(work(), default=str).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return json.loads(told)


def connections(redis_url: str) -> set[str]:
    with redis.Redis.from_url(redis_url) as client:
        return {entry["id"] for entry in client.client_list() if entry["name"].startswith("configbus-")}


def test_a_child_follows_by_itself_and_the_parent_goes_on(worker: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:

        def work() -> Any:
            seen = [bus.get("risk.max_order_attempts")]
            bus.wait_for(author_release(bus), timeout=PATIENCE)
            until(lambda: bus.state == "live")
            return [*seen, bus.get("risk.max_order_attempts"), threading.active_count()]

        def author_release(child: ConfigBus) -> int:
            child.refresh(timeout=PATIENCE)
            os.write(ready[1], b".")
            return 2

        ready = os.pipe()
        changer = threading.Thread(target=lambda: (os.read(ready[0], 1), author.set({"risk.max_order_attempts": 9})))
        changer.start()
        assert in_child(work)[:2] == [3, 9]
        changer.join()
        bus.wait_for(2)
        until(lambda: bus.state == "live")
        bus.wait_for(author.set({"risk.max_order_attempts": 10}))
    for end in ready:
        os.close(end)


@pytest.mark.parametrize("given", [None, "alpha"])
def test_each_child_has_a_name_of_its_own(worker: dict[str, Any], given: str | None) -> None:
    with ConfigBus.connect(**worker, worker=given, require="live") as bus:

        def work() -> str:
            bus.refresh(timeout=PATIENCE)
            name = f"{given or socket.gethostname()}:{os.getpid()}"
            with redis.Redis.from_url(worker["redis_url"], decode_responses=True) as client:
                until(lambda: client.zscore("configbus:{production}:workers", name) is not None)
            return name

        child, grandchild = in_child(work), in_child(lambda: in_child(work))
        assert child != grandchild


def test_a_child_that_asks_for_its_age_alone_follows_too(worker: dict[str, Any]) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:

        def work() -> None:
            begun = bus.age
            until(lambda: bus.age < begun)

        in_child(work)


def test_a_child_that_uses_nothing_connects_to_nothing(worker: dict[str, Any], redis_url: str) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:
        before = connections(redis_url)
        started = in_child(lambda: [threading.active_count(), sorted(connections(redis_url))])
        assert started == [1, sorted(before)]
        assert in_child(bus.close) is None
        bus.refresh()
        assert connections(redis_url) == before


def test_callbacks_of_the_parent_are_called_in_the_child_anew(worker: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:
        heard: list[Any] = []
        states: list[str] = []
        bus.on_change(
            RiskConfig,
            lambda change: heard.append((change.old is None, change.new.max_order_attempts if change.new else None)),
        )
        bus.on_state(lambda _old, new: states.append(str(new)))
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
        until(lambda: len(heard) == 2)

        def work() -> Any:
            heard.clear()
            bus.refresh(timeout=PATIENCE)
            until(lambda: bool(heard))
            return heard

        assert in_child(work) == [[True, 9]]
        assert heard == [(True, 3), (False, 9)]


def test_a_child_leaves_no_socket_behind(worker: dict[str, Any]) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:

        def sockets() -> int:
            return sum(entry.readlink().parts[0].startswith("socket:") for entry in open_files())

        def work() -> tuple[int, int]:
            unused = sockets()
            bus.refresh(timeout=PATIENCE)
            return unused, sockets()

        unused, used = in_child(work)
        assert (unused, used) == (sockets() - 4, sockets())


def open_files() -> list[Path]:
    with os.scandir("/proc/self/fd") as entries:
        found = [Path(entry.path) for entry in entries]
    return [entry for entry in found if entry.is_symlink()]


def test_a_child_of_a_child_follows_too(worker: dict[str, Any]) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:

        def live() -> str:
            until(lambda: bus.state == "live")
            return str(bus.state)

        assert in_child(lambda: [live(), in_child(live)]) == ["live", "live"]


def test_a_closed_bus_stays_closed_in_a_child_and_serves_its_last_values(worker: dict[str, Any]) -> None:
    bus = ConfigBus.connect(**worker, require="live")
    bus.close()
    assert in_child(lambda: [bus.closed, bus.get("risk.max_order_attempts"), bus.state]) == [True, 3, "stale"]


def test_a_bus_that_a_child_closes_stays_closed_there(worker: dict[str, Any]) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:

        def work() -> Any:
            bus.close()
            return [bus.get("risk.max_order_attempts"), bus.closed, str(bus.state), threading.active_count()]

        assert in_child(work) == [3, True, "stale", 1]
        bus.refresh()


def test_waiting_and_registering_may_be_the_first_use(worker: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))

        def wait() -> int:
            bus.wait_for(2, timeout=PATIENCE)
            return bus.revision

        def register() -> bool:
            heard = threading.Event()
            bus.on_change("risk", lambda _change: heard.set())
            return heard.wait(PATIENCE)

        assert in_child(wait) == 2
        assert in_child(register) is True
        assert in_child(lambda: in_child(lambda: [wait(), register()])) == [2, True]


async def test_an_asyncio_bus_is_closed_in_a_child(worker: dict[str, Any]) -> None:
    async with AsyncConfigBus.connect(**worker, require="live") as bus:
        assert in_child(lambda: [bus.closed, bus.get("risk.max_order_attempts"), bus.state]) == [True, 3, "stale"]
        await bus.refresh()
        assert not bus.closed


def test_forks_during_updates_neither_hang_nor_disturb_the_parent(worker: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**worker, require="live") as bus:
        stop, threads = threading.Event(), threading.active_count()

        def change() -> None:
            number = 0
            while not stop.is_set() and number < 5000:
                number += 1
                author.set({"risk.max_order_attempts": 1 + number % 90})

        def look() -> int:
            bus.refresh(timeout=PATIENCE)
            return bus.revision

        changer = threading.Thread(target=change)
        changer.start()
        try:
            for _ in range(20):
                before = bus.revision
                assert in_child(look) >= before
        finally:
            stop.set()
            changer.join()
        bus.wait_for(author.set({"risk.max_order_attempts": 99}))
        assert threading.active_count() <= threads


MAIN = """
import multiprocessing, sys
import configbus

def look(number):
    bus = configbus.bus()
    bus.refresh(timeout=20)
    return bus.get("risk.max_order_attempts"), str(bus.origin)

if __name__ == "__main__":
    print(configbus.bus().get("risk.max_order_attempts"))
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(3) as pool:
        print(pool.map(look, range(6)))
    print(configbus.bus().get("risk.max_order_attempts"))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_by_fork_and_by_spawn(method: str, relay: Settings, tmp_path: Any) -> None:
    assert method in multiprocessing.get_all_start_methods()
    (tmp_path / "main.py").write_text(MAIN)
    environ = os.environ | {
        "CONFIGBUS_REDIS_URL": relay.require("redis_url"),
        "CONFIGBUS_ENVIRONMENT": "production",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "main.py", method],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"3\n{[(3, 'redis')] * 6}\n3\n", "")
