"""`standfast backup ...`: what it prints, its exit codes, and what no variable decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.cli import Ran, run_cli


@pytest.fixture
def app(tmp_path: Path) -> Path:
    assert cli(tmp_path, "put", "players", "a", '{"n": 1}').code == 0
    assert cli(tmp_path, "put", "players", "b", '{"n": 2}').code == 0
    return tmp_path


def cli(app: Path, *words: str, **options: Any) -> Ran:
    return run_cli(*words, cwd=app, **options)


def made(app: Path) -> str:
    return Path(cli(app, "backup", "create").out.strip()).name


def test_from_one_end_to_the_other(app: Path) -> None:
    """create, list, verify, drill, restore: each says what it did, and exit code 0."""
    ran = cli(app, "backup", "create")
    assert ran.code == 0
    assert "2 document(s) of 1 collection(s)" in ran.err
    path = Path(ran.out.strip())
    assert (app / path).is_file()
    ran = cli(app, "backup", "list")
    assert (ran.code, "never verified" in ran.out) == (0, True)
    ran = cli(app, "backup", "verify")
    assert (ran.code, ran.out) == (0, "2  players\n")
    ran = cli(app, "backup", "drill")
    assert ran.code == 0
    assert "2 document(s) compared, all equal" in ran.err
    (about,) = cli(app, "backup", "list", "--json").document["backups"]
    assert about["verified_at"]
    assert about["drilled_at"]
    assert about["counts"]["documents"] == 2
    cli(app, "delete", "players", "a")
    ran = cli(app, "backup", "restore", path.name[:15])
    assert ran.code == 0
    assert "plan: players: 1 new, 1 equal" in ran.err
    assert cli(app, "get", "players", "a").out == '{"n":1}\n'
    ran = cli(app, "backup", "restore")
    assert (ran.code, "nothing was changed" in ran.err) == (0, True)


def test_a_difference_needs_a_decision(app: Path) -> None:
    """Exit 1 and no change without --on-conflict; overwriting needs a yes, and can be taken back.
    No variable says either."""
    name = made(app)
    cli(app, "put", "players", "a", '"newer"')
    cli(app, "put", "players", "c", "1")
    yes = {"STANDFAST_ON_CONFLICT": "file", "STANDFAST_EXACT": "1", "STANDFAST_YES": "1"}
    ran = cli(app, "backup", "restore", name, env=yes)
    assert ran.code == 1
    assert "differs: 'a'" in ran.err
    ran = cli(app, "backup", "restore", name, "--on-conflict", "file", env=yes)
    assert ran.code == 2
    assert "there was no answer" in ran.err
    assert cli(app, "get", "players", "a").out == '"newer"\n'
    words = ("backup", "restore", name, "--on-conflict", "file", "--exact")
    ran = cli(app, *words, "--dry-run")
    assert (ran.code, "2 row(s) would be" in ran.err) == (0, True)
    ran = cli(app, *words, "--yes", "--json")
    assert ran.code == 0
    (planned,) = ran.document["collections"]
    assert (planned["replace"], planned["remove"], planned["equal"]) == (1, 1, 1)
    assert cli(app, "list", "players").out == "a\nb\n"
    safety = Path(ran.document["safety"]).name
    assert cli(app, "backup", "restore", safety, *words[3:], "--yes").code == 0
    assert cli(app, "get", "players", "a").out == '"newer"\n'
    assert cli(app, "list", "players").out == "a\nb\nc\n"


def test_what_is_not_there_is_said(app: Path) -> None:
    """Exit 1 for an empty list, 2 for a name without a backup, 4 for a damaged one."""
    assert cli(app, "backup", "list").code == 1
    ran = cli(app, "backup", "verify")
    assert (ran.code, "backup create" in ran.err) == (2, True)
    name = made(app)
    assert cli(app, "backup", "restore", "2001").code == 2
    assert cli(app, "backup", "restore", name, "--collection", "nope").code == 2
    assert cli(app, "backup", "create", "--collection", "nope").code == 2
    assert cli(app, "backup", "create", "-o", f"storage/backups/{name}").code == 2
    path = app / "storage" / "backups" / name
    path.write_bytes(path.read_bytes()[:-1])
    for words in (["verify", name], ["restore", name], ["drill", name]):
        ran = cli(app, "backup", *words)
        assert (ran.code, "damaged" in ran.err) == (4, True)
    assert "NOT GOOD" in cli(app, "backup", "list").out


def test_prune_by_the_command(app: Path) -> None:
    """What would go is named first; the variables of other commands decide nothing here."""
    names = [made(app) for _ in range(3)]
    env = {"STANDFAST_KEEP_LAST": "1", "STANDFAST_KEEP_DAILY": "0"}
    assert "0 backup(s) removed" in cli(app, "backup", "prune", env=env).err
    flags = ("--keep-last", "1", "--keep-daily", "0", "--keep-weekly", "0", "--keep-monthly", "0")
    ran = cli(app, "backup", "prune", "--dry-run", *flags)
    assert ran.out.count("would go") == 2
    ran = cli(app, "backup", "prune", *flags, "--json")
    assert ran.document["removed"] == names[:2]
    assert [each["name"] for each in ran.document["kept"]] == names[2:]


def test_no_document_is_shown(app: Path) -> None:
    """Names and counts are shown, values never."""
    cli(app, "put", "players", "s", '"canary"')
    name = made(app)
    cli(app, "put", "players", "s", '"other canary"')
    for words in (["list"], ["verify"], ["drill"], ["restore", name], ["restore", "-n", "--json"]):
        assert "canary" not in cli(app, "backup", *words).said
