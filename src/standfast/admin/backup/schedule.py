"""Backups at intervals, as `standfast serve --backup-every` makes them: when one is due (pure), and
the work itself.  What came of the last try is in a file beside the backups, so that every command
and every other process sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from standfast.admin.backup import folder as folders
from standfast.admin.backup.creating import create
from standfast.admin.backup.folder import Verified, verify
from standfast.admin.backup.pruning import Retention, prune
from standfast.config.settings import Settings
from standfast.engine.background import Timer
from standfast.errors import StandfastError, Unavailable
from standfast.limits import (
    BACKUP_LONGEST_PAUSE_S,
    BACKUP_OVERDUE_S,
    BACKUP_PAUSE_S,
    BACKUP_TURN_S,
)
from standfast.system.supervision import Supervisor

logger = logging.getLogger("standfast")

FILE = folders.SCHEDULE


class Schedule(NamedTuple):
    """A backup of everything every so many seconds, each verified; then those go that no rule
    keeps."""

    every_s: float
    retention: Retention = Retention()


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the schedule so far.  Times are seconds since 1970.

    `made_at`: when the last backup was made and found whole, `name` and `database` which;
    `failures` since then, the first at `failing_since`, with the last one's `error`; `next_at`: the
    next try.  `identity`: the history of the database that was met last, empty where nothing was
    written to it yet, None where that was never seen.
    """

    every_s: float
    next_at: float
    database: str = ""
    identity: str | None = None
    made_at: float | None = None
    name: str = ""
    failures: int = 0
    failing_since: float | None = None
    error: str = ""

    @property
    def is_failing(self) -> bool:
        """Whether the last try did not end with a good backup."""
        return self.failures > 0

    def is_overdue(self, now: float) -> bool:
        """Whether nobody has tried for long after it was time: the process is gone, or hangs."""
        return now > self.next_at + max(BACKUP_OVERDUE_S, self.every_s)


def pause_s(failures: int, every_s: float) -> float:
    """How long to wait after so many failures: twice as long each time, up to an hour."""
    longest = min(BACKUP_LONGEST_PAUSE_S, every_s)
    return min(longest, BACKUP_PAUSE_S * 2.0 ** min(failures - 1, 20))


def due_at(
    known: State | None, schedule: Schedule, database: str, identity: str | None = None
) -> float:
    """When the next backup is due; 0, at once, where none of this database was made.

    `database` is what the URL shows, `identity` the history that was found there, which may be
    another one under the same URL; None where the database does not answer, which proves nothing.
    """
    if known is None or known.database != database:
        return 0.0
    if identity is not None and known.identity is not None and known.identity != identity:
        return 0.0
    if known.is_failing or known.made_at is None:
        return known.next_at
    return known.made_at + schedule.every_s


def load(data_dir: Path) -> State | None:
    """What is known of the schedule of a data directory; None where it has none.

    A file that cannot be read counts as none: a backup is made at once then.
    """
    try:
        return msgspec.json.decode((folders.folder(data_dir) / FILE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


class Scheduler:
    """The thread that makes them.  `now` is the clock, in seconds since 1970."""

    def __init__(
        self,
        settings: Settings,
        schedule: Schedule,
        supervisor: Supervisor,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._schedule = schedule
        self._now = now
        self._timer = Timer("standfast-serve-backups", self._act, supervisor)

    def start(self) -> None:
        """Make the first one when it is due: at once, if there is none."""
        self._timer.thread.start()
        self._timer.schedule(time.monotonic())

    def close(self) -> None:
        """Let the thread end.  A backup that is being made is not waited for; it leaves nothing."""
        self._timer.close()

    def _act(self) -> None:
        pause = BACKUP_PAUSE_S
        try:
            pause = self.turn()
        finally:
            # The clock may be set meanwhile: it is looked at again soon, whatever the interval.
            self._timer.schedule(time.monotonic() + min(pause, BACKUP_TURN_S))

    def turn(self) -> float:
        """Make a backup if one is due; returns the seconds until the next look.

        Another process that makes one holds the lock: nothing is noted then, and its result is
        looked at a little later.
        """
        known = load(self._settings.data_dir)
        identity = self._identity()
        wait = due_at(known, self._schedule, self._database, identity) - self._now()
        # A clock that was set back far would put it off by as much.
        if 0 < wait <= self._schedule.every_s:
            return wait
        try:
            made = self._make()
        except StandfastError as error:
            if isinstance(error, Unavailable) and error.code == "locked":
                return BACKUP_PAUSE_S
            return self._note_failure(known, error, identity)
        self._note_success(known, made)
        try:
            prune(self._settings.data_dir, self._schedule.retention)
        except StandfastError as error:
            logger.warning("old backups could not be removed: %s", error.message)
        return self._schedule.every_s

    @property
    def _database(self) -> str:
        return self._settings.target.display

    def _identity(self) -> str | None:
        """The history of the database that answers now; None where none does."""
        from standfast.api.opening import backend_for

        try:
            with closing(backend_for(self._settings.target)) as backend:
                return backend.identity() or ""
        except StandfastError:  # what is wrong is said by the backup, when one is due
            return None

    def _make(self) -> Verified:
        """A backup that was found whole."""
        from standfast.api.opening import opened_backend, refuse_other

        refuse_other(self._settings)
        with opened_backend(self._settings) as backend:
            made = create(backend, self._settings.data_dir, reason="scheduled")
        return verify(made.path)

    def _note_success(self, known: State | None, made: Verified) -> None:
        now = self._now()
        if known is not None and known.is_failing:
            logger.warning("scheduled backups work again: %s", made.path.name)
        self._keep(
            State(
                every_s=self._schedule.every_s,
                next_at=now + self._schedule.every_s,
                database=self._database,
                identity=made.head.source.identity or "",
                made_at=now,
                name=made.path.name,
            )
        )

    def _note_failure(
        self, known: State | None, error: StandfastError, identity: str | None
    ) -> float:
        now = self._now()
        before = known or State(every_s=self._schedule.every_s, next_at=now)
        failures = before.failures + 1
        pause = pause_s(failures, self._schedule.every_s)
        logger.warning(
            "the scheduled backup failed: %s; tried again at %s",
            error.message,
            datetime.fromtimestamp(now + pause, UTC).strftime("%H:%M UTC"),
        )
        self._keep(
            msgspec.structs.replace(
                before,
                every_s=self._schedule.every_s,
                next_at=now + pause,
                database=self._database,
                identity=before.identity if identity is None else identity,
                failures=failures,
                failing_since=before.failing_since or now,
                error=error.message,
            )
        )
        return pause

    def _keep(self, state: State) -> None:
        try:
            data = msgspec.json.format(msgspec.json.encode(state), indent=1)
            folders.keep_schedule(self._settings.data_dir, data)
        except OSError as error:  # the disk is full or gone: said in the log alone
            logger.warning("the state of the backups could not be kept: %s", error.strerror)
