"""The older bot's waitlist: its own connection to the table, and the spreadsheet beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import older_storage
import sheet
from core.persistence import get_event_mode_for_guild


class WaitlistError(Exception):
    """The older bot's only kind of error here."""


class WaitlistManager:
    """Load everything, change it, save everything."""

    @staticmethod
    def _load_waitlist_data() -> dict[str, Any]:
        return older_storage.UnifiedStorageService().get_waitlist_data()

    @staticmethod
    def _save_waitlist_data(data: dict[str, Any]) -> None:
        older_storage.UnifiedStorageService().save_waitlist_data(data)

    @staticmethod
    def _list(guild_id: str | int | None) -> list[dict[str, Any]]:
        data = WaitlistManager._load_waitlist_data()
        return data.get(str(guild_id), {}).get("waitlist", [])

    @staticmethod
    def _save(guild_id: str | int, entries: list[dict[str, Any]]) -> None:
        WaitlistManager._save_waitlist_data({str(guild_id): {"waitlist": entries}})

    @staticmethod
    async def _find_similar_team(team_name: str, guild_id: str | int) -> str | None:
        known = {entry.get("team_name") for entry in WaitlistManager._list(guild_id)}
        known |= set(sheet.SHEET.teams(guild_id))
        near = [team for team in known if team and team.lower()[:3] == team_name.lower()[:3]]
        return near[0] if near and near[0].lower() != team_name.lower() else None

    @staticmethod
    async def add_to_waitlist(
        guild: Any,
        member: Any,
        ign: str,
        pronouns: str,
        team_name: str | None = None,
        alt_igns: str | None = None,
    ) -> int:
        if team_name:
            team_name = await WaitlistManager._find_similar_team(team_name, guild.id) or team_name
        entries = WaitlistManager._list(guild.id)
        entry = {
            "discord_tag": str(member),
            "member_id": member.id,
            "ign": ign.strip(),
            "pronouns": (pronouns or "").strip(),
            "team_name": team_name,
            "alt_igns": alt_igns or None,
            "added_at": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        }
        tags = [one["discord_tag"] for one in entries]
        if entry["discord_tag"] in tags:
            place = tags.index(entry["discord_tag"])
            entries[place] = {**entry, "added_at": entries[place]["added_at"]}
        else:
            place = len(entries)
            entries.append(entry)
        WaitlistManager._save(guild.id, entries)
        return place + 1

    @staticmethod
    async def remove_from_waitlist(guild_id: str | int, discord_tag: str) -> bool:
        entries = WaitlistManager._list(guild_id)
        left = [entry for entry in entries if entry["discord_tag"] != discord_tag]
        WaitlistManager._save(guild_id, left)
        return len(left) < len(entries)

    @staticmethod
    async def get_waitlist_position(guild_id: str | int, discord_tag: str) -> int | None:
        tags = [entry["discord_tag"] for entry in WaitlistManager._list(guild_id)]
        return tags.index(discord_tag) + 1 if discord_tag in tags else None

    @staticmethod
    async def get_waitlist_entry(guild_id: str | int, discord_tag: str) -> dict[str, Any] | None:
        found = [e for e in WaitlistManager._list(guild_id) if e["discord_tag"] == discord_tag]
        return found[0] if found else None

    @staticmethod
    async def update_waitlist_entry(
        guild_id: str | int,
        discord_tag: str,
        ign: str,
        pronouns: str,
        team_name: str | None = None,
        alt_igns: str | None = None,
    ) -> bool:
        entries = WaitlistManager._list(guild_id)
        for entry in entries:
            if entry["discord_tag"] == discord_tag:
                entry |= {"ign": ign, "pronouns": pronouns or ""}
                entry |= {"team_name": team_name, "alt_igns": alt_igns or None}
                WaitlistManager._save(guild_id, entries)
                return True
        return False

    @staticmethod
    async def get_all_waitlist_entries(guild_id: str | int) -> list[dict[str, Any]]:
        return WaitlistManager._list(guild_id)

    @staticmethod
    async def get_waitlist_length(guild_id: str | int | None) -> int:
        return len(WaitlistManager._list(guild_id))

    @staticmethod
    async def process_waitlist(guild: Any) -> list[dict[str, Any]]:
        get_event_mode_for_guild(guild.id)
        promoted: list[dict[str, Any]] = []
        while len(sheet.SHEET.registered(guild)) < sheet.SHEET.capacity(guild):
            entries = WaitlistManager._list(guild.id)
            if not entries:
                break
            await sheet.SHEET.register(guild, entries[0])
            promoted.append(entries[0])
            WaitlistManager._save(guild.id, entries[1:])
        return promoted
