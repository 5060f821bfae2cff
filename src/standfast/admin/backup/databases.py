"""How a database is copied, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from standfast.backends.base import Backend
from standfast.backends.copying import Filling, Snapshot
from standfast.errors import ConfigError
from standfast.limits import MAX_SNAPSHOT_IDLE_S, MAX_SNAPSHOT_S


def snapshot(
    backend: Backend, *, limit_s: float = MAX_SNAPSHOT_S, idle_s: float = MAX_SNAPSHOT_IDLE_S
) -> AbstractContextManager[Snapshot]:
    """A snapshot of the database that is given up after `limit_s` seconds: while it is open, the
    database cannot tidy up behind its writers.  So it is when nothing was asked of it for
    `idle_s`, which shows that its reader hangs."""
    if backend.kind == "sqlite":
        from standfast.backends.sqlite import copying as sqlite_copying

        return sqlite_copying.snapshot(backend, limit_s)
    if backend.kind == "postgresql":
        from standfast.backends.postgres import copying as postgres_copying

        return postgres_copying.snapshot(backend, limit_s, idle_s)
    raise _unsupported(backend)


def closed_to_others(backend: Backend) -> AbstractContextManager[Snapshot]:
    """A snapshot of the database, to which nobody else writes until the block ends.

    Raises `Unavailable("locked")` when others use it.
    """
    if backend.kind == "sqlite":
        from standfast.backends.sqlite import copying as sqlite_copying

        return sqlite_copying.closed_to_others(backend)
    if backend.kind == "postgresql":
        from standfast.backends.postgres import copying as postgres_copying

        return postgres_copying.closed_to_others(backend)
    raise _unsupported(backend)


def filling(
    backend: Backend, run: str, state: str, collections: Sequence[str]
) -> AbstractContextManager[Filling]:
    """A transaction that fills these collections, and records the run when it commits.

    Raises `Unavailable("locked")` when another writer keeps one of them for too long.
    """
    if backend.kind == "sqlite":
        from standfast.backends.sqlite import copying as sqlite_copying

        return sqlite_copying.filling(backend, run, state, collections)
    if backend.kind == "postgresql":
        from standfast.backends.postgres import copying as postgres_copying

        return postgres_copying.filling(backend, run, state, collections)
    raise _unsupported(backend)


def _unsupported(backend: Backend) -> ConfigError:
    return ConfigError(
        f"{backend.display} cannot be copied", code="usage", hint="name a PostgreSQL or SQLite URL"
    )
