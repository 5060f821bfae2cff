"""What the calls of every part share: guilds as keys, the guard, and decisions on one document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast

from standfast.api.aio import AsyncBatch, AsyncCollection, BatchWrites
from standfast.api.collection import Documents
from standfast.api.drive import pause_before
from standfast.api.store import StoreHandle
from standfast.bot.environment_check import Guard
from standfast.bot.fields import GuildId, guild_key, is_guild_key
from standfast.engine.interfaces import Engine
from standfast.errors import ConfigError, ConflictError, CorruptData, Unavailable
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.types import ABSENT, Document, Receipt

VIEWS = "persisted_views"
SETTINGS = "guild_settings"
WAITLISTS = "waitlist_data"
#: Where the documents of a guild are.
COLLECTIONS = (VIEWS, SETTINGS, WAITLISTS)

Members = dict[str, Any]
"""The members of a guild's document."""


class Guilds:
    """The documents of guilds: a key is a guild's id, and every access passes the guard."""

    def __init__(self, handle: StoreHandle, *, guard: Guard, clock: Callable[[], datetime]) -> None:
        self.handle = handle
        self.guard = guard
        self._clock = clock
        self._collections: dict[str, AsyncCollection[Any]] = {
            name: AsyncCollection(handle, name) for name in COLLECTIONS
        }

    def clock(self) -> datetime:
        """The time now, aware and in UTC."""
        now = self._clock()
        if now.utcoffset() is None:
            raise ConfigError(
                "the clock returns a time without a timezone",
                code="usage",
                hint="clock=lambda: datetime.now(UTC)",
            )
        return now.astimezone(UTC)

    def collection(self, name: str) -> AsyncCollection[Any]:
        """One of the collections of guilds' documents."""
        return self._collections[name]

    def batch(self) -> AsyncBatch:
        """Writes to guilds' documents that stand or fall together."""
        return AsyncBatch(self.handle)

    def key(self, guild_id: GuildId) -> str:
        """The key of a guild's documents.  DataError("bad_guild")."""
        return guild_key(guild_id)

    def readable(self, guild_id: GuildId) -> str:
        """The key, when this process may see the guild; else ConfigError("wrong_environment")."""
        key = guild_key(guild_id)
        self.guard.check(key)
        return key

    async def writable(self, guild_id: GuildId) -> str:
        """The key, when this process may write there; else ConfigError("wrong_environment").

        The first time, the store's environment is read, and stamped when it has none.
        """
        key = self.readable(guild_id)
        await self.guard.admit()
        return key

    # ---- reading

    async def members(self, collection: str, guild_id: GuildId) -> Members:
        """The members of a guild's document; none when there is no document.

        While the primary is away, as the mirror knows it: Unavailable("not_mirrored") when it
        does not.  CorruptData("not_an_object") when the document is something else.
        """
        key = self.readable(guild_id)
        value = await self.collection(collection).get(key, {})
        return _members(value, collection, key)

    async def scan(self, collection: str) -> list[Document[Any]]:
        """The documents of all guilds that this process may see, in order of their keys.

        Keys that are no guild's id are left out.  While the primary is away the documents come
        from the mirror, when it holds the whole collection; Unavailable("not_mirrored") otherwise.
        """
        only = self.guard.environment.only_guild
        if only is not None:  # a single document needs no scan
            found = await self.collection(collection).read(only)
            return [] if found is None else [found]
        documents: Documents[Any] = Documents(self.handle, collection)
        return [documents.of_row(row) async for row in documents.rows() if is_guild_key(row.key)]

    async def documents(self, collection: str) -> list[tuple[str, Any]]:
        """(guild id, value) of all guilds that this process may see, as `scan` finds them."""
        found = await self.scan(collection)
        return [(document.key, document.value) for document in found]

    # ---- writing

    async def patch(self, collection: str, guild_id: GuildId, patch: Members) -> Receipt:
        """Change members of a guild's document by a merge patch; works during an outage."""
        key = await self.writable(guild_id)
        return await self.collection(collection).patch(key, patch)

    async def patch_seen(
        self,
        collection: str,
        guild_id: GuildId,
        patch_of: Callable[[Members | None], Members | None],
    ) -> bool:
        """Patch a guild's document by what is in it; False when `patch_of` gives no patch.

        For removals, which work during an outage: the members are None if they are unknown then.
        """
        key = await self.writable(guild_id)
        try:
            members = await self.members(collection, guild_id)
        except Unavailable:
            members = None  # if it cannot be written either, the patch says so
        patch = patch_of(members)
        if patch is None:
            return False
        await self.collection(collection).patch(key, patch)
        return True

    async def change(
        self,
        collection: str,
        guild_id: GuildId,
        change: Callable[[Members], Members | None],
        *,
        also: Callable[[BatchWrites], None] | None = None,
    ) -> Members:
        """As `decide`, for a `change` that does no I/O: it is a plain function."""

        async def changed(members: Members) -> Members | None:
            return change(members)

        return await self.decide(collection, guild_id, changed, also=also)

    async def decide(
        self,
        collection: str,
        guild_id: GuildId,
        change: Callable[[Members], Awaitable[Members | None]],
        *,
        also: Callable[[BatchWrites], None] | None = None,
    ) -> Members:
        """Decide something on a guild's document, so that of several callers only one does.

        Compare-and-set: `change` gets the members (none: `{}`) and returns the new ones, or None
        when there is nothing to do; it may ask others meanwhile, and be called several times.
        Returns the members as they are then.  `also(batch)` adds writes, with conditions of their
        own perhaps, that stand or fall together with it; it is called again for each attempt.

        The primary decides: Unavailable("needs_primary") while it is away, unless the store is
        its `sole_writer`.  ConflictError: a condition of `also` does not hold; "contended": others
        were faster 50 times.
        """
        key = await self.writable(guild_id)
        calls = self.collection(collection)
        lost: ConflictError | None = None
        version = ABSENT
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            found = await calls.read(key)
            before, version = version, ABSENT if found is None else found.version
            if lost is not None and _same_version(version, before):
                raise lost  # it was not our document that had moved
            new = await change({} if found is None else _members(found.value, collection, key))
            if new is None:
                return {} if found is None else _members(found.value, collection, key)
            try:
                async with self.batch() as batch:
                    batch.put(collection, key, new, if_version=version)
                    if also is not None:
                        also(batch)
            except ConflictError as error:
                lost = error
                continue
            return new
        raise ConflictError(
            f"change of guild {key} in `{collection}`: other writers were faster"
            f" {MAX_UPDATE_ATTEMPTS} times",
            code="contended",
            hint="try again",
        )


class Part:
    """A part of a bot's state: calls on the documents of guilds."""

    def __init__(self, guilds: Guilds) -> None:
        self._guilds = guilds

    @property
    def engine(self) -> Engine:
        """The engine that serves the calls; not for users."""
        return self._guilds.handle.engine


def _same_version(one: int, other: int) -> bool:
    """Whether two reads found the same document, own pending writes included."""
    pending = [getattr(version, "pending", ()) for version in (one, other)]
    return one == other and pending[0] == pending[1]


def _members(value: Any, collection: str, key: str) -> Members:
    if isinstance(value, dict):
        return cast("Members", value)
    raise CorruptData(
        f"the document of guild {key} in `{collection}` is not an object",
        code="not_an_object",
        hint=f"look at it: standfast get {collection} {key}",
    )
