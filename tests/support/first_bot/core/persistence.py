"""The older bot's memory of each guild: a dict at the top of the module, over its own tables."""

from __future__ import annotations

import logging
import os
from typing import Any

connection_pool = None


def _own() -> Any:
    """Its own connection to the same tables, whoever else has one.

    The class of the older storage service serves as one here, whichever module has its name.
    """
    import older_storage

    return older_storage.UnifiedStorageService()


def _dev_guild() -> str | None:
    name = os.environ.get("RAILWAY_ENVIRONMENT_NAME", "")
    return None if name in ("production", "main", "prod") else os.environ.get("DEV_GUILD_ID")


def load_persisted() -> dict[str, Any]:
    data = _own().get_persisted_views()
    only = _dev_guild()
    return {key: value for key, value in data.items() if only in (None, key)}


def save_persisted(data: dict[str, Any]) -> None:
    only = _dev_guild()
    if only is not None:
        everything = _own().get_persisted_views()
        data = everything | {key: value for key, value in data.items() if key == only}
    _own().save_persisted_views(data)


persisted = load_persisted()


def _set(guild_id: str | int, changes: dict[str, Any]) -> None:
    guild = str(guild_id)
    if _dev_guild() not in (None, guild):
        logging.getLogger(__name__).warning("blocked")
        return
    persisted.setdefault(guild, {}).update(changes)
    save_persisted(persisted)


def set_persisted_msg(guild_id: str | int, key: str, channel_id: int, msg_id: int) -> None:
    _set(guild_id, {key: [channel_id, msg_id]})


def get_persisted_msg(guild_id: str | int, key: str) -> tuple[int | None, int | None]:
    value = persisted.get(str(guild_id), {}).get(key)
    if isinstance(value, list):
        return value[0], value[1]
    return (None, value) if isinstance(value, int) else (None, None)


def get_event_mode_for_guild(guild_id: str | int) -> str:
    return persisted.get(str(guild_id), {}).get("event_mode", "normal")


def set_event_mode_for_guild(guild_id: str | int, mode: str) -> None:
    if mode not in ("normal", "doubleup"):
        raise ValueError(mode)
    _set(guild_id, {"event_mode": mode})


def get_schedule(guild_id: str | int, key: str) -> str | None:
    return persisted.get(str(guild_id), {}).get(f"{key}_schedule")


def set_schedule(guild_id: str | int, key: str, dtstr: str | None) -> None:
    if dtstr is None:
        persisted.get(str(guild_id), {}).pop(f"{key}_schedule", None)
    _set(guild_id, {} if dtstr is None else {f"{key}_schedule": dtstr})


def get_guild_data(guild_id: str | int) -> dict[str, Any]:
    return persisted.get(str(guild_id), {})


def update_guild_data(guild_id: str | int, data: dict[str, Any]) -> None:
    _set(guild_id, data)


def get_guild_statistics() -> dict[str, int]:
    guilds = list(persisted.values())
    return {
        "total_guilds": len(guilds),
        "guilds_with_registration": sum("registration" in guild for guild in guilds),
        "guilds_with_checkin": sum("checkin" in guild for guild in guilds),
        "guilds_with_schedules": sum(
            any(name.endswith("_schedule") for name in guild) for guild in guilds
        ),
    }


def cleanup_old_data(days: int = 30) -> None:
    pass


async def get_event_mode_for_guild_async(guild_id: str | int) -> str:
    return get_event_mode_for_guild(guild_id)


async def set_event_mode_for_guild_async(guild_id: str | int, mode: str) -> None:
    set_event_mode_for_guild(guild_id, mode)
