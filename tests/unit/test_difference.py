"""The one walk behind history, release, diff and audit: nothing that differs is lost, nothing else is told."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configbus.difference import differences

NAMES = st.text("abc", max_size=2)
PLAIN = st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 1.5]) | st.text("ab", max_size=2)
JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))
DOCUMENTS = st.dictionaries(NAMES, JSON, max_size=4)


def exact(value: Any) -> Any:
    """The value with the type of each part beside it, so that equal means equal in type too."""
    if isinstance(value, dict):
        return {name: exact(part) for name, part in value.items()}
    if isinstance(value, list):
        return [exact(part) for part in value]
    return type(value), value


def applied(old: dict[str, Any], changes: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """A copy of the old content with every change put in; what was None was not there, what is None goes away."""
    found = deepcopy(old)
    for path, (was, now) in changes.items():
        *parents, name = path.split(".")
        inner = found
        for parent in parents:
            inner = inner[parent]
        assert exact(inner.get(name)) == exact(was)
        if now is None:
            del inner[name]
        else:
            inner[name] = now
    return found


@given(document=DOCUMENTS)
def test_nothing_differs_from_itself(document: dict[str, Any]) -> None:
    assert differences(document, deepcopy(document)) == {}


@given(old=DOCUMENTS, new=DOCUMENTS)
def test_the_old_with_its_differences_is_the_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert exact(applied(old, differences(old, new))) == exact(new)


@given(old=DOCUMENTS, new=DOCUMENTS)
def test_the_other_way_round_old_and_new_change_places(old: dict[str, Any], new: dict[str, Any]) -> None:
    there, back = differences(old, new), differences(new, old)
    assert {path: (was, now) for path, (now, was) in back.items()} == there


@given(document=DOCUMENTS)
def test_what_was_not_there_is_new_in_every_field(document: dict[str, Any]) -> None:
    appeared = {name: (None, value) for name, value in document.items()}
    assert differences(None, document) == differences({}, document) == appeared
    assert differences(document, None) == {name: (value, None) for name, value in document.items()}


@pytest.mark.parametrize(
    ("old", "new"), [(1, 1.0), (1, True), (1.0, True), (0, False), ("1", 1), (0, None), ("", None)]
)
def test_values_of_different_types_differ_wherever_they_stand(old: Any, new: Any) -> None:
    for wrap in (lambda value: value, lambda value: [value], lambda value: [{"b": [value]}]):
        assert exact(differences({"a": wrap(old)}, {"a": wrap(new)})) == exact({"a": (wrap(old), wrap(new))})
    assert exact(differences({"a": {"b": old}}, {"a": {"b": new}})) == exact({"a.b": (old, new)})


def test_documents_are_walked_and_lists_are_compared_as_a_whole() -> None:
    old = {"parameters": {"size": 1, "deep": {"x": 1, "y": 2}}, "tiers": [{"a": 1}, {"a": 2}]}
    new = {"parameters": {"size": 1, "deep": {"x": 1, "y": 3}}, "tiers": [{"a": 1}, {"a": 3}]}
    assert differences(old, new) == {
        "parameters.deep.y": (2, 3),
        "tiers": ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 3}]),
    }
    assert differences({"tiers": [1, 2]}, {"tiers": [2, 1]}) == {"tiers": ([1, 2], [2, 1])}


def test_a_document_that_becomes_something_else_differs_as_a_whole() -> None:
    assert differences({"a": {"b": 1}}, {"a": [1]}) == {"a": ({"b": 1}, [1])}
    assert differences({"a": {"b": 1}}, {"a": None}) == {"a": ({"b": 1}, None)}
    assert differences({}, {"a": {}}) == {"a": (None, {})}
    assert differences({"a": {}}, {"a": {"b": 1}}) == {"a.b": (None, 1)}


def test_null_differs_from_what_is_not_there() -> None:
    assert differences({"a": None}, {}) == {"a": (None, None)}
    assert differences({}, {"a": None}) == {"a": (None, None)}
    assert differences({"a": None}, {"a": None}) == {}


def test_names_with_dots_hide_no_difference() -> None:
    old, new = {"a.b": 1, "a": {"b": 2}}, {"a.b": 3, "a": {"b": 4}}
    told = differences(old, new)
    assert sorted(told.values()) == [(1, 3), (2, 4)]
