"""The folder and the tables of a bot of former times, as it reads and writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

GUILD, OTHER = "1199000000000000101", "1199000000000000202"

VIEWS: dict[str, Any] = {
    GUILD: {
        "registration": [1199000000000201007, 1199000000000201001],
        "checkin": 1199000000000201002,
        "event_mode": "doubleup",
        "registration_schedule": "2030-03-01T18:00:00+01:00",
    },
    OTHER: {"event_mode": "normal"},
}
WAITLIST: dict[str, Any] = {
    GUILD: {
        "waitlist": [
            {
                "discord_tag": "sample.otter",
                "member_id": 1199000000000900008,
                "ign": "QuartzOtter#TEST",
                "pronouns": "",
                "team_name": "Kelp",
                "alt_igns": "Otter2#TEST, Otter3#TEST",
                "added_at": "2026-03-05T19:02:11.104000",
            },
            {
                "discord_tag": "sample.anvil",
                "member_id": 1199000000000900022,
                "ign": "MossyAnvil#0001",
                "pronouns": "she/her",
                "team_name": None,
                "alt_igns": None,
                "added_at": "2026-03-06T07:15:00",
            },
        ]
    }
}


def make_folder(place: Path) -> dict[str, bytes]:
    """The JSON files of the bot; their contents by name."""
    place.mkdir(parents=True, exist_ok=True)
    for name, data in (("persisted_views", VIEWS), ("waitlist_data", WAITLIST)):
        text = json.dumps(data, indent=2, ensure_ascii=False)
        (place / f"{name}.json").write_text(text, encoding="utf-8")
    return {path.name: path.read_bytes() for path in place.glob("*.json")}


def make_tables(url: str) -> None:
    """The bot's own tables: one row for all guilds' views, one per guild for waitlists."""
    with psycopg.connect(url) as conn:
        for table, key in (("persisted_views", "key"), ("waitlist_data", "guild_id")):
            conn.execute(
                f"CREATE TABLE {table} ({key} TEXT PRIMARY KEY, data JSONB,"
                " created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,"
                " updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
            )
        conn.execute(
            "INSERT INTO persisted_views (key, data) VALUES ('default', %s)", (json.dumps(VIEWS),)
        )
        for guild, data in WAITLIST.items():
            conn.execute(
                "INSERT INTO waitlist_data (guild_id, data) VALUES (%s, %s)",
                (guild, json.dumps(data)),
            )


def read_tables(url: str) -> tuple[Any, Any]:
    """What the bot of former times reads from its tables."""
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT data FROM persisted_views WHERE key = 'default'").fetchone()
        waitlist = conn.execute("SELECT guild_id, data FROM waitlist_data").fetchall()
    return row[0] if row else None, dict(waitlist)
