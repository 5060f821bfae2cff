"""What a fork does to open SQLite files: they are closed in the child.

SQLite remembers in memory which locks its process has on a file.  A forked child inherits that
memory, but not the locks: it would write without any, into a log that others delete when they close
the file, and acknowledged writes would be gone.  So no thread is inside of SQLite while the process
forks, and the child closes what it has inherited before it opens anything.
Source: sqlite.org/howtocorrupt.html, 2.6 and 2.7.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol

from standfast.system.platform import at_fork

#: One SQLite file is opened at a time, and none while the process forks.  Closing any handle of a
#: file drops the locks that this process has on it (sqlite.org/howtocorrupt.html, 2.2), and
#: creating a file closes one.
OPENING = threading.Lock()
#: How long a fork waits for a transaction that is under way; a disk may stand still.
HOLD_TIMEOUT_S = 10.0


class Forkable(Protocol):
    """Something that holds SQLite connections, each used only under one of its locks."""

    def fork_locks(self) -> list[Any]:
        """The locks under which its connections are used, in the order in which they are taken."""
        ...

    def close_in_child(self) -> None:
        """Close the connections; called with the locks held, while there is no other thread."""
        ...


_open: weakref.WeakSet[Forkable] = weakref.WeakSet()
_held: list[tuple[Forkable, list[Any]]] = []


def watch(file: Forkable) -> None:
    """From now on a fork waits for its locks, and closes it in the child."""
    _open.add(file)


def _before() -> None:
    """Take every lock.  Those of the files come first: who opens a file may hold its locks."""
    seen: set[int] = set()
    while True:
        for file in sorted(_open, key=id):
            if id(file) in seen:
                continue
            seen.add(id(file))
            taken: list[Any] = []
            for lock in file.fork_locks():
                if not lock.acquire(timeout=HOLD_TIMEOUT_S):
                    break  # its disk stands still: the child leaves it alone
                taken.append(lock)
            _held.append((file, taken))
        OPENING.acquire()
        if all(id(file) in seen for file in _open):
            return
        OPENING.release()


def _let_go() -> None:
    for _, taken in reversed(_held):
        for lock in reversed(taken):
            lock.release()
    _held.clear()
    OPENING.release()


def _in_child() -> None:
    for file, taken in _held:
        if len(taken) == len(file.fork_locks()):
            file.close_in_child()
    _let_go()


at_fork(before=_before, in_parent=_let_go, in_child=_in_child)
