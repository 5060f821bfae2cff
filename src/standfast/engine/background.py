"""Threads that wait: for their time (`Timer`), for a change of mode (`StateNotifier`).

Both are supervised (`system.supervision`), as every thread of an engine is.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from standfast.engine.state_machine import Mode
from standfast.system.supervision import SupervisedThread, Supervisor

logger = logging.getLogger("standfast")


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
    """Logs each change, and calls the listeners in a thread of their own, in order.

    A listener that fails is logged and called again at the next change; one that blocks holds up
    the other listeners only.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._listeners: list[Callable[[StateChange], object]] = []
        self._queue: queue.SimpleQueue[StateChange | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def listen(self, listener: Callable[[StateChange], object]) -> None:
        """Call this function at every change from now on."""
        self._listeners.append(listener)
        if self._thread is None:
            thread = SupervisedThread("standfast-notifier", self._turn, self._supervisor)
            thread.start()
            self._thread = thread

    def announce(self, before: Mode, after: Mode, cause: str, lag_ops: int) -> None:
        """Log a change and queue it for the listeners."""
        level = logging.WARNING if after is Mode.JOURNALING else logging.INFO
        logger.log(level, "%s -> %s: %s; %d writes pending", before, after, cause, lag_ops)
        if self._thread is not None:
            self._queue.put(StateChange(str(before), str(after), cause, lag_ops))

    def close(self) -> None:
        """Let the thread end when every change was delivered."""
        if self._thread is not None:
            self._queue.put(None)

    def _turn(self) -> bool:
        change = self._queue.get()
        if change is None:
            return False
        for listener in list(self._listeners):
            try:
                listener(change)
            except BaseException:  # the application's function, not ours
                logger.exception("an on_state_change function failed")
        return True
