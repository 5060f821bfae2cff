"""Threads that go on after an error, and the record of which of them is in trouble (R26).

A thread that ends by an error that was not foreseen leaves the rest of the program waiting for it.
So each thread does one piece of work after another, and an error ends the piece, not the thread:
what the piece held is failed, the error is logged once, and the thread goes on after a pause.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from standfast.limits import TROUBLE_SHOWN_S

logger = logging.getLogger("standfast")

#: The pause after an error: doubled at each one that follows without a success in between.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5


class Trouble(NamedTuple):
    """A thread whose last piece of work failed, with the error, since `since` (`time.time()`)."""

    thread: str
    error: str
    since: float
    times: int
    last: float

    def __str__(self) -> str:
        return f"the thread {self.thread} failed: {self.error} ({self.times} times in a row)"


class Supervisor:
    """Which of a set of threads are in trouble.  Thread-safe.

    A thread is in trouble from an error until it has done a piece of work without one; one that is
    not asked for anything afterwards, for `TROUBLE_SHOWN_S`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._troubles: dict[str, Trouble] = {}

    def failed(self, thread: str, error: BaseException) -> float:
        """Note an error, and log the first of its kind; returns how many seconds to pause."""
        what = f"{type(error).__name__}" + (f" {error.errno}" if isinstance(error, OSError) else "")
        now = time.time()
        with self._lock:
            before = self._troubles.get(thread)
            since, times = (before.since, before.times + 1) if before else (now, 1)
            self._troubles[thread] = Trouble(thread, what, since, times, time.monotonic())
        if before is None or before.error != what:
            logger.error("the thread %s failed, and goes on", thread, exc_info=error)
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(times - 1, 20))

    def worked(self, thread: str) -> None:
        """A piece of work ended without an error."""
        if thread in self._troubles:
            with self._lock:
                self._troubles.pop(thread, None)

    def troubles(self) -> list[Trouble]:
        """The threads that are in trouble now, the longest first."""
        if not self._troubles:
            return []
        shown = time.monotonic() - TROUBLE_SHOWN_S
        with self._lock:
            found = [one for one in self._troubles.values() if one.last > shown]
        return sorted(found, key=lambda one: one.since)


#: The threads that serve the whole process.
PROCESS = Supervisor()


class SupervisedThread(threading.Thread):
    """A thread that does one piece of work after another, whatever goes wrong in one of them.

    `work` waits for something to do, does it, and returns whether there may be more; what it holds
    when it raises, it has failed itself.  `failed` is called with the error, before the pause.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], bool],
        supervisor: Supervisor,
        *,
        failed: Callable[[BaseException], object] | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._supervisor = supervisor
        self._on_failure = failed

    def run(self) -> None:
        """Work until `work` says that there is nothing more to come."""
        while True:
            try:
                if not self._work():
                    return
                self._supervisor.worked(self.name)
            except BaseException as error:
                self._recover(error)

    def _recover(self, error: BaseException) -> None:
        pause_s = LONGEST_PAUSE_S
        # Even this may fail, where memory or descriptors are short.
        with contextlib.suppress(BaseException):
            pause_s = self._supervisor.failed(self.name, error)
            if self._on_failure is not None:
                self._on_failure(error)
        time.sleep(pause_s)
