"""The connector thread: makes the connections that the other threads use, and says who answered.

The other threads never wait for a connection to be made: libpq cannot keep a short deadline, and a
resolver keeps none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from standfast.backends.base import Backend
from standfast.engine.background import Timer
from standfast.engine.interfaces import EngineContext
from standfast.engine.state_machine import Connected, Mode, NotConnected
from standfast.errors import ConfigError, CorruptData, StandfastError
from standfast.limits import CONNECT_DEADLINE_S
from standfast.ops.types import ServerIdentity
from standfast.system.failpoints import failpoint

#: Codes of answers that waiting rarely changes: asked again more slowly.
_REFUSALS = frozenset({"auth", "tls", "not_postgresql", "other_database", "went_back"})


class Connector:
    """Keeps the backends of an engine connected while they are needed."""

    def __init__(self, context: EngineContext, backends: Sequence[Backend]) -> None:
        self._context = context
        self._backends = list(dict.fromkeys(backends))
        self._lock = threading.Lock()
        self._reached = False
        self.timer = Timer("standfast-connector", self.attempt, failed=context.fail)

    def attempt(self) -> StandfastError | None:
        """Make the missing connections, and report the result to the writer."""
        try:
            for backend in self._backends:
                with self._lock:
                    if self._context.mode is Mode.JOURNALING or not backend.connected:
                        self._connect(backend, CONNECT_DEADLINE_S)
        except StandfastError as error:
            refused = error.code in _REFUSALS or isinstance(error, ConfigError | CorruptData)
            self._context.post(NotConnected(error.code, refused))
            if self._context.mode is not Mode.JOURNALING:
                self.timer.schedule(time.monotonic() + CONNECT_DEADLINE_S / 2)
            return error
        self._context.post(Connected())
        return None

    def ensure(self, backend: Backend, *, timeout_s: float) -> None:
        """Make this connection if it is missing, in the caller's thread."""
        with self._lock:
            if not backend.connected:
                self._connect(backend, timeout_s)

    def _connect(self, backend: Backend, timeout_s: float) -> None:
        """In JOURNALING every connection is made anew: the old ones are what failed."""
        self._context.refuse_held()
        backend.connect(time.monotonic() + timeout_s, accept=self._recognise)
        failpoint("connected")
        self._reached = True

    def _recognise(self, server_identity: ServerIdentity) -> None:
        """Refuse a database that is not the journal's before any thread can write to it (I9)."""
        self._context.local_state.recognise(server_identity, reached_before=self._reached)
