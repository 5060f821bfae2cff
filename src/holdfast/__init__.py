"""Your app's JSON files, safely in a database: move, hold, run.

`holdfast.open()` gives a store of collections of JSON documents, in PostgreSQL or SQLite.
The command `holdfast migrate` moves existing JSON files there.
"""

from __future__ import annotations

import os

from holdfast.errors import (
    ConfigError,
    ConflictError,
    CorruptData,
    DataError,
    DeadlineExceeded,
    HoldfastError,
    MigrationError,
    Unavailable,
)
from holdfast.types import Document, Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdfast.store import Batch, Collection, Store

__version__ = "0.1.0"


def open(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
) -> Store:
    """Open a store; use it as a context manager or call its `close()`.

    `url`: PostgreSQL (`postgresql://...`) or SQLite (`sqlite:///path`); default: the environment's
    HOLDFAST_DATABASE_URL or DATABASE_URL, else SQLite in the data directory.  `data_dir`: local
    files, default HOLDFAST_DATA_DIR or `./storage`.  `deadline_s`: how long a call may wait for the
    primary, default 1.0.

    Raises ConfigError for a wrong URL or directory and Unavailable when the database does not
    answer.
    """
    from holdfast.opening import open_store

    return open_store(url, data_dir=data_dir, deadline_s=deadline_s)


__all__ = [
    "Batch",
    "Collection",
    "ConfigError",
    "ConflictError",
    "CorruptData",
    "DataError",
    "DeadlineExceeded",
    "Document",
    "HoldfastError",
    "MigrationError",
    "Receipt",
    "Store",
    "Unavailable",
    "__version__",
    "open",
]


def __getattr__(name: str) -> object:
    if name in ("Batch", "Collection", "Store"):
        from holdfast import store

        return getattr(store, name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
