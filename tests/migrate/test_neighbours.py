"""Files that are easily taken for one another: whose documents they are is never guessed.

Names that differ by a sign or by case, the same content in two places, folders that were moved,
files that bring more than one collection.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from standfast import ConfigError, JsonFile, Store
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
