"""What `status`, `doctor` and the status page look at, each piece by itself.

Whatever cannot be looked at is the error that said so, in the place of what it would have shown:
one damaged file or one missing right hides nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from standfast.admin.backup import schedule
from standfast.admin.backup.folder import backups
from standfast.admin.data_dir import Local, look
from standfast.admin.primary import Primary, ask, connected
from standfast.api.opening import hidden_documents
from standfast.backends.base import Backend
from standfast.backends.postgres.backend import PostgresBackend
from standfast.backends.postgres.inspect import Directory, Session, blockers, directories
from standfast.config.settings import Settings
from standfast.engine.journal import FILE as JOURNAL_FILE
from standfast.engine.reports import SeenReport, read_reports
from standfast.errors import ConfigError, StandfastError
from standfast.migrate.locking import LOCK_FILE
from standfast.migrate.rundir import UNFINISHED, RunState, all_runs
from standfast.system.locks import FileLock

T = TypeVar("T")

#: A session of another program that has held a lock for less than this is not in the way yet.
BLOCKING_AFTER_S = 3.0


_MINUTE = "%Y-%m-%d %H:%M UTC"


class Disk(NamedTuple):
    """The disk of the data directory, and what the journal takes of it, in bytes."""

    free: int
    total: int
    journal: int


class DatabaseFile(NamedTuple):
    """The file of an embedded database with its log: bytes, and when one of them last changed.

    A write changes them, and at the latest when the log is taken into the file; so does clean-up.
    """

    bytes: int
    changed_at: float | None


class Run(NamedTuple):
    """A migration that has not come to its end, and the command that finishes it.

    `busy`: a process is working in this data directory now, perhaps on it.
    """

    run: str
    state: str
    since: str
    command: str
    busy: bool


class Backups(NamedTuple):
    """The newest backup that was verified, and why the newest of all is not good.

    Texts for people; empty where there is none, or nothing speaks against it.  `verified_at`: when
    that was, ISO 8601; `number`: how many there are; `schedule`: what came of that of `serve`.
    """

    verified: str = ""
    problem: str = ""
    verified_at: str | None = None
    number: int = 0
    schedule: schedule.State | None = None


class Evidence(NamedTuple):
    """Everything that was looked at; an error where that failed.

    `primary` is an error when the database cannot be reached; `directories` and `blockers` are
    empty then.  `database_file` is None of a server.  `hidden`: documents of an embedded database
    for which no app opens a store with these settings.
    """

    settings: Settings
    exists: bool
    local: Local | StandfastError
    primary: Primary | StandfastError
    disk: Disk | StandfastError
    runs: list[Run] | StandfastError
    reports: list[SeenReport]
    directories: list[Directory] | StandfastError
    blockers: list[Session] | StandfastError
    backups: Backups | StandfastError
    database_file: DatabaseFile | StandfastError | None = None
    hidden: StandfastError | None = None

    @property
    def alive(self) -> list[SeenReport]:
        """The reports of stores that are open now."""
        return [one for one in self.reports if one.alive]


class Asked(NamedTuple):
    """What the database said, or the error in its place."""

    primary: Primary | StandfastError
    directories: list[Directory] | StandfastError = []  # noqa: RUF012 - never changed
    blockers: list[Session] | StandfastError = []  # noqa: RUF012


def gather(settings: Settings, asked: Asked | None = None) -> Evidence:
    """Look at the files, and ask the database on one connection; raises nothing of ours.

    `asked`: what it said a moment ago; it is not asked again then.
    """
    data_dir = settings.data_dir
    local = attempt(lambda: look(data_dir))
    if asked is None:
        lanes = sorted(local.expected) if isinstance(local, Local) else []
        asked = ask_database(settings, lanes)
    primary, wrote, blocking = asked
    return Evidence(
        settings=settings,
        exists=data_dir.exists(),
        local=local,
        primary=primary,
        disk=attempt(lambda: disk_of(data_dir)),
        runs=attempt(lambda: unfinished_runs(data_dir)),
        reports=read_reports(data_dir),
        directories=wrote,
        blockers=blocking,
        backups=attempt(lambda: known_backups(data_dir)),
        database_file=attempt(lambda: _database_file(settings)),
        hidden=attempt(lambda: hidden_documents(settings)),
    )


def attempt(work: Callable[[], T]) -> T | StandfastError:
    """What this gives, or the error that it raises; the system's own as one of ours."""
    try:
        return work()
    except StandfastError as error:
        return error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return ConfigError(
            f"a file cannot be looked at: {error.strerror or error}{where}",
            code="data_dir",
            hint="run this as the user of the app; check its owner, its mode and the disk",
        )


def ask_database(
    settings: Settings, lanes: list[str], more: Callable[[Backend], object] | None = None
) -> Asked:
    """Ask it on a connection of its own; `more` asks further on the same."""
    try:
        with connected(settings) as backend:
            primary = attempt(lambda: ask(backend, settings, lanes=lanes))
            if more is not None and not isinstance(primary, StandfastError):
                more(backend)
            if not isinstance(backend, PostgresBackend) or isinstance(primary, StandfastError):
                return Asked(primary)
            return Asked(
                primary,
                attempt(lambda: _wrote_lately(backend, settings)),
                attempt(lambda: _blocking(backend, settings)),
            )
    except StandfastError as error:
        return Asked(error)


def _wrote_lately(backend: PostgresBackend, settings: Settings) -> list[Directory]:
    deadline = time.monotonic() + settings.deadline_s
    with backend.connection("asking who wrote lately", deadline) as conn:
        return directories(conn)


def _blocking(backend: PostgresBackend, settings: Settings) -> list[Session]:
    deadline = time.monotonic() + settings.deadline_s
    with backend.connection("asking who holds locks", deadline) as conn:
        return blockers(conn, older_than_s=BLOCKING_AFTER_S)


def disk_of(data_dir: Path) -> Disk:
    """The disk that a data directory is on, or would be."""
    there = data_dir.absolute()
    while not there.exists():
        there = there.parent
    found = shutil.disk_usage(there)
    size = 0
    for name in (JOURNAL_FILE, f"{JOURNAL_FILE}-wal", "spool.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            size += os.stat(data_dir / name).st_size
    return Disk(found.free, found.total, size)


def _database_file(settings: Settings) -> DatabaseFile | None:
    if settings.target.kind != "sqlite":
        return None
    total, changed_at = 0, None
    for ending in ("", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(f"{settings.target.path}{ending}")
            total += found.st_size
            if found.st_size:  # a log without a byte was made by whoever looks
                changed_at = max(changed_at or 0.0, found.st_mtime)
    return DatabaseFile(total, changed_at)


def known_backups(data_dir: Path) -> Backups:
    """What is known of the backups in a data directory; none of them is read as a whole."""
    found = backups(data_dir)
    good = [each for each in found if each.known and each.known.verified_at and not each.problem]
    verified, verified_at = "", None
    if good:
        newest = good[-1]
        known = newest.known
        assert known is not None, "only these were taken"
        verified_at = known.verified_at
        made = newest.made_at.strftime(_MINUTE)
        tried = f", restored for trial {minute(known.drilled_at)}" if known.drilled_at else ""
        verified = f"{newest.path.name} of {made}, verified {minute(known.verified_at)}{tried}"
    problem = f"{found[-1].path.name}: {found[-1].problem}" if found and found[-1].problem else ""
    return Backups(verified, problem, verified_at, len(found), schedule.load(data_dir))


def minute(text: str | None) -> str:
    """A time in ISO 8601, for people."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime(_MINUTE) if text else ""


def unfinished_runs(data_dir: Path) -> list[Run]:
    """The migrations that were interrupted, or are under way."""
    states = [one.load_state() for one in all_runs(data_dir)]
    unfinished = [one for one in states if one.state in UNFINISHED]
    if not unfinished:
        return []
    busy = _is_locked(data_dir / LOCK_FILE)
    return [Run(one.run, one.state, one.updated_at, _finishing(one), busy) for one in unfinished]


def _finishing(state: RunState) -> str:
    if state.state == "rolling-back":
        return f"standfast rollback {state.run}"
    return "standfast migrate " + " ".join(shlex.quote(one.path) for one in state.sources)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    probe = FileLock(path)
    try:
        return not probe.acquire()
    finally:
        probe.release()


def counts(backend: Backend, settings: Settings) -> dict[str, int | None]:
    """The collections with how many documents each has; None where that took too long."""
    found: dict[str, int | None] = {}
    for name in backend.collections(deadline=time.monotonic() + settings.deadline_s):
        try:
            found[name] = backend.count(name, deadline=time.monotonic() + settings.deadline_s)
        except StandfastError:
            found[name] = None
    return found
