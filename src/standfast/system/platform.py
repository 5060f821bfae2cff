"""What operating systems do differently besides files and locks: forks, sockets, ending a process.

Linux and macOS have all of it.  Windows has no fork, so nothing is registered there; its sockets
are not file descriptors, and it has no poll.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial

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


def readable(fd: int) -> Callable[[], object]:
    """A look at a socket, made once for many: it returns what is true when it can be read."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return partial(poller.poll, 0)
    return partial(is_ready, fd)


def wait_ready(sockets: Mapping[int, bool], *, timeout_s: float) -> set[int]:
    """Those of several sockets that can be read, or written where the value is true, in time."""
    if hasattr(select, "poll"):
        poller = select.poll()
        for fd, writing in sockets.items():
            poller.register(fd, select.POLLOUT if writing else select.POLLIN)
        return {fd for fd, _ in poller.poll(math.ceil(timeout_s * 1000))}
    reading = [fd for fd, writing in sockets.items() if not writing]
    written = [fd for fd, writing in sockets.items() if writing]
    return {fd for ready in select.select(reading, written, sockets, timeout_s) for fd in ready}


def duplicate_socket(fd: int) -> socket.socket:
    """A second handle of a socket, to be closed by itself: shutting it down ends both."""
    return socket.socket(fileno=socket.dup(fd))


#: The signals of old, which programs handle.
_SIGNALS = [number for number in map(int, signal.valid_signals()) if number < 32]
#: Without the enums that `signal` makes of its answers, which cost thirty times as much.
_handler_of: Callable[[int], object] = getattr(
    sys.modules.get("_signal", signal), "getsignal", signal.getsignal
)


def may_be_reentered() -> bool:
    """Whether a signal handler of the program may be called in this thread, between any two steps.

    Python's own handler of SIGINT only raises KeyboardInterrupt.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    for handler in map(_handler_of, _SIGNALS):
        if handler is not signal.default_int_handler and callable(handler):
            return True
    return False


def kill_this_process() -> None:
    """End this process at once, without any clean-up."""
    os.kill(os.getpid(), _KILL)


#: Where `tcpi_bytes_received` is in Linux's `struct tcp_info`, since Linux 4.1 (linux/tcp.h).
_BYTES_RECEIVED = 128


def received_bytes(connected: socket.socket) -> int:
    """How many bytes have ever arrived on a TCP connection, read or not; 0 where nobody says."""
    option = getattr(socket, "TCP_INFO", None)
    if option is None or sys.platform != "linux":
        return 0
    try:
        info = connected.getsockopt(socket.IPPROTO_TCP, option, _BYTES_RECEIVED + 8)
    except OSError:  # a Unix socket, or a connection that has ended
        return 0
    return int.from_bytes(info[_BYTES_RECEIVED:], sys.byteorder)
