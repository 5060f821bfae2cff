"""What the calls of every part share: guilds as keys, the guard, and decisions on one document."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, NamedTuple, cast

import msgspec

from standfast.api.async_collection import AsyncCollection
from standfast.api.batch import AsyncBatch, BatchWrites
from standfast.api.collection import Documents
from standfast.api.drive import pause_before
from standfast.api.store import StoreHandle
from standfast.bot.environment_check import Guard
from standfast.bot.fields import GuildId, guild_key, is_guild_key
from standfast.document.names import collection_name
from standfast.document.patch import merge_patch
from standfast.document.values import MISSING, Missing
from standfast.errors import ConfigError, ConflictError, CorruptData, Unavailable
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.types import ABSENT, Document, Receipt

VIEWS = "persisted_views"
SETTINGS = "guild_settings"
WAITLISTS = "waitlist_data"
#: Which messages a bot has written: `{"registration": true}`.
MESSAGES = "bot_messages"
#: Where the documents of a guild are.
COLLECTIONS = (VIEWS, SETTINGS, WAITLISTS)

#: In these, one row may hold the documents of all guilds, as older bots keep them.
OLDER = (VIEWS, WAITLISTS)
#: The key of that row.
SINGLE_ROW = "default"
#: The commands that give each guild a row of its own.
SPLIT = (
    "standfast get {0} default > all_guilds.json && standfast migrate all_guilds.json"
    " --collection {0} --split-default"
)

Members = dict[str, Any]
"""The members of a guild's document."""

logger = logging.getLogger("standfast")


def is_single_row(value: object) -> bool:
    """Whether a document is that row: one with an object under a guild's id.

    Whatever else is in it, such as a version: the guilds are there all the same.  An empty object
    counts too: it is what an older bot writes before its first guild.
    """
    if not isinstance(value, dict):
        return False
    members = cast("dict[str, Any]", value)
    guilds = (one for key, one in members.items() if is_guild_key(key))
    return not members or any(isinstance(one, dict) for one in guilds)


class Place(NamedTuple):
    """Where the document of a guild is: in a row of its own, or in the row of all guilds."""

    key: str
    row: Document[Any] | None
    in_single_row: bool = False

    @property
    def value(self) -> Any:
        """The document as it was read; MISSING without one."""
        if self.row is None:
            return MISSING
        return self.row.value.get(self.key, MISSING) if self.in_single_row else self.row.value

    @property
    def version(self) -> int:
        """The version of the row."""
        return ABSENT if self.row is None else self.row.version

    @property
    def row_key(self) -> str:
        """The key of the row."""
        return SINGLE_ROW if self.in_single_row else self.key

    def pointer(self, pointer: str) -> str:
        """A JSON pointer into the document, as one into the row."""
        if not self.in_single_row:
            return pointer
        return "/" + self.key.replace("~", "~0").replace("/", "~1") + pointer

    def row_with(self, value: Any) -> Any:
        """What the row is with another document in this place."""
        if not self.in_single_row:
            return value
        assert self.row is not None, "it was read"
        return {**self.row.value, self.key: value}

    def delete(self, batch: BatchWrites, collection: str) -> None:
        """Delete the document in a batch, if the row is as it was read."""
        if not self.in_single_row:
            batch.delete(collection, self.key, if_version=self.version)
            return
        assert self.row is not None, "it was read"
        rest = {key: value for key, value in self.row.value.items() if key != self.key}
        batch.put(collection, SINGLE_ROW, rest, if_version=self.version)


@contextmanager
def deciding(what: str) -> Generator[None]:
    """A block that reads for a decision: what others may have made in an outage, nobody knows."""
    try:
        yield
    except Unavailable as error:
        if error.code != "not_mirrored":
            raise
        raise Unavailable(
            f"{what}: this must be decided by the primary, which does not answer; nothing was"
            " written",
            code="needs_primary",
            hint="try again later; or open the store with sole_writer=True",
        ) from None


class Guilds:
    """The documents of guilds: a key is a guild's id, and every access passes the guard."""

    #: Collections whose row of all guilds the log has named, once in this process.
    noticed: ClassVar[set[str]] = set()

    def __init__(self, handle: StoreHandle, *, guard: Guard, clock: Callable[[], datetime]) -> None:
        self.handle = handle
        self.guard = guard
        self._clock = clock
        self._collections: dict[str, AsyncCollection[Any]] = {}
        #: Where there may be a row of all guilds; False once the store said that there is none.
        self._may_be_single: dict[str, bool] = dict.fromkeys(OLDER, True)

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
        """A collection of guilds' documents."""
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = AsyncCollection(self.handle, collection_name(name))
        return found

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

    async def locate(self, collection: str, key: str) -> Place:
        """Where the document of a key is.  A row of its own counts before the row of all guilds."""
        own = await self.collection(collection).read(key)
        if own is None and collection in OLDER:
            row = await self.collection(collection).read(SINGLE_ROW)
            if self._notice(collection, row):
                return Place(key, row, True)
        return Place(key, own)

    async def locate_to_decide(self, collection: str, key: str) -> Place:
        """The same for a decision, which needs the primary."""
        with deciding(f"`{collection}` of guild {key}"):
            return await self.locate(collection, key)

    def _notice(self, collection: str, row: Document[Any] | None) -> bool:
        """Whether it is the row of all guilds; the first time, the log says what to do."""
        is_single = row is not None and is_single_row(row.value)
        if is_single and collection not in self.noticed:
            self.noticed.add(collection)
            logger.warning(
                "`%s` has one row `%s` for all guilds, as older bots keep it: it is read and"
                " written as it is.  To give each guild a row of its own, stop the bot and run:"
                " %s",
                *(collection, SINGLE_ROW, SPLIT.format(collection)),
            )
        self._may_be_single[collection] = is_single
        return is_single

    async def members(self, collection: str, guild_id: GuildId) -> Members:
        """The members of a guild's document; none when there is no document.

        While the primary is away, as the mirror knows it: Unavailable("not_mirrored") when it
        does not.  CorruptData("not_an_object") when the document is something else.
        """
        key = self.readable(guild_id)
        return _members((await self.locate(collection, key)).value, collection, key)

    async def scan(self, collection: str, *, any_key: bool = False) -> list[Document[Any]]:
        """The documents of all guilds that this process may see, in order of their keys.

        Keys that are no guild's id are left out, unless `any_key`.  While the primary is away the
        documents come from the mirror, when it holds the whole collection;
        Unavailable("not_mirrored") otherwise.
        """
        only = self.guard.environment.only_guild
        if only is not None:  # a single document needs no scan
            place = await self.locate(collection, only)
            if place.row is None or isinstance(place.value, Missing):
                return []
            return [msgspec.structs.replace(place.row, key=only, value=place.value)]
        documents: Documents[Any] = Documents(self.handle, collection)
        found = {row.key: documents.of_row(row) async for row in documents.rows()}
        row = found.get(SINGLE_ROW)
        if row is not None and collection in OLDER and self._notice(collection, row):
            del found[SINGLE_ROW]
            inner = {
                key: msgspec.structs.replace(row, key=key, value=value)
                for key, value in row.value.items()
            }
            found = inner | found
        return [found[key] for key in sorted(found, key=str.encode) if any_key or is_guild_key(key)]

    async def documents(self, collection: str) -> list[tuple[str, Any]]:
        """(guild id, value) of all guilds that this process may see, as `scan` finds them."""
        found = await self.scan(collection)
        return [(document.key, document.value) for document in found]

    # ---- writing

    async def patch(self, collection: str, guild_id: GuildId, patch: Members) -> Receipt:
        """Change members of a guild's document by a merge patch; works during an outage."""
        key = await self.writable(guild_id)
        calls = self.collection(collection)
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            place = await self._place_to_write(collection, key)
            if not place.in_single_row:
                return await calls.patch(key, patch)
            members = _members(place.value, collection, key)
            row = place.row_with(cast("Members", merge_patch(members, patch)))
            try:  # not blindly: the row may have been split meanwhile
                return await calls.put(SINGLE_ROW, row, if_version=place.version)
            except Unavailable:
                return await calls.patch(SINGLE_ROW, {key: patch})
            except ConflictError:
                continue
        raise _contended(collection, key)

    async def append(
        self, collection: str, guild_id: GuildId, pointer: str, item: Any
    ) -> list[Any] | None:
        """Append to a list in a guild's document, as `AsyncCollection.append`."""
        key = await self.writable(guild_id)
        place = await self._place_to_write(collection, key)
        calls = self.collection(collection)
        return await calls.append(place.row_key, place.pointer(pointer), item)

    async def _place_to_write(self, collection: str, key: str) -> Place:
        """As `locate`, without asking where no row of all guilds was the last time."""
        if not self._may_be_single.get(collection):
            return Place(key, None)
        try:
            return await self.locate(collection, key)
        except Unavailable:
            return Place(key, None)

    async def patch_seen(
        self,
        collection: str,
        guild_id: GuildId,
        patch_of: Callable[[Members | None], Members | None],
    ) -> bool:
        """Patch a guild's document by what is in it; False when `patch_of` gives no patch.

        For removals, which work during an outage: the members are None if they are unknown then.
        """
        await self.writable(guild_id)
        try:
            members = await self.members(collection, guild_id)
        except Unavailable:
            members = None  # if it cannot be written either, the patch says so
        patch = patch_of(members)
        if patch is None:
            return False
        await self.patch(collection, guild_id, patch)
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
        lost: ConflictError | None = None
        version = ABSENT
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self.handle.loop())
            place = await self.locate_to_decide(collection, key)
            before, version = version, place.version
            if lost is not None and _same_version(version, before):
                raise lost  # it was not our document that had moved
            members = _members(place.value, collection, key)
            new = await change(members)
            if new is None:
                return members
            try:
                async with self.batch() as batch:
                    row = place.row_with(new)
                    batch.put(collection, place.row_key, row, if_version=version)
                    if also is not None:
                        also(batch)
            except ConflictError as error:
                lost = error
                continue
            return new
        raise _contended(collection, key)


class Part:
    """A part of a bot's state: calls on the documents of guilds."""

    def __init__(self, guilds: Guilds) -> None:
        self._guilds = guilds
        self.handle = guilds.handle


def _same_version(one: int, other: int) -> bool:
    """Whether two reads found the same document, own pending writes included."""
    pending = [getattr(version, "pending", ()) for version in (one, other)]
    return one == other and pending[0] == pending[1]


def _contended(collection: str, key: str) -> ConflictError:
    return ConflictError(
        f"change of guild {key} in `{collection}`: other writers were faster"
        f" {MAX_UPDATE_ATTEMPTS} times",
        code="contended",
        hint="try again",
    )


def _members(value: Any, collection: str, key: str) -> Members:
    if isinstance(value, Missing):
        return {}
    if isinstance(value, dict):
        return cast("Members", value)
    raise CorruptData(
        f"the document of guild {key} in `{collection}` is not an object",
        code="not_an_object",
        hint=f"look at it: standfast get {collection} {key}",
    )
