"""One operation on a file that fails: of the package's own, or of SQLite's on the local databases.

    faults = PackageFaults()          # or SqliteFaults()
    with faults.installed():
        faults.phase = "outage"       # what is seen is counted by phase
        faults.fail(("fsync", "spool._write"), at=("outage", "drain"))

A place of the package is named by its module and function, one of SQLite by the file's name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

import standfast

with contextlib.suppress(ImportError):
    import fcntl

PACKAGE = str(Path(standfast.__file__).parent)
Site = tuple[str, str]
_OPERATIONS = (
    *("open", "write", "fsync", "ftruncate", "truncate", "unlink", "replace", "rename", "link"),
    *("mkdir", "chmod", "stat", "lstat", "fstat", "lseek", "scandir", "listdir", "utime"),
)
_ERRORS = {"open": errno.EMFILE, "write": errno.ENOSPC}
_FILE_OPERATIONS = ("xRead", "xWrite", "xSync", "xTruncate", "xFileSize", "xLock")
_SQLITE_ERRORS = {"xWrite": apsw.FullError, "xOpen": apsw.CantOpenError}


class Faults:
    """Counts the operations, and makes one of them fail in some phases."""

    def __init__(self) -> None:
        self.phase = ""
        self.seen: dict[Site, Counter[str]] = {}
        self.struck = 0
        self._failing: Site | None = None
        self._at: Sequence[str] = ()

    def fail(self, site: Site, *, at: Sequence[str]) -> None:
        """From now on this operation fails in these phases."""
        self._failing, self._at = site, at

    def _fails(self, site: Site) -> bool:
        self.seen.setdefault(site, Counter())[self.phase] += 1
        fails = site == self._failing and self.phase in self._at
        self.struck += fails
        return fails


class PackageFaults(Faults):
    """Operations of the package itself: `os` and flock(2)."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Every such operation is seen inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _OPERATIONS:
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            patch.setattr(fcntl, "flock", self._watched("flock", fcntl.flock))
            yield

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            place = _place()
            if place and self._fails((name, place)):
                raise OSError(_ERRORS.get(name, errno.EIO), "injected")
            return original(*arguments, **named)

        return watched


def _place() -> str:
    """The function of the package that is nearest to the operation; empty when there is none."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            return f"{Path(code.co_filename).stem}.{code.co_name}"
        if "importlib" in code.co_filename:
            return ""
        frame = frame.f_back
    return ""


class SqliteFaults(Faults):
    """Operations of SQLite on databases and their logs, seen by a file system of our own."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Connections that are opened inside the block go through it."""
        made = _FileSystem(self)
        try:
            yield
        finally:
            made.unregister()

    def look(self, operation: str, name: object) -> None:
        """Raise if this one is to fail."""
        if self._fails((operation, Path(str(name or "temporary")).name)):
            raise _SQLITE_ERRORS.get(operation, apsw.IOError)("injected")


def _text(name: Any) -> Any:
    return name.filename() if isinstance(name, apsw.URIFilename) else name


class _FileSystem(apsw.VFS):
    def __init__(self, faults: SqliteFaults) -> None:
        self._faults = faults
        super().__init__(f"faulty-{id(faults)}", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        self._faults.look("xOpen", _text(name))
        return _File(self._faults, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        self._faults.look("xDelete", name)
        super().xDelete(name, sync)

    def xAccess(self, name: str, flags: int) -> bool:
        self._faults.look("xAccess", name)
        return super().xAccess(name, flags)

    def excepthook(self, *_: Any) -> None:
        """What SQLite has no use for is not printed."""


class _File(apsw.VFSFile):
    def __init__(self, faults: SqliteFaults, name: Any, flags: list[int]) -> None:
        self._faults, self._name = faults, _text(name)
        super().__init__("unix", name, flags)

    def excepthook(self, *_: Any) -> None:
        """What SQLite has no use for is not printed."""


def _through(operation: str) -> Callable[..., Any]:
    original = getattr(apsw.VFSFile, operation)

    def method(self: _File, *arguments: Any) -> Any:
        self._faults.look(operation, self._name)
        return original(self, *arguments)

    return method


for _operation in _FILE_OPERATIONS:
    setattr(_File, _operation, _through(_operation))
