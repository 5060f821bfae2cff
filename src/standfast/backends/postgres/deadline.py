"""Ends what outlives its deadline: one thread that shuts sockets down.

No socket option and no server setting notices a server that hangs: its kernel goes on
acknowledging.  Shutting the socket down does end the wait, within milliseconds, in flight and idle,
and under TLS.  The socket is duplicated once, when the connection is made, and owned here: a
duplicate made at the deadline could be of a descriptor that was reused in the meantime.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref

from standfast.limits import MAX_REPLY_S, MIN_REPLY_BYTES
from standfast.system.platform import at_fork, duplicate_socket, received_bytes
from standfast.system.slow_replies import Notice, noticed
from standfast.system.supervision import PROCESS, SupervisedThread

#: Longest sleep of the thread while nothing is armed.
_IDLE_S = 3600.0


class SocketDeadline:
    """The deadline of one connection: armed for each call, it shuts the socket down on expiry.

    It belongs to the process that made the connection.  Thread-safe.  `expired` stays true: the
    connection cannot be used afterwards.
    """

    def __init__(self, fd: int) -> None:
        self._socket = duplicate_socket(fd)
        self._lock = threading.Lock()
        self.due: float | None = None
        self.expired = False
        self._step_s = 0.0
        self._limit = 0.0
        self._received = 0
        self._notice: Notice | None = None
        self._watchdog = _watchdog()
        self._watchdog.watch(self)

    def arm(self, at: float, *, while_silent: bool = False) -> None:
        """Cut the connection at this instant of `time.monotonic()`, unless disarmed before.

        `while_silent`: a reply that is still arriving then gets the same time once more, up to
        `MAX_REPLY_S`.  Only Linux says what has arrived; elsewhere the instant stays.
        """
        with self._lock:
            self.due = at
            self._step_s = 0.0
            self._notice = noticed() if while_silent else None
            if while_silent:
                now = time.monotonic()
                self._step_s, self._limit = max(0.0, at - now), now + MAX_REPLY_S
                self._received = received_bytes(self._socket)
        if at < self._watchdog.next:
            self._watchdog.notice(at)

    def disarm(self) -> None:
        """The call has ended in time."""
        with self._lock:
            self.due = None

    def expire(self, now: float) -> float | None:
        """Cut the socket if its deadline has passed; returns the deadline that is still ahead."""
        with self._lock:
            if self.due is None or self.due > now:
                return self.due
            due, notice = self._moved(now), self._notice
            if due is None:
                self._shutdown()
                return None
            self.due = due
        if notice is not None:
            notice()
        return due

    def _moved(self, now: float) -> float | None:
        """The next deadline of a reply that is still arriving; None when it has had its time."""
        if not self._step_s or now >= self._limit:
            return None
        received = received_bytes(self._socket)
        if received - self._received < MIN_REPLY_BYTES:
            return None
        self._received = received
        return now + self._step_s

    def shutdown(self) -> None:
        """Cut the socket now."""
        with self._lock:
            self._shutdown()

    def _shutdown(self) -> None:
        self.due, self.expired = None, True
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the duplicate back.  Idempotent."""
        with self._lock:
            self.due = None
            self._socket.close()


class Watchdog:
    """The thread that enforces deadlines.  It sleeps until the nearest one, then looks again."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._socket_deadlines: weakref.WeakSet[SocketDeadline] = weakref.WeakSet()
        self._changed = threading.Condition()
        self.next = 0.0
        """When it looks at the deadlines again, at the latest."""
        SupervisedThread("standfast-watchdog", self._turn, PROCESS).start()

    def watch(self, socket_deadline: SocketDeadline) -> None:
        """Watch one more deadline, for as long as it exists."""
        with self._changed:
            self._socket_deadlines.add(socket_deadline)

    def notice(self, at: float) -> None:
        """A deadline was armed: wake up in time."""
        with self._changed:
            self.next = min(self.next, at)
            self._changed.notify()

    def _turn(self) -> bool:
        with self._changed:
            socket_deadlines = list(self._socket_deadlines)
            # Before looking: what is armed from here on wakes the thread.
            self.next = time.monotonic() + _IDLE_S
        now = time.monotonic()
        dues = [
            due
            for socket_deadline in socket_deadlines
            if (due := socket_deadline.expire(now)) is not None
        ]
        del socket_deadlines
        with self._changed:
            self.next = min([self.next, *dues])
            self._changed.wait(max(0.0, self.next - time.monotonic()))
        return True


_the_watchdog: Watchdog | None = None
_making = threading.Lock()


def _watchdog() -> Watchdog:
    """This process's watchdog; a forked child gets one of its own."""
    global _the_watchdog
    found = _the_watchdog
    if found is not None and found.pid == os.getpid():
        return found
    with _making:
        if _the_watchdog is None or _the_watchdog.pid != os.getpid():
            _the_watchdog = Watchdog()
        return _the_watchdog


def _after_fork() -> None:
    global _making
    _making = threading.Lock()  # another thread of the parent may have held it


at_fork(in_child=_after_fork)
