"""The flow that the package is made for: two JSON files of a bot, one command, one answer."""

from __future__ import annotations

import json

import pytest

from support.cli import Ran, run_cli
from support.moving import Place

VIEWS = {
    "813802199148265472": {"event_mode": "normal", "message_ids": [1187654321098765432]},
    "813802199148265473": {"event_mode": "doubleup", "message_ids": []},
}
WAITLIST = {
    "813802199148265472": {"waitlist": [{"user_id": 99, "name": "Zoë"}], "limit": 32},
    "813802199148265473": {},
}


@pytest.fixture
def bot(place: Place) -> Place:
    place.write("persisted_views.json", VIEWS)
    place.write("waitlist_data.json", WAITLIST)
    place.write("config.json", {"token": "c4n4ry"})
    return place


def migrate(place: Place, *arguments: str, stdin: str = "") -> Ran:
    """With nothing but DATABASE_URL set, as on a host; SQLite is the default."""
    env = {"DATABASE_URL": place.postgres_url} if place.postgres_url else {}
    return run_cli("migrate", *arguments, cwd=place.root, env=env, stdin=stdin)


@pytest.mark.parametrize("answer", ["y\n", "yes\n", "what\ny\n"])
def test_two_files_and_a_yes(bot: Place, answer: str) -> None:
    """`standfast migrate .` and a yes: both files are in the database, originals in the backup."""
    originals = {path.name: path.read_bytes() for path in bot.root.glob("*_*.json")}
    ran = migrate(bot, ".", stdin=answer)
    assert ran.code == 0, ran.err
    assert "Migrate 2 file(s)?" in ran.err
    assert "left out: config.json (a well-known configuration file)" in ran.err
    assert "c4n4ry" not in ran.said
    assert bot.documents("persisted_views") == VIEWS
    assert bot.documents("waitlist_data") == WAITLIST
    assert bot.json_files() == ["config.json"]
    run = bot.root / "storage" / "migration_backups" / ran.out.strip()
    for name, content in originals.items():
        assert (run / name).read_bytes() == content
        assert (run / name).stat().st_mode & 0o777 == 0o600
    log = (run / "run.log").read_text()
    assert "4 values compared, all equal" in log
    assert [line.rsplit("/", 1)[1] for line in log.splitlines() if " moved: " in line] == [
        "persisted_views.json",
        "waitlist_data.json",
    ]
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "done"
    assert (run / "SHA256SUMS").is_file()


def test_what_is_told_stands_in_the_order_of_the_steps(bot: Place) -> None:
    """Scan, plan, backup, load, verify, clean up: one line each, then how to take it back."""
    ran = migrate(bot, ".", "--yes")
    steps = [line.split(":")[0] for line in ran.err.splitlines() if ": " in line]
    wanted = ["scan", "plan", "backup", "load", "verify", "clean up", "done; undo it with"]
    assert [step for step in steps if step in wanted] == wanted
    assert f"standfast rollback {ran.out.strip()}" in ran.err


def test_a_no_changes_nothing(bot: Place) -> None:
    """Any other answer: exit 1, and everything stays as it is."""
    before = bot.snapshot()
    for answer in ("n\n", "\n", "no\n"):
        ran = migrate(bot, ".", stdin=answer)
        assert (ran.code, ran.out) == (1, "")
        assert "not confirmed; nothing was changed" in ran.err
    assert bot.snapshot() == before


def test_nobody_to_answer_changes_nothing(bot: Place) -> None:
    """Without a terminal and without --yes: exit 2, and the hint says what to give."""
    before = bot.snapshot()
    ran = migrate(bot, ".")
    assert ran.code == 2
    assert "give --yes" in ran.err
    ran = migrate(bot, ".", "--json", stdin="y\n")
    assert (ran.code, ran.err) == (2, "")
    assert ran.document["error"]["code"] == "not_confirmed"
    assert bot.snapshot() == before


def test_files_that_are_named_need_no_answer(bot: Place) -> None:
    """Who names the files has decided already."""
    ran = migrate(bot, "persisted_views.json", "waitlist_data.json")
    assert ran.code == 0
    assert "[y/N]" not in ran.err
    assert bot.documents("waitlist_data") == WAITLIST


def test_the_same_command_again_is_a_no_op(bot: Place) -> None:
    """Run again from the start-up script, it says that there is nothing to do: exit 0."""
    first = migrate(bot, ".", "--yes").out.strip()
    before = bot.snapshot()
    for arguments in ([".", "--yes"], ["persisted_views.json", "waitlist_data.json"]):
        ran = migrate(bot, *arguments)
        assert (ran.code, ran.out) == (0, "")
        assert f"already migrated by run {first}" in ran.err
        assert "nothing to do" in ran.err
    assert bot.snapshot() == before


def test_and_back_again(bot: Place) -> None:
    """`rollback` puts both files back byte for byte, and takes the documents out again."""
    before = {path.name: path.read_bytes() for path in bot.root.glob("*.json")}
    run = migrate(bot, ".", "--yes").out.strip()
    ran = run_cli("rollback", run, cwd=bot.root, env=bot.env)
    assert ran.code == 0, ran.err
    assert {path.name: path.read_bytes() for path in bot.root.glob("*.json")} == before
    assert bot.documents("persisted_views") == {}
    assert migrate(bot, ".", "--yes").code == 0
    assert bot.documents("persisted_views") == VIEWS


def test_the_program_reads_what_the_command_wrote(bot: Place) -> None:
    """The store that a program opens there has the documents, with exact 64-bit ids."""
    import standfast

    assert migrate(bot, ".", "--yes").code == 0
    with standfast.open(bot.url, data_dir=bot.data_dir) as store:
        assert store["persisted_views"].get("813802199148265472") == VIEWS["813802199148265472"]
        assert store["waitlist_data"].get(813802199148265473) == {}
