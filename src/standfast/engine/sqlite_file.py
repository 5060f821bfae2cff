"""A SQLite file of the data directory that belongs to the engine: the journal or the mirror.

Opened with our mark and schema, for its owner's eyes only, in WAL mode.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw

from standfast.backends.sqlite.errors import from_sqlite, mapped
from standfast.backends.sqlite.file import (
    BUSY_TIMEOUT_S,
    connect,
    enter_wal,
    gone,
    inode_of,
    needs_room,
    transaction,
)
from standfast.engine.set_aside import COMPANIONS, has_companions, remove_companions
from standfast.errors import ConfigError, CorruptData, StandfastError
from standfast.limits import RESERVE_ROOM_BYTES
from standfast.system.disks import free_bytes
from standfast.system.failpoints import failpoint
from standfast.system.files import create_private
from standfast.system.forking import OPENING, watch
from standfast.system.supervision import PROCESS, SupervisedThread

logger = logging.getLogger("standfast")
T = TypeVar("T")

#: Pages of the write-ahead log at which they are moved into the file, and at which whoever commits
#: has to do it: 16 MB and 128 MB.
CHECKPOINT_PAGES = 4000
MAX_LOG_PAGES = 32_000
#: How often, at the most, a full disk is a reason to shorten the log.
_ROOM_PAUSE_S = 1.0
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


class LocalFile:
    """One file, with a connection for reading and connections for writing.  Thread-safe.

    `mark` is the file's PRAGMA application_id; `schema` creates its tables, version 1.
    `busy_timeout_s` is how long a transaction waits for another process that is writing.
    """

    def __init__(
        self,
        path: Path,
        *,
        mark: int,
        schema: str,
        what: str,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = path.absolute()
        self._wait_s = busy_timeout_s
        self._what = what
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._room_at = 0.0
        self.lost = False
        """Whether it was seen to be damaged, or not in its place any more."""
        with mapped(f"opening {what} {self.path}"), OPENING:
            # Of a file that was removed: they may still be in use, by whoever has that one open.
            if has_companions(self.path) and not os.path.lexists(self.path):
                remove_companions(self.path)
            create_private(self.path)
            failpoint("file-made")
            self._place, self._state = str(self.path), os.stat(self.path)
            self._checkpointing = Checkpointing(self.path)
            self._open(lambda: self._install(mark, schema))
            watch(self)

    def _open(self, install: Callable[[], None] = lambda: None) -> None:
        """Open it, alone where there is no room for what is needed to share it."""
        self.alone = False
        try:
            self._make_connections(install)
        except apsw.Error as error:
            if not needs_room(error):
                raise
            self.alone = True
            self._make_connections(install)

    def _make_connections(self, install: Callable[[], None]) -> None:
        with contextlib.ExitStack() as undo:
            self._writer = self._connect(undo)
            install()
            self._durable = self._connect(undo)
            self._durable.execute("PRAGMA synchronous = FULL")
            self._reader = self._connect(undo)
            self._checkpointing.conn = self._connect(undo)
            undo.pop_all()
        for conn in (self._writer, self._durable):
            conn.set_wal_hook(self._checkpointing.note)
        found = {ending: inode_of(f"{self.path}{ending}") for ending in COMPANIONS}
        self._companions = {ending: inode for ending, inode in found.items() if inode}

    def share(self) -> None:
        """Let other processes use it again, if it is open alone, once there is room for that."""
        free = free_bytes(self.path.parent) if self.alone else None
        if free is None or free < RESERVE_ROOM_BYTES:
            return
        locks = (self._lock, self._reading, self._checkpointing.lock, OPENING)
        with mapped(f"opening {self._what} {self.path} anew"), contextlib.ExitStack() as held:
            for lock in locks:
                held.enter_context(lock)
            self._checkpointing.close_connection()
            for conn in (self._reader, self._durable, self._writer):
                conn.close(True)
            self._open()

    def _connect(self, undo: contextlib.ExitStack) -> apsw.Connection:
        conn = connect(self.path, int(BUSY_TIMEOUT_S * 1000), alone=self.alone)
        undo.callback(conn.close, True)
        conn.execute("PRAGMA synchronous = NORMAL")
        return conn

    @property
    def in_place(self) -> bool:
        """Whether the file is still the one that was opened; raises where nobody can tell."""
        try:
            return os.path.samestat(os.stat(self._place), self._state)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise from_sqlite(error, f"looking at {self.path}") from None

    def require_log(self) -> None:
        """Raise if what has just been committed is in no write-ahead log of SQLite any more.

        One that was emptied or overwritten under it still takes commits, which a kill -9 loses.
        Source: sqlite.org/fileformat2.html, 4.1, "WAL File Format".
        """
        try:
            with open(f"{self.path}-wal", "rb", buffering=0) as log:
                is_log = log.read(4) in _LOG_MAGIC
        except FileNotFoundError:
            is_log = False
        except OSError:
            return  # which proves nothing
        if not is_log:
            self.lost = True
            raise gone(self.path, f"the log of {self._what}")

    def look(self) -> None:
        """Note it as lost if it, or its write-ahead log, is not in its place any more."""
        if not (self.in_place and self._has_own("-wal")):
            self.lost = True

    def _has_own(self, ending: str) -> bool:
        """Whether what is beside the file is what was there when it was opened."""
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(f"{self._place}{ending}")
            return (found.st_dev, found.st_ino) == self._companions.get(ending)
        return False

    def leave(self) -> None:
        """Unlink what SQLite keeps beside it: another file is in its place, and must not have it.

        Whoever has this one open still uses it.
        """
        for ending in COMPANIONS:
            if self._has_own(ending):
                Path(f"{self._place}{ending}").unlink()

    def _gone(self) -> CorruptData:
        self.lost = True
        return gone(self.path, self._what)

    def _install(self, mark: int, schema: str) -> None:
        conn = self._writer
        owner, tables = conn.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_schema) FROM pragma_application_id"
        ).get
        if owner != mark and (owner or tables):
            raise ConfigError(
                f"{self.path} is not {self._what} of standfast",
                code="not_ours",
                hint="give another data directory (STANDFAST_DATA_DIR), or move that file away",
            )
        enter_wal(conn, self.path, BUSY_TIMEOUT_S)
        failpoint("file-in-wal-mode")
        fresh = False
        with transaction(conn):
            if not conn.execute("PRAGMA user_version").get:
                conn.execute(schema)
                conn.execute(f"PRAGMA application_id = {mark}")
                conn.execute("PRAGMA user_version = 1")
                failpoint("file-schema-made")
                fresh = True
        if fresh:
            failpoint("file-before-checkpoint")
            # Into the file itself: the mark identifies it without opening it as a database.
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)")
        conn.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def writing(
        self, doing: str, *, durable: bool, wait_s: float | None = None
    ) -> Generator[apsw.Connection]:
        """One write transaction; on disk when it returns if `durable`, else safe from kill -9.

        `wait_s` is how long it waits for another process, if not as long as others.
        """
        conn = self._durable if durable else self._writer
        with self._lock:
            try:
                if conn.in_transaction:  # an interruption left it
                    conn.execute("ROLLBACK")
                conn.set_busy_timeout(int(1000 * (self._wait_s if wait_s is None else wait_s)))
                conn.execute("BEGIN IMMEDIATE")
                try:
                    yield conn
                    conn.execute("COMMIT")
                except BaseException:
                    if conn.in_transaction:
                        conn.execute("ROLLBACK")
                    raise
                if not self.in_place:
                    raise self._gone()
            except (apsw.Error, OSError) as error:
                self._make_room(conn, error)
                raise self._explained(error, doing) from None

    def _make_room(self, conn: apsw.Connection, error: apsw.Error | OSError) -> None:
        """On a full disk, for what comes next: the log's room is free once the file has its pages.

        They are in the file mostly, in an older state; where they are not, the log stays.
        """
        if not isinstance(error, apsw.FullError) or time.monotonic() < self._room_at:
            return
        self._room_at = time.monotonic() + _ROOM_PAUSE_S
        with contextlib.suppress(apsw.Error):
            conn.set_busy_timeout(0)
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def reading(self, doing: str) -> Generator[apsw.Connection]:
        """The connection for reading; each statement sees a snapshot of its own."""
        with self._reading:
            try:
                yield self._reader
            except (apsw.Error, OSError) as error:
                raise self._explained(error, doing) from None

    def read(self, work: Callable[[apsw.Connection], T], doing: str) -> T:
        """As `reading`, for a piece of work that is a function: cheaper, for every call's way."""
        with self._reading:
            try:
                return work(self._reader)
            except (apsw.Error, OSError) as error:
                raise self._explained(error, doing) from None

    def data_version(self, doing: str) -> int:
        """A number that changes when another connection has written to the file."""
        with self._reading:
            try:
                return self._reader.execute("PRAGMA data_version").get
            except (apsw.Error, OSError) as error:
                raise self._explained(error, doing) from None

    def write(
        self, work: Callable[[apsw.Connection], object], doing: str, *, durable: bool
    ) -> None:
        """As `writing`, for a piece of work that is a function.

        Whatever interrupts it, the lock is released, and the next one rolls back what is left.
        """
        conn = self._durable if durable else self._writer
        with self._lock:
            try:
                if conn.in_transaction:
                    conn.execute("ROLLBACK")
                conn.set_busy_timeout(int(1000 * self._wait_s))
                conn.execute("BEGIN IMMEDIATE")
                try:
                    work(conn)
                    conn.execute("COMMIT")
                except BaseException:
                    if conn.in_transaction:
                        conn.execute("ROLLBACK")
                    raise
                if not self.in_place:
                    raise self._gone()
            except (apsw.Error, OSError) as error:
                self._make_room(conn, error)
                raise self._explained(error, doing) from None

    def _explained(self, error: apsw.Error | OSError, doing: str) -> StandfastError:
        # A file that replaced it may share its log: then SQLite finds anything.
        if not self.in_place:
            return self._gone()
        explained = from_sqlite(error, f"{doing} in {self.path}")
        self.lost = self.lost or isinstance(explained, CorruptData)
        return explained

    def fork_locks(self) -> list[threading.Lock]:
        return [self._lock, self._reading, self._checkpointing.lock]

    def close_in_child(self) -> None:
        """The file belongs to the parent; the child opens it anew."""
        self._checkpointing.close_connection()
        for conn in (self._reader, self._durable, self._writer):
            with contextlib.suppress(apsw.Error):
                conn.close(True)

    def close(self) -> None:
        """Close every connection.  Idempotent."""
        self._checkpointing.close()
        with self._lock, self._reading:
            for conn in (self._reader, self._durable, self._writer):
                with contextlib.suppress(apsw.Error):
                    conn.close(True)


class Checkpointing:
    """Moves pages from the write-ahead log into the file, in a thread of its own.

    A checkpoint waits for the disk; done by whoever commits, as SQLite does by itself, it makes
    one call in a few wait for all of them.  The log stays bounded: above a second limit, whoever
    commits does it after all.
    """

    def __init__(self, path: Path) -> None:
        self.conn: apsw.Connection | None = None
        self._path = path
        self.lock = threading.Lock()
        self._due = threading.Semaphore(0)
        self._asked = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def note(self, conn: apsw.Connection, _: str, pages: int) -> int:
        """Called after each commit with the length of the log."""
        if pages >= MAX_LOG_PAGES:
            conn.execute("PRAGMA wal_checkpoint(PASSIVE)")
        elif pages >= CHECKPOINT_PAGES and not self._asked:
            self._asked = True
            if self._thread is None:
                thread = SupervisedThread("standfast-checkpointer", self._turn, PROCESS)
                thread.start()
                self._thread = thread
            self._due.release()
        return apsw.SQLITE_OK

    def _turn(self) -> bool:
        self._due.acquire()
        if self._closing:
            return False
        self._asked = False
        try:
            with self.lock:
                if self.conn is not None:
                    self.conn.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except apsw.Error:
            # The log keeps everything; at its second limit whoever commits hears of it.
            logger.warning("a checkpoint of %s failed", self._path)
        return True

    def close(self) -> None:
        """End the thread and the connection.  Idempotent."""
        self._closing = True
        self._due.release()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(BUSY_TIMEOUT_S)
        self.close_connection()

    def close_connection(self) -> None:
        """Close the connection alone.  Idempotent."""
        with contextlib.suppress(apsw.Error):
            if self.conn is not None:
                self.conn.close(True)
