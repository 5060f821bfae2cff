"""The thread that makes the connections of an engine, and reports to the writer what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from standfast.backends.base import Backend
from standfast.engine.background import Timer
from standfast.engine.interfaces import EngineContext
from standfast.engine.state_machine import Connected, Mode, NotConnected
from standfast.errors import ConfigError, CorruptData, StandfastError, Unavailable
from standfast.limits import CONNECT_DEADLINE_S
from standfast.ops.types import ServerIdentity
from standfast.system.failpoints import failpoint

#: Codes of answers that waiting rarely changes: asked again more slowly.
_REFUSALS = frozenset({"auth", "tls", "not_postgresql", "other_database", "went_back"})
#: Pause before another attempt for a connection that is missing while the others work.
_MISSING_PAUSE_S = 0.5


class Connector:
    """Keeps the backends of an engine connected while they are needed.

    The other threads never wait for a connection to be made: a far server needs its time, and a
    resolver of names keeps no deadline.
    """

    def __init__(self, context: EngineContext, backends: Sequence[Backend]) -> None:
        self._context = context
        self._backends = list(dict.fromkeys(backends))
        self._locks = {backend: threading.Lock() for backend in self._backends}
        self._first = threading.Event()
        self._progress = threading.Condition()
        self._begun = self._ended = 0
        self._failure: StandfastError | None = None
        self.timer = Timer("standfast-connector", self._attempt, context.supervisor)

    def begin(self, timeout_s: float) -> StandfastError | None:
        """Start the thread, and wait for the end of its first attempt, but not for longer.

        Returns why it failed, or that it is still under way.
        """
        self.timer.thread.start()
        self.timer.schedule(time.monotonic())
        if self._first.wait(timeout_s):
            return self._failure
        return Unavailable(
            f"no connection within {timeout_s:.1f} s", code="connection", hint="it is being made"
        )

    def _attempt(self) -> None:
        """Make the missing connections, and report the result to the writer."""
        with self._progress:
            self._begun += 1
            mine = self._begun
        try:
            # One by itself: what is refused is then refused once.
            self._make(self._backends[0])
            self._make_all(self._backends[1:])
        except StandfastError as error:
            self._failure = error
            self._context.activity.failed(error)
            refused = error.code in _REFUSALS or isinstance(error, ConfigError | CorruptData)
            self._context.post(NotConnected(error.code, refused))
            if self._context.mode is not Mode.JOURNALING:
                self.timer.schedule(time.monotonic() + _MISSING_PAUSE_S)
        else:
            self._failure = None
            self._context.post(Connected())
        finally:
            self._first.set()
            with self._progress:
                self._ended = mine
                self._progress.notify_all()

    def _make_all(self, backends: Sequence[Backend]) -> None:
        """Side by side: each takes several round trips."""
        failures: list[BaseException] = []

        def make(backend: Backend) -> None:
            try:
                self._make(backend)
            except BaseException as error:
                failures.append(error)

        threads = [
            threading.Thread(target=make, args=(one,), name="standfast-connect", daemon=True)
            for one in backends
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _make(self, backend: Backend) -> None:
        """In JOURNALING every connection is made anew: the old ones are what failed."""
        with self._locks[backend]:
            if self._context.mode is Mode.JOURNALING or not backend.connected:
                self._connect(backend, time.monotonic() + CONNECT_DEADLINE_S)
        with self._progress:
            self._progress.notify_all()

    def renew(self, backend: Backend, deadline: float) -> bool:
        """Have a connection that has ended made anew, and wait for that; whether it is there."""
        with self._progress:
            first = self._begun + 1  # one that has begun may have passed this backend
            self.timer.schedule(time.monotonic())
            while not backend.connected and self._ended < first:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._progress.wait(left_s):
                    break
        return backend.connected

    def ensure(self, backend: Backend, deadline: float) -> None:
        """Make this connection if it is missing, in the caller's thread, by the caller's deadline.

        `Unavailable("connection")` when it is still being made then.
        """
        if backend.connected:
            return
        lock = self._locks.setdefault(backend, threading.Lock())
        if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("there is no connection", code="connection", hint="it is being made")
        try:
            if not backend.connected:
                self._connect(backend, deadline)
        finally:
            lock.release()

    def _connect(self, backend: Backend, deadline: float) -> None:
        self._context.refuse_held()
        expected = self._context.local_state.lanes_to_check()
        backend.connect(
            deadline,
            accept=lambda found: self._recognise(found, expected),
            lanes=list(expected),
        )
        failpoint("connected")

    def _recognise(self, found: ServerIdentity, expected: Mapping[str, int]) -> None:
        """Refuse a database that is not the journal's before any thread can write to it (I9)."""
        if self._context.local_state.recognise(found, expected=expected):
            self._context.hold_off(None)
