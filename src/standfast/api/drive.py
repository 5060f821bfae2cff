"""How a synchronous call runs: its asynchronous twin's coroutine, driven by the caller's thread.

A call is written once, as an `async def` of an asynchronous class.  `blocking(call)` is the method
of the synchronous class: same parameters, documentation and result.  Whatever such a coroutine
awaits must be a `Promise` without a loop, which yields itself to the driver, or another such
coroutine; where there is no loop it may block instead, since the thread is its caller's own.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from standfast.api.store import StoreHandle
from standfast.ops.types import Row

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

#: Who loses a race of compare-and-set waits before trying again, at random and longer each time:
#: without a pause, eight threads that update one document make some lose 50 times in a row.
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.25


class Calls(Protocol):
    """An object whose calls are coroutines, without a loop."""

    @property
    def handle(self) -> StoreHandle:
        """That of the store; not for users."""
        ...


C = TypeVar("C", bound=Calls)


class Blocking(Generic[C]):
    """A synchronous class: `calls` is its asynchronous twin, whose coroutines it drives."""

    def __init__(self, calls: C) -> None:
        self.calls = calls


class Each(AsyncIterator[R]):
    """What a call gives that returns an asynchronous iterator: what is made of each row of pages.

    A task takes one after the other; the driver, which would be paid for each, takes the pages.
    """

    def __init__(self, pages: AsyncIterator[Sequence[Row]], made: Callable[[Row], R]) -> None:
        self.pages = pages
        self.made = made
        self._rows = self._each()

    async def _each(self) -> AsyncGenerator[R, None]:
        made = self.made
        async for page in self.pages:
            for row in page:
                yield made(row)

    def __aiter__(self) -> AsyncIterator[R]:
        return self._rows

    def __anext__(self) -> Coroutine[Any, Any, R]:
        return self._rows.__anext__()

    async def aclose(self) -> None:
        """End it: what is left is not read."""
        await self._rows.aclose()


def drive(call: Coroutine[Any, Any, R], calls: Calls) -> R:
    """Run a coroutine to its end in this thread, waiting for each promise that it yields."""
    try:
        step = call.send(None)
        while True:
            try:
                value = step.wait(calls.handle.engine.call_timeout_s)
            except BaseException as error:
                step = call.throw(error)
            else:
                step = call.send(value)
    except StopIteration as done:
        return done.value


def blocking(
    call: Callable[Concatenate[A, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]:
    """The synchronous method of a coroutine: it returns when the call is done."""

    @wraps(call)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return drive(call(self.calls, *args, **kwargs), self.calls)

    return _synchronous(method)


def plain(
    call: Callable[Concatenate[A, P], R],
) -> Callable[Concatenate[Any, P], R]:
    """The same method of the synchronous class, of a call that waits for nothing."""

    @wraps(call)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return call(self.calls, *args, **kwargs)

    return _synchronous(method)


def iterating(
    call: Callable[Concatenate[A, P], AsyncIterator[R]],
) -> Callable[Concatenate[Any, P], Iterator[R]]:
    """The synchronous method of a call that gives an asynchronous iterator."""

    def each(rows: AsyncIterator[R], calls: Calls) -> Iterator[R]:
        assert isinstance(rows, Each), "its pages are asked for"
        while True:
            try:
                page = drive(_next(rows.pages), calls)
            except StopAsyncIteration:
                return
            yield from map(rows.made, page)

    @wraps(call)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return each(call(self.calls, *args, **kwargs), self.calls)

    return _synchronous(method)


def _next(rows: AsyncIterator[R]) -> Coroutine[Any, Any, R]:
    step: Any = rows.__anext__()  # that of a generator has `send` and `throw`, as a coroutine
    return step


def _synchronous(method: Callable[P, R]) -> Callable[P, R]:
    """Name a method after its own class, and its result by what it is without waiting."""
    named: Any = method
    named.__qualname__ = named.__qualname__.removeprefix("Async")
    signature = inspect.signature(method)
    result = str(signature.return_annotation).removeprefix("Async")
    named.__annotations__ = {**named.__annotations__, "return": result}
    named.__signature__ = signature.replace(return_annotation=result)
    return method


async def pause_before(attempt: int, loop: asyncio.AbstractEventLoop | None) -> None:
    """Wait before every attempt of a compare-and-set but the first."""
    if not attempt:
        return
    pause_s = random.random() * min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
    if loop is None:
        time.sleep(pause_s)
    else:
        await asyncio.sleep(pause_s)
