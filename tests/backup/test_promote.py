"""From SQLite to PostgreSQL and back: nothing is lost, doubled or changed on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

import standfast
from standfast.admin.backup.transfer import Choice
from standfast.admin.promote import Promoted, promote
from standfast.api.sync import Store
from standfast.backends.copying import Stored
from standfast.backends.sqlite.backend import SqliteBackend
from standfast.config.settings import load_settings
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import ConfigError, StandfastError, Unavailable
from support.backups import rows_of
from support.cli import run_cli
from support.crash_points import FILL, PROMOTE
from support.killing import killed_at


class Bot(NamedTuple):
    """A data directory, and the PostgreSQL that it gets."""

    url: str
    data_dir: Path


@pytest.fixture
def bot(pg_prepared: str, data_dir: Path) -> Bot:
    """A bot's directory with an embedded database, on the day it gets a PostgreSQL."""
    with standfast.open(data_dir=data_dir) as store:
        store["players"].put_many(
            {str(n): {"z": n, "a": [1.5, 10**30, "\u0000"]} for n in range(9)}
        )
        for n in range(3):
            store["players"].put("0", {"again": n})
        store["players"].put("later", 1, ttl_s=3600)
        store["players"].delete("8")
        store["board"].put("only", None)
    return Bot(pg_prepared, data_dir)


def embedded(bot: Bot) -> dict[str, list[Stored]]:
    return rows_of(f"sqlite:///{bot.data_dir}/fallback.db")


def primary(bot: Bot) -> dict[str, list[Stored]]:
    return rows_of(bot.url)


def move(bot: Bot, choice: Choice | None = None, *, back: bool = False) -> Promoted:
    settings = load_settings(bot.url, data_dir=bot.data_dir)
    return promote(settings, choice or Choice(), back=back)


def test_there_and_back(bot: Bot) -> None:
    """Every value, version, time and expiry is the same there, and the same again back here; each
    time the app opens the side that has the documents, and is kept from the other."""
    before = embedded(bot)
    result = move(bot)
    assert result.green
    assert primary(bot) == before
    assert [path.name for path in result.kept] == ["fallback.db"]
    url, data_dir = bot
    with standfast.open(url, data_dir=data_dir) as store:
        assert store["players"].get("0") == {"again": 2}
        assert store["players"].put("new", 1).durable_on == "primary"
        store.flush(timeout_s=5)
    now = primary(bot)
    result = move(bot, back=True)
    assert result.green
    assert embedded(bot) == now
    assert {path.name for path in result.kept} >= {"mirror.db", "journal.db"}
    with standfast.open(data_dir=data_dir) as store:
        assert store["players"].get("new") == 1
    with pytest.raises(ConfigError) as found:
        standfast.open(url, data_dir=data_dir)
    assert (found.value.code, "standfast promote" in found.value.hint) == ("embedded_data", True)
    again = move(bot)
    assert (again.plan.writes, again.green) == (0, True)
    assert primary(bot) == now


@pytest.mark.parametrize("failpoint", [*PROMOTE, *FILL])
def test_killed_and_run_again(bot: Bot, failpoint: str) -> None:
    """Killed at any step and run again: everything is there once, and the file is moved."""
    before = embedded(bot)
    assert killed_at(failpoint, lambda: move(bot))
    assert primary(bot) in ({}, before) or failpoint in FILL
    assert sum(map(len, primary(bot).values())) in (0, sum(map(len, before.values())))
    assert move(bot).green
    assert primary(bot) == before
    assert not (bot.data_dir / "fallback.db").exists()
    kept = [path.name for path in (bot.data_dir / "promoted").rglob("*") if path.is_file()]
    assert kept == ["fallback.db"]


@pytest.mark.parametrize("failpoint", PROMOTE)
def test_killed_on_the_way_back(bot: Bot, failpoint: str) -> None:
    """The same the other way round: the mirror and the journal go, and nothing else."""
    move(bot)
    with standfast.open(bot.url, data_dir=bot.data_dir) as store:
        store["players"].put("new", 1)
    now = primary(bot)
    assert killed_at(failpoint, lambda: move(bot, back=True))
    assert move(bot, back=True).green
    assert embedded(bot) == now
    assert not (bot.data_dir / "mirror.db").exists()


def test_refused_while_the_app_runs(bot: Bot) -> None:
    """An open embedded store, and a store with a journal, keep it from beginning."""
    with standfast.open(data_dir=bot.data_dir) as store:
        store["players"].put("1", "newer")
        with pytest.raises(StandfastError) as found:
            move(bot)
        assert found.value.code == "locked"
        store["players"].put("1", "still writing")
    move(bot)
    with standfast.open(bot.url, data_dir=bot.data_dir) as store:
        assert store["players"].get("1") == "still writing"
        with pytest.raises(Unavailable) as refused:
            move(bot, back=True)
        assert refused.value.code == "locked"


def test_a_writer_that_comes_meanwhile_acknowledges_nothing_that_is_lost(
    bot: Bot,
) -> None:
    """While the documents are on their way, a write into the embedded file fails; the one that
    was acknowledged before is in PostgreSQL."""
    outcomes: list[str] = []

    def write(_: Promoted) -> None:
        backend = SqliteBackend(bot.data_dir / "fallback.db", busy_timeout_s=0.1)
        try:
            Store(EmbeddedEngine(backend))["players"].put("meanwhile", 1)
        except StandfastError as error:
            outcomes.append(error.code)
        else:
            outcomes.append("acknowledged")

    promote(load_settings(bot.url, data_dir=bot.data_dir), Choice(), confirm=write)
    assert outcomes == ["locked"]
    assert "meanwhile" not in {row.key for row in primary(bot)["players"]}


def test_a_difference_needs_a_decision(bot: Bot) -> None:
    """What both sides have stays as it is until someone says who wins; then what is overwritten
    was kept before."""
    with standfast.open(bot.url, data_dir=bot.data_dir / "other") as store:
        store["players"].put("0", "theirs")
        store["players"].put("theirs", 1)
    before = embedded(bot)
    result = move(bot)
    assert not result.green
    assert (bot.data_dir / "fallback.db").exists()
    result = move(bot, Choice("file", exact=True))
    assert result.green
    assert result.safety is not None
    assert {row.key: row.text for row in primary(bot)["players"]} == {
        row.key: row.text for row in before["players"]
    }


def test_the_command(bot: Bot, tmp_path: Path) -> None:
    """Exit codes: 2 without a PostgreSQL or a yes, 0 with one; no variable says yes."""
    env = {"STANDFAST_DATA_DIR": os.fspath(bot.data_dir), "STANDFAST_YES": "1"}
    ran = run_cli("promote", cwd=tmp_path, env=env)
    assert (ran.code, "no URL names a PostgreSQL" in ran.err) == (2, True)
    env["DATABASE_URL"] = bot.url
    ran = run_cli("promote", "--dry-run", cwd=tmp_path, env=env)
    assert (ran.code, "10 row(s) would be" in ran.err) == (0, True), ran.err
    ran = run_cli("promote", cwd=tmp_path, env=env)
    assert ran.code == 2
    assert "there was no answer" in ran.err
    ran = run_cli("promote", "--yes", cwd=tmp_path, env=env)
    assert (ran.code, "all read back" in ran.err) == (0, True)
    (aside,) = (bot.data_dir / "promoted").iterdir()
    assert f"run {aside.name}: 10 row(s)" in ran.err
    assert run_cli("get", "players", "later", cwd=tmp_path, env=env).out == "1\n"
