"""What a worker is promised, on real servers, by both drivers alike."""

from __future__ import annotations

import asyncio
import socket
import threading
import traceback
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
import pytest
import redis
from buses import PATIENCE, Driven, connected_bus
from relays import running_relay
from waiting import until

from configbus import AsyncConfigBus, Change, State
from configbus.domains import RiskConfig, TradingConfig
from configbus.errors import Closed, NotInTime, NotReady, Rejected, SettingsError, UnknownBlock, UnknownField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from configbus.author import Author
    from configbus.settings import Settings

SECRET = "s3cret"
NOBODY = "redis://127.0.0.1:1/0"
DOWN = {"redis_url": NOBODY, "database_url": "postgresql://127.0.0.1:1/nobody", "start_timeout": 0.02}
CYCLES = 200


@pytest.fixture(params=["thread", "asyncio"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def no_argument(*, keyword: int) -> None:
    """What cannot be called with a change."""


class Heard:
    """The changes that a callback was told of, and a way to wait for one."""

    def __init__(self) -> None:
        self.changes: list[Change[Any]] = []
        self._arrived = threading.Condition()

    def __call__(self, change: Change[Any]) -> None:
        with self._arrived:
            self.changes.append(change)
            self._arrived.notify_all()

    def until(self, revision: int) -> Change[Any]:
        with self._arrived:
            assert self._arrived.wait_for(lambda: any(c.revision >= revision for c in self.changes), PATIENCE)
            return self.changes[-1]


def edit(database_url: str, statement: str) -> None:
    """What an operator does with psql."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statement.encode())


@pytest.mark.usefixtures("published")
def test_a_worker_starts_on_what_redis_holds(driver: str, worker: dict[str, Any]) -> None:
    with connected_bus(driver, **worker) as bus:
        assert bus.reads.get("trading.score_threshold") == Decimal("0.700")
        assert bus.reads.block(TradingConfig) == TradingConfig()
        assert bus.reads.block("risk") == RiskConfig()
        assert (bus.reads.revision, bus.reads.origin) == (1, "redis")


@pytest.mark.usefixtures("relay")
def test_an_activation_reaches_callbacks_with_old_and_new(driver: str, worker: dict[str, Any], author: Author) -> None:
    heard = Heard()
    with connected_bus(driver, **worker) as bus:
        bus.on_change(TradingConfig, heard)
        release = author.set({"trading.score_threshold": "0.8"}, reason="volatility")
        change = heard.until(release.revision)
        assert change.block_name == "trading"
        assert change.fields == {"score_threshold": (Decimal("0.700"), Decimal("0.800"))}
        assert change.old == TradingConfig()
        assert bus.reads.get("trading.score_threshold") == Decimal("0.8")
        first = heard.changes[0]
        assert (first.old, first.new) == (None, TradingConfig())


@pytest.mark.usefixtures("relay")
def test_a_plain_sql_edit_arrives_like_any_other_change(driver: str, worker: dict[str, Any], database_url: str) -> None:
    with connected_bus(driver, **worker) as bus:
        edit(
            database_url,
            "UPDATE configbus.trading_config SET max_position_sol = 999999999999.99999999"
            " WHERE status = 'active' AND environment = 'production'",
        )
        bus.wait_for(2)
        assert bus.reads.get("trading.max_position_sol") == Decimal("999999999999.99999999")


@pytest.mark.usefixtures("relay")
def test_a_release_of_two_blocks_is_never_seen_half(driver: str, worker: dict[str, Any], author: Author) -> None:
    torn: list[tuple[int, int]] = []
    backwards: list[tuple[int, int]] = []
    stop = threading.Event()

    def look(bus: Driven) -> None:
        last = 0
        while not stop.wait(0.0001):
            now = bus.reads.snapshot
            pair = (now.get("trading.max_slippage_entry_bps"), now.get("risk.drawdown_lookback_days"))
            if now.revision > 1 and pair[0] != pair[1]:
                torn.append(pair)
            if now.revision < last:
                backwards.append((last, now.revision))
            last = now.revision

    with connected_bus(driver, **worker) as bus:
        reader = threading.Thread(target=look, args=(bus,))
        reader.start()
        for number in range(1, 61):
            release = author.set({"trading.max_slippage_entry_bps": number, "risk.drawdown_lookback_days": number})
        bus.wait_for(release)
        stop.set()
        reader.join()
        assert bus.reads.get("risk.drawdown_lookback_days") == 60
    assert not torn
    assert not backwards


@pytest.mark.usefixtures("relay")
def test_an_emptied_redis_harms_nothing_during_a_stream_of_changes(
    driver: str, worker: dict[str, Any], author: Author, redis_url: str
) -> None:
    author.set({"trading.max_slippage_entry_bps": 5000})
    seen: list[int] = []
    with connected_bus(driver, **worker) as bus, redis.Redis.from_url(redis_url) as client:
        bus.on_change("trading", lambda change: seen.append(change.new.max_slippage_entry_bps))
        for number in range(40):
            release = author.set({"trading.max_slippage_entry_bps": 5001 + number})
            if number % 8 == 3:
                client.flushall()
        client.flushall()
        bus.wait_for(release)
        key = "configbus:{production}:block:trading"
        bus.until(lambda _: client.hget(key, "max_slippage_entry_bps") == b"5040")
        bus.until(lambda reads: reads.state is State.LIVE)
        assert bus.reads.get("trading.max_slippage_entry_bps") == 5040
        assert seen == sorted(seen)
        assert 100 not in seen  # the model's default


@pytest.mark.usefixtures("relay")
def test_killed_connections_are_replaced(driver: str, worker: dict[str, Any], author: Author, redis_url: str) -> None:
    with connected_bus(driver, **worker) as bus, redis.Redis.from_url(redis_url) as client:
        for number in range(5):
            client.client_kill_filter(_type="pubsub")
            client.client_kill_filter(_type="normal", skipme=True)
            release = author.set({"risk.drawdown_lookback_days": 100 + number})
            bus.wait_for(release)
        bus.until(lambda reads: reads.state is State.LIVE)


@pytest.mark.usefixtures("relay")
def test_a_worker_becomes_live_and_says_when_it_cannot_vouch(
    driver: str, worker: dict[str, Any], redis_url: str
) -> None:
    told: list[tuple[State, State]] = []
    with connected_bus(driver, **worker) as bus, redis.Redis.from_url(redis_url) as client:
        bus.on_state(lambda old, new: told.append((old, new)))
        bus.until(lambda reads: reads.state is State.LIVE)
        assert bus.reads.age < 3
        client.execute_command("CLIENT", "PAUSE", 3500, "ALL")
        bus.until(lambda reads: reads.state is State.STALE, 3.6)
        assert bus.reads.get("trading.score_threshold") == Decimal("0.700")
        bus.until(lambda reads: reads.state is State.LIVE)
        bus.until(lambda _: len(told) == 3)
    assert told == [(State.STALE, State.LIVE), (State.LIVE, State.STALE), (State.STALE, State.LIVE)]


@pytest.mark.usefixtures("published")
def test_without_a_relay_a_worker_never_says_live(driver: str, worker: dict[str, Any]) -> None:
    with pytest.raises(NotReady, match="relay"), connected_bus(driver, **worker, require="live", start_timeout=2):
        pass


@pytest.mark.usefixtures("relay")
def test_require_live_returns_live(driver: str, worker: dict[str, Any]) -> None:
    with connected_bus(driver, **worker, require="live") as bus:
        assert bus.reads.state is State.LIVE


def test_without_redis_a_worker_starts_from_postgres(driver: str, servers: dict[str, Any]) -> None:
    with connected_bus(driver, **servers | {"redis_url": NOBODY}, require="known") as bus:
        assert (bus.reads.origin, bus.reads.state, bus.reads.revision) == ("postgres", State.OFFLINE, 1)
        assert bus.reads.get("trading.score_threshold") == Decimal("0.700")


@pytest.mark.usefixtures("author")
def test_started_from_postgres_it_goes_over_to_redis(driver: str, servers: dict[str, Any], settings: Settings) -> None:
    with connected_bus(driver, **servers) as bus:
        assert bus.reads.origin == "postgres"
        with running_relay(settings):
            bus.until(lambda reads: (reads.origin, reads.state) == ("redis", State.LIVE))


def test_without_any_server_a_worker_stands_on_defaults_and_says_so(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connected_bus(driver, redis_url=NOBODY, environment="production", start_timeout=1) as bus:
        assert (bus.reads.origin, bus.reads.state, bus.reads.revision) == ("layers", State.OFFLINE, 0)
        assert bus.reads.block(RiskConfig) == RiskConfig()
        assert bus.reads.age == float("inf")
    assert any(record.levelname == "ERROR" and "standing_on_defaults" in record.message for record in caplog.records)


def test_require_known_refuses_defaults(driver: str) -> None:
    options = {"redis_url": NOBODY, "environment": "production", "require": "known", "start_timeout": 1}
    with pytest.raises(NotReady, match="CONFIGBUS_REDIS_URL"), connected_bus(driver, **options):
        pass


@contextmanager
def broken_tiers(database_url: str) -> Iterator[None]:
    """Raw SQL past what only Python can judge: drawdown tiers that do not rise. Mended at the end."""
    tiers = '[{"threshold_pct": "9", "size_reduction_pct": "0"}, {"threshold_pct": "5", "size_reduction_pct": "1"}]'
    edit(
        database_url,
        f"WITH risk AS (UPDATE configbus.risk_config SET drawdown_lookback_days = 77 WHERE status = 'active')"  # noqa: S608  # fixed text
        f" UPDATE configbus.trading_config SET drawdown_reduction_tiers = '{tiers}' WHERE status = 'active'",
    )
    yield
    edit(
        database_url,
        "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[]', max_slippage_exit_bps = 9"
        " WHERE status = 'active'",
    )


@pytest.mark.usefixtures("relay")
def test_a_block_that_is_invalid_here_holds_back_its_release_and_nothing_else(
    driver: str, worker: dict[str, Any], database_url: str
) -> None:
    with connected_bus(driver, **worker, require="live") as bus:
        with broken_tiers(database_url):
            with pytest.raises(Rejected, match="rising"):
                bus.wait_for(2)
            assert set(bus.reads.held) == {"trading", "risk"}
            assert "rising" in bus.reads.held["trading"].reason
            assert bus.reads.held["trading"].last_good == 1
            bus.until(lambda reads: reads.state is State.PARTIAL)
            assert bus.reads.get("risk.drawdown_lookback_days") == 30
            edit(database_url, "UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")
            bus.wait_for(3)
            assert bus.reads.get("risk.max_order_attempts") == 9
            assert set(bus.reads.held) == {"trading"}
        bus.wait_for(4)
        assert not bus.reads.held
        assert bus.reads.get("trading.max_slippage_exit_bps") == 9
        bus.until(lambda reads: reads.state is State.LIVE)


@pytest.mark.usefixtures("relay")
def test_a_failing_callback_is_logged_and_told_again_next_time(
    driver: str, worker: dict[str, Any], author: Author, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def fail(change: Change[Any]) -> None:
        heard(change)
        raise RuntimeError("strategy trouble")

    with connected_bus(driver, **worker) as bus:
        bus.on_change("risk", fail)
        heard.until(author.set({"risk.max_order_attempts": 4}).revision)
        heard.until(author.set({"risk.max_order_attempts": 5}).revision)
    failures = [record for record in caplog.records if "callback_failed" in record.message]
    assert len(failures) >= 2
    assert failures[0].exc_info is not None
    facts = vars(failures[0])["facts"]
    assert facts == facts | {"environment": "production", "block": "risk"}
    assert facts["revision"] in {1, 2, 3}


@pytest.mark.usefixtures("relay")
def test_a_busy_callback_sees_the_latest_with_the_oldest_unseen_as_old(worker: dict[str, Any], author: Author) -> None:
    free, entered, heard = threading.Event(), threading.Event(), Heard()

    def slow(change: Change[Any]) -> None:
        entered.set()
        free.wait(PATIENCE)
        heard(change)

    with connected_bus("thread", **worker) as bus:
        bus.on_change("risk", slow)
        assert entered.wait(PATIENCE)
        for number in (4, 5, 6):
            release = author.set({"risk.max_order_attempts": number})
        bus.wait_for(release)
        free.set()
        change = heard.until(release.revision)
        assert change.fields == {"max_order_attempts": (3, 6)}
        assert len(heard.changes) == 2


@pytest.mark.usefixtures("relay")
def test_a_field_target_is_told_of_that_field_alone(driver: str, worker: dict[str, Any], author: Author) -> None:
    heard = Heard()
    with connected_bus(driver, **worker) as bus:
        bus.on_change("risk.max_order_attempts", heard)
        heard.until(1)
        bus.wait_for(author.set({"risk.drawdown_lookback_days": 9}))
        release = author.set({"risk.max_order_attempts": 7})
        heard.until(release.revision)
        assert [change.revision for change in heard.changes] == [1, release.revision]


@pytest.mark.usefixtures("relay")
def test_inside_a_callback_everything_works(driver: str, worker: dict[str, Any], author: Author) -> None:
    late, done = Heard(), threading.Event()
    with connected_bus(driver, **worker) as bus:

        def act(change: Change[Any]) -> None:
            if change.old is not None and not done.is_set():
                bus.bus.get("trading.score_threshold")
                bus.bus.on_change("trading", late)
                subscription.cancel()
                done.set()

        subscription = bus.on_change("risk", act)
        bus.wait_for(author.set({"risk.max_order_attempts": 8}))
        assert done.wait(PATIENCE)
        release = author.set({"trading.max_slippage_exit_bps": 8, "risk.max_order_attempts": 9})
        late.until(release.revision)
        assert late.changes[0].old is None


@pytest.mark.usefixtures("relay")
def test_a_worker_follows_only_what_it_is_told_to(driver: str, worker: dict[str, Any], author: Author) -> None:
    with connected_bus(driver, **worker, follow=["risk"]) as bus:
        bus.wait_for(author.set({"risk.max_order_attempts": 8, "trading.max_slippage_exit_bps": 8}))
        assert bus.reads.get("risk.max_order_attempts") == 8
        with pytest.raises(UnknownBlock, match="not followed"):
            bus.reads.get("trading.score_threshold")
        bus.until(lambda reads: reads.state is State.LIVE)


@pytest.mark.usefixtures("relay")
def test_refresh_brings_what_was_committed_before_it(driver: str, worker: dict[str, Any], author: Author) -> None:
    with connected_bus(driver, **worker) as bus:
        release = author.set({"risk.max_order_attempts": 8})
        bus.refresh()
        assert bus.reads.revision >= release.revision


@pytest.mark.usefixtures("published")
def test_waiting_for_what_never_comes_ends_in_time(driver: str, worker: dict[str, Any]) -> None:
    with connected_bus(driver, **worker) as bus, pytest.raises(NotInTime):
        bus.wait_for(99, timeout=0.2)


@pytest.mark.usefixtures("published")
def test_a_closed_bus_still_serves_its_values_and_refuses_the_rest(driver: str, worker: dict[str, Any]) -> None:
    with connected_bus(driver, **worker) as bus:
        bus.close()
        bus.close()
        assert bus.reads.get("risk.max_order_attempts") == 3
        assert bus.reads.state is State.STALE
        with pytest.raises(Closed):
            bus.on_change("risk", lambda _change: None)
        with pytest.raises(Closed):
            bus.wait_for(5)
        with pytest.raises(Closed):
            bus.refresh()


@pytest.mark.usefixtures("published")
def test_what_could_never_work_is_refused_when_it_is_said(driver: str, worker: dict[str, Any]) -> None:
    with connected_bus(driver, **worker) as bus:
        with pytest.raises(UnknownField, match="score_threshold"):
            bus.on_change("trading.score_treshold", print)
        with pytest.raises(UnknownBlock, match="trading"):
            bus.on_change("tradin", print)
        with pytest.raises(TypeError, match="must take 1 argument"):
            bus.on_change("trading", no_argument)  # type: ignore[arg-type]  # that it cannot be called is the point
        with pytest.raises(UnknownField, match="score_threshold"):
            bus.reads.get("trading.score_treshold")
        assert bus.reads.get("trading.score_treshold", 5) == 5
    with pytest.raises(UnknownBlock), connected_bus(driver, **worker, follow=["nope"]):
        pass
    with pytest.raises(TypeError, match="redis_url"), connected_bus(driver, redis_ur="x"):
        pass


@pytest.mark.usefixtures("published")
def test_a_coroutine_function_is_refused_by_the_bus_of_threads(worker: dict[str, Any]) -> None:
    async def callback(change: Change[Any]) -> None: ...

    with connected_bus("thread", **worker) as bus, pytest.raises(TypeError, match="AsyncConfigBus"):
        bus.on_change("trading", callback)


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("changed", [{}, DOWN], ids=["servers up", "servers down"])
def test_buses_opened_and_closed_leave_no_thread_and_no_descriptor(
    driver: str, worker: dict[str, Any], changed: dict[str, Any]
) -> None:
    def left() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def open_and_close(**options: Any) -> None:
        with suppress(NotReady), connected_bus(driver, **options) as bus:
            bus.on_change("*", lambda _change: None)

    open_and_close(**worker, require="live")
    before = left()
    for _ in range(CYCLES):
        open_and_close(**worker | changed)
    until(lambda: left() <= before)
    threads, descriptors = left()
    assert threads <= before[0]
    assert descriptors <= before[1]


class Silent:
    """A server that accepts connections and never says a word."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://:secret@127.0.0.1:{self._server.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.close()


def test_a_server_that_says_nothing_does_not_delay_the_start(driver: str) -> None:
    with (
        Silent() as silent,
        connected_bus(driver, redis_url=silent.url, environment="production", start_timeout=2) as bus,
    ):
        assert bus.reads.origin == "layers"


def test_a_silent_redis_is_no_hindrance_to_a_start_from_postgres(driver: str, servers: dict[str, Any]) -> None:
    with Silent() as silent, connected_bus(driver, **servers | {"redis_url": silent.url}, start_timeout=4) as bus:
        assert bus.reads.origin == "postgres"


@pytest.mark.parametrize("query", ["decode_responses=true", "protocol=3", "health_check_interval=1"])
@pytest.mark.usefixtures("relay")
def test_what_the_protocol_needs_of_a_connection_is_not_the_urls_to_decide(
    driver: str, worker: dict[str, Any], query: str
) -> None:
    with connected_bus(driver, **worker | {"redis_url": f"{worker['redis_url']}?{query}"}, require="live") as bus:
        assert bus.reads.origin == "redis"


def test_a_password_in_a_broken_url_is_not_repeated(driver: str) -> None:
    url = f"redis://:{SECRET}#word@localhost"
    with pytest.raises(SettingsError) as caught, connected_bus(driver, redis_url=url):
        pass
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("relay")
def test_a_cancelled_subscription_is_told_nothing_more_and_forgotten(
    driver: str, worker: dict[str, Any], author: Author
) -> None:
    heard = Heard()
    with connected_bus(driver, **worker) as bus:
        subscription = bus.on_change("risk", heard)
        heard.until(1)
        bus.cancel(subscription)
        bus.cancel(subscription)
        bus.wait_for(author.set({"risk.max_order_attempts": 8}))
        assert [change.revision for change in heard.changes] == [1]
        assert not bus.bus._subscriptions  # noqa: SLF001  # what is kept for nobody cannot be seen from outside


@pytest.mark.usefixtures("relay")
async def test_a_callback_that_waited_for_something_cancelled_is_called_again(
    worker: dict[str, Any], author: Author
) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()

    async def callback(change: Change[Any]) -> None:
        seen.put_nowait(change.revision)
        waited_for = asyncio.create_task(asyncio.sleep(60))
        waited_for.cancel()
        await waited_for

    async with AsyncConfigBus.connect(**worker) as bus:
        bus.on_change("risk", callback)
        for attempts in (8, 9):
            release = await asyncio.to_thread(author.set, {"risk.max_order_attempts": attempts})
            await bus.wait_for(release)
            async with asyncio.timeout(PATIENCE):
                while await seen.get() < release.revision:
                    pass


@pytest.mark.usefixtures("relay")
async def test_changes_are_iterated_until_the_bus_is_closed(worker: dict[str, Any], author: Author) -> None:
    bus = await AsyncConfigBus.connect(**worker)
    revisions = []
    async for change in bus.changes("risk"):
        revisions.append(change.revision)
        if len(revisions) == 1:
            await asyncio.to_thread(author.set, {"risk.max_order_attempts": 8})
        else:
            await bus.close()
    assert revisions == [1, 2]


@pytest.mark.usefixtures("relay")
async def test_closing_right_after_a_refresh_ends(worker: dict[str, Any]) -> None:
    for _ in range(5):
        bus = await AsyncConfigBus.connect(**worker)
        await asyncio.wait([asyncio.create_task(bus.refresh()) for _ in range(2)], return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(PATIENCE):
            await bus.close()
        for _ in range(3):
            await asyncio.sleep(0)
