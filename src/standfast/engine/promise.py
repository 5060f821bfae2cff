"""What a caller waits for, blocking or awaiting; one of the engine's threads completes it.

A whole batch is completed at once: an event loop is woken once for all of its callers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterable
from typing import Any, Generic, TypeVar, cast

from standfast.errors import DeadlineExceeded

T = TypeVar("T")


class Promise(Generic[T]):
    """The future answer to one call.  Made by the engine, completed once.

    With a loop it is awaited by a task of that loop.  Without, a thread waits; a coroutine that
    awaits it yields it to the thread that drives the coroutine (`api.drive`).  A task that is
    cancelled loses only the answer: the op continues, and is applied or journaled as a whole.
    """

    __slots__ = ("_error", "_future", "_gate", "_loop", "_value", "done")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._value: T | None = None
        self._error: BaseException | None = None
        self._loop = loop
        self.done = False
        self._future: asyncio.Future[T] | None = None
        self._gate = threading.Lock()
        if loop is None:
            self._gate.acquire()
        else:
            self._future = loop.create_future()

    def wait(self, timeout_s: float) -> T:
        """Block until it is completed; DeadlineExceeded if even the engine is stuck that long."""
        assert self._loop is None, "a promise with a loop is awaited"
        if not self._gate.acquire(timeout=timeout_s):
            raise stuck(timeout_s)
        return self._answer()

    def _answer(self) -> T:
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    def __await__(self) -> Generator[Any, Any, T]:
        if self._future is None:
            if self._gate.acquire(blocking=False):
                return self._answer()
            return (yield self)  # to a driver, which waits for it and sends the answer
        return (yield from self._future.__await__())

    def _deliver(self) -> None:
        future = self._future
        assert future is not None, "only promises with a loop are delivered"
        if future.done():  # cancelled
            return
        if self._error is not None:
            future.set_exception(self._error)
            future.exception()  # marks it as seen: asyncio would log it if no task waits
        else:
            future.set_result(cast(T, self._value))


def stuck(timeout_s: float) -> DeadlineExceeded:
    """The error of a call that got no answer at all, perhaps because the local disk hangs."""
    return DeadlineExceeded(
        f"no answer within {timeout_s:.1f} s, not even of the local files; the outcome is unknown",
        code="stuck",
        hint="look at the disk of the data directory",
    )


class CompletionBatch:
    """Collects answers and hands them out together: `with CompletionBatch() as completions:`."""

    def __init__(self) -> None:
        self._loops: dict[asyncio.AbstractEventLoop, list[Promise[Any]]] = {}

    def value(self, promise: Promise[T], value: T) -> None:
        """The answer is this value, unless there was one before."""
        if not promise.done:
            promise._value = value  # pyright: ignore[reportPrivateUsage]
            self._complete(promise)

    def error(self, promise: Promise[Any], error: BaseException) -> None:
        """The answer is this error, unless there was an answer before."""
        if not promise.done:
            promise._error = error  # pyright: ignore[reportPrivateUsage]
            self._complete(promise)

    def _complete(self, promise: Promise[Any]) -> None:
        promise.done = True
        if promise._loop is None:  # pyright: ignore[reportPrivateUsage]
            promise._gate.release()  # pyright: ignore[reportPrivateUsage]
        else:
            self._loops.setdefault(promise._loop, []).append(promise)  # pyright: ignore[reportPrivateUsage]

    def __enter__(self) -> CompletionBatch:
        return self

    def __exit__(self, *_: object) -> None:
        for loop, promises in self._loops.items():
            try:
                loop.call_soon_threadsafe(_deliver_all, promises)
            except RuntimeError:  # the loop is closed, and its tasks are gone
                continue


def _deliver_all(promises: Iterable[Promise[Any]]) -> None:
    for promise in promises:
        promise._deliver()  # pyright: ignore[reportPrivateUsage]
