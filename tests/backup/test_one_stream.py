"""New rows of a restore travel in one stream for each collection: what else is written in between,
what stops it in the middle, and what a server allows a statement."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest

import standfast
from standfast.admin.backup import transfer
from standfast.admin.backup.creating import create
from standfast.admin.backup.restoring import restore
from standfast.admin.backup.transfer import Choice, Part, execute, plan_of_all
from standfast.api.sync import Store
from standfast.backends.base import Backend, Form
from standfast.backends.copying import Stored
from standfast.engine.embedded import EmbeddedEngine
from standfast.migrate.rundir import new_run_id
from support.backups import rows_in


def test_new_changed_and_removed_rows_alternate(
    backend: Backend, url: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is ended for what needs another statement and begun again: every value, version
    and key is afterwards that of the backup, in each of two collections."""
    monkeypatch.setattr(transfer, "PAGE_ROWS", 3)
    store = Store(EmbeddedEngine(backend))
    for name in ("one", "two"):
        store[name].put_many({f"{n:03}": {"z": n, "a": '"'} for n in range(60)})
    wanted = rows_in(backend)
    made = create(backend, data_dir)
    for name in ("one", "two"):
        for n in range(60):
            # Runs of five: equal, changed, missing; and some that are only there.
            if n // 5 % 3 == 1:
                store[name].put(f"{n:03}", "changed")
            elif n // 5 % 3 == 2:
                store[name].delete(f"{n:03}")
            if n % 20 == 0:
                store[name].put(f"{n:03}x", "only there")
    if backend.kind == "postgresql":
        # Without tombstones new rows need nothing but the stream.
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("DELETE FROM standfast.tombstones")
    result = restore(backend, data_dir, made.path, Choice("file", exact=True))
    assert result.green
    found = rows_in(backend)
    assert {name: [(row.key, row.text) for row in rows] for name, rows in found.items()} == {
        name: [(row.key, row.text) for row in rows] for name, rows in wanted.items()
    }


def rows(count: int, *, then: Any = None) -> Iterator[Stored]:
    for n in range(count):
        yield Stored(f"{n:06}", '{"n":1}', 1, 1_000_000, 1_000_000)
        if n == count // 2 and then is not None:
            then()


def paged(brought: Iterator[Stored]) -> Iterator[list[Stored]]:
    while page := list(islice(brought, 1000)):
        yield page


def run(backend: Backend, brought: Iterator[Stored], count: int) -> None:
    execute(
        *(backend, lambda: iter([Part("players", Form("object"), paged(brought))]), Choice()),
        plan_of_all([("players", Form("object"), count)]),
        run=new_run_id(),
    )


def test_what_stops_it_in_the_middle_changes_nothing(backend: Backend) -> None:
    """A source that fails when thousands of rows are on their way: none of them stays, and the
    same connections go on."""

    def fail() -> None:
        raise standfast.CorruptData("damaged", code="damaged_backup")

    with pytest.raises(standfast.CorruptData):
        run(backend, rows(9000, then=fail), 9000)
    assert all(not some for some in rows_in(backend).values())
    run(backend, rows(9000), 9000)
    assert len(rows_in(backend)["players"]) == 9000


def test_a_statement_may_take_as_long_as_the_collection_needs(
    pg_backend: Backend, pg_prepared: str
) -> None:
    """A role's or a host's statement_timeout does not end a restore: one statement takes all new
    rows of a collection."""
    with psycopg.connect(pg_prepared, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 300'.encode())

        def wait() -> None:
            conn.execute("SET statement_timeout = 0")
            conn.execute("SELECT pg_sleep(0.5)")

        run(pg_backend, rows(9000, then=wait), 9000)
    assert len(rows_in(pg_backend)["players"]) == 9000


def test_large_documents_come_back_into_postgresql(
    pg_backend: Backend, scratch: Backend, data_dir: Path
) -> None:
    """Large documents among small ones: what waits to be sent is bounded, and nothing is lost."""
    store = Store(EmbeddedEngine(scratch))
    store["c"].put_many({f"{n:04}": "\\x" * (2_000_000 if n % 300 == 7 else 3) for n in range(900)})
    made = create(scratch, data_dir)
    restore(pg_backend, data_dir, made.path, Choice())
    assert rows_in(pg_backend) == rows_in(scratch)
