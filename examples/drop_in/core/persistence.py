"""What the bot remembers of each guild: a dict in memory, changed in place and saved.

In the place of an older bot's `core/persistence.py`, with the same names.  It needs no other module
of the bot.  `DATABASE_URL` names PostgreSQL; without it everything is in SQLite in `./storage`.
"""

from __future__ import annotations

import copy
import logging
import threading
from typing import Any

from standfast import Unavailable
from standfast.bot import AsyncGuildDocuments, GuildDocuments, LoadedGuilds, shared

logger = logging.getLogger(__name__)

GuildId = str | int
COLLECTION, FILE = "persisted_views", "persisted_views.json"
EVENT_MODES = ("normal", "doubleup")

#: Older code asks whether there is a pool; connections are the store's own.
connection_pool = None

#: One save at a time: it compares what is in memory with what was stored.
_lock = threading.RLock()


def _documents() -> GuildDocuments:
    return shared().documents(COLLECTION, file=FILE)


def _async_documents() -> AsyncGuildDocuments:
    return shared().as_async().documents(COLLECTION, file=FILE)


def load_persisted() -> dict[str, Any]:
    """Everything that is kept of all guilds; in a development process of its guild alone."""
    return _documents().load()


def save_persisted(data: dict[str, Any]) -> None:
    """Write what changed in `data`.

    A guild that was removed from `persisted`, or from what `load_persisted` returned, is deleted.
    A dict of another origin says nothing of the guilds that are not in it: they stay.
    """
    with _lock:
        _documents().save(data)
        _follow(data)


def _follow(data: dict[str, Any]) -> None:
    """Let `persisted` show what was saved by way of another dict."""
    if data is persisted:
        return
    documents = _documents()
    for guild, value in data.items():
        if documents.allows(guild):
            saved = LoadedGuilds({str(guild): copy.deepcopy(value)})
            persisted.update(saved)
            persisted.stored |= saved.stored
    if isinstance(data, LoadedGuilds):
        for guild in persisted.keys() - data.keys():
            persisted.pop(guild)
            persisted.stored.pop(guild, None)


def _load_at_start() -> LoadedGuilds:
    try:
        return _documents().load()
    except Unavailable as error:
        logger.warning("nothing is known of the guilds yet: %s (%s)", error.message, error.hint)
        return LoadedGuilds()


persisted: LoadedGuilds = _load_at_start()


def _changed(guild_id: GuildId, changes: dict[str, Any], *, remove: str | None = None) -> bool:
    """Change members of a guild in memory; False in a development process of another guild."""
    guild = str(guild_id)
    if not _documents().allows(guild):
        logger.warning("guild %s is not the development guild: nothing was changed", guild)
        return False
    with _lock:
        before = persisted.get(guild)
        after = {**(before or {}), **changes}
        if remove is not None:
            after.pop(remove, None)
        LoadedGuilds({guild: after})  # what JSON cannot hold is refused before it is in memory
        if before is None:
            persisted[guild] = after
        else:  # the same dict: others may have it in their hands
            before.clear()
            before.update(after)
    return True


def _with_mode(guild_id: GuildId, mode: str) -> bool:
    if mode not in EVENT_MODES:
        raise ValueError(f"unknown event mode {mode!r}: there are {', '.join(EVENT_MODES)}")
    return _changed(guild_id, {"event_mode": mode})


def _with_schedule(guild_id: GuildId, key: str, dtstr: str | None) -> bool:
    member = f"{key}_schedule"
    if dtstr is None:
        return _changed(guild_id, {}, remove=member)
    return _changed(guild_id, {member: dtstr})


def set_persisted_msg(guild_id: GuildId, key: str, channel_id: int, msg_id: int) -> None:
    """Remember where a guild's message is."""
    if _changed(guild_id, {key: [channel_id, msg_id]}):
        save_persisted(persisted)


def get_persisted_msg(guild_id: GuildId, key: str) -> tuple[int | None, int | None]:
    """(channel id, message id); (None, message id) where only that is stored; (None, None)."""
    match persisted.get(str(guild_id), {}).get(key):
        case [channel_id, msg_id]:
            return channel_id, msg_id
        case bool():
            return None, None
        case int(msg_id):
            return None, msg_id
        case _:
            return None, None


def get_event_mode_for_guild(guild_id: GuildId) -> str:
    """The guild's event mode, `normal` until it sets one."""
    return persisted.get(str(guild_id), {}).get("event_mode", "normal")


def set_event_mode_for_guild(guild_id: GuildId, mode: str) -> None:
    """Set the guild's event mode; ValueError for an unknown one."""
    if _with_mode(guild_id, mode):
        save_persisted(persisted)


def get_schedule(guild_id: GuildId, key: str) -> str | None:
    """The text of a schedule, or None."""
    return persisted.get(str(guild_id), {}).get(f"{key}_schedule")


def set_schedule(guild_id: GuildId, key: str, dtstr: str | None) -> None:
    """Set a schedule, whatever the text says; None removes it."""
    if _with_schedule(guild_id, key, dtstr):
        save_persisted(persisted)


def get_guild_data(guild_id: GuildId) -> dict[str, Any]:
    """Everything that is kept of a guild: the dict in `persisted`, or an empty one."""
    return persisted.get(str(guild_id), {})


def update_guild_data(guild_id: GuildId, data: dict[str, Any]) -> None:
    """`dict.update` on a guild's data, None included, and save."""
    if _changed(guild_id, data):
        save_persisted(persisted)


def get_guild_statistics() -> dict[str, int]:
    """How many guilds there are, and how many have what."""
    guilds = [guild for guild in persisted.values() if isinstance(guild, dict)]
    return {
        "total_guilds": len(persisted),
        "guilds_with_registration": sum("registration" in guild for guild in guilds),
        "guilds_with_checkin": sum("checkin" in guild for guild in guilds),
        "guilds_with_schedules": sum(
            any(name.endswith("_schedule") for name in guild) for guild in guilds
        ),
    }


def cleanup_old_data(days: int = 30) -> None:
    """Delete what nobody has changed for so many days."""
    documents = _documents()
    if documents.delete_older(days):
        _forget_deleted(documents.load())


def _forget_deleted(left: dict[str, Any]) -> None:
    with _lock:
        for guild in persisted.stored.keys() - left.keys():
            persisted.stored.pop(guild)
            persisted.pop(guild, None)


# ---- awaited: what is in memory is changed at once, and the writing is waited for


async def load_persisted_async() -> dict[str, Any]:
    """As `load_persisted`."""
    return await _async_documents().load()


async def save_persisted_async(data: dict[str, Any]) -> None:
    """As `save_persisted`."""
    await _async_documents().save(data)
    _follow(data)


async def set_persisted_msg_async(
    guild_id: GuildId, key: str, channel_id: int, msg_id: int
) -> None:
    """As `set_persisted_msg`."""
    if _changed(guild_id, {key: [channel_id, msg_id]}):
        await save_persisted_async(persisted)


async def get_persisted_msg_async(guild_id: GuildId, key: str) -> tuple[int | None, int | None]:
    """As `get_persisted_msg`."""
    return get_persisted_msg(guild_id, key)


async def get_event_mode_for_guild_async(guild_id: GuildId) -> str:
    """As `get_event_mode_for_guild`."""
    return get_event_mode_for_guild(guild_id)


async def set_event_mode_for_guild_async(guild_id: GuildId, mode: str) -> None:
    """As `set_event_mode_for_guild`."""
    if _with_mode(guild_id, mode):
        await save_persisted_async(persisted)


async def get_schedule_async(guild_id: GuildId, key: str) -> str | None:
    """As `get_schedule`."""
    return get_schedule(guild_id, key)


async def set_schedule_async(guild_id: GuildId, key: str, dtstr: str | None) -> None:
    """As `set_schedule`."""
    if _with_schedule(guild_id, key, dtstr):
        await save_persisted_async(persisted)


async def get_guild_data_async(guild_id: GuildId) -> dict[str, Any]:
    """As `get_guild_data`."""
    return get_guild_data(guild_id)


async def update_guild_data_async(guild_id: GuildId, data: dict[str, Any]) -> None:
    """As `update_guild_data`."""
    if _changed(guild_id, data):
        await save_persisted_async(persisted)


async def get_guild_statistics_async() -> dict[str, int]:
    """As `get_guild_statistics`."""
    return get_guild_statistics()


async def cleanup_old_data_async(days: int = 30) -> None:
    """As `cleanup_old_data`."""
    if await _async_documents().delete_older(days):
        _forget_deleted(await _async_documents().load())
