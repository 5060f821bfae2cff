"""A collection that is registered, and whose table was dropped, renamed or made anew."""

from __future__ import annotations

from typing import Any

import apsw
import psycopg
import pytest

from standfast.api.sync import Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import ConfigError
from standfast.jsonfile import JsonFile
from standfast.migrate.rollback import rollback
from standfast.migrate.rundir import find_run
from standfast.migrate.verify import verify_run
from support.moving import Place

FILES: dict[str, Any] = {"1": {"a": 1}, "2": {"b": 2}}


def execute(place: Place, statement: str) -> None:
    """Run a statement as an administrator would, beside the store."""
    if place.postgres_url:
        with psycopg.connect(place.postgres_url, autocommit=True) as conn:
            conn.execute(statement.encode())
        return
    with apsw.Connection(str(place.data_dir / "fallback.db")) as conn:
        conn.execute(statement)


def moved_then(place: Place, statement: str) -> str:
    """The run that moved a file, after which this was done to the table."""
    run = place.moved(place.write("v.json", FILES)).run
    assert run is not None
    execute(place, statement)
    return run


@pytest.mark.parametrize("policy", ["fail", "file", "database", "newest"])
def test_a_dropped_table_is_made_anew(place: Place, policy: str) -> None:
    """The file brings its documents again under every policy, and the plan says so."""
    moved_then(place, "DROP TABLE v")
    path = place.write("v.json", FILES)
    notes = " ".join(place.plan(path, on_conflict=policy).collections[0].notes)
    assert "its table is missing" in notes
    before = place.snapshot() if place.postgres_url else None
    place.plan(path, on_conflict=policy)
    assert place.postgres_url is None or place.snapshot() == before
    second = place.moved(path, on_conflict=policy).run
    assert place.documents("v") == FILES
    Store(EmbeddedEngine(place.backend))["v"].put("3", 3)
    assert place.documents("v") == {**FILES, "3": 3}
    rollback(place.backend, place.data_dir, str(second))
    assert place.documents("v") == {"3": 3}


def test_versions_do_not_fall_when_a_table_is_made_anew(place: Place) -> None:
    """Who has seen an older version of a row takes the new one for newer."""
    place.moved(place.write("v.json", FILES))
    items = Store(EmbeddedEngine(place.backend))["v"]
    for number in range(5):
        items.put("1", number)
    before = place.versions("v")
    execute(place, "DROP TABLE v")
    place.moved(place.write("v.json", FILES))
    assert all(version > before[key] for key, version in place.versions("v").items())


def test_a_recorded_deletion_outlives_the_table(place: Place) -> None:
    """What was deleted before the table was lost comes back only when that is asked for."""
    place.moved(place.write("v.json", FILES))
    Store(EmbeddedEngine(place.backend))["v"].delete("1")
    execute(place, "DROP TABLE v")
    place.moved(place.write("v.json", FILES))
    assert place.documents("v") == {"2": {"b": 2}}
    execute(place, "DROP TABLE v")
    place.moved(place.write("v.json", FILES), on_conflict="file")
    assert place.documents("v") == FILES


def test_a_renamed_table_is_not_made_anew(place: Place) -> None:
    """Its rows are there under another name: refused, with the name."""
    moved_then(place, "ALTER TABLE v RENAME TO w")
    path = place.write("v.json", FILES)
    for call in (place.plan, place.migrate):
        with pytest.raises(ConfigError, match=r"renamed to.*w"):
            call(path)
    assert path.exists()
    execute(place, "ALTER TABLE w RENAME TO v")
    place.moved(path)
    assert place.documents("v") == FILES


def test_a_rollback_says_that_the_table_is_missing(place: Place) -> None:
    """Refused before anything is changed; --discard-newer puts the file back all the same."""
    run = moved_then(place, "DROP TABLE v")
    with pytest.raises(ConfigError) as caught:
        rollback(place.backend, place.data_dir, run)
    assert caught.value.code == "no_table"
    assert "--discard-newer" in caught.value.hint
    assert not (place.root / "v.json").exists()
    rollback(place.backend, place.data_dir, run, discard_newer=True)
    path = place.root / "v.json"
    assert path.exists()
    place.moved(path)
    assert place.documents("v") == FILES


def test_a_verification_names_what_is_missing(place: Place) -> None:
    """Every document of the dropped table is wrong; other collections are compared as ever."""
    run = moved_then(place, "DROP TABLE v")
    run_dir = find_run(place.data_dir, run)
    verdict = verify_run(place.backend, run_dir, run_dir.load_state(), run_dir.load_changes())
    assert not verdict.green
    assert [(name, key) for name, key, _ in verdict.wrong] == [("v", "1"), ("v", "2")]
    assert all("table" in what for *_, what in verdict.wrong)


def test_a_table_made_anew_by_hand_is_filled(place: Place) -> None:
    """Dropped and created in the old shape, without what was added to it: adopted once more."""
    moved_then(place, "DROP TABLE v")
    kind = "jsonb" if place.postgres_url else "TEXT"
    execute(place, f"CREATE TABLE v (key TEXT PRIMARY KEY, data {kind} NOT NULL)")
    execute(place, "INSERT INTO v VALUES ('own', '1')")
    place.moved(place.write("v.json", FILES))
    items = Store(EmbeddedEngine(place.backend))["v"]
    items.put("own", 2)
    assert place.documents("v") == {**FILES, "own": 2}
    items.delete("1")
    place.moved(place.write("v.json", FILES))
    assert "1" not in place.documents("v")


@pytest.mark.parametrize("statement", ["DROP TABLE v", "ALTER TABLE v RENAME TO w"])
def test_a_missing_table_is_not_an_empty_file(place: Place, statement: str) -> None:
    """JsonFile neither reads it as empty nor writes beside it: the error names the table."""
    moved_then(place, statement)
    file = JsonFile(place.root / "v.json", store=Store(EmbeddedEngine(place.backend)))
    with pytest.raises(ConfigError) as caught:
        file.load()
    assert caught.value.code == "no_table"
    with pytest.raises(ConfigError) as caught:
        file.save({"1": 1})
    assert caught.value.code == "no_table"
