"""The reserve: a file that keeps room on the disk, so that a store can be opened on a full one.

SQLite cannot open a database in WAL mode, not even to read it, without room for two more files: the
log, and its index of 32 KB.  The reserve is made when there is room; a store that is opened on a
full disk removes it, and makes it again when there is room, or from what its files have left when
they are closed.

Source: sqlite.org/walformat.html, 2.2, "The WAL-Index File Format".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from standfast.limits import RESERVE_BYTES, RESERVE_ROOM_BYTES
from standfast.system.disks import free_bytes
from standfast.system.failpoints import failpoint

FILE = "disk.reserve"
_WITH_A_PRIMARY = "writes reach the primary; while it is away they are refused when no room is left"
_FLAGS = os.O_CREAT | os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Reserve:
    """The reserve of one data directory, used by all of its processes.  Never raises."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / FILE

    def give_up_if_full(self) -> int:
        """Make the room that it keeps free, where there is less; how many bytes that are."""
        free = free_bytes(self._data_dir)
        return self.give_up() if free is not None and free < RESERVE_BYTES else 0

    def give_up(self) -> int:
        """Make the room that it keeps free; how many bytes that are."""
        size = self._size()
        try:
            self._path.unlink()
        except OSError:
            return 0
        failpoint("reserve-given-up")
        return size

    @contextmanager
    def lent(self) -> Generator[None]:
        """A block that opens the files for a look; what it was lent is taken back."""
        given = self.give_up_if_full()
        try:
            yield
        finally:
            if given:
                self.fill(freed=given)

    def fill(self, *, freed: int = 0) -> None:
        """Make it, or what is missing of it, where there is room; else of what was freed alone.

        What else is free on a full disk belongs to the journals of running stores.
        """
        free, size = free_bytes(self._data_dir), self._size()
        if free is None or size >= RESERVE_BYTES:
            return
        wanted = RESERVE_BYTES - size
        if free < RESERVE_ROOM_BYTES:
            wanted = min(wanted, freed)
        if wanted > 0:
            with contextlib.suppress(OSError):
                self._write(size, wanted)

    def _write(self, start: int, size: int) -> None:
        handle = os.open(self._path, _FLAGS, 0o600)
        try:
            os.lseek(handle, start, os.SEEK_SET)
            os.write(handle, os.urandom(size))  # a file system that compresses keeps no zeros
        finally:
            os.close(handle)

    @contextmanager
    def taking_freed(self) -> Generator[None]:
        """A block that closes files: the room that they leave goes to the reserve."""
        before = free_bytes(self._data_dir)
        try:
            yield
        finally:
            after = free_bytes(self._data_dir)
            self.fill(freed=0 if before is None or after is None else after - before)

    def shortage(self, what_works: str = _WITH_A_PRIMARY) -> str:
        """What a person must know while the disk is full and the reserve in use; else empty."""
        free = free_bytes(self._data_dir)
        if free is None or free >= RESERVE_ROOM_BYTES or self._size() >= RESERVE_BYTES:
            return ""
        return (
            f"the disk of {self._data_dir.absolute()} is full ({free} bytes are free) and the"
            f" reserve is used: what was acknowledged is safe, {what_works}; free space on the disk"
        )

    def _size(self) -> int:
        try:
            return os.lstat(self._path).st_size
        except OSError:
            return 0
