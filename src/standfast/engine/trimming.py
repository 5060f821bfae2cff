"""Trims what the primary keeps of the past, and what has expired, while the store is DIRECT.

One thread does a bounded piece at a time, over the connection of the replayer, for whose rounds it
waits; and it rests for far longer than that took.  Nobody waits for it, and a piece that fails is
tried again in the next round: what is left over costs nothing but its room.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from standfast.backends.base import Backend
from standfast.engine.background import Timer
from standfast.engine.state_machine import Mode
from standfast.errors import StandfastError
from standfast.limits import (
    EXPIRED_KEPT_S,
    TRIM_BATCHES,
    TRIM_DEADLINE_S,
    TRIM_PAUSE_S,
    TRIM_SHARE,
)
from standfast.ops.types import Op
from standfast.system.supervision import Supervisor

logger = logging.getLogger("standfast")

#: The beginning of the first round after opening, and the least time between two pieces.
_FIRST_S = 5.0
_SHORTEST_S = 1.0
#: How long it lets the replay go first, which needs the same connection.
_PATIENCE_S = 60.0
#: How long after an expiry of which it knows the trimmer comes.
_AFTER_S = EXPIRED_KEPT_S + 0.5


class Trimming:
    """The trimmer of one engine.  `wrote` is called with every write of the store.

    `replaying` is whether a round of the replay is under way.
    """

    def __init__(
        self,
        backend: Backend,
        mode: Callable[[], Mode],
        supervisor: Supervisor,
        *,
        replaying: Callable[[], bool] = bool,
    ) -> None:
        self._backend = backend
        self._mode = mode
        self._replaying = replaying
        self._lock = threading.Lock()
        # None is the bookkeeping, with whose turn that of every collection comes.
        self._due: dict[str | None, float] = {}
        # The last expiry in each collection that this store has written to, 0 without any.
        self._last: dict[str, float] = {}
        self._batches = 0
        self._rested_at = 0.0
        self.timer = Timer("standfast-trimmer", self._piece, supervisor)

    def start(self) -> None:
        """Begin the first round soon."""
        self._schedule(None, time.monotonic() + _FIRST_S)

    def wrote(self, ops: Sequence[Op]) -> None:
        """Note to which collections the store writes a batch, and when their documents expire."""
        self._batches += 1
        if self._batches >= TRIM_BATCHES:
            self._batches = 0
            self._schedule(None, time.monotonic())
        for op in ops:
            if op.ttl_us is not None and op.ttl_us > 0:
                at = time.monotonic() + op.ttl_us / 1e6
                self._last[op.collection] = max(at, self._last.get(op.collection, 0.0))
                self._schedule(op.collection, at + _AFTER_S)
            elif op.collection not in self._last:
                self._last[op.collection] = 0.0

    def _schedule(self, what: str | None, at: float) -> None:
        with self._lock:
            self._due[what] = at = min(at, self._due.get(what, at))
        self.timer.schedule(at)

    def _piece(self) -> None:
        begun = time.monotonic()
        if begun < self._rested_at:
            self.timer.schedule(self._rested_at)
            return
        with self._lock:
            what, at = min(self._due.items(), key=lambda item: item[1])
            waits = at > begun or self._mode() is not Mode.DIRECT
            waits = waits or (begun < at + _PATIENCE_S and self._replaying())
            if not waits:
                del self._due[what]
        if waits:
            self.timer.schedule(max(at, begun + _SHORTEST_S))
            return
        more = False
        try:
            more = self._backend.trim(what, deadline=begun + TRIM_DEADLINE_S)
        except StandfastError as error:
            logger.debug("trimming %s: %s", what or "the bookkeeping", error)
        finally:
            now = time.monotonic()
            self._rested_at = now + max(_SHORTEST_S, (now - begun) / TRIM_SHARE)
            self._plan(what, more=more, now=now)

    def _plan(self, what: str | None, *, more: bool, now: float) -> None:
        """When it is this one's turn again."""
        if more:
            self._schedule(what, now)
        elif what is None:
            self._schedule(None, now + TRIM_PAUSE_S)
            for collection in list(self._last):
                self._schedule(collection, now)
        elif self._last[what] > now:
            self._schedule(what, self._last[what] + _AFTER_S)
        self.timer.schedule(now)  # for whoever is next
