"""The judge itself: a good history passes, and each broken promise in a made-up history is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from configbus.wire import Position
from faults.checker import Broken, check, check_ended, delays, longest_not_live
from faults.history import Adoption, Call, Commit, Life, Sample, Told, read_life

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults.history import Values

EPOCH = 7001
COMMITTED = (0.0, 10.0, 20.0)
HEAL = 20.5
LIMIT = 1.0


def position(revision: int) -> Position:
    return Position(EPOCH, revision)


def values(revision: int) -> Values:
    """Each release changes `trading`, the third `risk` too."""
    return {"trading": {"bps": revision}, "risk": {"days": 3 if revision == 3 else 1}}


def commits() -> list[Commit]:
    return [Commit(at, position(number), values(number)) for number, at in enumerate(COMMITTED, 1)]


def adoption(at: float, revision: int) -> Adoption:
    return Adoption(at, position(revision), "redis", (), values(revision))


def calls(at: float, revision: int) -> list[Call]:
    enter = Call(at, True, "*", "trading", revision, {"bps": revision})
    return [enter, replace(enter, at=at + 0.01, enter=False, values=None)]


def good() -> Life:
    """Current until 14, cut off until 21, current again."""
    return Life(
        "w",
        [adoption(1.0, 1), adoption(10.1, 2), adoption(21.0, 3)],
        [*calls(1.1, 1), *calls(10.2, 2), *calls(21.1, 3)],
        [Told(1.5, "stale", "live"), Told(14.0, "live", "stale"), Told(21.2, "stale", "live")],
        [Sample(2.0, "live", position(1)), Sample(15.0, "stale", position(2)), Sample(21.3, "live", position(3))],
        {"threads": 0, "descriptors": -1},
    )


def test_a_good_history_passes_and_says_how_long_it_took() -> None:
    times = check(commits(), [good(), good()], [HEAL], LIMIT)
    assert [times.caught_up, times.live] == pytest.approx([0.5, 0.8])


def test_delays_are_counted_from_the_commits_that_a_worker_was_there_for() -> None:
    assert delays(commits(), [good()]) == pytest.approx([0.2, 1.1])


def backwards(life: Life) -> None:
    life.adoptions.insert(2, adoption(12.0, 1))


def other_history(life: Life) -> None:
    life.adoptions[1] = replace(life.adoptions[1], position=Position(EPOCH + 1, 2))
    life.adoptions[2] = replace(life.adoptions[2], position=Position(EPOCH + 1, 3))


def torn(life: Life) -> None:
    life.adoptions[2] = replace(life.adoptions[2], values=values(3) | {"risk": {"days": 1}})


def lacking(life: Life) -> None:
    life.adoptions[1] = replace(life.adoptions[1], values={"trading": {"bps": 2}})


def defaults(life: Life) -> None:
    life.adoptions[2] = replace(life.adoptions[2], origin="layers")


def not_held_at_last(life: Life) -> None:
    life.adoptions[1] = replace(life.adoptions[1], held=("trading",))


def wrongly_live(life: Life) -> None:
    life.samples.insert(1, Sample(13.2, "live", position(1)))


def wrongly_partial(life: Life) -> None:
    life.samples.insert(2, Sample(23.2, "partial", position(2)))


def untold(life: Life) -> None:
    life.told[1] = Told(14.0, "partial", "stale")


def told_falsely(life: Life) -> None:
    life.told.pop()


def at_once(life: Life) -> None:
    life.calls.insert(1, Call(1.105, True, "*", "risk", 1, {"days": 1}))


def never_began(life: Life) -> None:
    life.calls.pop(0)


def out_of_order(life: Life) -> None:
    life.calls[:] = [*calls(10.2, 2), *calls(10.3, 1), *calls(21.1, 3)]


def last_unseen(life: Life) -> None:
    del life.calls[4:]


def behind(life: Life) -> None:
    life.adoptions.pop()


def stale_for_ever(life: Life) -> None:
    life.samples.append(Sample(30.0, "stale", position(3)))


def leaking(life: Life) -> None:
    life.left["threads"] = 1


def endless(life: Life) -> None:
    life.left.clear()


def empty(life: Life) -> None:
    life.adoptions.clear()


def slow(life: Life) -> None:
    life.adoptions[2] = replace(life.adoptions[2], at=21.6)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (backwards, "goes back"),
        (other_history, "never at"),
        (torn, "risk is not what Postgres holds: days 1 for 3"),
        (lacking, "risk is not what Postgres holds: it is not there"),
        (defaults, "defaults"),
        (not_held_at_last, "trading is held, and not at its last content"),
        (wrongly_live, r"says live at .*revision=1.* 3\.20 s before"),
        (wrongly_partial, "says partial"),
        (untold, "told of stale to live, then of partial"),
        (told_falsely, "told stale last, and ends live"),
        (at_once, "two calls"),
        (never_began, "never began"),
        (out_of_order, "at 2, then at 1"),
        (last_unseen, "not seen the last state"),
        (behind, "Postgres at"),
        (stale_for_ever, "it ends stale"),
        (leaking, "left behind"),
        (endless, "did not come to its end"),
        (empty, "adopted nothing"),
        (slow, "caught up 1.100 s"),
    ],
)
def test_a_broken_promise_is_noticed(harm: Callable[[Life], None], told: str) -> None:
    life = good()
    harm(life)
    with pytest.raises(Broken, match=told):
        check(commits(), [good(), life], [HEAL], LIMIT)


def test_a_release_that_comes_late_long_after_the_fault_is_noticed() -> None:
    life = good()
    life.adoptions[2] = replace(life.adoptions[2], at=22.0)
    with pytest.raises(Broken, match="long after the fault"):
        check(commits(), [life], [12.0], LIMIT)


def test_what_comes_after_the_next_fault_is_not_counted_to_the_one_before() -> None:
    times = check(commits(), [good()], [19.8], LIMIT, hurts=[19.95])
    assert times.caught_up == 0.0
    with pytest.raises(Broken, match=r"caught up 1\.200 s"):
        check(commits(), [good()], [19.8], LIMIT)


def test_a_release_that_is_late_by_itself_is_no_trace_of_the_fault() -> None:
    prompt = [Commit(20.0 + number / 10, position(3 + number), values(3)) for number in range(6)]
    life = good()
    life.adoptions[2:] = [
        Adoption(commit.at + (0.2 if commit is prompt[-1] else 0.01), commit.position, "redis", (), commit.values)
        for commit in prompt
    ]
    life.samples[2:] = [Sample(23.0, "live", prompt[-1].position)]
    life.calls[4:] = [replace(call, revision=8) for call in calls(21.1, 3)]
    assert check([*commits()[:2], *prompt], [life], [20.05], LIMIT).caught_up == 0.0
    life.adoptions[3] = replace(life.adoptions[3], at=20.5)
    life.adoptions[4:6] = []
    assert check([*commits()[:2], *prompt], [life], [20.05], LIMIT).caught_up == pytest.approx(0.65)


def test_a_life_that_was_over_early_need_not_have_seen_the_end() -> None:
    life = good()
    del life.adoptions[2:], life.calls[4:], life.told[2:], life.samples[2:]
    check_ended(commits(), [life])
    life.adoptions[1] = replace(life.adoptions[1], values=values(1))
    with pytest.raises(Broken, match="trading is not what Postgres holds"):
        check_ended(commits(), [good(), life])


@pytest.mark.parametrize(("left", "told"), [({}, "did not come to its end"), ({"tasks": 1}, "left behind")])
def test_a_life_that_was_over_early_leaves_nothing_behind_unless_it_was_killed(left: dict[str, int], told: str) -> None:
    life = replace(good(), left=left)
    with pytest.raises(Broken, match=told):
        check_ended(commits(), [good(), life])
    check_ended(commits(), [good(), replace(life, killed=True)])


def test_the_longest_time_without_live_counts_from_the_first_adoption_to_the_end() -> None:
    life = good()
    assert longest_not_live(life) == pytest.approx(19.3)
    life.adoptions[0] = replace(life.adoptions[0], at=-30.0)
    assert longest_not_live(life) == pytest.approx(32.0)
    life.samples.append(Sample(60.0, "stale", position(3)))
    assert longest_not_live(life) == pytest.approx(38.7)


def test_a_held_block_may_show_older_content() -> None:
    life = good()
    shown = values(2) | {"trading": {"bps": 1}}
    life.adoptions[1] = replace(life.adoptions[1], held=("trading",), values=shown)
    check(commits(), [life], [HEAL], LIMIT)


def new_history(*told: tuple[float, int]) -> tuple[list[Commit], list[Life]]:
    """A database set back to revision 1 in a new epoch, and the callbacks that a worker gets from then on."""
    begun = Commit(20.0, Position(EPOCH + 1, 1), values(1))
    life = good()
    life.adoptions[2] = Adoption(21.0, begun.position, "redis", (), begun.values)
    life.samples[2] = replace(life.samples[2], position=begun.position)
    life.calls[4:] = [call for at, revision in told for call in calls(at, revision)]
    return [*commits()[:2], begun], [life]


def test_callbacks_may_begin_lower_once_in_a_new_history() -> None:
    check(*new_history((21.1, 1)), [HEAL], LIMIT)
    for told in [(20.9, 1)], [(21.1, 1), (21.3, 2), (21.5, 1)]:
        with pytest.raises(Broken, match="at 2, then at 1"):
            check(*new_history(*told), [HEAL], LIMIT)


def test_a_life_is_read_from_its_lines(tmp_path: Path) -> None:
    lines = [
        ["adoption", 1.0, EPOCH, 1, "redis", ["risk"], {"trading": {"bps": 1}}],
        ["enter", 1.1, "*", "trading", 1, {"bps": 1}],
        ["leave", 1.2, "*", "trading", 1],
        ["told", 1.3, "stale", "live"],
        ["sample", 1.4, "live", EPOCH, 1],
        ["left", {"threads": 0}],
    ]
    path = tmp_path / "w.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    life = read_life(path)
    assert life == Life(
        "w",
        [Adoption(1.0, position(1), "redis", ("risk",), {"trading": {"bps": 1}})],
        [Call(1.1, True, "*", "trading", 1, {"bps": 1}), Call(1.2, False, "*", "trading", 1)],
        [Told(1.3, "stale", "live")],
        [Sample(1.4, "live", position(1))],
        {"threads": 0},
    )
