"""Whose data is it: a base counts only from the same file, in a database that knows the run."""

from __future__ import annotations

import errno
from typing import Any

import apsw
import psycopg
import pytest

from standfast.api.sync import Collection, Store
from standfast.engine.embedded import EmbeddedEngine
from standfast.errors import ConfigError
from standfast.migrate.rollback import rollback
from support.moving import Place


def stored(place: Place, name: str) -> Collection:
    """A collection as the application writes it."""
    return Store(EmbeddedEngine(place.backend))[name]


def notes(place: Place, *paths: Any, **options: Any) -> str:
    """The notes of a plan."""
    plan = place.plan(*paths, **options)
    return " ".join(note for each in plan.collections for note in each.notes)


def lose_rows(place: Place, name: str) -> None:
    """Remove all rows as nothing of ours would: no deletion is recorded."""
    if place.postgres_url:
        with psycopg.connect(place.postgres_url, autocommit=True) as conn:
            conn.execute(psycopg.sql.SQL("TRUNCATE {}").format(psycopg.sql.Identifier(name)))
        return
    with apsw.Connection(str(place.data_dir / "fallback.db")) as conn:
        conn.execute(f"DELETE FROM {name}")
        conn.execute("DELETE FROM _standfast_tombstones")


def test_another_file_of_the_same_name_has_no_base(place: Place) -> None:
    """A file that was never moved does not inherit the history of one that has its stem."""
    place.moved(place.write("a/settings.json", {"g": {"n": 1}, "same": 1}))
    path = place.write("b/settings.json", {"g": {"n": 2}, "same": 1})
    before = place.stored()
    result = place.migrate(path)
    assert result.run is None
    assert result.plan.open_conflicts == 1
    assert "filled from" in result.plan.collections[0].notes[0]
    assert str(place.root / "a" / "settings.json") in result.plan.collections[0].notes[0]
    assert place.stored() == before
    assert path.exists()


def test_a_deletion_of_another_files_document_drops_nothing(place: Place) -> None:
    """What was deleted of one file is not held against another file's document of that key."""
    place.moved(place.write("a/settings.json", {"g": {"n": 1}, "h": 1}))
    stored(place, "settings").delete("g")
    place.moved(place.write("b/settings.json", {"g": {"n": 1}}), collection="settings")
    assert place.documents("settings")["g"] == {"n": 1}


def test_each_file_keeps_its_own_base(place: Place) -> None:
    """Two files that fill one collection, in turn: each is compared with what it brought itself."""
    place.moved(place.write("a/s.json", {"a": {"n": 1}}))
    place.moved(place.write("b/s.json", {"b": {"n": 1}}), collection="s")
    place.moved(place.write("a/s.json", {"a": {"n": 2}}))
    place.moved(place.write("b/s.json", {"b": {"n": 2}}))
    assert place.documents("s") == {"a": {"n": 2}, "b": {"n": 2}}


@pytest.mark.parametrize("policy", ["fail", "file"])
def test_rows_that_vanished_come_back(place: Place, policy: str) -> None:
    """Absent without a recorded deletion is lost, not deleted: the file brings it again."""
    files: dict[str, Any] = {"1": {"a": 1}, "2": {"b": 2}}
    place.moved(place.write("v.json", files))
    lose_rows(place, "v")
    path = place.write("v.json", files)
    if policy == "fail":
        assert "without a deletion on record" in notes(place, path)
    place.moved(path, on_conflict=policy)
    assert place.documents("v") == files


def test_what_was_deleted_comes_back_only_when_asked(place: Place) -> None:
    """A recorded deletion stays, unless --on-conflict file asks for the file's document."""
    files = {"1": {"a": 1}, "2": {"b": 2}}
    place.moved(place.write("v.json", files))
    stored(place, "v").delete("1")
    place.moved(place.write("v.json", files))
    assert place.documents("v") == {"2": {"b": 2}}
    place.moved(place.write("v.json", files), on_conflict="file")
    assert place.documents("v") == files


@pytest.mark.parametrize("policy", ["fail", "database", "newest"])
def test_a_run_that_would_keep_nothing_does_not_move_the_file(place: Place, policy: str) -> None:
    """Nothing of the file would be stored: that is a question, and the file stays."""
    files = {"1": {"a": 1}}
    place.moved(place.write("v.json", files))
    stored(place, "v").delete("1")
    path = place.write("v.json", files)
    result = place.migrate(path, on_conflict=policy)
    assert result.run is None
    assert not result.green
    assert path.exists()


def test_a_database_that_never_saw_the_run_has_no_base(embedded: Place) -> None:
    """Restored from before the run: everything is new again, and nothing counts as deleted."""
    embedded.moved(embedded.write("other.json", {"x": 1}))
    embedded.close()
    database = embedded.data_dir / "fallback.db"
    before = database.read_bytes()
    files = {"1": {"a": 1}}
    later = Place(embedded.root, None)
    later.moved(later.write("v.json", files))
    later.close()
    database.write_bytes(before)
    again = Place(embedded.root, None)
    again.moved(again.write("v.json", files))
    assert again.documents("v") == files
    again.close()


# ---- the older layout, and rows beside it


def older(place: Place, members: dict[str, Any], **own: Any) -> None:
    """A table whose row `default` holds everything, and rows of their own beside it."""
    stored(place, "w").put_many({"default": members, **own})


def test_a_member_with_a_row_of_its_own_is_a_conflict(place: Place) -> None:
    """A member of the row that is split and a row of its key differ: nothing is dropped."""
    older(place, {"1": {"m": 1}, "2": {"m": 2}}, **{"1": {"own": 1}})
    path = place.write("w.json", {"3": {}})
    before = place.stored()
    result = place.migrate(path, split_default=True)
    assert result.run is None
    assert [each.key for each in result.plan.collections[0].open_conflicts] == ["1"]
    assert place.stored() == before
    place.moved(path, split_default=True, on_conflict="database")
    assert place.documents("w") == {"1": {"own": 1}, "2": {"m": 2}, "3": {}}


def test_the_split_row_can_win(place: Place) -> None:
    """--on-conflict file takes the member, which was a file once; the file itself comes first."""
    older(place, {"1": {"m": 1}, "2": {"m": 2}}, **{"1": {"own": 1}, "2": {"own": 2}})
    path = place.write("w.json", {"2": {"file": 2}})
    run = place.moved(path, split_default=True, on_conflict="file").run
    assert place.documents("w") == {"1": {"m": 1}, "2": {"file": 2}}
    assert run is not None


def test_a_member_called_default_is_split_too(place: Place) -> None:
    """The row `default` becomes the member of that name."""
    older(place, {"default": {"d": 1}, "2": {"m": 2}})
    place.moved(place.write("w.json", {"3": {}}), split_default=True)
    assert place.documents("w") == {"default": {"d": 1}, "2": {"m": 2}, "3": {}}


def test_a_run_whose_originals_cannot_be_moved_is_finished_with_keep_files(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is stored and the files cannot be moved: --keep-files ends the run."""
    path = place.write("v.json", {"1": {"a": 1}})
    with monkeypatch.context() as patched:

        def refused(*_: object) -> str:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

        patched.setattr("standfast.migrate.runner.take_away", refused)
        for _ in range(2):
            with pytest.raises(ConfigError) as caught:
                place.migrate(path)
            assert "--keep-files" in caught.value.hint
        result = place.migrate(path, keep_files=True)
    assert len(result.resumed) == 1
    assert path.exists()
    place.moved(place.write("other.json", {}))
    rollback(place.backend, place.data_dir, result.resumed[0])
    assert place.documents("v") == {}
    assert path.exists()
