"""The documents of guilds as such: looked at, patched, forgotten, cleaned up, counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, cast

import msgspec

from standfast.api.drive import Blocking, blocking, pause_before
from standfast.bot.fields import GuildId, schedule_name
from standfast.bot.guilds import COLLECTIONS, MESSAGES, VIEWS, Members, Part, Place
from standfast.document.merge import same_value
from standfast.document.values import MISSING
from standfast.errors import ConflictError, DataError
from standfast.limits import MAX_UPDATE_ATTEMPTS
from standfast.ops.types import Document, Receipt

OLDER_THAN_DAYS = 30.0
_LONGEST_AGE_DAYS = 36_500


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many guilds have a document in `persisted_views`, and what is in there."""

    guilds: int
    with_registration: int
    with_checkin: int
    with_schedules: int


class AsyncGuildRecords(Part):
    """The documents of guilds, in all collections of a bot."""

    def allows(self, guild_id: GuildId) -> bool:
        """Whether this process sees and writes the guild; no I/O.  DataError("bad_guild")."""
        return self._guilds.guard.allows(self._guilds.key(guild_id))

    async def get(self, guild_id: GuildId) -> dict[str, Any]:
        """The guild's document in `persisted_views` as it is stored; `{}` when there is none."""
        return await self._guilds.members(VIEWS, guild_id)

    async def patch(self, guild_id: GuildId, changes: Mapping[str, Any]) -> Receipt:
        """Change that document by a merge patch (RFC 7396), unchecked; works during an outage."""
        return await self._guilds.patch(VIEWS, guild_id, dict(changes))

    async def ids(self) -> list[str]:
        """The guilds that have a document in `persisted_views`, in order of their keys."""
        return [document.key for document in await self._guilds.scan(VIEWS)]

    async def statistics(self) -> Statistics:
        """Counts over all guilds that this process may see.  In an outage from the mirror."""
        documents = await self._guilds.documents(VIEWS)
        members = [cast("Members", value) for _, value in documents if isinstance(value, dict)]
        return Statistics(
            guilds=len(documents),
            with_registration=sum(_has(one, "registration") for one in members),
            with_checkin=sum(_has(one, "checkin") for one in members),
            with_schedules=sum(
                any(schedule_name(name) is not None and _has(one, name) for name in one)
                for one in members
            ),
        )

    async def forget(self, guild_id: GuildId) -> int:
        """Delete everything of a guild, all or nothing; how many documents there were.

        Nothing is deleted that was not seen, so it needs the primary, as a claim does.
        ConflictError("contended") when others keep on writing there.
        """
        key = await self._guilds.writable(guild_id)
        for attempt in range(MAX_UPDATE_ATTEMPTS):
            await pause_before(attempt, self._guilds.handle.loop())
            locate = self._guilds.locate_to_decide
            places = {name: await locate(name, key) for name in COLLECTIONS}
            count = sum(place.value is not MISSING for place in places.values())
            if not count or await self._delete(places):
                return count
        raise ConflictError(
            f"forget of guild {key}: others wrote there {MAX_UPDATE_ATTEMPTS} times meanwhile",
            code="contended",
            hint="try again",
        )

    async def cleanup(
        self,
        live: Iterable[GuildId],
        *,
        older_than_days: float = OLDER_THAN_DAYS,
        dry_run: bool = False,
    ) -> list[str]:
        """Delete what is left of guilds that the bot has left; returns these guilds.

        That is all of a guild that is not in `live` and of which no document was changed for
        `older_than_days`.  What changes meanwhile stays.  `dry_run`: delete nothing.  It needs the
        primary, as a claim does.  DataError("no_live_guilds") when `live` is empty: a bot that is
        not connected yet is in no guild, and would lose all; and when it is one text, which would
        be the guilds of its digits.
        """
        if isinstance(live, str | bytes):
            raise DataError(
                "cleanup got one text in the place of the live guilds",
                code="no_live_guilds",
                hint="give the ids of all guilds that the bot is in, as a list",
            )
        keep = {self._guilds.key(guild_id) for guild_id in live}
        if not keep:
            raise DataError(
                "cleanup without a single live guild would delete everything",
                code="no_live_guilds",
                hint="give the guilds the bot is in, once it is ready; forget(guild) deletes one",
            )
        if isinstance(older_than_days, bool) or not 0 <= older_than_days <= _LONGEST_AGE_DAYS:
            raise DataError(
                "older_than_days is not a number of days from 0 on",
                code="bad_age",
                hint=f"such as {OLDER_THAN_DAYS:.0f}",
            )
        if not dry_run:
            await self._guilds.guard.admit()
        limit = self._guilds.clock() - timedelta(days=older_than_days)
        seen: dict[str, dict[str, Document[Any]]] = {}
        for collection in COLLECTIONS:
            for document in await self._guilds.scan(collection):
                seen.setdefault(document.key, {})[collection] = document
        gone: list[str] = []
        for key in sorted(seen.keys() - keep, key=lambda key: (len(key), key)):
            if max(document.updated_at for document in seen[key].values()) >= limit:
                continue
            if dry_run or await self._delete_seen(key, seen[key]):
                gone.append(key)
        return gone

    async def _delete_seen(self, key: str, seen: Mapping[str, Document[Any]]) -> bool:
        """Delete the documents of a guild if they are what was seen, and the others absent."""
        places = {name: await self._guilds.locate_to_decide(name, key) for name in COLLECTIONS}
        for name, place in places.items():
            value = seen[name].value if name in seen else MISSING
            moved = name in seen and not place.in_single_row and place.version != seen[name].version
            if moved or not same_value(place.value, value):
                return False
        return await self._delete(places)

    async def _delete(self, places: Mapping[str, Place]) -> bool:
        """Delete the documents in these places if nothing has moved there."""
        try:
            async with self._guilds.batch() as batch:
                for collection, place in places.items():
                    if place.value is not MISSING or not place.in_single_row:
                        place.delete(batch, collection)
                batch.delete(MESSAGES, next(iter(places.values())).key)
        except ConflictError:
            return False
        return True


class GuildRecords(Blocking[AsyncGuildRecords]):
    """The documents of guilds as such: `bot.guilds`."""

    get = blocking(AsyncGuildRecords.get)
    patch = blocking(AsyncGuildRecords.patch)
    ids = blocking(AsyncGuildRecords.ids)
    forget = blocking(AsyncGuildRecords.forget)
    cleanup = blocking(AsyncGuildRecords.cleanup)


def _has(members: Members, name: str) -> bool:
    return members.get(name) is not None
