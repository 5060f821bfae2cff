"""Who is registered in each guild, within its capacity, and who comes up from the waitlist.

One document per guild in the collection `registrations`: `members` by id, `checked_in` by id.
Whoever may register directly is decided here, one after the other in each guild; a place that is
free while somebody waits is theirs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

from standfast import StandfastError
from standfast.bot import AsyncBotStore, WaitlistEntry

logger = logging.getLogger("tournament_bot")

COLLECTION = "registrations"


class Outcome(NamedTuple):
    """What became of a registration: registered, or waiting at a position (None: not known).

    `promoted` are others who got a place on this occasion, and have to be told.
    """

    registered: bool
    position: int | None = None
    promoted: tuple[WaitlistEntry, ...] = ()


class Registrations:
    """The registrations of all guilds, over the bot's state."""

    def __init__(self, state: AsyncBotStore) -> None:
        self._state = state
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def document(self, guild_id: int | str) -> dict[str, Any]:
        """The guild's registrations: `members` and `checked_in`, by member id."""
        found = await self._state.store[COLLECTION].get(guild_id, {})
        return {"members": found.get("members", {}), "checked_in": found.get("checked_in", {})}

    async def members(self, guild_id: int | str) -> dict[str, Any]:
        """Who is registered, with what they said of themselves."""
        return (await self.document(guild_id))["members"]

    async def register(self, guild_id: int, member_id: int, details: dict[str, Any]) -> Outcome:
        """Register a member, or put them on the waitlist.

        Somebody who is registered, or waits, has their details changed and keeps their place.
        Places that were left free while somebody waits, by an outage say, are given away first.
        """
        if await self._put(guild_id, member_id, details):
            return Outcome(True)
        promoted = await self.promote(guild_id)
        others = tuple(entry for entry in promoted if entry.member_id != member_id)
        if len(others) < len(promoted):
            return Outcome(True, None, others)
        return Outcome(False, await self._state.waitlist.position(guild_id, member_id), others)

    async def _put(self, guild_id: int, member_id: int, details: dict[str, Any]) -> bool:
        """Register a member, or put them on the waitlist; whether they are registered."""
        waitlist = self._state.waitlist
        async with self._turns[str(guild_id)]:
            members = await self.members(guild_id)
            if str(member_id) not in members:
                capacity = await self._state.settings.get(guild_id, "capacity")
                waiting = await waitlist.length(guild_id)
                offered = len(await waitlist.claimed(guild_id))
                if waiting or len(members) + offered >= capacity:
                    await waitlist.add(guild_id, member_id=member_id, **details)
                    return False
            await self._state.store[COLLECTION].patch(
                guild_id, {"members": {str(member_id): details}}
            )
            return True

    async def unregister(self, guild_id: int | str, member_id: int) -> str | None:
        """Take a member off; tells whether they were `registered` or `waiting`, or None."""
        async with self._turns[str(guild_id)]:
            key = str(member_id)
            if key in await self.members(guild_id):
                await self._state.store[COLLECTION].patch(
                    guild_id, {"members": {key: None}, "checked_in": {key: None}}
                )
                return "registered"
            left = await self._state.waitlist.remove(guild_id, member_id)
            return None if left is None else "waiting"

    async def check_in(self, guild_id: int, member_id: int) -> bool:
        """Note that a member is there; False when they are not registered."""
        async with self._turns[str(guild_id)]:
            if str(member_id) not in await self.members(guild_id):
                return False
            now = datetime.now(UTC).isoformat()
            await self._state.store[COLLECTION].patch(
                guild_id, {"checked_in": {str(member_id): now}}
            )
            return True

    async def promote(self, guild_id: int | str) -> list[WaitlistEntry]:
        """Give the places that are free to those who wait; returns who got one.

        Each one is registered and leaves the waitlist in one transaction.  When that fails in the
        middle, those who got a place until then are returned: they have to be told.
        """
        settings = await self._state.settings.get(guild_id)
        async with self._turns[str(guild_id)]:

            async def registered() -> dict[str, str | None]:
                members = await self.members(guild_id)
                return {member: details.get("team_name") for member, details in members.items()}

            claims = await self._state.waitlist.promote(
                guild_id,
                capacity=settings["capacity"],
                registered=registered,
                team_size=settings["team_size"],
            )
            promoted: list[WaitlistEntry] = []
            for claim in claims:
                patch = {"members": {str(claim.entry.member_id): details_of(claim.entry)}}

                def also(batch: Any, patch: dict[str, Any] = patch) -> None:
                    batch.patch(COLLECTION, guild_id, patch)

                try:
                    await self._state.waitlist.confirm(claim, also=also)
                except StandfastError as error:
                    if not promoted:
                        raise
                    # The other claims lapse, and their entries wait in their places again.
                    logger.warning("guild %s: the rest is promoted later: %s", guild_id, error)
                    break
                promoted.append(claim.entry)
            return promoted


def details_of(entry: WaitlistEntry) -> dict[str, Any]:
    """What somebody on the waitlist said of themselves."""
    return {
        "discord_tag": entry.discord_tag,
        "ign": entry.ign,
        "alt_igns": list(entry.alt_igns),
        "pronouns": entry.pronouns,
        "team_name": entry.team_name,
    }
