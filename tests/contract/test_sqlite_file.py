"""The SQLite backend and its file: what is on disk, who else writes to it, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import standfast
from contract.suite.backend import make_lane, make_op
from standfast import ConfigError, ConflictError, CorruptData, StandfastError, Unavailable
from standfast.admin.checks.files import integrity
from standfast.api.sync import Store
from standfast.backends.base import Form, Load
from standfast.backends.sqlite import write as sqlite_write
from standfast.backends.sqlite.backend import APPLICATION_ID, SqliteBackend
from standfast.engine.embedded import EmbeddedEngine
from standfast.ops.types import Span


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "fallback.db"


@pytest.fixture
def backend(path: Path) -> Iterator[SqliteBackend]:
    backend = SqliteBackend(path, busy_timeout_s=0.05)
    yield backend
    backend.close()


def put(backend: SqliteBackend, key: str, body: str, *, collection: str = "things") -> int | None:
    op = make_op(make_lane(), 1, "put", key, body, collection=collection)
    (outcome,) = backend.apply([op]).outcomes
    return outcome.version


def versions(backend: SqliteBackend) -> dict[str, int]:
    return {row.key: row.version for row in backend.scan("things", Span())}


def query(backend: SqliteBackend, statement: str) -> list[tuple[Any, ...]]:
    """Ask through the backend's own connection, which alone knows its settings."""
    with backend.using("asking") as conn:
        assert conn is not None
        found: Any = conn.execute(statement)
        return found.fetchall()


def foreign(path: Path, *statements: str) -> None:
    """Run SQL as another program does: with Python's own SQLite, in a process of its own.

    In this process a second SQLite library would break the locks of the first.
    """
    code = (
        "import json, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "[c.execute(s) for s in json.loads(sys.argv[2])]; c.close()"
    )
    subprocess.run([sys.executable, "-c", code, path, json.dumps(statements)], check=True)


def refusal(call: Any, kind: type[StandfastError], code: str) -> StandfastError:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


# ---- the file


def test_nothing_is_created_before_the_first_write(backend: SqliteBackend, path: Path) -> None:
    """Looking and reading leave no file and no directory behind."""
    backend.check()
    assert backend.scan("things", Span()) == []
    assert backend.identity() is None
    assert backend.schema_version() == 0
    backend.close_lane(make_lane())
    backend.close()
    assert not path.parent.exists()


def test_the_files_are_private(backend: SqliteBackend, path: Path) -> None:
    """The directory is 0700, the database and what SQLite puts beside it 0600."""
    old_mask = os.umask(0)
    try:
        put(backend, "1", "1")
    finally:
        os.umask(old_mask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes.keys() >= {"fallback.db", "fallback.db-wal"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_writes_are_durable(backend: SqliteBackend) -> None:
    """I1: the connection that writes is in WAL mode with synchronous=FULL, also when reopened."""
    put(backend, "1", "1")
    assert query(backend, "PRAGMA journal_mode") == [("wal",)]
    assert query(backend, "PRAGMA synchronous") == [(2,)]
    backend.close()
    again = SqliteBackend(backend.display.removeprefix("sqlite:///"))
    assert again.count("things") == 1
    assert query(again, "PRAGMA synchronous") == [(2,)]
    again.close()


@pytest.mark.process
def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    """I1, I2: after kill -9 every acknowledged write is there, and at most one more."""
    code = (
        "import sys; from standfast.backends.sqlite.backend import SqliteBackend;"
        "from standfast.engine.embedded import EmbeddedEngine;"
        "from standfast.api.sync import Store\n"
        "store = Store(EmbeddedEngine(SqliteBackend(sys.argv[1])))\n"
        "while True: print(store['c'].increment('1', ''), flush=True)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert worker.stdout is not None
    for _ in range(20):
        worker.stdout.readline()
    worker.send_signal(signal.SIGKILL)
    rest = worker.communicate()[0].splitlines()
    told = 20 + len([line for line in rest if line.isdigit()])
    with Store(EmbeddedEngine(SqliteBackend(path))) as store:
        stored: Any = store["c"].get("1")
        assert told <= stored <= told + 1


def test_the_path_is_a_plain_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ ":memory:", URIs and relative paths are files, also after the program changed directory."""
    monkeypatch.chdir(tmp_path)
    backends = [SqliteBackend(name) for name in (":memory:", "file:a.db?mode=ro", "x/y z.db")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for backend in backends:
        put(backend, "1", "1")
        backend.close()
    names = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {":memory:", "file:a.db?mode=ro", "x/y z.db"}


def test_an_empty_file_becomes_a_database(backend: SqliteBackend, path: Path) -> None:
    """A file of zero bytes reads as empty, is left alone by reading, and taken by a write."""
    path.parent.mkdir()
    path.touch()
    backend.check()
    assert backend.count("things") == 0
    assert files_of(path) == {"fallback.db": b""}
    assert put(backend, "1", "1") == 1
    assert versions(backend) == {"1": 1}


def test_an_empty_database_becomes_ours(backend: SqliteBackend, path: Path) -> None:
    """So does a database without any table; looking at it changes nothing."""
    path.parent.mkdir()
    foreign(path, "CREATE TABLE t (a)", "DROP TABLE t")
    before = files_of(path)
    backend.check()
    assert backend.identity() is None
    assert backend.collections() == []
    assert files_of(path) == before
    assert put(backend, "1", "1") == 1
    assert query(backend, "PRAGMA application_id") == [(APPLICATION_ID,)]


# ---- files that are not ours


def every_call(backend: SqliteBackend) -> list[Any]:
    return [
        backend.check,
        backend.identity,
        backend.collections,
        lambda: backend.read("things", ["1"]),
        lambda: backend.scan("things", Span()),
        lambda: backend.count("things"),
        lambda: list(backend.dump("things")),
        lambda: backend.images("things", ["1"]),
        lambda: backend.form("things"),
        lambda: backend.adoptable("things"),
        lambda: backend.run_record("run"),
        lambda: backend.install(["things"]),
        lambda: put(backend, "1", "1"),
        lambda: backend.load("run", "loaded", [Load("things", None, [("1", "1")])]),
    ]


@pytest.mark.parametrize(
    "content",
    [b"xx", b'{"json": true}\n', b"\x00" * 4096, b"SQLite format 2\x00" + b"\x00" * 8192],
    ids=["bytes", "json", "zeros", "header"],
)
def test_what_is_no_database_is_left_alone(
    backend: SqliteBackend, path: Path, content: bytes
) -> None:
    """A file that is no SQLite database is ConfigError for every call, and keeps its bytes."""
    path.parent.mkdir()
    path.write_bytes(content)
    for call in every_call(backend):
        assert str(path) in refusal(call, ConfigError, "not_a_database").message
    assert files_of(path) == {"fallback.db": content}


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE things (id INTEGER PRIMARY KEY, data TEXT)"],
        ["PRAGMA application_id = 1234", "CREATE TABLE t (a)"],
        ["PRAGMA application_id = 1234"],
        ["PRAGMA user_version = 1", "CREATE VIEW v AS SELECT 1"],
        ["PRAGMA journal_mode = WAL", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"],
    ],
    ids=["tables", "application", "application-empty", "view", "wal"],
)
def test_a_database_of_others_is_left_alone(
    backend: SqliteBackend, path: Path, statements: list[str]
) -> None:
    """A database with tables or an application id of others is ConfigError, and not touched."""
    path.parent.mkdir()
    foreign(path, *statements)
    before = path.read_bytes()
    for call in every_call(backend):
        assert str(path) in refusal(call, ConfigError, "not_ours").message
    backend.close()
    assert path.read_bytes() == before


def test_a_database_in_use_by_others_is_left_alone(backend: SqliteBackend, path: Path) -> None:
    """Refusing a file does not even move another program's write-ahead log into it."""
    path.parent.mkdir()
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('PRAGMA journal_mode = WAL'); c.execute('CREATE TABLE t (a)');"
        "os._exit(0)"  # a crash: the log is left behind
    )
    subprocess.run([sys.executable, "-c", code, path], check=True)
    log = path.with_name("fallback.db-wal")
    before = (path.read_bytes(), log.read_bytes())
    refusal(backend.check, ConfigError, "not_ours")
    refusal(lambda: put(backend, "1", "1"), ConfigError, "not_ours")
    backend.close()
    assert (path.read_bytes(), log.read_bytes()) == before


def test_a_newer_schema_is_refused(backend: SqliteBackend, path: Path) -> None:
    """A file of a newer library is ConfigError("schema_newer") for every call."""
    put(backend, "1", "1")
    backend.close()
    foreign(path, "PRAGMA user_version = 99", "PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    older = SqliteBackend(path)
    for call in every_call(older):
        assert "99" in refusal(call, ConfigError, "schema_newer").message
    older.close()
    assert path.read_bytes() == before


def test_a_table_of_others_is_no_collection(backend: SqliteBackend, path: Path) -> None:
    """A table that another program made in our file is refused by name, and read as missing."""
    put(backend, "1", "1", collection="others")
    foreign(path, "CREATE TABLE things (key, data)", "INSERT INTO things VALUES ('1', '1')")
    assert "`things`" in backend.adoptable("things")
    assert backend.adoptable("others") == ""
    assert backend.read("things", ["1"]) == {}
    refusal(lambda: put(backend, "1", "2"), ConfigError, "not_adoptable")
    refusal(
        lambda: backend.load("run", "loaded", [Load("things", Form(), [("1", "2")])]),
        ConfigError,
        "not_adoptable",
    )
    assert query(backend, "SELECT * FROM things") == [("1", "1")]
    assert backend.run_record("run") is None
    assert put(backend, "1", "2", collection="others") == 2


def test_names_that_differ_in_case_are_told_apart_by_refusing(backend: SqliteBackend) -> None:
    """SQLite knows no upper and lower case in names: the second collection is refused by name."""
    put(backend, "1", "1", collection="Things")
    error = refusal(lambda: put(backend, "1", "2"), ConfigError, "not_adoptable")
    assert "`Things`" in error.message
    assert backend.read("things", ["1"]) == {}
    assert backend.read("Things", ["1"])["1"].text == "1"
    assert put(backend, "1", "1", collection="Things_standfast_insert") == 1


# ---- places where no file can be


@pytest.mark.parametrize(
    ("below", "code"),
    [
        ("file", "file"),
        ("file/deeper", "file"),
        ("x" * 300, "file"),
        ("directory", "cannot_open"),
    ],
    ids=["below-file", "deeper", "long", "directory"],
)
def test_a_place_without_room_for_a_file(tmp_path: Path, below: str, code: str) -> None:
    """A path below a file, too long a name, a directory: ConfigError that names the path."""
    (tmp_path / "file").touch()
    (tmp_path / "directory" / "fallback.db").mkdir(parents=True)
    backend = SqliteBackend(tmp_path / below / "fallback.db")
    error = refusal(lambda: put(backend, "1", "1"), ConfigError, code)
    assert str(tmp_path) in error.message
    backend.close()


def test_a_full_disk_changes_nothing(backend: SqliteBackend) -> None:
    """A full disk is Unavailable("disk_full"); the batch and the load leave no trace."""
    lane = make_lane()
    backend.apply([make_op(lane, 1, "put", "1", '"old"')])
    (pages,) = query(backend, "PRAGMA page_count")[0]
    query(backend, f"PRAGMA max_page_count = {pages}")
    big = '"' + "x" * 100_000 + '"'
    ops = [make_op(lane, 2, "put", "1", '"new"'), make_op(lane, 3, "put", "2", big)]
    error = refusal(lambda: backend.apply(ops, expected_watermark=1), Unavailable, "disk_full")
    assert error.retryable
    load = Load("others", Form("array", "id"), [("1", big)])
    refusal(lambda: backend.load("run", "loaded", [load]), Unavailable, "disk_full")
    assert {row.key: row.text for row in backend.scan("things", Span())} == {"1": '"old"'}
    assert backend.collections() == ["things"]
    assert backend.run_record("run") is None
    query(backend, "PRAGMA max_page_count = 1000000")
    assert [o.status for o in backend.apply(ops, expected_watermark=1).outcomes] == ["applied"] * 2
    assert versions(backend) == {"1": 2, "2": 1}


def test_a_damaged_file_is_named(backend: SqliteBackend, path: Path) -> None:
    """A file with damaged pages is CorruptData, and never taken for an empty one."""
    for number in range(200):
        put(backend, str(number), f'"{"x" * 100}"')
    backend.close()
    raw = path.read_bytes()
    path.write_bytes(raw[:8192] + b"\xff" * (len(raw) - 8192))
    damaged = SqliteBackend(path)
    refusal(lambda: damaged.scan("things", Span()), CorruptData, "corrupt")
    refusal(lambda: put(damaged, "1", "1"), CorruptData, "corrupt")
    damaged.close()


# ---- a file that goes away


@pytest.mark.parametrize("how", ["unlinked", "replaced", "directory"])
def test_a_file_that_went_away_is_noticed(backend: SqliteBackend, path: Path, how: str) -> None:
    """I1, I4: a removed or replaced file is CorruptData("file_gone") for writes and for reads."""
    put(backend, "1", "1")
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    if how != "directory":
        path.parent.mkdir()
    if how == "replaced":
        other = SqliteBackend(path)
        put(other, "2", "2")
        other.close()
    for call in every_call(backend):
        assert str(path) in refusal(call, CorruptData, "file_gone").message
    if how == "replaced":
        assert versions(SqliteBackend(path)) == {"2": 1}
    else:
        assert not path.exists()


def test_a_file_that_comes_back_is_used_again(backend: SqliteBackend, path: Path) -> None:
    """The same file in its place again ends the error, and nothing of it was lost."""
    put(backend, "1", "1")
    aside = path.parent.with_name("aside")
    path.parent.rename(aside)
    refusal(lambda: put(backend, "1", "2"), CorruptData, "file_gone")
    aside.rename(path.parent)
    assert put(backend, "1", "3") == 2
    assert versions(backend) == {"1": 2}


@pytest.mark.parametrize("work", ["apply", "load", "install"])
def test_a_write_into_a_removed_file_is_not_acknowledged(
    backend: SqliteBackend, path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """I1: a file that is removed in the middle of a transaction is noticed before the answer."""
    put(backend, "1", "1")
    ensure_table = sqlite_write.ensure_table

    def meddle(conn: apsw.Connection, name: str, now_us: int) -> None:
        ensure_table(conn, name, now_us)
        path.unlink()

    monkeypatch.setattr(sqlite_write, "ensure_table", meddle)
    monkeypatch.setattr("standfast.backends.sqlite.load.ensure_table", meddle)
    call = {
        "apply": lambda: put(backend, "2", "2"),
        "load": lambda: backend.load("run", "loaded", [Load("things", None, [("2", "2")])]),
        "install": lambda: backend.install(["more"]),
    }[work]
    refusal(call, CorruptData, "file_gone")


def test_a_store_whose_file_went_away_can_be_closed(path: Path) -> None:
    """`close` does not fail because of the file; a new store begins a new history."""
    store = Store(EmbeddedEngine(SqliteBackend(path)))
    store["views"].put("1", 1)
    path.unlink()
    with pytest.raises(CorruptData):
        store["views"].get("1")
    store.close()
    with Store(EmbeddedEngine(SqliteBackend(path))) as fresh:
        assert fresh["views"].count() == 0
        assert fresh["views"].put("1", 1).version == 1


def test_a_restored_older_file_is_noticed(backend: SqliteBackend, path: Path) -> None:
    """I10: an older copy written over the file has forgotten the lane: "went_back"."""
    lane = make_lane()
    backend.apply([make_op(lane, 1, "put", "1", "1")])
    backend.close()
    backup = path.read_bytes()
    second = SqliteBackend(path)
    second.apply([make_op(lane, 2, "put", "1", "2")], expected_watermark=1)
    second.close()
    path.write_bytes(backup)
    third = SqliteBackend(path)
    refusal(
        lambda: third.apply([make_op(lane, 3, "put", "1", "3")], expected_watermark=2),
        CorruptData,
        "went_back",
    )
    assert third.read("things", ["1"])["1"].text == "1"
    third.close()


# ---- others who write to our tables


def changes(backend: SqliteBackend) -> list[Any]:
    rows = query(backend, "SELECT collection, keys FROM _standfast_changes ORDER BY id")
    return [(collection, json.loads(keys)) for collection, keys in rows]


def graves(backend: SqliteBackend) -> dict[str, int]:
    return dict(query(backend, "SELECT key, version FROM _standfast_tombstones"))


def test_what_is_deleted_leaves_its_version(backend: SqliteBackend) -> None:
    """R17: a batch leaves a tombstone for what it deleted, and what is put there is above it."""
    lane = make_lane()
    backend.apply([make_op(lane, 1, "put", "a", "1"), make_op(lane, 2, "put", "b", "1")])
    backend.apply([make_op(lane, 3, "delete", "a"), make_op(lane, 4, "put", "c", "1")])
    assert graves(backend) == {"a": 2}
    backend.apply([make_op(lane, 5, "put", "a", "1")])
    assert graves(backend) == {}
    assert versions(backend) == {"a": 3, "b": 1, "c": 1}


@pytest.mark.process
def test_foreign_rows_are_stamped(backend: SqliteBackend, path: Path) -> None:
    """I3: INSERT, UPDATE and DELETE of another program get versions, times and log entries."""
    put(backend, "own", '"o"')
    seen = len(changes(backend))
    foreign(path, "INSERT INTO things (key, data) VALUES ('a', '1'), ('b', '2')")
    rows = backend.read("things", ["a", "own"])
    assert rows["a"].version == 1
    assert rows["a"].created_us == rows["a"].updated_us
    assert abs(rows["a"].updated_us - rows["own"].updated_us) < 3_600_000_000
    foreign(path, "UPDATE things SET data = '\"f\"' WHERE key IN ('a', 'own')")
    assert versions(backend) == {"a": 2, "b": 1, "own": 2}
    foreign(path, "DELETE FROM things WHERE key = 'a'")
    assert versions(backend) == {"b": 1, "own": 2}
    assert graves(backend) == {"a": 3}
    assert put(backend, "a", "1") == 4
    foreign(path, "DELETE FROM things")
    assert graves(backend) == {"a": 5, "b": 2, "own": 3}
    foreign(path, "INSERT INTO things (key, data) VALUES ('a', '9')")
    assert versions(backend) == {"a": 6}
    logged = [key for _, keys in changes(backend)[seen:] for key in set(keys)]
    assert logged[:2] == ["a", "b"]
    assert sorted(logged[2:4]) == ["a", "own"]
    assert logged[4] == "a"
    assert sorted(logged[5:8]) == ["a", "b", "own"]
    assert logged[8:] == ["a"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO things (key, data) VALUES ('a', '\"f\"')",
        "REPLACE INTO things (key, data) VALUES ('a', '\"f\"')",
        "INSERT INTO things (key, data) VALUES ('a', '\"f\"')"
        " ON CONFLICT (key) DO UPDATE SET data = excluded.data",
    ],
    ids=["or-replace", "replace", "upsert"],
)
@pytest.mark.parametrize("recursive", [0, 1])
def test_i3_a_foreign_replacement_raises_the_version(
    backend: SqliteBackend, path: Path, statement: str, recursive: int
) -> None:
    """I3: the ways in which programs overwrite a row never take its version down."""
    for text in ("1", "2", "3"):
        put(backend, "a", text)
    foreign(path, f"PRAGMA recursive_triggers = {recursive}", statement)
    row = backend.read("things", ["a"])["a"]
    assert row.text == '"f"'
    assert row.version > 3
    store = Store(EmbeddedEngine(backend))
    with pytest.raises(ConflictError):
        store["things"].put("a", 1, if_version=3)
    assert store["things"].put("a", 1, if_version=row.version).version == row.version + 1
    assert (store["things"].delete("a").version or 0) > row.version + 1


def test_a_foreign_insert_that_does_nothing_changes_nothing(
    backend: SqliteBackend, path: Path
) -> None:
    """INSERT OR IGNORE on a row that exists leaves text and version alone."""
    put(backend, "a", "1")
    foreign(path, "INSERT OR IGNORE INTO things (key, data) VALUES ('a', '2')")
    assert versions(backend) == {"a": 1}
    assert put(backend, "a", "3") == 2
    store = Store(EmbeddedEngine(backend))
    assert store["things"].delete("a").version == 3
    assert put(backend, "a", "3") == 4


def test_i3_a_foreign_change_of_a_key_moves_the_document(
    backend: SqliteBackend, path: Path
) -> None:
    """I3: a key that another program changes leaves a grave, and goes on above the new one's."""
    for _ in range(5):
        put(backend, "new", "0")
    Store(EmbeddedEngine(backend))["things"].delete("new")
    for _ in range(3):
        put(backend, "old", "1")
    foreign(path, "UPDATE things SET key = 'new' WHERE key = 'old'")
    assert versions(backend) == {"new": 7}
    assert put(backend, "old", "2") == 5
    assert sorted(changes(backend)[-1][1]) == ["new", "old"]


def test_a_foreign_row_that_is_not_json_is_named(backend: SqliteBackend, path: Path) -> None:
    """What another program wrote and is not JSON is CorruptData with its key."""
    put(backend, "a", "1")
    foreign(path, "INSERT INTO things (key, data) VALUES ('b', 'no json')")
    store = Store(EmbeddedEngine(backend))
    assert "'b'" in refusal(lambda: store["things"].get("b"), CorruptData, "corrupt").message
    assert store["things"].get("a") == 1


# ---- others who hold the file


def test_a_busy_writer_is_waited_for_and_then_told(backend: SqliteBackend, path: Path) -> None:
    """I7: a transaction that is held open is Unavailable("locked") for writers; reads go on."""
    put(backend, "1", "1")
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    for call in (
        lambda: put(backend, "1", "2"),
        lambda: backend.load("run", "loaded", [Load("things", None, [("2", "2")])]),
        lambda: backend.close_lane(make_lane()),
    ):
        assert refusal(call, Unavailable, "locked").retryable
    assert versions(backend) == {"1": 1}
    other.execute("ROLLBACK")
    other.close()
    assert put(backend, "1", "2") == 2


def test_a_file_that_somebody_is_creating_is_waited_for(backend: SqliteBackend, path: Path) -> None:
    """A lock on a file that has no tables yet is Unavailable("locked") too, and then it works."""
    path.parent.mkdir()
    other = apsw.Connection(str(path))
    other.execute("BEGIN EXCLUSIVE")
    refusal(lambda: put(backend, "1", "1"), Unavailable, "locked")
    other.execute("ROLLBACK")
    other.close()
    assert put(backend, "1", "1") == 1


def test_a_closed_backend_stays_closed(backend: SqliteBackend) -> None:
    """`close` is final: no later call opens the file again behind everybody's back."""
    put(backend, "1", "1")
    backend.close()
    backend.close()
    for call in every_call(backend):
        refusal(call, Unavailable, "closed")


def test_a_file_that_was_emptied_does_not_begin_anew_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash can leave 0 bytes of a file: the store begins anew, since it cannot know, and says
    so; doctor does too.  A first run and a second one say nothing."""
    path = tmp_path / "fallback.db"
    for _ in range(2):
        with standfast.open(f"sqlite:///{path}", data_dir=tmp_path) as store:
            store["c"].put("1", 1)
    assert "0 bytes" not in caplog.text
    path.write_bytes(b"")
    os.utime(path, (1, 1))
    assert integrity(path, "the database", disposable=False).verdict == "fail"
    with standfast.open(f"sqlite:///{path}", data_dir=tmp_path) as store:
        assert store["c"].get("1") is None
        store["c"].put("1", 2)
    assert caplog.text.count("is empty (0 bytes), and begins anew") == 1
    assert integrity(path, "the database", disposable=False).verdict == "ok"
