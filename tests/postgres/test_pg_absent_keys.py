"""Keys without a document: nothing locks them, and their versions never go back (R17)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import psycopg
import pytest

from standfast.backends.postgres import copying, load, trim, write
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.tables import find_table
from standfast.config.settings import parse_url
from standfast.ops.types import Op, Outcome
from support import backends

MakeLine = Callable[[], PostgresBackend]


@pytest.fixture
def make_line(pg_prepared: str) -> Iterator[MakeLine]:
    """Makes connections as those of engines, to a database whose collection `c` has a table."""
    pool = PostgresBackend(parse_url(pg_prepared))
    pool.install(["c"])
    made: list[PostgresBackend] = []

    def make() -> PostgresBackend:
        made.append(pool.new_handle())
        made[-1].connect(time.monotonic() + 30)
        return made[-1]

    yield make
    for one in made:
        one.close()
    pool.close()


class Lane:
    """One writer's stream of ops."""

    def __init__(self, line: PostgresBackend) -> None:
        self.line, self.id, self.seq = line, str(uuid.uuid4()), 0

    def do(self, key: str, *drafts: dict[str, Any]) -> list[Outcome]:
        """Send these as one batch."""
        first, self.seq = self.seq, self.seq + len(drafts)
        ops = [
            Op(lane=self.id, seq=seq, collection="c", key=key, **draft)
            for seq, draft in enumerate(drafts, first + 1)
        ]
        return self.line.apply(ops, expected_watermark=first).outcomes


PUT = {"kind": "put", "body": "1"}
DELETE = {"kind": "delete"}
#: What creates a document and does not go in one statement: it looks at the tombstone, then writes.
CREATING = {
    "patch": {"kind": "patch", "body": '{"mine": 1}'},
    "append": {"kind": "append", "body": "1"},
    "increment": {"kind": "increment", "body": "1"},
    "put_if_absent": {"kind": "put", "body": '"mine"', "if_version": 0},
    "put_in_a_replay": {"kind": "put", "body": '"mine"', "replay": True, "seen": "absent"},
}


@pytest.mark.parametrize("kind", CREATING)
def test_a_version_never_goes_back(
    make_line: MakeLine, pg_prepared: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """I3, R17: while one writer is about to create a document, another has created and deleted it
    several times, and its tombstone may have been trimmed: the new version is above them all."""
    mine, other = Lane(make_line()), Lane(make_line())
    for number, (buried_before, trimmed) in enumerate(product((False, True), repeat=2)):
        key = f"k{number}"
        if buried_before:
            other.do(key, PUT, DELETE)
        theirs: list[int | None] = []

        def meanwhile(
            name: str, key: str = key, theirs: list[int | None] = theirs, trimmed: bool = trimmed
        ) -> None:
            if name == "pg-rows-locked" and not theirs:
                theirs.append(None)  # once
                for _ in range(3):
                    done = other.do(key, PUT) + other.do(key, DELETE)
                    theirs.extend(outcome.version for outcome in done)
                if trimmed:
                    trim_all(pg_prepared, monkeypatch)

        monkeypatch.setattr(write, "failpoint", meanwhile)
        (outcome,) = mine.do(key, CREATING[kind])
        monkeypatch.undo()
        highest = max(version for version in theirs if version is not None)
        assert outcome.status == "applied"
        assert outcome.version == highest + 1, (buried_before, trimmed, theirs)
        with backends.looking(pg_prepared) as connection:
            row = connection.execute("SELECT version FROM c WHERE key = %s", (key,)).fetchone()
            left = connection.execute("SELECT key FROM standfast.tombstones").fetchall()
        assert row == (outcome.version,)
        assert (key,) not in left


def trim_all(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every tombstone, as the trimmer of any process does when it is old."""
    monkeypatch.setattr(trim, "TOMBSTONES_KEPT_S", 0)
    with psycopg.connect(url) as connection:
        trim.trim_bookkeeping(connection)


class Between:
    """A connection on which something happens elsewhere after the first statement."""

    def __init__(self, connection: psycopg.Connection[Any], happen: Callable[[], None]) -> None:
        self._connection = connection
        self._happen: Callable[[], None] | None = happen

    def execute(self, *arguments: Any) -> Any:
        """Run a statement; what is to happen does so once."""
        found = self._connection.execute(*arguments)
        happen, self._happen = self._happen, None
        if happen is not None:
            happen()
        return found


def test_a_load_sees_what_is_trimmed_meanwhile(
    make_line: MakeLine, pg_prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R17: a run and a restore write above the version of a tombstone that another process trims
    while they look."""
    other = Lane(make_line())
    for _ in range(3):
        other.do("k", PUT, DELETE)  # versions 1 to 6

    def trimmed() -> None:
        trim_all(pg_prepared, monkeypatch)

    with psycopg.connect(pg_prepared) as connection:
        table = find_table(connection, "c", "public")
        assert table is not None
        floor, buried = load._buried(Between(connection, trimmed), table)  # type: ignore[arg-type]
        assert max(floor, buried.get("k", 0)) == 6


def test_a_restore_sees_what_is_trimmed_meanwhile(
    make_line: MakeLine, pg_prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R17: the same between the pages of a restore."""
    other = Lane(make_line())
    for _ in range(3):
        other.do("k", PUT, DELETE)
    with psycopg.connect(pg_prepared) as connection:
        table = find_table(connection, "c", "public")
        assert table is not None
        filling = copying.PostgresFilling(connection, _Earlier(), {"c": table})  # type: ignore[arg-type]
        filling.open("c")
        trim_all(pg_prepared, monkeypatch)
        lowest = filling._lowest("c", [_Written()])  # type: ignore[list-item]
        assert max(filling._floors["c"], lowest.get("k", 0)) == 6  # pyright: ignore[reportPrivateUsage]
        connection.rollback()


class _Earlier:
    taken_us = time.time_ns() // 1000


class _Written:
    key = "k"


@pytest.mark.parametrize("kind", ["put", *CREATING])
def test_a_collection_that_the_bookkeeping_has_lost(
    make_line: MakeLine, pg_prepared: str, kind: str
) -> None:
    """P4, R26: a row of `standfast.collections` is gone, then a column has another name: the table
    is looked at again, and takes the write."""
    lane = Lane(make_line())
    lane.do("first", PUT)
    with backends.looking(pg_prepared) as connection:
        connection.execute("DELETE FROM standfast.collections WHERE name = 'c'")
    (outcome,) = lane.do("k", PUT if kind == "put" else CREATING[kind])
    assert (outcome.status, outcome.version) == ("applied", 1)
    with backends.looking(pg_prepared) as connection:
        connection.execute("ALTER TABLE c RENAME COLUMN key TO k")
    assert lane.do("other", PUT)[0].status == "applied"
