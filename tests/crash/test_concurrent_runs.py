"""Migrations at the same time: in one data directory, and from several into one database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from standfast.backends.base import Backend
from standfast.backends.postgres.schema import LOAD_LOCK
from standfast.errors import MigrationError
from standfast.migrate import originals
from standfast.migrate.plan import Options
from standfast.migrate.runner import Result, Runner
from support.crash_files import CANARY, write_sources
from support.crash_snapshot import files_of, look
from support.crash_stage import Stage
from support.crash_world import Done, World
from support.crash_writes import delete, put

NEWER = f'{{"newer": "{CANARY}"}}'


def at_once(worlds: list[World], count: int) -> list[Done]:
    """Start `count` migrations on each world, then wait for all."""
    processes = [(world, world.start(*world.migration())) for world in worlds for _ in range(count)]
    return [world.end(process) for world, process in processes]


def runner(stage: Stage, backend: Backend) -> Callable[[], Result]:
    """A migration of the scenario in this process."""
    paths = [stage.world.app / name for name in sorted(stage.before.files)]
    here = Runner(backend, stage.world.storage)
    return lambda: here.run(paths, Options(on_conflict="file"))


@pytest.mark.parametrize("count", [2, 8])
def test_one_wins_in_one_data_directory(fresh: Stage, count: int) -> None:
    """Of migrations started at once one does the work; the others exit with 5 and say why, or
    come late, find everything migrated and exit with 0."""
    done = at_once([fresh.world], count)
    assert {each.code for each in done} <= {0, 5}, [each.err for each in done if each.code == 2]
    winners = [each for each in done if each.code == 0 and "done; undo it" in each.err]
    assert len(winners) == 1
    for each in done:
        if each.code == 5:
            assert "another migration or rollback is using" in each.err
        elif each is not winners[0]:
            assert "already migrated" in each.err
    fresh.assert_finished()


def test_a_rollback_waits_for_no_migration(fresh: Stage) -> None:
    """A rollback while a migration is under way exits with 5, and the other way round."""
    done: list[Done] = []

    def confirm(_: object) -> None:
        done.append(fresh.world.rollback(run="2"))
        done.append(fresh.world.migrate())

    with fresh.world.backend() as backend:
        paths = [fresh.world.app / name for name in fresh.before.files]
        Runner(backend, fresh.world.storage).run(
            paths, Options(on_conflict="file"), confirm=confirm
        )
    assert [each.code for each in done] == [5, 5]
    assert look(fresh.world).rows == fresh.after.rows


@pytest.mark.parametrize("count", [2, 8])
def test_no_row_is_doubled_by_several_data_directories(
    fresh_pg: Stage, count: int, tmp_path: Path
) -> None:
    """Several hosts that migrate the same files into one PostgreSQL at once: one loads, the others
    load nothing, or find everything equal; given again, every one ends well."""
    worlds = [fresh_pg.world]
    for number in range(1, count):
        other = World(tmp_path / f"host{number}", fresh_pg.world.url, fresh_pg.world.admin_url)
        write_sources(other.app)
        worlds.append(other)
    done = at_once(worlds, 1)
    assert {each.code for each in done} <= {0, 1, 5}
    assert 0 in {each.code for each in done}
    for each, world in zip(done, worlds, strict=True):
        if each.code:
            assert "again" in each.err
            assert len(files_of(world.app)) == 4
    for world in worlds:
        again = world.migrate()
        assert again.code == 0, again.all
        assert list(world.app.iterdir()) == []
        assert len(list(world.runs.iterdir())) == 1
    found = look(fresh_pg.world)
    assert found.rows == fresh_pg.after.rows
    assert found.versions == fresh_pg.after.versions
    assert found.exports == fresh_pg.after.exports


Write = Callable[[Backend], None]

WRITES: dict[str, Write] = {
    "changed": lambda backend: put(backend, "guilds", "differs", NEWER),
    "deleted": lambda backend: delete(backend, "guilds", "differs"),
    "created": lambda backend: put(backend, "guilds", "new", NEWER),
    "re-created": lambda backend: put(backend, "guilds", "gone", NEWER),
}


@pytest.mark.parametrize(
    ("moment", "kind"), [("plan", "changed"), *(("load", kind) for kind in WRITES)]
)
def test_a_row_that_moves_after_the_plan_stops_the_run(
    fresh: Stage, moment: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row written after the plan was made (before the backup of the rows, or before the load):
    `plan_stale`, nothing of the run is left, and the same command again makes a new plan."""
    write = WRITES[kind]
    with fresh.world.backend() as backend, fresh.world.backend() as writer:
        here = Runner(backend, fresh.world.storage)
        load = backend.load

        def hooked(*args: object) -> object:
            write(writer)
            return load(*args)  # type: ignore[arg-type]

        if moment == "load":
            monkeypatch.setattr(backend, "load", hooked)
        paths = [fresh.world.app / name for name in sorted(fresh.before.files)]
        with pytest.raises(MigrationError) as caught:
            here.run(
                paths,
                Options(on_conflict="file"),
                confirm=lambda _: write(writer) if moment == "plan" else None,
            )
        assert caught.value.code == "plan_stale"
        assert CANARY not in caught.value.message
    found = look(fresh.world)
    assert found.files == fresh.before.files
    assert found.states == []
    assert found.litter() == []
    kept = fresh.before.rows.keys() - {("guilds", "differs")}
    assert [place for place in kept if found.rows[place] != fresh.before.rows[place]] == []
    assert {place for place in found.rows if place[0] in ("board", "events")} == set()
    done = fresh.world.migrate()
    assert done.code == 0, done.all
    assert look(fresh.world).rows.keys() == fresh.after.rows.keys()


def test_a_server_that_is_still_committing_is_waited_for(fresh_pg: Stage) -> None:
    """The server may still be at the COMMIT of a client that was killed: its run is not thrown
    away as one that never loaded.  Meanwhile exit 5; afterwards it is finished."""
    world = fresh_pg.world
    fresh_pg.kill_migrate("load-committed")
    run = world.only_run().name
    assert world.url is not None
    with psycopg.connect(world.url) as conn:
        # As before the COMMIT: the lock held, the record of the run not to be seen.
        conn.execute("SELECT pg_advisory_xact_lock(%s)", (LOAD_LOCK,))
        (report,) = conn.execute("SELECT report FROM standfast.runs WHERE run = %s", (run,))
        with psycopg.connect(world.url, autocommit=True) as other:
            other.execute("DELETE FROM standfast.runs WHERE run = %s", (run,))
        conn.execute(
            "INSERT INTO standfast.runs (run, state, report) VALUES (%s, 'loaded', %s)",
            (run, *report),
        )
        for command in ("migrate", "rollback"):
            done = world.migrate() if command == "migrate" else world.rollback()
            assert done.code == 5, done.all
            assert world.only_run().name == run
            assert len(files_of(world.app)) == 4
    fresh_pg.assert_finishes()


# ---- files that move under a run


def test_a_file_that_changes_after_the_scan_stays(fresh: Stage) -> None:
    """A file written after it was read is not moved and keeps its new content: exit 1, by name;
    the command again shows what differs, and moves it when that is decided."""
    world = fresh.world
    fresh.kill_migrate("verified")
    path = world.app / "guilds.json"
    newer = path.read_bytes().replace(b'"gone": "', b'"gone": "newer ')
    path.write_bytes(newer)
    done = world.migrate()
    assert done.code == 1, done.all
    assert f"not moved: {path}" in done.err
    assert look(world).files.keys() == {"guilds.json"}
    assert path.read_bytes() == newer

    done = world.run("migrate", str(path), "--on-conflict", "fail")
    assert done.code == 0, done.all
    assert "gone" in done.err
    assert "only the file changed since the last run" in done.err
    assert look(world).files == {}
    assert look(world).rows["guilds", "gone"].data == f'"newer {CANARY} is back"'


@pytest.mark.parametrize("again", [False, True], ids=["not-written-again", "written-again"])
def test_a_file_replaced_between_the_look_and_the_move(
    fresh: Stage, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file replaced in the moment before it is taken comes back; when yet another has come in
    its place that one stays, and the one in between is kept in the run's directory."""
    path = fresh.world.app / "guilds.json"
    rename = os.rename

    def replaced(source: Path, target: Path) -> None:
        if source == path:
            path.write_bytes(b"1")
        rename(source, target)
        if source == path and again:
            path.write_bytes(b"2")

    monkeypatch.setattr(originals.os, "rename", replaced)
    with fresh.world.backend() as backend:
        result = runner(fresh, backend)()
    assert result.changed_files == [str(path)]
    assert path.read_bytes() == (b"2" if again else b"1")
    found = look(fresh.world)
    assert found.files.keys() == {"guilds.json"}
    assert found.litter() == []
    kept = [file.read_bytes() for file in fresh.world.only_run().glob("newer-*")]
    assert kept == ([b"1"] if again else [])
    assert [state["state"] for state in found.states] == ["done"]


def test_a_file_written_again_while_it_is_taken(
    fresh: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that writes a new file right after the old one was taken keeps it, and the
    command says so; a rollback does not overwrite it unseen."""
    path = fresh.world.app / "guilds.json"
    rename = os.rename

    def written(source: Path, target: Path) -> None:
        rename(source, target)
        if source == path:
            path.write_bytes(b'{"new": 1}')

    monkeypatch.setattr(originals.os, "rename", written)
    with fresh.world.backend() as backend:
        result = runner(fresh, backend)()
    monkeypatch.undo()
    assert result.changed_files == [str(path)]
    assert result.green is False
    assert path.read_bytes() == b'{"new": 1}'
    assert look(fresh.world).litter() == []
    done = fresh.world.rollback()
    assert (done.code, str(path) in done.err) == (1, True), done.all
    assert path.read_bytes() == b'{"new": 1}'


def test_a_folder_in_the_place_of_a_file(fresh: Stage) -> None:
    """An original that has become a folder meanwhile is left alone, and named."""
    fresh.kill_migrate("verified")
    path = fresh.world.app / "guilds.json"
    path.unlink()
    path.mkdir()
    done = fresh.world.migrate()
    assert done.code == 1, done.all
    assert str(path) in done.err
    assert path.is_dir()
    path.rmdir()
