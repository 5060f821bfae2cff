"""An old bot's folder and tables, moved, used by the example's modules, and taken back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.cli import run_cli
from support.old_bot import GUILD, OTHER, VIEWS, WAITLIST, make_folder, make_tables, read_tables

pytestmark = pytest.mark.process

EXAMPLE = Path(__file__).parents[2] / "examples" / "tournament_bot"
CALLS = Path(__file__).parents[1] / "support" / "example_calls.py"
DOCS = Path(__file__).parents[2] / "docs"


def environment(url: str | None) -> dict[str, str]:
    env = {**os.environ, "PYTHONPATH": str(EXAMPLE)}
    return env if url is None else env | {"DATABASE_URL": url}


def script(place: Path, url: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example's migration script in the bot's folder."""
    return subprocess.run(
        [sys.executable, EXAMPLE / "scripts" / "migrate_json_to_database.py", *arguments],
        cwd=place,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=120,
    )


def modules(place: Path, url: str | None, what: str) -> Any:
    """Let the example's modules read or write there."""
    done = subprocess.run(
        [sys.executable, CALLS, what],
        cwd=place,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_read(told: dict[str, Any]) -> None:
    """The modules tell what the old folder held."""
    assert told["registration"] == [1199000000000201007, 1199000000000201001]
    assert told["checkin"] == [None, 1199000000000201002]
    assert told["nothing"] == [None, None]
    assert told["modes"] == ["doubleup", "normal", "normal"]
    assert told["schedule"] == "2030-03-01T18:00:00+01:00"
    assert told["statistics"] == {
        "total_guilds": 2,
        "guilds_with_registration": 1,
        "guilds_with_checkin": 1,
        "guilds_with_schedules": 1,
    }
    assert told["views"] == VIEWS
    assert told["waitlist"] == WAITLIST
    assert told["positions"] == [1, 2, None]
    assert told["length"] == 2
    assert told["entry"]["alt_igns"] == ["Otter2#TEST", "Otter3#TEST"]
    assert told["entry"]["added_at"] == "2026-03-05T19:02:11.104000+00:00"


def newest_run(place: Path) -> str:
    return sorted((place / "storage" / "migration_backups").glob("*/"))[-1].name


def test_an_old_folder_is_moved_used_and_taken_back(database: str | None, tmp_path: Path) -> None:
    """Every value is there for the modules; rolled back, the files are there byte for byte."""
    before = make_folder(tmp_path)
    dry = script(tmp_path, database, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before
    done = script(tmp_path, database, "--yes")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.json"))
    check_read(modules(tmp_path, database, "read"))
    back = script(tmp_path, database, "--rollback", newest_run(tmp_path))
    assert back.returncode == 0, back.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before


def test_old_tables_are_moved_used_and_taken_back(pg_database: str, tmp_path: Path) -> None:
    """The single row of all guilds is split; rolled back, the old bot reads what it read before."""
    make_tables(pg_database)
    before = make_folder(tmp_path)
    assert read_tables(pg_database) == (VIEWS, WAITLIST)
    done = script(tmp_path, pg_database, "--yes")
    assert done.returncode == 0, done.stderr
    check_read(modules(tmp_path, pg_database, "read"))
    back = script(tmp_path, pg_database, "--rollback", newest_run(tmp_path))
    assert back.returncode == 0, back.stderr
    assert read_tables(pg_database) == (VIEWS, WAITLIST)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json")} == before


def test_nothing_to_move_is_said(tmp_path: Path) -> None:
    """A wrong folder is a clear error, and no empty migration."""
    done = script(tmp_path, None, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing to move" in done.stderr


def test_the_modules_write(database: str | None, tmp_path: Path) -> None:
    """Every function of the adapters does what its name says, blocking and awaited."""
    make_folder(tmp_path)
    assert script(tmp_path, database, "--yes").returncode == 0
    told = modules(tmp_path, database, "write")
    assert [text.split(" ")[0] for text in told["refusals"]] != []
    assert len(told["refusals"]) == 3
    position, updated, removed, again, entries, promoted, length, *rest = told["awaited"]
    assert (position, updated, removed, again) == (3, True, True, False)
    assert [entry["ign"] for entry in entries] == ["QuartzOtter#TEST", "Newer#1"]
    assert [entry["ign"] for entry in promoted] == ["QuartzOtter#TEST", "Newer#1"]
    assert length == 0
    assert rest[:4] == [[3, 4], "normal", None, {"a": 1}]
    assert rest[4]["guilds_with_schedules"] == 1
    assert told["note"] == {"x": 1}
    assert told["status"]["state"] == "direct"
    assert told["status"]["persisted_views_count"] == 2
    assert told["backup"]["notes"] == {"1": {"x": 1}}
    assert set(told["backup"]["registrations"][GUILD]["members"]) == {"1199000000000900008", "77"}
    assert told["cleaned"] == [OTHER]
    assert told["left"] == [GUILD]
    assert told["same"]
    (backup,) = (tmp_path / "storage" / "backups").iterdir()
    assert backup.stat().st_mode & 0o777 == 0o600


def commands_of(page: str) -> list[str]:
    """Every command that a page shows."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines)
    return [line[2:].split("  #")[0].strip() for line in lines]


@pytest.mark.parametrize("tables", [False, True], ids=["files", "tables"])
def test_every_command_of_move_your_bot_works(
    tables: bool, pg_database: str, tmp_path: Path
) -> None:
    """The page is true: each of its commands is run, in order, in an old bot's folder.

    `pip install` and `export` are not run: the package is installed, and the URL is this test's.
    """
    if tables:
        make_tables(pg_database)
    before = make_folder(tmp_path)
    env = {"DATABASE_URL": pg_database}
    ran: list[str] = []
    commands = commands_of((DOCS / "move_your_bot.md").read_text(encoding="utf-8"))
    for command in commands:
        if command.startswith("pip install "):
            assert command == "pip install '/path/to/standfast[discord]'"
            continue
        if command.startswith("export "):
            assert command.startswith("export DATABASE_URL=postgresql://")
            continue
        program, *arguments = command.split()
        assert program == "standfast", f"no test runs {command!r}"
        if tables and arguments[0] == "plan":
            arguments.append("--split-default")  # as the page says of the older layout
        arguments = [newest_run(tmp_path) if one == "RUN" else one for one in arguments]
        if arguments[0] == "export":  # after the way back: what is stored is what was there before
            shutil.move(tmp_path / "waitlist_data.json", tmp_path / "old.json")
        done = run_cli(*arguments, cwd=tmp_path, env=env)
        ran.append(arguments[0])
        expected = {0, 1} if arguments[0] in ("doctor", "plan") else {0}
        assert done.code in expected, (command, done)
        if arguments[0] == "rollback":
            files = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
            assert files == before
            if tables:
                assert read_tables(pg_database) == (VIEWS, WAITLIST)
    assert ran == "plan migrate runs list get doctor status rollback export".split()
