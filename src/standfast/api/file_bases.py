"""Which documents a dict of the caller was made from, and whose turn it is to save.

Identity travels with the dict: what `load` returned carries its own base, and so do its copies.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from standfast.document.diff import Basis, Known
from standfast.errors import Unavailable
from standfast.limits import JSON_FILE_TURN_S

#: Loads of one task or thread, and dicts of callers' own, whose bases are remembered.
_MAX_LOADS = 4
_MAX_OWN = 8


class Base:
    """What one dict of a caller was made from: it belongs to that dict, not to the file object.

    `doubts` are writes of which nobody knows whether they took effect (None: a delete).
    """

    def __init__(self, owner: tuple[str, str], basis: Basis) -> None:
        self.owner = owner
        self.basis = basis
        self.doubts: dict[str, Known | None] = {}

    def copy(self) -> Base:
        """The same for a dict that was made from the same documents."""
        basis = Basis()
        basis.texts = dict(self.basis.texts)
        basis.values = dict(self.basis.values)
        basis.raws = dict(self.basis.raws)
        base = Base(self.owner, basis)
        base.doubts = dict(self.doubts)
        return base


class LoadedDict(dict[str, Any]):
    """A dict that knows which documents it was made from; its copies know it too."""

    base: Base

    def copy(self) -> LoadedDict:
        """A copy that was made from the same documents."""
        return carrying(LoadedDict(self), self.base.copy())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedDict:
        return carrying(LoadedDict(copy.deepcopy(dict(self), memo)), self.base.copy())

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class LoadedList(list[Any]):
    """The same for a file that is a list."""

    base: Base

    def copy(self) -> LoadedList:
        """A copy that was made from the same documents."""
        return carrying(LoadedList(self), self.base.copy())

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedList:
        return carrying(LoadedList(copy.deepcopy(list(self), memo)), self.base.copy())

    def __reduce__(self) -> Any:
        return list, (list(self),)


_L = TypeVar("_L", LoadedDict, LoadedList)


def carrying(data: _L, base: Base) -> _L:
    """The same data, with its base."""
    data.base = base
    return data


class Bases:
    """Which documents a caller's dict was made from, as far as that can be known.

    A dict that `load` returned carries it, and so do its copies; a dict of the caller's own is
    recognised once it was saved.  Before that it was made from one of the loads of its task or
    thread, or of any where that one has made none: what differs between those is not held against
    the dict (see `JsonFile.save`).
    """

    def __init__(self) -> None:
        self._loads: WeakKeyDictionary[object, list[Base]] = WeakKeyDictionary()
        self._own: deque[tuple[object, Base]] = deque(maxlen=_MAX_OWN)
        self._latest: list[Base] = []
        self._mutex = threading.Lock()

    def loaded(self, base: Base, caller: object) -> None:
        """A load of this caller."""
        with self._mutex:
            loads = self._loads.setdefault(caller, [])
            if loads and loads[-1].basis.texts == base.basis.texts:
                loads.pop()
            loads.append(base)
            del loads[:-_MAX_LOADS]
            self._latest = [base]

    def of(self, data: object, owner: tuple[str, str], caller: object) -> list[Base]:
        """The base of this dict; several where it may be any of them, the most likely one last."""
        if isinstance(data, LoadedDict | LoadedList) and data.base.owner == owner:
            return [data.base]
        with self._mutex:
            for own, base in self._own:
                if own is data:
                    return [base]
            found = self._loads.get(caller) or [b for each in self._loads.values() for b in each]
            found = found or self._latest
            return [each.copy() for each in found] or [Base(owner, Basis())]

    def saved(self, data: object, base: Base, caller: object) -> None:
        """This dict was saved: its base is known from now on."""
        with self._mutex:
            self._loads[caller] = [base]
            if getattr(data, "base", None) is not base and isinstance(data, dict | list):
                kept = [(own, known) for own, known in self._own if own is not data]
                self._own.clear()
                self._own.extend([*kept, (cast("object", data), base)])


class Turns:
    """One save or edit of a collection at a time in this process, in the order of asking.

    Tasks and threads wait in one queue; whoever is in an edit may load and save inside it.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[Future[None]] = deque()
        self._taken = False
        self.holder: object = None
        #: The texts that this process knows to be stored, by key.
        self.texts: dict[str, str] = {}
        self.saves = 0
        #: The file that this process means by the collection.
        self.claimed: Path | None = None

    def ask(self) -> Future[None]:
        """A future that is done when it is the caller's turn."""
        turn: Future[None] = Future()
        with self._mutex:
            if self._taken:
                self._waiting.append(turn)
            else:
                self._taken = True
                turn.set_result(None)
        return turn

    def done(self) -> None:
        """Give the turn to the next one."""
        self.holder = None
        with self._mutex:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._taken = False

    def give_up(self, turn: Future[None]) -> None:
        """Stop waiting; a turn that came in the same moment goes to the next one."""
        if not turn.cancel() and not turn.cancelled():
            self.done()


def busy(name: str) -> Unavailable:
    """The error of who waited for a turn in vain."""
    return Unavailable(
        f"another edit of {name} has not ended for {JSON_FILE_TURN_S:.0f} s",
        code="busy",
        hint="do not wait for other tasks or threads inside `edit()`",
    )
