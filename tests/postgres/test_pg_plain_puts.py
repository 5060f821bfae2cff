"""Batches of plain puts, which go in one statement: the same answers as one op after the other."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator

import pytest

from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres import fast_put
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from standfast.ops.types import Op
from support import backends

DIRECTORY = str(uuid.uuid4())


@pytest.fixture
def line(pg_prepared: str) -> Iterator[PostgresBackend]:
    """A connection of the engine's, on a database whose collection `c` has a table."""
    pool = PostgresBackend(parse_url(pg_prepared))
    pool.install(["c"])
    made = pool.new_handle()
    made.connect(time.monotonic() + 30)
    yield made
    made.close()
    pool.close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the batches that went in one statement."""
    sizes: list[int] = []
    original = fast_put.put_batch

    def put_batch(conn: object, table: object, ops: list[Op], options: object) -> object:
        written = original(conn, table, ops, options)  # type: ignore[arg-type]
        sizes.append(len(ops))
        return written

    monkeypatch.setattr(fast_put, "put_batch", put_batch)
    return sizes


def puts(lane: str, first: int, keys: str, **options: int) -> list[Op]:
    """A put for each letter, with texts that are all different."""
    return [
        Op(
            lane=lane,
            seq=seq,
            kind="put",
            collection="c",
            key=key,
            body=f'{{"n":{seq}}}',
            **options,
        )
        for seq, key in enumerate(keys, first)
    ]


def test_repeated_puts_are_one_statement(line: PostgresBackend, short: list[int]) -> None:
    """I2, I3: puts of one document in one batch have a version each, and the last text remains."""
    lane = str(uuid.uuid4())
    line.apply(puts(lane, 1, "x"), directory=DIRECTORY)  # the lane's first makes its row
    applied = line.apply(puts(lane, 2, "abcbab"), expected_watermark=1, directory=DIRECTORY)
    assert [outcome.version for outcome in applied.outcomes] == [1, 1, 1, 2, 2, 3]
    assert {state.key: (state.text, state.version) for state in applied.observed.states} == {
        "a": ('{"n":6}', 2),
        "b": ('{"n":7}', 3),
        "c": ('{"n":4}', 1),
    }
    applied = line.apply(puts(lane, 8, "bbd"), expected_watermark=7, directory=DIRECTORY)
    assert [outcome.version for outcome in applied.outcomes] == [4, 5, 1]
    assert short == [6, 3]


@pytest.mark.parametrize("floor", [0, 41])
def test_random_batches_as_one_op_after_the_other(
    line: PostgresBackend, short: list[int], pg_prepared: str, floor: int
) -> None:
    """R2, R17: versions, texts and outcomes are those of the general way, whatever repeats."""
    if floor:
        with backends.looking(pg_prepared) as connection:
            connection.execute("UPDATE standfast.collections SET version_floor = 41")
    memory, lane, rng, seq = MemoryBackend(), str(uuid.uuid4()), random.Random(floor), 1
    for _ in range(25):
        keys = "".join(rng.choice("abcdefgh") for _ in range(rng.randrange(1, 12)))
        ops = puts(lane, seq, keys, **({"ttl_us": 10**12} if rng.random() < 0.2 else {}))
        real = line.apply(ops, expected_watermark=seq - 1, directory=DIRECTORY)
        model = memory.apply(ops, expected_watermark=seq - 1, directory=DIRECTORY)
        assert [(one.seq, one.status, one.text) for one in real.outcomes] == [
            (one.seq, one.status, one.text) for one in model.outcomes
        ]
        assert [one.version for one in real.outcomes] == [
            (one.version or 0) + floor for one in model.outcomes
        ]
        seq += len(ops)
    found, expected = line.read("c", list("abcdefgh")), memory.read("c", list("abcdefgh"))
    assert {key: (row.text, row.version) for key, row in found.items()} == {
        key: (row.text, row.version + floor) for key, row in expected.items()
    }
    assert len(short) >= 24


def test_a_resend_has_the_versions_of_the_first(line: PostgresBackend) -> None:
    """R19, R12: puts whose reply was lost are skipped, with the versions that they were given.

    Of several of one document, only the last one's can still be known.
    """
    lane = str(uuid.uuid4())
    line.apply(puts(lane, 1, "ab"), directory=DIRECTORY)
    ops = puts(lane, 3, "abb")
    first = line.apply(ops, expected_watermark=2, directory=DIRECTORY)
    assert [one.version for one in first.outcomes] == [2, 2, 3]
    for _ in range(2):
        again = line.apply(ops, expected_watermark=2, directory=DIRECTORY)
        assert {one.status for one in again.outcomes} == {"skipped"}
        assert [one.version for one in again.outcomes] == [2, None, 3]


def test_a_resend_after_another_change_has_no_version(
    line: PostgresBackend, pg_prepared: str
) -> None:
    """R19, R11: a version that nobody can know any more is not made up."""
    lane = str(uuid.uuid4())
    line.apply(puts(lane, 1, "ab"), directory=DIRECTORY)
    ops = puts(lane, 3, "ab")
    first = line.apply(ops, expected_watermark=2, directory=DIRECTORY)
    with backends.looking(pg_prepared) as connection:
        connection.execute("UPDATE c SET data = '1' WHERE key = 'a'")
    again = line.apply(ops, expected_watermark=2, directory=DIRECTORY)
    assert [one.version for one in again.outcomes] == [None, first.outcomes[1].version]
