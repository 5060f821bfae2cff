"""What is in memory of a database that is copied: a page, whatever comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from standfast.admin.backup.databases import snapshot
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.backends.copying import PAGE_CHARS, PAGE_ROWS
from standfast.backends.postgres.copying import PostgresSnapshot
from standfast.backends.sqlite import copying as sqlite_copying
from standfast.engine.embedded import EmbeddedEngine
from support.backups import rows_in

LONG = 1_000_000


def fill(backend: Backend) -> dict[str, Any]:
    """Small documents, then suddenly long ones, then small ones again."""
    made: dict[str, Any] = {f"a{n:04}": n for n in range(PAGE_ROWS + 1)}
    made |= {f"b{n:04}": f"{n:04}" + "x" * LONG for n in range(40)}
    made |= {f"c{n:04}": {"n": n, "text": "\N{SNOWMAN}" * (n * 20)} for n in range(300)}
    Store(EmbeddedEngine(backend))["c"].put_many(made)
    return made


def counted(cursor: type[Any], sizes: list[int]) -> type[Any]:
    """A kind of cursor that counts the characters of what the server sends at a time."""

    class Counted(cursor):
        def fetchmany(self, size: int = 0) -> list[Any]:
            found = super().fetchmany(size)
            sizes.append(sum(len(each) for row in found for each in row if isinstance(each, str)))
            return found

        def fetchall(self) -> list[Any]:
            found = super().fetchall()
            sizes.append(sum(len(each) for row in found for each in row if isinstance(each, str)))
            return found

    return Counted


def test_documents_that_grow_suddenly_postgresql(pg_backend: Backend) -> None:
    """No reply of the server is longer than a page, with some bytes for keys, or one document:
    thousands of small documents say nothing of the size of the next ones."""
    made = fill(pg_backend)
    sizes: list[int] = []
    with snapshot(pg_backend) as source:
        conn = cast("PostgresSnapshot", source)._conn
        conn.server_cursor_factory = counted(psycopg.ServerCursor, sizes)
        conn.cursor_factory = counted(psycopg.Cursor, sizes)
        found = [(row.key, len(row.text)) for row in source.rows("c")]
    assert [key for key, _ in found] == sorted(made)
    assert sum(sizes) > 40 * LONG
    assert max(sizes) <= PAGE_CHARS + 100 * PAGE_ROWS


def test_documents_that_grow_suddenly_sqlite(scratch: Backend, tmp_path: Path) -> None:
    """A page ends with the document that fills it."""
    made = fill(scratch)
    conn = sqlite_copying.connect(tmp_path / "scratch.db", 1000)
    try:
        table = sqlite_copying.table_of(conn, "c")
        pages = list(sqlite_copying.pages(conn, table, 0, None))
    finally:
        conn.close()
    assert [row.key for page in pages for row in page] == sorted(made)
    assert all(sum(len(row.text) for row in page[:-1]) < PAGE_CHARS for page in pages)


@pytest.mark.parametrize("keys", ["text", "bigint"])
def test_long_documents_keep_everything(
    pg_backend: Backend, pg_prepared: str, scratch: Backend, keys: str
) -> None:
    """What comes by a statement of its own is the document exactly, with its times and the columns
    of other programs, in a table whose keys are numbers, too."""
    long, short = '{"z": 1, "a": "' + "x" * 9000 + '"}', "{}"
    with psycopg.connect(pg_prepared, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE c (id {keys} PRIMARY KEY, data jsonb, note text)".encode())
        for key, data, note in ((1, long, "y"), (2, short, "n" * 9000), (3, short, None)):
            conn.execute("INSERT INTO c VALUES (%s, %s, %s)", (key, data, note))
    Store(EmbeddedEngine(pg_backend))["c"].put("4", {"z": "x" * 9000, "a": 1.0})
    found = {row.key: row for row in rows_in(pg_backend)["c"]}
    assert {key: len(row.text) for key, row in found.items()} == {
        "1": len(long) - 3,
        "2": 2,
        "3": 2,
        "4": 9016,
    }
    assert '"' + "n" * 9000 + '"' in (found["2"].others or "")
    assert found["4"].version == 1
    assert found["4"].text.endswith('"a":1.0}')
