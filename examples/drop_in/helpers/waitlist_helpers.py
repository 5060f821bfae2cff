"""The waitlist, in the place of an older bot's `helpers/waitlist_helpers.py`.

It needs no other module of the bot.  Who is registered is the bot's own business: say once where,

    use_registration(adapter)

with an object that has `capacity(guild)`, `registered(guild)`, `teams(guild)` and
`register(guild, entry)`; each may be a coroutine function.  Without it nobody is promoted.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from standfast import StandfastError
from standfast.bot import AsyncBotStore, GuildDocuments, WaitlistEntry, shared

logger = logging.getLogger(__name__)

COLLECTION, FILE = "waitlist_data", "waitlist_data.json"
#: Older bots know no limit of teams, only one of members.
MAX_TEAMS = 10_000


class WaitlistError(Exception):
    """The waitlist could not be read or changed; the cause says why."""


def use_registration(adapter: Any) -> None:
    """Say who registers people, and who is registered; None: nobody does."""
    WaitlistManager.registration = adapter


@contextmanager
def _translated() -> Iterator[None]:
    """Every failure of the store as a WaitlistError."""
    try:
        yield
    except StandfastError as error:
        raise WaitlistError(f"{error.message} ({error.hint})") from error


@asynccontextmanager
async def _bot() -> AsyncIterator[AsyncBotStore]:
    with _translated():
        yield shared().as_async()


def _documents() -> GuildDocuments:
    return shared().documents(COLLECTION, file=FILE)


class WaitlistManager:
    """The waitlist of each guild.  People are found by their tag."""

    registration: Any = None

    @staticmethod
    def _load_waitlist_data() -> dict[str, Any]:
        """All guilds' waitlists as they are stored."""
        with _translated():
            return _documents().load()

    @staticmethod
    def _save_waitlist_data(data: dict[str, Any]) -> None:
        """Write the waitlists of these guilds; those of others stay as they are."""
        if not isinstance(data, dict):
            raise ValueError("the data must be a dictionary")
        with _translated():
            _documents().save(data, delete=False)

    @staticmethod
    async def _find_similar_team(team_name: str, guild_id: str | int) -> str | None:
        """The team that somebody may have meant, registered or waiting; None: nothing is near."""
        if not team_name or not _allows(guild_id):
            return None
        async with _bot() as bot:
            registered = await _registered_teams(guild_id)
            return await bot.waitlist.suggest_team(guild_id, team_name, registered=registered)

    @staticmethod
    async def add_to_waitlist(
        guild: Any,
        member: Any,
        ign: str,
        pronouns: str,
        team_name: str | None = None,
        alt_igns: str | None = None,
    ) -> int:
        """Add a member, or change their entry in its place; returns the position, from 1.

        0 in a development process, for a guild that is not its own.
        """
        if not guild or not member or not ign or not ign.strip():
            raise ValueError("a guild, a member and an in-game name are required")
        if not _allows(guild.id):
            return 0
        if team_name:
            similar = await WaitlistManager._find_similar_team(team_name, guild.id)
            team_name = similar or team_name
        details = _details(ign, pronouns, team_name, alt_igns)
        async with _bot() as bot:
            tag = str(member)
            there = await bot.waitlist.find(guild.id, tag)
            if there is not None and there.discord_tag == tag:
                await bot.waitlist.update(guild.id, there, **details)
            else:
                await bot.waitlist.add(guild.id, member_id=member.id, discord_tag=tag, **details)
            position = _position(await bot.waitlist.entries(guild.id), tag)
        if position is None:
            raise WaitlistError("the entry was taken off the list again at once")
        return position

    @staticmethod
    async def remove_from_waitlist(guild_id: str | int, discord_tag: str) -> bool:
        """Remove somebody; False when they do not wait."""
        if not guild_id or not discord_tag:
            raise ValueError("a guild and a tag are required")
        async with _bot() as bot:
            entry = await _find(bot, guild_id, discord_tag)
            return entry is not None and await bot.waitlist.remove(guild_id, entry) is not None

    @staticmethod
    async def get_waitlist_position(guild_id: str | int, discord_tag: str) -> int | None:
        """The position, from 1, or None."""
        return _position(await _entries(guild_id), discord_tag)

    @staticmethod
    async def get_waitlist_entry(guild_id: str | int, discord_tag: str) -> dict[str, Any] | None:
        """The entry, or None."""
        found = (one for one in await _entries(guild_id) if one.discord_tag == discord_tag)
        return next(map(_as_dict, found), None)

    @staticmethod
    async def update_waitlist_entry(
        guild_id: str | int,
        discord_tag: str,
        ign: str,
        pronouns: str,
        team_name: str | None = None,
        alt_igns: str | None = None,
    ) -> bool:
        """Change an entry, which keeps its place; False when there is none."""
        if not guild_id or not discord_tag or not ign:
            raise ValueError("a guild, a tag and an in-game name are required")
        async with _bot() as bot:
            entry = await _find(bot, guild_id, discord_tag)
            details = _details(ign, pronouns, team_name, alt_igns)
            return (
                entry is not None
                and await bot.waitlist.update(guild_id, entry, **details) is not None
            )

    @staticmethod
    async def get_all_waitlist_entries(guild_id: str | int) -> list[dict[str, Any]]:
        """Everybody on the list, in order."""
        return [_as_dict(entry) for entry in await _entries(guild_id)]

    @staticmethod
    async def get_waitlist_length(guild_id: str | int | None) -> int:
        """How many are on the list; 0 without a guild."""
        return len(await _entries(guild_id))

    @staticmethod
    async def process_waitlist(guild: Any) -> list[dict[str, Any]]:
        """Register those who come next, as far as there are places; returns who was registered.

        Somebody leaves the list only after `register` has returned; whoever it refuses keeps their
        place.  WaitlistError without a registration, and when nobody could be registered because
        it failed.
        """
        if not guild:
            raise ValueError("a guild is required")
        adapter = WaitlistManager.registration
        if adapter is None:
            raise WaitlistError("nobody is promoted: call use_registration(adapter) at the start")
        if not _allows(guild.id):
            return []
        async with _bot() as bot:
            try:
                promoted = await bot.waitlist.promote_into(
                    guild, _Registration(adapter), max_teams=MAX_TEAMS
                )
            except StandfastError:
                raise
            except Exception as error:
                raise WaitlistError(f"the registration failed: {error}") from error
        return [_as_dict(entry) for entry in promoted]


class _Registration:
    """The bot's registration, which knows entries as dicts."""

    def __init__(self, adapter: Any) -> None:
        self.capacity = adapter.capacity
        self.registered = adapter.registered
        self.teams = adapter.teams
        self._adapter = adapter

    def register(self, guild: Any, entry: WaitlistEntry) -> Any:
        return self._adapter.register(guild, _as_dict(entry))


def _allows(guild_id: str | int) -> bool:
    """Whether this process sees the guild; a development process sees its own alone."""
    if _documents().allows(guild_id):
        return True
    logger.warning("guild %s is not the development guild: nothing was done", guild_id)
    return False


async def _entries(guild_id: str | int | None) -> list[WaitlistEntry]:
    if not guild_id or not _allows(guild_id):
        return []
    async with _bot() as bot:
        return await bot.waitlist.entries(guild_id)


async def _find(bot: AsyncBotStore, guild_id: str | int, tag: str) -> WaitlistEntry | None:
    if not _allows(guild_id):
        return None
    entries = await bot.waitlist.entries(guild_id)
    return next((entry for entry in entries if entry.discord_tag == tag), None)


async def _registered_teams(guild_id: str | int) -> list[str]:
    """The registered teams; a registration that fails now only means fewer suggestions."""
    adapter = WaitlistManager.registration
    if adapter is None:
        return []
    try:
        teams = adapter.teams(guild_id)
        return list(await teams if hasattr(teams, "__await__") else teams)
    except Exception:
        logger.exception("guild %s: the registered teams are not known", guild_id)
        return []


def _position(entries: list[WaitlistEntry], tag: str) -> int | None:
    places = enumerate(entries, start=1)
    return next((place for place, entry in places if entry.discord_tag == tag), None)


def _details(
    ign: str, pronouns: str | None, team_name: str | None, alt_igns: str | None
) -> dict[str, Any]:
    """The texts of a form, trimmed."""
    return {
        "ign": ign.strip(),
        "pronouns": (pronouns or "").strip(),
        "team_name": (team_name or "").strip() or None,
        "alt_igns": (alt_igns or "").strip(),
    }


def _as_dict(entry: WaitlistEntry) -> dict[str, Any]:
    """An entry in the form that older code knows."""
    stored = entry.to_json()
    stored.pop("claim", None)
    names = stored["alt_igns"]
    stored["alt_igns"] = ", ".join(names) or None if isinstance(names, list) else names
    return {**stored, "pronouns": stored["pronouns"] or "", "member_id": entry.member_id}
