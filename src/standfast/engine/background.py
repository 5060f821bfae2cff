"""A thread that acts at the earliest of the times that it was scheduled for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("standfast")


class Timer:
    """One such thread.  `act` may schedule the next time itself.

    An error that `act` lets through is a bug: it is logged, `failed` gets it, and the thread ends.
    """

    def __init__(
        self, name: str, act: Callable[[], object], *, failed: Callable[[BaseException], None]
    ) -> None:
        self._act = act
        self._failed = failed
        self._changed = threading.Condition()
        self._due: float | None = None
        self._closing = False
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

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

    def _run(self) -> None:
        try:
            while self._wait():
                self._act()
        except BaseException as error:
            logger.exception("the thread %s ended", self.thread.name)
            self._failed(error)

    def _wait(self) -> bool:
        """Until it is time; False when the thread is to end."""
        with self._changed:
            while not self._closing and (self._due is None or self._due > time.monotonic()):
                pause = None if self._due is None else self._due - time.monotonic()
                self._changed.wait(pause)
            self._due = None
            return not self._closing
