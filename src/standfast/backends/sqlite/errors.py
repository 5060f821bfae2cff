"""SQLite's errors as ours.  Source: sqlite.org/rescode.html, apsw documentation, "Exceptions"."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

import apsw

from standfast.errors import ConfigError, CorruptData, StandfastError, Unavailable

_KNOWN: dict[type[apsw.Error], tuple[type[StandfastError], str, str, str]] = {
    apsw.FullError: (Unavailable, "disk_full", "the disk is full", "free space on the disk"),
    apsw.ReadOnlyError: (
        *(ConfigError, "read_only", "the file or its disk is read-only"),
        "make it writable, or give another data directory",
    ),
    apsw.CantOpenError: (
        *(ConfigError, "cannot_open", "the file cannot be opened"),
        "check that its directory exists and can be written",
    ),
    apsw.PermissionsError: (
        *(ConfigError, "no_rights", "the file may not be used"),
        "correct the file's owner and mode",
    ),
    apsw.BusyError: (
        *(Unavailable, "locked", "another process is writing to the file"),
        "try again; a process that holds a write transaction open blocks all others",
    ),
    apsw.LockedError: (Unavailable, "locked", "the file is locked", "try again"),
    # sqlite.org/rescode.html, SQLITE_PROTOCOL: in WAL mode, after ten seconds of losing races.
    apsw.ProtocolError: (
        *(Unavailable, "locked", "other processes open and close the file all the time"),
        "try again",
    ),
    apsw.CorruptError: (
        *(CorruptData, "corrupt", "the file is damaged"),
        "set it aside and restore it from a backup",
    ),
    apsw.NotADBError: (
        *(CorruptData, "not_a_database", "the file is not a SQLite database"),
        "set it aside and restore it from a backup",
    ),
    apsw.IOError: (Unavailable, "disk_error", "the disk reports an error", "check the disk"),
}


#: What kind of error an error of the disk is, by its extended code.
_REALLY: dict[int, type[apsw.Error]] = {
    apsw.SQLITE_IOERR_SHMSIZE: apsw.FullError,  # the index of the log cannot grow
    apsw.SQLITE_IOERR_SHORT_READ: apsw.CorruptError,  # it was truncated by somebody else
}


def explain(error: apsw.Error, doing: str) -> StandfastError:
    """Our error for theirs; `doing` says what was tried and on what."""
    if isinstance(error, apsw.IOError):
        error = _REALLY.get(getattr(error, "extendedresult", 0), apsw.IOError)()
    for kind, (ours, code, what, hint) in _KNOWN.items():
        if isinstance(error, kind):
            return ours(f"{doing}: {what}", code=code, hint=hint)
    return ConfigError(
        f"{doing}: SQLite refused the statement ({type(error).__name__})",
        code="database",
        hint="the file's tables may have been changed by another program",
    )


@contextmanager
def mapped(doing: str) -> Generator[None]:
    """Run a block in which apsw's and the file system's errors become ours."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        raise from_sqlite(error, doing) from None


def from_sqlite(error: apsw.Error | OSError, doing: str) -> StandfastError:
    """Our error for one of apsw or of the file system.

    Raise it `from None`: the text of a constraint error repeats values.
    """
    if isinstance(error, apsw.Error):
        return explain(error, doing)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return explain(apsw.FullError(), doing)
    hint = "check the disk and the path"
    if isinstance(error, FileNotFoundError):
        hint = "check the path"
    elif isinstance(error, PermissionError):
        hint = "correct the owner and the mode"
    return ConfigError(f"{doing}: {error.strerror}", code="file", hint=hint)
