"""An older program's SQLite file as the embedded database: read as it is, adopted in place."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

import standfast
from standfast import ConfigError
from standfast.backends.sqlite.backend import SqliteBackend

VIEWS = {"default": {"8138": {"event_mode": "normal"}}}
WAITLIST = {"8138": {"waitlist": [{"discord_tag": "otter", "ign": "Otter#1"}]}}


def make(path: Path) -> Path:
    """The file, with the tables that such a bot makes, and a row in each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as conn:
        for table, key in (("persisted_views", "key"), ("waitlist_data", "guild_id")):
            conn.execute(
                f"CREATE TABLE {table} ({key} TEXT PRIMARY KEY, data TEXT NOT NULL,"
                " created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,"
                " updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
            )
        for table, rows in (("persisted_views", VIEWS), ("waitlist_data", WAITLIST)):
            for key, value in rows.items():
                conn.execute(
                    f"INSERT INTO {table} VALUES (?, ?, '2026-03-05 19:02:11',"
                    " '2026-03-06 07:15:00')",
                    (key, json.dumps(value)),
                )
    conn.close()
    return path


def old_program(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Run a statement as that program does: with Python's own SQLite, in a process of its own."""
    code = (
        "import json, sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "print(json.dumps(c.execute(sys.argv[2], json.loads(sys.argv[3])).fetchall()));"
        "c.commit()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, statement, json.dumps(values)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [tuple(row) for row in json.loads(done.stdout)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path / "storage" / "fallback.db")


@pytest.fixture
def store(path: Path) -> Iterator[standfast.Store]:
    with standfast.open(f"sqlite:///{path}", data_dir=path.parent) as store:
        yield store


def test_reading_changes_nothing(path: Path, store: standfast.Store) -> None:
    """Until our first write the rows are read as they stand, and the file keeps its bytes."""
    before = path.read_bytes()
    assert dict(store["persisted_views"].items()) == VIEWS
    assert store["waitlist_data"].get("8138") == WAITLIST["8138"]
    assert store["waitlist_data"].get("none") is None
    assert store["waitlist_data"].count() == 1
    assert sorted(store.collections()) == ["persisted_views", "waitlist_data"]
    found = store["waitlist_data"].read("8138")
    assert found is not None
    assert found.version == 1
    assert found.created_at == datetime(2026, 3, 5, 19, 2, 11, tzinfo=UTC)
    assert found.updated_at == datetime(2026, 3, 6, 7, 15, tzinfo=UTC)
    assert [one.key for one in store["waitlist_data"].find({"waitlist": []})] == ["8138"]
    store.close()
    assert path.read_bytes() == before


def test_the_first_write_adopts_the_file(path: Path, store: standfast.Store) -> None:
    """Rows, keys and times of both tables stay; every kind of write works on them."""
    waitlist = store["waitlist_data"]
    assert waitlist.append("8138", "/waitlist", {"discord_tag": "anvil"})[1] == {
        "discord_tag": "anvil"
    }
    found = waitlist.read("8138")
    assert found is not None
    assert found.version == 2
    assert found.created_at == datetime(2026, 3, 5, 19, 2, 11, tzinfo=UTC)
    assert dict(store["persisted_views"].items()) == VIEWS
    waitlist.put("9", {"waitlist": []}, ttl_s=3600)
    waitlist.patch("9", {"a": 1})
    waitlist.delete("9")
    assert waitlist.get("9") is None
    with store.batch() as batch:
        batch.put("waitlist_data", "10", {}, if_absent=True)
        batch.put("persisted_views", "10", {"a": 1})
    assert list(waitlist.keys()) == ["10", "8138"]


@pytest.mark.process
def test_the_older_program_goes_on(path: Path, store: standfast.Store) -> None:
    """It reads what we write, by its own columns and with times that compare as it compares them;
    what it writes has a new version here, so that no condition of ours overlooks it."""
    store["waitlist_data"].put("9", {"waitlist": [1]})
    assert old_program(path, "SELECT data FROM waitlist_data WHERE guild_id = '9'") == [
        ('{"waitlist":[1]}',)
    ]
    stale = "SELECT guild_id FROM waitlist_data WHERE updated_at < datetime('now', '-30 days')"
    assert old_program(path, stale) == [("8138",)]
    old_program(
        path,
        "INSERT OR REPLACE INTO waitlist_data (guild_id, data, updated_at)"
        " VALUES (?, ?, CURRENT_TIMESTAMP)",
        *("9", '{"waitlist": [2]}'),
    )
    found = store["waitlist_data"].read("9")
    assert found is not None
    assert (found.value, found.version) == ({"waitlist": [2]}, 2)
    with pytest.raises(standfast.ConflictError):
        store["waitlist_data"].put("9", {}, if_version=1)
    old_program(path, "UPDATE waitlist_data SET data = '{}' WHERE guild_id = '9'")
    found = store["waitlist_data"].read("9")
    assert found is not None
    assert (found.value, found.version) == ({}, 3)
    assert (datetime.now(UTC) - found.updated_at).total_seconds() < 60
    old_program(path, "DELETE FROM waitlist_data WHERE guild_id = '9'")
    assert store["waitlist_data"].get("9") is None
    store["waitlist_data"].put("9", {})
    found = store["waitlist_data"].read("9")
    assert found is not None
    assert found.version > 3


@pytest.mark.process
def test_its_own_sqlite_in_our_process_takes_nothing_away(path: Path) -> None:
    """An older module in the same process, with Python's SQLite, opens and closes the file between
    our writes: after kill -9 every acknowledged write is there."""
    code = """
import os, sqlite3, sys, standfast
store = standfast.open(f"sqlite:///{sys.argv[1]}", data_dir=os.path.dirname(sys.argv[1]))
for number in range(10):
    store["waitlist_data"].put(f"ours{number}", {})
    conn = sqlite3.connect(sys.argv[1])
    conn.execute("INSERT INTO waitlist_data (guild_id, data) VALUES (?, '{}')", (f"old{number}",))
    conn.commit()
    conn.close()
store["waitlist_data"].put("last", {})
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    keys = {key for (key,) in old_program(path, "SELECT guild_id FROM waitlist_data")}
    assert keys == {f"{who}{n}" for who in ("ours", "old") for n in range(10)} | {"last", "8138"}
    assert old_program(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (key INTEGER PRIMARY KEY, data TEXT)",
        "CREATE TABLE t (key TEXT, other TEXT, data TEXT, PRIMARY KEY (key, other))",
        "CREATE TABLE t (key TEXT PRIMARY KEY, data BLOB)",
        "CREATE TABLE t (key TEXT PRIMARY KEY, value TEXT)",
        "CREATE TABLE t (key TEXT PRIMARY KEY, data TEXT, version TEXT)",
        "CREATE TABLE t (key TEXT PRIMARY KEY, data TEXT, more TEXT NOT NULL)",
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, statement: str) -> None:
    """A file in which no table has the shape is another application's, and keeps its bytes."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as conn:
        conn.execute(statement)
    conn.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        SqliteBackend(path).check()
    assert caught.value.code == "not_ours"
    assert path.read_bytes() == before


def test_rows_that_are_not_json_keep_a_table_out(path: Path) -> None:
    """A table with a row that holds no JSON is not adopted; the other one is, and it is left."""
    with sqlite3.connect(path) as conn:
        conn.execute("INSERT INTO persisted_views (key, data) VALUES ('x', 'not json')")
    conn.close()
    with standfast.open(f"sqlite:///{path}", data_dir=path.parent) as store:
        store["waitlist_data"].put("9", {})
        assert store.collections() == ["waitlist_data"]
        with pytest.raises(ConfigError) as caught:
            store["persisted_views"].put("9", {})
        assert caught.value.code == "not_adoptable"
    assert old_program(path, "SELECT count(*) FROM persisted_views") == [(2,)]


@pytest.mark.process
def test_two_processes_adopt_it_once(path: Path) -> None:
    """Of two processes that write first at the same time one adopts the file; both writes count."""
    code = (
        "import os, sys, standfast\n"
        "folder = os.path.dirname(sys.argv[1])\n"
        "store = standfast.open(f'sqlite:///{sys.argv[1]}', data_dir=folder)\n"
        "sys.stdin.readline()\n"
        "store['waitlist_data'].put(sys.argv[2], {})\n"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, path, name], stdin=subprocess.PIPE)
        for name in ("a", "b")
    ]
    for worker in workers:
        worker.communicate(b"\n", timeout=60)
        assert worker.returncode == 0
    keys = {key for (key,) in old_program(path, "SELECT guild_id FROM waitlist_data")}
    assert keys == {"a", "b", "8138"}
    assert os.stat(path).st_size
    conn = apsw.Connection(str(path))
    assert conn.execute("SELECT count(*) FROM _standfast_identity").get == 1
    conn.close()
