"""`backup verify`: every checksum of a backup, from its first line to its last."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from standfast.admin.backup import folder as folders
from standfast.admin.backup.format import Counts, Head, opened
from standfast.errors import CorruptData
from standfast.migrate.steps import Progress, disk_errors, silent


class Verified(msgspec.Struct, frozen=True):
    """A backup that was found whole: every checksum is right, and nothing is missing."""

    path: Path
    head: Head
    counts: Counts


def verify(path: Path, *, progress: Progress = silent) -> Verified:
    """Read a whole backup and check every checksum; the result is kept with the folder.

    Raises CorruptData("damaged_backup") when anything in it is not as it was written, and
    CorruptData("backup_newer") when a newer version has made it.
    """
    with disk_errors("reading a backup"):
        try:
            with opened(path, partial(progress, "verify")) as reader:
                deque(reader.items(), maxlen=0)
                assert reader.counts is not None, "set at the end"
                found = Verified(path, reader.head, reader.counts)
        except CorruptData as error:
            if error.code == "damaged_backup":
                folders.note(path, problem=error.message)
            raise
        folders.note(path, counts=found.counts, verified_at=now_text(), problem="")
    return found


def now_text() -> str:
    """The time as it is kept: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
