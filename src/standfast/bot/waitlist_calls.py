"""Who waits on the waitlist of each guild, and in which order.

Adding, removing and updating work during an outage: changes are appended to the list then
(`entries`), so that they merge with those of other processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec

from standfast.bot.entries import (
    MEMBER,
    REMOVED,
    UPDATED,
    WaitlistEntry,
    change_of,
    checked_details,
    read_entries,
    stored_list,
    unreadable,
    with_entries,
)
from standfast.bot.fields import GuildId, number_id
from standfast.bot.guilds import WAITLISTS, Guilds, Members, Part
from standfast.bot.promotion import suggest
from standfast.engine.state_machine import Mode
from standfast.errors import ConflictError, DataError, Unavailable
from standfast.limits import MAX_WAITLIST_ENTRIES
from standfast.ops.types import Redacted

logger = logging.getLogger("standfast")

MemberId = int | str
"""A member of a guild: a non-negative int, or its decimal string."""

Listed = list[WaitlistEntry]
"""Entries in order."""


class Added(Redacted, frozen=True):
    """The result of `add`.

    `position` counts from 1, among those to whom no place is offered; None for a member to whom one
    is, and if the list is unknown here during an outage.  `is_new`: the member was not in the list
    before.
    """

    position: int | None
    entry: WaitlistEntry
    is_new: bool


class AsyncWaiting(Part):
    """The calls of a waitlist that do not give places away; `AsyncWaitlist` adds those that do."""

    def __init__(self, guilds: Guilds, *, older: bool = False) -> None:
        super().__init__(guilds)
        self._older = older  # new entries are in the form of older bots
        self._noticed: set[tuple[str, int]] = set()

    async def add(
        self,
        guild_id: GuildId,
        *,
        member_id: MemberId,
        discord_tag: str,
        ign: str,
        alt_igns: Iterable[str] = (),
        pronouns: str | None = None,
        team_name: str | None = None,
    ) -> Added:
        """Add a member at the end of the list, or give them new details at their place.

        Place and `added_at` are kept then, and a claim too.  Works during an outage, and changes
        by others in the meantime are kept.  DataError, which names the place, for details over
        their limits; "waitlist_full" for a new entry beyond 10,000.
        """
        details = checked_details(
            discord_tag=discord_tag,
            ign=ign,
            alt_igns=alt_igns,
            pronouns=pronouns,
            team_name=team_name,
            older=self._older,
        )
        now = self._guilds.clock()
        entry = WaitlistEntry(member_id=number_id(member_id, "member"), added_at=now, **details)
        await self._guilds.writable(guild_id)
        members = await self._known(guild_id)
        before = None if members is None else _of(self._read(members), entry.who)
        is_simple = members is None or (before is None and self._is_plain(members))
        if self._decides() and not is_simple:
            try:
                members = await self._guilds.change(
                    WAITLISTS, guild_id, lambda found: self._with_added(found, entry)
                )
            except Unavailable:
                pass  # it is appended, which has the same effect whether this had one or not
            else:
                return self._placed(members, entry, before, now)
        if members is not None:
            _require_room(stored_list(members))
        members = await self._append(guild_id, entry.to_json())
        return self._placed(members, entry, before, now)

    async def remove(
        self, guild_id: GuildId, member_id: MemberId | WaitlistEntry
    ) -> WaitlistEntry | None:
        """Remove a member from the list; returns their entry, None if they were not there.

        A place that was offered to them is free again.  Works during an outage.
        """
        before, _ = await self._edit(guild_id, member_id, lambda entry: None)
        return before

    async def update(
        self, guild_id: GuildId, member_id: MemberId | WaitlistEntry, **changes: Any
    ) -> WaitlistEntry | None:
        """Change details of a member at their place; returns the entry, None without one.

        `changes`: discord_tag, ign, alt_igns, pronouns, team_name; DataError("unknown_field") for
        any other.  Works during an outage.
        """
        details = checked_details(older=self._older, **changes)
        _, after = await self._edit(
            guild_id, member_id, lambda entry: msgspec.structs.replace(entry, **details)
        )
        return after

    async def clear(self, guild_id: GuildId) -> int:
        """Take everybody off the list; returns how many there were.

        The primary decides: Unavailable("needs_primary") while it is away, unless the store is
        its `sole_writer`.
        """
        count = 0

        def change(members: Members) -> Members | None:
            nonlocal count
            count = len(self._read(members))
            return with_entries(members, []) if stored_list(members) else None

        await self._guilds.change(WAITLISTS, guild_id, change)
        return count

    async def entry(self, guild_id: GuildId, member_id: MemberId) -> WaitlistEntry | None:
        """The entry of a member, claimed or not; None without one."""
        return _of(await self.entries(guild_id), number_id(member_id, "member"))

    async def find(self, guild_id: GuildId, discord_tag: str) -> WaitlistEntry | None:
        """The first entry with this tag, claimed or not; None without one.

        Tags can change hands, so two may have the same: the first in the list is meant.  Where
        none is written exactly so, upper and lower case make no difference.
        """
        entries = await self.entries(guild_id)
        wanted = discord_tag.strip()
        exact = [entry for entry in entries if entry.discord_tag.strip() == wanted]
        folded = wanted.casefold()
        like = (entry for entry in entries if entry.discord_tag.strip().casefold() == folded)
        return exact[0] if exact else next(like, None)

    async def position(self, guild_id: GuildId, member_id: MemberId) -> int | None:
        """The place of a member in the list, from 1; None when not in it, or offered a place."""
        entries = await self.entries(guild_id)
        return _position(entries, number_id(member_id, "member"), self._guilds.clock())

    async def list(self, guild_id: GuildId) -> Listed:
        """Those who wait, in order; not those to whom a place is offered."""
        entries = await self.entries(guild_id)
        now = self._guilds.clock()
        return [entry for entry in entries if not entry.is_claimed(now)]

    async def length(self, guild_id: GuildId) -> int:
        """How many wait: the length of `list`."""
        return len(await self.list(guild_id))

    async def suggest_team(
        self, guild_id: GuildId, team_name: str, *, registered: Iterable[str | None] = ()
    ) -> str | None:
        """The team that was probably meant by `team_name`; None if no name is similar.

        Known teams are those of `registered` (names, or a mapping of members to names) and of the
        waitlist.  None too when the team itself is known.  ConfigError("missing_extra") without
        rapidfuzz: pip install 'standfast[bot]'.
        """
        entries = await self.entries(guild_id)
        names: Iterable[str | None] = registered
        if isinstance(registered, Mapping):
            names = cast("Mapping[Any, str | None]", registered).values()
        return suggest(team_name, [*names, *(entry.team_name for entry in entries)])

    async def entries(self, guild_id: GuildId) -> Listed:
        """Everybody, claimed or not, in order.

        In a list that an older bot writes too, what cannot be read is left out, with a warning in
        the log that names its place, and stays in the document.
        """
        members = await self._guilds.members(WAITLISTS, guild_id)
        for index, error in unreadable(members) if self._older else ():
            if (place := (self._guilds.key(guild_id), index)) not in self._noticed:
                self._noticed.add(place)
                logger.warning("guild %s: %s (%s)", place[0], error.message, error.hint)
        return self._read(members)

    def _read(self, members: Members) -> Listed:
        return read_entries(members, older=self._older)

    def _is_plain(self, members: Members) -> bool:
        """Whether one more entry can simply be appended: there is a list, and it is folded."""
        has_list = MEMBER not in members or members[MEMBER] is not None
        return has_list and len(stored_list(members)) == len(self._read(members))

    def _with_added(self, members: Members, entry: WaitlistEntry) -> Members:
        entries = self._read(members)
        if _of(entries, entry.who) is None:
            _require_room(entries)
        added = self._read({MEMBER: [*stored_list(members), entry.to_json()]})
        return with_entries(members, added)

    def _placed(
        self,
        members: Members | None,
        entry: WaitlistEntry,
        before: WaitlistEntry | None,
        now: datetime,
    ) -> Added:
        """Where a member stands after they were added; `before`: where they stood already."""
        entries = [entry] if members is None else self._read(members)
        found = _of(entries, entry.who) or entry
        position = None if members is None else _position(entries, entry.who, now)
        return Added(position, found, before is None and found.added_at == entry.added_at)

    async def _known(self, guild_id: GuildId) -> Members | None:
        """The document; None when nothing is known of it here while the primary is away."""
        try:
            return await self._guilds.members(WAITLISTS, guild_id)
        except Unavailable as error:
            if error.code != "not_mirrored":
                raise
            return None

    def _decides(self) -> bool:
        """Whether the primary can be asked to decide; else everything is appended."""
        return self.handle.engine.mode is Mode.DIRECT

    async def _edit(
        self,
        guild_id: GuildId,
        member_id: MemberId | WaitlistEntry,
        edit: Callable[[WaitlistEntry], WaitlistEntry | None],
    ) -> tuple[WaitlistEntry | None, WaitlistEntry | None]:
        """Make another entry of a member's, or none: what it was before, and what it is then."""
        member = (
            member_id.who
            if isinstance(member_id, WaitlistEntry)
            else number_id(member_id, "member")
        )
        before: WaitlistEntry | None = None

        def change(members: Members) -> Members | None:
            nonlocal before
            entries = self._read(members)
            before = _of(entries, member)
            if before is None:
                return None
            edited = [edit(one) if one.who == member else one for one in entries]
            return with_entries(members, [one for one in edited if one is not None])

        await self._guilds.writable(guild_id)
        if self._decides():
            try:
                await self._guilds.change(WAITLISTS, guild_id, change)
            except Unavailable:
                pass  # it is appended, which has the same effect whether this had one or not
            else:
                return before, None if before is None else edit(before)
        members = await self._guilds.members(WAITLISTS, guild_id)
        there = _of(self._read(members), member)
        if there is None:  # it never was, or the change was made although its reply was lost
            return before, None if before is None else edit(before)
        before, after = there, edit(there)
        stored = change_of(before, REMOVED) if after is None else change_of(after, UPDATED)
        _require_room(stored_list(members))
        await self._append(guild_id, stored)
        return before, after

    async def _append(self, guild_id: GuildId, stored: Members) -> Members | None:
        """Append to the list; the document as it is then, None where it is not known here."""
        try:
            found = await self._guilds.append(WAITLISTS, guild_id, f"/{MEMBER}", stored)
        except ConflictError as error:
            if error.code != "moved":
                raise
            return await self._known(guild_id)
        return None if found is None else {MEMBER: found}


def _of(entries: Iterable[WaitlistEntry], who: int | str) -> WaitlistEntry | None:
    return next((entry for entry in entries if entry.who == who), None)


def _position(entries: Iterable[WaitlistEntry], who: int | str, now: datetime) -> int | None:
    waiting = (entry for entry in entries if not entry.is_claimed(now))
    places = enumerate(waiting, start=1)
    return next((place for place, entry in places if entry.who == who), None)


def _require_room(entries: list[Any]) -> None:
    if len(entries) >= MAX_WAITLIST_ENTRIES:
        raise DataError(
            f"a waitlist has {len(entries)} entries, and {MAX_WAITLIST_ENTRIES} is the limit",
            code="waitlist_full",
            hint="nothing was written; remove members who no longer wait",
        )
