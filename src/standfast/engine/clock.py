"""The clock of this process: the machine's as it was at the beginning, and what has passed since.

Ages are differences of it, so that a clock that is set while the process runs makes nothing old,
or young (time set by hand, by NTP after a start without a network).  The time that passes while the
machine sleeps counts, where the system says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

#: Linux: CLOCK_MONOTONIC stands still while the machine is suspended, this one does not.
_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_elapsed_ns: Callable[[], int] = (
    time.monotonic_ns if _BOOTTIME is None else partial(time.clock_gettime_ns, _BOOTTIME)
)
_BEGAN_NS = time.time_ns() - _elapsed_ns()


def now_us() -> int:
    """Microseconds since 1970 UTC, as this process counts them."""
    return (_BEGAN_NS + _elapsed_ns()) // 1000
