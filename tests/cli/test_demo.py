"""The demo: it plays to the end, and its checker sees every loss and every double."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import standfast
from standfast.cli import demo
from standfast.cli.demo_story import GUILDS, POINTS, SIGN_UPS, Bot, count, wait_until_drained
from standfast.cli.main import run_command
from support.faulty import eventually

pytestmark = [pytest.mark.pg, pytest.mark.process]


def _signed_up(bot: Bot) -> bool:
    return any(GUILDS[0] in one.sign_ups for one in bot.promised)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo without the time for reading along."""
    monkeypatch.setattr(demo, "HEALTHY_S", 0.4)


@pytest.mark.usefixtures("brief")
def test_with_a_server_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    """Files are moved, PostgreSQL is killed, writes are journaled, and everything is there once."""
    assert run_command(["demo", "--seconds", "1"]) == 0
    shown = capfd.readouterr().out
    assert "killed, as by a crash" in shown
    assert "journaling" in shown
    assert [line.split() for line in shown.splitlines() if "lost" in line] == [["lost", "0"]]
    assert [line.split() for line in shown.splitlines() if "doubled" in line] == [["doubled", "0"]]


@pytest.mark.usefixtures("brief")
def test_with_a_server_of_the_users(pg_admin_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """It makes a database there, cuts itself off from the server, and drops the database again."""
    assert run_command(["demo", "--seconds", "1", "--server", pg_admin_url]) == 0
    assert "cut off from the bot" in capfd.readouterr().out
    with psycopg.connect(pg_admin_url) as connection:
        left = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'standfast_demo%'"
        )
        assert left.fetchall() == []


@pytest.mark.parametrize(
    ("statement", "lost", "doubled"),
    [
        (f"UPDATE {SIGN_UPS} SET data = data - 0 WHERE key = %s", 1, 1),
        (f"UPDATE {SIGN_UPS} SET data = data || (data -> 0) WHERE key = %s", 1, 1),
        (f"UPDATE {POINTS} SET data = to_jsonb((data::int) + 2) WHERE key = %s", 0, 2),
        (f"DELETE FROM {POINTS} WHERE key = %s", None, 0),
        ("UPDATE demo_profiles SET data = '{}' WHERE %s <> ''", 4, 0),
    ],
)
def test_the_checker_sees_it(
    pg_database: str, tmp_path: Path, statement: str, lost: int | None, doubled: int
) -> None:
    """A sign-up that is gone or there twice, half a batch, an old profile: each is counted."""
    with standfast.open(pg_database, data_dir=tmp_path) as store:
        with Bot(store) as bot:
            eventually(lambda: all(one.games for one in bot.promised) and _signed_up(bot))
        assert wait_until_drained(store)
    assert count(pg_database, bot.promised).is_clean
    with psycopg.connect(pg_database, autocommit=True) as connection:
        connection.execute(statement, (GUILDS[0],))
    found = count(pg_database, bot.promised)
    assert not found.is_clean
    assert found.doubled == doubled
    assert lost is None or found.lost == lost


def test_a_loss_ends_it_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, pg_admin_url: str, brief: None
) -> None:
    """The demo does not hide what its checker found."""
    from standfast.cli import demo_story

    lost = demo_story.Count(acknowledged=1, lost=1, doubled=0, unknown=0)
    monkeypatch.setattr(demo_story, "count", lambda *_: lost)
    assert run_command(["demo", "--seconds", "1", "--server", pg_admin_url]) == 1


def test_on_a_terminal_it_is_one_screen() -> None:
    """There it is a live display; Ctrl-C ends it, and its server."""
    main, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "standfast", "demo"],
        stdin=subprocess.DEVNULL,
        stdout=other,
        stderr=other,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        start_new_session=True,
    ) as program:
        os.close(other)
        shown = b""
        while b"PostgreSQL runs" not in shown or b"\x1b[" not in shown:
            shown += os.read(main, 65536)
        os.killpg(program.pid, 2)
        try:
            while os.read(main, 65536):
                pass
        except OSError:
            pass  # the terminal's end: every program on it has gone
        assert program.wait(60) == 130
    os.close(main)
