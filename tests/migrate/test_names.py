"""Which collection a file becomes: derived, shown, recorded, and the same for JsonFile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import ConfigError, JsonFile
from standfast.document.names import collection_name, derived_name
from support.cli import run_cli
from support.moving import Place


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("nuke-state.json", "nuke_state"),
        ("2026-03-30.json", "c_2026_03_30"),
        ("core.area_registry", "core_area_registry"),
        ("views.jsonl", "views"),
        ("views.json.gz", "views"),
        ("pg_stats.json", "c_pg_stats"),
        ("_private.json", "_private"),
    ],
)
def test_a_name_is_derived(file: str, name: str) -> None:
    """Only a JSON ending is cut; what a name cannot hold becomes an underscore."""
    assert derived_name(file) == name


def test_names_of_other_alphabets_are_readable_and_distinct() -> None:
    """Letters by their sound, and a checksum: two such names are never one."""
    files = [
        "настройки",
        "настройка",
        "données",
        "donnees",
        "設定",
        "設走",
        "😀",
        "😃",
        "---",
        "x" * 60,
    ]
    names = [derived_name(f"{each}.json") for each in files]
    assert len(set(names)) == len(files)
    assert names[0].startswith("nastroyki_")
    assert names[2].startswith("donnees_")
    for name in names:
        assert collection_name(name) == name


def test_shared_stems_get_their_folder_in_front(embedded: Place) -> None:
    """Two files of one stem are two collections, in one run."""
    for folder in ("economy", "levels"):
        embedded.write(f"data/{folder}/settings.json", {"g": {"of": folder}})
    run = embedded.moved(embedded.root / "data", recursive=True)
    assert sorted(each.collection for each in run.plan.collections) == [
        "economy_settings",
        "levels_settings",
    ]
    assert embedded.documents("economy_settings") == {"g": {"of": "economy"}}


def test_a_file_keeps_the_collection_that_it_was_given(embedded: Place) -> None:
    """A file that comes again goes where it went before, also beside another of its stem."""
    embedded.moved(embedded.write("a/s.json", {"1": 1}))
    embedded.write("a/s.json", {"1": 2})
    embedded.write("b/s.json", {"1": 3})
    embedded.moved(embedded.root, recursive=True)
    assert embedded.documents("s") == {"1": 2}
    assert embedded.documents("b_s") == {"1": 3}


def test_names_and_exclusions_are_asked_for(embedded: Place) -> None:
    """--name FILE=COLLECTION and --exclude GLOB, by name or path."""
    embedded.write("data/one.json", {"1": 1})
    embedded.write("data/two.json", {"2": 2})
    embedded.write("data/three.bak.json", {"3": 3})
    plan = embedded.moved(
        embedded.root / "data", names={"two.json": "second"}, exclude=("*.bak.json",)
    ).plan
    assert [each.collection for each in plan.collections] == ["one", "second"]
    assert [each.reason for each in plan.found.left_out] == ["excluded by --exclude"]


def test_the_printed_lines_open_the_data(tmp_path: Path) -> None:
    """One command moves a folder, and the lines that it prints load what was moved."""
    files: dict[str, Any] = {
        "data/nuke-state.json": {"1": {"n": 1}},
        "data/economy/settings.json": {"g": {"of": "economy"}},
        "data/levels/settings.json": {"g": {"of": "levels"}},
        "data/reminders.json": [{"text": "a"}, {"text": "b"}],
        "data/2026-03-30.json": {"2": {}},
        "data/class.json": {"k": 1},  # no name for a variable
        "data/store.json": {"s": 1},  # the name of another one
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    done = run_cli("migrate", "data", "-r", "--yes", cwd=tmp_path)
    assert done.code == 0, done
    lines = [line.strip() for line in done.err.splitlines() if " = standfast.JsonFile(" in line]
    assert len(lines) == len(files)
    with standfast.open(data_dir=tmp_path / "storage") as store:

        def opened(path: str, **options: Any) -> Any:
            return JsonFile(tmp_path / path, store=store, **options).load()

        loaded: dict[str, Any] = {}
        for line in lines:
            exec(line.replace("standfast.JsonFile", "JsonFile"), {"JsonFile": opened}, loaded)
    assert loaded == {
        "nuke_state": files["data/nuke-state.json"],
        "economy_settings": files["data/economy/settings.json"],
        "levels_settings": files["data/levels/settings.json"],
        "reminders": files["data/reminders.json"],
        "c_2026_03_30": files["data/2026-03-30.json"],
        "class_": files["data/class.json"],
        "store_": files["data/store.json"],
    }


def test_versions_are_rolled_back_one_after_the_other(place: Place) -> None:
    """Three versions of one file, taken back newest first: each step ends where it began."""
    from standfast.migrate.rollback import rollback

    versions: list[dict[str, Any]] = [
        {"a": {"n": 1}, "b": {"n": 1}},
        {"a": {"n": 2}, "b": {"n": 1}, "c": {"n": 2}},
        {"a": {"n": 3}, "c": {"n": 3}},
    ]
    path = place.root / "v.json"
    states: list[dict[str, Any]] = []
    runs: list[str] = []
    for version in versions:
        states.append(place.documents("v"))
        run = place.moved(place.write("v.json", version)).run
        assert run is not None
        runs.append(run)
    for run, version, state in list(zip(runs, versions, states, strict=True))[::-1]:
        rollback(place.backend, place.data_dir, run)
        assert place.documents("v") == state
        assert json.loads(path.read_bytes()) == version


def test_a_row_that_changed_between_two_rollbacks_is_still_refused(place: Place) -> None:
    """What the application wrote after a rollback is news."""
    from standfast.api.sync import Store
    from standfast.engine.embedded import EmbeddedEngine
    from standfast.errors import MigrationError
    from standfast.migrate.rollback import rollback

    runs = [place.moved(place.write("v.json", {"a": {"n": n}})).run for n in (1, 2)]
    rollback(place.backend, place.data_dir, str(runs[1]))
    Store(EmbeddedEngine(place.backend))["v"].put("a", {"n": 9})
    with pytest.raises(MigrationError):
        rollback(place.backend, place.data_dir, str(runs[0]))


def test_a_bad_name_is_a_usage_error(tmp_path: Path) -> None:
    """--name without a collection is refused before anything is read."""
    (tmp_path / "a.json").write_text("{}")
    assert run_cli("migrate", "a.json", "--name", "a.json", cwd=tmp_path).code == 2
    assert issubclass(ConfigError, standfast.StandfastError)
