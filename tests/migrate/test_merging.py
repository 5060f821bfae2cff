"""Where file and database differ: policies, three-way merges after an earlier run, no-ops."""

from __future__ import annotations

import os
from typing import Any

import pytest

from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.migrate.runner import Result
from support.moving import Place

BASE = {"k": {"mode": "normal", "seats": 8, "deep": {"a": 1, "b": 1}}}


def views(place: Place) -> Collection:
    """The application, writing to the database."""
    return Store(EmbeddedEngine(place.backend))["views"]


def again(place: Place, content: Any, **options: Any) -> Result:
    """The file appears once more, with this content, and is migrated."""
    return place.migrate(place.write("views.json", content), **options)


def decisions(result: Result) -> list[tuple[str, str]]:
    """Key and decision of what differed."""
    return [(d.key, d.decision) for each in result.plan.collections for d in each.different]


# ---- without an earlier run: the policy


@pytest.fixture
def foreign(place: Place) -> Place:
    """A collection that the application wrote: no run ever brought anything."""
    views(place).put_many({"same": 1, "k": {"from": "database", "more": 1}, "alone": {}})
    return place


FILE = {"same": 1, "k": {"from": "file"}, "new": [2]}


def test_fail_changes_nothing_and_shows_the_difference(foreign: Place) -> None:
    """--on-conflict fail, the default: the run stops before anything is changed."""
    path = foreign.write("views.json", FILE)
    before = foreign.snapshot()
    result = foreign.migrate(path)
    assert result.run is None
    assert not result.green
    assert decisions(result) == [("k", "open")]
    assert foreign.snapshot() == before


def test_file_wins_when_asked(foreign: Place) -> None:
    """--on-conflict file: the document of the file replaces the row, whole."""
    assert again(foreign, FILE, on_conflict="file").green
    assert foreign.documents("views") == {"alone": {}, **FILE}
    assert foreign.versions("views") == {"same": 1, "k": 2, "alone": 1, "new": 1}


def test_database_wins_when_asked(foreign: Place) -> None:
    """--on-conflict database: the row stays untouched, and the run is a success."""
    result = again(foreign, FILE, on_conflict="database")
    assert result.green
    assert decisions(result) == [("k", "database")]
    kept = {"from": "database", "more": 1}
    assert foreign.documents("views") == {"alone": {}, "k": kept, "same": 1, "new": [2]}
    assert foreign.versions("views")["k"] == 1
    assert foreign.json_files() == []


@pytest.mark.parametrize(("file_is_newer", "winner"), [(True, "file"), (False, "database")])
def test_the_newest_wins_when_asked(foreign: Place, file_is_newer: bool, winner: str) -> None:
    """--on-conflict newest: the file's time of modification against the row's last change."""
    path = foreign.write("views.json", FILE)
    at_s = 4_000_000_000 if file_is_newer else 1_000_000_000
    os.utime(path, (at_s, at_s))
    assert foreign.migrate(path, on_conflict="newest").green
    assert foreign.documents("views")["k"]["from"] == winner


@pytest.mark.parametrize("on_conflict", ["file", "database", "newest", "fail"])
@pytest.mark.parametrize("earlier", [False, True])
def test_rows_that_only_the_database_has_survive(
    place: Place, on_conflict: str, earlier: bool
) -> None:
    """No policy ever removes a row, also not one that an earlier run brought from the file."""
    if earlier:
        assert again(place, {"brought": 1, "k": 1}).green
    views(place).put_many({"alone": {"x": 1}, "other": None})
    result = again(place, {"k": 1, "new": 2}, on_conflict=on_conflict)
    assert result.green
    assert result.plan.collections[0].only_database == (3 if earlier else 2)
    expected = {"alone": {"x": 1}, "other": None, "k": 1, "new": 2}
    assert place.documents("views") == expected | ({"brought": 1} if earlier else {})


# ---- after an earlier run: three ways


@pytest.fixture
def brought(place: Place) -> Place:
    """A collection that an earlier run brought from the file."""
    assert again(place, BASE).green
    return place


def changed(path: str, value: Any) -> dict[str, Any]:
    """The base with one field changed."""
    document: dict[str, Any] = {"mode": "normal", "seats": 8, "deep": {"a": 1, "b": 1}}
    *folders, name = path.split(".")
    inner = document
    for folder in folders:
        inner = inner[folder]
    inner[name] = value
    return document


def test_only_the_file_changed(brought: Place) -> None:
    """What only the file changed is taken over, without asking the policy."""
    result = again(brought, {"k": changed("mode", "file")})
    assert result.green
    assert decisions(result) == [("k", "file")]
    assert brought.documents("views") == {"k": changed("mode", "file")}


def test_only_the_database_changed(brought: Place) -> None:
    """What only the application changed stays; importing the old file again is no step back."""
    views(brought).put("k", changed("mode", "database"))
    before = brought.versions("views")
    result = again(brought, BASE)
    assert result.green
    assert decisions(result) == [("k", "database")]
    assert brought.documents("views") == {"k": changed("mode", "database")}
    assert brought.versions("views") == before


def test_both_changed_different_fields(brought: Place) -> None:
    """Disjoint changes are both kept, field by field, down into objects."""
    views(brought).put("k", changed("deep.a", "database"))
    result = again(brought, {"k": changed("deep.b", "file")})
    assert result.green
    assert decisions(result) == [("k", "merged")]
    merged = changed("deep.b", "file")
    merged["deep"]["a"] = "database"
    assert brought.documents("views") == {"k": merged}


def test_both_changed_the_same_field_is_a_conflict(brought: Place) -> None:
    """The same field changed on both sides asks the policy; the default changes nothing."""
    views(brought).put("k", changed("mode", "database"))
    path = brought.write("views.json", {"k": changed("mode", "file")})
    before = brought.snapshot()
    result = brought.migrate(path)
    assert (result.run, decisions(result)) == (None, [("k", "open")])
    assert brought.snapshot() == before


@pytest.mark.parametrize("winner", ["file", "database"])
def test_a_true_conflict_follows_the_policy_and_keeps_the_rest(brought: Place, winner: str) -> None:
    """The policy decides the field in conflict alone; what else each side changed is merged."""
    mine, theirs = changed("mode", "file"), changed("mode", "database")
    mine["seats"] = 16
    theirs["deep"]["a"] = 2
    views(brought).put("k", theirs)
    assert again(brought, {"k": mine}, on_conflict=winner).green
    expected = changed("mode", winner)
    expected["seats"] = 16
    expected["deep"]["a"] = 2
    assert brought.documents("views") == {"k": expected}


def test_both_made_the_same_change(brought: Place) -> None:
    """The same change on both sides is no difference at all."""
    views(brought).put("k", changed("mode", "both"))
    result = again(brought, {"k": changed("mode", "both")})
    assert result.green
    assert decisions(result) == []
    assert result.plan.collections[0].equal == ["k"]


def test_what_the_database_deleted_stays_deleted(place: Place) -> None:
    """An old file does not bring back what the application has deleted since; that is told."""
    assert again(place, {"a": {"x": 1}, "b": {"x": 1}}, keep_files=True).green
    views(place).delete("a")
    result = place.migrate(place.root / "views.json")
    assert result.green
    assert decisions(result) == [("a", "database")]
    assert "1 document(s) were deleted in the database" in " ".join(
        result.plan.collections[0].notes
    )
    assert place.documents("views") == {"b": {"x": 1}}
    views(place).delete("b")
    assert again(place, {"a": {"x": 1}, "b": {"x": 1}}).run is None
    assert place.documents("views") == {}
    assert place.json_files() == ["views.json"]


def test_a_change_in_the_file_beats_a_delete_in_the_database(place: Place) -> None:
    """A document that the file changed since is new work: it comes in again."""
    assert again(place, {"a": {"x": 1}}).green
    views(place).delete("a")
    assert again(place, {"a": {"x": 2}}).green
    assert place.documents("views") == {"a": {"x": 2}}


def test_a_run_that_was_taken_back_is_no_base(place: Place) -> None:
    """After a rollback the file is imported as if for the first time."""
    from standfast.migrate.rollback import rollback

    first = again(place, {"a": {"x": 1}})
    assert first.run is not None
    rollback(place.backend, place.data_dir, first.run)
    assert place.documents("views") == {}
    assert place.migrate(place.root / "views.json").green
    assert place.documents("views") == {"a": {"x": 1}}


def test_a_merge_keeps_exact_numbers_and_order(brought: Place) -> None:
    """What a merge writes is verified like everything else, huge integers among it."""
    views(brought).put("k", changed("deep.a", 10**50))
    assert again(brought, {"k": changed("seats", -0.0)}).green
    assert brought.exported("views").startswith(
        '{\n"k":{"mode":"normal","seats":-0.0,"deep":{"a":1000'
    )


# ---- again


@pytest.mark.parametrize("keep_files", [False, True])
def test_migrating_twice_is_a_no_op(place: Place, keep_files: bool) -> None:
    """The second run changes nothing, makes no run, and is a success."""
    path = place.write("views.json", {"a": {"x": 1}, "b": [1.5, -0.0]})
    assert place.migrate(path, keep_files=keep_files).green
    before = place.snapshot()
    for target in (path, place.root):
        result = place.migrate(target, keep_files=keep_files)
        assert (result.run, result.green) == (None, True)
    assert place.snapshot() == before


def test_an_equal_file_that_comes_again_is_cleaned_up(place: Place) -> None:
    """A file whose documents are all there already is verified and moved; no row is touched."""
    assert again(place, {"a": {"x": 1}}).green
    before = place.versions("views")
    result = again(place, {"a": {"x": 1}})
    assert result.green
    assert result.run is not None
    assert result.moved == 1
    assert place.versions("views") == before
    assert place.json_files() == []


def test_other_collections_are_left_alone(place: Place) -> None:
    """A run touches the collections of its files, and nothing else of the database."""
    store = Store(EmbeddedEngine(place.backend))
    store["other"].put("k", 1)
    assert again(place, {"k": 2}, on_conflict="file").green
    assert place.documents("other") == {"k": 1}
    assert place.versions("other") == {"k": 1}
