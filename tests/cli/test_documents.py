"""The commands on documents; keys, names and values in what people are shown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.cli import run_cli
from support.commands import run
from support.moving import Place, catalog, tree

CANARY = "c4n4ry-7391"


def test_documents_are_put_read_changed_and_deleted(embedded: Place) -> None:
    """The commands on one document do what the API does."""
    ran = run(embedded, "put", "views", "k", '{"mode": "normal", "n": 1}', "--json")
    assert ran.document == {"version": 1, "durable_on": "primary"}
    found = run(embedded, "get", "views", "k", "--json").document
    assert found.pop("created_at") == found.pop("updated_at")
    value = {"mode": "normal", "n": 1}
    expected = {"collection": "views", "key": "k", "found": True, "version": 1, "value": value}
    assert found == expected
    assert run(embedded, "patch", "views", "k", '{"mode": null, "x": [1]}').code == 0
    assert json.loads(run(embedded, "get", "views", "k").out) == {"n": 1, "x": [1]}
    assert run(embedded, "put", "views", "k", "2", "--if-version", "2").code == 0
    assert run(embedded, "put", "views", "short", "1", "--ttl", "0.000001").code == 0
    assert run(embedded, "list", "views").out == "k\n"
    assert run(embedded, "delete", "views", "k", "--json").document == {"deleted": True}
    assert run(embedded, "delete", "views", "k", "--json").document == {"deleted": False}
    ran = run(embedded, "get", "views", "k", "--json")
    assert (ran.code, ran.document["found"]) == (1, False)


@pytest.mark.parametrize("verb", ["put", "patch"])
@pytest.mark.parametrize("dash", [[], ["-"]])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_value_may_come_from_stdin(
    embedded: Place, verb: str, dash: list[str], encoding: str
) -> None:
    """Without a value, or with `-`, it is read from stdin, in any Unicode encoding."""
    text = '{"name": "é中\U0001f600"}'
    assert run(embedded, verb, "views", "k", *dash, stdin=text.encode(encoding)).code == 0
    assert json.loads(run(embedded, "get", "views", "k").out) == json.loads(text)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"nope " + CANARY.encode()])
def test_bad_values_from_stdin_are_refused(embedded: Place, content: bytes) -> None:
    """What is no JSON on stdin: exit 4 with its place, nothing is written or shown."""
    ran = run(embedded, "put", "views", "k", stdin=content)
    assert ran.code == 4
    assert "stdin:1:" in ran.err
    assert CANARY not in ran.said
    assert not embedded.data_dir.exists()


def test_keys_and_values_of_all_of_unicode(embedded: Place) -> None:
    """Keys with spaces, quotes and control characters; a value with lone surrogates and NUL."""
    keys = ["", "a b", "é", "中", "\t\n", "'\"", "\x1b[31m", "--", "-"]
    for key in keys:
        assert run(embedded, "put", "views", "--", key, '"\\ud800\\u0000é"').code == 0
    assert run(embedded, "list", "views", "--json").document["keys"] == sorted(keys)
    assert json.loads(run(embedded, "get", "views", "--", "é").out) == "\ud800\x00é"


def test_keys_that_act_on_a_terminal_are_shown_harmless(embedded: Place) -> None:
    """Control characters of keys and file names are escaped where people read them."""
    key, name = "evil\x1b[2J\x07", "a\x1b]0;x\x07\u202egpj.json"
    run(embedded, "put", "views", "--", key, "1")
    embedded.write("views.json", {key: 2})
    embedded.write(name, {"k": 1})
    for arguments in (["migrate", "."], ["plan", "."], ["migrate", ".", "--yes"]):
        ran = run(embedded, *arguments)
        assert "evil\\x1b[2J\\x07" in ran.err
        assert "\x1b]" not in ran.said
        assert "\x1b[2J" not in ran.said
        assert "\u202e" not in ran.said, "a name that reads as another"


# ---- dry runs, on both databases


@pytest.mark.parametrize("verb", [["plan"], ["migrate", "--dry-run"], ["migrate", "-n", "--json"]])
def test_a_dry_run_writes_nothing_at_all(place: Place, verb: list[str]) -> None:
    """`plan` and --dry-run: no data directory, no database file, no schema, no question."""
    place.write("views.json", {"a": 1})
    before = tree(place.root)
    database = catalog(place.postgres_url) if place.postgres_url else None
    ran = run(place, *verb, ".")
    assert ran.code == 0
    assert not place.data_dir.exists()
    assert os.listdir(place.root) == ["views.json"]
    assert tree(place.root) == before
    if place.postgres_url:
        assert catalog(place.postgres_url) == database
    if "--json" not in verb:
        assert "views.json -> `views`: 1 new, 0 equal, 0 different" in ran.err


@pytest.mark.process
def test_the_entry_point_is_installed() -> None:
    """The script `standfast` and `python -m standfast` are the same command."""
    script = shutil.which("standfast", path=str(Path(sys.executable).parent))
    assert script is not None
    for command in ([script], [sys.executable, "-m", "standfast"]):
        done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        assert done.stdout == run_cli("--help").out


def test_no_output_of_a_migration_shows_a_value(place: Place) -> None:
    """Plans, results and logs hold keys and places: no value of new, equal or other documents."""
    run(place, "put", "views", "same", json.dumps({"v": CANARY}))
    run(place, "put", "views", "other", json.dumps({"v": CANARY + "1"}))
    run(place, "put", "views", "alone", json.dumps({"v": CANARY}))
    content = {key: {"v": CANARY} for key in ("same", "other", "new")}
    said = ""
    for arguments in (["plan"], ["migrate"], ["migrate", "--on-conflict", "file"], ["plan"]):
        place.write("views.json", content)
        for flags in ([], ["--json"]):
            ran = run(place, *arguments, "views.json", *flags)
            assert ran.code in (0, 1, 2)
            said += ran.said
    runs = [*(place.data_dir / "migration_backups").iterdir()]
    assert runs
    for each in runs:
        for command in (["verify", each.name], ["runs"], ["runs", "--json"]):
            said += run(place, *command).said
        said += (each / "run.log").read_text() + (each / "run.json").read_text()
        said += run(place, "rollback", each.name).said
    assert "~ other  changed $.v" in said
    assert CANARY not in said


def test_a_file_name_that_is_no_text_is_told_in_json_too(embedded: Place) -> None:
    """A name with bytes that are not UTF-8 breaks neither the error nor the JSON around it."""
    (embedded.root / os.fsdecode(b"caf\xe9.json")).write_text("{}")
    for arguments in (["plan", "."], ["migrate", os.fsdecode(b"caf\xe9.json")]):
        ran = run(embedded, *arguments, "--json")
        assert ran.code == 4
        (problem,) = ran.document["problems"]
        assert problem["path"].endswith("caf\udce9.json")
        assert problem["code"] == "bad_name"
        ran = run(embedded, *arguments)
        assert ran.code == 4
        assert "'caf\\udce9.json' is not UTF-8" in ran.err
