"""Programs that fork while their bus follows: `python -m faults.children pool METHOD` and `... serve CHILDREN`.

`pool` obeys lines on stdin, each a revision, and answers what its children found once they held it; `serve` says its
port, and its children answer whoever connects. Both end when stdin does.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from typing import TYPE_CHECKING

import configbus
from configbus.reads import now

if TYPE_CHECKING:
    from configbus import ConfigBus

PATIENCE = 10.0


def say(facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def first_use(bus: ConfigBus, revision: int) -> list[float | int | str]:
    """Which process it is, what it reads, and how long its bus took from now until it held a revision."""
    began = now()
    assert bus.get("risk.drawdown_lookback_days")
    bus.wait_for(revision, PATIENCE)
    return [os.getpid(), now() - began, bus.get("risk.drawdown_lookback_days")]


def in_pool(revision: int) -> list[float | int | str]:
    return first_use(configbus.bus(), revision)


def run_pool(method: str) -> None:
    bus = configbus.bus()
    say(bus.revision)
    context = multiprocessing.get_context(method)
    for line in sys.stdin:
        with context.Pool(2) as pool:
            say(pool.map(in_pool, [int(line)] * 4))
    bus.wait_for(bus.revision, PATIENCE)


def serve(count: int) -> None:
    bus = configbus.bus()
    with socket.create_server(("127.0.0.1", 0)) as door:
        children = [child for _ in range(count) if (child := fork_server(door, bus))]
        say(door.getsockname()[1])
        for _ in sys.stdin:
            say([bus.get("risk.drawdown_lookback_days"), bus.revision])
    for child in children:
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


def fork_server(door: socket.socket, bus: ConfigBus) -> int:
    """A child that answers each line, a revision, with what it has; its number."""
    if child := os.fork():
        return child
    try:
        while True:
            client, _ = door.accept()
            with client, client.makefile() as asked:
                for line in asked:
                    client.sendall(json.dumps(first_use(bus, int(line))).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(1)


def main() -> None:
    what, how = sys.argv[1:]
    if what == "pool":
        run_pool(how)
    else:
        serve(int(how))


if __name__ == "__main__":
    main()
