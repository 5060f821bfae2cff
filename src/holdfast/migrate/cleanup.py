"""The last step of a run: originals are taken away, and only what is still what was scanned."""

from __future__ import annotations

import os
from pathlib import Path

from holdfast.failpoints import failpoint
from holdfast.files import fsync_directory, read_regular, sha256
from holdfast.migrate.rundir import RunDir, SourceRecord


def take_away(source: SourceRecord, run_dir: RunDir) -> bool:
    """Remove an original whose copy is kept; False when it is no longer what was scanned.

    It is renamed within its directory first and compared then, so that what is removed is what
    was compared.  Resumable: a kill in the middle leaves either name.
    """
    path = Path(source.path)
    parked = path.with_name(f".{path.name}.{run_dir.run}.moving")
    if not parked.exists():
        if not path.exists():
            return True
        if sha256(read_regular(path)[0]) != source.sha256:
            return False
        os.rename(path, parked)
        failpoint("original-parked")
    if sha256(read_regular(parked)[0]) != source.sha256:
        if not path.exists():
            os.rename(parked, path)
            fsync_directory(path.parent)
        return False
    run_dir.original(source)
    parked.unlink()
    fsync_directory(path.parent)
    return True
