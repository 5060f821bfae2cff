"""From settings to an open store: which backend, in which file or database."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from holdfast.backends.base import Backend
from holdfast.engine.inline import InlineEngine
from holdfast.errors import ConfigError
from holdfast.settings import EMBEDDED_FILE, Settings, Target, load_settings
from holdfast.store import Store

logger = logging.getLogger("holdfast")


def open_store(
    url: str | None = None,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    deadline_s: float | None = None,
) -> Store:
    """Open a store: the one that `holdfast.open` describes."""
    settings = load_settings(url, data_dir=data_dir, deadline_s=deadline_s)
    for warning in settings.target.warnings:
        logger.warning("%s: %s", settings.source, warning)
    backend = backend_for(settings.target)
    try:
        if settings.target.kind != "sqlite":
            refuse_to_hide(settings)
        backend.check()
    except BaseException:
        backend.close()
        raise
    logger.info("opened %s, data directory %s", backend.display, settings.data_dir.resolve())
    return Store(InlineEngine(backend))


def backend_for(target: Target) -> Backend:
    """The backend of a target; nothing is opened yet.  psycopg is imported only for PostgreSQL."""
    if target.kind == "sqlite":
        from holdfast.backends.sqlite import SqliteBackend

        return SqliteBackend(target.path)
    from holdfast.backends.postgres import PostgresBackend

    return PostgresBackend(target)


def refuse_to_hide(settings: Settings) -> None:
    """Refuse a PostgreSQL URL while the data directory holds documents of an embedded database.

    They would seem to have vanished, and two histories would grow apart.
    """
    path = embedded_path(settings)
    if not path.exists():
        return
    from holdfast.backends.sqlite import SqliteBackend

    backend = SqliteBackend(path)
    try:
        count = sum(backend.count(name) for name in backend.collections())
    finally:
        backend.close()
    if count:
        raise ConfigError(
            f"{settings.source} names PostgreSQL, but {path} is an embedded database with"
            f" {count} documents, which would be hidden",
            code="embedded_data",
            hint="to move them: unset the URL, `holdfast export` each collection, and `holdfast"
            " migrate` the files with --to; or use another data directory (HOLDFAST_DATA_DIR)",
        )


def embedded_path(settings: Settings) -> Path:
    """Where the embedded database of a data directory is."""
    return settings.data_dir / EMBEDDED_FILE
