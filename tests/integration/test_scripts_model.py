"""The simulator's models of the Lua scripts do what the scripts do: answer, hashes, messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulator import scripts

from configbus import publisher, relay
from configbus.wire import HEAD_FIELDS, SEEN_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simulator.scripts import Answer, Data, Script

KNOWN = ("epoch", "revision", "state")
CHANNEL = "changes"
WRONG_TYPE = "a hash was to be written where something else is"
HEAD, INDEX = "head", "index"
BLOCKS = ("block:a", "block:b", "block:c")
FEW = {"bus": "bw", "v": "12", "system": "s", "epoch": "78", "revision": "456", "state": "xy", "check": "c"}

words = st.sampled_from(("", "0", "4", "5", "6", "05", " 5 ", "5x", "1e1", "nan", "-inf", "1_0", "text", "ü\n", "bus"))
hashes = st.dictionaries(st.sampled_from(("f", "@revision", "asof", "bus", "epoch")), words, min_size=1)
wholes = st.fixed_dictionaries({field: st.sampled_from(FEW[field]) for field in HEAD_FIELDS})
broken = st.dictionaries(st.sampled_from((*HEAD_FIELDS, "asof")), words, min_size=1)
signed = wholes.map(lambda head: head | {"signature": "k:1"})
heads = st.one_of(wholes, wholes, signed, wholes.map(lambda head: head | {"asof": "1"}), broken)
states = st.fixed_dictionaries(
    {},
    optional={HEAD: st.one_of(heads, heads, heads, words), INDEX: st.one_of(hashes, words)}
    | {key: st.one_of(hashes, hashes, words) for key in BLOCKS},
)


@st.composite
def publications(draw: st.DrawFn) -> tuple[Data, list[str], list[str]]:
    """A state and a call of the publish script on it, whose expectation is right more often than not."""
    data = draw(states)
    head = draw(wholes)
    mode = draw(st.sampled_from(("next", "full", "index", "repair")))
    named = draw(st.lists(st.sampled_from(BLOCKS), unique=True))
    stray = [key for key in BLOCKS if key not in named and mode == "full" and draw(st.booleans())]
    pairs = _flat(head | {"published_at": "now"} | draw(st.sampled_from(({}, {"signature": "k:2"}))))
    arguments = [mode, draw(expectations(data, mode)), CHANNEL, draw(words), str(len(pairs)), *pairs]
    for key in named:
        fields = [] if mode == "index" and draw(st.booleans()) else _flat(draw(hashes))
        arguments += [key.removeprefix("block:"), draw(words), str(len(fields)), *fields]
    return data, [HEAD, INDEX, *named, *stray], arguments


@st.composite
def expectations(draw: st.DrawFn, data: Data, mode: str) -> str:
    found = data.get(HEAD, {})
    head = found if isinstance(found, dict) and draw(st.integers(0, 4)) else draw(wholes)
    if mode == "next":
        seen = ":".join(head.get(field, "") for field in ("bus", "epoch", "revision", "state"))
        return seen + (":signed" if draw(st.booleans()) else "")
    if isinstance(found, str) and draw(st.booleans()):
        return "not a hash"
    return "\n".join(head.get(field, "") for field in SEEN_FIELDS)


@st.composite
def stamps(draw: st.DrawFn) -> tuple[Data, list[str], list[str]]:
    """A state and a call of the stamp script on it, by a relay that mostly knows the head."""
    data = draw(states)
    read = draw(wholes)
    if draw(st.integers(0, 4)):
        head = data[HEAD] = dict(read)
        head[draw(st.sampled_from(HEAD_FIELDS))] = draw(words)
        read |= {field: draw(st.sampled_from(FEW[field])) for field in draw(st.sets(st.sampled_from(KNOWN)))}
    arguments = [draw(words), read["bus"], read["epoch"], read["revision"], read["state"], CHANNEL, draw(words)]
    return data, [HEAD], [*arguments, *draw(st.sampled_from(([], ["k:3"])))]


class Server:
    """The real one, set to a state before each script."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.listener: redis.client.PubSub = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # the stubs are narrower than the call
        self.listener.subscribe(CHANNEL)

    def run(self, source: str, data: Data, keys: Sequence[str], arguments: Sequence[str]) -> tuple[Answer, Data]:
        self.client.flushall()
        for key, value in data.items():
            if isinstance(value, str):
                self.client.set(key, value)
            else:
                self.client.hset(key, mapping=cast("dict[Any, Any]", value))
        try:
            answer = cast("list[str] | str", self.client.eval(source, len(keys), *keys, *arguments))
        except redis.ResponseError as error:
            answer = WRONG_TYPE if "WRONGTYPE" in str(error) else str(error)
        self.client.publish(CHANNEL, "the end")
        messages = []
        while (message := self.listener.get_message(timeout=5)) is None or message["data"] != "the end":
            if message is not None:
                messages.append(message["data"])
        return ([answer] if isinstance(answer, str) else answer, messages), self._state()

    def _state(self) -> Data:
        found: Data = {}
        for key in cast("list[str]", self.client.keys("*")):
            kind = self.client.type(key)
            found[key] = cast(
                "str | dict[str, str]", self.client.get(key) if kind == "string" else self.client.hgetall(key)
            )
        return found


@pytest.fixture
def server(redis_url: str) -> Iterator[Server]:
    server = Server(redis_url)
    yield server
    server.listener.close()
    server.client.close()


def agree(server: Server, source: str, model: Script, data: Data, keys: list[str], arguments: list[str]) -> None:
    real, left = server.run(source, data, keys, arguments)
    try:
        answer = model(data, keys, arguments)
    except TypeError:
        answer = [WRONG_TYPE], []
    assert answer == real
    assert data == left


often = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@often
@given(publications())
def test_publish_lua_and_its_model_agree(server: Server, call: tuple[Data, list[str], list[str]]) -> None:
    agree(server, publisher.SCRIPT, scripts.publish, *call)


@often
@given(stamps())
def test_stamp_lua_and_its_model_agree(server: Server, call: tuple[Data, list[str], list[str]]) -> None:
    agree(server, relay.SCRIPT, scripts.stamp, *call)


def _flat(pairs: dict[str, str]) -> list[str]:
    return [part for pair in pairs.items() for part in pair]
