"""Outages for tests of code that uses a store: the primary of a store in memory goes away.

    store = standfast.open("memory://", data_dir=tmp_path)
    with outage(store):
        ...     # writes are journaled, reads come from the mirror, conditions need the primary
    ...         # everything was replayed

It is the engine of a real store that goes through the outage; only the database is not real.
"""

from __future__ import annotations

import time
from types import TracebackType

from standfast.api.aio import AsyncStore
from standfast.api.sync import Store
from standfast.backends.memory import MemoryServer
from standfast.engine.replicated import ReplicatedEngine
from standfast.engine.state_machine import Mode
from standfast.errors import ConfigError, DeadlineExceeded

#: How long an outage may take to begin, or to end: writes are replayed meanwhile.
_DEADLINE_S = 30.0
_LOOK_S = 0.001


class Outage:
    """An outage that has begun; as a context manager it ends with its block."""

    def __init__(self, store: Store | AsyncStore) -> None:
        self._store = store

    def __enter__(self) -> Outage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        restore(self._store)


def outage(store: Store | AsyncStore) -> Outage:
    """Take the primary away: when this returns, the store knows that it does not answer.

    For stores that were opened with `memory://` and a `data_dir`, as the fixtures are; ConfigError
    for others.  End it with `restore(store)`, or use it as a context manager.
    """
    engine, server = _parts(store)
    server.is_away = True
    engine.primary_missed("connection")
    _wait(engine, Mode.JOURNALING)
    return Outage(store)


def restore(store: Store | AsyncStore) -> None:
    """Bring the primary back: when this returns, everything that was journaled is there.

    DeadlineExceeded when that takes too long; see `store.health()`.
    """
    engine, server = _parts(store)
    server.is_away = False
    engine.connect_soon()
    _wait(engine, Mode.DIRECT)


def _parts(store: Store | AsyncStore) -> tuple[ReplicatedEngine, MemoryServer]:
    engine = (store.calls if isinstance(store, Store) else store).engine
    server: object = engine.primary
    if not isinstance(engine, ReplicatedEngine) or not isinstance(server, MemoryServer):
        raise ConfigError(
            f"an outage of {engine.primary.display} cannot be made",
            code="usage",
            hint="open the store with memory:// and a data_dir, or stop the database itself",
        )
    return engine, server


def _wait(engine: ReplicatedEngine, mode: Mode) -> None:
    until = time.monotonic() + _DEADLINE_S
    while engine.mode is not mode:
        if time.monotonic() > until:
            raise DeadlineExceeded(
                f"the store is still {engine.mode} after {_DEADLINE_S:g} s",
                hint="store.health() says why",
            )
        time.sleep(_LOOK_S)
