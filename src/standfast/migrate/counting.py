"""Progress of long steps, told from inside the loops that other layers run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar, overload

_T = TypeVar("_T")

#: Called with a step, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

#: Called with the name of a step and what it is about to do, for people.
Tell = Callable[[str, str], None]


def silent(*_: object) -> None:
    """Tell nobody."""


#: Items between two calls.
_EVERY = 1000


def counted(items: Iterable[_T], step: str, total: int, progress: Progress) -> Iterator[_T]:
    """The items, telling the progress at each thousandth."""
    rest, done = iter(items), 0
    while block := list(islice(rest, _EVERY)):
        progress(step, done, total)
        done += len(block)
        yield from block


class Counted(Sequence[_T]):
    """A sequence that tells the progress of whoever iterates over it."""

    def __init__(self, items: Sequence[_T], step: str, progress: Progress) -> None:
        self._items = items
        self._step = step
        self._progress = progress

    def __iter__(self) -> Iterator[_T]:
        return counted(self._items, self._step, len(self._items), self._progress)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_T]: ...
    def __getitem__(self, index: int | slice) -> _T | Sequence[_T]:
        """As the sequence inside."""
        return self._items[index]
