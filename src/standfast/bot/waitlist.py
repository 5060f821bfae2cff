"""The waitlist of each guild: those who wait, and who of them is offered a place that is free.

Whoever is offered a place is claimed, which the primary decides: a claim is a mark on the entry,
which keeps its place in the list until it is confirmed, and comes back when the claim lapses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec

from standfast.api.batch import BatchWrites
from standfast.api.drive import Blocking, blocking
from standfast.bot.claims import LEASE_S, Claim, lease_end, new_id
from standfast.bot.entries import Mark, WaitlistEntry, with_entries
from standfast.bot.fields import GuildId
from standfast.bot.guilds import WAITLISTS, Guilds, Members, deciding
from standfast.bot.modes import AsyncModes
from standfast.bot.promotion import (
    Asking,
    PromotionRules,
    Registration,
    Taken,
    answered,
    ask,
    checked_rules,
    choose,
    taken_of,
)
from standfast.bot.waitlist_calls import AsyncWaiting, Listed
from standfast.errors import ConflictError, DataError, StandfastError


class EntryClaim(Claim, frozen=True, kw_only=True):
    """A place that is offered to an entry of the waitlist, and reserved until `until`."""

    entry: WaitlistEntry


logger = logging.getLogger("standfast")

TakenPlaces = Callable[[], Awaitable[Taken]]
Claims = list[EntryClaim]
"""Claims in the order in which they were chosen."""


class AsyncWaitlist(AsyncWaiting):
    """The waitlists of all guilds: `bot.waitlist`."""

    def __init__(self, guilds: Guilds, modes: AsyncModes, *, older: bool = False) -> None:
        super().__init__(guilds, older=older)
        self._modes = modes

    async def promote(
        self,
        guild_id: GuildId,
        *,
        capacity: int,
        registered: Asking,
        mode: str | None = None,
        team_size: int = 2,
        max_teams: int | None = None,
        lease_s: float = LEASE_S,
    ) -> Claims:
        """Claim those who come next for the places that are free; returns them in that order.

        `registered`: members (ids) and the names of their teams, or None; or a function that
        returns that, a coroutine function perhaps where this call is awaited.  The function is
        called after the list was read, again for each attempt: whoever was confirmed before is in
        one of the two.  So give a function wherever another process or task may promote, too.
        `mode`: by default that of the guild; in a mode with teams, `team_size` is how many make
        one, `max_teams` how many there may be (default: `capacity // team_size`).

        Everybody who is registered takes a place, and everybody whose claim has not lapsed.  Of
        several callers at once, each entry goes to one.  Register who is claimed with `confirm`,
        in the same batch, or before it; or `release` the claim.  A claim that is not confirmed
        lapses after `lease_s` seconds, and the entry is back in its place: so it is after a crash.
        `lease_s` should be far longer than the clocks of the machines differ.

        The primary decides: Unavailable("needs_primary") while it is away, unless the store is its
        `sole_writer`.  DeadlineExceeded("unknown_outcome"): the reply was lost.  If the claims were
        made, nobody holds them: their entries come back when they lapse, nobody else is promoted
        in their place until then, and nobody is twice.
        """
        rules = await self._rules(
            guild_id, capacity, mode=mode, team_size=team_size, max_teams=max_teams
        )
        may_await = self._guilds.handle.loop() is not None

        async def taken() -> Taken:
            return await ask(registered, may_await=may_await)

        return await self._claim_next(guild_id, rules, taken, lease_s=lease_s)

    async def promote_into(
        self,
        guild: Any,
        registration: Registration,
        *,
        mode: str | None = None,
        team_size: int = 2,
        max_teams: int | None = None,
        lease_s: float = LEASE_S,
    ) -> Listed:
        """Register those who come next where the bot keeps its registrations; returns them.

        `guild` is an id, or an object that has one, as the registration wants it.  Each is claimed,
        as by `promote`, then registered, and leaves the list only after `register` has returned.
        An entry that it refused, or was not asked for because it had refused another, waits in its
        place again.  `register` has nine tenths of `lease_s`.  Whether it took effect after that is
        unknown: the claim reserves the place until it lapses, and `registered` decides then.

        What `registration` raises is raised, unless a member was registered before: these are
        returned, and the error is in the log.
        """
        guild_id: GuildId = getattr(guild, "id", guild)
        may_await = self._guilds.handle.loop() is not None

        async def said(name: str, *arguments: Any) -> Any:
            asked = getattr(registration, name)(guild, *arguments)
            return await answered(asked, may_await=may_await, what=f"{name}()")

        async def taken() -> Taken:
            return taken_of(await said("registered"), await said("teams"))

        capacity = await said("capacity")
        rules = await self._rules(
            guild_id, capacity, mode=mode, team_size=team_size, max_teams=max_teams
        )
        await self._forget_registered(guild_id, taken)
        claims = await self._claim_next(guild_id, rules, taken, lease_s=lease_s)
        promoted: Listed = []
        for index, claim in enumerate(claims):
            registering = said("register", msgspec.structs.replace(claim.entry, claim=None))
            try:
                _require_done(
                    await (within(registering, lease_s * 0.9) if may_await else registering)
                )
            except Exception as error:
                # After a time-out it may still take effect: its own claim is left to lapse.
                for left in claims[index + isinstance(error, TimeoutError) :]:
                    with suppress(StandfastError):
                        await self.release(left)
                if not promoted:
                    raise
                logger.exception("guild %s: the others are promoted later", claim.guild_id)
                break
            promoted.append(claim.entry)
            await self._registered(claim)
        return promoted

    async def _registered(self, claim: EntryClaim) -> None:
        """Remove a registered member from the list, whatever became of the claim."""
        try:
            await self.confirm(claim)
        except StandfastError:
            try:  # it works during an outage too
                await self.remove(claim.guild_id, claim.entry)
            except StandfastError as error:
                logger.warning(
                    "guild %s: a registered member leaves the waitlist later: %s",
                    *(claim.guild_id, error),
                )

    async def _forget_registered(self, guild_id: GuildId, taken: TakenPlaces) -> None:
        """Remove those from the list who were registered here and could not be removed then."""
        now = self._guilds.clock()
        lapsed = [
            entry
            for entry in await self.entries(guild_id)
            if entry.claim is not None and not entry.is_claimed(now)
        ]
        there = await taken() if lapsed else None
        for entry in lapsed:
            if there is not None and there.has(entry):
                await self.remove(guild_id, entry)

    async def _rules(
        self,
        guild_id: GuildId,
        capacity: object,
        *,
        mode: str | None,
        team_size: int,
        max_teams: int | None,
    ) -> PromotionRules:
        if mode is None:
            with deciding(f"the mode of guild {guild_id}"):
                mode = await self._modes.get(guild_id)
        by_team = self._modes.is_team(mode)
        return checked_rules(capacity, by_team=by_team, team_size=team_size, max_teams=max_teams)

    async def _claim_next(
        self, guild_id: GuildId, rules: PromotionRules, taken: TakenPlaces, *, lease_s: float
    ) -> Claims:
        lease_end(self._guilds.clock(), lease_s)  # refused before anything is asked
        key = self._guilds.key(guild_id)
        claims: Claims = []

        async def change(members: Members) -> Members | None:
            claims.clear()
            entries = self._read(members)
            if not entries:
                return None
            there = await taken()
            now = self._guilds.clock()
            chosen = choose(entries, there, rules=rules, now=now)
            if not chosen:
                return None
            # A claim that lapsed must not be confirmed any more: its place is given away here.
            entries = [entry if entry.is_claimed(now) else _unmarked(entry) for entry in entries]
            until = lease_end(now, lease_s)
            for index in chosen:
                mark = Mark(new_id(), until)
                entries[index] = msgspec.structs.replace(entries[index], claim=mark)
                claims.append(_claim(key, entries[index], mark))
            return with_entries(members, entries)

        await self._guilds.decide(WAITLISTS, guild_id, change)
        return claims

    async def claimed(self, guild_id: GuildId) -> Claims:
        """The claims that have not lapsed, whoever made them: each takes a place."""
        entries = await self.entries(guild_id)
        now, key = self._guilds.clock(), self._guilds.key(guild_id)
        return [
            _claim(key, entry, entry.claim)
            for entry in entries
            if entry.claim is not None and entry.is_claimed(now)
        ]

    async def confirm(
        self, claim: EntryClaim, *, also: Callable[[BatchWrites], None] | None = None
    ) -> None:
        """Take an entry off the list: its member has a place now.

        `also(batch)` adds writes that take effect together with it or not at all, such as the
        registration: then the capacity is kept however late this call is.  It may be called
        several times.

        ConflictError("claim_lapsed"): the place or the entry went to another member, or they
        left the list; nothing was written, and a registration that was made before has to be
        undone.  A lapsed claim that no other one has replaced is confirmed.  The primary decides,
        as for `promote`.  After DeadlineExceeded("unknown_outcome") look whether the
        writes of `also` are there: if so, do not repeat it, since that would find no claim.
        """

        def change(members: Members) -> Members:
            entries = self._read(members)
            if not any(entry.is_claim(claim.id) for entry in entries):
                raise ConflictError(
                    f"the claim on an entry of the waitlist of guild {claim.guild_id} is no longer"
                    " there: it lapsed and the place was given away, or the member left the list",
                    code="claim_lapsed",
                    hint="nothing was written; undo the registration if it was made before, or"
                    " promote with a longer lease_s",
                )
            rest = [entry for entry in entries if not entry.is_claim(claim.id)]
            return with_entries(members, rest)

        await self._guilds.change(WAITLISTS, claim.guild_id, change, also=also)

    async def release(self, claim: EntryClaim) -> bool:
        """Give a claim back: the entry waits in its place again, and the place is free.

        False when it was no longer ours.  The primary decides, as for `promote`.
        """
        is_ours = False

        def change(members: Members) -> Members | None:
            nonlocal is_ours
            entries = self._read(members)
            is_ours = any(entry.is_claim(claim.id) for entry in entries)
            if not is_ours:
                return None
            freed = [_unmarked(entry) if entry.is_claim(claim.id) else entry for entry in entries]
            return with_entries(members, freed)

        await self._guilds.change(WAITLISTS, claim.guild_id, change)
        return is_ours


async def within(work: Awaitable[Any], limit_s: float) -> Any:
    """Wait for something of the application, for so long; TimeoutError then."""
    async with asyncio.timeout(limit_s):
        return await work


def _require_done(said: object) -> None:
    """Take False for what older code means by it: nobody was registered."""
    if said is False:
        raise DataError(
            "register() returned False: the member is not registered, and keeps their place",
            code="not_registered",
            hint="look why the registration refused; raise an error there that says it",
        )


def _unmarked(entry: WaitlistEntry) -> WaitlistEntry:
    return entry if entry.claim is None else msgspec.structs.replace(entry, claim=None)


def _claim(key: str, entry: WaitlistEntry, mark: Mark) -> EntryClaim:
    return EntryClaim(id=mark.id, guild_id=key, until=mark.until, entry=entry)


class Waitlist(Blocking[AsyncWaitlist]):
    """The waitlists of all guilds: `bot.waitlist`."""

    add = blocking(AsyncWaitlist.add)
    remove = blocking(AsyncWaitlist.remove)
    update = blocking(AsyncWaitlist.update)
    clear = blocking(AsyncWaitlist.clear)
    entry = blocking(AsyncWaitlist.entry)
    find = blocking(AsyncWaitlist.find)
    position = blocking(AsyncWaitlist.position)
    list = blocking(AsyncWaitlist.list)
    length = blocking(AsyncWaitlist.length)
    suggest_team = blocking(AsyncWaitlist.suggest_team)
    promote = blocking(AsyncWaitlist.promote)
    claimed = blocking(AsyncWaitlist.claimed)
    confirm = blocking(AsyncWaitlist.confirm)
    release = blocking(AsyncWaitlist.release)
    entries = blocking(AsyncWaitlist.entries)
    promote_into = blocking(AsyncWaitlist.promote_into)
