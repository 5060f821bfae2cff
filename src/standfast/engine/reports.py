"""The reports of opened stores, as files of the data directory that other processes read.

Each opened store has a file of its own in `reports/`, replaced about once a second while there is
news, and a lock on it for as long as its process lives.  Nothing depends on these files: they can
be deleted, are not flushed, and what cannot be written is left out.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from standfast.engine.activity import Report
from standfast.limits import MAX_OLD_REPORTS
from standfast.system.files import make_directory, replace
from standfast.system.locks import FileLock

FOLDER = "reports"


class ReportFile:
    """The file in which one opened store says how it is doing."""

    def __init__(self, data_dir: Path) -> None:
        self.id = str(uuid.uuid4())
        self._folder = data_dir / FOLDER
        self._path = self._folder / f"{self.id}.json"
        self._lock = FileLock(self._folder / f"{self.id}.lock")
        self._version = -1

    def begin(self) -> None:
        """From now on other processes see that this store is open."""
        with contextlib.suppress(OSError):
            make_directory(self._folder)
            self._lock.acquire()
            _trim(self._folder)

    def write(self, report: Report, version: int) -> None:
        """Replace the file, unless it says the same already."""
        if version == self._version:
            return
        with contextlib.suppress(OSError):
            replace(self._path, msgspec.json.encode(report))
            self._version = version

    def end(self) -> None:
        """The store is closed; its last report stays, as part of what happened."""
        with contextlib.suppress(OSError):
            self._lock.path.unlink(missing_ok=True)
        self._lock.release()


class SeenReport(NamedTuple):
    """A report, and whether the process that wrote it has the store open now."""

    report: Report
    alive: bool


def read_reports(data_dir: Path) -> list[SeenReport]:
    """The reports of a data directory, newest store first; unreadable ones are left out."""
    found = [one for path in _files(data_dir / FOLDER) if (one := _read(path)) is not None]
    return sorted(found, key=lambda one: one.report.opened_at, reverse=True)


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from folder.glob("*.json")


def _read(path: Path) -> SeenReport | None:
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError):
        return None
    return SeenReport(report, _is_alive(path.with_suffix(".lock")))


def _is_alive(path: Path) -> bool:
    with contextlib.suppress(OSError):
        if path.exists():
            probe = FileLock(path)
            try:
                return not probe.acquire()
            finally:
                probe.release()
    return False


def _trim(folder: Path) -> None:
    """Remove all but the newest reports of stores that are not open any more."""
    by_age = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    ended = [path for path in by_age if not _is_alive(path.with_suffix(".lock"))]
    for path in ended[MAX_OLD_REPORTS:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".lock").unlink(missing_ok=True)
