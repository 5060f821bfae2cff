"""The bot's storage service, in the place of an older bot's `core/storage_service.py`.

It needs no other module of the bot.  `DATABASE_URL` names PostgreSQL, which the local files of
`./storage` hold up during an outage; without it everything is in SQLite in `./storage`.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from standfast import StandfastError
from standfast.bot import GuildDocuments, close_shared, shared
from standfast.config.settings import load_settings
from standfast.system.files import make_directory, write_atomic

P = ParamSpec("P")
R = TypeVar("R")
VIEWS, WAITLIST = "persisted_views", "waitlist_data"
FILES = {VIEWS: "persisted_views.json", WAITLIST: "waitlist_data.json"}


class StorageError(Exception):
    """The storage could not do it; the cause says why."""


def _stored(method: Callable[P, R]) -> Callable[P, R]:
    """Every failure of the store as a StorageError."""

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except StandfastError as error:
            raise StorageError(f"{error.message} ({error.hint})") from error

    return run


def _documents(table: str) -> GuildDocuments:
    return shared().documents(table, file=FILES.get(table))


def _checked(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError("the data must be a dictionary")
    return data


class UnifiedStorageService:
    """All of the bot's data; in a development process those of its guild alone."""

    @_stored
    def get_persisted_views(self) -> dict[str, Any]:
        """All guilds' views."""
        return _documents(VIEWS).load()

    @_stored
    def save_persisted_views(self, data: dict[str, Any]) -> None:
        """Write what changed in a dict that `get_persisted_views` gave; removed guilds go."""
        _documents(VIEWS).save(_checked(data))

    @_stored
    def get_waitlist_data(self) -> dict[str, Any]:
        """All guilds' waitlists."""
        return _documents(WAITLIST).load()

    @_stored
    def save_waitlist_data(self, data: dict[str, Any]) -> None:
        """Write the waitlists of these guilds; those of others stay as they are."""
        _documents(WAITLIST).save(_checked(data), delete=False)

    @_stored
    def get_data(self, table: str, key: str) -> Any:
        """One document, or None."""
        return _documents(table).get(key)

    @_stored
    def set_data(self, table: str, key: str, data: Any) -> None:
        """Replace one document."""
        _documents(table).put(key, data)

    def get_storage_status(self) -> dict[str, Any]:
        """How the storage is doing, what waits for PostgreSQL, and how many guilds there are."""
        status: dict[str, Any] = {"persisted_views_count": 0, "waitlist_data_count": 0}
        try:
            health = shared().store.health()
            is_remote = not health.primary.startswith("sqlite:")
            status |= {
                "postgres_available": is_remote and health.state == "direct",
                "sqlite_fallback": True,
                "sqlite_path": str(load_settings().data_dir.resolve()),
                "state": health.state,
                "pending_writes": health.lag_ops,
                "persisted_views_count": len(self.get_persisted_views()),
                "waitlist_data_count": len(self.get_waitlist_data()),
            }
        except (StandfastError, StorageError) as error:
            status["error"] = str(error)
        return status

    @_stored
    def cleanup_old_data(self, days: int = 30) -> dict[str, int]:
        """Delete what nobody has changed for so many days; how many documents of each kind."""
        return {f"{table}_deleted": _documents(table).delete_older(days) for table in FILES}

    @_stored
    def backup_data(self, backup_path: str | None = None) -> str:
        """Write all data into one JSON file, for its owner's eyes only; returns its path."""
        now = datetime.now(UTC)
        name = f"backup_{now:%Y%m%d_%H%M%S_%f}.json"
        path = Path(backup_path) if backup_path else load_settings().data_dir / name
        backup = {
            "timestamp": now.isoformat(),
            "storage_status": self.get_storage_status(),
            VIEWS: self.get_persisted_views(),
            WAITLIST: self.get_waitlist_data(),
        }
        make_directory(path.absolute().parent)
        write_atomic(path, json.dumps(backup, indent=2, ensure_ascii=False).encode())
        return str(path)

    def close(self) -> None:
        """Close the store; what could not reach PostgreSQL is safe in the journal."""
        close_shared()


_service: UnifiedStorageService | None = None
_lock = threading.Lock()


def get_storage_service() -> UnifiedStorageService:
    """The one storage service of the process."""
    global _service
    with _lock:
        if _service is None:
            _service = UnifiedStorageService()
        return _service


def close_storage_service() -> None:
    """Close the storage service, if there is one; the next call opens it again."""
    global _service
    with _lock:
        if _service is not None:
            _service.close()
            _service = None
