"""What all calls of one store share: its engine, which a fork replaces, and how callers wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import msgspec

from standfast.engine.interfaces import Engine
from standfast.errors import DeadlineExceeded, Unavailable
from standfast.system.platform import at_fork

#: How long `close` goes on draining the journal, by default.
CLOSE_TIMEOUT_S = 2.0

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


at_fork(in_child=_count_fork)
#: Engines of a parent process, in its forked children.  They are kept, and never touched again:
#: closing them here would close the parent's connections and drop its locks.
_abandoned: list[Engine] = []


class WriteOutcome(msgspec.Struct, frozen=True):
    """What became of an acknowledged write.

    `state`: `pending` (in the journal), `applied`, `merged` (applied, together with what others
    changed meanwhile) or `rejected` (not applied: `reason` says why).  `conflict` is its id in the
    list of conflicts, for `standfast conflicts show`.  `version` is known for what went straight to
    the primary.
    """

    state: Literal["pending", "applied", "merged", "rejected"]
    version: int | None = None
    reason: str = ""
    conflict: int | None = None


Loop = Callable[[], asyncio.AbstractEventLoop | None]


def no_loop() -> None:
    """The event loop of callers that are threads: there is none."""


class StoreHandle:
    """The engine of an open store, a fresh one in a forked child (R1), and the callers' loop.

    `loop` gives the event loop in which the caller waits for answers; None: in a thread.
    """

    def __init__(
        self,
        engine: Engine,
        reopen: Callable[[], Engine] | None,
        loop: Loop,
        *,
        parent: StoreHandle | None = None,
    ) -> None:
        self._engine = engine
        self._reopen = reopen
        self._forks = _forks
        self.loop = loop
        self._parent = parent

    def for_loop(self, loop: Loop) -> StoreHandle:
        """The same engine for callers who wait in another way."""
        return StoreHandle(self._engine, None, loop, parent=self)

    @property
    def engine(self) -> Engine:
        """The engine of this process."""
        if self._parent is not None:
            return self._parent.engine  # which opens only one in a forked child
        if self._forks != _forks:
            self._after_fork()
        return self._engine

    def _after_fork(self) -> None:
        _abandoned.append(self._engine)
        if self._reopen is None:
            raise Unavailable(
                "this store was opened before the process forked",
                code="forked",
                hint="open a store in the child",
            )
        self._engine = self._reopen()
        self._forks = _forks

    @property
    def display(self) -> str:
        """Where the primary is, for people; never a password."""
        return self._engine.primary.display

    def flush(self, timeout_s: float) -> None:
        """Wait until every acknowledged write is on the primary; DeadlineExceeded otherwise."""
        self.engine.require_open()
        left = self.engine.flush(timeout_s)
        if left:
            raise DeadlineExceeded(
                f"{left} writes are not on the primary after {timeout_s:g} s",
                code="not_flushed",
                hint="they are safe in the journal, and are replayed when the primary is back",
            )
