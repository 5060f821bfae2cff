"""Damaged backups and records of a run: noticed before anything is restored from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from standfast.errors import CorruptData
from standfast.migrate.rundir import RunDir
from support.crash_snapshot import exact
from support.crash_stage import Stage

Damage = Callable[[Path], Any]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def blank(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip, truncate, blank, Path.unlink])
@pytest.mark.parametrize("name", ["run.json", "changes.json", "guilds.json", "board.json"])
def test_a_damaged_run_is_refused_before_anything_changes(
    sqlite_stage: Stage, name: str, damage: Damage
) -> None:
    """A bit flipped in a backup or in a record of the run, or a file of it missing: exit 4, with
    the file named, and nothing is changed, with --discard-newer neither."""
    world = sqlite_stage.world
    world.put_back(sqlite_stage.migrated)
    path = world.only_run() / name
    damage(path)
    (world.app / "guilds.json").write_text('"newer"')
    before = exact(world)
    done = world.rollback("--discard-newer", run=sqlite_stage.run)
    assert done.code == 4, done.all
    assert str(path) in done.err
    assert "nothing was changed" in done.err
    assert exact(world) == before


@pytest.mark.parametrize("name", ["run.json", "changes.json", "guilds.json"])
def test_a_damaged_run_is_not_finished(fresh: Stage, name: str) -> None:
    """Killed after its load and damaged then: `migrate` says so, exit 4, and moves no file."""
    fresh.kill_migrate("state-loaded")
    path = fresh.world.only_run() / name
    flip(path)
    before = exact(fresh.world)
    done = fresh.world.migrate()
    assert done.code == 4, done.all
    assert str(path) in done.err
    assert exact(fresh.world) == before


def test_a_damaged_backup_stops_a_rollback_that_was_killed(sqlite_stage: Stage) -> None:
    """Damaged while a rollback stood still after its rows: no file comes back before all can."""
    world = sqlite_stage.world
    world.put_back(sqlite_stage.migrated)
    sqlite_stage.kill_rollback("rollback-committed")
    flip(world.only_run() / "board.json")
    before = exact(world)
    done = world.rollback()
    assert done.code == 4, done.all
    assert exact(world) == before


@pytest.mark.parametrize("name", ["run.json", "changes.json"])
def test_no_flipped_bit_is_believed(sqlite_stage: Stage, name: str, tmp_path: Path) -> None:
    """Whichever bit of a run's records flips: they are refused, or still say the same."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    for record in ("run.json", "changes.json"):
        kept = sqlite_stage.migrated.folder / "storage/migration_backups" / sqlite_stage.run
        (run_dir.path / record).write_bytes((kept / record).read_bytes())
    path = run_dir.path / name
    data = path.read_bytes()
    wanted = run_dir.load_state(), run_dir.load_changes()
    expected_watermark = 0
    for place in range(0, len(data), 2):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place // 2 % 8
        path.write_bytes(bytes(flipped))
        try:
            found = run_dir.load_state(), run_dir.load_changes()
        except CorruptData:
            continue
        expected_watermark += 1
        assert found == wanted
    # Names and values of fields that hold their default anyway.
    assert expected_watermark < len(data) / 10
