"""Looks at a store from time to time, so that no request ever waits for its files or its database.

Two threads: one looks at the files every second, one asks the database, which may take as long as
its limits say.  A request gets what was seen last, and when that was.
Where there is a schedule, a third one makes the backups.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from standfast.admin import library_version
from standfast.admin.backup.schedule import Schedule, Scheduler
from standfast.admin.data_dir import Local, look
from standfast.admin.evidence import Asked, Evidence, ask_database, attempt, counts, gather
from standfast.admin.status import Status, status_from
from standfast.backends.base import Backend
from standfast.config.settings import Settings
from standfast.engine.background import Timer
from standfast.errors import StandfastError, Unavailable
from standfast.ops.types import ConflictRecord
from standfast.system.supervision import Supervisor

FILES_PAUSE_S = 1.0
DATABASE_PAUSE_S = 3.0
#: Times of asking the database after which the documents are counted again.
COUNT_EVERY = 10
#: Conflicts that the page lists.
MAX_CONFLICTS = 50
#: A look at the files that is older than this says that nobody looks any more.
STALE_S = 60.0


class Snapshot(NamedTuple):
    """What was seen last: times are of `time.monotonic()` and `time.time()`.

    `documents`: the collections with how many documents each has.  `error`: why there is no status,
    such as a damaged embedded database.
    """

    looked_at: float
    at: float
    evidence: Evidence | None
    status: Status | None
    error: StandfastError | None
    conflicts: list[ConflictRecord]
    documents: dict[str, int | None]


_NOT_YET = Unavailable("it has not answered yet", code="connection", hint="wait a moment")


class Watcher:
    """The threads, and what they saw.  Started by the first request."""

    def __init__(self, settings: Settings, backups: Schedule | None = None) -> None:
        self.settings = settings
        self._asked = Asked(_NOT_YET)
        self._conflicts: list[ConflictRecord] = []
        self._documents: dict[str, int | None] = {}
        self._turns = 0
        self._lock = threading.Lock()
        self._first = threading.Event()
        self._supervisor = Supervisor()
        self._files = Timer("standfast-serve-files", self._look, self._supervisor)
        self._database = Timer("standfast-serve-database", self._ask, self._supervisor)
        self._backups = Scheduler(settings, backups, self._supervisor) if backups else None
        self._started = False
        self.snapshot = Snapshot(time.monotonic(), time.time(), None, None, _NOT_YET, [], {})

    def start(self) -> None:
        """Start looking.  Idempotent."""
        with self._lock:
            if self._started:
                return
            self._started = True
        for timer in (self._files, self._database):
            timer.thread.start()
            timer.schedule(time.monotonic())
        if self._backups is not None:
            self._backups.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the files were looked at once; False when that took too long."""
        return self._first.wait(timeout_s)

    def refresh(self) -> None:
        """Ask the database again soon."""
        self._database.schedule(time.monotonic())

    def close(self) -> None:
        """Let the threads end."""
        self._files.close()
        self._database.close()
        if self._backups is not None:
            self._backups.close()

    @property
    def is_live(self) -> bool:
        """Whether the files are still being looked at."""
        return time.monotonic() - self.snapshot.looked_at < STALE_S

    def _look(self) -> None:
        try:
            evidence = gather(self.settings, self._asked)
            error: StandfastError | None = None
            status: Status | None = None
            try:
                status = status_from(evidence, library=library_version()).status
            except StandfastError as failure:
                error = failure
            self.snapshot = Snapshot(
                *(time.monotonic(), time.time(), evidence, status, error),
                *(self._conflicts, self._documents),
            )
            self._first.set()
        finally:
            self._files.schedule(time.monotonic() + FILES_PAUSE_S)

    def _ask(self) -> None:
        try:
            local = attempt(lambda: look(self.settings.data_dir))
            lanes = sorted(local.expected) if isinstance(local, Local) else []
            self._asked = ask_database(self.settings, lanes, self._more)
            self._files.schedule(time.monotonic())
        finally:
            self._database.schedule(time.monotonic() + DATABASE_PAUSE_S)

    def _more(self, backend: Backend) -> None:
        deadline = time.monotonic() + self.settings.deadline_s
        found = attempt(
            lambda: backend.conflicts(state="open", limit=MAX_CONFLICTS, deadline=deadline)
        )
        if not isinstance(found, StandfastError):
            self._conflicts = found
        if self._turns % COUNT_EVERY == 0:
            documents = attempt(lambda: counts(backend, self.settings))
            if not isinstance(documents, StandfastError):
                self._documents = documents
        self._turns += 1


def on_database(settings: Settings, work: Callable[[Backend], object]) -> object:
    """Do this on a connection of its own; raises what the database answers."""
    from standfast.admin.primary import connected

    with connected(settings) as backend:
        return work(backend)
