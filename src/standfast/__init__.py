"""Your app's JSON files, safely in a database: move, hold, run.

`standfast.open()` gives a store of collections of JSON documents, in PostgreSQL or SQLite.
The command `standfast migrate` moves existing JSON files there.
"""

from __future__ import annotations

import os

from standfast.document.query import ge, gt, le, lt
from standfast.document.values import MISSING, UNCHANGED, Unchanged
from standfast.errors import (
    ConfigError,
    ConflictError,
    CorruptData,
    DataError,
    DeadlineExceeded,
    MigrationError,
    StandfastError,
    Unavailable,
)
from standfast.ops.types import Document, ProvisionalVersion, Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from standfast.api.aio import AsyncStore, Opening
    from standfast.api.async_collection import AsyncCollection
    from standfast.api.batch import AsyncBatch
    from standfast.api.store import WriteOutcome
    from standfast.api.sync import Batch, Collection, Store
    from standfast.engine.activity import Rejected
    from standfast.engine.background import StateChange
    from standfast.engine.health import Health
    from standfast.engine.local_state import Fallback
    from standfast.engine.refusals import Refused
    from standfast.jsonfile import AsyncJsonFile, JsonFile, Saved
    from standfast.ops.reconcile import OnConflict

__version__ = "0.1.0"


def open(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
    fallback: Fallback = "read-write",
    sole_writer: bool = False,
    max_stale_s: float | None = None,
    on_conflict: OnConflict = "mine",
    local_durability: Literal["normal", "full"] = "normal",
    max_journal_ops: int | None = None,
    max_journal_bytes: int | None = None,
    max_connections: int | None = None,
    max_snapshot_bytes: int | None = None,
    on_time_travel: Literal["reapply", "hold"] = "reapply",
) -> Store:
    """Open a store; use it as a context manager or call its `close()`.

    `url`: PostgreSQL (`postgresql://...`) or SQLite (`sqlite:///path`); default: the environment's
    STANDFAST_DATABASE_URL or DATABASE_URL, else SQLite in the data directory.  `memory://`, for
    tests, is a database that ends with its store; with a `data_dir` it can be away, see
    `standfast.testing`.  `data_dir`: local
    files, default STANDFAST_DATA_DIR or `./storage`.  `deadline_s`: how long a call may wait for
    the primary, default 1.0.

    The rest is for PostgreSQL, and says what happens while it does not answer.  `fallback`:
    "read-write" keeps both working, "read-only" refuses writes, "off" refuses both.  `sole_writer`:
    this data directory alone writes these collections, so that conditions can be judged here.
    `max_stale_s`: older local knowledge than that is not served.  `on_conflict`: who wins when a
    write from the journal meets another one: "mine", "theirs", "newest", or a function
    `(base, mine, theirs) -> value`.  `local_durability`: "full" makes local knowledge survive a
    power cut at once.  `max_journal_ops`, `max_journal_bytes`: how much the journal holds before
    writes are refused (default 1,000,000 and 1 GiB).  `max_connections`: how many connections this
    store has to PostgreSQL (default 3); with fewer, writes, reads and replays wait for each other.
    `max_snapshot_bytes`: collections up to this size get a snapshot (default 16 MiB).
    `on_time_travel`: after a failover to a standby that had not received the last writes, "reapply"
    sends those of the last ten minutes again, "hold" waits for `standfast doctor --adopt`.

    A PostgreSQL that does not answer is not an error, unless `fallback="off"`: the store begins
    with its journal and its mirror.  Raises ConfigError for a wrong URL or directory, Unavailable
    when the database answers with a refusal.
    """
    from standfast.api.opening import open_store, outage_options

    options = outage_options(
        fallback=fallback,
        sole_writer=sole_writer,
        max_stale_s=max_stale_s,
        on_conflict=on_conflict,
        local_durability=local_durability,
        max_journal_ops=max_journal_ops,
        max_journal_bytes=max_journal_bytes,
        max_connections=max_connections,
        max_snapshot_bytes=max_snapshot_bytes,
        on_time_travel=on_time_travel,
    )
    return open_store(url, data_dir=data_dir, deadline_s=deadline_s, options=options)


def open_async(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
    fallback: Fallback = "read-write",
    sole_writer: bool = False,
    max_stale_s: float | None = None,
    on_conflict: OnConflict = "mine",
    local_durability: Literal["normal", "full"] = "normal",
    max_journal_ops: int | None = None,
    max_journal_bytes: int | None = None,
    max_connections: int | None = None,
    max_snapshot_bytes: int | None = None,
    on_time_travel: Literal["reapply", "hold"] = "reapply",
) -> Opening:
    """Open an asynchronous store: `async with standfast.open_async() as store:`, or await it.

    The arguments, errors and guarantees are those of `open`.
    """
    from standfast.api.opening import open_async_store, outage_options

    options = outage_options(
        fallback=fallback,
        sole_writer=sole_writer,
        max_stale_s=max_stale_s,
        on_conflict=on_conflict,
        local_durability=local_durability,
        max_journal_ops=max_journal_ops,
        max_journal_bytes=max_journal_bytes,
        max_connections=max_connections,
        max_snapshot_bytes=max_snapshot_bytes,
        on_time_travel=on_time_travel,
    )
    return open_async_store(url, data_dir=data_dir, deadline_s=deadline_s, options=options)


#: Names that are loaded when they are first used, and where they are.
_LAZY = {
    "AsyncBatch": "api.batch",
    "AsyncCollection": "api.async_collection",
    "AsyncJsonFile": "jsonfile",
    "AsyncStore": "api.aio",
    "Batch": "api.sync",
    "Collection": "api.sync",
    "Health": "engine.health",
    "JsonFile": "jsonfile",
    "Opening": "api.aio",
    "Refused": "engine.refusals",
    "Rejected": "engine.activity",
    "Saved": "jsonfile",
    "StateChange": "engine.background",
    "Store": "api.sync",
    "WriteOutcome": "api.store",
}

__all__ = [
    "MISSING",
    "UNCHANGED",
    "AsyncBatch",
    "AsyncCollection",
    "AsyncJsonFile",
    "AsyncStore",
    "Batch",
    "Collection",
    "ConfigError",
    "ConflictError",
    "CorruptData",
    "DataError",
    "DeadlineExceeded",
    "Document",
    "Health",
    "JsonFile",
    "MigrationError",
    "Opening",
    "ProvisionalVersion",
    "Receipt",
    "Refused",
    "Rejected",
    "Saved",
    "StandfastError",
    "StateChange",
    "Store",
    "Unavailable",
    "Unchanged",
    "WriteOutcome",
    "__version__",
    "ge",
    "gt",
    "le",
    "lt",
    "open",
    "open_async",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"standfast.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'standfast' has no attribute {name!r}")
