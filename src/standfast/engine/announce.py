"""Announces a change of the mode: one log line and one call per listener, with the cause."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from standfast.engine.state_machine import Mode

logger = logging.getLogger("standfast")


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

    def __init__(self) -> None:
        self._listeners: list[Callable[[StateChange], object]] = []
        self._queue: queue.SimpleQueue[StateChange | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def listen(self, listener: Callable[[StateChange], object]) -> None:
        """Call this function at every change from now on."""
        self._listeners.append(listener)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="standfast-notifier", daemon=True
            )
            self._thread.start()

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

    def _run(self) -> None:
        while (change := self._queue.get()) is not None:
            for listener in list(self._listeners):
                try:
                    listener(change)
                except Exception:  # the application's function, not ours
                    logger.exception("an on_state_change function failed")
