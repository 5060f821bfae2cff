"""What keeps two migrations apart, and a run with the database that it belongs to."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from standfast.backends.base import Backend
from standfast.errors import ConfigError, DataError, MigrationError, StandfastError
from standfast.migrate.rundir import RunState, all_runs
from standfast.system.files import make_directory
from standfast.system.locks import FileLock

LOCK_FILE = "migrate.lock"
#: For asking a server who it is.
_IDENTITY_DEADLINE_S = 10.0


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
    server = server_of(backend)
    if identity is not None and state.identity is not None:
        same = identity == state.identity
    elif server and state.server:
        same = server == state.server
    else:
        same = state.target == backend.display
    if not same:
        raise ConfigError(
            f"run {state.run} belongs to another database, {state.target}",
            code="other_database",
            hint=f"to continue run {state.run}, give that database with --to or DATABASE_URL; if it"
            f" is gone, give the run up: standfast migrate --abandon {state.run}",
        )


def server_of(backend: Backend) -> str:
    """What names a database that has no identity yet, whatever its URL: the server's system
    identifier and the OID of the database in it, or the path of the file."""
    if backend.kind == "sqlite":
        return backend.display
    found = backend.server_identity(time.monotonic() + _IDENTITY_DEADLINE_S)
    return f"{found.system}/{found.database}" if found.system and found.database else ""


def surely_refused(error: StandfastError) -> bool:
    """Whether a load that ended with this error has certainly changed nothing."""
    if isinstance(error, MigrationError | DataError | ConfigError):
        return error.code not in ("file", "disk")
    return error.code in ("read_only", "auth", "too_many_connections")


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
            moved.update((Path(source.path), state.run) for source in state.files)
    return moved


def runs_that_moved(path: Path, moved: Mapping[Path, str]) -> list[str]:
    """The runs that moved this file, or files of this directory."""
    place = path.resolve()
    if path.is_dir():
        return sorted({run for file, run in moved.items() if place in file.parents})
    return [moved[place]] if place in moved and not path.exists() else []
