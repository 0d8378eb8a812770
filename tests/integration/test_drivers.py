"""Both drivers on a fake Redis: what a worker makes of hashes and messages, without publisher or relay."""

from __future__ import annotations

import threading
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import redis
from buses import connected_bus
from fakeredis import TcpFakeServer

from configbus import State, wire
from configbus.wire import Entry, Head, Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = Keys("configbus", "production")


class HandPublisher:
    """Writes what a publisher and a relay would write, by hand."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self._client: Any = redis.Redis(port=port)
        self._digests: dict[str, str] = {}
        self.head = Head("bus", "1", 1000, 0, wire.EMPTY_STATE)

    def release(self, *, announce: bool = True, **fields: str) -> None:
        """Change `risk`, write it down, and say so unless the message is to be lost."""
        revision = self.head.revision + 1
        envelope = {"@revision": str(revision), "@version": "1", "@with": "[]"}
        entry = wire.read_entry("risk", envelope | fields)
        prev, old = self.head.state, [self._digests[entry.name]] if entry.name in self._digests else []
        self._digests[entry.name] = entry.mark.digest
        self.head = Head("bus", "1", 1000, revision, wire.xor(prev, [*old, entry.mark.digest]))
        self._write(entry)
        if announce:
            self._client.publish(KEYS.channel, wire.announcement(self.head, prev, "", [entry]))

    def bookmark(self) -> None:
        self._client.publish(KEYS.channel, wire.bookmark(self.head, ""))

    def stamp(self) -> None:
        self._client.hset(KEYS.head, "asof", str(time.time_ns() // 1000))
        self.bookmark()

    def close(self) -> None:
        self._client.close()

    def _write(self, entry: Entry) -> None:
        self._client.hset(KEYS.block(entry.name), mapping=wire.entry_fields(entry))
        self._client.hset(KEYS.index, entry.name, str(entry.mark))
        self._client.hset(KEYS.head, mapping=self.head.fields())


@pytest.fixture
def publisher() -> Iterator[HandPublisher]:
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    publisher = HandPublisher(server.server_address[1])
    publisher.release(max_drawdown_pct='"20.00"')
    yield publisher
    publisher.close()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["thread", "asyncio"])
def options(request: pytest.FixtureRequest, publisher: HandPublisher) -> dict[str, Any]:
    return {"driver": request.param, "redis_url": publisher.url, "environment": "production", "follow": ["risk"]}


def test_an_announcement_is_applied_without_a_load(options: dict[str, Any], publisher: HandPublisher) -> None:
    with connected_bus(**options) as bus:
        assert bus.reads.get("risk.max_drawdown_pct") == Decimal(20)
        publisher.release(max_drawdown_pct='"15.00"')
        bus.wait_for(2)
        assert bus.reads.get("risk.max_drawdown_pct") == Decimal(15)


def test_a_lost_announcement_is_made_up_for_by_the_next_message(
    options: dict[str, Any], publisher: HandPublisher
) -> None:
    with connected_bus(**options) as bus:
        publisher.release(announce=False, max_drawdown_pct='"14.00"')
        publisher.release(announce=False, max_drawdown_pct='"13.00"')
        publisher.bookmark()
        bus.wait_for(3)
        assert bus.reads.get("risk.max_drawdown_pct") == Decimal(13)


def test_a_lost_announcement_is_made_up_for_by_a_look(options: dict[str, Any], publisher: HandPublisher) -> None:
    with connected_bus(**options) as bus:
        publisher.stamp()
        publisher.release(announce=False, max_drawdown_pct='"12.00"')
        bus.wait_for(2)
        assert bus.reads.get("risk.max_drawdown_pct") == Decimal(12)


def test_a_moving_stamp_makes_it_live(options: dict[str, Any], publisher: HandPublisher) -> None:
    with connected_bus(**options) as bus:
        done = threading.Event()

        def beat() -> None:
            while not done.wait(0.1):
                publisher.stamp()

        thread = threading.Thread(target=beat)
        thread.start()
        bus.until(lambda reads: reads.state is State.LIVE)
        done.set()
        thread.join()
