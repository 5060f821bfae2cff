"""A piece of work killed with SIGKILL at a named step, in a forked child: a start of Python for
each step would take longer than all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from standfast.system import failpoints


def killed_at(failpoint: str, work: Callable[[], object]) -> bool:
    """Run it in a child; True when it came to the step and was killed there.

    It makes its own connections.  What it raises fails the test.
    """
    child = os.fork()
    if not child:
        try:
            name, _, count = failpoint.partition("@")
            failpoints._wanted, failpoints._left = name, int(count or 1)  # pyright: ignore[reportPrivateUsage]
            work()
            os._exit(0)
        finally:
            os._exit(70)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed in the child"
    return False
