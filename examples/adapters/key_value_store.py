"""A py-key-value store on standfast: one collection for all of its collections.

    async with standfast.open_async() as store:
        await StandfastStore(store).put("ann", {"xp": 1}, collection="players", ttl=60)

The keys are `<collection>/<key>`, percent-encoded, so that every name of theirs is possible.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from key_value.aio._utils.managed_entry import ManagedEntry
from key_value.aio.stores.base import BaseDestroyCollectionStore, BaseEnumerateKeysStore

import standfast


class StandfastStore(BaseEnumerateKeysStore, BaseDestroyCollectionStore):
    """A store of py-key-value; expiry is that of standfast, by the database's clock."""

    def __init__(self, store: standfast.AsyncStore, name: str = "kv", **options: Any) -> None:
        super().__init__(**options)
        self._rows = store[name]

    async def _get_managed_entry(self, *, collection: str, key: str) -> ManagedEntry | None:
        document = await self._rows.read(_place(collection, key))
        if document is None:
            return None
        return ManagedEntry(
            value=document.value,
            created_at=document.created_at,
            expires_at=document.expires_at,
        )

    async def _put_managed_entry(
        self, *, collection: str, key: str, managed_entry: ManagedEntry
    ) -> None:
        ttl_s = None
        if managed_entry.expires_at is not None:
            left = managed_entry.expires_at - datetime.now(UTC)
            ttl_s = max(1e-6, left.total_seconds())
        await self._rows.put(_place(collection, key), managed_entry.value_as_dict, ttl_s=ttl_s)

    async def _delete_managed_entry(self, *, key: str, collection: str) -> bool:
        return bool(await self._rows.delete(_place(collection, key)))

    async def _get_collection_keys(self, *, collection: str, limit: int | None = None) -> list[str]:
        prefix = _place(collection, "")
        found = self._rows.keys(prefix=prefix, limit=limit)
        return [unquote(key.removeprefix(prefix)) async for key in found]

    async def _delete_collection(self, *, collection: str) -> bool:
        return await self._rows.delete(prefix=_place(collection, "")) > 0


def _place(collection: str, key: str) -> str:
    return f"{quote(collection, safe='')}/{quote(key, safe='')}"
