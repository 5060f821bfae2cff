"""Plain calls on a SQLite file, which ask it for nothing that they know: they stay true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from contract.suite.backend import make_lane, make_op
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.backends.sqlite.plain import KnownTables
from standfast.ops.types import Op, Row, Span


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(tmp_path / "fallback.db")
    lane = make_lane()
    backend.apply([make_op(lane, 1, "put", "1", '{"n":1}')])
    backend.apply([make_op(lane, 2, "put", "1", '{"n":2}')])
    yield backend
    backend.close()


def elsewhere(backend: SqliteBackend, *statements: str) -> None:
    """Run SQL on a connection of its own, as another process does."""
    conn = apsw.Connection(str(backend.path))
    for statement in statements:
        conn.execute(statement)
    conn.close()


#: The same collection in a table with another key column, no versions, and texts for times.
REMADE = (
    "DROP TABLE things",
    "CREATE TABLE things (guild_id TEXT PRIMARY KEY, data TEXT, created_at TEXT, updated_at TEXT)",
    "INSERT INTO things VALUES ('1', '{\"n\":3}', '1970-01-01 00:00:01', '1970-01-01 00:00:02')",
)
THERE = Row("1", '{"n":3}', 1, 1_000_000, 2_000_000)


def test_a_table_that_was_made_anew_is_read_as_it_is(backend: SqliteBackend) -> None:
    """A read looks a table up once, and again after another program has changed the tables."""
    assert backend.read("things", ["1"])["1"].text == '{"n":2}'
    elsewhere(backend, *REMADE)
    assert backend.read("things", ["1"]) == {"1": THERE}
    elsewhere(backend, "UPDATE things SET data = '4' WHERE guild_id = '1'")
    assert backend.read("things", ["1", "2"])["1"].text == "4"


def test_a_table_that_is_made_anew_in_the_middle_of_a_read(
    backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that has met other tables than it was made for is made and run once more."""
    looked_up: Any = KnownTables.get

    def remade_after(self: KnownTables, collection: str) -> Any:
        table = looked_up(self, collection)
        monkeypatch.setattr(KnownTables, "get", looked_up)
        elsewhere(backend, *REMADE)
        return table

    monkeypatch.setattr(KnownTables, "get", remade_after)
    assert backend.read("things", ["1"]) == {"1": THERE}


def test_a_collection_that_another_process_drops_and_makes_again(backend: SqliteBackend) -> None:
    """Reads and puts follow what other processes do, and versions do not fall (R17)."""
    assert backend.read("things", ["1"])["1"].version == 2
    other = SqliteBackend(backend.path)
    incarnation = other.incarnation("things")
    assert incarnation is not None
    other.drop("things", incarnation)
    assert backend.read("things", ["1"]) == {}
    lane = make_lane()
    (first,) = backend.apply([make_op(lane, 1, "put", "1", "5")]).outcomes
    assert first.version is not None
    assert first.version > 2
    assert other.read("things", ["1"])["1"].text == "5"
    other.close()


def never(ops: list[Op]) -> bool:
    return not ops


def both_ways(tmp_path: Path, ops: list[list[Op]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What batches leave in a file: written the plain way, and the general one."""
    found: list[Any] = []
    for name in ("plain", "general"):
        backend = SqliteBackend(tmp_path / f"{name}.db")
        if name == "general":
            monkeypatch.setattr("standfast.backends.sqlite.backend.is_plain", never)
        answers = [backend.apply(batch, expected_watermark=0) for batch in ops]
        monkeypatch.undo()
        rows = backend.scan("things", Span())
        with backend.using("asking") as conn:
            assert conn is not None
            buried: Any = conn.execute("SELECT key, version FROM _standfast_tombstones")
            graves = buried.fetchall()
            lanes = conn.execute("SELECT lane, watermark, outcomes FROM _standfast_lanes")
            found.append(
                (
                    [(row.key, row.text, row.version, row.expires_us is None) for row in rows],
                    [row.created_us == row.updated_us for row in rows],
                    (graves, lanes.fetchall(), answers),
                )
            )
        backend.close()
    return found


def test_a_plain_put_does_what_the_general_way_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, I3, R17: same rows, versions, tombstones, watermark, outcomes; also of a resend."""
    lane = make_lane()
    batches = [
        [make_op(lane, 1, "put", "a", "1")],
        [make_op(lane, 2, "put", "a", "2"), make_op(lane, 3, "put", "b", "1", ttl_us=10**9)],
        [make_op(lane, 4, "delete", "a")],
        [make_op(lane, 5, "put", "a", "3"), make_op(lane, 6, "put", "a", "4")],
        [make_op(lane, 7, "put", "b", "2")],
        [make_op(lane, 7, "put", "b", "2")],
        [make_op(lane, 6, "put", "a", "4"), make_op(lane, 8, "put", "c", "1", ttl_us=1)],
        [make_op(lane, 9, "put", "c", "2")],
    ]
    plain, general = both_ways(tmp_path, batches, monkeypatch)
    assert plain == general
    assert plain[0] == [("a", "4", 5, True), ("b", "2", 2, True), ("c", "2", 2, True)]
