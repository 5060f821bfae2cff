"""Named places where a test may kill the process; free of cost and effect otherwise.

`STANDFAST_FAILPOINT=NAME` kills the process with SIGKILL when it comes to that place, and
`NAME@N` when it comes there for the N-th time.
"""

from __future__ import annotations

import os

from standfast.system.platform import kill_this_process

_wanted, _, _count = os.environ.get("STANDFAST_FAILPOINT", "").partition("@")
_left = int(_count or 1) if _wanted else 0


def failpoint(name: str) -> None:
    """Mark a step of a crash-safe sequence; does nothing unless a test asked for this name."""
    global _left
    if _left and name == _wanted:
        _left -= 1
        if not _left:
            kill_this_process()
