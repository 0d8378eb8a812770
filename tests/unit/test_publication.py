"""What a publisher does about the head that it finds: each verdict, and nothing in between."""

from __future__ import annotations

from dataclasses import replace

import pytest
from entries import BUS, EPOCH, SYSTEM, history_of
from hypothesis import given
from hypothesis import strategies as st

from configbus.publication import Difference, Verdict, differences, is_lost, judge
from configbus.wire import HEAD_FIELDS, Head, entry_fields

STATE, OTHER = "0123456789abcdef" * 2, "f" * 32
TRUTH = Head(BUS, SYSTEM, EPOCH, 42, STATE)


@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        (TRUTH, Verdict.DONE),
        (replace(TRUTH, revision=43, state=OTHER), Verdict.AHEAD),
        (replace(TRUTH, revision=41, state=OTHER), Verdict.REPLAY),
        (replace(TRUTH, revision=41), Verdict.REPLAY),
        (replace(TRUTH, revision=0, state="0" * 32), Verdict.REPLAY),
        (replace(TRUTH, state=OTHER), Verdict.DIVERGED),
        (replace(TRUTH, epoch=EPOCH - 1), Verdict.LAY_DOWN),
        (replace(TRUTH, epoch=EPOCH - 1, revision=99, state=OTHER), Verdict.LAY_DOWN),
        (replace(TRUTH, epoch=EPOCH + 1), Verdict.SUPERSEDED),
        (replace(TRUTH, epoch=EPOCH + 1, revision=1, state=OTHER), Verdict.SUPERSEDED),
        (replace(TRUTH, bus="ffffffffffff"), Verdict.FOREIGN),
        (replace(TRUTH, bus="ffffffffffff", epoch=EPOCH + 1), Verdict.FOREIGN),
        (replace(TRUTH, bus="ffffffffffff", epoch=EPOCH - 1), Verdict.FOREIGN),
        (replace(TRUTH, system="7399999999999999999"), Verdict.DONE),
    ],
)
def test_a_whole_head_is_judged_by_bus_epoch_revision_and_state(head: Head, verdict: Verdict) -> None:
    assert judge(head.fields(), TRUTH) == (verdict, head)
    assert judge(head.fields() | {"asof": "1", "published_at": "x"}, TRUTH) == (verdict, head)


def test_where_there_is_no_head_the_state_is_laid_down() -> None:
    assert judge({}, TRUTH) == (Verdict.LAY_DOWN, None)


@pytest.mark.parametrize("field", [field for field in HEAD_FIELDS if field != "v"])
@pytest.mark.parametrize("junk", [None, "", "junk", "\ufffd", "-1", "9" * 5_000])
def test_over_a_broken_head_the_state_is_laid_down(field: str, junk: str | None) -> None:
    fields = {name: text for name, text in TRUTH.fields().items() if name != field}
    if junk is not None:
        fields[field] = junk
    assert judge(fields, TRUTH) == (Verdict.LAY_DOWN, None)


def test_over_a_head_of_a_higher_epoch_that_does_not_fit_its_check_the_state_is_laid_down() -> None:
    fields = TRUTH.fields() | {"epoch": str(EPOCH + 1)}
    assert judge(fields, TRUTH) == (Verdict.LAY_DOWN, None)


def test_over_a_key_of_another_type_the_state_is_laid_down() -> None:
    assert judge({"not a hash": "list"}, TRUTH) == (Verdict.LAY_DOWN, None)


@pytest.mark.parametrize("other", [{"v": "2"}, {"v": "2", "check": "junk"}, {"v": "2", "epoch": ""}, {"needs": "seal"}])
def test_a_newer_protocol_is_left_alone(other: dict[str, str]) -> None:
    assert judge(TRUTH.fields() | other, TRUTH) == (Verdict.FOREIGN, None)


@pytest.mark.parametrize("field", [field for field in HEAD_FIELDS if field != "v"])
def test_a_newer_protocol_is_left_alone_whatever_it_left_out(field: str) -> None:
    fields = TRUTH.fields() | {"v": "2"}
    del fields[field]
    assert judge(fields, TRUTH) == (Verdict.FOREIGN, None)


@given(fields=st.dictionaries(st.sampled_from(HEAD_FIELDS), st.text(max_size=9)))
def test_whatever_is_found_there_is_a_verdict(fields: dict[str, str]) -> None:
    verdict, head = judge(fields, TRUTH)
    assert verdict in (Verdict.LAY_DOWN, Verdict.FOREIGN)
    assert head is None


POSITIONS = st.tuples(st.integers(1, 3), st.integers(0, 3), st.sampled_from([STATE, OTHER]))


@given(here=POSITIONS, there=POSITIONS)
def test_of_two_publishers_at_different_positions_one_has_nothing_to_do_or_gives_way(
    here: tuple[int, int, str], there: tuple[int, int, str]
) -> None:
    mine, other = Head(BUS, SYSTEM, *here), Head(BUS, SYSTEM, *there)
    verdicts = {judge(other.fields(), mine)[0], judge(mine.fields(), other)[0]}
    if mine == other:
        assert verdicts == {Verdict.DONE}
    elif mine.epoch != other.epoch:
        assert verdicts == {Verdict.SUPERSEDED, Verdict.LAY_DOWN}
    elif mine.revision != other.revision:
        assert verdicts == {Verdict.AHEAD, Verdict.REPLAY}
    else:
        assert verdicts == {Verdict.DIVERGED}


@pytest.mark.parametrize(
    ("head", "lost"),
    [
        (TRUTH, False),
        (replace(TRUTH, revision=41, state=OTHER), False),
        (replace(TRUTH, revision=43, state=OTHER), True),
        (replace(TRUTH, state=OTHER), True),
        (replace(TRUTH, epoch=EPOCH - 1000, revision=99), False),
        (replace(TRUTH, epoch=EPOCH + 1000, revision=1, state=OTHER), True),
        (replace(TRUTH, epoch=EPOCH + 1, revision=99, state=OTHER), False),
        (replace(TRUTH, epoch=EPOCH + 1001, state=OTHER), False),
        (replace(TRUTH, epoch=EPOCH + 1000, system="7399999999999999999"), False),
        (replace(TRUTH, bus="ffffffffffff", revision=43), False),
    ],
)
def test_postgres_has_lost_what_redis_holds_unless_another_primary_took_over(head: Head, lost: bool) -> None:  # noqa: FBT001  # a case
    assert is_lost(*judge(head.fields(), TRUTH), TRUTH, EPOCH % 1000, OTHER) is lost


def test_a_head_that_postgres_has_overtaken_with_other_content_is_lost_too() -> None:
    head = replace(TRUTH, revision=41)
    assert is_lost(*judge(head.fields(), TRUTH), TRUTH, EPOCH % 1000, OTHER)
    assert not is_lost(*judge(head.fields(), TRUTH), TRUTH, EPOCH % 1000, head.state)


def test_what_differs_is_named_field_by_field() -> None:
    history = history_of({"trading": {}, "risk": {}})
    entries = history.entries
    head, index = history.head.fields(), {name: str(entry.mark) for name, entry in entries.items()}
    blocks = {name: entry_fields(entry) for name, entry in entries.items()}
    assert not list(differences(history.head, entries, head | {"asof": "1"}, index, blocks))
    assert not list(differences(history.head, entries, head, index, {}))

    expected = blocks["trading"]["score_threshold"]
    blocks["trading"] = blocks["trading"] | {"score_threshold": '"0.999"', "stray": "1"}
    blocks["risk"] = {}
    index["unknown"] = "1:" + "0" * 32
    found = list(differences(history.head, entries, head | {"check": "0"}, index, blocks))
    assert found[:2] == [
        Difference("@head", "check", "0", history.head.check),
        Difference("@index", "unknown", index["unknown"], None),
    ]
    of_trading = [difference for difference in found if difference.where == "trading"]
    assert of_trading == [
        Difference("trading", "score_threshold", '"0.999"', expected),
        Difference("trading", "stray", "1", None),
    ]
    of_risk = {difference.field: difference for difference in found if difference.where == "risk"}
    assert of_risk.keys() == entry_fields(entries["risk"]).keys()
    assert all(difference.found is None for difference in of_risk.values())
