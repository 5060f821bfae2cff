"""Containment as PostgreSQL documents it; the comparison with a real server is another test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.document.containment import contains
from standfast.limits import MAX_DEPTH

names = st.sampled_from("abc")
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e23, 10**23])
    | st.sampled_from(["", "a", "1"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=10,
)

POSTGRESQL_8_14_3: list[tuple[Any, Any, bool]] = [
    ("foo", "foo", True),
    ([1, 2, 3], [1, 3], True),
    ([1, 2, 3], [3, 1], True),
    ([1, 2, 3], [1, 2, 2], True),
    (
        {"product": "PostgreSQL", "version": 9.4, "jsonb": True},
        {"version": 9.4},
        True,
    ),
    ([1, 2, [1, 3]], [1, 3], False),
    ([1, 2, [1, 3]], [[1, 3]], True),
    ({"foo": {"bar": "baz"}}, {"bar": "baz"}, False),
    ({"foo": {"bar": "baz"}}, {"foo": {}}, True),
    (["foo", "bar"], "bar", True),
    ("bar", ["bar"], False),
]

CORNERS: list[tuple[Any, Any, bool]] = [
    # A scalar in an array: only when the array is the whole document.
    ([1], 1, True),
    (1, [1], False),
    ({"a": [1]}, {"a": 1}, False),
    ([[1]], 1, False),
    ([[1]], [1], False),
    ([[1]], [[1]], True),
    # The exception does not extend to objects.
    ([{"a": 1}], {"a": 1}, False),
    ([{"a": 1}], [{}], True),
    ([{"a": 1}], [{"a": 1}, {}], True),
    # Empty containers are contained in everything of their kind, and in nothing else.
    ([], [], True),
    ([1], [], True),
    ({"a": 1}, {}, True),
    (1, [], False),
    (1, {}, False),
    ({}, [], False),
    ([], {}, False),
    ([[]], [{}], False),
    ({"a": {}}, {"a": []}, False),
    # Each element may be satisfied by another one.
    ([[1, 2]], [[1], [2]], True),
    ([1, [2]], [[2]], True),
    ([[1], [2]], [[1, 2]], False),
    ([{"a": 1}, {"b": 2}], [{"a": 1, "b": 2}], False),
    # Null is a value.
    ([None], None, True),
    ({"a": None}, {"a": None}, True),
    ({}, {"a": None}, False),
    (None, None, True),
    (None, False, False),
]

NUMBERS: list[tuple[Any, Any, bool]] = [
    (1, 1.0, True),
    (0, -0.0, True),
    (0.0, -0.0, True),
    (True, 1, False),
    (1, True, False),
    (False, 0.0, False),
    (1, "1", False),
    # The text 1e23 means 10**23, although the float in memory is another number.
    (10**23, 1e23, True),
    (int(1e23), 1e23, False),
    (2**53, float(2**53), True),
    (2**53 + 1, float(2**53), False),
    (0.1, 0.1, True),
    (0.1, 0.2, False),
    (5e-324, 0, False),
    (10**400, 1e308, False),
    (10**400, 10**400, True),
    (1.5, 1, False),
]


@pytest.mark.parametrize(("document", "query", "answer"), POSTGRESQL_8_14_3)
def test_examples_of_the_documentation(document: Any, query: Any, answer: bool) -> None:
    """PostgreSQL 8.14.3: every example of containment."""
    assert contains(document, query) is answer


@pytest.mark.parametrize(("document", "query", "answer"), CORNERS)
def test_corners(document: Any, query: Any, answer: bool) -> None:
    """Kinds must match at each level; only a whole document that is an array contains scalars."""
    assert contains(document, query) is answer


@pytest.mark.parametrize(("document", "query", "answer"), NUMBERS)
def test_numbers(document: Any, query: Any, answer: bool) -> None:
    """Numbers compare as their decimal text, at every level, both ways round; bools are none."""
    assert contains(document, query) is answer
    assert contains(query, document) is answer
    assert contains([document], query) is answer
    assert contains([[document]], [[query]]) is answer
    assert contains({"a": [document]}, {"a": [query]}) is answer


@given(document=values)
def test_everything_contains_itself(document: Any) -> None:
    """Containment is reflexive."""
    assert contains(document, document)


@given(document=values, query=values)
def test_inputs_are_left_alone(document: Any, query: Any) -> None:
    """Asking changes neither side."""
    before = copy.deepcopy((document, query))
    contains(document, query)
    assert repr((document, query)) == repr(before)


@given(document=st.dictionaries(names, values), name=names, value=values)
def test_more_members_contain_as_much(document: dict[str, Any], name: str, value: Any) -> None:
    """A document with one member more contains the one without it, never the reverse."""
    smaller = {key: kept for key, kept in document.items() if key != name}
    assert contains({**smaller, name: value}, smaller)
    assert not contains(smaller, {**smaller, name: value})


def under(frames: int, function: Callable[[], Any]) -> Any:
    """Call from a stack that is already some frames deep, as in an application."""
    return under(frames - 1, function) if frames else function()


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_the_deepest_documents(wrap: Callable[[Any], Any]) -> None:
    """Documents at the depth limit are compared, also from deep within an application."""
    document, query, other = 1, 1, 2
    for _ in range(MAX_DEPTH):
        document, query, other = wrap(document), wrap(query), wrap(other)
    assert under(300, lambda: contains(document, query)) is True
    assert under(300, lambda: contains(document, other)) is False
