"""Callbacks that fail, sleep, or take the bus apart; tasks that are cancelled wherever they wait; torn reads."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from buses import connected_bus
from relays import running_relay
from waiting import until

from configbus import AsyncConfigBus, State
from configbus.author import Author
from configbus.settings import load_settings
from faults.cluster import note_times

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from configbus import Change
    from faults.cluster import Cluster

AWKWARD = {"discovery#fails": 0.0, "risk#slow": 0.3, "trading#stuck": 10.0}
RESULT_SECONDS = 5.0


@pytest.fixture(params=["thread", "asyncio"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def author(bare_cluster: Cluster) -> Iterator[Author]:
    """An author, while a relay runs."""
    with (
        running_relay(load_settings({}, **bare_cluster.settings)),
        Author.connect(**bare_cluster.settings, actor="tester") as author,
    ):
        yield author


def worker_settings(cluster: Cluster) -> dict[str, Any]:
    return {name: value for name, value in cluster.settings.items() if name != "database_url"}


@pytest.mark.long
def test_c1_awkward_callbacks_delay_nobody_and_see_the_last_state(bare_cluster: Cluster) -> None:
    cluster = bare_cluster
    cluster.start_relay()
    cluster.start_workers(EXTRA_CALLBACKS=json.dumps(AWKWARD))
    with cluster.load(200) as load:
        load.reached(20)
        cluster.healed()
    times = cluster.finish(limit=0.05, settle_seconds=16.0)
    found = cluster.delays()
    p99 = found[int(len(found) * 0.99)]
    failed = sum(process.log.count("callback_failed") for process in cluster.workers)
    assert p99 <= 0.05
    assert failed == sum(
        call.enter and call.subscription == "discovery#fails" for life in cluster.lives() for call in life.calls
    )
    note_times("C1", f"callbacks fail, sleep 0.3 s and 10 s: p99 of the others {p99 * 1000:.0f} ms", 0.05, times)


def test_c2_a_callback_may_take_the_bus_apart(driver: str, bare_cluster: Cluster, author: Author) -> None:
    told: list[str] = []
    done, released = threading.Event(), threading.Event()
    with connected_bus(driver, **worker_settings(bare_cluster)) as bus:

        def late(change: Change[Any]) -> None:
            told.append(f"late {change.revision}")

        def other(change: Change[Any]) -> None:
            told.append(f"other {change.revision}")

        def act(change: Change[Any]) -> None:
            if change.old is None:
                return
            told.append(f"act {change.revision} {bus.reads.get('risk.drawdown_lookback_days')}")
            bus.bus.on_change("trading", late)
            others.cancel()
            own.cancel()
            done.set()

        others, own = bus.on_change("risk", other), bus.on_change("risk", act)
        until(lambda: "other 1" in told, RESULT_SECONDS)
        bus.wait_for(author.set({"risk.drawdown_lookback_days": 77}), RESULT_SECONDS)
        assert done.wait(RESULT_SECONDS)
        until(lambda: "late 1" in told, RESULT_SECONDS)
        before = [line for line in told if not line.startswith("late")]
        release = author.set({"risk.drawdown_lookback_days": 78, "trading.max_slippage_exit_bps": 78})
        bus.wait_for(release, RESULT_SECONDS)
        until(lambda: f"late {release.revision}" in told, RESULT_SECONDS)
        assert [line for line in told if not line.startswith("late")] == before
        assert "act 2 77" in before

        def close(change: Change[Any]) -> object:
            if change.old is None:
                return None
            released.set()
            return bus.bus.close()

        bus.on_change("discovery", close)
        author.set({"discovery.max_wallets_per_run": 78})
        assert released.wait(RESULT_SECONDS)
        until(lambda: getattr(bus.bus, "closed"), RESULT_SECONDS)  # noqa: B009  # a property of both drivers
        count = len(told)
        author.set({"trading.max_slippage_exit_bps": 79})
        assert bus.reads.get("trading.max_slippage_exit_bps") == 78
    assert len(told) == count


ENDLESS = ("wait_for", "changes")
ENDLESS_SECONDS = 1.2
"""What has not come to its next await by then waits for what never comes."""
CANCELLED = pytest.mark.parametrize("what", ["wait_for", "refresh", "changes", "connect", "close"])


async def attempt(what: str, bus: AsyncConfigBus, settings: dict[str, Any]) -> None:
    match what:
        case "wait_for":
            await bus.wait_for(10_000)
        case "refresh":
            await bus.refresh()
        case "changes":
            async for _ in bus.changes("risk"):
                pass
        case "connect":
            await (await AsyncConfigBus.connect(**settings, worker="cancelled")).close()
        case "close":
            extra = await AsyncConfigBus.connect(**settings, worker="cancelled")
            try:
                await asyncio.create_task(extra.close())
            finally:
                await extra.close()


@asynccontextmanager
async def kept_bus(cluster: Cluster, author: Author) -> AsyncIterator[AsyncConfigBus]:
    """A bus that loses nothing of what is cancelled beside it; of that no task and no connection is left at the end."""
    async with AsyncConfigBus.connect(**worker_settings(cluster), worker="kept", require="live") as bus:
        await asyncio.sleep(0)
        tasks = len(asyncio.all_tasks())
        yield bus
        with cluster.redis() as client:
            for _ in range(200):
                names = [found["name"] for found in client.client_list() if found["name"].startswith("configbus-")]
                if sorted(names) == ["configbus-kept", "configbus-kept"] and len(asyncio.all_tasks()) <= tasks:
                    break
                await asyncio.sleep(0.01)
        assert sorted(names) == ["configbus-kept", "configbus-kept"]
        assert len(asyncio.all_tasks()) <= tasks
        release = await asyncio.to_thread(author.set, {"risk.drawdown_lookback_days": 77})
        await bus.wait_for(release)
        assert bus.get("risk.drawdown_lookback_days") == 77
        assert bus.state is State.LIVE


@CANCELLED
async def test_c7_a_task_cancelled_at_any_moment_loses_and_leaks_nothing(
    what: str, bare_cluster: Cluster, author: Author
) -> None:
    async with kept_bus(bare_cluster, author) as bus:
        for moment in range(40):
            task = asyncio.create_task(attempt(what, bus, worker_settings(bare_cluster)))
            for _ in range(moment):
                await asyncio.sleep(0)
            await asyncio.sleep(0.0002 * moment)
            task.cancel()
            await asyncio.wait([task], timeout=RESULT_SECONDS)
            assert task.done()


class Counted(Coroutine[Any, Any, Any]):
    """The work of a task, each of whose awaits is counted."""

    def __init__(self, awaits: Awaits, work: Coroutine[Any, Any, Any]) -> None:
        self._awaits = awaits
        self._work = work

    def send(self, value: Any) -> Any:
        return self._awaits.count(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        return self._awaits.count(self._work.throw(*error))

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()


class Awaits:
    """Those of a task and of all that it starts; at one of them it is cancelled: when the waiting begins, or when what
    it waits for is there.
    """

    running: ContextVar[Awaits | None] = ContextVar("running", default=None)

    def __init__(self, number: int, manner: str) -> None:
        self.reached = False
        self._left = number
        self._manner = manner
        self._task: asyncio.Task[Any] | None = None

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(self.running.set, self)
        self._task = asyncio.create_task(Counted(self, work), context=context)
        return self._task

    @classmethod
    def make_task(cls, loop: asyncio.AbstractEventLoop, work: Any, **named: Any) -> asyncio.Task[Any]:
        """A factory for a loop: what a counted task starts is counted, too."""
        awaits = cls.running.get()
        return asyncio.Task(work if awaits is None else Counted(awaits, work), loop=loop, **named)

    def count(self, awaited: asyncio.Future[Any] | None) -> asyncio.Future[Any] | None:
        self._left -= 1
        if self._left == 0:
            if self._manner == "begins to wait":
                self._cancel()
            elif awaited is None:
                asyncio.get_running_loop().call_soon(self._cancel)
            else:
                awaited.add_done_callback(self._cancel)
        return awaited

    def _cancel(self, _done: object = None) -> None:
        assert self._task is not None
        self.reached = True
        self._task.cancel()


@CANCELLED
@pytest.mark.parametrize("manner", ["begins to wait", "goes on"])
async def test_c7_a_task_cancelled_at_each_await_loses_and_leaks_nothing(
    what: str, manner: str, bare_cluster: Cluster, author: Author
) -> None:
    async with kept_bus(bare_cluster, author) as bus:
        asyncio.get_running_loop().set_task_factory(Awaits.make_task)
        for number in count(1):
            awaits = Awaits(number, manner)
            task = awaits.start(attempt(what, bus, worker_settings(bare_cluster)))
            await asyncio.wait([task], timeout=ENDLESS_SECONDS if what in ENDLESS else RESULT_SECONDS)
            if not awaits.reached:
                break
            await asyncio.wait([task], timeout=RESULT_SECONDS)
            assert task.done(), f"await {number}"
        if what in ENDLESS:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, RESULT_SECONDS)
