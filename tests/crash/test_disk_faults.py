"""A data directory on a disk that is full, read-only or failing.

What is decided: the disk of the files and the data directory is the user's to mend, exit code 2;
a disk that fails under the embedded database is a database that cannot be used now, exit code 3.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from support.crash_disk import failing_fsync, twice_on, why_no_mounts, why_no_strace
from support.crash_snapshot import files_of
from support.crash_stage import Stage
from support.crash_world import Done

NO_MOUNTS = why_no_mounts()
NO_STRACE = why_no_strace()

mounting = pytest.mark.skipif(bool(NO_MOUNTS), reason=NO_MOUNTS)
tracing = pytest.mark.skipif(bool(NO_STRACE), reason=NO_STRACE)


def assert_told(done: Done) -> None:
    """One clear error, and no trace of a bug."""
    assert done.code in (2, 3), done.all
    assert len([line for line in done.err.splitlines() if line.startswith("error: ")]) == 1
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert 'File "' not in done.err


def fills_up(stage: Stage, pages: int, folder: Path) -> None:
    """A migration on a disk that becomes full ends with one error; with room again it finishes."""
    first, second = twice_on(stage.world, str(pages * 4), folder)
    if first.code:
        assert_told(first)
    assert second.code == 0, second.all
    stage.assert_finished()


@mounting
@pytest.mark.parametrize("pages", [1, 6, 9, 11])
def test_full_on_the_way(pg_stage: Stage, pages: int, tmp_path: Path) -> None:
    """A disk that is full at the first write, at a backup, at the record, after the load or when
    the files are moved: one error, and the same end as without it once there is room."""
    pg_stage.world.put_back(pg_stage.fresh)
    fills_up(pg_stage, pages, tmp_path)


@mounting
@pytest.mark.parametrize("pages", [4, 12, 20])
def test_full_under_the_embedded_database(sqlite_stage: Stage, pages: int, tmp_path: Path) -> None:
    """The same where the database lies on that disk too."""
    sqlite_stage.world.put_back(sqlite_stage.fresh)
    fills_up(sqlite_stage, pages, tmp_path)


@mounting
@pytest.mark.slow
@pytest.mark.parametrize("pages", range(45))
def test_full_anywhere(stage: Stage, pages: int, tmp_path: Path) -> None:
    """The same for every amount of room."""
    stage.world.put_back(stage.fresh)
    fills_up(stage, pages, tmp_path)


@mounting
def test_read_only(fresh: Stage, tmp_path: Path) -> None:
    """A read-only data directory: exit 2, and nothing is changed; once it is writable it works."""
    first, second = twice_on(fresh.world, "ro", tmp_path)
    assert_told(first)
    assert first.code == 2
    assert (tmp_path / "between").read_text() == ""
    assert second.code == 0, second.all
    fresh.assert_finished()


@pytest.mark.parametrize(("limit", "code"), [(100, 2), (400, 2), (1800, 2)])
def test_a_file_may_not_grow(pg_stage: Stage, limit: int, code: int) -> None:
    """A write that fails for its size, at the state, a backup or the record: exit 2, rows and files
    as they were, and nothing of the run is left."""
    world = pg_stage.world
    world.put_back(pg_stage.fresh)

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = world.end(world.start(*world.migration(), limits=limits))
    assert_told(done)
    assert done.code == code
    pg_stage.assert_nothing_happened()
    assert list(world.runs.iterdir()) == []
    pg_stage.assert_finishes()


def test_the_embedded_database_may_not_grow(sqlite_stage: Stage) -> None:
    """A database file that cannot be written: exit 3, rows and files as they were."""
    world = sqlite_stage.world
    world.put_back(sqlite_stage.fresh)

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = world.end(world.start(*world.migration(), limits=limits))
    assert_told(done)
    assert done.code == 3
    assert files_of(world.app) == sqlite_stage.before.files
    sqlite_stage.assert_finishes()


def fails_to_flush(stage: Stage, number: int) -> bool:
    """With the N-th fsync failing the command does not claim to be done; the next one finishes."""
    done = stage.world.run(*stage.world.migration(), under=failing_fsync(number))
    if done.code == 0:
        return False
    assert_told(done)
    stage.assert_finishes()
    return True


@tracing
@pytest.mark.parametrize(
    "number",
    [1, pytest.param(14, marks=pytest.mark.slow), 22, pytest.param(25, marks=pytest.mark.slow)],
)
def test_a_failed_fsync_is_no_success(fresh: Stage, number: int) -> None:
    """A disk that reports an error when it is asked to keep what was written: never exit 0."""
    assert fails_to_flush(fresh, number)


@tracing
@pytest.mark.slow
def test_no_failed_fsync_at_all_is_a_success(fresh: Stage) -> None:
    """The same for every fsync of a migration."""
    failed = 0
    while fails_to_flush(fresh, failed + 1):
        failed += 1
        fresh.world.put_back(fresh.fresh)
    assert failed > 25
