"""Uses the example bot's modules as a bot would; prints what they tell, as JSON.

Run with the example's folder first on the path: its modules are called `core` and `helpers`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace as Guild
from typing import Any

from core import persistence
from core.storage_service import close_storage_service, get_storage_service
from helpers.waitlist_helpers import WaitlistManager

GUILD, OTHER = "1199000000000000101", "1199000000000000202"


class Member:
    """Somebody on Discord, as far as the adapters look."""

    id = 77

    def __str__(self) -> str:
        return "new.member"


def read() -> dict[str, Any]:
    """Everything of the old folder, by the old names."""
    return {
        "registration": persistence.get_persisted_msg(int(GUILD), "registration"),
        "checkin": persistence.get_persisted_msg(GUILD, "checkin"),
        "nothing": persistence.get_persisted_msg(GUILD, "nothing"),
        "modes": [persistence.get_event_mode_for_guild(guild) for guild in (GUILD, OTHER, "5")],
        "schedule": persistence.get_schedule(GUILD, "registration"),
        "statistics": persistence.get_guild_statistics(),
        "views": persistence.load_persisted(),
        "waitlist": get_storage_service().get_waitlist_data(),
        **asyncio.run(waitlist()),
    }


async def waitlist() -> dict[str, Any]:
    return {
        "positions": [
            await WaitlistManager.get_waitlist_position(GUILD, tag)
            for tag in ("sample.otter", "sample.anvil", "nobody")
        ],
        "entry": await WaitlistManager.get_waitlist_entry(GUILD, "sample.otter"),
        "length": await WaitlistManager.get_waitlist_length(GUILD),
    }


async def write_awaited() -> list[Any]:
    guild, member = Guild(id=int(GUILD)), Member()
    told: list[Any] = [
        await WaitlistManager.add_to_waitlist(guild, member, "New#1", "they/them", "Kelpp", "A, B"),
        await WaitlistManager.update_waitlist_entry(GUILD, "new.member", "Newer#1"),
        await WaitlistManager.remove_from_waitlist(GUILD, "sample.anvil"),
        await WaitlistManager.remove_from_waitlist(GUILD, "sample.anvil"),
        await WaitlistManager.get_all_waitlist_entries(GUILD),
        await WaitlistManager.process_waitlist(guild),
        await WaitlistManager.get_waitlist_length(GUILD),
    ]
    await persistence.set_persisted_msg_async(GUILD, "checkin", 3, 4)
    await persistence.set_event_mode_for_guild_async(GUILD, "normal")
    await persistence.set_schedule_async(GUILD, "registration", None)
    await persistence.update_guild_data_async(GUILD, {"note": {"a": 1}})
    told += [
        await persistence.get_persisted_msg_async(GUILD, "checkin"),
        await persistence.get_event_mode_for_guild_async(GUILD),
        await persistence.get_schedule_async(GUILD, "registration"),
        (await persistence.get_guild_data_async(GUILD))["note"],
        await persistence.get_guild_statistics_async(),
    ]
    return told


def refusals() -> list[str]:
    """What older code expects as a ValueError."""
    service = get_storage_service()
    found: list[str] = []
    for call in (
        lambda: persistence.set_event_mode_for_guild(GUILD, "triple"),
        lambda: persistence.set_schedule(GUILD, "registration", "2030-01-01T00:00:00"),
        lambda: service.cleanup_old_data(0),
    ):
        try:
            call()
        except ValueError as error:
            found.append(str(error))
    return found


def write() -> dict[str, Any]:
    service = get_storage_service()
    persistence.set_persisted_msg(OTHER, "registration", 1, 2)
    persistence.set_schedule(OTHER, "checkin", "2030-01-01T00:00:00+00:00")
    data = service.get_waitlist_data()
    data[OTHER] = {"waitlist": []}
    service.save_waitlist_data(data)
    service.set_data("notes", "1", {"x": 1})
    return {
        "refusals": refusals(),
        "awaited": asyncio.run(write_awaited()),
        "note": service.get_data("notes", "1"),
        "status": service.get_storage_status(),
        "backup": json.loads(open(service.backup_data(), encoding="utf-8").read()),
        "cleaned": service.cleanup_old_data(0, live_guilds=[GUILD]),
        "left": sorted(persistence.load_persisted()),
        "same": get_storage_service() is service,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"read": read, "write": write}[sys.argv[1]]()) + "\n")
    close_storage_service()
