"""Data on stdout, all else on stderr, one JSON document if asked, and the right exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from standfast.system.locks import FileLock
from support.commands import LEAVES, run, run_of, words_of
from support.moving import Place

CANARY = "c4n4ry-7391"

#: A call of every command that ends well; RUN stands for a run's id.
CALLS: list[list[str]] = [
    ["migrate", "more.json"],
    ["migrate", "more.json", "--dry-run"],
    ["migrate", ".", "--yes"],
    ["plan", "more.json"],
    ["verify", "RUN"],
    ["rollback", "RUN"],
    ["runs"],
    ["get", "views", "a"],
    ["put", "views", "k", "[1]"],
    ["patch", "views", "a", '{"y": 2}'],
    ["delete", "views", "a"],
    ["list"],
    ["list", "views"],
    ["export", "views"],
    ["export", "log"],
    ["export", "views", "-o", "out.json"],
    ["schema", "sql"],
    ["schema", "status"],
    ["schema", "apply"],
    ["status"],
    ["journal", "list"],
    ["journal", "drain"],
    ["conflicts", "list"],
    ["doctor"],
    ["completion", "bash"],
    ["backup", "create"],
    ["cleanup", "--dry-run"],
    ["cleanup", "--yes"],
]
#: What does not end by itself is called in tests/serve.
ENDLESS = (["serve"],)
#: What needs a backup, or two databases, is called in tests/backup; the demo in test_demo.py.
AFTER_BACKUPS = (
    ["backup", "list"],
    ["backup", "verify"],
    ["backup", "restore"],
    ["backup", "drill"],
    ["backup", "prune"],
    ["promote"],
    ["demo"],
)
#: What only ends well after an outage is called in test_outage_commands*.py.
AFTER_OUTAGES = (["journal", "discard"], ["conflicts", "show"], ["conflicts", "resolve"])
#: A call of every command that fails, and its exit code.
FAILURES: list[tuple[list[str], int]] = [
    (["migrate", "gone.json"], 2),
    (["migrate", "bad/bad.json"], 4),
    (["migrate", "."], 2),
    (["migrate", "more.json", "--on-conflict", "maybe"], 2),
    (["migrate"], 2),
    (["plan", "gone.json"], 2),
    (["plan", "bad/bad.json"], 4),
    (["verify", "nope"], 2),
    (["rollback", "nope"], 2),
    (["runs", "--nope"], 2),
    (["get", "views", "gone"], 1),
    (["get", "my-views", "a"], 2),
    (["get", "views"], 2),
    (["put", "views", "k", "{"], 4),
    (["put", "views", "a", "1", "--if-absent"], 1),
    (["put", "views", "a", "1", "--if-version", "7"], 1),
    (["put", "views", "a", "1", "--if-version", "x"], 2),
    (["put", "views", "k" * 2000, "1"], 4),
    (["put", "views", "k", "1", "--ttl", "-1"], 2),
    (["patch", "views", "a", "1", "--if-version", "9"], 1),
    (["patch", "views", "a", "nope"], 4),
    (["delete", "views", "gone"], 1),
    (["delete", "views", "a", "--if-version", "9"], 1),
    (["list", "my-views"], 2),
    (["list", "--limit", "0"], 2),
    (["export", "gone"], 1),
    (["export", "my-views"], 2),
    (["export", "views", "-o", "more.json"], 2),
    (["export", "views", "-o", "none/out.json"], 2),
    (["schema", "nope"], 2),
    (["schema", "sql", "--collection", "my-views"], 2),
    (["schema", "apply", "--collection", "my-views"], 2),
    (["status", "--nope"], 2),
    (["journal", "list", "--limit", "0"], 2),
    (["journal", "drain", "--timeout", "0"], 2),
    (["journal", "discard"], 2),
    (["conflicts", "list", "--limit", "0"], 2),
    (["conflicts", "show", "1"], 1),
    (["conflicts", "resolve", "1"], 2),
    (["conflicts", "resolve", "1", "--value", "nope"], 4),
    (["doctor", "--adopt"], 2),
    (["nope"], 2),
    (["serve", "--port", "99999"], 2),
    (["completion", "nosh"], 2),
    (["backup", "create", "--nope"], 2),
    (["backup", "list", "--nope"], 2),
    (["backup", "verify", "gone"], 2),
    (["backup", "restore", "gone"], 2),
    (["backup", "drill", "--nope"], 2),
    (["backup", "prune", "--keep-last", "x"], 2),
    (["cleanup", "--older-than", "0"], 2),
    (["promote", "--on-conflict", "maybe"], 2),
    (["demo", "--seconds", "0"], 2),
]


def filled_in(place: Place, arguments: list[str]) -> list[str]:
    return [run_of(place) if word == "RUN" else word for word in arguments]


def test_every_command_is_called_below() -> None:
    """The two tables leave no command out."""
    for words, _ in LEAVES:
        assert words in (*AFTER_OUTAGES, *AFTER_BACKUPS, *ENDLESS) or any(
            call[: len(words)] == words for call in CALLS
        ), words
        assert any(call[: len(words)] == words for call, _ in FAILURES) or words[1:] == ["status"]


@pytest.mark.parametrize("arguments", CALLS, ids=words_of)
def test_json_is_one_document_on_stdout(filled: Place, arguments: list[str]) -> None:
    """--json: exit 0, exactly one JSON document on stdout, and nothing on stderr."""
    ran = run(filled, *filled_in(filled, arguments), "--json")
    assert (ran.code, ran.err) == (0, "")
    assert isinstance(ran.document, dict | list)


@pytest.mark.parametrize(("arguments", "code"), FAILURES, ids=words_of)
def test_an_error_is_one_json_document_too(filled: Place, arguments: list[str], code: int) -> None:
    """--json with an error: the exit code, one JSON document on stdout, nothing on stderr."""
    filled.write("bad/bad.json", "{")
    before = filled.snapshot()
    ran = run(filled, *arguments, "--json")
    assert (ran.code, ran.err) == (code, "")
    document = ran.document
    assert isinstance(document, dict)
    if "error" in document:
        assert document["error"].keys() == {"code", "message", "hint"}
        assert document["error"]["message"]
    assert filled.snapshot() == before


@pytest.mark.parametrize(("arguments", "code"), FAILURES, ids=words_of)
def test_an_error_goes_to_stderr(filled: Place, arguments: list[str], code: int) -> None:
    """Without --json: the same exit code, a sentence on stderr, and nothing on stdout."""
    filled.write("bad/bad.json", "{")
    ran = run(filled, *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.strip()
    if code in (2, 4) and "bad/bad.json" not in arguments:
        assert "error: " in ran.err
        assert "hint: " in ran.err


@pytest.mark.parametrize("arguments", CALLS, ids=words_of)
def test_stdout_is_for_data_alone(filled: Place, arguments: list[str]) -> None:
    """What people read goes to stderr; stdout holds data, or the id of the run that was made."""
    ran = run(filled, *filled_in(filled, arguments))
    assert ran.code == 0
    match arguments:
        case ["migrate", *rest] if "--dry-run" not in rest:
            assert (filled.data_dir / "migration_backups" / ran.out.rstrip("\n")).is_dir()
        case ["migrate" | "plan" | "verify" | "rollback" | "put" | "patch" | "delete", *_]:
            assert ran.out == ""
        case ["cleanup", *_]:
            assert ran.out == ""
        case ["backup", "create"]:
            assert Path(ran.out.rstrip("\n")).is_file()
        case ["schema", "status" | "apply"] | ["export", _, "-o", _]:
            assert ran.out == ""
        case ["journal", "list" | "drain"] | ["conflicts", "list"]:
            assert ran.out == ""  # there is none
        case ["get", *_]:
            assert (json.loads(ran.out), ran.err) == ({"x": 1}, "")
        case ["export", "views"]:
            assert (json.loads(ran.out), ran.err) == ({"a": {"x": 1}, "b": 2}, "")
        case ["export", "log"]:
            assert (ran.out, ran.err) == ("1\n2\n", "")
        case ["list"]:
            assert (ran.out, ran.err) == ("log\t1\nviews\t2\n", "")
        case ["list", "views"]:
            assert (ran.out, ran.err) == ("a\nb\n", "")
        case ["doctor"]:
            assert ran.out
            assert re.fullmatch(r"\d+ checks: all ok\n", ran.err)
        case _:
            assert ran.out
            assert ran.err == ""


def test_json_lines_are_one_array_with_json(filled: Place) -> None:
    """`export --json` of JSON Lines is one JSON document: an array of the lines."""
    assert run(filled, "export", "log", "--json").document == [1, 2]


def test_an_exported_file_is_private_and_complete(filled: Place) -> None:
    """-o writes the same bytes as stdout would get, atomically, mode 0600; -f replaces."""
    expected = run(filled, "export", "views").out
    path = filled.root / "out.json"
    assert run(filled, "export", "views", "-o", "out.json").code == 0
    assert path.read_text() == expected
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("old")
    assert run(filled, "export", "views", "-o", "out.json").code == 2
    assert path.read_text() == "old"
    assert run(filled, "export", "views", "-o", "out.json", "-f").code == 0
    assert path.read_text() == expected


# ---- exit codes of what happens around a command


def test_a_lock_held_elsewhere_is_exit_5(filled: Place) -> None:
    """Another migration of the same directory: exit 5 for `migrate` and `rollback`, at once."""
    run_id = run_of(filled)
    before = filled.snapshot()
    lock = FileLock(filled.data_dir / "migrate.lock")
    assert lock.acquire()
    for arguments in (["migrate", "more.json"], ["rollback", run_id]):
        ran = run(filled, *arguments, "--json")
        assert (ran.code, ran.document["error"]["code"]) == (5, "locked")
    assert run(filled, "plan", "more.json").code == 0
    lock.release()
    assert filled.snapshot() == before
    assert run(filled, "migrate", "more.json").code == 0


def test_a_bug_is_exit_70_and_shows_no_data(filled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception: exit 70, where it happened, and not what it says."""

    def explode(*_: object, **__: object) -> None:
        try:
            raise KeyError(CANARY + "1")
        except KeyError as error:
            raise ValueError(f"no {CANARY}2") from error

    monkeypatch.setattr("standfast.migrate.runner.Runner.plan", explode)
    ran = run(filled, "plan", "more.json")
    assert (ran.code, ran.out) == (70, "")
    assert CANARY not in ran.said
    assert "in explode" in ran.err
    assert "a bug in standfast: ValueError" in ran.err
    ran = run(filled, "plan", "more.json", "--json")
    assert (ran.code, ran.document["error"]["code"]) == (70, "bug")
    assert CANARY not in ran.said


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_an_interrupt_is_exit_130(
    filled: Place, monkeypatch: pytest.MonkeyPatch, json_flag: list[str]
) -> None:
    """Ctrl-C anywhere: exit 130, and what to do next."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("standfast.migrate.runner.Runner.run", interrupt)
    ran = run(filled, "migrate", "more.json", *json_flag)
    assert ran.code == 130
    assert "run the same command again" in ran.said


def test_a_differing_value_is_exit_1(filled: Place) -> None:
    """`verify` after the application changed a document: exit 1, and the key's name."""
    run_id = run_of(filled)
    assert run(filled, "verify", run_id).code == 0
    run(filled, "put", "views", "a", json.dumps(CANARY))
    ran = run(filled, "verify", run_id, "--json")
    assert (ran.code, ran.document["compared"]) == (1, 2)
    assert [each["key"] for each in ran.document["wrong"]] == ["a"]
    assert CANARY not in ran.said


def test_open_conflicts_are_exit_1(filled: Place) -> None:
    """A difference that nobody decided about: exit 1 for `plan` and `migrate`, nothing changed."""
    run(filled, "put", "more", "c", json.dumps(CANARY))
    before = filled.snapshot()
    for arguments in (["plan"], ["migrate"], ["migrate", "--dry-run"]):
        ran = run(filled, *arguments, "more.json")
        assert (ran.code, ran.out) == (1, "")
        assert "! c  changed $" in ran.err
        assert CANARY not in ran.said
    assert filled.snapshot() == before
