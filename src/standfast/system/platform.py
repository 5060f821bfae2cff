"""What operating systems do differently besides files and locks: forks, sockets, ending a process.

Linux and macOS have all of it.  Windows has no fork, so nothing is registered there; its sockets
are not file descriptors, and it has no poll.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable

#: What kills without a clean-up.  On Windows `os.kill` ends a process at once for SIGTERM.
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def _nothing() -> None:
    """Do nothing at a fork."""


def at_fork(
    *,
    before: Callable[[], None] = _nothing,
    in_parent: Callable[[], None] = _nothing,
    in_child: Callable[[], None] = _nothing,
) -> None:
    """Call these around every fork of this process; where there is no fork, never."""
    register = getattr(os, "register_at_fork", None)
    if register is not None:
        register(before=before, after_in_parent=in_parent, after_in_child=in_child)


def is_ready(fd: int, *, writing: bool = False, timeout_s: float = 0.0) -> bool:
    """Wait until a socket can be read, or written; False when the time is up.

    poll takes any descriptor, while select on Linux and macOS ends at number 1023; on Windows
    there is only select, without that end.
    """
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(fd, select.POLLOUT if writing else select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    # On Windows a connection that was refused is reported as an exceptional condition alone.
    reading, written = ([], [fd]) if writing else ([fd], [])
    return any(select.select(reading, written, [fd], timeout_s))


def duplicate_socket(fd: int) -> socket.socket:
    """A second handle of a socket, to be closed by itself: shutting it down ends both."""
    return socket.socket(fileno=socket.dup(fd))


def kill_this_process() -> None:
    """End this process at once, without any clean-up."""
    os.kill(os.getpid(), _KILL)
