"""The first bot's own code: 27 places that use its four modules, none of which knows standfast.

python bot.py night     # everything that happens in one night; prints what each place saw
python bot.py look      # only reads
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import sheet
from core import persistence
from core.persistence import (
    connection_pool,
    get_event_mode_for_guild,
    get_guild_data,
    get_guild_statistics,
    get_persisted_msg,
    get_schedule,
    load_persisted,
    persisted,
    save_persisted,
    set_event_mode_for_guild,
    set_persisted_msg,
    set_schedule,
    update_guild_data,
)
from core.storage_service import close_storage_service, get_storage_service
from helpers import waitlist_helpers
from helpers.waitlist_helpers import WaitlistError, WaitlistManager

GUILD, OTHER = 1199000000000000101, 1199000000000000202

if hasattr(waitlist_helpers, "use_registration"):  # the one line that the drop-in asks for
    waitlist_helpers.use_registration(sheet.SHEET)


class Guild:
    """A guild of Discord."""

    def __init__(self, guild_id: int) -> None:
        self.id = guild_id


class Member:
    """A member, whose text is their tag."""

    def __init__(self, member_id: int, tag: str) -> None:
        self.id = member_id
        self._tag = tag

    def __str__(self) -> str:
        return self._tag


def without_time(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {name: entry[name] for name in sorted(entry) if name != "added_at"}


# ---- places 1 to 15: what the bot remembers


def panel_posted(guild_id: int) -> Any:
    set_persisted_msg(guild_id, "registration", 41, 42)
    return get_persisted_msg(str(guild_id), "registration")


def older_message(guild_id: int) -> Any:
    return [get_persisted_msg(guild_id, "checkin"), get_persisted_msg(guild_id, "nothing")]


def mode_changed(guild_id: int) -> Any:
    set_event_mode_for_guild(guild_id, "doubleup")
    try:
        set_event_mode_for_guild(guild_id, "triple")
    except ValueError:
        return get_event_mode_for_guild(guild_id)
    return "no error"


def schedule_set(guild_id: int) -> Any:
    set_schedule(guild_id, "registration", "Friday, half past seven")
    set_schedule(guild_id, "checkin", "2030-03-01T18:00:00")
    set_schedule(guild_id, "checkin", None)
    return [get_schedule(guild_id, "registration"), get_schedule(guild_id, "checkin")]


def data_updated(guild_id: int) -> Any:
    update_guild_data(guild_id, {"role": None, "roles": {"a": 1}})
    update_guild_data(guild_id, {"roles": {"b": 2}})
    data = get_guild_data(guild_id)
    return [data.get("role", "missing"), data.get("roles")]


def changed_in_place(guild_id: int) -> Any:
    persisted.setdefault(str(guild_id), {})["colour"] = 7
    persisted[str(guild_id)].setdefault("list", []).append([1, 2])
    save_persisted(persisted)
    return load_persisted().get(str(guild_id), {}).get("list")


def same_dict() -> Any:
    return persistence.persisted is persisted


def default_data() -> Any:
    update_guild_data("default-settings", {"prefix": "!"})
    return get_guild_data("default-settings")


def statistics() -> Any:
    return get_guild_statistics()


def pool() -> Any:
    return connection_pool is None or hasattr(connection_pool, "getconn")


async def awaited(guild_id: int) -> Any:
    await persistence.set_event_mode_for_guild_async(guild_id, "normal")
    return await persistence.get_event_mode_for_guild_async(guild_id)


# ---- places 16 to 20: the storage service


def stored_views(guild_id: int) -> Any:
    views = get_storage_service().get_persisted_views()
    return {name: views[str(guild_id)][name] for name in ("registration", "roles", "colour")}


def stored_waitlists(guild_id: int) -> Any:
    data = get_storage_service().get_waitlist_data()
    return [entry["discord_tag"] for entry in data[str(guild_id)]["waitlist"]]


def one_list_saved(guild_id: int) -> Any:
    service = get_storage_service()
    service.save_waitlist_data({"77": {"waitlist": []}})
    return [service.get_data("waitlist_data", "77"), len(stored_waitlists(guild_id))]


def one_row(guild_id: int) -> Any:
    service = get_storage_service()
    service.set_data("waitlist_data", "78", {"waitlist": [], "note": "x"})
    return [service.get_data("waitlist_data", "78"), service.get_data("waitlist_data", "79")]


def status() -> Any:
    found = get_storage_service().get_storage_status()
    return [found["persisted_views_count"], found["waitlist_data_count"], "error" in found]


def backup(guild_id: int) -> Any:
    with open(get_storage_service().backup_data(), encoding="utf-8") as file:
        return sorted(json.load(file)["waitlist_data"][str(guild_id)])


# ---- places 21 to 27: the waitlist


async def joined(guild_id: int) -> Any:
    guild = Guild(guild_id)
    add = WaitlistManager.add_to_waitlist
    return [
        await add(guild, Member(11, "kelp"), " Kelp#1 ", "she/her", "Reef", "Kelp#2, Kelp#3"),
        await add(guild, Member(12, "otter"), "Otter#1", "", "Reeff"),
        await add(guild, Member(11, "kelp"), "Kelp#9", "", "Reef", None),
    ]


async def seen(guild_id: int) -> Any:
    return [
        await WaitlistManager.get_waitlist_position(str(guild_id), "otter"),
        await WaitlistManager.get_waitlist_position(str(guild_id), "nobody"),
        without_time(await WaitlistManager.get_waitlist_entry(str(guild_id), "kelp")),
        await WaitlistManager.get_waitlist_entry(str(guild_id), "nobody"),
        await WaitlistManager.get_waitlist_length(None),
    ]


async def changed(guild_id: int) -> Any:
    change = WaitlistManager.update_waitlist_entry
    return [
        await change(str(guild_id), "kelp", "Kelp#4", "they", "Reef", "Kelp#5"),
        await change(str(guild_id), "nobody", "x", ""),
        [
            without_time(entry)
            for entry in await WaitlistManager.get_all_waitlist_entries(str(guild_id))
        ],
    ]


async def full(guild_id: int) -> Any:
    """A full sheet promotes nobody."""
    sheet.SHEET.places = 0
    promoted = await WaitlistManager.process_waitlist(Guild(guild_id))
    return [promoted, await WaitlistManager.get_waitlist_length(str(guild_id))]


async def failing(guild_id: int) -> Any:
    """A failing sheet loses nobody."""
    sheet.SHEET.places, sheet.SHEET.fails = 1, 1
    before = await WaitlistManager.get_all_waitlist_entries(str(guild_id))
    with contextlib.suppress(WaitlistError, sheet.SheetError):
        await WaitlistManager.process_waitlist(Guild(guild_id))
    after = await WaitlistManager.get_all_waitlist_entries(str(guild_id))
    return [before == after, sorted(sheet.SHEET.rows)]


async def promoted(guild_id: int) -> Any:
    sheet.SHEET.places, sheet.SHEET.fails = 1, 0
    first = await WaitlistManager.process_waitlist(Guild(guild_id))
    again = await WaitlistManager.process_waitlist(Guild(guild_id))
    left = WaitlistManager._load_waitlist_data().get(str(guild_id), {"waitlist": []})
    return [
        [without_time(entry) for entry in first],
        again,
        sorted(sheet.SHEET.rows),
        [entry["discord_tag"] for entry in left["waitlist"]],
    ]


async def left(guild_id: int) -> Any:
    return [
        await WaitlistManager.remove_from_waitlist(str(guild_id), "otter"),
        await WaitlistManager.remove_from_waitlist(str(guild_id), "otter"),
        await WaitlistManager.get_waitlist_length(str(guild_id)),
    ]


NIGHT: list[tuple[Callable[..., Any], bool]] = [
    *((one, True) for one in (panel_posted, older_message, mode_changed, schedule_set)),
    *((one, True) for one in (data_updated, changed_in_place)),
    *((one, False) for one in (same_dict, default_data, statistics, pool)),
    *((one, True) for one in (joined, seen, changed, stored_views, stored_waitlists)),
    *((one, True) for one in (one_list_saved, one_row)),
    (status, False),
    *((one, True) for one in (backup, full, failing, promoted, left, awaited)),
]


async def night(guild_id: int) -> dict[str, Any]:
    seen_by: dict[str, Any] = {}
    for place, takes_guild in NIGHT:
        answer = place(guild_id) if takes_guild else place()
        seen_by[place.__name__] = await answer if isinstance(answer, Awaitable) else answer
    return seen_by


async def look(guild_id: int) -> dict[str, Any]:
    """What is there, in the bot's own words."""
    return {
        "views": load_persisted(),
        "waitlists": {
            key: [without_time(entry) for entry in value["waitlist"]]
            for key, value in WaitlistManager._load_waitlist_data().items()
        },
        "stored": get_storage_service().get_persisted_views(),
        "length": await WaitlistManager.get_waitlist_length(str(guild_id)),
    }


async def others(guild_id: int) -> dict[str, Any]:
    """What a development process does to a guild that is not its own."""
    service = get_storage_service()
    guild = str(OTHER)
    set_persisted_msg(OTHER, "registration", 1, 2)
    set_event_mode_for_guild(OTHER, "doubleup")
    set_schedule(OTHER, "registration", "x")
    update_guild_data(OTHER, {"x": 1})
    persisted[guild] = {"x": 2}
    save_persisted(persisted)
    service.save_persisted_views({guild: {"x": 3}})
    service.set_data("persisted_views", guild, {"x": 4})
    service.save_waitlist_data({guild: {"waitlist": []}})
    service.set_data("waitlist_data", guild, {"waitlist": []})
    WaitlistManager._save_waitlist_data({guild: {"waitlist": []}})
    return {
        "added": await WaitlistManager.add_to_waitlist(Guild(OTHER), Member(1, "a"), "A", ""),
        "removed": await WaitlistManager.remove_from_waitlist(guild, "sample.otter"),
        "promoted": await WaitlistManager.process_waitlist(Guild(OTHER)),
        "data": [
            service.get_data("persisted_views", guild),
            service.get_data("waitlist_data", guild),
        ],
        "views": sorted(service.get_persisted_views()),
        "row": sorted(service.get_data("persisted_views", "default") or {}),
        "persisted": sorted(load_persisted()),
        "waitlists": sorted(service.get_waitlist_data()),
        "length": await WaitlistManager.get_waitlist_length(guild),
        "entry": await WaitlistManager.get_waitlist_entry(guild, "sample.otter"),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    what = {"night": night, "look": look, "others": others}[sys.argv[1]]
    sys.stdout.write(json.dumps(asyncio.run(what(GUILD))) + "\n")
    close_storage_service()
