"""Containment against a real PostgreSQL: the same answer for thousands of pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.document.containment import contains

Pair = tuple[Any, Any]
PAIRS_PER_STATEMENT = 40
STATEMENTS = 100

# Few names and scalars, so that unrelated values meet; and all pairs of them that look alike.
names = st.sampled_from(["a", "b", "c", ""])
scalars = st.sampled_from(
    [None, True, False, 0, 1, -1, 2, 0.0, -0.0, 1.0, 0.1, "", "1", "a", "true", "null"]
)
big = st.integers(-3, 3).map(lambda step: 2**53 + step) | st.integers(-3, 3).map(
    lambda step: 10**23 + step * 2**23
)
numbers = st.one_of(
    big,
    big.map(float),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False).map(int),
    st.integers(),
    st.sampled_from([5e-324, 1.7976931348623157e308, int(1e308), 10**308, 10**400]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def queries(draw: st.DrawFn, document: Any) -> Any:
    """What is left of a document after leaving out, repeating and reordering; mostly contained."""
    fate = draw(st.integers(0, 19))
    if fate == 0:
        return draw(scalars)
    if fate == 1 and isinstance(document, list) and document:
        # An element in place of its array: contained at the top level only, and only a scalar.
        return draw(st.sampled_from(document))
    if fate == 2:
        return [document]
    if isinstance(document, dict):
        kept = draw(st.lists(st.sampled_from(sorted(document)), unique=True)) if document else []
        return {name: draw(queries(document[name])) for name in kept}
    if isinstance(document, list):
        kept = draw(st.lists(st.sampled_from(document), max_size=3)) if document else []
        return [draw(queries(element)) for element in kept]
    if isinstance(document, int) and not isinstance(document, bool) and draw(st.booleans()):
        return float(document)
    return document


related = values.flatmap(lambda document: st.tuples(st.just(document), queries(document)))
pairs = st.one_of(related, related, st.tuples(values, values))


@pytest.fixture(scope="module")
def connection(pg_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(pg_url, autocommit=True) as opened:
        yield opened


def answers(connection: psycopg.Connection[Any], asked: Sequence[Pair]) -> list[bool]:
    """PostgreSQL's answers, all pairs in one statement."""
    rows = connection.execute(
        "SELECT document::jsonb @> query::jsonb"
        " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS pair (document, query, place)"
        " ORDER BY place",
        (
            [json.dumps(document) for document, _ in asked],
            [json.dumps(query) for _, query in asked],
        ),
    ).fetchall()
    return [answer for (answer,) in rows]


def assert_same(connection: psycopg.Connection[Any], asked: Sequence[Pair]) -> list[bool]:
    theirs = answers(connection, asked)
    assert len(theirs) == len(asked)
    for (document, query), answer in zip(asked, theirs, strict=True):
        assert contains(document, query) is answer, (document, query)
    return theirs


@pytest.mark.parametrize("statements", [25, pytest.param(100, marks=pytest.mark.slow)])
def test_generated_pairs(connection: psycopg.Connection[Any], statements: int) -> None:
    """`contains` is `@>` for a thousand generated pairs, with enough of either answer; for four
    thousand in `make chaos`."""
    seen: list[bool] = []

    @settings(max_examples=statements)
    @given(st.lists(pairs, min_size=PAIRS_PER_STATEMENT, max_size=PAIRS_PER_STATEMENT))
    def compare(asked: list[Pair]) -> None:
        seen.extend(assert_same(connection, asked))

    compare()
    assert len(seen) >= 30 * statements
    assert 0.2 < sum(seen) / len(seen) < 0.8


def test_generated_numbers(connection: psycopg.Connection[Any]) -> None:
    """Ints and floats of any size are equal exactly when PostgreSQL's numerics are."""
    seen: list[bool] = []

    @settings(max_examples=STATEMENTS)
    @given(st.lists(numbers, min_size=1, max_size=6))
    def compare(found: list[int | float]) -> None:
        seen.extend(assert_same(connection, [(a, b) for a in found for b in found]))
        texts = {int(a) for a in found} | {float(str(a)) for a in found if abs(a) < 10**308}
        seen.extend(assert_same(connection, [(a, b) for a in found for b in texts]))

    compare()
    assert 0.1 < sum(seen) / len(seen) < 0.9


SHAPES: list[Any] = [
    *(None, True, 1, "a", [], {}, [[]], [{}], {"a": []}, {"a": {}}, {"a": 1}, {"a": None}),
    *([1], [[1]], [[[1]]], ["a"], [None], [1, 1], [1, [1]], [1, [2]], [[1, 2]], [[1], [2]]),
    *([{"a": 1}], [[{"a": 1}]], {"a": [1]}, {"a": [[1]]}, {"a": {"a": 1}}, [{"a": 1}, {"b": 2}]),
    *([{"a": 1, "b": 2}], {"a": 1, "b": 2}, {"a": [1, {"b": 2}]}, {"a": [{"b": 2}]}),
]


def test_every_shape_with_every_shape(connection: psycopg.Connection[Any]) -> None:
    """The small shapes where the rules meet - scalars, empty and nested containers - all pairs."""
    assert_same(connection, [(document, query) for document in SHAPES for query in SHAPES])
