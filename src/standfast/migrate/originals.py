"""A run's originals: taken away, if they are still what was scanned, and put back byte for byte,
with their owner and mode."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from standfast.migrate.rundir import RunDir, RunState, SourceRecord
from standfast.migrate.steps import disk_errors
from standfast.system.failpoints import failpoint
from standfast.system.files import (
    beside,
    fsync_directory,
    move_back,
    read_regular,
    remake_directory,
    sha256,
    sha256_of_file,
    write_atomic,
)

Outcome = Literal["taken", "changed", "there again"]
"""`changed`: it stayed, with its new content; `there again`: a new one has been written."""


def parked_place(path: Path, run: str) -> Path:
    """Where a run puts an original for the moment between taking and comparing it."""
    return beside(path, f".{run}.moving")


def take_away(source: SourceRecord, run_dir: RunDir) -> Outcome:
    """Remove an original whose copy is kept, unless it is no longer what was scanned.

    It is renamed within its directory first and compared then, so that what is removed is what
    was compared.  Resumable: a kill in the middle leaves either name.  Nothing that was
    written since the scan is lost: it stays, comes back, or goes to the run's directory.
    """
    path = Path(source.path)
    parked = parked_place(path, run_dir.run)
    if not os.path.lexists(parked):
        if not os.path.lexists(path):
            return "taken"
        run_dir.require_original(source)
        # A quick look, so that a changed file is not renamed only to be renamed back.
        if _looks_changed(path, source) and not _is_scanned(path, source):
            return "changed"
        os.rename(path, parked)
        failpoint("original-parked")
    else:
        run_dir.require_original(source)
    if not _is_scanned(parked, source):
        # It was replaced between the look and the rename.
        if not move_back(parked, path):
            discard_parked(parked, source, run_dir)
        return "changed"
    parked.unlink()
    failpoint("original-unlinked")
    fsync_directory(path.parent)
    return "there again" if os.path.lexists(path) else "taken"


def discard_parked(parked: Path, source: SourceRecord, run_dir: RunDir) -> Path | None:
    """Remove a parked file; when it is not what was scanned it is kept in the run's directory."""
    if not os.path.lexists(parked):
        return None
    kept = None
    if not _is_scanned(parked, source):
        kept = run_dir.archive(f"newer-{source.stored}", read_regular(parked)[0])
    parked.unlink()
    fsync_directory(parked.parent)
    return kept


def _looks_changed(path: Path, source: SourceRecord) -> bool:
    state = os.lstat(path)
    return (state.st_size, state.st_mtime_ns) != (source.size, source.mtime_ns)


def _is_scanned(path: Path, source: SourceRecord) -> bool:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return False
    return sha256_of_file(path) == source.sha256


@dataclass(slots=True)
class Restored:
    """What became of the originals: how many were written, what was archived, what to know."""

    files: int = 0
    archived: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


class Originals:
    """The files that a run has taken from their places.

    `undone` are later runs that were taken back: what they kept of the same files is not news.
    """

    def __init__(self, run_dir: RunDir, state: RunState, undone: Sequence[RunState] = ()) -> None:
        self._run_dir = run_dir
        self._state = state
        self._undone = undone
        self.restored = Restored()

    def newer(self) -> list[tuple[SourceRecord, bytes]]:
        """The files that are there again, with another content."""
        found = [(source, _content(Path(source.path))) for source in self._state.taken]
        return [
            (source, data)
            for source, data in found
            if data is not None and self._is_newer(source, data)
        ]

    def put_back(self, source: SourceRecord, *, discard_newer: bool) -> bool:
        """Restore one file; False when another content stands in its place and is to stay."""
        path = Path(source.path)
        draft = beside(path, f".{self._state.run}.restoring")
        data = _content(path)
        if data is None or sha256(data) != source.sha256:
            newer = data is not None and self._is_newer(source, data)
            if newer and not discard_newer:
                return False
            if data is not None and newer:
                self.archive(f"newer-{source.stored}", data)
            remake_directory(path.parent, source.folder)
            write_atomic(
                path,
                self._run_dir.original(source),
                mode=source.mode,
                mtime_ns=source.mtime_ns,
                owner=None if source.uid < 0 else (source.uid, source.gid),
                draft=draft,
            )
            self._note_owner(path, source)
            self.restored.files += 1
            self._run_dir.log(f"restored: {path}")
        elif draft.exists():
            draft.unlink()
            fsync_directory(path.parent)
        kept = discard_parked(parked_place(path, self._state.run), source, self._run_dir)
        if kept is not None:
            self.restored.archived.append(str(kept))
        failpoint("original-restored")
        return True

    def archive(self, name: str, data: bytes) -> None:
        """Keep something in the run's directory that is about to be given up."""
        with disk_errors("archiving"):
            kept = str(self._run_dir.archive(name, data))
        if kept not in self.restored.archived:
            self.restored.archived.append(kept)

    def _note_owner(self, path: Path, source: SourceRecord) -> None:
        state = path.stat()
        if source.uid >= 0 and (state.st_uid, state.st_gid) != (source.uid, source.gid):
            self.restored.notes.append(
                f"{path} belonged to user {source.uid} and group {source.gid}, and now belongs to"
                f" {state.st_uid} and {state.st_gid}: this process may not give it away"
            )

    def _is_newer(self, source: SourceRecord, data: bytes) -> bool:
        """Whether a file holds what no run has kept: neither this one nor one that was undone."""
        kept = {
            each.sha256
            for state in self._undone
            for each in state.sources
            if each.path == source.path
        }
        return sha256(data) not in {source.sha256, *kept}


def _content(path: Path) -> bytes | None:
    with disk_errors(f"reading {path}"):
        return read_regular(path)[0] if path.exists() else None
