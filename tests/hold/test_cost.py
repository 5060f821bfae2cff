"""What an outage and a long life cost (rows C1 to C4; C5 is measured by bench/store.py)."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
import psycopg
import pytest

import standfast
from standfast.api.sync import Store
from standfast.backends.postgres import backend as postgres_backend
from standfast.backends.postgres import handshake
from standfast.backends.postgres import trim as postgres_trim
from standfast.backends.postgres.backend import PostgresBackend
from standfast.config.settings import parse_url
from standfast.engine import trimming
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import DataError
from standfast.ops.types import Kind, Op
from support.far import Far, FarPg
from support.hold import soon, wait_direct
from support.pg import Sql

MakeFar = Callable[..., FarPg]


def test_a_write_does_not_cost_more_behind_pending_ones(far_pg: MakeFar, tmp_path: Path) -> None:
    """C1: a write to one document costs about the same with 300 writes pending as with 30."""
    far = far_pg()
    with standfast.open(far.url, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", {"text": ["x" * 40] * 150, "n": 0})
        with far.line.down():
            few = cpu_of_writes(store, until=30)
            many = cpu_of_writes(store, until=300)
    # Of the processor, not of the clock; a cost that grows with what is pending gives 8 or so.
    assert many / few < 3


def cpu_of_writes(store: Store, *, until: int) -> float:
    """Processor time of this process for ten writes, the best of three, at so many pending."""
    while store.health().lag_ops < until - 30:
        store["c"].increment("k", "/n", 1)
    found: list[float] = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(10):
            store["c"].increment("k", "/n", 1)
        found.append(time.process_time() - start)
    return min(found)


TRIMMED = {
    "lanes": "UPDATE standfast.lanes SET updated_at = now() - interval '1 year',"
    " opened_at = now() - interval '1 year'",
    "changes": "UPDATE standfast.changes SET at = now() - interval '1 year'",
    "tombstones": "UPDATE standfast.tombstones SET deleted_at = now() - interval '1 year'",
}


@pytest.mark.parametrize("table", TRIMMED)
def test_a_table_of_ours_is_trimmed(pg_database: str, tmp_path: Path, table: str) -> None:
    """C2: what a bookkeeping table holds of a year ago is gone after a store was used."""
    for _ in range(5):
        with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
            wait_direct(store)
            for number in range(20):
                store["c"].put(str(number), 1)
            for number in range(10):
                store["c"].delete(str(number))
    with Sql(pg_database) as admin:
        count = f"SELECT count(*) FROM standfast.{table}"
        assert admin.one(count) > 3
        admin(TRIMMED[table])
        with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
            wait_direct(store)
            store["c"].put("new", 1)
        assert admin.one(count) <= 3


def test_the_log_of_changes_has_a_length(
    pg_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7: of much that is written in little time, the log keeps the newest part."""
    monkeypatch.setattr(postgres_trim, "MAX_CHANGES", 10)
    with (
        standfast.open(pg_database, data_dir=tmp_path / "data") as store,
        Sql(pg_database) as admin,
    ):
        wait_direct(store)
        for number in range(30):
            store["c"].put(str(number), 1)
        last = admin.one("SELECT max(id) FROM standfast.changes")
        store.calls.engine.primary.trim()
        kept = admin("SELECT id FROM standfast.changes ORDER BY id")
        assert kept == [(number,) for number in range(last - 9, last + 1)]


def test_expired_documents_are_removed(pg_database: str, tmp_path: Path) -> None:
    """C2: documents whose time has come leave their table, before the next regular round."""
    with (
        mock.patch.object(trimming, "_FIRST_S", 600.0),
        standfast.open(pg_database, data_dir=tmp_path / "data") as store,
        Sql(pg_database) as admin,
    ):
        wait_direct(store)
        for number in range(20):
            store["c"].put(str(number), 1, ttl_s=0.05)
        soon(lambda: admin.one("SELECT count(*) FROM c") == 0, within_s=10.0)


def test_expired_documents_of_sqlite_are_removed(tmp_path: Path) -> None:
    """C2: the same in a SQLite file, within the transactions of later writes; who makes one of them
    again continues above its version."""
    with standfast.open(data_dir=tmp_path / "data") as store:
        store["c"].put_many({str(number): 1 for number in range(600)}, ttl_s=0.001)
        stored = apsw.Connection(str(tmp_path / "data" / "fallback.db"))
        stored.execute("UPDATE c SET expires_at = 1000")  # long ago
        store["c"].put_many({f"new {number}": 1 for number in range(512)}, ttl_s=600)
        found: Any = stored.execute(
            "SELECT (SELECT count(*) FROM c), (SELECT count(*) FROM sqlite_schema"
            " WHERE name = 'c_standfast_expires')"
        )
        counts = found.fetchall()
        stored.close()
        assert counts == [(512, 1)]
        assert store["c"].get("1") is None
        version = store["c"].put("1", 1).version
        assert version is not None
        assert version > 2


def test_a_version_is_not_given_twice_while_tombstones_are_forgotten(pg_database: str) -> None:
    """C2, R17: a put that began before a tombstone is forgotten, and ends after it, sees neither
    the tombstone nor the raised floor: it is sent back, and gets a version above both."""
    with (
        closing(PostgresBackend(parse_url(pg_database))) as pool,
        Sql(pg_database) as admin,
        psycopg.connect(pg_database) as blocker,
        mock.patch.object(handshake, "_STATEMENT_LOCK_TIMEOUT_MS", 30_000),
    ):
        line = pool.new_handle()
        line.connect(time.monotonic() + 10)
        lane, directory = str(uuid.uuid4()), str(uuid.uuid4())

        def put(seq: int, key: str, kind: Kind = "put") -> int | None:
            body = None if kind == "delete" else "1"
            op = Op(lane=lane, seq=seq, kind=kind, collection="c", key=key, body=body)
            deadline = time.monotonic() + 30
            applied = line.apply([op], directory=directory, deadline=deadline)
            return applied.outcomes[0].version

        for seq in range(1, 8):
            put(seq, "k")
        put(8, "k", "delete")
        put(9, "other")
        admin("UPDATE standfast.tombstones SET deleted_at = 'epoch'")
        # The put has its snapshot, and waits: first for the lane, which another transaction holds.
        blocker.execute("SELECT 1 FROM standfast.lanes FOR UPDATE")
        with ThreadPoolExecutor(1) as threads:
            version = threads.submit(put, 10, "k")
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            soon(lambda: admin.one(waiting) == 1, within_s=10.0)
            assert not pool.trim(deadline=time.monotonic() + 10)
            assert admin.one("SELECT count(*) FROM standfast.tombstones") == 0
            blocker.rollback()
            assert version.result(30) == 9


def test_the_trimmer_takes_what_nobody_else_has(pg_database: str) -> None:
    """C2: pieces are bounded; a document that is locked, or got a later expiry, stays; and a table
    whose trigger refuses harms nobody."""
    with (
        closing(PostgresBackend(parse_url(pg_database))) as backend,
        Store(EmbeddedEngine(backend)) as store,
        Sql(pg_database) as admin,
        psycopg.connect(pg_database) as locker,
    ):
        for number in range(10):
            store["c"].put(str(number), 1, ttl_s=600)
        store["c"].put("stays", 1, ttl_s=600)
        store["c"].put("for ever", 1)
        admin("UPDATE c SET expires_at = 'epoch', version = version + 1 WHERE key < 'a'")
        locker.execute("SELECT 1 FROM c WHERE key = '3' FOR UPDATE")
        with mock.patch.object(postgres_backend, "MAX_EXPIRED_ROWS", 4):
            assert [backend.trim("c") for _ in range(4)] == [True, True, False, False]
        assert admin("SELECT key FROM c ORDER BY key") == [("3",), ("for ever",), ("stays",)]
        locker.rollback()
        refuse = "BEGIN RAISE EXCEPTION 'no'; END"
        admin(f"CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $${refuse}$$")
        admin("UPDATE c SET expires_at = 'epoch', version = version + 1 WHERE key = '3'")
        admin("CREATE TRIGGER no BEFORE DELETE ON c FOR EACH ROW EXECUTE FUNCTION public.no()")
        with pytest.raises(DataError):
            backend.trim("c")
        assert store["c"].put("stays", 2).version == 2
        assert not backend.trim("never used here")
        assert not backend.trim()


def test_the_change_log_of_sqlite_is_trimmed(tmp_path: Path) -> None:
    """C2: what the change log of an embedded database holds of a year ago goes."""
    path = tmp_path / "data" / "fallback.db"
    with standfast.open(data_dir=path.parent) as store:
        for number in range(50):
            store["c"].put(str(number), 1)
    with apsw.Connection(str(path)) as connection:
        # As another program does: of our own writes there is no log.
        connection.execute("UPDATE c SET data = '2'")
        connection.execute("UPDATE _standfast_changes SET at = 1000")
    connection.close()
    with standfast.open(data_dir=path.parent) as store:
        store["c"].put("new", 1)
    assert rows(path) == 0


def test_a_deleted_document_that_was_forgotten_continues_above_its_version(tmp_path: Path) -> None:
    """C2, R17: a tombstone of a year ago goes, and what is made there has a higher version."""
    path = tmp_path / "data" / "fallback.db"
    with standfast.open(data_dir=path.parent) as store:
        for number in range(5):
            store["c"].put("k", number)
        store["c"].delete("k")
    with apsw.Connection(str(path)) as connection:
        connection.execute("UPDATE _standfast_tombstones SET deleted_at = 1000")
    connection.close()
    with standfast.open(data_dir=path.parent) as store:
        store["c"].put("other", 1)
        version = store["c"].put("k", 1).version
        assert version is not None
        assert version > 5
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT count(*) FROM _standfast_tombstones").get == 0
    connection.close()


def rows(path: Path) -> int:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        count: Any = connection.execute("SELECT count(*) FROM _standfast_changes").get
    finally:
        connection.close()
    return int(count)


def test_a_read_that_shows_nothing_new_writes_nothing(pg_database: str, tmp_path: Path) -> None:
    """C3: reading an unchanged document from the primary leaves every local file as it was."""
    with standfast.open(pg_database, data_dir=tmp_path / "data") as store:
        wait_direct(store)
        store["c"].put("k", "x" * 2000)
        assert store["c"].get("k")
        before = written(tmp_path / "data")
        for _ in range(100):
            assert store["c"].read("k").source == "primary"  # type: ignore[union-attr]
        assert written(tmp_path / "data") == before


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the last change of each database file and its log."""
    found = [path for path in folder.iterdir() if ".db" in path.name and path.suffix != ".db-shm"]
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


_REPLAY = """
import json, resource, sys, standfast
from support.hold import wait_direct
with standfast.open(sys.argv[1], data_dir=sys.argv[2]) as store:
    wait_direct(store, within_s=60)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_a_large_journal_is_replayed_in_bounded_memory(pg_database: str, tmp_path: Path) -> None:
    """C4: a journal of 160 MB is replayed in windows of bytes: it never is in memory as a whole."""
    with Far.to(pg_database) as line:
        with standfast.open(line.url(pg_database), data_dir=tmp_path / "data") as store:
            wait_direct(store)
            store["c"].put("first", 1)
            line.set(max_connections=0)
            line.cut()
            for number in range(160):
                store["c"].put(str(number), "x" * 1_000_000)
        line.set(max_connections=None)
        done = subprocess.run(
            [sys.executable, "-c", _REPLAY, line.url(pg_database), str(tmp_path / "data")],
            env={"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    # 45 MB of the interpreter and its modules, and a few windows of 16 MB under way.
    assert int(done.stdout) < 45 + 8 * 16
