"""Databases of the tests for backups."""

from __future__ import annotations

import msgspec

from standfast.admin.backup.databases import snapshot
from standfast.api.opening import backend_for
from standfast.backends.base import Backend
from standfast.backends.copying import Stored
from standfast.config.settings import load_settings


def backend_of(url: str) -> Backend:
    """The backend of a URL; the caller closes it."""
    return backend_for(load_settings(url).target)


def rows_of(url: str) -> dict[str, list[Stored]]:
    """Everything that is live in a database, by collection."""
    backend = backend_of(url)
    try:
        return rows_in(backend)
    finally:
        backend.close()


def rows_in(backend: Backend) -> dict[str, list[Stored]]:
    """The same of a backend; without what only PostgreSQL knows of a text."""
    with snapshot(backend) as source:
        return {
            each.name: [msgspec.structs.replace(row, exact=None) for row in source.rows(each.name)]
            for each in source.collections()
        }
