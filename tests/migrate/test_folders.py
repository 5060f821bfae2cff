"""Folders as people have them: what a file is by its content, and how it is taken apart."""

from __future__ import annotations

import bz2
import gzip
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from standfast.errors import ConfigError
from standfast.migrate.rollback import rollback
from support.cli import run_cli
from support.moving import Place

USERS = {str(number): {"name": f"u{number}"} for number in range(12)}


def notes(place: Place, *paths: Path, **options: Any) -> str:
    plan = place.plan(*paths, **options)
    return " ".join([*plan.notes, *(note for each in plan.collections for note in each.notes)])


def refused(place: Place, path: Path, **options: Any) -> Any:
    (problem,) = place.plan(path, **options).problems
    return problem.error


def back(place: Place, run: str | None, *paths: Path) -> None:
    """Roll a run back, and insist on the files' bytes."""
    before = {path: path.exists() for path in paths}
    assert not any(before.values())
    rollback(place.backend, place.data_dir, str(run))
    assert all(path.exists() for path in paths)


# ---- one collection of a folder


def test_a_folder_of_guild_files_becomes_one_collection(place: Place) -> None:
    """--each: the key is the file's stem; verified, moved, rolled back byte for byte."""
    paths = [place.write(f"data/guilds/{n}.json", f'{{"n" : {n}}}') for n in (111111, 222222)]
    run = place.moved(each=(place.root / "data" / "guilds",)).run
    assert place.documents("guilds") == {"111111": {"n": 111111}, "222222": {"n": 222222}}
    assert not any(path.exists() for path in paths)
    # Later one file comes again, changed: it is compared with what it was itself.
    place.write("data/guilds/111111.json", '{"n" : 5}')
    second = place.moved(each=(place.root / "data" / "guilds",)).run
    assert place.documents("guilds")["111111"] == {"n": 5}
    rollback(place.backend, place.data_dir, str(second))
    rollback(place.backend, place.data_dir, str(run))
    assert place.documents("guilds") == {}
    assert [path.read_text() for path in paths] == ['{"n" : 111111}', '{"n" : 222222}']


def test_a_folder_of_guild_files_is_recognised(place: Place) -> None:
    """The plan proposes --each, whether the folder is named, searched or only seen."""
    for number in (111111, 222222):
        place.write(f"data/guilds/{number}.json", {})
    place.write("data/settings.json", {})
    folder = place.root / "data" / "guilds"
    assert f"--each {folder}" in notes(place, folder)
    assert f"--each {folder}" in notes(place, place.root / "data", recursive=True)
    left_out = place.plan(place.root / "data").found.left_out
    assert any(f"--each {folder}" in each.reason for each in left_out)


# ---- one member that holds everything


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        ({"users": USERS}, "/users"),
        ({"_default": USERS}, "/_default"),
        ({"users": USERS, "version": 3}, "/users"),
        ({"a/b~c": USERS}, "/a~1b~0c"),
    ],
)
def test_a_wrapped_object_is_split(place: Place, content: dict[str, Any], pointer: str) -> None:
    """The plan proposes the pointer; the split loses nothing: what is outside is kept as well."""
    path = place.write("db.json", content)
    assert f"--split {pointer} " in notes(place, path)
    run = place.moved(path, split={"": pointer}).run
    assert place.documents("db") == USERS
    if "version" in content:
        assert place.documents("db_rest") == {"default": {"version": 3}}
    else:
        assert "db_rest" not in place.backend.collections()
    back(place, run, path)
    assert json.loads(path.read_text()) == content


def test_a_split_keeps_number_tokens_and_refuses_a_wrong_pointer(embedded: Place) -> None:
    path = embedded.write("db.json", '{"a": {"b": {"k": 1.0e2}, "c": 1E5}, "d": [1.50]}')
    for pointer in ("/nothing", "/d", "/a/c"):
        assert refused(embedded, path, split={"": pointer}).code == "bad_pointer"
    embedded.moved(path, split={"db.json": "/a/b"})
    assert embedded.exported("db") == '{\n"k":1.0e2\n}\n'
    assert embedded.exported("db_rest") == '{"a":{"c":1E5},"d":[1.50]}\n'


def test_a_split_of_what_was_moved_whole_replaces_it_on_request(place: Place) -> None:
    """The one big document does not stay beside its parts unasked."""
    place.moved(place.write("db.json", {"users": USERS}))
    path = place.write("db.json", {"users": USERS})
    result = place.migrate(path, split={"": "/users"})
    assert result.run is None
    assert result.plan.open_conflicts == 1
    place.moved(path, split={"": "/users"}, replace_form=True)
    assert place.documents("db") == USERS


# ---- recognised by content


def test_json_lines_are_recognised_by_their_content(embedded: Place) -> None:
    """Under another name the hint names the option that takes them."""
    text = '{"id": 1, "a": 1}\n{"id": 2, "a": 2}\n'
    for name in ("log.json", "log.db"):
        path = embedded.write(name, text)
        assert f"--lines {name}" in refused(embedded, path).hint
        embedded.moved(path, lines=(name,), collection="log")
    assert list(embedded.documents("log")) == ["1", "2"]
    assert embedded.exported("log") == '{"id":1,"a":1}\n{"id":2,"a":2}\n'


def test_one_value_that_is_named_like_json_lines_is_read(embedded: Place) -> None:
    path = embedded.write("state.jsonl", json.dumps({"1": {"a": 1}}, indent=2))
    assert "in spite of its name" in notes(embedded, path)
    embedded.moved(path)
    assert embedded.documents("state") == {"1": {"a": 1}}


def test_gzip_is_read(place: Place) -> None:
    """Compressed files are taken from a folder, too; the copy is the compressed original."""
    content = gzip.compress(b'{"1": {"a": 1}}')
    path = place.write("data/state.json.gz", content)
    run = place.moved(place.root / "data").run
    assert place.documents("state") == {"1": {"a": 1}}
    back(place, run, path)
    assert path.read_bytes() == content


def test_damaged_or_other_compression_is_named(embedded: Place) -> None:
    content = gzip.compress(b'{"1": {"a": 1}}' * 99)
    assert refused(embedded, embedded.write("a.json", content[:-9])).code == "truncated"
    assert refused(embedded, embedded.write("b.json", content[:12] + b"\xff" * 9)).code
    assert "bzip2" in refused(embedded, embedded.write("c.json", bz2.compress(b"{}"))).hint
    lines = gzip.compress(b'{"id": 1}\n')
    added = refused(embedded, embedded.write("d.jsonl.gz", lines + b'{"id": 2}\n'))
    assert "10 bytes that are not compressed" in added.message
    embedded.moved(embedded.write("e.jsonl.gz", lines + gzip.compress(b'{"id": 2}\n') + b"\0" * 9))
    assert set(embedded.documents("e")) == {"1", "2"}


def test_a_plan_names_the_fields_that_could_be_keys(embedded: Place) -> None:
    """Records without `id`: the fields that differ in each, ids first; of JSON Lines, too."""
    records = [{"nick": "a", "user_id": 1, "n": 1}, {"nick": "b", "user_id": 2, "n": 1}]
    for name, text in (
        ("u.json", json.dumps(records)),
        ("v.jsonl", "\n".join(map(json.dumps, records))),
    ):
        found = notes(embedded, embedded.write(name, text))
        assert "--key FIELD" in found
        assert "different in each: `user_id`, `nick`" in found
        assert "`n`" not in found


# ---- an older bot's SQLite file


def old_database(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE persisted_views (key TEXT PRIMARY KEY, data TEXT)")
        conn.execute("CREATE TABLE waitlist_data (guild_id TEXT PRIMARY KEY, data TEXT)")
        conn.execute("CREATE TABLE other (a INTEGER)")
        conn.execute("""INSERT INTO persisted_views VALUES ('default', '{"8": {"m": 1.0e2}}')""")
        conn.execute("""INSERT INTO waitlist_data VALUES ('8', '[1]')""")
    conn.close()


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_an_old_sqlite_file_is_moved(place: Place) -> None:
    """Its tables become collections, exact; it is moved away like any original, and comes back."""
    path = place.data_dir / "fallback.db"
    old_database(path)
    content = path.read_bytes()
    found = notes(place, path)
    assert "2 table(s)" in found
    assert "`other` is left out" in found
    assert "--split-default" in found
    run = place.moved(path).run
    assert place.documents("persisted_views") == {"default": {"8": {"m": 100.0}}}
    assert place.documents("waitlist_data") == {"8": [1]}
    assert run_cli("verify", str(run), env=place.env).code == 0
    back(place, run, path)
    assert path.read_bytes() == content
    assert place.documents("waitlist_data") == {}
    place.moved(path, split_default=True)
    assert place.documents("persisted_views") == {"8": {"m": 100.0}}


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_an_old_sqlite_file_in_a_folder_is_proposed(place: Place) -> None:
    """A folder's plan says what lies beside the JSON files, in the data directory, too."""
    old_database(place.root / "bot.db")
    old_database(place.data_dir / "fallback.db")
    place.write("storage/theirs.json", {})
    place.write("state.json", {})
    left_out = {str(each.path): each.reason for each in place.plan(place.root).found.left_out}
    assert f"standfast migrate {place.root / 'bot.db'}" in left_out[str(place.root / "bot.db")]
    reason = left_out[str(place.data_dir)]
    assert "fallback.db" in reason
    assert "theirs.json" in reason


def test_an_embedded_store_moves_to_another_database(embedded: Place) -> None:
    """What an embedded store holds is moved from its file; a run into itself is refused."""
    embedded.moved(embedded.write("a.json", '{"1": 1.50, "2": {}}'))
    embedded.close()
    other = Place(embedded.root / "new", None)
    other.moved(embedded.data_dir / "fallback.db")
    assert other.exported("a") == '{\n"1":1.50,\n"2":{}\n}\n'
    other.close()


def test_a_database_in_use_is_refused(embedded: Place) -> None:
    """Its latest writes stand in a log beside it: they are not left behind silently."""
    path = embedded.root / "bot.db"
    old_database(path)
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute("INSERT INTO waitlist_data VALUES ('9', '[]')")
        conn.commit()
        assert "wal_checkpoint" in refused(embedded, path).hint
    conn.close()
    assert embedded.plan(path).problems == []


def test_a_run_into_the_file_itself_is_refused(embedded: Place) -> None:
    embedded.moved(embedded.write("a.json", {"1": 1}))
    embedded.backend.close()
    again = Place(embedded.root, None)
    with pytest.raises(ConfigError, match="itself"):
        again.plan(again.data_dir / "fallback.db")
    again.close()


# ---- the older layout without a file


def test_a_row_is_split_without_a_file(place: Place) -> None:
    """`--split-default COLLECTION` needs no file, is verified, and rolled back like any run."""
    place.moved(place.write("w.json", {"default": {"1": {"a": 1}, "2": {"b": 2}}}))
    result = place.moved(Path("w"), split_default=True)
    assert place.documents("w") == {"1": {"a": 1}, "2": {"b": 2}}
    assert run_cli("verify", str(result.run), env=place.env).code == 0
    assert place.migrate(Path("w"), split_default=True).run is None
    rollback(place.backend, place.data_dir, str(result.run))
    assert place.documents("w") == {"default": {"1": {"a": 1}, "2": {"b": 2}}}
    done = run_cli("migrate", "--split-default", "w", env=place.env, cwd=place.root)
    assert done.code == 0, done.said
    assert place.documents("w") == {"1": {"a": 1}, "2": {"b": 2}}


def test_a_name_that_is_neither_file_nor_collection_is_refused(place: Place) -> None:
    with pytest.raises(ConfigError) as caught:
        place.plan(Path("nothing"), split_default=True)
    assert caught.value.code == "no_such_file"


# ---- a file that changes its form

RECORDS = [{"id": 1, "n": "a"}, {"id": 2, "n": "b"}]


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, {"whole": True}), ({}, {"key_field": "n"}), ({"whole": True}, {"key_field": "n"})],
)
def test_a_change_of_form_is_a_question(
    place: Place, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """The documents of the old form do not stay beside the new ones: the plan says so and stops;
    --replace-form removes them, and a rollback brings them back."""
    place.moved(place.write("r.json", RECORDS), **first)
    old = place.exported("r")
    path = place.write("r.json", RECORDS)
    result = place.migrate(path, **second)
    assert result.run is None
    assert result.plan.open_conflicts
    assert "--replace-form" in result.plan.collections[0].notes[-1]
    assert place.exported("r") == old
    run = place.moved(path, replace_form=True, **second).run
    assert json.loads(place.exported("r")) == RECORDS
    rollback(place.backend, place.data_dir, str(run))
    assert json.loads(place.exported("r")) == RECORDS
    assert len(place.documents("r")) == (1 if first else 2)


def test_what_changed_since_is_not_replaced_silently(place: Place) -> None:
    """A document of the old form that the application has changed is a conflict."""
    place.moved(place.write("r.json", RECORDS))
    row = place.backend.images("r", ["1"])["1"]
    from standfast.backends.base import Change, Load

    place.backend.load("x", "loaded", [Load("r", None, (), [Change("1", row.version, '{"x":1}')])])
    path = place.write("r.json", RECORDS)
    assert place.migrate(path, whole=True, replace_form=True).plan.open_conflicts == 1
    place.moved(path, whole=True, replace_form=True, on_conflict="database")
    assert sorted(place.documents("r")) == ["1", "default"]


def test_an_empty_list_is_no_record(place: Place) -> None:
    """In a collection of records `[]` adds no document; and records come after `[]`."""
    place.moved(place.write("r.json", RECORDS))
    place.moved(place.write("r.json", []))
    assert sorted(place.documents("r")) == ["1", "2"]
    assert json.loads(place.exported("r")) == RECORDS
    place.moved(place.write("s.json", []))
    place.moved(place.write("s.json", RECORDS))
    assert sorted(place.documents("s")) == ["1", "2"]
    assert json.loads(place.exported("s")) == RECORDS


# ---- a whole bot's folder


def odd_folder(place: Place) -> None:
    """Twelve odd things, as bots have them."""
    place.write("data/nuke-state.json", {"armed": False})
    place.write("data/2026-03-30.json", {"day": 1})
    place.write("data/guilds/111111.json", {"n": 1})
    place.write("data/guilds/222222.json", {"n": 2})
    place.write("data/settings.json", {"a": 1})
    place.write("data/economy/settings.json", {"b": 2})
    place.write("data/reminders.json", [{"text": "x"}, {"text": "x"}])
    place.write("data/log.jsonl", '{"id": 1}\n{"id": 2}\n')
    place.write("data/tinydb.json", {"_default": USERS})
    place.write("data/wrapped.json", {"users": USERS, "version": 3})
    place.write("data/old.json.gz", gzip.compress(b'{"1": {"a": 1}}'))
    place.write("data/nothing.json", {})
    place.write("data/broken.json", '{"a": 1')
    place.write("data/package.json", {"name": "not state"})


def test_one_command_moves_a_whole_folder(place: Place) -> None:
    """Twelve odd files end as the plan said, and the printed lines of code run and give the data
    back: names with hyphens and digits, a folder of guilds, shared stems, a list, JSON Lines,
    TinyDB, a wrapped object, gzip, an empty object, a broken file, one that is not state."""
    odd_folder(place)
    arguments = [
        *("data", "--recursive", "--each", "data/guilds", "--skip-bad", "--yes"),
        *("--split", "tinydb.json=/_default", "--split", "wrapped.json=/users"),
    ]
    planned = run_cli(
        "plan", *arguments[:-6], *arguments[-4:], "--json", env=place.env, cwd=place.root
    ).document
    done = run_cli("migrate", *arguments, env=place.env, cwd=place.root)
    assert done.code == 4, done.said  # the broken file was set aside, and is named
    assert [Path(each["path"]).name for each in planned["problems"]] == ["broken.json"]
    assert "package.json" in done.err
    left = sorted(str(path.relative_to(place.root)) for path in place.root.rglob("data/**/*.*"))
    assert left == ["data/broken.json", "data/package.json"]
    expected = {each["collection"]: each["new"] for each in planned["collections"]}
    assert expected == {name: len(place.documents(name)) for name in place.backend.collections()}
    assert expected["guilds"] == 2
    assert expected["tinydb"] == expected["wrapped"] == 12
    assert {"nuke_state", "c_2026_03_30", "economy_settings", "data_settings"} <= set(expected)


@pytest.mark.process
def test_the_printed_lines_run(place: Place) -> None:
    """What the command prints is a program that reads the moved data."""
    odd_folder(place)
    (place.root / "data" / "broken.json").unlink()
    done = run_cli(
        *("migrate", "data", "-r", "--each", "data/guilds", "--yes"),
        *("--split", "tinydb.json=/_default"),
        env=place.env,
        cwd=place.root,
    )
    assert done.code == 0, done.said
    block = done.err.partition("the same data in your code:\n")[2]
    lines = [line[4:] for line in block.splitlines() if line.startswith("    ")]
    names = [found[1] for line in lines if (found := re.match(r"(\w+) = .*JsonFile", line))]
    stored = [found[1] for line in lines if (found := re.match(r"(\w+) = store\[", line))]
    assert "guilds_" not in stored, "one line for a collection, however many files it has"
    program = "\n".join(
        [
            *lines,
            "import json",
            f"data = {{name: globals()[name].load() for name in {names}}}",
            f"data |= {{name: dict(globals()[name].items()) for name in {stored}}}",
            "store.close()",
            "print(json.dumps(data))",
        ]
    )
    data = run_program(program, place)
    assert data["nuke_state"] == {"armed": False}
    assert data["reminders"] == [{"text": "x"}, {"text": "x"}]
    assert data["guilds"] == {"111111": {"n": 1}, "222222": {"n": 2}}
    assert data["tinydb"] == USERS
    assert data["old"] == {"1": {"a": 1}}
    assert data["nothing"] == {}
    assert data["economy_settings"] == {"b": 2}
    assert len(data) == len(place.backend.collections())


def run_program(program: str, place: Place) -> Any:
    import os
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=place.root,
        env={**os.environ, **place.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
