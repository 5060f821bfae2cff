"""Exit codes, and which error leads to which."""

from __future__ import annotations

from enum import IntEnum

from standfast.errors import (
    ConfigError,
    CorruptData,
    DataError,
    StandfastError,
    Unavailable,
)


class Exit(IntEnum):
    """What a command's exit code says; stable."""

    DONE = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3
    DATA = 4
    LOCKED = 5
    BUG = 70
    INTERRUPTED = 130


def exit_code(error: StandfastError) -> Exit:
    """The exit code of an error."""
    if error.code == "locked":
        return Exit.LOCKED
    if isinstance(error, Unavailable):
        return Exit.UNREACHABLE
    if isinstance(error, DataError | CorruptData):
        return Exit.DATA
    if isinstance(error, ConfigError):
        return Exit.USAGE
    return Exit.NO
