"""Children made while changes pour in: each is right soon after its first use, and its parent feels nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import threading
import traceback
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.reads import now
from faults.checker import Times
from faults.children import first_use
from faults.cluster import Process, last_for, note_times

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.cluster import Cluster

FORKS = 200
RIGHT_SECONDS = 2.0
HANG_SECONDS = 15.0

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


def in_child(work: Callable[[], Any]) -> Any:
    """What this returns in a child made by os.fork; one that does not answer in time is ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        except BaseException:  # noqa: BLE001  # told by the parent
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        if not select.select([answer], [], [], HANG_SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        told = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, told or "a child hangs"
    return json.loads(told)


def connections(client: Any, worker: str = "") -> set[str]:
    """The numbers of the connections of workers, all of them or one's."""
    return {each["id"] for each in client.client_list() if each["name"].startswith(f"configbus-{worker}")}


def ordinary(cluster: Cluster) -> dict[str, Any]:
    return {name: value for name, value in cluster.settings.items() if name != "database_url"}


def test_c4_waiting_may_be_the_first_use(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    with (
        ConfigBus.connect(**ordinary(cluster), require="live") as bus,
        Author.connect(**cluster.settings, actor="tester") as author,
    ):
        forked = bus.revision

        def work() -> int:
            os.write(ready[1], b".")
            bus.wait_for(forked + 1, HANG_SECONDS)
            return bus.revision

        def change() -> None:
            os.read(ready[0], 1)
            last_for(0.5)
            author.set({"risk.drawdown_lookback_days": 77})

        ready = os.pipe()
        changer = threading.Thread(target=change)
        changer.start()
        try:
            assert in_child(work) == forked + 1
        finally:
            changer.join()
            for end in ready:
                os.close(end)


@pytest.mark.timeout(120)
def test_c4_two_hundred_forks_during_updates(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    states: list[tuple[str, str]] = []
    taken: list[float] = []
    with (
        ConfigBus.connect(**ordinary(cluster), worker="parent", require="live") as bus,
        cluster.redis() as client,
        ExitStack() as loads,
    ):
        bus.on_state(lambda old, new: states.append((str(old), str(new))))
        before, threads = connections(client), threading.active_count()
        seen: list[int] = []
        bus.on_change("*", lambda change: seen.append(change.revision))
        load = loads.enter_context(cluster.load(800))
        load.reached(10)
        for number in range(FORKS):
            asked = max(load.acknowledged.values())
            pid, seconds, _ = in_child(lambda asked=asked: first_use(bus, asked))  # type: ignore[misc]  # mypy infers no default of a lambda
            assert pid != os.getpid()
            taken.append(seconds)
            if number % 20 == 0:
                assert in_child(lambda: until(lambda: bus.state == "live", RIGHT_SECONDS)) is None
        loads.close()
        bus.wait_for(cluster.head())
        until(lambda: connections(client) == before, 2.0)
        assert threading.active_count() <= threads + 1, "the one callback's"
        assert not states, "the parent was live all the time"
        assert seen == sorted(seen)
    note_times("C4", f"{FORKS} forks during updates", RIGHT_SECONDS, Times(max(taken), max(taken)))
    assert max(taken) <= RIGHT_SECONDS


def start(cluster: Cluster, *command: str) -> Process:
    environ = cluster._environ(CONFIGBUS_REDIS_URL=cluster.valkey.url, CONFIGBUS_WORKER="parent")  # noqa: SLF001  # of this package
    program = Process(cluster.directory, f"children-{command[-1]}", ["-m", "faults.children", *command], environ)
    cluster.streams.append(program)
    return program


def answer_of(process: Process, number: int) -> Any:
    """What it said on a line."""
    until(lambda: len(process.said) > number or process.popen.poll() is not None)
    assert len(process.said) > number, process.log
    return json.loads(process.said[number])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_c4_pools_of_multiprocessing_during_updates(bare_cluster: Cluster, method: str) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    program = start(cluster, "pool", method)
    with cluster.redis() as client, cluster.load(200) as load:
        assert answer_of(program, 0) >= 1
        before = connections(client, "parent")
        for number in range(1, 4):
            load.reached(number * 40)
            asked = max(load.acknowledged.values())
            program.tell(str(asked))
            for _, seconds, value in answer_of(program, number):
                assert seconds <= RIGHT_SECONDS
                assert 30 < value <= 1200
        assert before <= connections(client, "parent")
    program.end()
    assert program.popen.returncode == 0
    assert not program.log


def test_c4_a_pre_fork_server_answers_from_each_child(bare_cluster: Cluster) -> None:
    cluster, children = bare_cluster, 4
    cluster.start_relay()
    program = start(cluster, "serve", str(children))
    port = answer_of(program, 0)
    with cluster.redis() as client, ExitStack() as doors, cluster.load(200) as load:
        until(lambda: len(connections(client, "parent")) == 2)
        parents = connections(client, "parent")
        lines = [
            doors.enter_context(doors.enter_context(connection).makefile("rw"))
            for connection in [socket.create_connection(("127.0.0.1", port), HANG_SECONDS) for _ in range(children)]
        ]
        pids = set()
        for number in range(1, 9):
            load.reached(20 * number)
            asked = max(load.acknowledged.values())
            for line in lines:
                line.write(f"{asked}\n")
                line.flush()
            for line in lines:
                pid, seconds, value = json.loads(line.readline())
                pids.add(pid)
                assert seconds <= RIGHT_SECONDS
                assert 30 < value <= 1200
            program.tell("?")
            assert answer_of(program, number)[1] >= 1
        assert len(pids) == children
        assert program.popen.pid not in pids
        assert parents <= connections(client, "parent"), "those of the parent are as they were"
    began = now()
    program.end()
    assert program.popen.returncode == 0, program.log
    assert now() - began <= RIGHT_SECONDS
    assert not program.log
