"""Migration into a table that an older program made, killed and taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.crash_world import World

ROWS: list[tuple[int, str, str | None, str]] = [
    (81, '{"mode": "normal"}', "Anna", "blue"),
    (82, '{"mode": "doubleup"}', None, "red"),
    (83, '[1.50, {"long": 1, "b": 2}]', "Bo", "green"),
]
FILE = '{"81": {"mode": "ranked"}, "82": {"mode":"doubleup"}, "84": {"mode": "new"}}'


@pytest.fixture
def adopted(pg_database: str, pg_admin_url: str, tmp_path: Path) -> World:
    """A bot's own table: a bigint key, two columns that standfast knows nothing of, no version."""
    world = World(tmp_path / "world", pg_database, pg_admin_url)
    world.app.mkdir(parents=True)
    (world.app / "guild_settings.json").write_text(FILE)
    with psycopg.connect(pg_database) as conn:
        conn.execute(
            "CREATE TABLE guild_settings (guild_id bigint PRIMARY KEY, data jsonb NOT NULL,"
            " owner text, colour text DEFAULT 'white')"
        )
        with conn.cursor() as cur:
            cur.executemany("INSERT INTO guild_settings VALUES (%s, %s, %s, %s)", ROWS)
    return world


def rows(world: World) -> dict[int, tuple[Any, ...]]:
    """The table as its own program sees it."""
    assert world.url is not None
    with psycopg.connect(world.url) as conn:
        found = conn.execute("SELECT guild_id, data::text, owner, colour FROM guild_settings")
        return {row[0]: row[1:] for row in found}


def migrate(world: World, failpoint: str = "") -> int:
    path = str(world.app / "guild_settings.json")
    done = world.run("migrate", path, "--on-conflict", "file", failpoint=failpoint)
    world.quiet()
    return done.code


@pytest.mark.parametrize("failpoint", ["", "record-written", "load-committed", "original-parked"])
def test_a_rollback_gives_the_rows_back_with_their_own_columns(
    adopted: World, failpoint: str
) -> None:
    """Killed or not: after a rollback the table is as its program left it, columns that are not
    standfast's included; while the migration stands it has its rows and theirs."""
    before = rows(adopted)
    if failpoint:
        assert migrate(adopted, failpoint) == -9
    else:
        assert migrate(adopted) == 0
        found = rows(adopted)
        assert found[81] == ('{"mode": "ranked"}', "Anna", "blue")
        assert found[84] == ('{"mode": "new"}', None, "white")
        assert (found[82], found[83]) == (before[82], before[83])
    done = adopted.rollback()
    assert done.code == 0, done.all
    assert rows(adopted) == before
    assert (adopted.app / "guild_settings.json").read_text() == FILE


def test_a_foreign_write_since_the_run_is_seen(adopted: World) -> None:
    """What the table's own program writes by SQL after the migration is refused, then archived."""
    assert migrate(adopted) == 0
    assert adopted.url is not None
    with psycopg.connect(adopted.url) as conn:
        conn.execute('UPDATE guild_settings SET data = \'{"mode": "theirs"}\' WHERE guild_id = 81')
    done = adopted.rollback()
    assert (done.code, "key '81'" in done.err) == (1, True), done.all
    assert rows(adopted)[81][0] == '{"mode": "theirs"}'
    assert adopted.rollback("--discard-newer").code == 0
    assert rows(adopted)[81] == ('{"mode": "normal"}', "Anna", "blue")
    (kept,) = adopted.only_run().glob("newer-rows*")
    assert "theirs" in kept.read_text()


def test_a_row_that_was_split_comes_back_with_its_own_columns(
    pg_database: str, pg_admin_url: str, tmp_path: Path
) -> None:
    """The older layout's row `default`, which a migration splits and removes, has columns too."""
    world = World(tmp_path / "world", pg_database, pg_admin_url)
    world.app.mkdir(parents=True)
    (world.app / "guild_settings.json").write_text('{"3": {"mode": "new"}}')
    with psycopg.connect(pg_database) as conn:
        conn.execute(
            "CREATE TABLE guild_settings (guild_id text PRIMARY KEY, data jsonb NOT NULL,"
            " owner text, colour text DEFAULT 'white')"
        )
        conn.execute(
            "INSERT INTO guild_settings VALUES"
            """ ('default', '{"1": {"mode": "a"}, "2": {"mode": "b"}}', 'Anna', 'blue')"""
        )
    before = rows(world)
    path = str(world.app / "guild_settings.json")
    assert world.run("migrate", path, "--split-default").code == 0
    assert world.rollback().code == 0
    assert rows(world) == before


def test_times_that_were_missing_are_missing_again(
    pg_database: str, pg_admin_url: str, tmp_path: Path
) -> None:
    """A row whose program never gave it a time has none after a rollback either."""
    world = World(tmp_path / "world", pg_database, pg_admin_url)
    world.app.mkdir(parents=True)
    (world.app / "guild_settings.json").write_text('{"1": {"mode": "new"}}')
    with psycopg.connect(pg_database) as conn:
        conn.execute(
            "CREATE TABLE guild_settings (key text PRIMARY KEY, data jsonb NOT NULL,"
            " created_at timestamptz, updated_at timestamptz)"
        )
        conn.execute("INSERT INTO guild_settings VALUES ('1', '{}')")
    assert migrate(world) == 0
    assert world.rollback().code == 0
    with psycopg.connect(pg_database) as conn:
        found = conn.execute("SELECT created_at, updated_at FROM guild_settings").fetchall()
    assert found == [(None, None)]
