"""Scans of collections: pieces of work on the primary, each with a deadline of its own,
which counts from the call: waiting for others is part of it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from standfast.backends.base import Backend
from standfast.engine.interfaces import read_again
from standfast.engine.promise import Promise, complete
from standfast.errors import StandfastError, Unavailable

T = TypeVar("T")

#: Threads that serve scans, where there are connections that nothing else needs while the store is
#: DIRECT: the replayer's is one.
SCANNERS = 2


class Scanning:
    """Runs scans on few connections, so that they never hold up single reads if there are enough.

    `connect` makes a connection that is missing.
    """

    def __init__(
        self,
        primary: Backend,
        connect: Callable[[Backend, float], object],
        *,
        deadline_s: float,
        max_connections: int,
    ) -> None:
        self._connect = connect
        self._threads = max(1, min(SCANNERS, max_connections - 2))
        self._deadline_s = deadline_s
        self._pool: ThreadPoolExecutor | None = None
        self._primary = primary
        self._idle: queue.SimpleQueue[Backend] = queue.SimpleQueue()
        self._made: list[Backend] = []

    def run(
        self,
        work: Callable[[Backend, float], T],
        *,
        loop: asyncio.AbstractEventLoop | None,
        missed: Callable[[Unavailable], T] | None = None,
        deadline_s: float | None = None,
    ) -> Promise[T]:
        """Do a piece of work with a connection, by a deadline that counts from now.

        `missed` may answer in its place when the database does not.  `deadline_s`: the time for it
        where it is not that of a scan.
        """
        promise: Promise[T] = Promise(loop)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="standfast-scan")
        deadline = time.monotonic() + (deadline_s or self._deadline_s)
        self._pool.submit(self._do, work, deadline, missed, promise)
        return promise

    def _do(
        self,
        work: Callable[[Backend, float], T],
        deadline: float,
        missed: Callable[[Unavailable], T] | None,
        promise: Promise[T],
    ) -> None:
        answer: T | BaseException
        try:
            try:
                answer = self._work(work, deadline)
            except Unavailable as error:
                if missed is None:
                    raise
                answer = missed(error)
        except BaseException as error:
            answer = error
        complete([(promise, answer)])

    def _work(self, work: Callable[[Backend, float], T], deadline: float) -> T:
        if time.monotonic() >= deadline:
            raise Unavailable(
                "others were scanning, and there was no time left", code="busy", hint="try again"
            )
        backend = self._take()
        try:
            self._connect(backend, deadline)
            return read_again(
                lambda: work(backend, deadline), lambda: self._reconnected(backend, deadline)
            )
        finally:
            self._idle.put(backend)

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
            self._made.append(self._primary.new_handle())
            return self._made[-1]

    def close(self) -> None:
        """Close the connections; a scan under way ends with an error."""
        for backend in self._made:
            backend.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


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
