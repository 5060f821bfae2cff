"""Outages for tests of code that uses a store: the store does not reach its primary.

    store = standfast.open("memory://", data_dir=tmp_path)
    with outage(store):
        ...     # writes are journaled, reads come from the mirror, conditions need the primary
    ...         # everything was replayed

It is the engine of a real store that goes through the outage.  With PostgreSQL, the connections of
this store are cut, and no others are made; the server and everybody else are left alone.
"""

from __future__ import annotations

import time
from types import TracebackType

from standfast.api.aio import AsyncStore
from standfast.api.sync import Store
from standfast.backends.memory import MemoryServer
from standfast.backends.postgres.session import Sessions
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

    For stores on PostgreSQL, and those that were opened with `memory://` and a `data_dir`, as the
    fixtures are; ConfigError for others, which have no outages.  Other processes, and other stores,
    still reach the database.  End it with `restore(store)`, or use it as a context manager.
    """
    engine = _engine(store)
    _cut(engine, is_cut=True)
    engine.primary_missed("connection")
    _wait(engine, Mode.JOURNALING)
    return Outage(store)


def restore(store: Store | AsyncStore) -> None:
    """Bring the primary back: when this returns, everything that was journaled is there.

    DeadlineExceeded when that takes too long; see `store.health()`.
    """
    engine = _engine(store)
    _cut(engine, is_cut=False)
    engine.connect_soon()
    _wait(engine, Mode.DIRECT)


def _engine(store: Store | AsyncStore) -> ReplicatedEngine:
    engine = (store.calls if isinstance(store, Store) else store).engine
    if not isinstance(engine, ReplicatedEngine):
        raise ConfigError(
            f"an outage of {engine.primary.display} cannot be made: its primary is local",
            code="usage",
            hint="open the store with memory:// and a data_dir, or with the URL of a PostgreSQL",
        )
    return engine


def _cut(engine: ReplicatedEngine, *, is_cut: bool) -> None:
    primary: object = engine.primary
    if isinstance(primary, MemoryServer | Sessions):
        primary.cut(is_cut=is_cut)


def _wait(engine: ReplicatedEngine, mode: Mode) -> None:
    until = time.monotonic() + _DEADLINE_S
    while engine.mode is not mode:
        if time.monotonic() > until:
            raise DeadlineExceeded(
                f"the store is still {engine.mode} after {_DEADLINE_S:g} s",
                hint="store.health() says why",
            )
        time.sleep(_LOOK_S)
