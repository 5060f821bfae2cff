"""Lanes: one opened store's stream of ops, and how other processes find out that it has ended.

A lane is a fresh UUID at every open and in every forked child (R1).  Its process holds a lock on a
file of the lane's name for as long as it lives, whatever kills it; a lane whose lock is free is
dead.  A copied data directory holds copies of these files, but none of the locks.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Container
from pathlib import Path

from standfast.backends.sqlite.errors import mapped
from standfast.system.failpoints import failpoint
from standfast.system.files import fsync_directory, is_there, make_directory
from standfast.system.locks import FileLock

FOLDER = "lanes"
#: Age at which a lock file without a holder, unknown to the journal, is removed.
_LOCK_FILE_AGE_S = 3600.0
#: Ending of the empty file that stands for a lane which the journal had no room to note.
_NOTE = ".lane"


class Lane:
    """One stream of ops: its name, the last sequence given, and the watermark that it expects of
    the database of a history."""

    def __init__(self, data_dir: Path) -> None:
        self.id = str(uuid.uuid4())
        self.seq = 0
        self.expected_watermark = 0
        self.history = ""
        self.batches = 0
        self.lock = FileLock(data_dir / FOLDER / f"{self.id}.lock")
        with mapped(f"opening a lane in {data_dir}"):
            make_directory(data_dir / FOLDER)
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
        unnote(self.lock.path.parent.parent, self.id)
        failpoint("lane-file-removed")
        self.lock.release()


def is_dead(data_dir: Path, lane: str) -> bool:
    """Whether no process holds this lane any more; raises where that cannot be found out."""
    path = data_dir / FOLDER / f"{lane}.lock"
    probe = FileLock(path)
    with mapped(f"looking at the lanes in {data_dir}"):
        try:
            return not is_there(path) or probe.acquire()
        finally:
            probe.release()


def forget(data_dir: Path, lane: str) -> None:
    """Remove the files of a lane that is dead and fenced."""
    with contextlib.suppress(OSError):
        (data_dir / FOLDER / f"{lane}.lock").unlink()
    unnote(data_dir, lane)


def note(data_dir: Path, lane: str) -> None:
    """Note a lane, so that it will be fenced when it dies, in the name of an empty file.

    That needs no room on a full disk, as a rule.  Raises OSError.
    """
    path = data_dir / FOLDER / f"{lane}{_NOTE}"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    fsync_directory(path.parent)


def unnote(data_dir: Path, lane: str) -> None:
    """Forget such a note."""
    with contextlib.suppress(OSError):
        (data_dir / FOLDER / f"{lane}{_NOTE}").unlink(missing_ok=True)


def noted(data_dir: Path) -> list[str]:
    """The lanes that were noted in this way."""
    with mapped(f"looking at the lanes in {data_dir}"), contextlib.suppress(FileNotFoundError):
        return sorted(
            name.removesuffix(_NOTE)
            for name in os.listdir(data_dir / FOLDER)
            if name.endswith(_NOTE)
        )
    return []


def remove_old_locks(data_dir: Path, known: Container[str]) -> None:
    """Remove files that processes left which were killed before they noted a lane, or after they
    had closed it.

    Young ones stay: their process may be about to lock them.
    """
    old = time.time() - _LOCK_FILE_AGE_S
    with contextlib.suppress(OSError):
        for path in (data_dir / FOLDER).glob("*.lock"):
            if path.stem not in known and path.stat().st_mtime < old:
                probe = FileLock(path)
                if probe.acquire():
                    path.unlink()
                    probe.release()
