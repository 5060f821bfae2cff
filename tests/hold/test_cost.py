"""What an outage and a long life cost (rows C1 to C4; C5 is measured by bench/store.py)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

import standfast
from standfast.api.sync import Store
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


UNTRIMMED = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="C2: nothing trims tombstones"
)


@pytest.mark.parametrize("table", ["lanes", "changes", pytest.param("tombstones", marks=UNTRIMMED)])
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


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="C2: nothing removes what has expired"
)
def test_expired_documents_are_removed(pg_database: str, tmp_path: Path) -> None:
    """C2: documents whose time has come leave their table."""
    with (
        standfast.open(pg_database, data_dir=tmp_path / "data") as store,
        Sql(pg_database) as admin,
    ):
        wait_direct(store)
        for number in range(20):
            store["c"].put(str(number), 1, ttl_s=0.05)
        soon(lambda: admin.one("SELECT count(*) FROM c") == 0, within_s=4.0)


def test_the_change_log_of_sqlite_is_trimmed(tmp_path: Path) -> None:
    """C2: what the change log of an embedded database holds of a year ago goes."""
    path = tmp_path / "data" / "fallback.db"
    with standfast.open(data_dir=path.parent) as store:
        for number in range(50):
            store["c"].put(str(number), 1)
    with apsw.Connection(str(path)) as connection:
        connection.execute("UPDATE _standfast_changes SET at = 1000")
    connection.close()
    with standfast.open(data_dir=path.parent) as store:
        store["c"].put("new", 1)
    assert rows(path) <= 3


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
        ((count,),) = connection.execute("SELECT count(*) FROM _standfast_changes").fetchall()
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
