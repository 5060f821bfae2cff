"""What a caller waits for, blocking or awaiting; one of the engine's threads completes it.

A whole batch is completed at once: an event loop is woken once for all of its callers.
"""

from __future__ import annotations

import asyncio
import contextlib
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

    __slots__ = ("_answer", "_future", "_gate", "_loop", "done", "prolonged")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.done = False
        self.prolonged = False
        """Whether its answer was still arriving when its time was over; waiting takes it back."""
        self._answer: Any = None
        self._loop = loop
        self._gate: threading.Lock | None = None
        self._future: asyncio.Future[T] | None = None
        if loop is None:
            self._gate = threading.Lock()
            self._gate.acquire()
        else:
            self._future = loop.create_future()

    def wait(self, timeout_s: float) -> T:
        """Block until it is completed; DeadlineExceeded if even the engine is stuck that long.

        A reply that is still arriving is not: its end is up to whoever keeps its deadline.
        """
        assert self._gate is not None, "a promise with a loop is awaited"
        while not self._gate.acquire(timeout=timeout_s):
            if not self.prolonged:
                raise stuck(timeout_s)
            self.prolonged = False
        if isinstance(self._answer, BaseException):
            raise self._answer
        return cast(T, self._answer)

    def prolong(self) -> None:
        """Its answer is still arriving."""
        self.prolonged = True

    def __await__(self) -> Generator[Any, Any, T]:
        if self._future is not None:
            return (yield from self._future.__await__())
        if not self.done:
            return (yield self)  # to the driver, which waits, and sends the answer back
        if isinstance(self._answer, BaseException):
            raise self._answer
        return cast(T, self._answer)


def stuck(timeout_s: float) -> DeadlineExceeded:
    """The error of a call that got no answer at all, perhaps because the local disk hangs."""
    return DeadlineExceeded(
        f"no answer within {timeout_s:.1f} s, not even of the local files; the outcome is unknown",
        code="stuck",
        hint="look at the disk of the data directory",
    )


def complete(answers: Iterable[tuple[Promise[Any], Any]]) -> None:
    """Hand out the answers of a batch; one that is an exception is raised in the caller.

    The first answer of a promise stands.  An event loop is woken once for all of its callers.
    """
    loops: dict[asyncio.AbstractEventLoop, list[Promise[Any]]] = {}
    for promise, answer in answers:
        if promise.done:
            continue
        promise._answer = answer  # pyright: ignore[reportPrivateUsage]
        promise.done = True
        gate, loop = promise._gate, promise._loop  # pyright: ignore[reportPrivateUsage]
        if gate is not None:
            gate.release()
        elif loop is not None:
            loops.setdefault(loop, []).append(promise)
    for loop, promises in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks are gone
            loop.call_soon_threadsafe(_deliver, promises)


def _deliver(promises: Iterable[Promise[Any]]) -> None:
    """In the thread of their loop: let the tasks that wait go on."""
    for promise in promises:
        future: Any = promise._future  # pyright: ignore[reportPrivateUsage]
        answer = promise._answer  # pyright: ignore[reportPrivateUsage]
        if future.done():  # cancelled
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
            future.exception()  # marks it as seen: asyncio would log it if no task waits
        else:
            future.set_result(answer)
