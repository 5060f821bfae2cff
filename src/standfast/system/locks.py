"""One exclusive lock on a file, for all that must happen in one process at a time.

It is free again when its process ends, however that happens, kill -9 included; a forked child does
not have it.  Lanes, the drain of a journal and migrations use it.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.system.platform import at_fork

if TYPE_CHECKING:
    import fcntl
else:
    try:
        import fcntl
    except ImportError:
        fcntl = None

#: Locks held in this process; a forked child lets go of all of them.
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock, held by this object; never waited for.  The file stays.

    flock(2) where there is `fcntl`, else the lock that SQLite takes on a database file, by the
    operating system's own means.  Not the package `filelock`: a forked child must be able to let go
    of the parent's lock without freeing it, and where there is no `fcntl` its lock is a file that
    outlives a killed process.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: Any = None

    def acquire(self) -> bool:
        """Take it if it is free, without waiting; True when it is ours.

        Raises OSError where the file cannot be made or locked.
        """
        if self._handle is None:
            self._handle = _lock_by_sqlite(self.path) if fcntl is None else _flock(self.path)
            if self._handle is not None:
                _held.add(self)
        return self._handle is not None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._handle is not None

    def release(self) -> None:
        """Free it.  Idempotent.  In a forked child it only lets go of the parent's descriptor."""
        handle, self._handle = self._handle, None
        _held.discard(self)
        with contextlib.suppress(OSError):
            if isinstance(handle, int):
                os.close(handle)
            elif handle is not None:
                handle.close(True)


def _flock(path: Path) -> int | None:
    """Source: flock(2): the lock belongs to the open file, and ends with its last descriptor."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock_by_sqlite(path: Path) -> Any | None:
    """The same where there is no `fcntl`.  Source: sqlite.org/lockingv3.html, 3.0, EXCLUSIVE."""
    import apsw

    # Never opened here once it is there: to close it could free a lock of this process.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        conn = apsw.Connection(str(path))
        try:
            conn.execute("BEGIN EXCLUSIVE")
        except BaseException:
            conn.close(True)
            raise
    except apsw.BusyError:
        return None
    except apsw.Error as error:
        raise OSError(f"{path} cannot be locked: {error}") from error
    return conn


def _let_go() -> None:
    """In a forked child: while it keeps the descriptors, the parent's locks would never be free."""
    for lock in list(_held):
        lock.release()


at_fork(in_child=_let_go)
