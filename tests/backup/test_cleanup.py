"""What a cleanup removes is what its rules say, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psycopg
import pytest

from standfast.admin.backup.folder import backups
from standfast.admin.cleanup import DocumentFilter, cleanup
from standfast.api.sync import Store
from standfast.backends.base import Backend
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import ConfigError
from standfast.migrate import rundir
from standfast.migrate.rundir import all_runs
from support.backups import backend_of, rows_of
from support.cli import run_cli
from support.crash_points import CLEAN_UP
from support.killing import killed_at
from support.roles import app_role

DAY_S = 86_400


def aged(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY_S,) * 2)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two runs, of which one is old, and files that were set aside."""
    for name in ("old", "young"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"a": name}))
        assert run_cli("migrate", f"{name}.json", cwd=tmp_path).code == 0
    storage = tmp_path / "storage"
    run_dir = next(iter(all_runs(storage)))
    state = run_dir.load_state()
    with monkeypatch.context() as patch:
        patch.setattr(rundir, "now_text", lambda: "2020-01-01T00:00:00+00:00")
        run_dir.save_state(state)
    for name, days in (("discarded-1.json", 91), ("discarded-2.json", 89)):
        (storage / name).write_text("{}")
        aged(storage / name, days)
    for name, days in (("mirror.db.damaged-1", 91), ("notes.txt", 900)):
        (storage / name).write_text("x")
        aged(storage / name, days)
    return tmp_path


def names(app: Path) -> set[str]:
    return {path.name for path in (app / "storage").iterdir()}


def test_what_goes_and_what_stays(app: Path) -> None:
    """A dry run names the same as is removed: the old run, the old files, and nothing young."""
    words = ("cleanup", "--json")
    planned = run_cli(*words, "--dry-run", cwd=app).document["removed"]
    assert {(each["rule"], Path(each["what"]).name[:9]) for each in planned} == {
        ("runs", Path(planned[0]["what"]).name[:9]),
        ("files", "discarded"),
        ("files", "mirror.db"),
    }
    assert names(app) >= {"discarded-1.json", "mirror.db.damaged-1"}
    ran = run_cli(*words, cwd=app, env={"STANDFAST_YES": "1"})
    assert ran.code == 2
    assert names(app) >= {"discarded-1.json", "mirror.db.damaged-1"}
    assert run_cli(*words, "--yes", cwd=app).document["removed"] == planned
    assert {"discarded-2.json", "notes.txt"} <= names(app)
    assert not {"discarded-1.json", "mirror.db.damaged-1"} & names(app)
    assert len(list(all_runs(app / "storage"))) == 1
    assert run_cli(*words, "--yes", cwd=app).document["removed"] == []
    assert run_cli("get", "old", "a", cwd=app).out == '"old"\n'


@pytest.mark.parametrize("failpoint", CLEAN_UP)
def test_killed_and_run_again(app: Path, failpoint: str) -> None:
    """Killed after the first thing, the rest goes the next time."""
    backend = backend_of(f"sqlite:///{app}/storage/fallback.db")
    assert killed_at(failpoint, lambda: cleanup(backend, app / "storage"))
    assert len(cleanup(backend, app / "storage")) == 2
    assert cleanup(backend, app / "storage") == []
    backend.close()


def test_documents_go_by_an_explicit_filter_alone(
    backend: Backend, url: str, data_dir: Path
) -> None:
    """Nothing of a live guild goes because it is old: only what a filter names, and after a backup
    of its collection was made."""
    store = Store(EmbeddedEngine(backend))
    store["guilds"].put("old", 1)
    store["guilds"].put("x-old", 1)
    store["guilds"].put("young", 1)
    assert cleanup(backend, data_dir) == []
    moment = DocumentFilter("guilds", 1e-9, prefix="x-")
    (planned,) = cleanup(backend, data_dir, documents=moment, dry_run=True)
    assert (planned.rule, planned.size) == ("documents", 1)
    (removed,) = cleanup(backend, data_dir, documents=moment)
    assert removed == planned
    assert {row.key for row in rows_of(url)["guilds"]} == {"old", "young"}
    (kept,) = backups(data_dir)
    assert kept.head is not None
    assert kept.head.reason == "before a cleanup of guilds"
    assert cleanup(backend, data_dir, documents=DocumentFilter("guilds", 1)) == []
    with pytest.raises(ConfigError) as found:
        cleanup(backend, data_dir, documents=DocumentFilter("nope", 1))
    assert found.value.code == "no_such_collection"


def test_resolved_conflicts_go_after_90_days(backend: Backend, data_dir: Path, url: str) -> None:
    """An open conflict stays however old it is, and so does one that was resolved lately."""
    backend.install(["c"])
    insert = (
        "INSERT INTO {table} ({at}lane, seq, collection, key, kind, reason, state, resolved_at)"
        " VALUES ({now}NULL, {seq}, 'c', 'k', 'put', 'x', '{state}', {resolved})"
    )
    lines = [(1, "open", None), (2, "resolved", 89), (3, "resolved", 91)]
    if backend.kind == "sqlite":
        import apsw

        conn = apsw.Connection(url.removeprefix("sqlite:///"))
        for seq, state, age in lines:
            resolved = "NULL" if age is None else str(int((time.time() - age * DAY_S) * 1e6))
            conn.execute(
                insert.format(
                    table="_standfast_conflicts",
                    at="at, ",
                    now="0, ",
                    seq=seq,
                    state=state,
                    resolved=resolved,
                )
            )
        conn.close()
    else:
        import psycopg

        with psycopg.connect(url, autocommit=True) as pg:
            for seq, state, age in lines:
                resolved = "NULL" if age is None else f"now() - interval '{age} days'"
                pg.execute(
                    insert.format(
                        table="standfast.conflicts",
                        at="",
                        now="",
                        seq=seq,
                        state=state,
                        resolved=resolved,
                    ).encode()
                )
    (planned,) = cleanup(backend, data_dir, dry_run=True)
    assert (planned.rule, planned.size) == ("conflicts", 1)
    assert cleanup(backend, data_dir) == [planned]
    assert [line.seq for line in backend.conflicts()] == [1, 2]


def test_conflicts_that_another_role_owns_are_left_and_named(
    pg_admin_url: str, pg_database: str, data_dir: Path
) -> None:
    """Under the least rights resolved conflicts stay, everything else is done, and the command says
    how many there are and whose they are; the owner removes them."""
    with app_role(pg_admin_url, pg_database) as app:
        backend = app.backend()
        backend.install(["c"])
        backend.close()
        with psycopg.connect(app.dba_url, autocommit=True) as pg:
            pg.execute(
                "INSERT INTO standfast.conflicts (collection, key, kind, reason, state,"
                " resolved_at, app) SELECT 'c', 'k', 'put', 'x', 'resolved',"
                " now() - interval '91 days', %s",
                (app.name,),
            )
        place = ("--url", app.url, "--data-dir", data_dir)
        ran = run_cli("cleanup", "--yes", *place)
        assert ran.code == 0, ran.said
        assert "1 row(s) of resolved conflicts are left" in ran.said
        assert f"`{app.owner}`" in ran.said
        assert "0 thing(s) removed" in ran.said
        found = run_cli("cleanup", "--yes", "--json", *place).document["removed"]
        assert [(one["size"], one["left_to"]) for one in found] == [(1, app.owner)]
        ran = run_cli("cleanup", "--yes", "--url", app.dba_url, "--data-dir", data_dir)
        assert "1 thing(s) removed" in ran.said


def test_what_writers_trim_goes_too(backend: Backend, data_dir: Path, url: str) -> None:
    """The tombstone of a document that was deleted long ago goes, and its version is not given to
    another one."""
    store = Store(EmbeddedEngine(backend))
    for n in range(3):
        store["c"].put("gone", n)
    store["c"].delete("gone")
    if backend.kind == "sqlite":
        import apsw

        conn = apsw.Connection(url.removeprefix("sqlite:///"))
        conn.execute("UPDATE _standfast_tombstones SET deleted_at = 1")
        conn.close()
    else:
        import psycopg

        with psycopg.connect(url, autocommit=True) as pg:
            pg.execute("UPDATE standfast.tombstones SET deleted_at = now() - interval '1 year'")
    cleanup(backend, data_dir, dry_run=True)
    assert backend.buried("c") == {"gone"}
    cleanup(backend, data_dir)
    assert backend.buried("c") == set()
    assert store["c"].put("gone", 1).version == 5
