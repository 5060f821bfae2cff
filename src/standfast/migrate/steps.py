"""What the steps of a migration share: how far one has come, and a disk that fails under it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeVar

from standfast.errors import ConfigError

_T = TypeVar("_T")

#: Called with a step, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


def silent(*_: object) -> None:
    """Report nothing."""


class Steps(NamedTuple):
    """What follows the steps of a command: by default nothing does.

    `announce` is called with the name of a step and what it is about to do, for people.
    """

    announce: Callable[[str, str], None] = silent
    progress: Progress = silent


#: For those that are followed by nobody.
QUIETLY = Steps()

#: Items between two reports.
_EVERY = 1000


def counted(items: Iterable[_T], step: str, total: int, progress: Progress) -> Iterator[_T]:
    """The items; progress is reported every thousand of them."""
    rest, done = iter(items), 0
    while block := list(islice(rest, _EVERY)):
        progress(step, done, total)
        done += len(block)
        yield from block


class Counted(list[_T]):
    """A list that reports progress while it is iterated over."""

    def __init__(self, items: Iterable[_T], step: str, progress: Progress) -> None:
        super().__init__(items)
        self._step = step
        self._progress = progress

    def __iter__(self) -> Iterator[_T]:
        return counted(super().__iter__(), self._step, len(self), self._progress)


@contextmanager
def disk_errors(
    doing: str, *, hint: str = "free space or correct the rights, then run the same command again"
) -> Generator[None]:
    """A failing disk under the data directory or the files as one of our errors: exit code 2.

    The user can correct it, like a wrong path.  (A disk that fails under the database is reported
    by the backend: `Unavailable`, exit code 3.)
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise ConfigError(
            f"{doing}: {error.strerror or error}{where}",
            code="disk",
            hint=hint,
        ) from None
