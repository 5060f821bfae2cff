"""The first bot on the modules of examples/drop_in: each alone, all together, and back again."""

from __future__ import annotations

import ast
import functools
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support import command_server
from support.old_bot import GUILD, OTHER, VIEWS, WAITLIST

pytestmark = pytest.mark.process

BOT = Path(__file__).parents[1] / "support" / "first_bot"
DROP_IN = Path(__file__).parents[2] / "examples" / "drop_in"
MODULES = ("core/persistence.py", "core/storage_service.py", "helpers/waitlist_helpers.py")
SETS = [
    *([one] for one in MODULES),
    *(list(two) for two in combinations(MODULES, 2)),
    list(MODULES),
]
NAMES = ["+".join(Path(name).stem.partition("_")[0] for name in chosen) for chosen in SETS]
KEYS = {"persisted_views": "key", "waitlist_data": "guild_id"}


class FirstBot:
    """The bot's folder and its database, with some of its modules replaced."""

    def __init__(self, place: Path, url: str | None) -> None:
        self.place = place
        self.url = url
        shutil.copytree(BOT, place, ignore=shutil.ignore_patterns("__pycache__"))
        (place / "storage").mkdir()

    def replace(self, modules: list[str]) -> None:
        for name in MODULES:
            shutil.copy((DROP_IN if name in modules else BOT) / name, self.place / name)

    def tables(self, *, split: bool) -> None:
        """The tables as the older bot has left them, with a row for all guilds or one for each."""
        views = VIEWS if split else {"default": VIEWS}
        for table, rows in (("persisted_views", views), ("waitlist_data", WAITLIST)):
            kind = "JSONB" if self.url else "TEXT NOT NULL"
            self.sql(
                f"CREATE TABLE {table} ({KEYS[table]} TEXT PRIMARY KEY, data {kind},"
                " created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,"
                " updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
            )
            for key, value in rows.items():
                self.sql(
                    f"INSERT INTO {table} ({KEYS[table]}, data) VALUES (?, ?)",
                    *(key, json.dumps(value)),
                )

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """A statement, with the SQLite or the psycopg of another program."""
        if self.url:
            with psycopg.connect(self.url) as conn:
                cursor = conn.execute(statement.replace("?", "%s"), values)
                return cursor.fetchall() if cursor.description else []
        with closing(sqlite3.connect(self.place / "storage" / "fallback.db")) as file, file:
            return file.execute(statement, values).fetchall()

    def rows(self, table: str) -> dict[str, Any]:
        found = self.sql(f"SELECT {KEYS[table]}, data FROM {table}")
        return {key: json.loads(data) if isinstance(data, str) else data for key, data in found}

    def views(self) -> dict[str, Any]:
        rows = self.rows("persisted_views")
        return rows.get("default", rows)

    def run(self, what: str, **variables: str) -> tuple[Any, str]:
        """Let the bot do something in a process of its own: what it saw, and its log."""
        env = {key: value for key, value in os.environ.items() if "GUILD" not in key}
        env["STANDFAST_DEADLINE_S"] = "20"  # a machine that is busy is not an outage
        env |= {} if self.url is None else {"DATABASE_URL": self.url}
        command = command_server.start(
            [what], env=env | variables, cwd=self.place, program=Path("bot.py")
        )
        out, err = command.communicate(timeout=120)
        assert command.returncode == 0, err
        return json.loads(out.splitlines()[-1]), err


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory: what a power cut does to files is the subject of other tests."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="standfast-bot-", dir=memory if memory.is_dir() else None
    ) as path:
        yield Path(path)


@pytest.fixture
def first_bot(database: str | None, folder: Path) -> FirstBot:
    return FirstBot(folder / "bot", database)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], tuple[Any, Any]]:
    """What each place of the older bot sees in one night, and what it leaves behind; run once for
    each layout of its tables."""

    @functools.cache
    def night(split: bool) -> tuple[Any, Any]:
        bot = FirstBot(tmp_path_factory.mktemp("before") / "bot", None)
        bot.tables(split=split)
        return bot.run("night")[0], bot.views()

    return night


@pytest.mark.parametrize("split", [False, True], ids=["one-row", "split"])
@pytest.mark.parametrize("modules", SETS, ids=NAMES)
def test_the_bot_runs_with_these_modules_replaced(
    modules: list[str], split: bool, first_bot: FirstBot, before: Callable[[bool], tuple[Any, Any]]
) -> None:
    """Whichever of its modules are ours, each place of the bot sees what it saw before, and leaves
    behind what it left before, in the layout that was there; its own modules then run on it."""
    expected, views = before(split)
    first_bot.tables(split=split)
    first_bot.replace(modules)
    seen, log = first_bot.run("night")
    assert list(seen) == list(expected)
    for place in expected:
        assert seen[place] == expected[place], place
    assert first_bot.views() == views
    assert ("default" in first_bot.rows("persisted_views")) is not split
    if not split and modules != [MODULES[2]]:
        assert log.count("--split-default") == 1, log
    kept, _ = first_bot.run("look")
    first_bot.replace([])
    back, _ = first_bot.run("look")
    assert back == kept


def test_the_bot_uses_its_modules_in_27_places() -> None:
    """The copy of the bot has at least as many call sites as the bot that it stands for."""
    names = {
        *("load_persisted", "save_persisted", "set_persisted_msg", "get_persisted_msg"),
        *("get_event_mode_for_guild", "set_event_mode_for_guild", "get_schedule", "set_schedule"),
        *("get_guild_data", "update_guild_data", "get_guild_statistics", "get_persisted_views"),
        *("set_event_mode_for_guild_async", "get_event_mode_for_guild_async", "get_data"),
        *("get_waitlist_data", "save_waitlist_data", "set_data", "get_storage_status"),
        *("backup_data", "close_storage_service", "get_storage_service", "process_waitlist"),
        *("add_to_waitlist", "add", "remove_from_waitlist", "get_waitlist_position"),
        *("get_waitlist_entry", "update_waitlist_entry", "change", "get_waitlist_length"),
        *("get_all_waitlist_entries", "_load_waitlist_data", "_save_waitlist_data"),
    }
    tree = ast.parse((BOT / "bot.py").read_text(encoding="utf-8"))
    calls = [
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    assert sum(name in names for name in calls) >= 27


# ---- development and production


@pytest.mark.parametrize("split", [False, True], ids=["one-row", "split"])
@pytest.mark.parametrize("name", [None, "staging"])
def test_a_development_process_reaches_its_own_guild_alone(
    name: str | None, split: bool, first_bot: FirstBot
) -> None:
    """B2: load and save, get_data and set_data, the setters and the waitlist show and change the
    guild of DEV_GUILD_ID and no other, whichever way they are taken."""
    first_bot.tables(split=split)
    first_bot.replace(list(MODULES))
    waiting = json.dumps(WAITLIST[GUILD])
    first_bot.sql("INSERT INTO waitlist_data (guild_id, data) VALUES (?, ?)", OTHER, waiting)
    before = first_bot.views(), first_bot.rows("waitlist_data")
    variables = {"DEV_GUILD_ID": GUILD}
    if name is not None:
        variables["RAILWAY_ENVIRONMENT_NAME"] = name
    seen, log = first_bot.run("others", **variables)
    assert seen == {
        "added": 0,
        "removed": False,
        "promoted": [],
        "data": [None, None],
        "views": [GUILD],
        "row": [] if split else [GUILD],
        "persisted": [GUILD],
        "waitlists": [GUILD],
        "length": 0,
        "entry": None,
    }
    assert (first_bot.views(), first_bot.rows("waitlist_data")) == before
    assert "not the development guild" in log
    assert "nothing was written" in log
    night, _ = first_bot.run("night", **variables)
    assert night["promoted"][2] == ["sample.otter"]
    views, waitlists = first_bot.views(), first_bot.rows("waitlist_data")
    assert views[OTHER] == before[0][OTHER]
    assert waitlists[OTHER] == before[1][OTHER]
    assert views[GUILD]["colour"] == 7
    assert set(views) == set(VIEWS)
    assert "77" not in waitlists


@pytest.mark.parametrize("name", ["production", "main", "prod"])
def test_a_production_process_reaches_all_guilds(
    name: str, first_bot: FirstBot, before: Callable[[bool], tuple[Any, Any]]
) -> None:
    """With one of these names, DEV_GUILD_ID limits nothing."""
    first_bot.tables(split=True)
    first_bot.replace(list(MODULES))
    variables = {"DEV_GUILD_ID": "5", "RAILWAY_ENVIRONMENT_NAME": name}
    seen, _ = first_bot.run("look", **variables)
    assert set(seen["views"]) == {GUILD, OTHER}
    assert first_bot.run("night", **variables)[0] == before(True)[0]


# ---- moved, and taken back


def script(bot: FirstBot, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The migration script of the drop-in, in the bot's folder."""
    env = os.environ | ({} if bot.url is None else {"DATABASE_URL": bot.url})
    program = DROP_IN / "scripts" / "migrate_json_to_database.py"
    command = command_server.start(arguments, env=env, cwd=bot.place, program=program)
    out, err = command.communicate(timeout=120)
    assert command.returncode is not None
    return subprocess.CompletedProcess([str(program)], command.returncode, out, err)


def newest_run(bot: FirstBot) -> str:
    return sorted((bot.place / "storage" / "migration_backups").glob("*/"))[-1].name


@pytest.mark.process
def test_the_row_of_all_guilds_is_split_and_put_back(first_bot: FirstBot) -> None:
    """The script needs no file for it; rolled back, the older modules run as before."""
    first_bot.tables(split=False)
    before, _ = first_bot.run("look")
    dry = script(first_bot, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert set(first_bot.rows("persisted_views")) == {"default"}
    done = script(first_bot, "--yes")
    assert done.returncode == 0, done.stderr
    assert set(first_bot.rows("persisted_views")) == set(VIEWS)
    assert script(first_bot, "--yes").returncode == 2  # there is nothing left
    first_bot.replace(list(MODULES))
    seen, log = first_bot.run("look")
    assert seen == before
    assert "--split-default" not in log
    back = script(first_bot, "--rollback", newest_run(first_bot))
    assert back.returncode == 0, back.stderr
    assert first_bot.rows("persisted_views") == {"default": VIEWS}
    for modules in SETS:
        first_bot.replace(modules)
        assert first_bot.run("look")[0] == before
    first_bot.replace([])
    assert first_bot.run("look")[0] == before


@pytest.mark.process
def test_files_are_moved_and_put_back(first_bot: FirstBot) -> None:
    """JSON files of the bot: until they are moved, the modules say so and start from nothing."""
    texts = {
        "persisted_views.json": json.dumps({"default": VIEWS}),
        "waitlist_data.json": json.dumps(WAITLIST, indent=1),
    }
    for name, text in texts.items():
        (first_bot.place / name).write_text(text, encoding="utf-8")
    first_bot.replace(list(MODULES))
    with pytest.raises(AssertionError, match="nothing of it is stored yet"):
        first_bot.run("look")
    done = script(first_bot, "--yes")
    assert done.returncode == 0, done.stderr
    seen, _ = first_bot.run("look")
    assert seen["views"] == VIEWS
    assert script(first_bot, "--rollback", newest_run(first_bot)).returncode == 0
    for name, text in texts.items():
        assert (first_bot.place / name).read_text(encoding="utf-8") == text


def test_an_older_sqlite_file_beside_postgresql(pg_database: str, tmp_path: Path) -> None:
    """S9: its rows are named at the start, moved by the script, and left where they were."""
    embedded = FirstBot(tmp_path / "bot", None)
    embedded.tables(split=False)
    content = (embedded.place / "storage" / "fallback.db").read_bytes()
    bot = embedded
    bot.url = pg_database
    bot.replace(list(MODULES))
    seen, log = bot.run("look")
    assert seen["views"] == {}
    assert "fallback.db" in log
    assert "standfast export" in log
    done = script(bot, "--yes")
    assert done.returncode == 0, done.stderr
    seen, log = bot.run("look")
    assert seen["views"] == VIEWS
    assert set(seen["waitlists"]) == set(WAITLIST)
    assert (bot.place / "storage" / "fallback.db").read_bytes() == content


# ---- broken entries, and outages


def test_a_broken_entry_breaks_nothing_else(first_bot: FirstBot) -> None:
    """B3: an entry without its member's id is one like others; one that nobody understands is left
    out, with a warning, and stays where it is; the other guilds do not notice."""
    first_bot.tables(split=True)
    broken = {
        "waitlist": [
            {"discord_tag": "no.id", "ign": "NoId#1", "alt_igns": None, "team_name": "Solo"},
            {"discord_tag": "broken", "member_id": "what is this", "ign": "x"},
            {"discord_tag": "fine", "member_id": 5, "ign": "Fine#1", "alt_igns": "A", "x": 1},
        ]
    }
    update = "UPDATE waitlist_data SET data = ? WHERE guild_id = ?"
    first_bot.sql(update, json.dumps(broken), GUILD)
    waiting = json.dumps(WAITLIST[GUILD])
    first_bot.sql("INSERT INTO waitlist_data (guild_id, data) VALUES (?, ?)", OTHER, waiting)
    first_bot.replace([MODULES[2]])
    seen, log = first_bot.run("night")
    assert seen["promoted"][2] == ["no.id"]
    assert sorted(seen["promoted"][3]) == ["broken", "fine", "kelp", "otter"]
    assert seen["changed"][2][0]["ign"] == "NoId#1"
    assert log.count("$.waitlist[1].member_id") == 1
    rows = first_bot.rows("waitlist_data")
    kept = {one["discord_tag"]: one for one in rows[GUILD]["waitlist"]}
    assert kept["broken"]["member_id"] == "what is this"
    assert (kept["fine"]["alt_igns"], kept["fine"]["x"]) == ("A", 1)
    assert rows[OTHER] == WAITLIST[GUILD]
