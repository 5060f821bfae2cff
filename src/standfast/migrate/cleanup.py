"""The last step of a run: originals are taken away, and only what is still what was scanned."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal

from standfast.migrate.rundir import RunDir, SourceRecord
from standfast.system.failpoints import failpoint
from standfast.system.files import beside, fsync_directory, move_back, read_regular, sha256_of_file

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
