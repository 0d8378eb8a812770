"""Histories that were lost: a new epoch makes every worker follow what Postgres holds, and none goes backwards."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from edits import restless
from relays import running_relay
from sqlalchemy import text
from waiting import until

from configbus import ConfigBus
from configbus.author import Author
from configbus.errors import Conflict, HistoryLost, InvalidValue, Superseded
from configbus.link import Link
from configbus.publisher import Publisher
from configbus.reads import now
from configbus.relay import RAISES, Relay
from configbus.settings import load_settings
from configbus.store.connect import Place, connected, translated
from configbus.store.releases import newest_head, raise_epoch, releases_after
from configbus.verification import begin_epoch
from configbus.wire import FARTHEST, Keys

if TYPE_CHECKING:
    from configbus.settings import Settings

SET_BACK = """
    SET session_replication_role = replica;
    DELETE FROM configbus.release_block WHERE revision > 1;
    DELETE FROM configbus.release WHERE revision > 1;
    UPDATE configbus.environment SET revision = 1;
    UPDATE configbus.risk_config SET max_order_attempts = 3, version = 1 WHERE status = 'active';
    UPDATE configbus.risk_config AS r SET id = (b.envelope ->> '@id')::uuid, name = b.envelope ->> '@name',
        activated_at = (b.envelope ->> '@activated_at')::timestamptz, activated_by = b.envelope ->> '@activated_by'
    FROM configbus.release_block AS b WHERE b.name = 'risk' AND r.status = 'active'"""


def set_back(settings: Settings) -> None:
    """Postgres as it was at revision 1."""
    with psycopg.connect(settings.require("database_url")) as operator:
        operator.execute("SET session_replication_role = replica")
        operator.execute("DELETE FROM configbus.risk_config WHERE status = 'archived'")
        operator.execute(SET_BACK)


def epoch_of(settings: Settings) -> int:
    with psycopg.connect(settings.require("database_url")) as operator:
        row = operator.execute("SELECT epoch FROM configbus.environment").fetchone()
    assert row is not None
    return int(row[0])


def wait_for_epoch_above(settings: Settings, epoch: int) -> None:
    until(lambda: epoch_of(settings) > epoch)


def test_a_database_set_back_is_followed_in_a_new_epoch(
    relay: Settings, worker: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, int]] = []
    with ConfigBus.connect(**worker, require="live") as bus, Author(relay) as author:
        bus.on_change("*", lambda _change: seen.append((bus.epoch, bus.revision)))
        for number in (5, 6, 7):
            bus.wait_for(author.set({"risk.max_order_attempts": number}))
        before = bus.epoch
        set_back(relay)
        until(lambda: bus.epoch > before)
        assert (bus.revision, bus.get("risk.max_order_attempts")) == (1, 3)
        bus.wait_for(author.set({"risk.max_order_attempts": 8}))
        assert (bus.revision, bus.get("risk.max_order_attempts")) == (2, 8)
        until(lambda: bus.state == "live")
    assert seen == sorted(seen)
    assert sum("epoch_raised" in record.message for record in caplog.records) == 1
    assert sum("epoch_changed" in record.message for record in caplog.records) == 1


def test_other_content_at_the_same_revision_is_a_new_epoch_too(relay: Settings, worker: dict[str, Any]) -> None:
    with ConfigBus.connect(**worker, require="live") as bus, Author(relay) as author:
        bus.wait_for(author.set({"risk.max_order_attempts": 7}))
        before = bus.epoch
        with psycopg.connect(relay.require("database_url")) as operator:
            operator.execute("SET session_replication_role = replica")
            operator.execute("DELETE FROM configbus.risk_config WHERE status = 'archived'")
            operator.execute(SET_BACK)
            operator.execute("SET session_replication_role = DEFAULT")
            operator.execute("UPDATE configbus.risk_config SET max_order_attempts = 8 WHERE status = 'active'")
        until(lambda: bus.epoch > before)
        assert (bus.revision, bus.get("risk.max_order_attempts")) == (2, 8)


def test_an_epoch_that_got_lost_is_raised_again(relay: Settings, worker: dict[str, Any]) -> None:
    before = epoch_of(relay)
    raised = begin_epoch(relay, "a restore")
    assert raised > before
    with ConfigBus.connect(**worker, require="live") as bus:
        assert bus.epoch == raised
        with psycopg.connect(relay.require("database_url")) as operator:
            operator.execute("UPDATE configbus.environment SET epoch = %s", [before])
        until(lambda: bus.epoch > raised)
        assert bus.revision == 1


def test_a_promoted_standby_begins_an_epoch_with_its_first_release(published: Settings, worker: dict[str, Any]) -> None:
    with ConfigBus.connect(**worker, require="known") as bus, Author(published) as author:
        with psycopg.connect(published.require("database_url")) as operator:
            operator.execute("UPDATE configbus.environment SET epoch = epoch - epoch % 1000")
        earlier = epoch_of(published)
        release = author.set({"risk.max_order_attempts": 7})
        assert release.epoch == earlier + 1
        bus.wait_for(release)


def test_an_environment_from_another_server_takes_no_release_until_it_is_said_so(
    published: Settings, worker: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(published.require("database_url")) as operator:
        operator.execute("UPDATE configbus.environment SET system = '7399999999999999999'")
        operator.commit()
        operator.execute("UPDATE configbus.risk_config SET max_order_attempts = 9 WHERE status = 'active'")
        with pytest.raises(psycopg.Error, match="configbus epoch raise"):
            operator.commit()
    with Author(published) as author, pytest.raises(Conflict, match="configbus epoch raise"):
        author.set({"risk.max_order_attempts": 9})
    with running_relay(published), ConfigBus.connect(**worker) as bus, Author(published) as author:
        until(lambda: any("configbus epoch raise" in record.message for record in caplog.records))
        assert bus.state != "live"
        raised = begin_epoch(published, "restored on a new server")
        bus.wait_for(author.set({"risk.max_order_attempts": 9}))
        assert bus.epoch == raised
        until(lambda: bus.state == "live")


def test_a_database_set_back_that_overtook_redis_is_a_new_epoch_too(
    published: Settings, worker: dict[str, Any], author: Author
) -> None:
    for number in (5, 6, 7):
        author.set({"risk.max_order_attempts": number})
    with ConfigBus.connect(**worker) as bus:
        before = bus.epoch
        set_back(published)
        with psycopg.connect(published.require("database_url"), autocommit=True) as operator:
            for number in (9, 10, 4, 8):
                operator.execute(
                    "UPDATE configbus.risk_config SET max_order_attempts = %s WHERE status = 'active'", [number]
                )
        with running_relay(published):
            until(lambda: bus.epoch > before)
            assert (bus.revision, bus.get("risk.max_order_attempts")) == (5, 8)


def test_an_epoch_is_raised_while_releases_are_made(published: Settings) -> None:
    with running_relay(published), restless(published, 0.003):
        epochs = [epoch_of(published), *(begin_epoch(published, "a restore") for _ in range(12))]
    assert epochs == sorted(set(epochs))


def test_a_release_of_an_epoch_that_has_ended_is_published_in_the_new_one(
    published: Settings, worker: dict[str, Any]
) -> None:
    keys, place = Keys("configbus", "production"), Place("configbus", "production")
    with (
        closing(Link(published.require("redis_url"))) as link,
        connected(published.require("database_url")) as connection,
        Author(load_settings({}, database_url=published.database_url, environment="production")) as author,
        ConfigBus.connect(**worker) as bus,
    ):
        author.set({"risk.max_order_attempts": 9})
        with connection.begin():
            (release,) = releases_after(connection, place, newest_head(connection, place), 1, 1)
        raised = begin_epoch(published, "between a commit and its publishing")
        publisher = Publisher(link, keys, place)
        assert not publisher.publish(release)
        assert publisher.bring_up(connection).epoch == raised
        until(lambda: (bus.epoch, bus.get("risk.max_order_attempts")) == (raised, 9))


def test_releases_without_a_pause_keep_no_worker_from_being_live(published: Settings, worker: dict[str, Any]) -> None:
    with running_relay(published), ConfigBus.connect(**worker, require="live") as bus:
        states: list[str] = []
        bus.on_state(lambda _old, new: states.append(str(new)))
        with restless(published, 0.003):
            until(lambda: bus.revision > 1)
            began = now()
            until(lambda: now() > began + 4.0 or bool(states))
        assert (states, bus.age < 3.0) == ([], True)


def test_an_author_on_an_old_primary_is_told(published: Settings) -> None:
    before = epoch_of(published)
    with Author(published) as author, psycopg.connect(published.require("database_url")) as operator:
        begin_epoch(published, "another primary took over, of a later timeline")
        operator.execute(
            "CREATE OR REPLACE FUNCTION configbus.timeline() RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'"
        )
        operator.execute("UPDATE configbus.environment SET epoch = %s", [before])
        operator.commit()
        with pytest.raises(Superseded, match="another database took over"):
            author.set({"risk.max_order_attempts": 9})


def test_a_release_below_redis_is_left_to_the_relay(published: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with Author(published) as author:
        for number in (5, 6, 7):
            author.set({"risk.max_order_attempts": number})
        set_back(published)
        author.set({"risk.max_order_attempts": 9})
    with pytest.raises(HistoryLost, match="configbus epoch raise"):
        Relay(published, threading.Event()).bring_up()
    assert not caplog.records


def test_two_databases_that_take_turns_are_stopped(relay: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with Author(relay) as author:
        for number in range(RAISES + 1):
            author.set({"risk.max_order_attempts": 10 + number})
            before = epoch_of(relay)
            set_back(relay)
            if number < RAISES:
                wait_for_epoch_above(relay, before)
        until(lambda: any("another database publishes to these keys" in record.message for record in caplog.records))
    assert sum("epoch_raised" in record.message for record in caplog.records) == RAISES


def test_no_epoch_is_begun_that_workers_would_not_follow(published: Settings) -> None:
    epoch = epoch_of(published)
    place = Place("configbus", "production")
    with connected(published.require("database_url")) as connection:
        with pytest.raises(InvalidValue, match="whatever named it is damaged"), translated(), connection.begin():
            raise_epoch(connection, place, epoch, epoch + 2 * FARTHEST, "a forged head")
        assert epoch_of(published) == epoch
        with connection.begin():
            raised = raise_epoch(connection, place, epoch, epoch + FARTHEST // 2, "a head that was found")
    assert raised is not None
    assert epoch + FARTHEST // 2 < raised <= epoch + FARTHEST


def test_epochs_are_not_used_up_by_asking_for_one_far_above_again_and_again(published: Settings) -> None:
    place, epoch = Place("configbus", "production"), epoch_of(published)
    with connected(published.require("database_url")) as connection:
        with connection.begin():
            far = raise_epoch(connection, place, epoch, epoch + FARTHEST - 10_000_000, "a head that was found")
        assert far is not None
        with pytest.raises(InvalidValue, match="no epoch can lie at"), translated(), connection.begin():
            raise_epoch(connection, place, far, far + FARTHEST // 2, "another")
        for above in (0, far):
            with connection.begin():
                raised = raise_epoch(connection, place, far, above, "a restore")
            assert raised is not None
            assert far < raised < far + 2_000
            far = raised


def test_where_the_clock_was_far_ahead_once_epochs_still_rise(published: Settings) -> None:
    place, far = Place("configbus", "production"), epoch_of(published) + 2 * FARTHEST
    with connected(published.require("database_url")) as connection:
        with connection.begin():
            connection.execute(text("UPDATE configbus.environment SET epoch = :far"), {"far": far})
        with connection.begin():
            raised = raise_epoch(connection, place, far, far, "a restore")
    assert raised is not None
    assert far < raised < far + 2_000
