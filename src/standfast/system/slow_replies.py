"""Who wants to know that a call takes longer than its deadline, since its reply is still arriving.

    with noticing(function):
        ...  # a call made here, in this thread, calls it each time that its deadline is moved

Called by the thread that keeps deadlines, for all connections of the process: it must be quick.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

Notice = Callable[[], object]
_local = threading.local()


@contextmanager
def noticing(notice: Notice) -> Generator[None]:
    """What is called inside the block calls `notice` when it gets more time."""
    before = noticed()
    _local.notice = notice
    try:
        yield
    finally:
        _local.notice = before


def noticed() -> Notice | None:
    """The function that wants to know of this thread's calls."""
    return getattr(_local, "notice", None)
