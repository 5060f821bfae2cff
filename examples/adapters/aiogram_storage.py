"""aiogram's finite-state machine on a standfast collection.

    dispatcher = Dispatcher(storage=StandfastStorage(store, ttl_s=timedelta(days=30)))

State and data of a conversation are one document, `{"state": ..., "data": {...}}`; each call writes
its own place in it, so a state that is set beside an update of the data is never lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from aiogram.fsm.state import State
from aiogram.fsm.storage.base import BaseStorage, DefaultKeyBuilder, StorageKey

import standfast


class StandfastStorage(BaseStorage):
    """A storage of aiogram; with `ttl_s` a conversation ends that long after its last change."""

    def __init__(
        self,
        store: standfast.AsyncStore,
        collection: str = "aiogram_fsm",
        *,
        ttl_s: float | timedelta | None = None,
    ) -> None:
        self._store = store
        self._rows = store[collection]
        self._ttl_s = ttl_s
        self._keys = DefaultKeyBuilder(
            with_bot_id=True, with_business_connection_id=True, with_destiny=True
        )

    async def _set(self, key: StorageKey, pointer: str, value: Any) -> None:
        built = self._keys.build(key)
        async with self._store.batch() as batch:
            batch.set(self._rows.name, built, pointer, value)
            if self._ttl_s is not None:
                batch.touch(self._rows.name, built, self._ttl_s)

    async def _get(self, key: StorageKey, name: str) -> Any:
        return (await self._rows.get(self._keys.build(key), {})).get(name)

    async def set_state(self, key: StorageKey, state: str | State | None = None) -> None:
        """Set or forget the state."""
        await self._set(key, "/state", state.state if isinstance(state, State) else state)

    async def get_state(self, key: StorageKey) -> str | None:
        """The state, or None."""
        return await self._get(key, "state")

    async def set_data(self, key: StorageKey, data: Mapping[str, Any]) -> None:
        """Replace the data."""
        await self._set(key, "/data", dict(data))

    async def get_data(self, key: StorageKey) -> dict[str, Any]:
        """The data, `{}` when there is none."""
        return await self._get(key, "data") or {}

    async def update_data(self, key: StorageKey, data: Mapping[str, Any]) -> dict[str, Any]:
        """Add to the data, in one step: two handlers lose nothing of each other's."""

        def updated(row: dict[str, Any]) -> dict[str, Any]:
            return {**row, "data": {**row.get("data", {}), **data}}

        row = await self._rows.update(self._keys.build(key), updated, default={})
        return row["data"]

    async def close(self) -> None:
        """The store is closed by whoever opened it."""
