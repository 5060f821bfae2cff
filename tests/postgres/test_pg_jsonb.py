"""I11 through a real PostgreSQL: the pair (data, raw) gives back every document exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.document.codec import accept, decode, encode
from standfast.document.jsonb import jsonb_columns
from support.json_strategies import random_value, reference, render, same, texts, values

BATCHES = 80
DOCUMENTS_PER_BATCH = 5
RANDOM_DOCUMENTS = 6000


@pytest.fixture(scope="module")
def connection(pg_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(pg_url, autocommit=True) as opened:
        yield opened


def through_postgresql(
    connection: psycopg.Connection[Any], documents: Sequence[str], data_type: str = "jsonb"
) -> list[tuple[str, str]]:
    """What the columns give back for each text: the document's text, and what `data` says."""
    columns = [jsonb_columns(text) for text in documents]
    found = connection.execute(
        f"SELECT coalesce(raw, data::{data_type}::text), data::{data_type}::text"
        " FROM unnest(%b::text[], %b::text[]) WITH ORDINALITY AS u (data, raw, place)"
        " ORDER BY place",
        ([data for data, _ in columns], [raw for _, raw in columns]),
    )
    return found.fetchall()


def assert_kept(connection: psycopg.Connection[Any], documents: Sequence[str]) -> int:
    """Every document comes back; returns how many did so from `data` alone."""
    answers = through_postgresql(connection, documents)
    assert len(answers) == len(documents)
    for text, (found, _) in zip(documents, answers, strict=True):
        assert same(decode(found), decode(text)), text
    return sum(jsonb_columns(text).raw is None for text in documents)


def test_generated_values(connection: psycopg.Connection[Any]) -> None:
    """I11: values of every kind come back with types, order of members and sign of zero."""

    @settings(max_examples=BATCHES)
    @given(st.lists(values, min_size=1, max_size=DOCUMENTS_PER_BATCH))
    def compare(batch: list[Any]) -> None:
        answers = through_postgresql(connection, [encode(value) for value in batch])
        for value, (found, _) in zip(batch, answers, strict=True):
            assert same(decode(found), value), found

    compare()


def test_generated_texts(connection: psycopg.Connection[Any]) -> None:
    """I11: whatever way a file spells its values, they come back."""

    @settings(max_examples=BATCHES)
    @given(st.lists(texts, min_size=1, max_size=DOCUMENTS_PER_BATCH))
    def compare(batch: list[str]) -> None:
        answers = through_postgresql(connection, [accept(text) for text in batch])
        for text, (found, _) in zip(batch, answers, strict=True):
            assert same(decode(found), reference(text)), found

    compare()


def test_thousands_of_documents(connection: psycopg.Connection[Any]) -> None:
    """I11 for thousands of documents, enough of which need `raw` and enough of which do not."""
    rng = random.Random(15)
    documents = [
        accept(render(random_value(rng), rng)) if index % 2 else encode(random_value(rng))
        for index in range(RANDOM_DOCUMENTS)
    ]
    kept = sum(assert_kept(connection, documents[i : i + 1000]) for i in range(0, 6000, 1000))
    assert 0.1 < kept / RANDOM_DOCUMENTS < 0.9


def test_a_json_column_keeps_them_too(connection: psycopg.Connection[Any]) -> None:
    """I11 for adopted tables whose `data` is json: it accepts every projection."""
    rng = random.Random(16)
    documents = [encode(random_value(rng)) for _ in range(1000)]
    for text, (found, _) in zip(
        documents, through_postgresql(connection, documents, "json"), strict=True
    ):
        assert same(decode(found), decode(text)), text


@pytest.mark.parametrize(
    "text",
    [
        *("1e16", "100000000000000000", "123456789012345678901234567890.5", "0.1", "1e-7", "-0.0"),
        *("5e-324", "1.7976931348623157e308", "0.30000000000000004", "1e308", "1E+2", "-0"),
        *("9" * 100_000, "-" + "9" * 100_000, "0." + "1" * 20_000, "1e-400", "1e-20000"),
        '{"key":{"b":1,"a":2,"":3}}',
    ],
)
def test_numbers_at_the_limits(connection: psycopg.Connection[Any], text: str) -> None:
    """I11: no number within the limits is refused by jsonb or comes back as another."""
    ((found, data),) = through_postgresql(connection, [text])
    assert found == text
    wanted = decode(text)
    if not isinstance(wanted, dict):
        assert type(wanted)(decode(data)) == wanted


def test_the_longest_and_deepest_documents(connection: psycopg.Connection[Any]) -> None:
    """jsonb takes 256 levels, a member name of 1 MB and 50,000 members."""
    documents = [
        "[" * 256 + "]" * 256,
        '{"a":' * 256 + "1" + "}" * 256,
        encode({"n" * 1_000_000: "v" * 1_000_000}),
        encode({str(number): number for number in range(50_000)}),
    ]
    assert_kept(connection, documents)


def test_what_jsonb_cannot_hold_is_replaced_in_data_only(
    connection: psycopg.Connection[Any],
) -> None:
    """`data` shows U+FFFD for U+0000 and lone surrogates; nothing else differs from the value."""
    value = {"a\x00b": ["\ud800", "\U0001f600", "\\u0000", "\x01"]}
    ((found, data),) = through_postgresql(connection, [encode(value)])
    assert decode(found) == value
    assert decode(data) == {"a\ufffdb": ["\ufffd", "\U0001f600", "\\u0000", "\x01"]}
