"""Scans of collections: pieces of work on the primary, each with a deadline of its own,
which counts from the call: waiting for others is part of it.

What takes long, such as dropping a collection or making an index, has a thread of its own, so that
scans do not wait behind it.  A piece that no thread has taken by its deadline is answered then.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import msgspec

from standfast.backends.base import Backend
from standfast.engine.interfaces import read_again
from standfast.engine.promise import Promise, complete
from standfast.engine.write_queue import closed
from standfast.errors import StandfastError, Unavailable
from standfast.system.slow_replies import noticing
from standfast.system.supervision import SupervisedThread, Supervisor

T = TypeVar("T")

#: Threads that serve scans, where there are connections that nothing else needs while the store is
#: DIRECT: the replayer's is one.
SCANNERS = 2
#: How long after its deadline a piece that nobody has taken is answered: the one before it may be
#: about to say that the primary is away, and then the mirror answers.
_LATE_S = 0.05


class _Piece(msgspec.Struct, frozen=True):
    """One piece of work: `do(None)` does it, `do(error)` answers that it was not done."""

    do: Callable[[Unavailable | None], None]
    deadline: float


class _Waiting:
    """What waits for one kind of thread; under the lock of `Scanning`."""

    def __init__(self, lock: threading.Lock) -> None:
        self.pieces: deque[_Piece] = deque()
        self.changed = threading.Condition(lock)
        self.idle = 0


class Scanning:
    """Runs scans on few connections, so that they never hold up single reads if there are enough.

    `connect` makes a connection that is missing.  Its threads begin with the first scan.
    """

    def __init__(
        self,
        primary: Backend,
        connect: Callable[[Backend, float], object],
        supervisor: Supervisor,
        *,
        deadline_s: float,
        max_connections: int,
    ) -> None:
        self._connect = connect
        self._deadline_s = deadline_s
        self._primary = primary
        self._idle: queue.SimpleQueue[Backend] = queue.SimpleQueue()
        # What takes long shares the first connection of the scans, not that of the writer.
        self._made = [primary.new_handle()]
        self._idle.put(self._made[0])
        self._lock = threading.Lock()
        self._scans, self._long = _Waiting(self._lock), _Waiting(self._lock)
        self._late = threading.Condition(self._lock)
        self._closed = False
        scanners = max(1, min(SCANNERS, max_connections - 2))
        works = [
            *[("standfast-scan", lambda: self._turn(self._scans))] * scanners,
            ("standfast-scan-long", lambda: self._turn(self._long)),
            ("standfast-scan-late", self._answer_late),
        ]
        self._threads = [SupervisedThread(name, work, supervisor) for name, work in works]
        self._started = False

    def run(
        self,
        work: Callable[[Backend, float], T],
        *,
        loop: asyncio.AbstractEventLoop | None,
        missed: Callable[[Unavailable], T] | None = None,
        long_s: float | None = None,
    ) -> Promise[T]:
        """Do a piece of work with a connection, by a deadline that counts from now.

        `missed` may answer in its place when the database does not.  `long_s`: the time for what
        takes longer than a scan.
        """
        promise: Promise[T] = Promise(loop)
        deadline = time.monotonic() + (long_s or self._deadline_s)

        def do(error: Unavailable | None) -> None:
            answer: T | BaseException
            try:
                try:
                    if error is not None:
                        raise error
                    with noticing(promise.prolong):
                        answer = self._work(work, deadline, is_long=long_s is not None)
                except Unavailable as failure:
                    if missed is None:
                        raise
                    answer = missed(failure)
            except BaseException as failure:
                answer = failure
            complete([(promise, answer)])

        self._add(_Piece(do, deadline), self._long if long_s is not None else self._scans)
        return promise

    def _add(self, piece: _Piece, waiting: _Waiting) -> None:
        with self._lock:
            if not self._closed:
                waiting.pieces.append(piece)
                waiting.changed.notify()
                if len(waiting.pieces) > waiting.idle:
                    self._late.notify()
                if not self._started:
                    self._started = True
                    for thread in self._threads:
                        thread.start()
                return
        piece.do(closed())

    def _turn(self, waiting: _Waiting) -> bool:
        with self._lock:
            while not waiting.pieces and not self._closed:
                waiting.idle += 1
                try:
                    waiting.changed.wait()
                finally:
                    waiting.idle -= 1
            if self._closed:
                return False
            piece = waiting.pieces.popleft()
        piece.do(None)
        return True

    def _answer_late(self) -> bool:
        """Answer what no thread has taken in time: all of them are busy with others."""
        with self._lock:
            now = time.monotonic() - _LATE_S
            late: list[_Piece] = []
            for waiting in (self._scans, self._long):
                late += [one for one in waiting.pieces if one.deadline <= now]
                rest = [one for one in waiting.pieces if one.deadline > now]
                waiting.pieces = deque(rest)
            if not late and not self._closed:
                dues = [one.deadline for one in (*self._scans.pieces, *self._long.pieces)]
                self._late.wait(max(0.0, min(dues) - now) if dues else None)
            if self._closed:
                return False
        for piece in late:
            piece.do(_busy())
        return True

    def _work(self, work: Callable[[Backend, float], T], deadline: float, *, is_long: bool) -> T:
        if time.monotonic() >= deadline:
            raise _busy()
        if is_long:
            return self._on(self._made[0], work, deadline)
        backend = self._take()
        try:
            return self._on(backend, work, deadline)
        finally:
            self._idle.put(backend)

    def _on(self, backend: Backend, work: Callable[[Backend, float], T], deadline: float) -> T:
        self._connect(backend, deadline)
        return read_again(
            lambda: work(backend, deadline), lambda: self._reconnected(backend, deadline)
        )

    def _reconnected(self, backend: Backend, deadline: float) -> bool:
        if time.monotonic() >= deadline:
            return False
        with contextlib.suppress(StandfastError):  # the connection that ended says enough
            self._connect(backend, deadline)
        return backend.connected

    def _take(self) -> Backend:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            with self._lock:
                self._made.append(self._primary.new_handle())
                return self._made[-1]

    def close(self) -> None:
        """Close the connections: a scan under way, or one that waits, ends with an error."""
        with self._lock:
            self._closed = True
            left = [*self._scans.pieces, *self._long.pieces]
            for waiting in (self._scans, self._long):
                waiting.pieces.clear()
                waiting.changed.notify_all()
            self._late.notify_all()
        for piece in left:
            piece.do(closed())
        for backend in self._made:
            backend.close()


def _busy() -> Unavailable:
    return Unavailable(
        "others were scanning, and there was no time left", code="busy", hint="try again"
    )


def completed(work: Callable[[], T], *, loop: asyncio.AbstractEventLoop | None) -> Promise[T]:
    """The promise of what is read at once, in the caller's own thread."""
    promise: Promise[T] = Promise(loop)
    answer: T | StandfastError
    try:
        answer = work()
    except StandfastError as error:
        answer = error
    complete([(promise, answer)])
    return promise
