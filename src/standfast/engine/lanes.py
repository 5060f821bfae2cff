"""Lanes: one opened store's stream of ops, and how others can tell that it has ended.

A lane is a fresh UUID at every open and in every forked child (R1).  Its process holds a lock on a
file of the lane's name for as long as it lives, whatever kills it; a lane whose lock is free is
dead.  A copied data directory holds copies of these files, but nobody's locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
import weakref
from collections.abc import Container
from pathlib import Path

from standfast.system.failpoints import failpoint
from standfast.system.files import make_directory
from standfast.system.platform import at_fork

FOLDER = "lanes"
#: Age of a lock file that nobody holds and no journal knows, after which it is removed.
SWEEP_AGE_S = 3600.0


#: Locks held in this process; a forked child lets go of all of them.
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """An exclusive lock on a file, free again when the process ends, however that happens.

    Not `filelock`: a forked child must be able to let go of the parent's lock without freeing it,
    and the file must stay.  Source: flock(2).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take it if it is free, without waiting; True when it is ours."""
        if self._fd is not None:
            return True
        fd = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        _held.add(self)
        return True

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._fd is not None

    def release(self) -> None:
        """Free it.  Idempotent.  In a forked child it only lets go of the parent's descriptor."""
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


def _let_go() -> None:
    """In a forked child: while it keeps the descriptors, the parent's lanes would never be dead."""
    for lock in list(_held):
        lock.release()


at_fork(in_child=_let_go)


class Lane:
    """One stream of ops: its name, the last sequence given, and the watermark it believes in."""

    def __init__(self, data_dir: Path) -> None:
        self.id = str(uuid.uuid4())
        self.seq = 0
        self.expected_watermark = 0
        self.batches = 0
        make_directory(data_dir / FOLDER)
        self.lock = FileLock(data_dir / FOLDER / f"{self.id}.lock")
        self.lock.acquire()
        failpoint("lane-locked")

    def next_seq(self) -> int:
        """The next sequence; a number is never given twice, gaps are normal."""
        self.seq += 1
        return self.seq

    def end(self) -> None:
        """The lane is closed or fenced in the primary, and nothing of it is pending."""
        with contextlib.suppress(OSError):
            self.lock.path.unlink()
        failpoint("lane-file-removed")
        self.lock.release()


def is_dead(data_dir: Path, lane: str) -> bool:
    """Whether no process holds this lane any more."""
    path = data_dir / FOLDER / f"{lane}.lock"
    if not path.exists():
        return True
    probe = FileLock(path)
    try:
        return probe.acquire()
    finally:
        probe.release()


def forget(data_dir: Path, lane: str) -> None:
    """Remove the file of a lane that is dead and fenced."""
    with contextlib.suppress(OSError):
        (data_dir / FOLDER / f"{lane}.lock").unlink()


def sweep(data_dir: Path, known: Container[str]) -> None:
    """Remove files that processes left which were killed before they noted a lane, or after they
    had closed it.

    Young ones stay: their process may be about to lock them.
    """
    old = time.time() - SWEEP_AGE_S
    with contextlib.suppress(OSError):
        for path in (data_dir / FOLDER).glob("*.lock"):
            if path.stem not in known and path.stat().st_mtime < old:
                probe = FileLock(path)
                if probe.acquire():
                    path.unlink()
                    probe.release()
