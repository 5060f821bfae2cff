"""Creates tables outside the deadlines of those who write to them.

A far server needs many round trips for the first write of a collection, and a lock on its table
may take long.  Whoever writes waits for a part of its time; what is not there by then is made all
the same, and only the writes to this collection wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from standfast.errors import Unavailable


class _Job:
    """One table that is being made."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None


class TableMaker:
    """Makes tables one after another, in a thread that exists while there is something to do.

    `make(name)` has limits of its own.  Thread-safe.
    """

    def __init__(self, make: Callable[[str], object]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._working = False

    def make(self, names: Sequence[str], until: float) -> None:
        """Make these, and wait until this instant of `time.monotonic()`.

        `Unavailable("busy")` when one is still being made then; else what its making raised.
        """
        with self._lock:
            jobs = [self._jobs.setdefault(name, _Job()) for name in names]
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="standfast-tables", daemon=True).start()
        for name, job in zip(names, jobs, strict=True):
            if not job.done.wait(max(0.0, until - time.monotonic())):
                raise Unavailable(
                    f"the table of `{name}` is still being made",
                    code="busy",
                    hint="nothing was sent; it continues by itself",
                )
            if job.error is not None:
                raise job.error

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._working = False
                    return
                name, job = next(iter(self._jobs.items()))
            try:
                self._make(name)
            except BaseException as error:
                job.error = error
            with self._lock:
                del self._jobs[name]
            job.done.set()
