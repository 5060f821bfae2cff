"""Files that survive a crash: atomic replacement, fsync of file and directory, mode 0600.

Source: the rules of crash consistency that most programs break (a rename is durable only after
the fsync of its directory): Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

_MODE = 0o600


def sha256(data: bytes) -> str:
    """The checksum of a file's content, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def make_directory(path: Path) -> None:
    """Create a private directory (0700) and its parents, durably; fine when it is there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make renames, creations and removals in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes, *, mode: int = _MODE, mtime_ns: int | None = None) -> None:
    """Put `data` in the place of `path`: afterwards there is the old content or the new, durably.

    The new file has `mode`, and `mtime_ns` as its time of modification when that is given.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if mtime_ns is not None:
                os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def read_regular(path: Path) -> tuple[bytes, os.stat_result]:
    """A regular file's content and state; OSError for anything else (a pipe would hang)."""
    # O_NONBLOCK: opening a pipe without a writer must not wait.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError(None, "not a regular file", str(path))
        return file.read(), state
