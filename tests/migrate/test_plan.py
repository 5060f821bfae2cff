"""The plan: what is new, equal, different, only in the database; and nothing written anywhere."""

from __future__ import annotations

import os
from typing import Any

import pytest

from standfast.errors import ConfigError
from standfast.migrate.compare import CollectionPlan
from support.moving import Place, catalog, tree

CANARY = "c4n4ry-7391"


def plan_of(place: Place, name: str, content: Any, **options: Any) -> CollectionPlan:
    plan = place.plan(place.write(name, content), **options)
    assert plan.problems == []
    (collection,) = plan.collections
    return collection


def put(place: Place, documents: dict[str, Any]) -> None:
    """Rows that the application wrote: no earlier run knows them."""
    from standfast.api.sync import Store
    from standfast.engine.embedded import EmbeddedEngine

    Store(EmbeddedEngine(place.backend))["views"].put_many(documents)


def test_a_plan_counts_every_document_once(place: Place) -> None:
    """New, equal, different and only in the database add up to what both sides hold."""
    put(place, {"equal": {"a": 1}, "differs": {"a": 1}, "alone": [], "alone 2": None})
    content = {"equal": {"a": 1}, "differs": {"a": 2}, "new": {}, "new 2": 1, "new 3": 2}
    found = plan_of(place, "views.json", content)
    assert [key for key, _ in found.inserts] == ["new", "new 2", "new 3"]
    assert found.equal == ["equal"]
    assert [each.key for each in found.different] == ["differs"]
    assert [each.key for each in found.open_conflicts] == ["differs"]
    assert found.only_database == 2
    assert found.writes == 3


@pytest.mark.parametrize(
    ("file", "database", "equal"),
    [
        ({"a": 1, "b": {"c": [1], "d": None}}, {"b": {"d": None, "c": [1]}, "a": 1}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 0.0}, {"a": -0.0}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": "é"}, {"a": "e\u0301"}, False),
        ({"a": 2**64}, {"a": 2**64 + 1}, False),
        ({"a": None}, {}, False),
        (0, -0.0, False),
    ],
)
def test_equal_means_the_same_value(place: Place, file: Any, database: Any, equal: bool) -> None:
    """The order of members makes no difference; a type, a sign or a bit does."""
    put(place, {"key": database})
    found = plan_of(place, "views.json", {"key": file})
    assert (found.equal == ["key"]) is equal
    assert (len(found.different) == 1) is not equal


def test_spelling_makes_no_difference(place: Place) -> None:
    """Escapes, white space and the spelling of a number do not make a document different."""
    put(place, {"key": {"n": 100.0, "s": "é/"}})
    text = '{"key": {"s": "\\u00e9\\/", \n "n": 1.0e2}}'
    assert plan_of(place, "views.json", text).equal == ["key"]


def test_differences_tell_keys_and_places_never_values(place: Place) -> None:
    """A diff says which document, where and how; no value of either side."""
    put(place, {"k": {"same": CANARY, "x": {"y": CANARY + "1", "gone": CANARY}, "list": [CANARY]}})
    content = {"k": {"same": CANARY, "x": {"y": CANARY, "more": CANARY}, "list": []}}
    (different,) = plan_of(place, "views.json", content).different
    assert different.paths == (
        *("changed $.x.y", "removed $.x.gone", "added $.x.more", "changed $.list"),
    )
    assert different.decision == "open"
    assert CANARY not in repr(different)


def test_a_difference_shows_five_places_at_the_most(place: Place) -> None:
    """A document that differs everywhere is told in one line."""
    put(place, {"k": {str(n): n for n in range(9)}})
    (different,) = plan_of(place, "views.json", {"k": {}}).different
    assert len(different.paths) == 6
    assert different.paths[-1] == "..."


@pytest.mark.parametrize("on_conflict", ["fail", "file", "database", "newest"])
def test_a_plan_writes_nothing_at_all(untouched: Place, on_conflict: str) -> None:
    """Planning leaves no file, no directory, no schema and no table behind."""
    paths = [
        untouched.write("views.json", {"a": 1}),
        untouched.write("bad.json", "{"),
        untouched.root,
    ]
    before = tree(untouched.root), sorted(os.listdir(untouched.root))
    database = catalog(untouched.postgres_url) if untouched.postgres_url else None
    untouched.plan(*paths, on_conflict=on_conflict)
    assert not untouched.data_dir.exists()
    assert (tree(untouched.root), sorted(os.listdir(untouched.root))) == before
    if untouched.postgres_url:
        assert catalog(untouched.postgres_url) == database
        assert not any(schema == ("standfast",) for schema in catalog(untouched.postgres_url)[0])


def test_a_plan_over_existing_rows_writes_nothing(place: Place) -> None:
    """Planning against an existing collection changes no row, no version, no file."""
    place.moved(place.write("views.json", {"a": {"x": 1}, "b": {"x": 1}}), keep_files=True)
    put(place, {"b": {"x": 3}})
    path = place.write("views.json", {"a": {"x": 2}, "b": {"x": 4}, "c": {}})
    before = place.snapshot()
    for on_conflict in ("fail", "file", "database", "newest"):
        place.plan(path, on_conflict=on_conflict)
    assert place.snapshot() == before


def test_an_expired_row_is_no_document(place: Place) -> None:
    """A row whose time has passed does not stand in the way of the file's document."""
    from standfast.api.sync import Store
    from standfast.engine.embedded import EmbeddedEngine

    views = Store(EmbeddedEngine(place.backend))["views"]
    views.put("a", {"old": True}, ttl_s=0.000001)
    assert views.get("a") is None
    found = plan_of(place, "views.json", {"a": {"x": 1}})
    assert [key for key, _ in found.inserts] == ["a"]
    place.moved(place.root / "views.json")
    assert place.documents("views") == {"a": {"x": 1}}


def test_a_table_that_cannot_be_adopted_stops_the_plan(pg_database: str, tmp_path: Any) -> None:
    """A foreign table under the collection's name is refused by name before anything is written."""
    import psycopg

    with psycopg.connect(pg_database) as conn:
        conn.execute("CREATE TABLE views (a int, b int, data jsonb, PRIMARY KEY (a, b))")
        conn.execute("CREATE TABLE waitlist (id text PRIMARY KEY, data bytea)")
        conn.execute("CREATE VIEW seen AS SELECT 1 AS key, '{}'::jsonb AS data")
    place = Place(tmp_path, pg_database)
    for name in ("views", "waitlist", "seen"):
        path = place.write(f"{name}.json", {"1": {}})
        before = place.snapshot()
        with pytest.raises(ConfigError, match=name) as caught:
            place.migrate(path)
        assert caught.value.code == "not_adoptable"
        assert "--collection" in caught.value.hint
        assert place.snapshot() == before
    place.close()
