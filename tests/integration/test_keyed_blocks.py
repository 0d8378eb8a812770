"""Blocks that come and go: what a worker is promised of keyed domains, by both drivers alike."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import redis
from buses import PATIENCE, connected_bus
from sample_domains import LaneConfig, Venue

from configbus import AsyncConfigBus, Change, State
from configbus.domains import TradingConfig
from configbus.errors import Rejected, UnknownBlock

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from configbus.author import Author
    from configbus.wire import Release

NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["thread", "asyncio"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def servers(sample_database_url: str, redis_url: str) -> dict[str, Any]:
    """Those that all others stand on, with the domains of `sample_domains`."""
    return {
        "database_url": sample_database_url,
        "redis_url": redis_url,
        "environment": "production",
        "domains": ("configbus.domains", "sample_domains"),
    }


class Heard:
    """The changes that a callback was told of, and a way to wait for them."""

    def __init__(self, look: Callable[[], tuple[int, list[Any]]] | None = None) -> None:
        self.changes: list[Change[Any]] = []
        self.looks: list[tuple[int, list[Any]]] = []
        self._look = look
        self._arrived = threading.Condition()

    def __call__(self, change: Change[Any]) -> None:
        with self._arrived:
            self.changes.append(change)
            if self._look is not None:
                self.looks.append(self._look())
            self._arrived.notify_all()

    def until(self, revision: int) -> Change[Any]:
        """The change of a revision."""

        def found() -> list[Change[Any]]:
            return [change for change in self.changes if change.revision == revision]

        with self._arrived:
            assert self._arrived.wait_for(found, PATIENCE), f"revision {revision} is not among {self.told()}"
            return found()[0]

    def told(self) -> list[tuple[int, str, bool]]:
        """Revision, block, and whether there is one now."""
        return [(change.revision, change.block_name, change.new is not None) for change in self.changes]


def put(author: Author, key: str, **values: Any) -> Release:
    """A new version of a lane, live."""
    draft = author.draft(f"lane/{key}", values)
    return author.activate(draft.id, expect=draft.version)


@pytest.mark.parametrize(
    "follow", [["lane/a"], ["lane/*"], ["trading", "lane/*"], None], ids=lambda follow: "+".join(follow or ["all"])
)
@pytest.mark.usefixtures("published")
def test_a_followed_key_that_is_not_there_yet_is_told_of_when_it_appears(
    driver: str, worker: dict[str, Any], author: Author, follow: list[str] | None
) -> None:
    heard = Heard()
    with connected_bus(driver, **worker, follow=follow) as bus:
        bus.on_change("lane/a", heard)
        assert bus.reads.keys(LaneConfig) == []
        with pytest.raises(UnknownBlock, match="'lane/a'"):
            bus.reads.block(LaneConfig, key="a")
        with pytest.raises(UnknownBlock, match="'lane/a'"):
            bus.reads.get("lane/a.venue.host")
        assert bus.reads.get("lane/a.venue.host", "nowhere") == "nowhere"

        release = put(author, "a", fast_bars=7, venue={"host": "exchange", "weight": "2.50"})
        change = heard.until(release.revision)
        lane = LaneConfig(fast_bars=7, venue=Venue(host="exchange", weight=Decimal("2.50")))
        assert (change.block_name, change.old, change.new) == ("lane/a", None, lane)
        assert change.fields["fast_bars"] == (None, 7)
        assert bus.reads.keys(LaneConfig) == bus.reads.keys("lane") == ["a"]
        assert bus.reads.block(LaneConfig, key="a") == bus.reads.block("lane/a") == bus.reads.block("lane", "a") == lane
        assert bus.reads.get("lane/a.venue.host") == "exchange"
        assert str(bus.reads.get("lane/a.venue.weight")) == "2.50"
        assert [told[0] for told in heard.told()] == [release.revision]
        if follow in (["lane/a"], ["lane/*"]):
            with pytest.raises(UnknownBlock, match="not followed"):
                bus.reads.get("trading.score_threshold")
        else:
            assert bus.reads.block(TradingConfig) == TradingConfig()


@pytest.mark.usefixtures("published")
def test_a_key_that_is_not_followed_does_not_appear(driver: str, worker: dict[str, Any], author: Author) -> None:
    put(author, "b")
    with connected_bus(driver, **worker, follow=["lane/a", "lane/c"]) as bus:
        assert bus.reads.keys(LaneConfig) == []
        bus.wait_for(author.set({"lane/b.fast_bars": 3}))
        bus.wait_for(put(author, "d"))
        assert bus.reads.keys(LaneConfig) == []
        with pytest.raises(UnknownBlock, match="not followed"):
            bus.reads.get("lane/b.fast_bars")
        bus.wait_for(put(author, "c"))
        assert bus.reads.keys(LaneConfig) == ["c"]
        assert not bus.reads.held


@pytest.mark.usefixtures("published")
def test_a_retired_key_is_gone_until_it_comes_back(driver: str, worker: dict[str, Any], author: Author) -> None:
    heard = Heard()
    before = put(author, "a", label="first")
    put(author, "b")
    lane = LaneConfig(label="first")
    with connected_bus(driver, **worker, follow=["lane/*"]) as bus:
        bus.on_change("lane/a", heard)
        heard.until(before.revision)
        past = bus.reads.snapshot

        retired = author.retire("lane/a", reason="no volume")
        change = heard.until(retired.revision)
        assert (change.old, change.new) == (lane, None)
        assert change.fields["label"] == ("first", None)
        assert bus.reads.keys(LaneConfig) == ["b"]
        with pytest.raises(UnknownBlock, match="'lane/a'"):
            bus.reads.block(LaneConfig, key="a")
        with pytest.raises(UnknownBlock, match="'lane/a'"):
            bus.reads.get("lane/a.label")
        assert bus.reads.get("lane/a.label", "gone") == "gone"
        assert bus.reads.get("lane/b.label") == ""
        assert past.keys(LaneConfig) == ["a", "b"]
        assert past.get("lane/a.label") == "first"

        back = author.rollback(["lane/a"], to=before.revision)
        change = heard.until(back.revision)
        assert (change.old, change.new) == (None, lane)
        assert bus.reads.keys(LaneConfig) == ["a", "b"]
        assert bus.reads.get("lane/a.label") == "first"
        revisions = [before.revision, retired.revision, back.revision]
        assert heard.told() == [(n, "lane/a", there) for n, there in zip(revisions, [True, False, True], strict=True)]


@pytest.mark.usefixtures("published")
def test_callbacks_are_told_of_what_they_watch_and_of_nothing_else(
    driver: str, worker: dict[str, Any], author: Author
) -> None:
    for key in ("a", "b", "c"):
        put(author, key)
    steps: list[tuple[str, dict[str, str | int]]] = [
        ("lane/a", {"lane/a.threshold": "0.02"}),
        ("lane/a", {"lane/a.label": "x"}),
        ("lane/b", {"lane/b.threshold": "0.02"}),
        ("trading", {"trading.max_slippage_exit_bps": 9}),
        ("", {"lane/c.threshold": "0.02"}),
        ("lane/b", {"lane/b.label": "y", "lane/c.label": "y"}),
        ("lane/a", {"lane/a.threshold": "0.03"}),
    ]
    watched: dict[Any, list[int]] = {
        "*": [0, 1, 2, 3, 5, 6],
        LaneConfig: [0, 1, 2, 5, 6],
        "lane": [0, 1, 2, 5, 6],
        "lane/*": [0, 1, 2, 5, 6],
        "lane/*.threshold": [0, 2, 6],
        "lane/a": [0, 1, 6],
        "lane/a.threshold": [0, 6],
        "lane/b.label": [5],
        "lane/c": [],
        "lane/never": [],
        "trading": [3],
    }
    heards = {target: Heard() for target in watched}
    with connected_bus(driver, **worker, follow=["trading", "lane/a", "lane/b"]) as bus:
        for target, heard in heards.items():
            bus.on_change(target, heard)
        start = bus.reads.revision
        revisions = []
        for number, (_, values) in enumerate(steps):
            revisions.append(author.set(values).revision)
            bus.wait_for(revisions[-1])
            for target, expected in watched.items():
                if number in expected:
                    heards[target].until(revisions[-1])
    for target, expected in watched.items():
        later = [told for told in heards[target].told() if told[0] > start]
        assert later == [(revisions[number], steps[number][0], True) for number in expected], target
    first = {
        target: [change for change in heard.changes if change.revision <= start] for target, heard in heards.items()
    }
    assert all(change.old is None for changes in first.values() for change in changes)
    assert sorted(change.block_name for change in first["*"]) == ["lane/a", "lane/b", "trading"]
    assert sorted(change.block_name for change in first[LaneConfig]) == ["lane/a", "lane/b"]
    assert [change.block_name for change in first["lane/b.label"]] == ["lane/b"]


@pytest.mark.usefixtures("published")
def test_keys_that_change_in_one_release_arrive_in_one_snapshot(
    driver: str, worker: dict[str, Any], author: Author
) -> None:
    put(author, "a", label="0")
    before = put(author, "b", label="0")
    with connected_bus(driver, **worker, follow=["lane/*"]) as bus:

        def look() -> tuple[int, list[Any]]:
            now = bus.reads.snapshot
            return now.revision, [now.get(f"lane/{key}.label", None) for key in ("a", "b", "c")]

        heard = Heard(look)
        bus.on_change("lane/*", heard)
        right: dict[int, list[Any]] = {before.revision: ["0", "0", None]}
        for number in range(1, 6):
            release = author.set({"lane/a.label": f"{number}", "lane/b.label": f"{number}"})
            right[release.revision] = [f"{number}", f"{number}", None]
            heard.until(release.revision)
        release = author.retire("lane/a")
        right[release.revision] = [None, "5", None]
        heard.until(release.revision)
        release = put(author, "c", label="6")
        right[release.revision] = [None, "5", "6"]
        heard.until(release.revision)

        # One release in which one returns, one changes and one goes.
        release = author.rollback(to=before.revision, all=True)
        assert release.blocks == ("lane/a", "lane/b", "lane/c")
        right[release.revision] = ["0", "0", None]
        bus.until(lambda _: [told[0] for told in heard.told()].count(release.revision) == len(release.blocks))
        there = {name: is_there for revision, name, is_there in heard.told() if revision == release.revision}
        assert there == {"lane/a": True, "lane/b": True, "lane/c": False}
    for revision, labels in heard.looks:
        assert labels == right[revision]


@pytest.mark.usefixtures("published")
def test_who_joins_late_sees_what_is_there(driver: str, worker: dict[str, Any], author: Author) -> None:
    for key in ("c", "a", "b", "BTC-USD"):
        put(author, key, label=f"lane {key}")
    author.retire("lane/b")
    with connected_bus(driver, **worker, follow=["lane/*"], require="known") as bus:
        assert bus.reads.keys(LaneConfig) == ["BTC-USD", "a", "c"]
        assert bus.reads.get("lane/BTC-USD.label") == "lane BTC-USD"
        heard = Heard()
        bus.on_change("*", heard)
        release = author.set({"lane/c.label": "other"})
        assert heard.until(release.revision).old == LaneConfig(label="lane c")
        first = [change for change in heard.changes if change.revision < release.revision]
        assert {change.block_name: (change.old, change.new) for change in first} == {
            f"lane/{key}": (None, LaneConfig(label=f"lane {key}")) for key in ("BTC-USD", "a", "c")
        }


@pytest.mark.usefixtures("published")
def test_without_redis_the_keys_are_those_of_postgres(driver: str, servers: dict[str, Any], author: Author) -> None:
    for key in ("a", "b", "c"):
        put(author, key, label=f"lane {key}")
    author.retire("lane/b")
    options = servers | {"redis_url": NOBODY, "require": "known"}
    with connected_bus(driver, **options, follow=["lane/a", "lane/b", "trading"]) as bus:
        assert (bus.reads.origin, bus.reads.keys(LaneConfig)) == ("postgres", ["a"])
    with connected_bus(driver, **options) as bus:
        assert bus.reads.keys(LaneConfig) == ["a", "c"]
        assert bus.reads.get("lane/c.label") == "lane c"


def test_without_any_server_a_keyed_domain_has_no_blocks(driver: str, worker: dict[str, Any]) -> None:
    options = worker | {"redis_url": NOBODY, "start_timeout": 1}
    with connected_bus(driver, **options, follow=["lane/a", "lane/*", "trading"]) as bus:
        assert (bus.reads.origin, bus.reads.keys(LaneConfig)) == ("layers", [])
        with pytest.raises(UnknownBlock, match="'lane/a'"):
            bus.reads.block(LaneConfig, key="a")
        assert bus.reads.block(TradingConfig) == TradingConfig()


@pytest.mark.usefixtures("relay")
def test_plain_sql_makes_and_takes_keys_away_like_an_author(
    driver: str, worker: dict[str, Any], psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    heard = Heard()
    with connected_bus(driver, **worker, follow=["lane/*"]) as bus:
        bus.on_change(LaneConfig, heard)
        made = bus.reads.revision + 1
        psql.execute(
            "INSERT INTO configbus.lane_config (environment, key, status, fast_bars) VALUES"
            " ('production', 'a', 'active', 5), ('production', 'b', 'active', 5), ('production', 'c', 'draft', 5)"
        )
        assert heard.until(made).new == LaneConfig(fast_bars=5)
        bus.wait_for(made)
        assert bus.reads.keys(LaneConfig) == ["a", "b"]
        bus.until(lambda _: len(heard.told()) == 2)
        psql.execute("DELETE FROM configbus.lane_config WHERE key = 'b'")
        assert heard.until(made + 1).new is None
        assert bus.reads.keys(LaneConfig) == ["a"]
    assert sorted(heard.told()) == [(made, "lane/a", True), (made, "lane/b", True), (made + 1, "lane/b", False)]


@pytest.mark.usefixtures("relay")
def test_a_new_key_that_is_invalid_here_is_not_there_until_it_is_mended(
    driver: str, worker: dict[str, Any], author: Author, psql: psycopg.Connection[tuple[Any, ...]]
) -> None:
    made = put(author, "a").revision + 1
    heard = Heard()
    with connected_bus(driver, **worker, follow=["lane/*"]) as bus:
        bus.on_change("lane/b", heard)
        psql.execute(
            "INSERT INTO configbus.lane_config (environment, key, status, venue)"
            """ VALUES ('production', 'b', 'active', '{"weight": "heavy"}')"""
        )
        with pytest.raises(Rejected, match="lane/b"):
            bus.wait_for(made)
        assert (bus.reads.held["lane/b"].field, bus.reads.held["lane/b"].last_good) == ("venue.weight", None)
        assert bus.reads.keys(LaneConfig) == ["a"]
        with pytest.raises(UnknownBlock, match="'lane/b'"):
            bus.reads.get("lane/b.venue")
        psql.execute("""UPDATE configbus.lane_config SET venue = '{"weight": "2"}' WHERE key = 'b'""")
        change = heard.until(made + 1)
        assert (change.old, change.new) == (None, LaneConfig(venue=Venue(weight=Decimal(2))))
        assert bus.reads.keys(LaneConfig) == ["a", "b"]
        assert not bus.reads.held
    assert heard.told() == [(made + 1, "lane/b", True)]


@pytest.mark.usefixtures("relay")
def test_an_emptied_redis_takes_no_key_away(
    driver: str, worker: dict[str, Any], author: Author, redis_url: str
) -> None:
    put(author, "a", label="0")
    put(author, "b", label="0")
    heard = Heard(lambda: (0, bus.reads.keys(LaneConfig)))
    with connected_bus(driver, **worker, follow=["lane/*"], require="live") as bus:
        bus.on_change("lane/*", heard)
        with redis.Redis.from_url(redis_url) as client:
            for number in range(1, 9):
                client.flushall()
                release = author.set({"lane/a.label": f"{number}"})
                client.flushall()
                bus.wait_for(release)
            retired = author.retire("lane/b")
            client.flushall()
            assert heard.until(retired.revision).new is None
            bus.until(lambda _: client.hget("configbus:{production}:block:lane/a", "label") == b'"8"')
        bus.until(lambda reads: reads.state is State.LIVE)
        assert bus.reads.keys(LaneConfig) == ["a"]
        assert bus.reads.get("lane/a.label") == "8"
        with connected_bus(driver, **worker, follow=["lane/*"], require="live") as late:
            assert late.reads.keys(LaneConfig) == ["a"]
            assert late.reads.get("lane/a.label") == "8"
    assert [keys for _, keys in heard.looks if keys not in (["a", "b"], ["a"])] == []
    assert [(name, there) for _, name, there in heard.told() if not there] == [("lane/b", False)]


@pytest.mark.parametrize(
    ("name", "near", "message"),
    [
        ("lan/*", ("lane",), "did you mean 'lane'"),
        ("lan/a", ("lane",), "did you mean 'lane'"),
        ("tradin", ("trading",), "did you mean 'trading'"),
        ("trading/*", ("trading",), "trading has no keys"),
        ("trading/a", ("trading",), "trading has no keys"),
        ("lane", (), "lane/KEY"),
        ("lane/a b", (), "lane/KEY"),
        ("lane/a.threshold", (), "lane/KEY"),
    ],
)
def test_a_name_that_cannot_be_followed_is_refused_at_once(
    driver: str, name: str, near: tuple[str, ...], message: str
) -> None:
    domains = ("configbus.domains", "sample_domains")
    options = {"redis_url": NOBODY, "environment": "production", "domains": domains, "start_timeout": 1}
    with (
        pytest.raises(UnknownBlock, match=message) as refusal,
        connected_bus(driver, **options, follow=["risk", name]),
    ):
        pass
    assert refusal.value.near == near


@pytest.mark.usefixtures("published")
async def test_keys_that_come_and_go_are_iterated(worker: dict[str, Any], author: Author) -> None:
    steps = [lambda: put(author, "a"), lambda: author.retire("lane/a"), lambda: put(author, "a", label="again")]
    told = []
    bus = await AsyncConfigBus.connect(**worker, follow=["lane/*"])
    await asyncio.to_thread(steps.pop(0))
    async with asyncio.timeout(PATIENCE):
        async for change in bus.changes("lane/*"):
            told.append((change.block_name, change.old, change.new))
            await (asyncio.to_thread(steps.pop(0)) if steps else bus.close())
    first, again = LaneConfig(), LaneConfig(label="again")
    assert told == [("lane/a", None, first), ("lane/a", first, None), ("lane/a", None, again)]
