"""Schedules: what is due in which guild, and who does it, once."""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

from standfast.api.drive import Blocking, blocking
from standfast.bot.claims import LEASE_S, Claim, is_live, is_of, lease_end, mark_of, new_id
from standfast.bot.fields import (
    CLAIMS,
    GuildId,
    aware,
    iso,
    schedule_member,
    schedule_name,
    stored_time,
)
from standfast.bot.guilds import VIEWS, Members, Part
from standfast.errors import ConflictError, CorruptData, Unavailable
from standfast.ops.types import Receipt, Redacted

logger = logging.getLogger("standfast")


class Due(Redacted, frozen=True):
    """A schedule that is due: something was to be done in this guild at `when`."""

    content = frozenset({"when"})

    guild_id: str
    name: str
    when: datetime


class DueClaim(Claim, frozen=True, kw_only=True):
    """A due schedule that this process has claimed: no other process gets it before `until`."""

    due: Due


class AsyncSchedules(Part):
    """Schedules: a time for each name, and claims on those that are due.

    A claim is decided by the primary, so of several processes one gets it.
    """

    # ---- times

    async def set(self, guild_id: GuildId, name: str, when: datetime | str) -> Receipt:
        """Set the time of a schedule, or move it; works during an outage.

        A string is ISO 8601.  DataError("naive_datetime") without a timezone.  A claim on the
        former time does not hold for the new one.
        """
        patch = {schedule_member(name): iso(aware(when, "a schedule"))}
        return await self._guilds.patch(VIEWS, guild_id, patch)

    async def get(self, guild_id: GuildId, name: str) -> datetime | None:
        """The time of a schedule, or None; a time stored without a timezone is UTC.

        CorruptData("bad_time") if the stored value is not a time.
        """
        member = schedule_member(name)
        members = await self._guilds.members(VIEWS, guild_id)
        return _time(members, member, self._guilds.key(guild_id))

    async def clear(self, guild_id: GuildId, name: str) -> bool:
        """Remove a schedule, claimed or not; False when there was none.

        Works during an outage.  If nothing is known of the guild then, the answer is True.
        """
        member = schedule_member(name)

        def removal(members: Members | None) -> Members | None:
            if members is None:
                return {member: None}
            if member not in members:
                return None
            marked = name in _marks(members)
            return {member: None, CLAIMS: {name: None}} if marked else {member: None}

        return await self._guilds.patch_seen(VIEWS, guild_id, removal)

    async def list(self, guild_id: GuildId) -> dict[str, datetime]:
        """The schedules of a guild by name, sorted by time.  CorruptData as for `get`."""
        members = await self._guilds.members(VIEWS, guild_id)
        key = self._guilds.key(guild_id)
        times = [(name, _time(members, member, key)) for name, member in _names(members)]
        found = [(when, name) for name, when in times if when is not None]
        return {name: when for when, name in sorted(found)}

    async def due(self, now: datetime | None = None) -> builtins.list[Due]:
        """What is due in all guilds, sorted by time, without claimed schedules.

        `now` is the time of the clock by default.  A schedule whose stored time is not valid is
        left out too, with a warning in the log.  In an outage as `messages.list`.
        """
        clock = self._guilds.clock()
        limit = clock if now is None else aware(now, "now")
        found: builtins.list[Due] = []
        for key, value in await self._guilds.documents(VIEWS):
            if isinstance(value, dict):
                found += _due_of(key, cast("Members", value), limit=limit, clock=clock)
        return sorted(found, key=lambda due: (due.when, due.guild_id, due.name))

    # ---- claims

    async def claim(self, due: Due, *, lease_s: float = LEASE_S) -> DueClaim | None:
        """Take a schedule for `lease_s` seconds; None: another process has it, or it was moved.

        A claim that is neither `done` nor released lapses then, and the schedule is due again.
        While the primary is away Unavailable("needs_primary"), unless the store was opened with
        `sole_writer=True`.  DeadlineExceeded: whether it was taken is unknown; it lapses.
        """
        member = schedule_member(due.name)
        now = self._guilds.clock()
        claim = DueClaim(
            id=new_id(),
            guild_id=self._guilds.key(due.guild_id),
            until=lease_end(now, lease_s),
            due=due,
        )
        taken = False

        def take(members: Members) -> Members | None:
            nonlocal taken
            when = stored_time(members.get(member))
            taken = when == due.when and not _is_claimed(members, due, now)
            if not taken:
                return None
            mark = mark_of(claim.id, claim.until) | {"when": members[member]}
            return members | {CLAIMS: _marks(members) | {due.name: mark}}

        await self._guilds.change(VIEWS, due.guild_id, take)
        return claim if taken else None

    async def claim_due(
        self, now: datetime | None = None, *, lease_s: float = LEASE_S
    ) -> builtins.list[DueClaim]:
        """Claim everything that is due and not claimed yet, in order of time.

        When the primary goes away in between, what was taken until then is returned.
        """
        claims: builtins.list[DueClaim] = []
        for due in await self.due(now):
            try:
                claim = await self.claim(due, lease_s=lease_s)
            except (Unavailable, ConflictError):
                if not claims:
                    raise
                break  # these are ours: without an answer they would be done a lease too late
            if claim is not None:
                claims.append(claim)
        return claims

    async def done(self, claim: DueClaim) -> bool:
        """Remove a claimed schedule; False if the claim lapsed and another process took it.

        A schedule that was moved meanwhile stays, at its new time.
        """
        return await self._finish(claim, remove=True)

    async def release(self, claim: DueClaim) -> bool:
        """Give a claimed schedule back: it is due again.  False as for `done`."""
        return await self._finish(claim, remove=False)

    async def _finish(self, claim: DueClaim, *, remove: bool) -> bool:
        name, member = claim.due.name, schedule_member(claim.due.name)
        ours = False

        def finished(members: Members) -> Members | None:
            nonlocal ours
            marks = dict(_marks(members))
            ours = is_of(marks.pop(name, None), claim.id)
            if not ours:
                return None
            after = {key: value for key, value in members.items() if key != CLAIMS}
            if marks:
                after[CLAIMS] = marks
            if remove and stored_time(members.get(member)) == claim.due.when:
                del after[member]
            return after

        await self._guilds.change(VIEWS, claim.guild_id, finished)
        return ours


class Schedules(Blocking[AsyncSchedules]):
    """What is due in which guild, and who does it, once: `bot.schedules`."""

    set = blocking(AsyncSchedules.set)
    get = blocking(AsyncSchedules.get)
    clear = blocking(AsyncSchedules.clear)
    list = blocking(AsyncSchedules.list)
    due = blocking(AsyncSchedules.due)
    claim = blocking(AsyncSchedules.claim)
    claim_due = blocking(AsyncSchedules.claim_due)
    done = blocking(AsyncSchedules.done)
    release = blocking(AsyncSchedules.release)


def _names(members: Members) -> Iterator[tuple[str, str]]:
    """(name, member) of the schedules in a document; null stands for none."""
    for member, value in members.items():
        name = schedule_name(member)
        if name is not None and value is not None:
            yield name, member


def _time(members: Members, member: str, key: str) -> datetime | None:
    value = members.get(member)
    when = stored_time(value)
    if value is not None and when is None:
        raise CorruptData(
            f"`{member}` of guild {key} in `{VIEWS}` is not a time in ISO 8601",
            code="bad_time",
            hint="set it anew, or clear it",
        )
    return when


def _due_of(key: str, members: Members, *, limit: datetime, clock: datetime) -> Iterator[Due]:
    """What is due until `limit`, and not claimed at the time of the clock."""
    for name, member in _names(members):
        when = stored_time(members[member])
        if when is None:
            logger.warning("`%s` of guild %s in `%s` is not a time: left out", member, key, VIEWS)
        elif when <= limit and not _is_claimed(members, Due(key, name, when), clock):
            yield Due(key, name, when)


def _marks(members: Members) -> dict[str, Any]:
    marks = members.get(CLAIMS)
    return cast("dict[str, Any]", marks) if isinstance(marks, dict) else {}


def _is_claimed(members: Members, due: Due, now: datetime) -> bool:
    """Whether the schedule is claimed: a live mark, made for this very time."""
    mark: Any = _marks(members).get(due.name)
    if not is_live(mark, now):
        return False
    made_for = stored_time(mark.get("when"))
    return made_for is None or made_for == due.when
