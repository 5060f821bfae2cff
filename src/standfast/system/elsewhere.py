"""Marks on files of a directory in which nothing can be made, removed or changed any more.

They are where temporary files are, and so outlive the process at least, and mostly the machine's
run.  A mark names the file by its path and its inode; one that another user has made is none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from standfast.system.disks import own_user
from standfast.system.files import fsync_directory

#: Beside the folder for temporary files, which may be a service's own and go with it.
_PLACES = ("/dev/shm", "/var/tmp")
_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)


def mark(path: Path) -> bool:
    """Mark a file, in each place that takes it; False when there is none."""
    made = False
    for name in marks_of(path):
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                handle = os.open(name, _FLAGS, 0o600)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
                fsync_directory(name.parent)
            made = made or _is_ours(name)
    return made


def is_marked(path: Path) -> bool:
    """Whether this user has marked the file that is there."""
    return any(map(_is_ours, marks_of(path)))


def marks_of(path: Path) -> list[Path]:
    """Where the marks of the file that is there would be; for `forget`, after it is gone."""
    try:
        name = f"{os.path.realpath(path.parent)}/{path.name}\0{os.lstat(path).st_ino}"
    except OSError:
        return []
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    places = [*_PLACES]
    with contextlib.suppress(OSError):
        places.insert(0, tempfile.gettempdir())
    return [Path(place, f"standfast-{own_user() or 0}-{digest}") for place in dict.fromkeys(places)]


def forget(marks: list[Path]) -> None:
    """Remove marks: the file that they were about is gone."""
    for name in marks:
        with contextlib.suppress(OSError):
            if _is_ours(name):
                name.unlink()


def _is_ours(name: Path) -> bool:
    try:
        found = os.lstat(name)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == (own_user() or 0)
