"""The bot's one storage service, over standfast: PostgreSQL, held up by local files in an outage.

`DATABASE_URL` names PostgreSQL; without it everything is in SQLite in `./storage`.  Errors are
standfast's: each has a code and a hint, and none is swallowed here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import standfast
from standfast.bot import AsyncBotStore, BotStore
from standfast.config.settings import load_settings
from standfast.system.files import make_directory, write_atomic

#: What a guild has until it sets something else.
SETTINGS = {"capacity": 16, "team_size": 2, "is_open": True}
VIEWS, WAITLIST, REGISTRATIONS = "persisted_views", "waitlist_data", "registrations"


class Loaded(dict[str, Any]):
    """A dict that knows what it was when it was loaded, so that two which overlap do not mix."""

    def __init__(self, file: standfast.JsonFile) -> None:
        super().__init__(file.load())
        self.file = file


class UnifiedStorageService:
    """One store for all of the bot's state, with its blocking and its asynchronous API.

    `sole_writer`: this bot is one process, so it may decide in an outage, too.
    """

    def __init__(self) -> None:
        self.store = standfast.open(sole_writer=True)
        self.async_store = self.store.as_async()
        self.bot = BotStore(self.store, settings=SETTINGS)
        self.async_bot = AsyncBotStore(self.async_store, settings=SETTINGS)
        self._last: dict[str, standfast.JsonFile] = {}

    def get_persisted_views(self) -> dict[str, Any]:
        """All guilds' views, as the JSON file held them."""
        return self._load(VIEWS)

    def save_persisted_views(self, data: dict[str, Any]) -> None:
        """Write what changed since they were got; others' changes are merged."""
        self._save(VIEWS, data)

    def get_waitlist_data(self) -> dict[str, Any]:
        """All guilds' waitlists, as the JSON file held them."""
        return self._load(WAITLIST)

    def save_waitlist_data(self, data: dict[str, Any]) -> None:
        """Write what changed since they were got; others' changes are merged."""
        self._save(WAITLIST, data)

    def _load(self, name: str) -> dict[str, Any]:
        loaded = Loaded(self._file(name))
        self._last[name] = loaded.file
        return loaded

    def _save(self, name: str, data: dict[str, Any]) -> None:
        if isinstance(data, Loaded):
            data.file.save(data)
        else:  # a copy: what was loaded last is what it is compared with
            self._last.setdefault(name, self._file(name)).save(data)

    def _file(self, name: str) -> standfast.JsonFile:
        return standfast.JsonFile(f"{name}.json", store=self.store)

    def get_data(self, table: str, key: str | int) -> Any:
        """One document, or None."""
        return self.store[table].get(key)

    def set_data(self, table: str, key: str | int, data: Any) -> None:
        """Replace one document."""
        self.store[table].put(key, data)

    def get_storage_status(self) -> dict[str, Any]:
        """How the storage is doing: its state, what waits for PostgreSQL, and counts."""
        health = self.store.health()
        status: dict[str, Any] = {
            "state": health.state,
            "primary": health.primary,
            "pending_writes": health.lag_ops,
        }
        for table in (VIEWS, WAITLIST):
            try:
                status[f"{table}_count"] = self.store[table].count()
            except standfast.Unavailable as error:
                status[f"{table}_count"] = None
                status["error"] = error.message
        return status

    def cleanup_old_data(
        self, days: float = 30, *, live_guilds: Iterable[int | str] | None = None
    ) -> list[str]:
        """Delete what is kept of guilds that the bot has left; returns their ids.

        `live_guilds` are those that it is in (`guild.id for guild in bot.guilds`).  Age alone is no
        reason: a guild that has not changed anything for a month is a guild all the same.
        """
        if live_guilds is None:
            raise ValueError("cleanup_old_data needs live_guilds: age alone deletes live guilds")
        live = {str(guild_id) for guild_id in live_guilds}
        gone = set(self.bot.guilds.cleanup(live, older_than_days=days))
        limit = datetime.now(UTC) - timedelta(days=days)
        registrations = self.store[REGISTRATIONS]
        for document in registrations.find({}):
            key = document.key
            if key in live or document.updated_at >= limit or not self.bot.allows(key):
                continue
            try:
                registrations.delete(key, if_version=document.version)
            except standfast.ConflictError:
                continue  # changed a moment ago: it stays
            gone.add(key)
        return sorted(gone)

    def backup_data(self, path: str | None = None) -> str:
        """Write every document into one JSON file, for its owner's eyes only; returns its path."""
        now = datetime.now(UTC)
        target = Path(
            path or load_settings().data_dir / f"backups/backup_{now:%Y%m%d_%H%M%S_%f}.json"
        )
        backup: dict[str, Any] = {"timestamp": now.isoformat()}
        for table in self.store.collections():
            backup[table] = dict(self.store[table].items())
        make_directory(target.absolute().parent)
        write_atomic(target, json.dumps(backup, indent=2).encode())
        return str(target)

    def close(self) -> None:
        """Close the store; what could not reach PostgreSQL is safe in the journal."""
        self.store.close()


_service: UnifiedStorageService | None = None
_lock = threading.Lock()


def get_storage_service() -> UnifiedStorageService:
    """The one storage service of the process; opened when it is first asked for."""
    global _service
    with _lock:
        if _service is None:
            _service = UnifiedStorageService()
        return _service


def close_storage_service() -> None:
    """Close the storage service, if it is open."""
    global _service
    with _lock:
        if _service is not None:
            _service.close()
            _service = None
