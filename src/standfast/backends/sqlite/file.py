"""What every SQLite file of ours needs: private, in WAL mode, and still in its place.

A file that was unlinked or replaced under its user swallows writes without an error, so its inode
is looked at before anything is acknowledged.  Sources: sqlite.org/wal.html, howtocorrupt.html.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw

from standfast.document.names import prefix_end
from standfast.errors import ConfigError, CorruptData

logger = logging.getLogger("standfast")

#: How long a transaction waits for another process that writes to the same file.
BUSY_TIMEOUT_S = 5.0

#: A file that is empty for so long is not being made.
EMPTY_S = 10.0

#: SQLite's way to the file system that keeps the index in memory; not on every system.
_ALONE = "unix-excl"

#: The empty files that were warned of: each read of one opens it anew.
_emptied: set[tuple[int, int, int]] = set()

Inode = tuple[int, int]
"""What names a file whatever its path: device and number."""


def inode_of(path: Path | str) -> Inode | None:
    """The file that is in this place now; None when there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def warn_if_emptied(path: Path) -> None:
    """Warn of a database without a byte in it: a crash or a full disk emptied it, and it begins
    anew.  One that another process is making at this moment is young."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        one = (found.st_dev, found.st_ino, found.st_mtime_ns)
        if found.st_size or one in _emptied:
            return
        if time.time() - found.st_mtime > EMPTY_S:
            _emptied.add(one)
            logger.warning(
                "%s is empty (0 bytes), and begins anew: if documents were in it, close the store"
                " and bring them back (standfast backup list)",
                path,
            )


def gone(path: Path, what: str) -> CorruptData:
    """The error for a file that is not the one any more that was opened."""
    return CorruptData(
        f"{what} {path} was removed or replaced while it was open",
        code="file_gone",
        hint="nothing was confirmed; put the file back, or open the store again",
    )


def connect(path: Path, busy_timeout_ms: int, *, alone: bool = False) -> apsw.Connection:
    """A connection to a file that exists.

    `alone`: its log's index is in memory, so that it opens on a full disk (`needs_room`); other
    processes find the file locked for as long as it is open.  Source: sqlite.org/vfs.html.
    """
    vfs = _ALONE if alone else None
    conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    conn.set_busy_timeout(busy_timeout_ms)
    return conn


def needs_room(error: apsw.Error) -> bool:
    """Whether a file cannot be opened for lack of room for its log's index, and can be `alone`."""
    full = isinstance(error, apsw.FullError) or (
        getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE
    )
    return full and _ALONE in apsw.vfs_names()


def enter_wal(conn: apsw.Connection, path: Path, timeout_s: float) -> None:
    """Put a file into WAL mode, as one of several processes perhaps, with synchronous=FULL."""
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            mode = conn.execute("PRAGMA journal_mode = WAL").get
            break
        except apsw.BusyError:
            # Of several processes that create the file, SQLite lets only one wait here.
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise ConfigError(
            f"{path} cannot be put into WAL mode, it stays in `{mode}`",
            code="no_wal",
            hint="put the data directory on a local disk",
        )
    conn.execute("PRAGMA synchronous = FULL")


def leave_wal(conn: apsw.Connection) -> None:
    """Keep a rollback journal, with synchronous=EXTRA, in a file that an older program uses too.

    Its own copy of SQLite may run in this process.  Each copy drops the locks of the other, and
    in WAL mode the one that closes its last connection removes the log under the other: what was
    acknowledged is gone at the next kill -9.  With a rollback journal no lock is needed between
    two transactions.  As durable as WAL with FULL.  Sources: sqlite.org/howtocorrupt.html, 2.2.1;
    sqlite.org/pragma.html#pragma_synchronous.
    """
    with contextlib.suppress(apsw.BusyError):  # in use right now: it stays as it is this time
        conn.execute("PRAGMA journal_mode = DELETE")
    conn.execute("PRAGMA synchronous = EXTRA")


@contextmanager
def transaction(conn: apsw.Connection, begin: str = "BEGIN IMMEDIATE") -> Generator[None]:
    """Commit what the block did, or roll all of it back."""
    conn.execute(begin)
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise


def within(
    column: str, *, prefix: str, after: str | None, reverse: bool
) -> tuple[list[str], list[str]]:
    """The conditions of a range of keys, and their values: with a prefix, behind a key."""
    where, values = ([f"{column} >= ?"], [prefix]) if prefix else ([], [])
    end = prefix_end(prefix)
    if end is not None:
        where.append(f"{column} < ?")
        values.append(end)
    if after is not None:
        where.append(f"{column} {'<' if reverse else '>'} ?")
        values.append(after)
    return where, values
