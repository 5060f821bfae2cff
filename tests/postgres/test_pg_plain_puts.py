"""Batches of plain puts, which go in one statement: the same answers as one op after the other."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from standfast.backends.memory import MemoryBackend
from standfast.backends.postgres import fast_put
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.write import Written
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

    def put_batch(conn: Any, table: Any, ops: list[Op], options: Any, *, present: bool) -> Written:
        written = original(conn, table, ops, options, present=present)
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


@pytest.mark.parametrize("keys", ["a", "ab", "aab"])
def test_a_document_that_is_there_is_updated(
    line: PostgresBackend, pg_prepared: str, keys: str
) -> None:
    """A put of documents that were written here is an UPDATE: no trigger for inserts is called,
    and the expiry, the creation and the version are those of any other put."""
    lane = str(uuid.uuid4())
    line.apply(puts(lane, 1, "ab"), directory=DIRECTORY)
    line.apply(puts(lane, 3, "ab", ttl_us=10**12), expected_watermark=2, directory=DIRECTORY)
    before = line.read("c", ["a"])["a"]
    with backends.looking(pg_prepared) as connection:
        connection.execute(
            "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''inserted''; END'"
        )
        connection.execute(
            "CREATE TRIGGER a BEFORE INSERT ON c FOR EACH ROW EXECUTE FUNCTION never()"
        )
    applied = line.apply(puts(lane, 5, keys), expected_watermark=4, directory=DIRECTORY)
    row = line.read("c", ["a"])["a"]
    state = next(one for one in applied.observed.states if one.key == "a")
    assert (row.version, row.text) == (before.version + keys.count("a"), state.text)
    assert (state.version, state.expires_us) == (row.version, None)
    assert (row.created_us, row.expires_us) == (before.created_us, None)


def test_a_document_that_was_read_is_updated(line: PostgresBackend, pg_prepared: str) -> None:
    """The same for documents that others have written, once they were read here."""
    with backends.looking(pg_prepared) as connection:
        connection.execute("INSERT INTO c (key, data) VALUES ('a', '1')")
        connection.execute(
            "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF NEW.key = ''a'' THEN RAISE EXCEPTION ''inserted''; END IF; RETURN NEW; END'"
        )
        connection.execute(
            "CREATE TRIGGER a BEFORE INSERT ON c FOR EACH ROW EXECUTE FUNCTION never()"
        )
    lane = str(uuid.uuid4())
    line.apply(puts(lane, 1, "x"), directory=DIRECTORY)
    (seen,) = line.observe("c", ["a"], directory=DIRECTORY).states
    applied = line.apply(puts(lane, 2, "a"), expected_watermark=1, directory=DIRECTORY)
    assert applied.outcomes[0].version == seen.version + 1


@pytest.mark.parametrize("keys", ["a", "ab"])
def test_a_document_that_others_have_deleted_is_made_again(
    line: PostgresBackend, pg_prepared: str, keys: str
) -> None:
    """R17: that a document was there is a guess; one that is gone continues above its tombstone."""
    lane = str(uuid.uuid4())
    line.apply(puts(lane, 1, "ab"), directory=DIRECTORY)
    line.apply(puts(lane, 3, "ab"), expected_watermark=2, directory=DIRECTORY)
    with backends.looking(pg_prepared) as connection:
        connection.execute("DELETE FROM c WHERE key = 'a'")
    applied = line.apply(puts(lane, 5, keys), expected_watermark=4, directory=DIRECTORY)
    assert applied.outcomes[0].version == 4
    assert line.read("c", ["a"])["a"].version == 4


@pytest.mark.parametrize("keys", ["a", "ab"])
def test_the_watermarks_are_those_of_the_row_that_was_replaced(
    line: PostgresBackend, pg_prepared: str, keys: str
) -> None:
    """R8: what another lane of the directory has committed while a put waited for the row's lock is
    below the watermark that the put returns, since it is in what the put has replaced."""
    lane, other = str(uuid.uuid4()), str(uuid.uuid4())
    line.apply(puts(lane, 1, "ab"), directory=DIRECTORY)
    with line.connection("waiting for longer") as conn:
        conn.execute("SET lock_timeout = '30s'")
    with (
        ThreadPoolExecutor(1) as pool,
        backends.looking(pg_prepared) as watching,
        backends.looking(pg_prepared) as connection,
    ):
        with connection.transaction():
            connection.execute("UPDATE c SET data = '0' WHERE key = 'a'")
            connection.execute(
                "INSERT INTO standfast.lanes (lane, directory, watermark) VALUES (%s, %s, 7)",
                (other, DIRECTORY),
            )
            ops = puts(lane, 3, keys)
            asked = pool.submit(line.apply, ops, expected_watermark=2, directory=DIRECTORY)
            while not watching.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
                assert not asked.done()
        applied = asked.result()
    assert applied.observed.watermarks == {lane: ops[-1].seq, other: 7}
    assert applied.outcomes[0].version == 3
