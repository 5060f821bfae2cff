"""Scans of collections: pieces of work on the primary, each with a deadline of its own."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast.backends.base import Backend
from holdfast.engine.promise import Promise, Settling
from holdfast.errors import Unavailable

T = TypeVar("T")

#: Threads that serve scans, each with a connection of its own.
SCANNERS = 2


class Scanning:
    """Runs scans on a few connections of their own, so that they never hold up single reads."""

    def __init__(self, primary: Backend, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._pool: ThreadPoolExecutor | None = None
        self._primary = primary
        self._idle: queue.SimpleQueue[Backend] = queue.SimpleQueue()
        self._made: list[Backend] = []

    def run(
        self, work: Callable[[Backend, float], T], *, loop: asyncio.AbstractEventLoop | None
    ) -> Promise[T]:
        """Do a piece of work with a connection and a deadline."""
        promise: Promise[T] = Promise(loop)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(SCANNERS, thread_name_prefix="holdfast-scan")
        self._pool.submit(self._do, work, promise)
        return promise

    def _do(self, work: Callable[[Backend, float], T], promise: Promise[T]) -> None:
        with Settling() as settling:
            try:
                backend = self._take()
                try:
                    settling.value(promise, work(backend, time.monotonic() + self._deadline_s))
                finally:
                    self._idle.put(backend)
            except BaseException as error:
                settling.error(promise, error)

    def _take(self) -> Backend:
        try:
            backend = self._idle.get_nowait()
        except queue.Empty:
            backend = self._primary.sibling()
            self._made.append(backend)
        if not backend.connected:
            try:
                backend.connect(time.monotonic() + self._deadline_s)
            except Unavailable:
                self._idle.put(backend)
                raise
        return backend

    def close(self) -> None:
        """Close the connections; a scan under way ends with an error."""
        for backend in self._made:
            backend.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
