"""Started without servers a worker stands where it stood last, and says so; nothing makes it go backwards."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import math
import os
import re
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from buses import connected_bus
from relays import running_relay
from waiting import until

from configbus import AsyncConfigBus, ConfigBus
from configbus.errors import NotReady
from configbus.reads import plan
from configbus.wire import FARTHEST, Head, Keys, bookmark

if TYPE_CHECKING:
    from collections.abc import Callable

    from configbus.author import Author
    from configbus.lastgood_file import LastGoodFile
    from configbus.settings import Settings

DOWN = "redis://127.0.0.1:1/0"
DRIVERS = pytest.mark.parametrize("driver", ["thread", "asyncio"])


@pytest.fixture
def keeping(worker: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return worker | {"snapshot_dir": str(tmp_path / "kept")}


def file_of(keeping: dict[str, Any]) -> Path:
    (file,) = Path(keeping["snapshot_dir"]).glob("*.snapshot")
    return file


@pytest.mark.usefixtures("relay")
@DRIVERS
def test_without_servers_a_worker_stands_where_it_stood(driver: str, keeping: dict[str, Any], author: Author) -> None:
    with connected_bus(driver, **keeping, require="live") as bus:
        bus.wait_for(author.set({"trading.score_threshold": "0.8"}))
    with connected_bus(driver, **keeping | {"redis_url": DOWN}, require="known", start_timeout=0.5) as driven:
        again = driven.reads
        assert (again.origin, again.state, again.revision) == ("snapshot", "offline", 2)
        assert str(again.get("trading.score_threshold")) == "0.800"
        assert 0 < again.age < 60
    with (
        pytest.raises(NotReady),
        connected_bus(driver, **keeping | {"redis_url": DOWN}, require="live", start_timeout=0.5),
    ):
        pass


@pytest.mark.usefixtures("relay")
def test_what_is_kept_follows_every_change_and_is_its_owners_alone(keeping: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**keeping, require="live") as bus:
        for number in range(4, 9):
            bus.wait_for(author.set({"risk.max_order_attempts": number}))
        until(lambda: '"risk": "6:' in file_of(keeping).read_text())
    assert stat.S_IMODE(file_of(keeping).stat().st_mode) == 0o600
    assert stat.S_IMODE(file_of(keeping).parent.stat().st_mode) == 0o700
    assert {path.suffix for path in file_of(keeping).parent.iterdir()} == {".snapshot", ".lock"}


@pytest.mark.usefixtures("relay")
def test_from_the_file_it_goes_over_to_redis_and_tells_what_changed(keeping: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**keeping, require="live"):
        pass
    release = author.set({"risk.max_order_attempts": 9})
    with ConfigBus.connect(**keeping) as bus:
        bus.wait_for(release)
        assert bus.origin == "redis"
        until(lambda: bus.state == "live")


@DRIVERS
def test_an_older_copy_of_redis_does_not_take_a_restarted_worker_back(
    driver: str, published: Settings, keeping: dict[str, Any], author: Author
) -> None:
    with redis.Redis.from_url(published.require("redis_url")) as client:
        old = {key: client.dump(key) for key in client.keys("configbus:*")}
        with connected_bus(driver, **keeping, require="known") as bus:
            bus.wait_for(author.set({"risk.max_order_attempts": 9}))
        client.flushall()
        for key, value in old.items():
            client.restore(key, 0, value, replace=True)
        with connected_bus(driver, **keeping, require="known", start_timeout=1.0) as driven:
            again = driven.reads
            assert (again.origin, again.revision, again.get("risk.max_order_attempts")) == ("snapshot", 2, 9)
            driven.wait_for(author.set({"risk.max_order_attempts": 10}))
            assert again.origin == "redis"


def test_a_postgres_that_lags_behind_does_not_take_it_back_either(
    published: Settings, keeping: dict[str, Any], author: Author
) -> None:
    with ConfigBus.connect(**keeping, require="known") as bus:
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
    with psycopg.connect(published.require("database_url")) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("DELETE FROM configbus.release_block WHERE revision > 1")
        operator.execute("DELETE FROM configbus.release WHERE revision > 1")
        operator.execute("UPDATE configbus.environment SET revision = 1")
    servers = {"redis_url": DOWN, "database_url": published.require("database_url")}
    with ConfigBus.connect(**keeping | servers, require="known", start_timeout=1.5) as again:
        assert (again.origin, again.revision) == ("snapshot", 2)


@pytest.mark.usefixtures("relay")
@DRIVERS
def test_a_block_that_is_held_starts_on_its_last_good_content(
    driver: str, keeping: dict[str, Any], author: Author, published: Settings
) -> None:
    with connected_bus(driver, **keeping, require="live") as bus:
        bus.wait_for(author.set({"trading.score_threshold": "0.8"}))
        with psycopg.connect(published.require("database_url")) as operator:
            edit = "UPDATE configbus.trading_config SET drawdown_reduction_tiers = '[7]', score_threshold = 0.9"
            operator.execute(f"{edit} WHERE status = 'active'".encode())
        bus.until(lambda reads: "trading" in reads.held)
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
    for redis_url in (keeping["redis_url"], DOWN):
        with connected_bus(driver, **keeping | {"redis_url": redis_url}, require="known", start_timeout=1.0) as driven:
            again = driven.reads
            driven.until(lambda reads: reads.revision == 4)
            assert str(again.get("trading.score_threshold")) == "0.800"
            assert again.get("risk.max_order_attempts") == 9
            assert again.held["trading"].last_good == 2
            assert again.get("trading.score_threshold", None, max_age=60) is None


@pytest.mark.usefixtures("relay")
def test_workers_of_other_code_that_share_the_file_keep_what_one_of_them_holds(
    keeping: dict[str, Any], author: Author
) -> None:
    both = keeping | {"follow": ["trading", "risk"]}
    earlier = both | {"domains": "faults.strict_domains"}
    with ConfigBus.connect(**both, worker="today's", require="live") as bus:
        with ConfigBus.connect(**earlier, worker="yesterday's", require="live") as held:
            held.wait_for(author.set({"trading.max_slippage_exit_bps": 180}))
            author.set({"trading.max_slippage_exit_bps": 300})
            until(lambda: "trading" in held.held)
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
    for redis_url in (keeping["redis_url"], DOWN):
        with ConfigBus.connect(**earlier | {"redis_url": redis_url}, require="known", start_timeout=1.0) as held:
            assert held.get("trading.max_slippage_exit_bps") == 180
            assert held.get("risk.max_order_attempts") == 9
            assert held.held["trading"].revision == 3
    with ConfigBus.connect(**both | {"redis_url": DOWN}, require="known", start_timeout=1.0) as bus:
        assert bus.get("trading.max_slippage_exit_bps") == 300


@pytest.mark.usefixtures("relay")
@DRIVERS
def test_an_epoch_that_cannot_be_is_not_followed_and_does_not_spoil_the_file(
    driver: str, keeping: dict[str, Any], caplog: pytest.LogCaptureFixture, published: Settings
) -> None:
    keys = Keys("configbus", "production")
    with (
        redis.Redis.from_url(published.require("redis_url"), decode_responses=True) as client,
        connected_bus(driver, **keeping, require="live") as driven,
    ):
        head = client.hgetall(keys.head)
        forged = Head(head["bus"], head["system"], int(head["epoch"]) + 2 * FARTHEST, 1, head["state"])
        client.publish(keys.channel, bookmark(forged, ""))
        until(lambda: any("head_ignored" in record.message for record in caplog.records))
        client.hset(keys.head, mapping=forged.fields())
        until(lambda: client.hget(keys.head, "epoch") == head["epoch"])
        driven.until(lambda reads: reads.age < 1.0)
        assert driven.reads.epoch == int(head["epoch"])
    kept = the_file(keeping).read()
    assert kept is not None
    file_of(keeping).unlink()
    the_file(keeping).write(replace(kept, head=forged))
    with connected_bus(driver, **keeping, require="live") as driven:
        assert driven.reads.epoch == int(head["epoch"])
        until(lambda: (the_file(keeping).read() or kept).head.epoch == int(head["epoch"]))


@pytest.mark.usefixtures("relay")
def test_the_file_stays_where_it_was_when_the_program_goes_elsewhere(
    keeping: dict[str, Any], author: Author, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with ConfigBus.connect(**keeping | {"snapshot_dir": "kept"}, require="live") as bus:
        monkeypatch.chdir(tmp_path / "elsewhere")
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
    kept = the_file(keeping).read()
    assert kept is not None
    assert kept.head.revision == 2
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.usefixtures("relay")
async def test_a_close_that_is_cancelled_leaves_no_thread(keeping: dict[str, Any]) -> None:
    await (await AsyncConfigBus.connect(**keeping, require="live")).close()
    before = threading.active_count()
    for turns in range(6):
        bus = await AsyncConfigBus.connect(**keeping, require="live")
        closing = asyncio.create_task(bus.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await bus.close()
    await asyncio.to_thread(until, lambda: not [t for t in threading.enumerate() if t.name == "configbus-snapshot"])
    assert threading.active_count() <= before + 1  # the one of `to_thread`


@DRIVERS
def test_a_file_of_another_installation_gives_way_to_live_servers(
    driver: str, published: Settings, keeping: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running_relay(published), connected_bus(driver, **keeping, require="live"):
        pass
    with psycopg.connect(published.require("database_url")) as operator:
        operator.execute("UPDATE configbus.environment SET bus = 'another', epoch = epoch - 1000000")
    with redis.Redis.from_url(published.require("redis_url")) as client:
        client.flushall()
    with running_relay(published), connected_bus(driver, **keeping, require="live") as driven:
        assert driven.reads.origin == "redis"
        told = [record.message for record in caplog.records if "snapshot_refused" in record.message]
        assert len(told) == 1
        assert "the servers are of another" in told[0]
    with connected_bus(driver, **keeping | {"redis_url": DOWN}, require="known", start_timeout=1.0) as driven:
        assert driven.reads.origin == "snapshot"


@pytest.mark.usefixtures("relay")
def test_an_age_that_lies_in_the_future_is_none(keeping: dict[str, Any]) -> None:
    with ConfigBus.connect(**keeping, require="live"):
        pass
    kept = the_file(keeping).read()
    assert kept is not None
    assert kept.vouched is not None
    file_of(keeping).unlink()
    the_file(keeping).write(replace(kept, vouched=kept.vouched + 86_400))
    with ConfigBus.connect(**keeping | {"redis_url": DOWN}, start_timeout=1.0) as bus:
        assert (bus.origin, bus.age) == ("snapshot", math.inf)


@pytest.mark.usefixtures("relay")
def test_a_state_that_was_vouched_for_says_so_at_once(keeping: dict[str, Any]) -> None:
    with ConfigBus.connect(**keeping, require="live"):
        until(lambda: (kept := the_file(keeping).read()) is not None and kept.vouched is not None)


def test_a_restart_that_nothing_vouches_for_keeps_what_is_known_of_the_state(
    published: Settings, keeping: dict[str, Any]
) -> None:
    with running_relay(published), ConfigBus.connect(**keeping, require="live"):
        pass
    known = the_file(keeping).read()
    assert known is not None
    assert known.vouched is not None
    with ConfigBus.connect(**keeping, require="known") as bus:
        assert (bus.origin, bus.age) == ("redis", math.inf)
    kept = the_file(keeping).read()
    assert kept is not None
    assert kept.vouched == known.vouched


@pytest.mark.usefixtures("relay")
def test_a_lock_that_is_never_given_back_keeps_nobody_waiting(
    keeping: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with ConfigBus.connect(**keeping, require="live"):
        pass
    with file_of(keeping).with_suffix(".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with ConfigBus.connect(**keeping, require="live"):
            until(lambda: any("snapshot_not_written" in record.message for record in caplog.records))
    (record,) = [record for record in caplog.records if "snapshot_not_written" in record.message]
    assert "another process holds its lock" in record.message


@DRIVERS
def test_what_was_kept_without_keys_is_not_believed_with_keys(
    driver: str, published: Settings, keeping: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with running_relay(published), ConfigBus.connect(**keeping, require="live"):
        pass
    kept = the_file(keeping).read()
    assert kept is not None
    the_file(keeping).write(replace(kept, head=replace(kept.head, revision=900)))
    keys = "a:" + base64.b64encode(b"a" * 32).decode()
    signed = keeping | {"signing_keys": keys}
    with running_relay(replace(published, signing_keys=keys)):
        with connected_bus(driver, **signed, require="live") as driven:
            assert (driven.reads.origin, driven.reads.revision) == ("redis", 1)
        assert any("kept without CONFIGBUS_SIGNING_KEYS" in record.message for record in caplog.records)
        known = the_file(keeping).read()
        assert known is not None
        assert (known.signed, known.head.revision) == (True, 1)
    with connected_bus(driver, **signed | {"redis_url": DOWN}, require="known", start_timeout=0.5) as driven:
        assert (driven.reads.origin, driven.reads.revision) == ("snapshot", 1)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def symlink(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


REFUSED: dict[str, Callable[[Path], object]] = {
    "snapshot": lambda path: path.write_text(""),
    "checksum": lambda path: path.write_text(path.read_text()[:-9]),
    "format '9'": lambda path: path.write_text(path.read_text().replace("format 2", "format 9")),
    "UnicodeDecodeError": lambda path: path.write_bytes(b"\xff\xfe"),
    "is no regular file": directory,
    "regular file": pipe,
    "symbolic links": symlink,
    "others may write": lambda path: path.chmod(0o622),
}


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_to_be_used_is_refused_with_its_reason_and_replaced(
    reason: str, keeping: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with ConfigBus.connect(**keeping, require="live"):
        pass
    REFUSED[reason](file_of(keeping))
    with ConfigBus.connect(**keeping | {"redis_url": DOWN}, start_timeout=1.0) as bus:
        assert (bus.origin, bus.age) == ("layers", math.inf)
    (record,) = [record for record in caplog.records if "snapshot_refused" in record.message]
    assert re.search(reason, record.message)
    if not file_of(keeping).is_dir():
        with ConfigBus.connect(**keeping, require="live"):
            pass
        with ConfigBus.connect(**keeping | {"redis_url": DOWN}, start_timeout=1.0) as bus:
            assert bus.origin == "snapshot"


@pytest.mark.usefixtures("relay")
def test_where_nothing_can_be_written_the_worker_goes_on_and_says_so_once(
    keeping: dict[str, Any], author: Author, caplog: pytest.LogCaptureFixture
) -> None:
    Path(keeping["snapshot_dir"]).write_text("a file where the directory should be")
    with ConfigBus.connect(**keeping, require="live") as bus:
        for number in (5, 6):
            bus.wait_for(author.set({"risk.max_order_attempts": number}))
    assert sum("snapshot_not_written" in record.message for record in caplog.records) == 1


@pytest.mark.usefixtures("relay")
def test_an_older_state_never_replaces_a_newer_one(keeping: dict[str, Any], author: Author) -> None:
    with ConfigBus.connect(**keeping, require="live") as bus:
        until(lambda: bool(list(Path(keeping["snapshot_dir"]).glob("*.snapshot"))))
        older = the_file(keeping).read()
        assert older is not None
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
    the_file(keeping).write(older)
    newest = the_file(keeping).read()
    assert newest is not None
    assert (older.head.revision, newest.head.revision) == (1, 2)


@pytest.mark.usefixtures("relay")
def test_another_environment_and_another_selection_have_files_of_their_own(keeping: dict[str, Any]) -> None:
    with (
        ConfigBus.connect(**keeping, require="live"),
        ConfigBus.connect(**keeping, follow=["risk"], require="live"),
    ):
        pass
    assert len(list(Path(keeping["snapshot_dir"]).glob("*.snapshot"))) == 2
    with ConfigBus.connect(**keeping | {"redis_url": DOWN}, follow=["trading"], start_timeout=1.0) as bus:
        assert bus.origin == "layers"


def the_file(keeping: dict[str, Any]) -> LastGoodFile:
    file = plan(None, None, 1.0, keeping).file
    assert file is not None
    return file
