"""Rows of other tables that refer to a moved table: nothing of them goes along unasked."""

from __future__ import annotations

import json
from typing import Any

import apsw
import psycopg
import pytest

from standfast.errors import MigrationError
from standfast.migrate.rollback import rollback
from support.databases import needs_triggers
from support.moving import Place

OTHER = "CREATE TABLE scores (id INTEGER PRIMARY KEY, guild TEXT REFERENCES guilds (key) ON DELETE"


def sql(place: Place, *statements: str) -> list[Any]:
    """Run statements as another program does, with foreign keys in force; the last one's rows."""
    rows: list[Any] = []
    if place.postgres_url:
        with psycopg.connect(place.postgres_url) as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows
    with apsw.Connection(str(place.data_dir / "fallback.db")) as conn:
        conn.execute("PRAGMA foreign_keys = ON")
        for statement in statements:
            rows = list(conn.execute(statement))
    return rows


def scores(place: Place) -> list[Any]:
    return sql(place, "SELECT id, guild FROM scores ORDER BY id")


def referred(place: Place, action: str) -> str:
    """A run whose rows a table of the application refers to."""
    files = {"1": {"a": 1}, "2": {"b": 2}}
    run = place.moved(place.write("guilds.json", files)).run
    assert run is not None
    sql(place, f"{OTHER} {action})", "INSERT INTO scores VALUES (7, '1'), (8, '1'), (9, NULL)")
    return run


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT", "NO ACTION"])
def test_a_rollback_names_the_rows_that_would_go_along(place: Place, action: str) -> None:
    """A foreign key that refers to a row which would be deleted stops the rollback by name,
    before anything is changed, and the run stays as it was."""
    run = referred(place, action)
    before = place.snapshot()
    with pytest.raises(MigrationError) as caught:
        rollback(place.backend, place.data_dir, run)
    assert caught.value.code == "referenced"
    assert "2 row(s) of" in caught.value.message
    assert "scores" in caught.value.message
    assert action in caught.value.message
    assert place.snapshot() == before
    assert len(scores(place)) == 3


@needs_triggers
def test_discarding_newer_archives_them_first(place: Place) -> None:
    """--discard-newer keeps the referring rows in the run's directory, then the key acts."""
    run = referred(place, "CASCADE")
    result = rollback(place.backend, place.data_dir, run, discard_newer=True)
    (kept,) = [path for path in result.archived if "referring-rows" in path]
    with open(kept, encoding="utf-8") as file:
        (reference,) = json.load(file)["guilds"]
    assert [json.loads(row)["id"] for row in reference["rows"]] == [7, 8]
    assert scores(place) == [(9, None)]
    assert place.documents("guilds") == {}


def test_what_a_foreign_key_forbids_stays_forbidden(place: Place) -> None:
    """RESTRICT stops --discard-newer too, and nothing is half rolled back: the run is as it was."""
    run = referred(place, "RESTRICT")
    before = place.snapshot()
    with pytest.raises(MigrationError) as caught:
        rollback(place.backend, place.data_dir, run, discard_newer=True)
    assert caught.value.code == "referenced"
    assert place.snapshot() == before
    sql(place, "DELETE FROM scores")
    rollback(place.backend, place.data_dir, run)
    assert place.documents("guilds") == {}


@needs_triggers
def test_references_are_followed_through_cascades(place: Place) -> None:
    """What refers to a row that would be deleted along is named and archived, too."""
    run = referred(place, "CASCADE")
    sql(
        place,
        "CREATE TABLE medals (id INTEGER PRIMARY KEY, score INTEGER REFERENCES scores (id)"
        " ON DELETE CASCADE)",
        "INSERT INTO medals VALUES (1, 7), (2, 9)",
    )
    with pytest.raises(MigrationError, match="medals"):
        rollback(place.backend, place.data_dir, run)
    rollback(place.backend, place.data_dir, run, discard_newer=True)
    assert sql(place, "SELECT id FROM medals") == [(2,)]


def test_rows_that_only_change_do_not_disturb_what_refers_to_them(place: Place) -> None:
    """A rollback that puts an old value back deletes no row, so that nothing goes along."""
    place.moved(place.write("guilds.json", {"1": {"a": 1}}))
    sql(place, f"{OTHER} CASCADE)", "INSERT INTO scores VALUES (7, '1')")
    run = place.moved(place.write("guilds.json", {"1": {"a": 2}})).run
    assert run is not None
    rollback(place.backend, place.data_dir, run)
    assert place.documents("guilds") == {"1": {"a": 1}}
    assert scores(place) == [(7, "1")]


def test_a_row_that_is_split_and_referred_to_is_refused_in_the_plan(place: Place) -> None:
    """The split deletes the row `default`: what refers to it stops the plan already."""
    place.moved(place.write("guilds.json", {"default": {"1": {}, "2": {}}}))
    sql(place, f"{OTHER} CASCADE)", "INSERT INTO scores VALUES (7, 'default')")
    path = place.write("guilds.json", {"3": {}})
    with pytest.raises(MigrationError, match="scores"):
        place.plan(path, split_default=True)
    assert scores(place) == [(7, "default")]


def test_a_reference_that_comes_after_the_look_stops_the_load(place: Place) -> None:
    """Rows are looked for once more, under lock, by the load itself."""
    run = referred(place, "CASCADE")
    blind = type(
        "Blind",
        (),
        {"references": lambda *_: [], "__getattr__": lambda _, name: getattr(place.backend, name)},
    )()
    with pytest.raises(MigrationError) as caught:
        rollback(blind, place.data_dir, run)
    assert caught.value.code == "referenced"
    assert len(scores(place)) == 3
    sql(place, "DELETE FROM scores")
    assert rollback(place.backend, place.data_dir, run).rows == 2
