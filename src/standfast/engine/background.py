"""Threads that wait: for their time (`Timer`), for events (`StateNotifier`).

Both are supervised (`system.supervision`), as every thread of an engine is.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from standfast.engine.activity import Rejected
from standfast.engine.refusals import Refused
from standfast.engine.state_machine import Mode
from standfast.limits import MAX_NOTICES
from standfast.system.supervision import SupervisedThread, Supervisor

logger = logging.getLogger("standfast")

#: The kinds of events, by the names under which functions are registered for them.
STATE_CHANGE = "on_state_change"
REFUSED = "on_refused"
REJECTED = "on_rejected"


class Timer:
    """One such thread.  `act` may schedule the next time itself.

    After an error that `act` lets through, it acts again after a pause.
    """

    def __init__(self, name: str, act: Callable[[], object], supervisor: Supervisor) -> None:
        self._act = act
        self._changed = threading.Condition()
        self._due: float | None = None
        self._closing = False
        self.thread = SupervisedThread(name, self._turn, supervisor)

    def schedule(self, at: float) -> None:
        """Act at this instant of `time.monotonic()` or earlier."""
        with self._changed:
            if self._due is None or at < self._due:
                self._due = at
                self._changed.notify()

    def close(self) -> None:
        """Let the thread end after what it is doing."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _turn(self) -> bool:
        if not self._wait():
            return False
        try:
            self._act()
        except BaseException:
            # What it would have scheduled is not known: so it acts again, after the pause.
            self.schedule(time.monotonic())
            raise
        return True

    def _wait(self) -> bool:
        """Until it is time; False when the thread is to end."""
        with self._changed:
            while not self._closing and (self._due is None or self._due > time.monotonic()):
                pause = None if self._due is None else self._due - time.monotonic()
                self._changed.wait(pause)
            self._due = None
            return not self._closing


class StateChange(NamedTuple):
    """One change of a store's mode: `before` and `after` are direct, journaling or draining.

    `cause` is a code or a few words, `lag_ops` the number of writes that wait for the primary.
    """

    before: str
    after: str
    cause: str
    lag_ops: int


class StateNotifier:
    """Calls the application's functions in a thread of their own, in order.

    One that fails is logged and called again the next time; one that blocks holds up the other
    functions only.  What waits for them is bounded: beyond, refused and rejected writes are left
    out, and how many is logged.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._queue: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._left_out = 0

    def listen(self, listener: Callable[[Any], object], what: str = STATE_CHANGE) -> None:
        """Call this function for every event of a kind from now on."""
        self._listeners.setdefault(what, []).append(listener)
        if self._thread is None:
            thread = SupervisedThread("standfast-notifier", self._turn, self._supervisor)
            thread.start()
            self._thread = thread

    def announce(self, before: Mode, after: Mode, cause: str, lag_ops: int) -> None:
        """Queue a change of state for the listeners."""
        logger.debug("%s -> %s: %s; %d writes pending", before, after, cause, lag_ops)
        if STATE_CHANGE in self._listeners:
            change = StateChange(str(before), str(after), cause, lag_ops)
            self._queue.put((STATE_CHANGE, change))

    def notify(self, event: Refused | Rejected) -> None:
        """Queue a refused or rejected write for the listeners."""
        what = REFUSED if isinstance(event, Refused) else REJECTED
        if what not in self._listeners:
            return
        if self._queue.qsize() >= MAX_NOTICES:
            self._left_out += 1
            return
        self._queue.put((what, event))

    def close(self) -> None:
        """Let the thread end when every change was delivered."""
        if self._thread is not None:
            self._queue.put(None)

    def _turn(self) -> bool:
        item = self._queue.get()
        if item is None:
            return False
        what, event = item
        for listener in list(self._listeners.get(what, ())):
            try:
                listener(event)
            except BaseException:  # the application's function, not ours
                logger.exception("an %s function failed", what)
        if self._left_out and self._queue.empty():
            count, self._left_out = self._left_out, 0
            logger.warning(
                "%d refused or rejected writes were not passed to the on_refused and on_rejected"
                " functions, which are too slow",
                count,
            )
        return True
