"""The waitlist by the names that bots have used: a `WaitlistManager` over standfast's waitlist."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.registrations import Registrations, details_of
from core.storage_service import get_storage_service

from standfast import StandfastError
from standfast.bot import WaitlistEntry


class WaitlistError(Exception):
    """The waitlist could not be read or changed; the cause says why."""


@contextmanager
def _told() -> Iterator[None]:
    """Every failure of the storage as a WaitlistError."""
    try:
        yield
    except StandfastError as error:
        raise WaitlistError(f"{error.message} ({error.hint})") from error


class WaitlistManager:
    """The waitlist of each guild.  Members are found by their tag, as older code does."""

    @staticmethod
    async def add_to_waitlist(
        guild: Any,
        member: Any,
        ign: str,
        pronouns: str | None = None,
        team_name: str | None = None,
        alt_igns: str | None = None,
    ) -> int:
        """Add a member, or update their entry in place; returns the position, from 1."""
        if not ign or not ign.strip():
            raise ValueError("an in-game name is required")
        with _told():
            waitlist = get_storage_service().async_bot.waitlist
            if team_name:
                team_name = await waitlist.suggest_team(guild.id, team_name) or team_name
            placed = await waitlist.add(
                guild.id,
                member_id=member.id,
                discord_tag=str(member),
                **_details(ign, pronouns, team_name, alt_igns),
            )
        return placed.position

    @staticmethod
    async def remove_from_waitlist(guild_id: str | int, discord_tag: str) -> bool:
        """Remove a member; False when they do not wait."""
        entry = await WaitlistManager._find(guild_id, discord_tag)
        if entry is None:
            return False
        waitlist = get_storage_service().async_bot.waitlist
        with _told():
            return await waitlist.remove(guild_id, entry.member_id) is not None

    @staticmethod
    async def get_waitlist_position(guild_id: str | int, discord_tag: str) -> int | None:
        """The position, from 1, or None."""
        entry = await WaitlistManager._find(guild_id, discord_tag)
        if entry is None:
            return None
        waitlist = get_storage_service().async_bot.waitlist
        with _told():
            return await waitlist.position(guild_id, entry.member_id)

    @staticmethod
    async def get_waitlist_entry(guild_id: str | int, discord_tag: str) -> dict[str, Any] | None:
        """The entry as a dict, or None."""
        entry = await WaitlistManager._find(guild_id, discord_tag)
        return None if entry is None else _as_dict(entry)

    @staticmethod
    async def update_waitlist_entry(
        guild_id: str | int,
        discord_tag: str,
        ign: str,
        pronouns: str | None = None,
        team_name: str | None = None,
        alt_igns: str | None = None,
    ) -> bool:
        """Change an entry, which keeps its position; False when there is none."""
        entry = await WaitlistManager._find(guild_id, discord_tag)
        if entry is None:
            return False
        changes = _details(ign, pronouns, team_name, alt_igns)
        waitlist = get_storage_service().async_bot.waitlist
        with _told():
            return await waitlist.update(guild_id, entry.member_id, **changes) is not None

    @staticmethod
    async def get_waitlist_length(guild_id: str | int) -> int:
        """How many wait."""
        with _told():
            return await get_storage_service().async_bot.waitlist.length(guild_id)

    @staticmethod
    async def get_all_waitlist_entries(guild_id: str | int) -> list[dict[str, Any]]:
        """Who waits, in order."""
        with _told():
            entries = await get_storage_service().async_bot.waitlist.list(guild_id)
        return [_as_dict(entry) for entry in entries]

    @staticmethod
    async def process_waitlist(guild: Any) -> list[dict[str, Any]]:
        """Give the places that are free to those who wait; returns who got one."""
        with _told():
            promoted = await Registrations(get_storage_service().async_bot).promote(guild.id)
        return [_as_dict(entry) for entry in promoted]

    @staticmethod
    async def _find(guild_id: str | int, discord_tag: str) -> WaitlistEntry | None:
        with _told():
            return await get_storage_service().async_bot.waitlist.find(guild_id, discord_tag)


def _details(
    ign: str, pronouns: str | None, team_name: str | None, alt_igns: str | None
) -> dict[str, Any]:
    """The texts of a form, trimmed; alternative names are separated by commas."""
    others = [name.strip() for name in (alt_igns or "").split(",")]
    return {
        "ign": ign.strip(),
        "pronouns": (pronouns or "").strip() or None,
        "team_name": (team_name or "").strip() or None,
        "alt_igns": [name for name in others if name],
    }


def _as_dict(entry: WaitlistEntry) -> dict[str, Any]:
    return {
        "member_id": entry.member_id,
        "added_at": None if entry.added_at is None else entry.added_at.isoformat(),
        **details_of(entry),
    }
