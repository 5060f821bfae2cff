"""The spreadsheet in which the first bot registers people; it can be full, and it can fail."""

from __future__ import annotations

import asyncio
from typing import Any


class SheetError(Exception):
    """The service behind the sheet did not do it."""


class Sheet:
    """Rows by tag.  `fails`: how many registrations from now on fail."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.places = 1
        self.fails = 0
        self.calls = 0

    def capacity(self, guild: Any) -> int:
        return self.places

    def registered(self, guild: Any) -> list[str]:
        return list(self.rows)

    def teams(self, guild: Any) -> list[str]:
        return [row["team_name"] for row in self.rows.values() if row.get("team_name")]

    async def register(self, guild: Any, entry: dict[str, Any]) -> None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.fails:
            self.fails -= 1
            raise SheetError("the sheet did not answer")
        self.rows[entry["discord_tag"]] = entry


SHEET = Sheet()
