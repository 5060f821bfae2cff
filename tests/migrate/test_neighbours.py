"""Files that are easily taken for one another: whose documents they are is never guessed.

Names that differ by a sign or by case, the same content in two places, folders that were moved,
files that bring more than one collection.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from standfast import ConfigError, JsonFile, Store
from standfast.backends.base import Change, Form, Load
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import MigrationError
from standfast.migrate.rollback import rollback
from support.cli import Ran, run_cli
from support.moving import Place


def migrate(place: Place, *arguments: Any) -> Ran:
    return run_cli("migrate", *map(str, arguments), env=place.env, cwd=place.root)


def everything(place: Place) -> dict[str, Any]:
    return {name: place.documents(name) for name in place.backend.collections()}


@pytest.mark.parametrize(
    "names",
    [
        ("a-b.json", "a_b.json", "a b.json"),
        ("Log.json", "log.json"),
        ("x.json", "x.json.gz"),
        ("a/g/s.json", "b/g/s.json", "a/s.json"),
        ("a-b/g/s.json", "a_b/g/s.json"),
    ],
    ids=["signs", "case", "endings", "folders", "folders' signs"],
)
def test_names_that_would_be_one_are_told_apart(place: Place, names: tuple[str, ...]) -> None:
    """Each file of a folder gets a collection of its own, the same one at the next run, and the
    lines that are printed open it."""
    for name in names:
        place.write(f"d/{name}", f'{{"id": "{name}"}}' + "\n")
    done = migrate(place, place.root / "d", "--yes", "--whole", "--recursive")
    assert done.code == 0, done.said
    found = everything(place)
    assert len(found) == len(names)
    assert sorted(each["default"]["id"] for each in found.values()) == sorted(names)
    for name in names:
        place.write(f"d/{name}", f'{{"id": "{name}", "n": 2}}' + "\n")
        assert migrate(place, place.root / "d" / name, "--whole").code == 0
    assert {name: {**each["default"], "n": 2} for name, each in found.items()} == {
        name: each["default"] for name, each in everything(place).items()
    }
    variables: dict[str, Any] = {}
    lines = [line.strip() for line in done.err.splitlines() if "JsonFile(" in line]
    assert len(lines) == len(names)
    store = Store(EmbeddedEngine(place.backend))

    def json_file(path: str, **options: Any) -> JsonFile:
        return JsonFile(place.root / path, store=store, **options)

    for line in lines:
        exec(line.replace("standfast.JsonFile", "json_file"), {"json_file": json_file}, variables)
    assert sorted(each.load()["id"] for each in variables.values()) == sorted(names)


def test_a_file_is_set_aside_as_a_whole(place: Place) -> None:
    """A file that brings two collections, of which one is taken: nothing of it is stored, and it
    stays where it is."""
    place.write("d/a.json", {"x": {"n": 1}})
    path = place.write("d/data.json", {"users": {"1": {}, "2": {}}, "more": 1})
    options = ("--name", "a.json=data_rest", "--split", "data.json=/users", "--skip-bad")
    assert migrate(place, place.root / "d", "--yes", *options).code == 4
    assert everything(place) == {"data_rest": {"x": {"n": 1}}}
    assert path.exists()


def test_a_split_file_keeps_its_names(place: Place) -> None:
    """What is taken apart is taken apart into the same collections the next time."""
    path = place.write("data.json", {"users": {"1": {}}, "more": 1})
    assert migrate(place, path, "--split", "/users").code == 0
    place.write("data.json", {"users": {"1": {}, "2": {}}, "more": 2})
    assert migrate(place, path, "--split", "/users").code == 0
    assert set(everything(place)) == {"data", "data_rest"}
    assert place.documents("data") == {"1": {}, "2": {}}


def test_tables_whose_names_would_be_one_are_told_apart(place: Place) -> None:
    """An old SQLite file with tables `a-b` and `a_b`: both arrive."""
    path = place.root / "old.db"
    with closing(sqlite3.connect(path)) as file, file:
        for table in ("a-b", "a_b"):
            file.execute(f'CREATE TABLE "{table}" (key TEXT PRIMARY KEY, data TEXT)')
            file.execute(f'INSERT INTO "{table}" VALUES (?, ?)', ("k", f'"{table}"'))
    done = migrate(place, path)
    assert done.code == 0, done.said
    assert place.documents("a_b") == {"k": "a_b"}
    assert sorted(each["k"] for each in everything(place).values()) == ["a-b", "a_b"]


def test_two_files_of_a_folder_with_one_key_are_refused_in_the_plan(place: Place) -> None:
    """`--each`: 1.json and 1.jsonl would be the same document."""
    place.write("g/1.json", {"n": 1})
    place.write("g/1.jsonl", '{"n": 2}\n')
    before = place.snapshot()
    done = run_cli("plan", "--each", str(place.root / "g"), env=place.env, cwd=place.root)
    assert done.code == 4
    assert "1.jsonl" in done.said
    assert "is that of" in done.said
    assert migrate(place, "--each", place.root / "g", "--yes").code == 4
    assert place.snapshot() == before


def test_a_folder_keeps_its_collection(place: Place) -> None:
    """`--each` for one of two folders of the same name: the collection of the earlier run."""
    for folder in ("x", "y"):
        place.write(f"{folder}/guilds/111.json", {"of": folder})
    each = [part for folder in ("x", "y") for part in ("--each", place.root / folder / "guilds")]
    assert migrate(place, *each, "--yes").code == 0
    place.write("x/guilds/111.json", {"of": "x", "n": 2})
    assert migrate(place, *each[:2], "--yes").code == 0
    assert everything(place) == {
        "x_guilds": {"111": {"of": "x", "n": 2}},
        "y_guilds": {"111": {"of": "y"}},
    }


def test_what_a_later_file_brought_too_is_not_rolled_back(place: Place) -> None:
    """The same document in two files: taking the first run back would leave nothing of the second
    file, which was moved away; it is refused by name, and newest first both go."""
    first, second = (place.write(f"{folder}/s.json", {"1": {"n": 1}}) for folder in "ab")
    run = place.moved(first).run
    later = place.moved(second).run
    assert run is not None
    assert later is not None
    before = place.snapshot()
    with pytest.raises(MigrationError) as caught:
        rollback(place.backend, place.data_dir, run)
    assert caught.value.code == "moved"
    assert later in caught.value.message
    assert str(second) in caught.value.message
    assert place.snapshot() == before
    for each in (later, run):
        rollback(place.backend, place.data_dir, each)
    assert place.documents("s") == {}
    assert first.exists()
    assert second.exists()


def test_a_file_that_was_moved_under_another_name_is_not_empty(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JsonFile of a file whose documents are in a collection of another name, by --name or a link:
    it names that collection, where it would have found nothing."""
    real = place.write("volume/real.json", {"1": {"n": 1}})
    (place.root / "data").mkdir()
    (place.root / "data" / "settings.json").symlink_to(real)
    named = place.write("data/scores.json", {"2": {"n": 2}})
    assert migrate(place, place.root / "data", "--yes", "--name", "scores.json=points").code == 0
    monkeypatch.chdir(place.root)
    store = Store(EmbeddedEngine(place.backend))
    for path, collection in (("data/settings.json", "real"), (named, "points")):
        for call in (lambda f: f.load(), lambda f: f.save({"9": {}})):
            with pytest.raises(ConfigError) as caught:
                call(JsonFile(path, store=store))
            assert caught.value.code == "other_file"
            assert f"collection={collection!r}" in caught.value.hint
        assert len(JsonFile(path, store=store, collection=collection).load()) == 1
    assert set(everything(place)) == {"real", "points"}


def test_an_app_that_was_moved_gets_its_files_back(place: Place, tmp_path: Path) -> None:
    """The folder of the app, with its data directory, is elsewhere: a changed file is compared with
    what it brought there, and a rollback puts the files where the app is now."""
    place.moved(place.write("data/s.json", {"1": {"n": 1}, "2": {}}))
    place.close()
    here = tmp_path / "elsewhere"
    place.root.rename(here)
    moved = Place(here, place.postgres_url)
    path = moved.write("data/s.json", {"1": {"n": 2}, "2": {}})
    second = moved.moved(path).run
    assert moved.documents("s") == {"1": {"n": 2}, "2": {}}
    done = run_cli("runs", env=moved.env, cwd=here)
    first = min(line.split()[0] for line in done.out.splitlines() if line[:2] == "20")
    for run in (str(second), first):
        done = run_cli("rollback", run, env=moved.env, cwd=here)
        assert done.code == 0, done.said
    assert path.read_text().split() == '{ "1": { "n": 1 }, "2": {} }'.split()
    assert not place.root.exists()
    moved.close()


# ---- a second file that would go beside another one's documents


def test_another_file_of_that_name_asks_although_no_key_is_in_both(place: Place) -> None:
    """Two files that are called alike, moved by separate commands: without a name or a policy the
    second is refused, in the plan too, and both are named; nothing of it is stored."""
    first = place.write("a-b.json", {"1": {"n": 1}})
    second = place.write("a_b.json", {"2": {"n": 2}})
    assert migrate(place, first).code == 0
    before = place.snapshot()
    for command in ("plan", "migrate"):
        done = run_cli(command, str(second), env=place.env, cwd=place.root)
        assert done.code == 4, done.said
        assert str(first) in done.said
        assert str(second) in done.said
        assert "--name" in done.said
    assert place.snapshot() == before
    assert migrate(place, second, "--name", "a_b.json=others").code == 0
    assert everything(place) == {"a_b": {"1": {"n": 1}}, "others": {"2": {"n": 2}}}


@pytest.mark.parametrize("meant", [("--name", "a_b.json=a_b"), ("--on-conflict", "file")])
def test_two_files_may_share_a_collection_when_that_is_said(
    place: Place, meant: tuple[str, ...]
) -> None:
    """A name or a policy says that it is meant; from then on each is a file of this collection."""
    place.moved(place.write("a-b.json", {"1": {"n": 1}}))
    second = place.write("a_b.json", {"2": {"n": 2}})
    assert migrate(place, second, *meant).code == 0
    place.moved(place.write("a-b.json", {"1": {"n": 3}}))
    place.moved(place.write("a_b.json", {"2": {"n": 2}, "3": {}}))
    assert place.documents("a_b") == {"1": {"n": 3}, "2": {"n": 2}, "3": {}}


def test_the_other_files_are_moved_without_it(place: Place) -> None:
    """--skip-bad sets it aside like any file that is refused."""
    place.moved(place.write("a-b.json", {"1": {"n": 1}}))
    second = place.write("d/a_b.json", {"2": {"n": 2}})
    place.write("d/c.json", {"3": {}})
    assert migrate(place, place.root / "d", "--yes", "--skip-bad").code == 4
    assert everything(place) == {"a_b": {"1": {"n": 1}}, "c": {"3": {}}}
    assert second.exists()


def test_a_file_of_which_everything_is_stored_is_no_question(place: Place) -> None:
    """The same documents at another place: nothing would be added, so nothing is asked."""
    place.moved(place.write("a-b.json", {"1": {"n": 1}, "2": {}}))
    place.moved(place.write("a_b.json", {"2": {}}))
    assert place.documents("a_b") == {"1": {"n": 1}, "2": {}}


# ---- a row `default`, split before


SPLIT: dict[str, Any] = {"default": {"a": {"x": 1}}, "1": {"n": {"y": 1}}}


@pytest.mark.parametrize("by_file", [True, False], ids=["file", "rows"])
def test_what_was_split_is_not_split_again(place: Place, by_file: bool) -> None:
    """A member called `default`, an object of objects like the row that it was in: the same command
    again leaves it whole, with the file or without it."""
    path = place.write("views.json", {"default": SPLIT})
    assert migrate(place, path, *(["--split-default"] if by_file else [])).code == 0
    for _ in range(3):
        done = migrate(place, "views", "--split-default")
        assert done.code == 0, done.said
        assert place.documents("views") == SPLIT
    assert (
        migrate(place, place.write("views.json", {"default": SPLIT}), "--split-default").code == 0
    )
    assert place.documents("views") == SPLIT


def test_a_files_default_takes_the_place_of_the_row_that_is_split(place: Place) -> None:
    """The row has no member of that name, the file has: both are stored, in one run."""
    place.moved(place.write("views.json", {"default": {"1": {"n": 1}}}))
    path = place.write("views.json", {"default": {"default": {"a": {}}, "2": {}}})
    done = migrate(place, path, "--split-default", "--replace-form", "--on-conflict", "file")
    assert done.code == 0, done.said
    assert place.documents("views")["default"] == {"a": {}}
    assert place.documents("views")["2"] == {}


# ---- what a refused or undone run leaves behind


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives away")
def test_a_folder_that_is_gone_comes_back_as_it_was(embedded: Place) -> None:
    """The folder was removed after the move: it is made again with its owner and mode, so that the
    app reaches its file."""
    path = embedded.write("data/deep/s.json", {"1": {}})
    folders = (path.parent, path.parent.parent)
    for each in (*folders, path):
        os.chown(each, 65534, 65533)
        each.chmod(0o750)
    run = str(embedded.moved(path).run)
    for each in folders:
        each.rmdir()
    rollback(embedded.backend, embedded.data_dir, run)
    for each in (*folders, path):
        state = each.stat()
        assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (65534, 65533, 0o750)


def test_a_load_that_is_refused_leaves_no_table(place: Place) -> None:
    """A row changed between plan and load: other collections of the run are not there either."""
    place.moved(place.write("a.json", {"1": {"n": 1}}))
    before = place.stored()
    loads = [
        Load("fresh", Form(), [("1", "{}")], [], "x"),
        Load("a", Form(), [], [Change("1", 7, '{"n":2}')], "y"),
    ]
    with pytest.raises(MigrationError) as caught:
        place.backend.load("20990101-000000-00000000", "loaded", loads)
    assert caught.value.code == "plan_stale"
    assert place.stored() == before
    place.moved(place.write("fresh.json", {"1": {}}))
    assert place.documents("fresh") == {"1": {}}
