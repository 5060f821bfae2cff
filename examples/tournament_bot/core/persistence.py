"""What the bot remembers of each guild: messages with buttons, event mode, schedules.

The names and signatures are those that bots have used with JSON files; each function does one
thing to one guild's document, so nothing is loaded at import and nobody's change is overwritten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from core.storage_service import get_storage_service
from standfast import DataError

GuildId = str | int


def load_persisted() -> dict[str, Any]:
    """Everything that is kept of all guilds."""
    return get_storage_service().get_persisted_views()


def save_persisted(data: dict[str, Any]) -> None:
    """Write what changed in a dict that `load_persisted` gave."""
    get_storage_service().save_persisted_views(data)


def set_persisted_msg(guild_id: GuildId, key: str, channel_id: int, msg_id: int) -> None:
    """Remember where a guild's message is."""
    get_storage_service().bot.messages.set(guild_id, key, channel_id, msg_id)


def get_persisted_msg(guild_id: GuildId, key: str) -> tuple[int | None, int | None]:
    """(channel id, message id); (None, message id) where only that was stored; (None, None)."""
    return _place(get_storage_service().bot.messages.get(guild_id, key))


def get_event_mode_for_guild(guild_id: GuildId) -> str:
    """The guild's event mode, `normal` until it sets one."""
    return get_storage_service().bot.modes.get(guild_id)


def set_event_mode_for_guild(guild_id: GuildId, mode: str) -> None:
    """Set the guild's event mode; ValueError for an unknown one."""
    try:
        get_storage_service().bot.modes.set(guild_id, mode)
    except DataError as error:
        raise _as_value_error(error) from error


def get_schedule(guild_id: GuildId, key: str) -> str | None:
    """The ISO time of a schedule, or None."""
    when = get_storage_service().bot.schedules.get(guild_id, key)
    return None if when is None else when.isoformat()


def set_schedule(guild_id: GuildId, key: str, dtstr: str | None) -> None:
    """Set a schedule, None to clear it; ValueError for a time without a timezone."""
    schedules = get_storage_service().bot.schedules
    if dtstr is None:
        schedules.clear(guild_id, key)
        return
    try:
        schedules.set(guild_id, key, dtstr)
    except DataError as error:
        raise _as_value_error(error) from error


def get_guild_data(guild_id: GuildId) -> dict[str, Any]:
    """Everything that is kept of a guild."""
    return get_storage_service().bot.guilds.get(guild_id)


def update_guild_data(guild_id: GuildId, data: dict[str, Any]) -> None:
    """Change some of it; None removes a member."""
    get_storage_service().bot.guilds.patch(guild_id, data)


def get_guild_statistics() -> dict[str, int]:
    """How many guilds there are, and how many have what."""
    return _counts(get_storage_service().bot.statistics())


def cleanup_old_data(
    days: float = 30, *, live_guilds: Iterable[GuildId] | None = None
) -> list[str]:
    """Delete what is kept of guilds that the bot has left that long ago."""
    return get_storage_service().cleanup_old_data(days, live_guilds=live_guilds)


# ---- awaited


async def load_persisted_async() -> dict[str, Any]:
    """As `load_persisted`."""
    return await asyncio.to_thread(load_persisted)


async def save_persisted_async(data: dict[str, Any]) -> None:
    """As `save_persisted`."""
    await asyncio.to_thread(save_persisted, data)


async def cleanup_old_data_async(
    days: float = 30, *, live_guilds: Iterable[GuildId] | None = None
) -> list[str]:
    """As `cleanup_old_data`."""
    return await asyncio.to_thread(cleanup_old_data, days, live_guilds=live_guilds)


async def set_persisted_msg_async(
    guild_id: GuildId, key: str, channel_id: int, msg_id: int
) -> None:
    """As `set_persisted_msg`."""
    await get_storage_service().async_bot.messages.set(guild_id, key, channel_id, msg_id)


async def get_persisted_msg_async(guild_id: GuildId, key: str) -> tuple[int | None, int | None]:
    """As `get_persisted_msg`."""
    return _place(await get_storage_service().async_bot.messages.get(guild_id, key))


async def get_event_mode_for_guild_async(guild_id: GuildId) -> str:
    """As `get_event_mode_for_guild`."""
    return await get_storage_service().async_bot.modes.get(guild_id)


async def set_event_mode_for_guild_async(guild_id: GuildId, mode: str) -> None:
    """As `set_event_mode_for_guild`."""
    try:
        await get_storage_service().async_bot.modes.set(guild_id, mode)
    except DataError as error:
        raise _as_value_error(error) from error


async def get_schedule_async(guild_id: GuildId, key: str) -> str | None:
    """As `get_schedule`."""
    when = await get_storage_service().async_bot.schedules.get(guild_id, key)
    return None if when is None else when.isoformat()


async def set_schedule_async(guild_id: GuildId, key: str, dtstr: str | None) -> None:
    """As `set_schedule`."""
    schedules = get_storage_service().async_bot.schedules
    if dtstr is None:
        await schedules.clear(guild_id, key)
        return
    try:
        await schedules.set(guild_id, key, dtstr)
    except DataError as error:
        raise _as_value_error(error) from error


async def get_guild_data_async(guild_id: GuildId) -> dict[str, Any]:
    """As `get_guild_data`."""
    return await get_storage_service().async_bot.guilds.get(guild_id)


async def update_guild_data_async(guild_id: GuildId, data: dict[str, Any]) -> None:
    """As `update_guild_data`."""
    await get_storage_service().async_bot.guilds.patch(guild_id, data)


async def get_guild_statistics_async() -> dict[str, int]:
    """As `get_guild_statistics`."""
    return _counts(await get_storage_service().async_bot.statistics())


def _place(message: Any) -> tuple[int | None, int | None]:
    return (None, None) if message is None else (message.channel_id, message.message_id)


def _as_value_error(error: DataError) -> ValueError:
    return ValueError(f"{error.message} ({error.hint})")


def _counts(statistics: Any) -> dict[str, int]:
    return {
        "total_guilds": statistics.guilds,
        "guilds_with_registration": statistics.with_registration,
        "guilds_with_checkin": statistics.with_checkin,
        "guilds_with_schedules": statistics.with_schedules,
    }
