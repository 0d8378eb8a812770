"""The worker's protocol, step by step: what it is told at which instant, and what it asks for then."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from entries import CATALOGUE, EPOCH, EVERYTHING, History, Step, StrategyConfig, history_of
from hypothesis import given, settings
from hypothesis import strategies as st

from configbus.domains import RiskConfig, TradingConfig
from configbus.follow import Follower
from configbus.lastgood import LastGood
from configbus.protocol import (
    DONE,
    Adopt,
    Arrived,
    Failed,
    Look,
    Looked,
    LookFailed,
    Lost,
    Nothing,
    Ping,
    Pong,
    Read,
    Reading,
    ReadStore,
    Receive,
    Refresh,
    Refreshed,
    Report,
    Subscribe,
    Subscribed,
    Vouch,
    Wait,
)
from configbus.receive import LOAD_ATTEMPTS
from configbus.signing import Keyring
from configbus.snapshot import LIVE_SECONDS, Selection, State, state_of
from configbus.wire import EMPTY_STATE, Entry, Head, Mark, entry_fields, of_database

if TYPE_CHECKING:
    from collections.abc import Iterable

    from configbus.protocol import Command, Event
    from configbus.snapshot import Snapshot

SHORTLY = Wait(0.05, 3 * 0.05)
"""The pause after a first loss."""
SERVER_TIME = 1_769_860_800_000_000
"""What Redis' clock shows when ours shows 0, in microseconds."""


def follower_of(*, ready_by: float | None = None, has_store: bool = False, follow: list[str] | None = None) -> Follower:
    selection = EVERYTHING if follow is None else Selection(CATALOGUE, follow)
    return Follower(CATALOGUE, selection, ready_by, has_store)


TICKETS = itertools.count(1)


class Script:
    """One follower, driven by hand: `command` is what it asks for, `told` what it said on the way, `at` the clock."""

    def __init__(self, follower: Follower | None = None, at: float = 0.0) -> None:
        self.follower = follower_of() if follower is None else follower
        self.follower.now = self.at = at
        self.told: list[Command] = []
        self._steps = self.follower.run()
        self.command = self._asked(next(self._steps))

    def answer(self, event: Event, after: float = 0.0) -> Command:
        """Answer what it asks for, that many seconds later; returns what it asks for next."""
        self.at += after
        self.command = self._asked(self._steps.send((event, self.at)))
        return self.command

    def until(self, instant: float, event: Event | None = None) -> Command:
        """Answer at an instant; without an event nothing happened until then."""
        return self.answer(Nothing() if event is None else event, instant - self.at)

    def read(self, history: History) -> Command:
        """Answer its reads with the whole state of a history."""
        while isinstance(self.command, Read):
            self.answer(reading(history, self.command.names))
        return self.command

    def _asked(self, command: Command) -> Command:
        while isinstance(command, Adopt | Vouch | Refreshed | Report):
            self.told.append(command)
            command = self._steps.send((DONE, self.at))
        return command

    @property
    def adopted(self) -> list[Snapshot]:
        return [command.snapshot for command in self.told if isinstance(command, Adopt)]

    @property
    def vouched(self) -> list[float]:
        return [round(command.since, 6) for command in self.told if isinstance(command, Vouch)]

    @property
    def reports(self) -> list[tuple[str, str]]:
        return [(command.level, command.event) for command in self.told if isinstance(command, Report)]

    @property
    def refreshed(self) -> list[str | None]:
        return [command.fault for command in self.told if isinstance(command, Refreshed)]

    def forget(self) -> None:
        self.told.clear()


def reading(history: History, names: Iterable[str] = (), **other: Any) -> Reading:
    """The whole truth about these blocks, or something `other`."""
    blocks = {name: entry_fields(history.entries[name]) for name in names if name in history.entries}
    return replace(Reading(0, history.head.fields(), history.index, blocks), **other)


def started(history: History, follower: Follower | None = None) -> Script:
    """A follower that has loaded at 0, has asked for its first look and waits."""
    script = Script(follower)
    assert isinstance(script.command, Subscribe)
    script.answer(DONE)
    script.answer(Subscribed())
    assert isinstance(script.read(history), Look)
    assert script.answer(DONE) == Receive(1.5)
    assert script.adopted[-1].position == history.head.position
    script.forget()
    return script


def looked(head: Head, *, asked: float, age: float = 0.0, answered: float | None = None, connection: int = 1) -> Looked:
    """The answer to a look: the relay stamped the head `age` seconds before Redis answered, on Redis' own clock."""
    time = SERVER_TIME + round((asked if answered is None else answered) * 1_000_000)
    stamp = time - round(age * 1_000_000)
    return Looked(asked, connection, time, head.fields() | {"asof": str(stamp)})


def heard(history: History) -> Arrived:
    """A bookmark."""
    return Arrived(Step(history.head, EMPTY_STATE, ()).bookmark)


def live(history: History, follower: Follower | None = None) -> Script:
    """A follower that was vouched for: at 1.0 it waits, and its next look is due at 1.7."""
    script = started(history, follower)
    script.until(0.1, looked(history.head, asked=0.0))
    script.until(0.5, heard(history))
    assert isinstance(script.until(0.7), Look)
    script.answer(DONE)
    script.until(0.7, looked(history.head, asked=0.7))
    assert script.vouched == [0.7]
    assert script.until(1.0, Arrived(Step(history.head, EMPTY_STATE, ()).bookmark)) == Receive(1.7)
    script.forget()
    return script


def base() -> History:
    return history_of({"trading": {}, "risk": {}, "strategy/a": {"size": 1}})


def size(snapshot: Snapshot, key: str = "a") -> int:
    return snapshot.block(StrategyConfig, key=key).size


def test_it_subscribes_and_has_that_confirmed_before_it_loads() -> None:
    history = base()
    script = Script()
    assert script.command == Subscribe(1.0)
    assert script.answer(DONE) == Receive(1.0)
    assert script.answer(Subscribed()) == Read((), 1.0)
    assert script.answer(reading(history)) == Read(("trading", "risk", "strategy/a"), 1.0)
    assert script.adopted == []
    assert script.answer(reading(history, history.entries)) == Look(1.0)
    (snapshot,) = script.adopted
    assert (snapshot.position, snapshot.origin, size(snapshot)) == (history.head.position, "redis", 1)
    assert script.answer(DONE) == Receive(1.5)


def test_what_arrived_during_the_load_is_applied_after_it() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    script.answer(Arrived(step.message))
    assert [size(snapshot) for snapshot in script.adopted] == [2]


def test_a_confirmation_that_does_not_come_within_a_second_is_a_loss() -> None:
    script = Script()
    assert script.answer(DONE, after=0.2) == Receive(1.2)
    assert script.answer(Pong(), after=0.5) == Receive(1.2)
    assert script.until(1.2) == SHORTLY
    assert script.reports == [("warning", "connection_lost")]
    assert script.answer(DONE, after=0.1) == Subscribe(1.0)


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_lost_connection_is_opened_again_and_loaded_from(confirmed: bool) -> None:  # noqa: FBT001  # a case
    history = base()
    script = Script()
    script.answer(DONE)
    if confirmed:
        script.answer(Subscribed())
        script.read(history)
        script.answer(DONE)
    assert script.answer(Lost("reset")) == SHORTLY
    shown = {"revision": 1} if confirmed else {}
    assert script.told[-1] == Report("warning", "connection_lost", shown | {"reason": "reset"})
    script.answer(DONE)
    script.answer(DONE)
    assert isinstance(script.answer(Subscribed()), Read)


def failing_to_connect(script: Script, times: int) -> list[Wait]:
    waits = []
    for _ in range(times):
        command = script.answer(Failed("refused"))
        assert isinstance(command, Wait)
        waits.append(command)
        script.answer(DONE, after=command.longest)
    return waits


def test_delays_between_attempts_grow_to_half_a_second_and_the_loss_is_told_once() -> None:
    script = Script()
    waits = failing_to_connect(script, 12)
    assert waits[0] == SHORTLY
    assert [wait.longest for wait in waits] == sorted(wait.longest for wait in waits)
    assert waits[3].longest == waits[-1].longest == 0.5
    assert script.told == [Report("warning", "connection_lost", {"reason": "refused"})]


def test_every_delay_between_attempts_is_jittered() -> None:
    waits = failing_to_connect(Script(), 12)
    assert all(0.05 <= wait.shortest < wait.longest for wait in waits)


def test_after_a_success_delays_start_anew() -> None:
    script = Script()
    for _ in range(6):
        script.answer(Failed("refused"))
        script.answer(DONE)
    script.answer(DONE)
    script.answer(Subscribed())
    script.read(base())
    script.answer(DONE)
    assert script.answer(Lost("reset")) == SHORTLY


def test_a_release_that_arrives_is_applied_without_a_load() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}, "risk": {"max_drawdown_pct": "15.00"}})
    assert script.until(0.3, Arrived(step.message)) == Receive(1.8)
    (snapshot,) = script.adopted
    assert (snapshot.position, snapshot.origin) == (step.head.position, "redis")
    assert size(snapshot) == 2
    assert snapshot.block(RiskConfig).max_drawdown_pct == 15
    step = history.release({"strategy/a": None, "strategy/b": {"size": 3}})
    assert script.until(0.5, Arrived(step.message)) == Receive(2.0)
    assert script.adopted[-1].keys(StrategyConfig) == ["b"]
    assert script.reports == []


def test_a_release_of_blocks_that_are_not_followed_moves_the_position_only() -> None:
    history = base()
    script = started(history, follower_of(follow=["risk"]))
    step = history.release({"trading": {"score_threshold": "0.800"}})
    assert isinstance(script.answer(Arrived(step.message)), Receive)
    (snapshot,) = script.adopted
    assert (snapshot.revision, set(snapshot.adopted)) == (2, {"risk"})
    step = history.release({"risk": {"max_drawdown_pct": "15.00"}})
    assert isinstance(script.answer(Arrived(step.message)), Receive)
    assert script.adopted[-1].block(RiskConfig).max_drawdown_pct == 15


def test_only_followed_blocks_are_read() -> None:
    history = base()
    history.release({"strategy/b": {}})
    script = Script(follower_of(follow=["strategy/*", "risk"]))
    script.answer(DONE)
    script.answer(Subscribed())
    assert script.answer(reading(history)) == Read(("risk", "strategy/a", "strategy/b"), 1.0)


def test_after_a_gap_it_loads_and_reads_only_what_differs() -> None:
    history = base()
    script = started(history)
    history.release({"strategy/a": {"size": 2}})
    step = history.release({"strategy/b": {"size": 3}})
    assert script.answer(Arrived(step.message)) == Read((), 1.0)
    assert script.answer(reading(history)) == Read(("strategy/a", "strategy/b"), 1.0)
    assert isinstance(script.answer(reading(history, ["strategy/a", "strategy/b"])), Receive)
    (snapshot,) = script.adopted
    assert (snapshot.revision, size(snapshot), size(snapshot, "b")) == (3, 2, 3)


def loads_for(script: Script, message: bytes, history: History) -> Snapshot:
    """The snapshot after a message that makes it load."""
    assert script.answer(Arrived(message)) == Read((), 1.0)
    assert isinstance(script.read(history), Receive)
    (snapshot,) = script.adopted
    assert snapshot.position == history.head.position
    return snapshot


def test_a_message_that_builds_on_another_state_is_not_applied_but_loaded() -> None:
    history = base()
    script = started(history)
    other = base()
    other.release({"risk": {"max_drawdown_pct": "15.00"}})
    step = other.release({"strategy/a": {"size": 2}})
    forged = replace(step, head=replace(step.head, revision=2))
    other.head = forged.head
    assert size(loads_for(script, forged.message, other)) == 2


def test_a_message_that_leaps_ahead_of_all_releases_is_not_applied_but_loaded() -> None:
    history = base()
    script = started(history)
    other = base()
    step = other.release({"strategy/a": {"size": 2}})
    leap = replace(step, head=replace(step.head, revision=1001))
    assert script.answer(Arrived(leap.message)) == Read((), 1.0)
    script.read(history)
    assert script.follower.received is not None
    assert script.follower.received.head == history.head


def test_a_message_whose_blocks_do_not_make_the_heads_state_is_not_applied_but_loaded() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}, "strategy/b": {"size": 3}})
    half = replace(step, entries=step.entries[:1])
    snapshot = loads_for(script, half.message, history)
    assert (size(snapshot), size(snapshot, "b")) == (2, 3)


def test_a_message_of_names_only_is_loaded() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    assert size(loads_for(script, step.names_only, history)) == 2


def test_a_bookmark_that_is_ahead_is_loaded() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    assert size(loads_for(script, step.bookmark, history)) == 2


def test_a_release_of_a_higher_epoch_is_loaded_even_if_it_builds_on_the_same_state() -> None:
    history = base()
    script = started(history)
    history.head = replace(history.head, epoch=EPOCH + 1)
    step = history.release({"strategy/a": {"size": 2}})
    assert loads_for(script, step.message, history).epoch == EPOCH + 1


def test_a_higher_epoch_with_a_lower_revision_is_newer() -> None:
    history = base()
    history.release({"strategy/a": {"size": 2}})
    script = started(history)
    other = History(EPOCH + 1)
    step = other.release({"strategy/a": {"size": 3}})
    snapshot = loads_for(script, step.message, other)
    assert (snapshot.revision, size(snapshot)) == (1, 3)


@pytest.mark.parametrize("kind", ["message", "names_only", "bookmark"])
def test_the_same_position_with_another_state_is_loaded_and_taken(kind: str) -> None:
    history, repaired = base(), base()
    history.release({"strategy/a": {"size": 2}})
    script = started(history)
    step = repaired.release({"strategy/a": {"size": 3}})
    assert size(loads_for(script, getattr(step, kind), repaired)) == 3


@pytest.mark.parametrize("kind", ["message", "names_only", "bookmark"])
def test_what_is_not_newer_is_ignored(kind: str) -> None:
    history = base()
    first = history.release({"strategy/a": {"size": 2}})
    second = history.release({"strategy/a": {"size": 3}})
    script = started(history)
    lower = History(EPOCH - 1)
    for number in range(9):
        higher_revision = lower.release({"strategy/a": {"size": number}})
    for step in (first, second, higher_revision, first, second):
        assert isinstance(script.answer(Arrived(getattr(step, kind))), Receive)
    assert script.told == []


def test_another_bus_is_ignored_counted_and_told_once() -> None:
    history = base()
    script = started(history)
    foreign = History(EPOCH + 1, "ffffffffffff")
    step = foreign.release({"strategy/a": {"size": 2}})
    for message in (step.message, step.bookmark, step.names_only):
        assert isinstance(script.answer(Arrived(message)), Receive)
    assert script.adopted == []
    assert script.reports == [("warning", "other_bus_ignored")]
    assert script.follower.ignored == 3


def test_what_is_about_another_database_of_redis_is_ignored_and_told_once() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    for message in (step.message, step.bookmark):
        assert isinstance(script.answer(Arrived(of_database(message.decode(), 1).encode())), Receive)
    assert script.adopted == []
    assert script.reports == [("warning", "other_database_ignored")]


def test_junk_on_the_channel_is_ignored_counted_and_told() -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    forged = step.message.replace(b'"size": 2', b'"size": 9')
    for message in (b"hello", forged, b"\xff", b""):
        assert isinstance(script.answer(Arrived(message)), Receive)
    assert script.adopted == []
    assert set(script.reports) == {("warning", "message_ignored")}
    assert script.follower.ignored == 4


@pytest.mark.parametrize("other", [b'"v": 2', b'"v": 1, "needs": ["signature"]'])
def test_a_newer_protocol_keeps_the_last_good_and_says_so(other: bytes) -> None:
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    message = step.message.replace(b'"v": 1', other)
    assert message != step.message
    for _ in range(2):
        assert isinstance(script.answer(Arrived(message)), Receive)
    assert script.reports == [("error", "message_ignored")]
    assert script.adopted == []
    assert script.follower.ignored == 2


def test_what_was_told_is_told_again_only_on_another_connection() -> None:
    history = base()
    script = live(history)
    for _ in range(3):
        script.answer(Arrived(b"hello"))
    assert script.reports == [("warning", "message_ignored")]
    script.until(1.7)
    script.answer(DONE)
    script.answer(looked(history.head, asked=1.7))
    script.answer(Arrived(b"hello"))
    assert script.reports == [("warning", "message_ignored")]
    script.answer(Lost("reset"))
    script.answer(DONE)
    script.answer(DONE)
    script.answer(Subscribed())
    script.read(history)
    script.answer(DONE)
    script.forget()
    script.answer(Arrived(b"hello"))
    assert script.reports == [("warning", "message_ignored")]


def test_a_second_confirmation_means_it_was_away() -> None:
    history = base()
    script = live(history)
    history.release({"strategy/a": {"size": 2}})
    assert script.answer(Subscribed()) == Read((), 1.0)
    script.read(history)
    assert [size(snapshot) for snapshot in script.adopted] == [2]


def test_a_load_that_finds_what_is_held_changes_nothing() -> None:
    history = base()
    script = live(history)
    assert script.answer(Subscribed()) == Read((), 1.0)
    assert isinstance(script.answer(reading(history)), Receive)
    assert script.told == []


def torn(history: History) -> dict[str, Reading]:
    """Readings that are not of one state, or hold something that nobody wrote."""
    before = history_of({"trading": {}, "risk": {}, "strategy/a": {"size": 1}})
    names = list(history.entries)
    whole = reading(history, names)

    def with_block(fields: dict[str, str]) -> Reading:
        return replace(whole, blocks=dict(whole.blocks) | {"strategy/a": fields})

    fields = dict(whole.blocks["strategy/a"])
    return {
        "head of before": replace(whole, head=before.head.fields()),
        "index of before": replace(whole, index=before.index),
        "no index": replace(whole, index={}),
        "an entry too many": replace(whole, index=history.index | {"strategy/z": f"1:{'1' * 32}"}),
        "an entry missing": replace(whole, index={name: history.index[name] for name in names[:-1]}),
        "a broken index": replace(whole, index=history.index | {"strategy/a": "junk"}),
        "block of before": with_block(entry_fields(before.entries["strategy/a"])),
        "empty block": with_block({}),
        "no block": replace(whole, blocks={name: whole.blocks[name] for name in names if name != "strategy/a"}),
        "a field removed": with_block({name: text for name, text in fields.items() if name != "size"}),
        "a field changed": with_block(fields | {"size": "9"}),
        "a field added": with_block(fields | {"other": "1"}),
        "an envelope removed": with_block({"size": fields["size"]}),
        "junk in a field": with_block(fields | {"@with": "junk"}),
        "no head": replace(whole, head={}),
        "half a head": replace(whole, head={"bus": history.head.bus}),
        "a head that does not fit its check": replace(whole, head=history.head.fields() | {"revision": "9"}),
        "a newer protocol": replace(whole, head=history.head.fields() | {"v": "2"}),
    }


TORN = sorted(torn(history_of({"trading": {}, "risk": {}, "strategy/a": {"size": 1}}, {"strategy/a": {"size": 2}})))


@pytest.mark.parametrize("fault", TORN)
@pytest.mark.parametrize("first", [True, False], ids=["at the start", "later"])
def test_a_load_that_does_not_fit_is_repeated_a_few_times_then_told_and_never_believed(
    fault: str,
    first: bool,  # noqa: FBT001  # a case
) -> None:
    history = base()
    script = Script()
    if first:
        script.answer(DONE)
        script.answer(Subscribed())
        history.release({"strategy/a": {"size": 2}})
    else:
        script = started(history)
        history.release({"strategy/a": {"size": 2}})
        script.answer(Subscribed())
    attempts = 0
    while isinstance(script.command, Read | Wait):
        if isinstance(script.command, Wait):
            assert script.command == Wait(0.01, 0.05)
            script.answer(DONE, after=0.01)
            continue
        attempts += not script.command.names
        script.answer(torn(history)[fault])
    assert script.adopted == []
    assert attempts == LOAD_ATTEMPTS
    (report,) = script.told
    assert isinstance(report, Report)
    assert (report.level, report.event) == ("warning", "load_failed")
    assert report.facts["reason"]
    assert isinstance(script.command, Look | Receive)


@pytest.mark.parametrize("fault", TORN)
def test_a_load_that_fits_the_second_time_is_taken(fault: str) -> None:
    history = base()
    script = started(history)
    history.release({"strategy/a": {"size": 2}})
    script.answer(Subscribed())
    while isinstance(script.command, Read):
        script.answer(torn(history)[fault])
    assert script.command == Wait(0.01, 0.05)
    script.answer(DONE, after=0.01)
    assert isinstance(script.read(history), Receive)
    assert [size(snapshot) for snapshot in script.adopted] == [2]
    assert script.reports == []


def test_a_state_that_changes_between_the_two_reads_of_a_load_is_read_again() -> None:
    history = base()
    script = Script()
    script.answer(DONE)
    script.answer(Subscribed())
    script.answer(reading(history))
    names = ("trading", "risk", "strategy/a")
    assert script.command == Read(names, 1.0)
    history.release({"strategy/b": {"size": 3}})
    assert script.answer(reading(history, names)) == Wait(0.01, 0.05)
    assert script.answer(DONE) == Read((), 1.0)
    assert script.read(history) == Look(1.0)
    (snapshot,) = script.adopted
    assert size(snapshot, "b") == 3


def test_a_state_that_never_stands_still_is_told() -> None:
    history = base()
    script = started(history)
    script.answer(Subscribed())
    number = 0
    while isinstance(script.command, Read | Wait):
        if isinstance(script.command, Read):
            number += 1
            history.release({f"strategy/{number}": {}})
            script.answer(reading(history, script.command.names))
        else:
            script.answer(DONE)
    assert script.told == [
        Report("warning", "load_failed", {"revision": 1, "reason": "the state in Redis changed while it was read"})
    ]


def test_a_change_of_a_block_that_is_read_anyway_does_not_disturb_a_load() -> None:
    history = base()
    script = Script()
    script.answer(DONE)
    script.answer(Subscribed())
    script.answer(reading(history))
    history.release({"strategy/a": {"size": 2}})
    assert script.read(history) == Look(1.0)
    assert [size(snapshot) for snapshot in script.adopted] == [2]


def test_a_server_that_does_not_answer_a_load_is_asked_a_few_times_then_it_is_told() -> None:
    history = base()
    script = started(history)
    script.answer(Subscribed())
    reads = 0
    while isinstance(script.command, Read | Wait):
        reads += isinstance(script.command, Read)
        script.answer(Failed("timeout") if isinstance(script.command, Read) else DONE)
    assert reads == LOAD_ATTEMPTS
    assert script.told == [Report("warning", "load_failed", {"revision": 1, "reason": "timeout"})]


def test_a_message_after_a_failed_first_load_is_loaded() -> None:
    history = base()
    script = Script()
    script.answer(DONE)
    script.answer(Subscribed())
    while isinstance(script.command, Read | Wait):
        script.answer(Failed("timeout") if isinstance(script.command, Read) else DONE)
    script.answer(DONE)
    step = history.release({"strategy/a": {"size": 2}})
    assert script.answer(Arrived(step.message)) == Read((), 1.0)
    script.read(history)
    assert [size(snapshot) for snapshot in script.adopted] == [2]


def test_a_lower_head_is_told_and_not_adopted() -> None:
    older = base()
    history = base()
    history.release({"strategy/a": {"size": 2}})
    script = started(history)
    script.answer(Subscribed())
    assert isinstance(script.answer(reading(older)), Receive)
    assert script.told == [Report("warning", "head_lower", {"revision": 1, "held": 2})]
    assert script.follower.snapshot is not None
    assert size(script.follower.snapshot) == 2


def test_a_lower_head_after_a_new_connection_is_not_adopted_either() -> None:
    older = base()
    history = base()
    history.release({"strategy/a": {"size": 2}})
    script = started(history)
    script.answer(Lost("reset"))
    script.answer(DONE)
    script.answer(DONE)
    script.answer(Subscribed())
    assert isinstance(script.read(older), Look)
    assert script.adopted == []
    assert ("warning", "head_lower") in script.reports


def test_another_bus_in_the_keys_is_not_adopted() -> None:
    history = base()
    script = started(history)
    foreign = History(EPOCH + 1, "ffffffffffff")
    foreign.release({"strategy/a": {"size": 2}})
    script.answer(Subscribed())
    assert isinstance(script.answer(reading(foreign)), Receive)
    assert script.adopted == []
    assert script.reports == [("warning", "other_bus_ignored")]


def test_a_held_block_is_told_once_and_other_releases_go_on() -> None:
    history = base()
    script = started(history)
    script.answer(Arrived(history.release({"trading": {"score_threshold": "8.000"}}).message))
    facts = {
        "block": "trading",
        "revision": 2,
        "field": "score_threshold",
        "reason": "Input should be less than or equal to 1",
        "last_good": 1,
        "exc_info": None,
    }
    assert script.told[0] == Report("error", "block_held", facts)
    script.answer(Arrived(history.release({"strategy/a": {"size": 2}}).message))
    assert script.reports == [("error", "block_held")]
    assert [(size(now), set(now.held)) for now in script.adopted] == [(1, {"trading"}), (2, {"trading"})]
    assert script.adopted[-1].block(TradingConfig).score_threshold == Decimal("0.7")
    script.answer(Arrived(history.release({"trading": {"score_threshold": "0.800"}}).message))
    assert script.adopted[-1].held == {}
    assert script.adopted[-1].block(TradingConfig).score_threshold == Decimal("0.8")
    script.answer(Arrived(history.release({"trading": {"score_threshold": "8.000"}}).message))
    assert script.reports == [("error", "block_held")] * 2


def test_a_validator_that_failed_is_told_once_with_what_it_raised() -> None:
    history = base()
    script = started(history)
    for size_ in (66, 66):
        script.answer(Arrived(history.release({"strategy/a": {"size": size_}}).message))
        script.answer(Arrived(history.release({"trading": {"score_threshold": "0.800"}}).message))
    assert script.reports == [("error", "block_held")] * 2
    told = [command for command in script.told if isinstance(command, Report)]
    assert all(isinstance(report.facts["exc_info"], RuntimeError) for report in told)


def test_a_held_block_is_not_told_again_because_the_worker_was_current_meanwhile() -> None:
    history = base()
    script = live(history)
    script.answer(Arrived(history.release({"trading": {"score_threshold": "8.000"}}).message))
    script.until(1.7)
    script.answer(DONE)
    script.answer(looked(history.head, asked=1.7))
    assert script.vouched == [1.7]
    script.answer(Arrived(history.release({"strategy/a": {"size": 2}}).message))
    assert script.reports == [("error", "block_held")]


def test_it_looks_right_after_the_load_and_then_once_a_second() -> None:
    history = base()
    script = live(history)
    assert script.until(1.5, Arrived(history.release({"strategy/a": {"size": 2}}).message)) == Receive(1.7)
    assert script.until(1.7) == Look(1.0)
    assert script.answer(DONE) == Receive(3.0)
    assert script.until(1.8, looked(history.head, asked=1.7)) == Receive(2.8)
    assert script.until(2.8) == Look(1.0)


def test_it_does_not_look_again_while_a_look_is_out() -> None:
    history = base()
    script = started(history)
    for instant in (1.0, 2.0, 3.0):
        assert script.until(instant, Pong()) == Receive(instant + 1.5)


def test_a_look_that_failed_is_told_and_the_next_comes_a_second_later() -> None:
    script = started(base())
    assert script.until(0.4, LookFailed("timeout")) == Receive(1.4)
    assert script.told == [Report("warning", "look_failed", {"revision": 1, "reason": "timeout"})]
    assert script.until(1.4) == Look(1.0)


def test_the_first_stamp_of_a_connection_is_no_proof_and_is_looked_at_again_after_600_ms() -> None:
    history = base()
    script = started(history)
    first = looked(history.head, asked=0.0)
    assert script.until(0.1, first) == Receive(0.7)
    assert script.vouched == []
    script.until(0.5, heard(history))
    assert script.until(0.7) == Look(1.0)
    script.answer(DONE)
    assert script.until(0.8, replace(looked(history.head, asked=0.7), head=first.head)) == Receive(1.4)
    assert script.vouched == []
    assert script.until(1.4) == Look(1.0)
    script.answer(DONE)
    script.until(1.45, looked(history.head, asked=1.4, age=0.2))
    assert script.vouched == [1.2]


def test_a_stamp_that_moved_without_a_word_from_the_relay_is_no_proof() -> None:
    # Redis has loaded another old copy; a bookmark comes with every stamp of a relay.
    history = base()
    script = started(history)
    script.until(0.1, looked(history.head, asked=0.0))
    script.until(0.7)
    script.answer(DONE)
    script.answer(looked(history.head, asked=0.7))
    assert script.vouched == []
    script.until(1.2, heard(history))
    script.until(1.4)
    script.answer(DONE)
    script.answer(looked(history.head, asked=1.4))
    assert script.vouched == [1.4]


def test_a_stamp_that_has_moved_backwards_has_moved() -> None:
    # After a failover the new server's clock may be behind: then the stamp is old, and says so by itself.
    history = base()
    script = started(history)
    script.until(0.1, looked(history.head, asked=0.0))
    script.until(0.5, heard(history))
    script.until(0.7)
    script.answer(DONE)
    script.answer(looked(history.head, asked=0.7, age=2.5))
    assert script.vouched == [-1.8]


def test_a_new_poll_connection_proves_anew() -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    assert script.until(1.8, looked(history.head, asked=1.7, connection=2)) == Receive(2.4)
    assert script.vouched == []
    script.until(2.0, heard(history))
    script.until(2.4)
    script.answer(DONE)
    script.answer(looked(history.head, asked=2.4, connection=2))
    assert script.vouched == [2.4]


def test_a_new_push_connection_needs_no_new_proof_of_the_poll_connection() -> None:
    history = base()
    script = live(history)
    script.answer(Lost("reset"))
    script.answer(DONE)
    script.answer(DONE)
    script.answer(Subscribed())
    assert script.read(history) == Look(1.0)
    script.answer(DONE)
    script.answer(looked(history.head, asked=1.0, age=0.1))
    assert script.vouched == [0.9]


@pytest.mark.parametrize(
    ("asked", "answered", "age", "since"),
    [(1.7, 1.7, 0.0, 1.7), (1.7, 1.9, 0.0, 1.7), (1.7, 1.8, 0.25, 1.45), (1.7, 1.7, 0.9, 0.8)],
)
def test_vouched_is_the_moment_of_asking_less_the_age_of_the_stamp(
    asked: float, answered: float, age: float, since: float
) -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    script.until(2.0, looked(history.head, asked=asked, answered=answered, age=age))
    assert script.vouched == [since]
    assert script.follower.vouched == pytest.approx(since)


def test_vouched_never_goes_backwards() -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    script.answer(looked(history.head, asked=1.7, age=1.2))
    assert script.vouched == []
    assert script.follower.vouched == pytest.approx(0.7)


@pytest.mark.parametrize("age", [-0.000001, -1.0, -86_400.0])
def test_a_stamp_in_the_future_is_no_proof(age: float) -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    assert isinstance(script.answer(looked(history.head, asked=1.7, age=age)), Receive)
    assert script.vouched == []


def test_after_a_stamp_in_the_future_the_same_stamp_never_proves_anything() -> None:
    # The relay is dead and Redis' clock stepped back: once it has caught up with the stamp, nothing is newer for it.
    history = base()
    script = live(history)
    stamp = str(SERVER_TIME + 5_000_000)
    asked = 1.7
    script.until(asked)
    script.answer(DONE)
    for _ in range(8):
        fields = history.head.fields() | {"asof": stamp}
        script.until(asked, Looked(asked, 1, SERVER_TIME + round(asked * 1_000_000), fields))
        assert script.vouched == []
        asked += 1.0
        assert isinstance(script.until(asked, Arrived(Step(history.head, EMPTY_STATE, ()).bookmark)), Look)
        script.answer(DONE)
    assert asked > 5.0


def test_a_head_that_is_ahead_is_loaded_and_then_vouched_for() -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    history.release({"strategy/a": {"size": 2}})
    assert script.until(1.8, looked(history.head, asked=1.7, age=0.1)) == Read((), 1.0)
    assert isinstance(script.read(history), Receive)
    assert [size(snapshot) for snapshot in script.adopted] == [2]
    assert script.vouched == [1.6]


def test_a_head_that_is_ahead_and_cannot_be_loaded_proves_nothing() -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    history.release({"strategy/a": {"size": 2}})
    script.until(1.8, looked(history.head, asked=1.7))
    while isinstance(script.command, Read | Wait):
        script.answer(Failed("timeout") if isinstance(script.command, Read) else DONE)
    assert script.vouched == []


def test_a_head_of_another_state_at_the_same_position_is_loaded() -> None:
    history, repaired = base(), base()
    history.release({"strategy/a": {"size": 2}})
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    repaired.release({"strategy/a": {"size": 3}})
    assert script.answer(looked(repaired.head, asked=1.7)) == Read((), 1.0)
    script.read(repaired)
    assert [size(snapshot) for snapshot in script.adopted] == [3]
    assert script.vouched == [1.7]


def test_a_head_of_another_state_that_cannot_be_loaded_proves_nothing() -> None:
    history, repaired = base(), base()
    history.release({"strategy/a": {"size": 2}})
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    repaired.release({"strategy/a": {"size": 3}})
    script.answer(looked(repaired.head, asked=1.7))
    while isinstance(script.command, Read | Wait):
        script.answer(Failed("timeout") if isinstance(script.command, Read) else DONE)
    assert script.vouched == []


def test_a_head_that_a_message_has_overtaken_meanwhile_is_a_proof() -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    head = history.head
    script.until(1.75, Arrived(history.release({"strategy/a": {"size": 2}}).message))
    script.until(1.8, looked(head, asked=1.7, age=0.1))
    assert script.vouched == [1.6]
    assert script.reports == []


def test_a_head_below_what_was_held_when_asking_is_told_and_no_proof() -> None:
    history = base()
    older = history.head
    history.release({"strategy/a": {"size": 2}})
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    assert isinstance(script.answer(looked(older, asked=1.7)), Receive)
    assert script.told == [Report("warning", "head_lower", {"revision": 1, "held": 2})]


def test_a_look_that_was_asked_for_before_anything_was_received_is_no_proof() -> None:
    history = base()
    script = Script()
    script.answer(DONE)
    script.answer(Subscribed())

    def fail() -> None:
        while isinstance(script.command, Read | Wait):
            script.answer(Failed("timeout") if isinstance(script.command, Read) else DONE)

    fail()
    assert script.command == Look(1.0)
    script.answer(DONE)
    script.until(0.1, looked(history.head, asked=0.0))
    fail()
    assert script.until(0.7) == Look(1.0)
    script.answer(DONE)
    script.until(0.8, Arrived(Step(history.head, EMPTY_STATE, ()).bookmark))
    script.read(history)
    assert len(script.adopted) == 1
    script.until(0.9, looked(history.head, asked=0.7))
    assert script.vouched == []


@pytest.mark.parametrize(
    ("fields", "reports"),
    [
        ({"check": "0" * 32}, [("warning", "head_ignored")]),
        ({"revision": "-1"}, [("warning", "head_ignored")]),
        ({"revision": "99999999999999999999"}, [("warning", "head_ignored")]),
        ({"v": "2"}, [("error", "head_ignored")]),
        ({"needs": "signature"}, [("error", "head_ignored")]),
        ({"bus": "ffffffffffff"}, [("warning", "head_ignored")]),
    ],
)
def test_a_head_that_does_not_fit_is_told_and_neither_loaded_nor_a_proof(
    fields: dict[str, str], reports: list[tuple[str, str]]
) -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    look = looked(history.head, asked=1.7)
    assert script.until(1.8, replace(look, head=dict(look.head) | fields)) == Receive(2.5)
    assert script.reports == reports
    assert script.vouched == []
    assert script.follower.ignored == 1


def test_another_bus_in_the_head_is_told_and_neither_loaded_nor_a_proof() -> None:
    script = live(base())
    foreign = History(EPOCH + 1, "ffffffffffff")
    foreign.release({"strategy/a": {"size": 2}})
    script.until(1.7)
    script.answer(DONE)
    assert isinstance(script.answer(looked(foreign.head, asked=1.7)), Receive)
    assert script.reports == [("warning", "other_bus_ignored")]
    assert (script.adopted, script.vouched) == ([], [])


def test_no_head_is_no_proof_and_takes_nothing_away() -> None:
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    assert isinstance(script.answer(replace(looked(history.head, asked=1.7), head={})), Receive)
    assert script.told == []
    assert script.follower.snapshot is not None


@pytest.mark.parametrize("stamp", [None, "", "x", "1.5", "9" * 5_000])
def test_a_head_without_a_stamp_is_no_proof_but_is_followed(stamp: str | None) -> None:
    # Only the relay stamps. Without one, a message that was lost must be noticed all the same.
    history = base()
    script = live(history)
    script.until(1.7)
    script.answer(DONE)
    history.release({"strategy/a": {"size": 2}})
    fields = history.head.fields() | ({} if stamp is None else {"asof": stamp})
    assert script.answer(Looked(1.7, 1, SERVER_TIME, fields)) == Read((), 1.0)
    script.read(history)
    assert [size(snapshot) for snapshot in script.adopted] == [2]
    assert script.vouched == []


def test_after_a_second_and_a_half_of_silence_it_pings_and_a_second_later_it_reconnects() -> None:
    script = started(base())
    assert script.until(1.5) == Ping()
    assert script.answer(DONE) == Receive(2.5)
    assert script.until(2.5) == SHORTLY
    assert script.told == [Report("warning", "connection_lost", {"revision": 1, "reason": "no answer to PING"})]


@pytest.mark.parametrize("event", [Pong(), Subscribed(), Arrived(b"junk")])
def test_whatever_comes_on_the_push_connection_answers_a_ping(event: Event) -> None:
    history = base()
    script = started(history)
    script.until(1.5)
    script.answer(DONE)
    script.until(2.4, event)
    assert script.read(history) == Receive(2.4 + 1.5)
    assert script.until(2.4 + 1.5) == Ping()


def test_a_ping_that_cannot_be_sent_is_a_loss() -> None:
    script = started(base())
    script.until(1.5)
    assert script.answer(Failed("broken pipe")) == SHORTLY
    assert script.told == [Report("warning", "connection_lost", {"revision": 1, "reason": "broken pipe"})]


def test_a_message_puts_the_ping_off() -> None:
    history = base()
    script = started(history)
    bookmark = Step(history.head, EMPTY_STATE, ()).bookmark
    assert script.until(1.4, Arrived(bookmark)) == Receive(2.9)
    assert script.until(2.8, Arrived(bookmark)) == Receive(4.3)
    assert script.told == []


def test_the_answer_to_a_look_is_no_sign_of_life_of_the_push_connection() -> None:
    history = base()
    script = started(history)
    script.until(1.0, looked(history.head, asked=0.0))
    assert script.command == Receive(1.5)
    assert script.until(1.5) == Ping()


def test_a_message_in_the_buffer_goes_before_the_judgement_after_a_pause() -> None:
    # A worker that was stopped for ten seconds finds messages that came meanwhile, and knows the connection is alive.
    history = base()
    script = started(history)
    step = history.release({"strategy/a": {"size": 2}})
    assert script.until(10.0, Arrived(step.message)) == Receive(11.5)
    assert [size(snapshot) for snapshot in script.adopted] == [2]

    script = started(base())
    script.until(1.5)
    assert script.answer(DONE) == Receive(2.5)
    assert isinstance(script.until(12.0, Arrived(step.message)), Receive)
    assert script.reports == []


def test_a_look_that_is_due_does_not_hide_the_silence() -> None:
    history = base()
    script = live(history)
    assert script.until(1.7) == Look(1.0)
    script.answer(DONE)
    assert script.until(1.9, looked(history.head, asked=1.7)) == Receive(2.5)
    assert script.until(2.5) == Ping()
    assert script.answer(DONE) == Receive(2.9)
    assert script.until(2.9) == Look(1.0)
    assert script.answer(DONE) == Receive(3.5)
    assert script.until(3.5) == SHORTLY


def test_without_redis_it_starts_from_postgres() -> None:
    history = base()
    script = Script(follower_of(has_store=True, ready_by=4.0))
    assert script.answer(Failed("refused")) == ReadStore(1.0)
    assert isinstance(script.answer(reading(history, history.entries)), Wait)
    (snapshot,) = script.adopted
    assert (snapshot.position, snapshot.origin, size(snapshot)) == (history.head.position, "postgres", 1)
    script.answer(DONE)
    assert isinstance(script.answer(Failed("refused")), Wait)
    assert len(script.adopted) == 1


def test_postgres_is_asked_again_until_something_is_known() -> None:
    history = base()
    script = Script(follower_of(has_store=True, ready_by=4.0))
    script.answer(Failed("refused"))
    assert isinstance(script.answer(Failed("also refused")), Wait)
    assert ("warning", "store_failed") in script.reports
    script.answer(DONE, after=1.0)
    assert isinstance(script.answer(Failed("refused")), ReadStore)
    script.answer(reading(history, history.entries))
    assert [snapshot.origin for snapshot in script.adopted] == ["postgres"]


def test_a_state_in_postgres_that_does_not_fit_is_not_believed() -> None:
    history = base()
    script = Script(follower_of(has_store=True, ready_by=4.0))
    script.answer(Failed("refused"))
    broken = reading(history, history.entries, index={})
    assert isinstance(script.answer(broken), Wait)
    assert script.adopted == []
    assert ("error", "store_failed") in script.reports


def test_postgres_is_not_asked_where_redis_answers() -> None:
    script = started(base(), follower_of(has_store=True, ready_by=4.0))
    assert script.told == []


def test_postgres_is_asked_where_redis_holds_nothing() -> None:
    history = base()
    script = Script(follower_of(has_store=True, ready_by=4.0))
    script.answer(DONE)
    script.answer(Subscribed())
    while isinstance(script.command, Read | Wait):
        script.answer(Reading(0, {}, {}, {}) if isinstance(script.command, Read) else DONE)
    assert script.command == ReadStore(1.0)
    assert isinstance(script.answer(reading(history, history.entries)), Look)
    assert [snapshot.origin for snapshot in script.adopted] == ["postgres"]


def from_postgres(history: History) -> Script:
    script = Script(follower_of(has_store=True, ready_by=4.0))
    script.answer(Failed("refused"))
    script.answer(reading(history, history.entries))
    script.answer(DONE)
    script.answer(DONE)
    script.answer(Subscribed())
    script.forget()
    return script


def test_redis_at_the_same_head_makes_a_start_from_postgres_one_from_redis() -> None:
    history = base()
    script = from_postgres(history)
    assert script.answer(reading(history)) == Look(1.0)
    (snapshot,) = script.adopted
    assert (snapshot.origin, snapshot.position) == ("redis", history.head.position)


@pytest.mark.parametrize("by", ["bookmark", "look"])
def test_redis_that_comes_up_to_a_start_from_postgres_is_followed(by: str) -> None:
    history = base()
    script = from_postgres(history)
    while isinstance(script.command, Read | Wait):
        script.answer(Reading(0, {}, {}, {}) if isinstance(script.command, Read) else DONE)
    script.answer(DONE)
    assert script.adopted == []
    told = Arrived(Step(history.head, EMPTY_STATE, ()).bookmark)
    assert isinstance(script.answer(told if by == "bookmark" else looked(history.head, asked=0.0)), Receive)
    assert [snapshot.origin for snapshot in script.adopted] == ["redis"]


def test_redis_that_is_behind_postgres_is_not_adopted() -> None:
    older = base()
    history = base()
    history.release({"strategy/a": {"size": 2}})
    script = from_postgres(history)
    assert script.answer(reading(older)) == Look(1.0)
    assert script.adopted == []
    assert script.reports == [("warning", "head_lower")]


def run_without_redis(script: Script, seconds: float) -> None:
    """Redis refuses every connection, Postgres too, and every pause is as long as it may be."""
    while script.at < seconds:
        match script.command:
            case Wait(_, longest):
                script.answer(DONE, after=longest)
            case Receive(until):
                script.until(until)
            case _:
                script.answer(Failed("refused"), after=0.001)


@pytest.mark.parametrize("has_store", [False, True])
@pytest.mark.parametrize("ready_by", [0.4, 0.8, 4.0])
def test_with_nothing_to_start_from_it_stands_on_its_layers_in_time_and_says_so(
    ready_by: float,
    has_store: bool,  # noqa: FBT001  # a case
) -> None:
    script = Script(follower_of(ready_by=ready_by, has_store=has_store))
    run_without_redis(script, ready_by - 0.05)
    assert script.adopted == []
    run_without_redis(script, ready_by + 0.1)
    (snapshot,) = script.adopted
    assert (snapshot.origin, snapshot.revision) == ("layers", 0)
    assert snapshot.block(RiskConfig) == RiskConfig()
    assert ("error", "standing_on_defaults") in script.reports


def test_where_the_layers_do_not_do_it_goes_on_trying() -> None:
    script = Script(follower_of(ready_by=None))
    run_without_redis(script, 60.0)
    assert script.adopted == []


def test_a_redis_that_never_answers_does_not_delay_the_layers() -> None:
    script = Script(follower_of(ready_by=0.4))
    assert script.command == Subscribe(0.4)
    assert script.answer(DONE, after=0.1) == Receive(0.4)
    assert isinstance(script.until(0.4), Wait)
    assert [snapshot.origin for snapshot in script.adopted] == ["layers"]


def test_an_empty_redis_does_not_delay_the_layers() -> None:
    script = Script(follower_of(ready_by=0.4))
    script.answer(DONE)
    script.answer(Subscribed())
    while isinstance(script.command, Read | Wait):
        script.answer(Reading(0, {}, {}, {}) if isinstance(script.command, Read) else DONE)
    assert script.command == Look(1.0)
    assert script.answer(DONE) == Receive(0.4)
    script.until(0.4)
    assert [snapshot.origin for snapshot in script.adopted] == ["layers"]


def test_what_postgres_brings_later_takes_the_place_of_the_layers() -> None:
    history = base()
    script = Script(follower_of(has_store=True, ready_by=0.5))
    while not script.adopted or script.adopted[-1].origin == "layers":
        assert script.at < 5.0
        match script.command:
            case Wait(_, longest):
                script.answer(DONE, after=longest)
            case ReadStore() if script.adopted:
                script.answer(reading(history, history.entries))
            case _:
                script.answer(Failed("refused"), after=0.1)
    assert [(snapshot.origin, snapshot.revision) for snapshot in script.adopted] == [("layers", 0), ("postgres", 1)]


def test_what_redis_brings_later_takes_the_place_of_the_layers() -> None:
    history = base()
    history.release({"strategy/a": {"size": 2}})
    script = Script(follower_of(ready_by=0.0))
    script.answer(Failed("refused"))
    assert [snapshot.origin for snapshot in script.adopted] == ["layers"]
    script.answer(DONE)
    assert script.command == Subscribe(1.0)
    script.answer(DONE)
    script.answer(Subscribed())
    script.read(history)
    assert [(snapshot.origin, snapshot.revision) for snapshot in script.adopted] == [("layers", 0), ("redis", 2)]


def test_a_redis_that_lost_everything_takes_nothing_away() -> None:
    history = base()
    script = live(history)
    script.answer(Subscribed())
    while isinstance(script.command, Read | Wait):
        script.answer(Reading(0, {}, {}, {}) if isinstance(script.command, Read) else DONE)
    assert script.told == [
        Report("warning", "load_failed", {"revision": 1, "reason": "Redis holds no head for this environment"})
    ]


def test_a_refresh_loads_and_is_answered_when_that_is_done() -> None:
    history = base()
    script = live(history)
    history.release({"strategy/a": {"size": 2}})
    assert script.answer(Refresh(next(TICKETS))) == Read((), 1.0)
    assert script.refreshed == []
    assert isinstance(script.read(history), Receive)
    assert script.refreshed == [None]
    assert [size(snapshot) for snapshot in script.adopted] == [2]


@pytest.mark.parametrize("vouched", [-0.5, -900.0])
def test_what_a_file_says_of_its_age_makes_nobody_live(vouched: float) -> None:
    history = base()
    kept = LastGood(history.head, marks(history), history.entries, {}, vouched)
    script = Script(Follower(CATALOGUE, EVERYTHING, None, last_good=kept, last_good_at=1.0))
    stands_on(script, 1.0, "snapshot")
    assert script.follower.vouched == min(vouched, 1.0 - LIVE_SECONDS)
    while not isinstance(script.command, Subscribe):
        script.answer(DONE)
    script.answer(DONE)
    script.answer(Subscribed())
    script.read(history)
    assert [snapshot.origin for snapshot in script.adopted] == ["snapshot", "redis"]
    assert state_of(script.adopted[-1], script.follower.vouched, script.at) is State.STALE


def test_what_was_kept_without_keys_is_refused_by_one_that_has_keys() -> None:
    history = base()
    kept = LastGood(history.head, marks(history), history.entries, {}, 0.0)
    ring = Keyring({"a": b"a" * 32}, "configbus:{production}:")
    for good, origin in ((kept, "layers"), (replace(kept, signed=True), "snapshot")):
        script = Script(Follower(CATALOGUE, EVERYTHING, 1.0, last_good=good, last_good_at=1.0, ring=ring))
        stands_on(script, 1.0, origin)
        assert (("warning", "snapshot_refused") in script.reports) is (origin == "layers")


def stands_on(script: Script, at: float, origin: str) -> None:
    """Refused until then, and at that instant."""
    script.answer(Failed("refused"))
    script.until(at)
    script.answer(Failed("refused"))
    (snapshot,) = script.adopted
    assert snapshot.origin == origin


def marks(history: History) -> dict[str, Mark]:
    return {name: entry.mark for name, entry in history.entries.items()}


def test_a_refresh_that_comes_during_a_load_is_answered_by_one_that_began_after_it() -> None:
    history = base()
    script = live(history)
    script.answer(Refresh(next(TICKETS)))
    assert script.answer(Failed("timeout")) == Wait(0.01, 0.05)
    late = Refresh(next(TICKETS))
    assert script.answer(late) == Read((), 1.0)
    assert script.answer(reading(history)) == Read((), 1.0)
    assert script.refreshed == [None]
    history.release({"strategy/a": {"size": 2}})
    assert isinstance(script.read(history), Receive)
    assert script.told[-1] == Refreshed(late.ticket, None)
    assert script.refreshed == [None, None]
    assert [size(snapshot) for snapshot in script.adopted] == [2]


def test_a_refresh_that_came_to_nothing_says_why() -> None:
    script = live(base())
    script.answer(Refresh(next(TICKETS)))
    while isinstance(script.command, Read | Wait):
        script.answer(Failed("timeout") if isinstance(script.command, Read) else DONE)
    assert script.refreshed == ["timeout"]


def test_a_refresh_that_finds_a_lower_head_says_so() -> None:
    older = base()
    history = base()
    history.release({"strategy/a": {"size": 2}})
    script = live(history)
    script.answer(Refresh(next(TICKETS)))
    script.read(older)
    (fault,) = script.refreshed
    assert fault is not None


def test_a_refresh_that_comes_before_the_confirmation_is_answered_by_the_first_load() -> None:
    history = base()
    script = Script()
    script.answer(DONE)
    assert script.answer(Refresh(next(TICKETS))) == Receive(1.0)
    assert script.answer(Subscribed()) == Read((), 1.0)
    script.read(history)
    assert script.refreshed == [None]


def test_a_refresh_is_answered_while_redis_refuses_every_connection() -> None:
    script = Script()
    waiting = True
    while script.at < 3.0:
        match script.command:
            case Wait(_, longest):
                script.answer(Refresh(next(TICKETS)) if waiting else DONE, after=longest)
                waiting = False
            case _:
                script.answer(Failed("refused"), after=0.001)
    (fault,) = script.refreshed
    assert fault is not None


@dataclass(frozen=True)
class Moment:
    """What Redis held at some time."""

    head: Head
    index: dict[str, str]
    entries: dict[str, Entry]
    step: Step


def moments() -> list[Moment]:
    """Two histories of one environment, the second after a failover that lost the end of the first."""
    found = []
    history = History()
    for number in range(6):
        step = history.release(
            {f"strategy/{'ab'[number % 2]}": {"size": number}, "risk": {"retry_delay_base_seconds": number}}
        )
        found.append(Moment(history.head, history.index, dict(history.entries), step))
    kept = found[3]
    history.head = replace(kept.head, epoch=EPOCH + 1)
    history.entries = dict(kept.entries)
    for number in range(10, 14):
        step = history.release({"strategy/a": {"size": number}})
        found.append(Moment(history.head, history.index, dict(history.entries), step))
    return found


MOMENTS = moments()
AT = st.integers(0, len(MOMENTS) - 1)
KIND = st.sampled_from(["message", "message", "names_only", "bookmark", "subscribed", "lost", "look", "refresh"])


@given(story=st.lists(st.tuples(KIND, AT), max_size=20), data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_position_never_goes_backwards_and_every_snapshot_is_one_state(
    story: list[tuple[str, int]], data: st.DataObject
) -> None:
    script = Script()

    def settle() -> None:
        while not isinstance(script.command, Receive):
            match script.command:
                case Read(names):
                    a, b = data.draw(AT), data.draw(st.just(None) | AT)
                    index, blocks = MOMENTS[a], MOMENTS[a if b is None else b]
                    found = {name: entry_fields(blocks.entries[name]) for name in names if name in blocks.entries}
                    script.answer(Reading(0, index.head.fields(), index.index, found))
                case _:
                    script.answer(DONE, after=0.001)

    settle()
    script.answer(Subscribed())
    settle()
    for kind, at in story:
        moment = MOMENTS[at]
        match kind:
            case "message" | "names_only" | "bookmark":
                script.answer(Arrived(getattr(moment.step, kind)))
            case "look":
                script.answer(looked(moment.head, asked=script.at, connection=at % 2))
            case "lost":
                script.answer(Lost("reset"))
            case "refresh":
                script.answer(Refresh(next(TICKETS)))
            case _:
                script.answer(Subscribed())
        settle()
    positions = [snapshot.position for snapshot in script.adopted]
    assert positions == sorted(positions)
    by_position = {moment.head.position: moment for moment in MOMENTS}
    for snapshot in script.adopted:
        entries = by_position[snapshot.position].entries
        assert {name: adopted.mark for name, adopted in snapshot.adopted.items() if adopted.mark} == {
            name: entry.mark for name, entry in entries.items()
        }


@given(order=st.lists(st.integers(0, 5), max_size=25).map(lambda order: [*order, 5]))
@settings(max_examples=100, deadline=None)
def test_lost_repeated_and_reordered_messages_lead_to_the_head(order: list[int]) -> None:
    script = Script()
    script.answer(DONE)
    script.answer(Subscribed())
    newest = MOMENTS[0]
    seen = 0
    for number in [0, *order]:
        if number > seen:
            seen, newest = number, MOMENTS[number]
        while not isinstance(script.command, Receive):
            match script.command:
                case Read(names):
                    found = {name: entry_fields(newest.entries[name]) for name in names}
                    script.answer(Reading(0, newest.head.fields(), newest.index, found))
                case _:
                    script.answer(DONE)
        script.answer(Arrived(MOMENTS[number].step.message))
    while isinstance(script.command, Read):
        found = {name: entry_fields(newest.entries[name]) for name in script.command.names}
        script.answer(Reading(0, newest.head.fields(), newest.index, found))
    assert script.adopted[-1].position == MOMENTS[5].head.position


def test_an_attempt_that_took_its_time_is_pause_enough() -> None:
    script = Script()
    for _ in range(4):
        assert script.answer(Failed("no answer within 1.0 s"), after=1.0) == SHORTLY
        assert isinstance(script.answer(DONE), Subscribe)
