"""Saving one guild among 1,000: `JsonFile.save` and one put, beside what bots do today.

    python bench/bot.py [--rounds 9] [--guilds 1000]

On SQLite and on a real PostgreSQL (fsync on, over TCP).  In each round every contestant changes one
guild and saves, in turn, so that the drift of a busy machine meets all of them; quoted are medians
of the rounds, and ratios as medians of the rounds' ratios.

- `json.dump, indent=2` and `json.dump`: into a temporary file, fsync, os.replace, as bots do;
  `json.dumps`: the same with the text made in one go, the fastest that the file can be;
- `upsert all`: one upsert for each guild in one commit: by psycopg2, by psycopg 3, which prepares
  the statement, by its asynchronous connection, which a Discord bot would take, or by sqlite3;
- `save(dict)`: JsonFile.save of the whole dict; what it writes is counted;
- `one put`: the one guild's document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import psycopg  # noqa: E402
import psycopg2  # noqa: E402

import standfast  # noqa: E402
from support.cluster import Cluster  # noqa: E402

#: Saves of one contestant in one round; the slow ones make fewer.
SAVES = 20
SLOW_SAVES = 2

Save = Callable[[str, dict[str, Any]], Any]


def guild(number: int) -> dict[str, Any]:
    """A guild's state of some 550 bytes, as bots keep it."""
    entry = {
        "discord_tag": f"otter.{number}",
        "member_id": 1199000000000900000 + number,
        "ign": "Otter#EUW",
        "alt_igns": [],
        "pronouns": None,
        "team_name": "Kelp",
        "added_at": "2026-03-05T19:02:11.104000+00:00",
    }
    return {
        "registration": [1199000000000300000 + number, 1199000000000400000 + number],
        "checkin": [1199000000000300000 + number, 1199000000000500000 + number],
        "event_mode": "normal",
        "registration_schedule": "2026-03-01T18:00:00+00:00",
        "waitlist": [entry, {**entry, "member_id": 1199000000000800000 + number}],
        "changed": 0,
    }


def file_save(path: Path, write: Callable[[Any, Any], Any]) -> Save:
    """Rewrite the file: temporary file, fsync, replace."""

    def save(key: str, data: dict[str, Any]) -> None:
        draft = path.with_suffix(".tmp")
        with draft.open("w", encoding="utf-8") as file:
            write(data, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

    return save


def upsert_all_postgres(conn: Any, table: str) -> Save:
    """One upsert for each guild in one commit."""
    with conn.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (guild_id TEXT PRIMARY KEY, data JSONB)")
    conn.commit()

    def save(key: str, data: dict[str, Any]) -> None:
        with conn.cursor() as cursor:
            for name, value in data.items():
                cursor.execute(
                    f"INSERT INTO {table} VALUES (%s, %s)"
                    " ON CONFLICT (guild_id) DO UPDATE SET data = EXCLUDED.data",
                    (name, json.dumps(value)),
                )
        conn.commit()

    return save


def upsert_all_awaited(runner: asyncio.Runner, url: str) -> Save:
    """The same by an asynchronous connection; the event loop runs for the whole save."""
    conn = runner.run(psycopg.AsyncConnection.connect(url))

    async def save(data: dict[str, Any]) -> None:
        async with conn.cursor() as cursor:
            for name, value in data.items():
                await cursor.execute(
                    "INSERT INTO naive VALUES (%s, %s)"
                    " ON CONFLICT (guild_id) DO UPDATE SET data = EXCLUDED.data",
                    (name, json.dumps(value)),
                )
        await conn.commit()

    with psycopg.connect(url) as other:
        other.execute("CREATE TABLE naive (guild_id TEXT PRIMARY KEY, data JSONB)")
    return lambda key, data: runner.run(save(data))


def upsert_all_sqlite(path: Path) -> Save:
    """One upsert for each guild in one commit, on a connection of its own as bots open it."""
    conn = sqlite3.connect(path)
    conn.execute("CREATE TABLE naive (guild_id TEXT PRIMARY KEY, data TEXT)")
    conn.commit()

    def save(key: str, data: dict[str, Any]) -> None:
        for name, value in data.items():
            conn.execute("INSERT OR REPLACE INTO naive VALUES (?, ?)", (name, json.dumps(value)))
        conn.commit()

    return save


def indented(data: Any, file: Any) -> None:
    json.dump(data, file, indent=2)


def at_once(data: Any, file: Any) -> None:
    file.write(json.dumps(data))


def timed(save: Save, data: dict[str, Any], keys: list[str], count: int) -> float:
    """Seconds for one save, each of another guild's change."""
    begun = time.perf_counter()
    for number in range(count):
        key = keys[number * 37 % len(keys)]
        data[key]["changed"] += 1
        save(key, data)
    return (time.perf_counter() - begun) / count


def contest(
    name: str, store: standfast.Store, upserts: dict[str, Save], place: Path, args: Any
) -> None:
    data = {str(1199000000000000000 + n): guild(n) for n in range(args.guilds)}
    keys = list(data)
    file = standfast.JsonFile("state.json", store=store)
    file.load()
    file.save(data)
    data = file.load()
    assert list(data) == keys
    written: list[int] = []
    collection = store["state"]
    contestants: dict[str, tuple[Save, int]] = {
        "json.dump, indent=2": (file_save(place / f"{name}-2.json", indented), SAVES),
        "json.dump": (file_save(place / f"{name}-1.json", json.dump), SAVES),
        "json.dumps": (file_save(place / f"{name}-0.json", at_once), SAVES),
        **{what: (save, SLOW_SAVES) for what, save in upserts.items()},
        "save(dict)": (lambda key, data: written.append(file.save(data).written), SAVES),
        "one put": (lambda key, data: collection.put(key, data[key]), SAVES),
    }
    figures: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(args.rounds):
        for contestant, (save, count) in contestants.items():
            file.save(data)  # what the others have changed is not this one's to write
            written.clear() if contestant == "save(dict)" else None
            figures[contestant].append(timed(save, data, keys, count))
            if contestant == "save(dict)":
                assert written == [1] * count, "it wrote more than what changed"
    print(f"\n{name}: {args.guilds} guilds, {len(json.dumps(data[keys[0]]))} bytes each")
    for contestant, times in figures.items():
        print(f"  {contestant:20} {statistics.median(times) * 1e3:9.2f} ms a save")
    for ours in ("save(dict)", "one put"):
        for theirs in ("json.dump, indent=2", "json.dump", "json.dumps", *upserts):
            pairs = zip(figures[theirs], figures[ours], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"  {ours:10} is {ratio:7.1f} times as fast as {theirs}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--guilds", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with standfast.open(f"sqlite:///{place / 'store.db'}", data_dir=place / "a") as store:
            upserts = {"upsert all": upsert_all_sqlite(place / "naive.db")}
            contest("SQLite", store, upserts, place, args)
        with Cluster(fsync=True) as cluster, asyncio.Runner() as runner:
            url = cluster.url()
            with standfast.open(url, data_dir=place / "b") as store:
                upserts = {
                    "upsert all, psycopg2": upsert_all_postgres(psycopg2.connect(url), "naive2"),
                    "upsert all, psycopg": upsert_all_postgres(psycopg.connect(url), "naive3"),
                    "upsert all, awaited": upsert_all_awaited(runner, url),
                }
                contest("PostgreSQL", store, upserts, place, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
