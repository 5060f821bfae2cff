"""`migrate` killed with SIGKILL at every step, and run again or rolled back."""

from __future__ import annotations

import pytest

from support.crash_points import DISCARD, MIGRATE, firsts, in_turn, others
from support.crash_snapshot import look
from support.crash_stage import Stage
from support.crash_writes import put

#: Up to here a kill leaves no run that a rollback could name.
NAMELESS = ("scanned@1", "planned@1", "run-dir@1", "draft-written@1")

#: Steps whose last time is another thing than their first: all, and not one, were done before.
LATE = ("collection-written@4", "original-moved@4", "draft-written@11")


@pytest.mark.parametrize(
    ("stage", "failpoint"), in_turn([*firsts(MIGRATE), *LATE], first=0), indirect=["stage"]
)
def test_killed_and_run_again(fresh: Stage, failpoint: str) -> None:
    """Killed at any step and run again: the same rows, versions, files and backups, one run."""
    fresh.kill_migrate(failpoint)
    fresh.assert_finishes()


@pytest.mark.parametrize(
    ("stage", "failpoint"), in_turn(firsts(MIGRATE), first=1), indirect=["stage"]
)
def test_killed_and_rolled_back(fresh: Stage, failpoint: str) -> None:
    """Killed at any step and rolled back, unfinished as it is: as if nothing had happened."""
    fresh.kill_migrate(failpoint)
    folders = list(fresh.world.runs.iterdir()) if fresh.world.runs.is_dir() else []
    if failpoint in NAMELESS:
        # There is nothing to roll back, and that is what it says; migrate would start anew.
        done = fresh.world.rollback(run=folders[0].name if folders else "2")
        assert (done.code, "no run" in done.err) == (2, True), done.all
    else:
        assert len(folders) == 1
        done = fresh.world.rollback()
        assert done.code == 0, done.all
        assert "rolled back" in done.err
    fresh.assert_nothing_happened()


@pytest.mark.parametrize("second", firsts(DISCARD))
@pytest.mark.parametrize("first", ["draft-renamed@1", "record-written@1"])
def test_killed_while_throwing_away_a_killed_run(fresh: Stage, first: str, second: str) -> None:
    """What a killed run left is thrown away in steps that may be killed too."""
    fresh.kill_migrate(first)
    fresh.kill_migrate(second)
    fresh.assert_finishes()


@pytest.mark.parametrize("second", firsts(DISCARD))
def test_killed_while_rolling_back_an_unloaded_run(fresh: Stage, second: str) -> None:
    """A rollback that only has copies to throw away may be killed at that, and given again."""
    fresh.kill_migrate("record-written@1")
    name = fresh.world.only_run().name
    fresh.kill_rollback(second, run=name)
    done = fresh.world.rollback(run=name)
    assert done.code == (0 if second == "copies-discarded@1" else 2), done.all
    fresh.assert_nothing_happened()


def test_killed_again_and_again(fresh: Stage) -> None:
    """A migration that is killed at one step after the other still comes to the same end."""
    for failpoint in ("original-kept@2", "record-written", "load-committed", "original-parked@2"):
        fresh.kill_migrate(failpoint)
    for failpoint in ("original-unlinked", "original-moved@4", "draft-written@2"):
        fresh.kill_migrate(failpoint)
    fresh.assert_finishes()


def test_a_run_that_was_finished_later_can_be_rolled_back(fresh: Stage) -> None:
    """Killed after the load, finished by the next command, then rolled back: as before."""
    fresh.kill_migrate("load-committed")
    fresh.assert_finishes()
    assert fresh.world.rollback().code == 0
    fresh.assert_nothing_happened()


def test_a_killed_run_is_finished_by_any_migration(fresh: Stage) -> None:
    """The next migration, of another file even, finishes the killed one first and says so."""
    fresh.kill_migrate("original-moved@2")
    run = fresh.world.only_run().name
    other = fresh.world.app / "other.json"
    other.write_text("{}")
    done = fresh.world.run("migrate", str(other))
    assert done.code == 0, done.all
    assert f"finished run {run}" in done.err
    assert list(fresh.world.app.iterdir()) == []


def test_what_the_application_writes_meanwhile_stands(fresh: Stage) -> None:
    """Killed while files are moved, the verification was green: rows that are written before the
    next command are the application's, and do not stop it."""
    fresh.kill_migrate("original-moved")
    with fresh.world.backend() as backend:
        put(backend, "guilds", "differs", '"newer"')
    done = fresh.world.migrate()
    assert done.code == 0, done.all
    found = look(fresh.world)
    assert found.files == {}
    assert found.rows["guilds", "differs"].data == '"newer"'


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", others(MIGRATE, than=[*firsts(MIGRATE), *LATE]))
def test_killed_in_between_and_run_again(fresh: Stage, failpoint: str) -> None:
    """The same at the second, third ... time that a step is passed."""
    fresh.kill_migrate(failpoint)
    fresh.assert_finishes()


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", others(MIGRATE, than=firsts(MIGRATE)))
def test_killed_in_between_and_rolled_back(fresh: Stage, failpoint: str) -> None:
    """The same at the second, third ... time that a step is passed."""
    fresh.kill_migrate(failpoint)
    done = fresh.world.rollback()
    assert done.code == 0, done.all
    fresh.assert_nothing_happened()


@pytest.mark.slow
@pytest.mark.parametrize("name", MIGRATE)
def test_the_steps_are_counted_right(fresh: Stage, name: str) -> None:
    """No step is passed more often than the tests know."""
    done = fresh.world.migrate(failpoint=f"{name}@{MIGRATE[name] + 1}")
    assert done.code == 0, done.all
