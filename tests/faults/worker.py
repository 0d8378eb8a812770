"""One process of workers, each of which writes down its life: `python -m faults.worker DRIVER NAME...`.

Where the histories go is in HISTORY_DIRECTORY, the servers are in CONFIGBUS_*. It obeys lines on stdin, `settle
REVISION SECONDS`, and says on stdout whether all workers came to that; it ends when stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configbus import AsyncConfigBus, ConfigBus
from configbus.reads import now

if TYPE_CHECKING:
    from configbus import Change, Snapshot, State
    from configbus.block import Block
    from configbus.reads import Plan, Reads

SAMPLE_SECONDS = 0.05
VOUCHED_SECONDS = 2.0
"""With looks each second no healthy worker's age goes beyond it; at 3 s it would be stale."""
SLOW_SECONDS = 0.03
DOMAINS = ("trading", "risk", "discovery")
SUBSCRIPTIONS = ("*", "trading", "risk.drawdown_lookback_days")
"""The second of them is slow, so that changes pile up behind it."""


class Journal:
    """The lines of one worker; every line is one write, so that threads do not tear them."""

    def __init__(self, worker: str) -> None:
        path = Path(os.environ["HISTORY_DIRECTORY"]) / f"{worker}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.seen: dict[tuple[str, str], Block | None] = {}

    def write(self, *facts: Any) -> None:
        os.write(self._file, json.dumps(facts).encode() + b"\n")

    def adopt(self, snapshot: Snapshot) -> None:
        values = {name: _values(snapshot.block(name)) for name in DOMAINS}
        position = (snapshot.epoch, snapshot.revision)
        self.write("adoption", now(), *position, snapshot.origin, sorted(snapshot.held), values)

    def enter(self, subscription: str, change: Change[Any]) -> None:
        self.seen[subscription, change.block_name] = change.new
        facts = (subscription, change.block_name, change.revision)
        self.write("enter", now(), *facts, _values(change.new) if change.new is not None else None)

    def leave(self, subscription: str, change: Change[Any]) -> None:
        self.write("leave", now(), subscription, change.block_name, change.revision)

    def sample(self, reads: Reads) -> None:
        at, state = now(), reads.state
        snapshot = reads.snapshot
        self.write("sample", at, str(state), snapshot.epoch, snapshot.revision)

    def is_settled(self, reads: Reads, revision: int) -> bool:
        """Whether a worker stands at a revision, will say so for a while, and has told its application."""
        snapshot = reads.snapshot
        told = all(snapshot.block(block) == seen for (_, block), seen in list(self.seen.items()))
        return snapshot.revision == revision and reads.age < VOUCHED_SECONDS and reads.origin == "redis" and told


class Threaded(ConfigBus):
    """A bus of threads that writes down what it adopts."""

    def __init__(self, the_plan: Plan) -> None:
        super().__init__(the_plan)
        self.journal = Journal(the_plan.settings.worker)

    def _adopt(self, snapshot: Snapshot) -> None:
        self.journal.adopt(snapshot)
        super()._adopt(snapshot)


class Looped(AsyncConfigBus):
    """A bus of asyncio that writes down what it adopts."""

    def __init__(self, the_plan: Plan) -> None:
        super().__init__(the_plan)
        self.journal = Journal(the_plan.settings.worker)

    def _adopt(self, snapshot: Snapshot) -> None:
        self.journal.adopt(snapshot)
        super()._adopt(snapshot)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def run_threads(names: list[str]) -> None:
    stopping = threading.Event()
    descriptors, threads = _descriptors(), threading.active_count()
    with ThreadPoolExecutor(len(names)) as starting:
        workers = list(starting.map(lambda name: Threaded.connect(worker=name), names))
    for worker in workers:
        _listen_threaded(worker, stopping)

    def watch() -> None:
        while not stopping.wait(SAMPLE_SECONDS):
            for worker in workers:
                worker.journal.sample(worker)

    sampler = threading.Thread(target=watch)
    sampler.start()
    say("ready")
    for line in sys.stdin:
        _, revision, seconds = line.split()
        until, pause = now() + float(seconds), threading.Event()
        while not (settled := _all_settled(workers, int(revision))) and now() < until:
            pause.wait(0.01)
        say("settled" if settled else f"unsettled {_standing(workers)}")
    stopping.set()
    sampler.join()
    for worker in workers:
        worker.journal.sample(worker)
    for worker in workers:
        worker.close()
    until = now() + 2.0
    while threading.active_count() > threads and now() < until:
        threading.Event().wait(0.01)
    journals = len(workers)
    left = {"threads": threading.active_count() - threads, "descriptors": _descriptors() - descriptors - journals}
    for worker in workers:
        worker.journal.write("left", left)


def _listen_threaded(worker: Threaded, stopping: threading.Event) -> None:
    journal = worker.journal

    def listen(target: str, seconds: float) -> None:
        def callback(change: Change[Any]) -> None:
            journal.enter(target, change)
            try:
                if seconds:
                    stopping.wait(seconds)
                _perhaps_fail(target)
            finally:
                journal.leave(target, change)

        worker.on_change(target.partition("#")[0], callback)

    for target, seconds in _subscriptions():
        listen(target, seconds)
    worker.on_state(lambda old, new: journal.write("told", now(), str(old), str(new)))


async def run_tasks(names: list[str]) -> None:
    threads = threading.active_count()
    await asyncio.to_thread(gc.collect)  # the thread that reads stdin is there from now on
    descriptors, tasks = _descriptors(), len(asyncio.all_tasks())
    workers = await asyncio.gather(*(_connected(name) for name in names))
    for worker in workers:
        _listen_looped(worker)

    async def watch() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            for worker in workers:
                worker.journal.sample(worker)

    sampler = asyncio.create_task(watch())
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        _, revision, seconds = line.split()
        until = now() + float(seconds)
        while not (settled := _all_settled(workers, int(revision))) and now() < until:  # noqa: ASYNC110  # it looks at values
            await asyncio.sleep(0.01)
        say("settled" if settled else f"unsettled {_standing(workers)}")
    sampler.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampler
    for worker in workers:
        worker.journal.sample(worker)
    for worker in workers:
        await worker.close()
    await asyncio.sleep(0)
    await asyncio.get_running_loop().shutdown_default_executor()  # its threads are the loop's
    left = {
        "threads": threading.active_count() - threads,
        "tasks": len(asyncio.all_tasks()) - tasks,
        "descriptors": _descriptors() - descriptors - len(workers),  # their journals
    }
    for worker in workers:
        worker.journal.write("left", left)


async def _connected(name: str) -> Looped:
    return await Looped.connect(worker=name)


def _listen_looped(worker: Looped) -> None:
    journal = worker.journal

    def listen(target: str, seconds: float) -> None:
        async def callback(change: Change[Any]) -> None:
            journal.enter(target, change)
            try:
                if seconds:
                    await asyncio.sleep(seconds)
                _perhaps_fail(target)
            finally:
                journal.leave(target, change)

        worker.on_change(target.partition("#")[0], callback)

    def tell(old: State, new: State) -> None:
        journal.write("told", now(), str(old), str(new))

    for target, seconds in _subscriptions():
        listen(target, seconds)
    worker.on_state(tell)


def _subscriptions() -> list[tuple[str, float]]:
    """Targets, each with how long its callback takes; `#fails` behind one makes its callback fail every time."""
    extra = json.loads(os.environ.get("EXTRA_CALLBACKS", "{}"))
    return [(target, SLOW_SECONDS * (target == "trading")) for target in SUBSCRIPTIONS] + list(extra.items())


def _perhaps_fail(target: str) -> None:
    if target.endswith("#fails"):
        raise RuntimeError("strategy trouble")


def _all_settled(workers: list[Threaded] | list[Looped], revision: int) -> bool:
    return all(worker.journal.is_settled(worker, revision) for worker in workers)


def _standing(workers: list[Threaded] | list[Looped]) -> list[tuple[str, int]]:
    return [(str(worker.state), worker.revision) for worker in workers]


def _values(block: Block) -> dict[str, Any]:
    return block.model_dump(mode="json")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def follow_wall_clock(path: Path) -> None:
    """From now on `time.time` goes by as many seconds wrong as the file says at that moment."""
    real = time.time
    time.time = lambda: real() + float(path.read_text())


def main() -> None:
    if path := os.environ.get("WALL_CLOCK"):
        follow_wall_clock(Path(path))
    driver, *names = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    if driver == "thread":
        run_threads(names)
    else:
        asyncio.run(run_tasks(names))


if __name__ == "__main__":
    main()
