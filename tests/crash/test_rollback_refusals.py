"""What `rollback` refuses, and what it does all the same with --discard-newer."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from standfast.backends.base import Backend
from standfast.errors import MigrationError
from standfast.migrate.rollback import rollback
from support.crash_files import CANARY
from support.crash_snapshot import look
from support.crash_stage import Stage
from support.crash_world import World
from support.crash_writes import delete, put

NEWER = f'{{"newer": "{CANARY}"}}'


def change(backend: Backend, key: str) -> None:
    put(backend, "guilds", key, NEWER)


def remove(backend: Backend, key: str) -> None:
    delete(backend, "guilds", key)


def recreate(backend: Backend, key: str) -> None:
    """With the very content that the run gave it: still somebody's newer write."""
    text = backend.read("guilds", [key])[key].text
    delete(backend, "guilds", key)
    put(backend, "guilds", key, text)


def archived(world: World, pattern: str) -> list[Path]:
    found = sorted(world.only_run().glob(pattern))
    assert [stat.S_IMODE(path.stat().st_mode) for path in found] == [0o600] * len(found)
    return found


@pytest.mark.parametrize(
    ("how", "key"),
    [
        (change, "differs"),
        (change, "new"),
        (remove, "differs"),
        (remove, "new"),
        (recreate, "gone"),
    ],
)
def test_a_row_that_moved_is_refused_then_archived(
    migrated: Stage, how: Callable[[Backend, str], None], key: str
) -> None:
    """A row changed, deleted or re-created since the run stops the rollback, by name, before
    anything is changed; --discard-newer archives all that was in it first."""
    with migrated.world.backend() as backend:
        how(backend, key)
        newest = backend.images("guilds", [key])
    before = look(migrated.world)
    done = migrated.world.rollback()
    assert done.code == 1
    assert f"`guilds` key '{key}'" in done.err
    assert "--discard-newer" in done.err
    assert look(migrated.world) == before

    done = migrated.world.rollback("--discard-newer")
    assert done.code == 0, done.all
    migrated.assert_nothing_happened()
    kept = [json.loads(path.read_bytes()) for path in archived(migrated.world, "newer-rows*")]
    if how is remove:
        assert kept == []
    else:
        ((row,),) = [each["guilds"] for each in kept]
        image = newest[key]
        assert (row["key"], row["data"], row["raw"]) == (key, image.data, image.raw)
        assert (row["version"], row["updated_us"]) == (image.version, image.updated_us)
        assert "archived what was newer" in done.err


@pytest.mark.parametrize("name", ["board.json"])
def test_a_file_that_is_there_again_is_refused_then_archived(migrated: Stage, name: str) -> None:
    """A file with other content in an original's place stops the rollback before anything is
    changed; --discard-newer keeps its bytes and puts the original back."""
    path = migrated.world.app / name
    path.write_bytes(b'{"started": "from nothing"}')
    before = look(migrated.world)
    done = migrated.world.rollback()
    assert done.code == 1
    assert str(path) in done.err
    assert look(migrated.world) == before

    done = migrated.world.rollback("--discard-newer")
    assert done.code == 0, done.all
    migrated.assert_nothing_happened()
    (kept,) = archived(migrated.world, "newer-*")
    assert kept.read_bytes() == b'{"started": "from nothing"}'
    assert str(kept) in done.err


def test_a_file_with_the_same_content_is_no_obstacle(migrated: Stage) -> None:
    """An original that somebody has copied back already is left as it is."""
    copy = migrated.world.only_run() / "guilds.json"
    path = migrated.world.app / "guilds.json"
    path.write_bytes(copy.read_bytes())
    mtime_ns = path.stat().st_mtime_ns
    assert migrated.world.rollback().code == 0
    assert path.stat().st_mtime_ns == mtime_ns
    assert look(migrated.world).rows == migrated.before.rows


def test_the_folder_of_the_originals_is_made_again(migrated: Stage) -> None:
    """A rollback also works when the folder of the files was removed since."""
    migrated.world.app.rmdir()
    assert migrated.world.rollback().code == 0
    assert look(migrated.world).files == migrated.before.files


def test_rows_that_moved_while_a_rollback_was_interrupted(migrated: Stage) -> None:
    """What is written between a killed rollback and its repetition is refused or archived too,
    though the first one was allowed to discard."""
    path = migrated.world.app / "guilds.json"
    migrated.kill_rollback("state-rolling-back", "--discard-newer")
    path.write_bytes(b'"written meanwhile"')
    with migrated.world.backend() as backend:
        change(backend, "new")
    done = migrated.world.rollback()
    assert done.code == 0, done.all
    migrated.assert_nothing_happened()
    assert len(archived(migrated.world, "newer-rows*")) == 1
    (kept,) = archived(migrated.world, "newer-guilds*")
    assert kept.read_bytes() == b'"written meanwhile"'


def test_a_file_that_comes_while_a_rollback_was_interrupted(migrated: Stage) -> None:
    """A rollback whose rows are done refuses a file that came since, and then can discard it."""
    path = migrated.world.app / "guilds.json"
    migrated.kill_rollback("rollback-committed")
    path.write_bytes(b'"written meanwhile"')
    done = migrated.world.rollback()
    assert (done.code, str(path) in done.err) == (1, True)
    assert path.read_bytes() == b'"written meanwhile"'
    assert migrated.world.rollback("--discard-newer").code == 0
    migrated.assert_nothing_happened()
    assert len(archived(migrated.world, "newer-guilds*")) == 1


@pytest.mark.parametrize("discard", [False, True])
def test_a_file_that_comes_while_the_rows_are_taken_back(
    migrated: Stage, discard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes after all were looked at is not overwritten unseen either."""
    path = migrated.world.app / "guilds.json"
    with migrated.world.backend() as backend:
        load = backend.load

        def hooked(*args: object) -> object:
            path.write_bytes(b'"written meanwhile"')
            return load(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(backend, "load", hooked)
        arguments = (backend, migrated.world.storage, migrated.run)
        if discard:
            rollback(*arguments, discard_newer=True)
        else:
            with pytest.raises(MigrationError) as caught:
                rollback(*arguments)
            assert caught.value.code == "moved"
            assert path.read_bytes() == b'"written meanwhile"'
    if not discard:
        assert migrated.world.rollback("--discard-newer").code == 0
    migrated.assert_nothing_happened()
    (kept,) = archived(migrated.world, "newer-guilds*")
    assert kept.read_bytes() == b'"written meanwhile"'


def test_files_that_the_run_never_took_are_left_alone(fresh: Stage) -> None:
    """With --keep-files the files stay the application's: what it writes there since is neither an
    obstacle to a rollback nor touched by it."""
    world = fresh.world
    assert world.migrate("--keep-files").code == 0
    path = world.app / "guilds.json"
    path.write_bytes(b'{"goes": "on"}')
    done = world.rollback()
    assert done.code == 0, done.all
    found = look(world)
    assert found.rows == fresh.before.rows
    assert path.read_bytes() == b'{"goes": "on"}'
    del found.files["guilds.json"]
    assert found.files.items() <= fresh.before.files.items()


@pytest.mark.parametrize("name", ["", "2", "nope", "../app"])
def test_a_run_that_is_not_named_clearly_is_refused(migrated: Stage, name: str) -> None:
    """No run, an empty name (an unset variable) or an ambiguous prefix: exit 2, nothing changed."""
    assert migrated.world.run("migrate", *another_file(migrated.world)).code == 0
    before = look(migrated.world)
    done = migrated.world.run("rollback", name)
    assert done.code == 2, done.all
    assert ("2 runs" if name == "2" else "no run") in done.err
    assert look(migrated.world) == before


def another_file(world: World) -> list[str]:
    path = world.app / "other.json"
    path.write_text('{"a": 1}')
    return [str(path)]


def test_a_run_may_be_named_by_its_beginning(migrated: Stage) -> None:
    """The beginning of a run's id is enough while only one has it."""
    assert migrated.world.rollback(run=migrated.run[:-2]).code == 0
    migrated.assert_nothing_happened()


@pytest.mark.parametrize("other", ["sqlite", "pg"])
def test_another_database_is_refused(
    migrated: Stage, other: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A run belongs to one database: with another, exit 2, and nothing is written anywhere."""
    path = tmp_path / "other.db"
    url = f"sqlite:///{path}" if other == "sqlite" else request.getfixturevalue("pg_database")
    before = look(migrated.world)
    done = migrated.world.rollback("--to", url)
    assert done.code == 2, done.all
    assert "another database" in done.err
    assert look(migrated.world) == before
    assert not path.exists()


def test_a_database_that_forgot_the_run(migrated: Stage) -> None:
    """Restored from before the run, the database has nothing to take back: that is said, exit 4;
    with --discard-newer the files come back and its rows stay as they are."""
    world = migrated.world
    saved = world.root.parent / "forgotten"
    world.storage.rename(saved)
    runs = saved / "migration_backups"
    world.put_back(migrated.fresh)
    for path in world.app.iterdir():
        path.unlink()
    world.storage.mkdir(mode=0o700, exist_ok=True)
    runs.rename(world.runs)
    done = world.rollback()
    assert done.code == 4, done.all
    assert "has no record of run" in done.err
    assert list(world.app.iterdir()) == []
    done = world.rollback("--discard-newer")
    assert done.code == 0, done.all
    migrated.assert_nothing_happened()
    shutil.rmtree(saved)
