"""How a call is driven: it is a generator that yields what it waits for.

`blocking(call)` makes a face's method that blocks of it, `awaited(call)` one that is awaited; the
meaning, the signature and the documentation are the same.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from standfast.engine.interfaces import Engine

P = ParamSpec("P")
R = TypeVar("R")
Steps = Generator[Any, Any, R]
"""A call on its way: it yields promises and pauses, is sent their values, and returns R."""

#: Who loses a race of compare-and-set waits before trying again, at random and longer each time:
#: without a pause, eight threads that update one document make some lose 50 times in a row.
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.25


class Pause:
    """A wait of so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def wait(self, timeout_s: float) -> None:
        """Block for that long."""
        time.sleep(self._seconds)

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.sleep(self._seconds).__await__()


def pause_before(attempt: int) -> Steps[None]:
    """Wait before every attempt of a compare-and-set but the first."""
    if attempt:
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
        yield Pause(random.random() * longest)


class Caller(Protocol):
    """Whoever makes calls: an engine, and the event loop that answers go to (None: a thread)."""

    @property
    def engine(self) -> Engine:
        """The engine, a fresh one in a forked child."""
        ...

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The running event loop, for the asynchronous face."""
        ...


def blocking(
    call: Callable[Concatenate[Any, P], Steps[R]],
) -> Callable[Concatenate[Any, P], R]:
    """The method that blocks until the call is done."""

    @wraps(call)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        steps = call(self.calls, *args, **kwargs)
        try:
            step = next(steps)
            while True:
                try:
                    value = step.wait(self.calls.engine.call_timeout_s)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as done:
            return done.value

    return method


def awaited(
    call: Callable[Concatenate[Any, P], Steps[R]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """The method that is awaited until the call is done."""

    @wraps(call)
    async def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        steps = call(self.calls, *args, **kwargs)
        try:
            step = next(steps)
            while True:
                try:
                    value = await step
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as done:
            return done.value

    return method


def plain(call: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The method of a call that waits for nothing."""

    @wraps(call)
    def method(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
        return call(self.calls, *args, **kwargs)

    return method
