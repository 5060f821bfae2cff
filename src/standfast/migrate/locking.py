"""What keeps two migrations apart, and a run with the database that it belongs to."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from standfast.backends.base import Backend
from standfast.errors import ConfigError, MigrationError
from standfast.migrate.rundir import RunState, all_runs
from standfast.system.files import make_directory
from standfast.system.locks import FileLock

LOCK_FILE = "migrate.lock"


@contextmanager
def migration_lock(data_dir: Path) -> Generator[None]:
    """Hold the data directory for one migration; MigrationError("locked") when another does."""
    lock = FileLock(data_dir / LOCK_FILE)
    try:
        make_directory(data_dir)
        taken = lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"the data directory {data_dir} cannot be used: {error.strerror}",
            code="data_dir",
            hint="make it writable, or give another with STANDFAST_DATA_DIR",
        ) from None
    if not taken:
        raise MigrationError(
            f"another migration or rollback is using {data_dir}",
            code="locked",
            hint="wait until it has ended, then run this again",
        )
    try:
        yield
    finally:
        lock.release()


def require_same_target(backend: Backend, state: RunState) -> None:
    """An unfinished run belongs to one database; ConfigError when this is another."""
    identity = backend.identity()
    same = (
        state.target == backend.display
        if None in (identity, state.identity)
        else (identity == state.identity)
    )
    if not same:
        raise ConfigError(
            f"run {state.run} belongs to another database, {state.target}",
            code="other_database",
            hint=f"to continue run {state.run}, give that database with --to or DATABASE_URL",
        )


def was_loaded(backend: Backend, state: RunState) -> bool:
    """Whether an interrupted run was committed, once and for all.

    A server may still be at the COMMIT of a client that is dead, and waits for a standby perhaps.
    So the answer "no" is given only behind a load of our own, which no other load can overlap:
    MigrationError("locked") while the old one is under way.
    """
    if state.state not in ("started", "backed-up"):
        return True
    if state.state == "started":
        return False
    require_same_target(backend, state)
    if backend.run_record(state.run) is None:
        if backend.identity() is None:
            return False  # not even the tables for a run's record
        backend.load(f"{state.run}:abandoned", "abandoned", [])
    return backend.run_record(state.run) is not None


def moved_files(data_dir: Path, identity: str | None) -> dict[Path, str]:
    """The originals that finished runs into this database have moved away, with their run."""
    moved: dict[Path, str] = {}
    for run_dir in all_runs(data_dir):
        state = run_dir.load_state()
        if state.state == "done" and not state.keep_files and state.identity == identity:
            moved.update((Path(source.path), state.run) for source in state.sources)
    return moved


def runs_that_moved(path: Path, moved: Mapping[Path, str]) -> list[str]:
    """The runs that moved this file, or files of this directory."""
    place = path.resolve()
    if path.is_dir():
        return sorted({run for file, run in moved.items() if place in file.parents})
    return [moved[place]] if place in moved and not path.exists() else []
