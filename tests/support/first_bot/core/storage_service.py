"""The older bot's storage service: its own tables in PostgreSQL, or in `storage/fallback.db`.

It knows both layouts of `persisted_views`: one row `default` for all guilds, and a row for each.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KEYS = {"persisted_views": "key", "waitlist_data": "guild_id"}
SHAPE = (
    "CREATE TABLE IF NOT EXISTS {table} ({key} TEXT PRIMARY KEY, data {json},"
    " created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,"
    " updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
)


class StorageError(Exception):
    """The older bot's only kind of error."""


class UnifiedStorageService:
    """Rows of JSON by key, in whichever database there is."""

    def __init__(self) -> None:
        self.url = os.environ.get("DATABASE_URL")
        self.path = Path("storage") / "fallback.db"
        self.path.parent.mkdir(exist_ok=True)
        for table, key in KEYS.items():
            kind = "JSONB" if self.url else "TEXT NOT NULL"
            self._run(SHAPE.format(table=table, key=key, json=kind))

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self.url:
            import psycopg

            with psycopg.connect(self.url) as conn:
                yield conn
            return
        conn = sqlite3.connect(self.path)
        try:
            with conn:
                yield conn
        finally:
            conn.close()

    def _run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._connection() as conn:
            cursor = conn.execute(statement.replace("?", "%s") if self.url else statement, values)
            return cursor.fetchall() if cursor.description else []

    def _rows(self, table: str) -> dict[str, Any]:
        rows = self._run(f"SELECT {KEYS[table]}, data FROM {table}")
        return {key: json.loads(data) if isinstance(data, str) else data for key, data in rows}

    def _put(self, table: str, key: str, data: Any) -> None:
        self._run(
            f"INSERT INTO {table} ({KEYS[table]}, data, updated_at)"
            f" VALUES (?, ?, CURRENT_TIMESTAMP) ON CONFLICT ({KEYS[table]})"
            " DO UPDATE SET data = EXCLUDED.data, updated_at = CURRENT_TIMESTAMP",
            *(key, json.dumps(data)),
        )

    def get_persisted_views(self) -> dict[str, Any]:
        """All guilds, from either layout."""
        rows = self._rows("persisted_views")
        return rows.get("default", rows)

    def save_persisted_views(self, data: dict[str, Any]) -> None:
        """Everything, in the layout that is there."""
        rows = self._rows("persisted_views")
        if rows and "default" not in rows:
            for key, value in data.items():
                self._put("persisted_views", key, value)
        else:
            self._put("persisted_views", "default", data)

    def get_waitlist_data(self) -> dict[str, Any]:
        """The waitlists of all guilds."""
        return self._rows("waitlist_data")

    def save_waitlist_data(self, data: dict[str, Any]) -> None:
        """Writes what is given."""
        for key, value in data.items():
            self._put("waitlist_data", key, value)

    def get_data(self, table: str, key: str) -> Any:
        """One row, or None."""
        return self._rows(table).get(key)

    def set_data(self, table: str, key: str, data: Any) -> None:
        """Replaces one row."""
        self._put(table, key, data)

    def get_storage_status(self) -> dict[str, Any]:
        """Counts."""
        return {
            "postgres_available": bool(self.url),
            "persisted_views_count": len(self.get_persisted_views()),
            "waitlist_data_count": len(self.get_waitlist_data()),
        }

    def cleanup_old_data(self, days: int = 30) -> dict[str, int]:
        """Nothing in this copy is ever that old."""
        return {f"{table}_deleted": 0 for table in KEYS}

    def backup_data(self, backup_path: str | None = None) -> str:
        """Everything in one file."""
        path = backup_path or f"storage/backup_{datetime.now(UTC):%Y%m%d_%H%M%S}.json"
        data = {table: self._rows(table) for table in KEYS}
        Path(path).write_text(json.dumps(data), encoding="utf-8")
        return path

    def close(self) -> None:
        """Each statement has a connection of its own here."""


_service: UnifiedStorageService | None = None


def get_storage_service() -> UnifiedStorageService:
    """The one instance."""
    global _service
    _service = _service or UnifiedStorageService()
    return _service


def close_storage_service() -> None:
    """Forget it."""
    global _service
    _service = None
