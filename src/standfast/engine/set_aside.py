"""Setting a damaged file aside: kept under a name with a time stamp, out of the way."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from standfast.limits import MAX_SET_ASIDE
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")

#: What SQLite keeps beside a database, by the ending of its name.
COMPANIONS = ("-wal", "-shm")
_STAMP = re.compile(r"\.damaged-\d{8}T\d{6}\.\d{6}Z")


def set_aside(path: Path) -> Path:
    """Rename whatever is at `path`, and what SQLite keeps beside it; the new name.

    A rename needs no room on a full disk.  Raises OSError.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    os.rename(path, aside)
    for ending in COMPANIONS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{ending}", f"{aside}{ending}")
    return aside


def clear_place(path: Path) -> Path | None:
    """Set aside what is no file, in the place of one of ours; its new name.  Raises OSError.

    Nothing of ours is in a directory there, and it must not stop what the file is for.
    """
    if path.is_file() or not os.path.lexists(path):
        return None
    aside = set_aside(path)
    logger.error("%s is not a file: it was set aside as %s", path, aside.name)
    return aside


def replace_disposable(path: Path) -> Path:
    """Set a disposable file aside and keep only the newest of those; the new name."""
    aside = set_aside(path)
    remove_oldest(path)
    return aside


def has_companions(path: Path) -> bool:
    """Whether there is anything of what SQLite keeps beside a database."""
    return any(os.path.lexists(f"{path}{ending}") for ending in COMPANIONS)


def remove_companions(path: Path) -> None:
    """Remove what SQLite keeps beside a database that is gone."""
    for ending in COMPANIONS:
        with contextlib.suppress(OSError):
            Path(f"{path}{ending}").unlink()


def unheld(marks: Iterable[Path]) -> list[Path]:
    """The lock files that no process holds: whoever made them has ended."""
    found: list[Path] = []
    for path in marks:
        probe = FileLock(path)
        if probe.acquire():
            found.append(path)
            probe.release()
    return found


def found_aside(path: Path) -> list[Path]:
    """What was set aside of this file, oldest first."""
    found = path.parent.glob(f"{path.name}.damaged-*")
    return sorted(one for one in found if _STAMP.fullmatch(one.name[len(path.name) :]))


def remove_oldest(path: Path, *, keep: int = MAX_SET_ASIDE) -> None:
    """Keep the newest of what was set aside of a file that is disposable."""
    for one in found_aside(path)[:-keep]:
        with contextlib.suppress(OSError):
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            else:
                one.unlink()
            for ending in COMPANIONS:
                Path(f"{one}{ending}").unlink(missing_ok=True)
