"""`rollback` killed with SIGKILL at every step, and given again."""

from __future__ import annotations

import pytest

from support.crash_points import ROLLBACK, firsts, others
from support.crash_snapshot import look
from support.crash_stage import Stage
from support.crash_writes import put

#: Steps around what is archived: two drafts are that, the third is the state.
WHILE_DISCARDING = ["draft-renamed@1", "draft-written@3", "record-written", "original-restored@4"]


def finishes(stage: Stage) -> None:
    """The same command again comes to the same end as the one that was never killed."""
    done = stage.world.rollback()
    assert done.code == 0, done.all
    stage.assert_nothing_happened()
    found, wanted = look(stage.world), stage.rolled_back
    assert found.versions == wanted.versions
    assert found.tombstones == wanted.tombstones
    assert found.tree == wanted.tree
    assert found.backups == wanted.backups


@pytest.mark.parametrize("failpoint", [*firsts(ROLLBACK), "original-restored@4"])
def test_killed_and_given_again(migrated: Stage, failpoint: str) -> None:
    """Killed at any step and given again: files byte for byte, rows as before the run."""
    migrated.kill_rollback(failpoint)
    finishes(migrated)


def test_killed_again_and_again(migrated: Stage) -> None:
    """A rollback that is killed at one step after the other still comes to the same end."""
    for failpoint in ("draft-written", "record-written", "rollback-committed", "draft-written@2"):
        migrated.kill_rollback(failpoint)
    for failpoint in ("original-restored@3", "draft-renamed"):
        migrated.kill_rollback(failpoint)
    finishes(migrated)


@pytest.mark.parametrize("failpoint", ["rollback-committed"])
def test_a_migration_does_not_go_over_a_killed_rollback(migrated: Stage, failpoint: str) -> None:
    """A half-finished rollback has to be finished first; `migrate` says how."""
    migrated.kill_rollback(failpoint)
    before = look(migrated.world)
    done = migrated.world.migrate()
    assert done.code == 1, done.all
    assert f"standfast rollback {migrated.run}" in done.err
    assert look(migrated.world) == before
    finishes(migrated)


def test_a_rollback_twice_is_a_no_op(migrated: Stage) -> None:
    """Given again after it is done, a rollback changes nothing and says so with exit code 0."""
    assert migrated.world.rollback().code == 0
    before = look(migrated.world)
    done = migrated.world.rollback()
    assert done.code == 0
    assert "already rolled back" in done.err
    assert look(migrated.world) == before


def test_migrated_again_after_a_rollback(migrated: Stage) -> None:
    """A run that was taken back can be made again: a new run, the same rows and files."""
    assert migrated.world.rollback().code == 0
    done = migrated.world.migrate()
    assert done.code == 0, done.all
    found = look(migrated.world)
    assert found.rows == migrated.after.rows
    assert found.exports == migrated.after.exports
    assert found.files == {}
    assert [state["state"] for state in found.states] == ["rolled-back", "done"]
    (run,) = {path.name for path in migrated.world.runs.iterdir()} - {migrated.run}
    assert migrated.world.rollback(run=run).code == 0
    assert look(migrated.world).rows == migrated.before.rows


@pytest.mark.parametrize("failpoint", WHILE_DISCARDING)
def test_killed_while_discarding_newer_rows_and_files(migrated: Stage, failpoint: str) -> None:
    """With --discard-newer too; what is newer is archived once, however often it was killed."""
    path = migrated.world.app / "guilds.json"
    path.write_bytes(b'{"newer": true}')
    with migrated.world.backend() as backend:
        put(backend, "guilds", "new", '"newer"')
    migrated.kill_rollback(failpoint, "--discard-newer")
    done = migrated.world.rollback("--discard-newer")
    assert done.code == 0, done.all
    migrated.assert_nothing_happened()
    kept = sorted(path.name for path in migrated.world.only_run().glob("newer-*"))
    assert len(kept) == 2


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", others(ROLLBACK, than=firsts(ROLLBACK)))
def test_killed_in_between_and_given_again(migrated: Stage, failpoint: str) -> None:
    """The same at the second, third ... time that a step is passed."""
    migrated.kill_rollback(failpoint)
    finishes(migrated)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROLLBACK)
def test_the_steps_are_counted_right(migrated: Stage, name: str) -> None:
    """No step is passed more often than the tests know."""
    done = migrated.world.rollback(failpoint=f"{name}@{ROLLBACK[name] + 1}")
    assert done.code == 0, done.all
