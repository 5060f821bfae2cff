"""Dropping a collection, over every backend: what goes, what is remembered, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

import standfast
from standfast import ConfigError, ConflictError
from standfast.api.sync import Store
from standfast.backends.base import Backend, Change, Load
from standfast.engine.embedded import EmbeddedEngine
from support.outage import Outage

Make = Callable[[], Backend]


@pytest.fixture
def is_app(request: pytest.FixtureRequest) -> bool:
    """Whether the role may not drop: it owns neither tables nor bookkeeping."""
    return request.node.callspec.params["make_backend"] == "postgresql-app"


def test_a_collection_goes_whole(store: Store, is_app: bool) -> None:
    """It is not there any more, nor is anything in it; a second call says that there was none."""
    store["c"].put_many({"a": 1, "b": {"n": 2}})
    store["c"].delete("a")
    if is_app:
        with pytest.raises(ConfigError) as caught:
            store.drop("c")
        assert caught.value.code == "no_rights"
        assert "clear()" in caught.value.hint
        assert dict(store["c"].items()) == {"b": {"n": 2}}
        assert store.drop("never") is False
        return
    assert store.drop("c") is True
    assert "c" not in store.collections()
    assert store["c"].get("b") is None
    assert store["c"].count() == 0
    assert list(store["c"].find({})) == []
    assert store.drop("c") is False
    assert store.drop("never") is False
    with pytest.raises(ConfigError) as caught:
        store.drop("no name")
    assert caught.value.code == "bad_collection"


def test_versions_never_fall(make_backend: Make, is_app: bool) -> None:
    """R17: a key that is made again under the name has a higher version than it ever had; so a
    condition on a version of the old collection holds for nothing in the new one."""
    if is_app:
        return
    with Store(EmbeddedEngine(make_backend())) as store:
        c = store["c"]
        for number in range(5):
            c.put("a", number)
        c.put("late", 1)
        c.put("gone", 1)
        for _ in range(7):
            last = c.put("gone", 1).version
        c.delete("gone")
        assert last == 8
        store.drop("c")
        assert c.put("a", "new").version == 10
        with pytest.raises(ConflictError):
            c.put("a", 1, if_version=5)
        c.delete("a")
        assert c.put_if_absent("a", 1)
        assert store["c"].increment("n", "") == 1
        versions = {document.key: document.version for document in c.find(1)}
        assert min(versions.values()) > 9
        store.drop("c")
        assert (c.put("late", 1).version or 0) > max(versions.values())


def test_versions_rise_by_what_was_written(make_backend: Make, is_app: bool) -> None:
    """R17, I7: a collection can be dropped and made anew as often as one likes: each drop adds no
    more than the writes before it.  A made-up version does not use up those of all collections."""
    if is_app:
        return
    with Store(EmbeddedEngine(make_backend())) as store:
        versions: list[int] = []
        for _ in range(4):
            versions += [store["c"].put(key, 1).version or 0 for key in "aba"]
            store["c"].delete("b")
            store.drop("c")
        assert versions == [1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8]


def test_a_version_that_was_made_up(make_backend: Make, request: pytest.FixtureRequest) -> None:
    """I7: the version of one row does not use up those of all collections when that is dropped."""
    place = request.node.callspec.params["make_backend"]
    if place not in ("postgresql", "sqlite"):
        return
    backend: Any = make_backend()
    with Store(EmbeddedEngine(backend)) as store:
        store["c"].put("k", 1)
        if place == "sqlite":
            with backend.writing("made up") as conn:
                conn.execute("UPDATE c SET version = ?", ((1 << 63) - 2,))
        else:
            with backend.connection("made up") as conn:
                conn.execute(f"UPDATE public.c SET version = {(1 << 63) - 2}")
        store.drop("c")
        assert store["d"].put("k", 1).version == (1 << 62) + 1
        assert store["c"].put("k", 1).version == (1 << 62) + 1


def test_others_have_the_new_collection(make_backend: Make, is_app: bool) -> None:
    """A process that had it open reads that it is empty, and makes it anew by its next write."""
    if is_app:
        return
    with Store(EmbeddedEngine(make_backend())) as store, Store(EmbeddedEngine(make_backend())) as b:
        for one in (store, b):
            one["c"].put("k", 1)
            assert one["c"].get("k") == 1
            assert list(one["c"].keys()) == ["k"]
        store.drop("c")
        assert b["c"].get("k") is None
        store["c"].put("k", 2)
        store.drop("c")
        assert list(b["c"].items()) == []
        store["c"].put("k", 3)
        store.drop("c")
        assert b["c"].count() == 0
        store["c"].put("k", 4)
        store.drop("c")
        assert (b["c"].put("k", 5).version or 0) > 4
        assert store["c"].get("k") == 5
        store.drop("c")
        assert b["c"].increment("n", "") == 1
        store.drop("c")
        with b.batch() as batch:
            batch.put("c", "1", 1)
            batch.put("d", "2", 2)
        assert dict(store["c"].items()) == {"1": 1}


def test_only_the_named_incarnation_goes(make_backend: Make, is_app: bool) -> None:
    """I2: a drop that is sent twice, since its reply was lost, leaves what was made in between."""
    if is_app:
        return
    backend = make_backend()
    with Store(EmbeddedEngine(backend)) as store:
        store["c"].put("k", 1)
        first = backend.incarnation("c")
        assert first is not None
        assert backend.drop("c", first) is not None
        assert backend.drop("c", first) is None
        store["c"].put("k", 2)
        assert backend.drop("c", first) is None
        assert store["c"].get("k") == 2
        with pytest.raises(ConflictError) as caught:
            backend.drop("c", backend.incarnation("c") or "", if_empty=True)
        assert caught.value.code == "not_empty"


def test_a_renamed_collection_leaves_nothing(store: Store, is_app: bool) -> None:
    """`rename` drops the old collection, where that is allowed."""
    store["old"].put("k", 1)
    assert store.rename("old", "new") == 1
    assert store.collections() == (["new", "old"] if is_app else ["new"])
    assert (dict(store["old"].items()), dict(store["new"].items())) == ({}, {"k": 1})


def test_runs_do_not_outlive_it(make_backend: Make, is_app: bool) -> None:
    """F6: what filled the old collection says nothing of the one that is made later."""
    if is_app:
        return
    backend = make_backend()
    backend.load("r1", "loaded", [Load("c", None, [("k", "1")], source="a.json")])
    with Store(EmbeddedEngine(backend)) as store:
        assert backend.moved() == [("r1", "c", "a.json")]
        store.drop("c")
        assert backend.moved() == []
        store["c"].put("j", 1)
        assert backend.moved() == []
        assert backend.buried("c") == set()
        backend.load("r2", "loaded", [Load("c", None, [("k", "2")], source="b.json")])
        assert backend.moved() == [("r2", "c", "b.json")]
        version = backend.read("c", ["k"])["k"].version
        assert version > 1
        backend.load("r3", "loaded", [Load("c", None, changes=[Change("k", version)])])


# ---- PostgreSQL


@pytest.fixture
def pg(pg_prepared: str, tmp_path: Path) -> Outage:
    return Outage(pg_prepared, tmp_path)


def test_what_refers_to_its_table_is_named(pg: Outage) -> None:
    """A view or a foreign key on the table keeps it, and is named; nothing was changed."""
    with pg.store() as store:
        store["c"].put("k", 1)
        for make, gone in (
            ("CREATE VIEW v AS SELECT data FROM c", "DROP VIEW v"),
            ("CREATE TABLE child (of text REFERENCES c)", "DROP TABLE child"),
        ):
            pg.execute(make)
            with pytest.raises(ConfigError) as caught:
                store.drop("c")
            assert caught.value.code == "referenced"
            assert gone.split()[-1] in caught.value.message
            assert store["c"].get("k") == 1
            pg.execute(gone)
        assert store.drop("c")


def test_a_table_of_another_program_stays(pg: Outage, tmp_path: Path) -> None:
    """An adopted table is not ours to drop; one that its owner has dropped can be forgotten."""
    pg.execute("CREATE TABLE theirs (key text PRIMARY KEY, data jsonb, extra int)")
    path = tmp_path / "old.db"
    apsw.Connection(str(path)).execute(
        "CREATE TABLE theirs (key TEXT PRIMARY KEY, data TEXT, updated_at TEXT)"
    )
    with pg.store() as store, standfast.open(f"sqlite:///{path}", data_dir=tmp_path / "e") as other:
        for one in (store, other):
            one["theirs"].put("k", 1)
            with pytest.raises(ConfigError) as caught:
                one.drop("theirs")
            assert caught.value.code == "adopted"
            assert one["theirs"].get("k") == 1
        pg.execute("DROP TABLE theirs")
        with pytest.raises(ConfigError) as caught:
            store["theirs"].get("k")
        assert caught.value.code == "no_table"
        assert store.drop("theirs")
        assert (store["theirs"].put("k", 2).version or 0) > 2**32


def test_a_table_that_was_renamed_is_named(pg: Outage) -> None:
    """Its documents are there, under another name: the drop is refused, and names it."""
    with pg.store() as store:
        store["c"].put("k", 1)
        pg.execute("ALTER TABLE c RENAME TO kept")
        with pytest.raises(ConfigError) as caught:
            store.drop("c")
        assert "kept" in caught.value.message
        pg.execute("ALTER TABLE kept RENAME TO c")
        assert store.drop("c")


def test_a_locked_table_is_dropped_when_it_is_free(pg: Outage) -> None:
    """A drop waits for those who use the table, but not for ever, and then says so."""
    with pg.store() as store:
        store["c"].put("k", 1)
        with psycopg.connect(pg.url) as conn:
            conn.execute("SELECT * FROM c")
            with pytest.raises(standfast.Unavailable) as caught:
                store.drop("c")
            assert caught.value.code == "locked"
        assert store["c"].get("k") == 1
        assert store.drop("c")


def test_a_foreign_key_in_a_file(tmp_path: Path) -> None:
    """The same for a SQLite file, which other programs may use."""
    with standfast.open(f"sqlite:///{tmp_path}/x.db", data_dir=tmp_path) as store:
        store["c"].put("k", 1)
        apsw.Connection(str(tmp_path / "x.db")).execute(
            "CREATE TABLE child (of TEXT REFERENCES c ON DELETE CASCADE)"
        )
        with pytest.raises(ConfigError) as caught:
            store.drop("c")
        assert "`child`" in caught.value.message
        assert store["c"].get("k") == 1


def test_files_remember_nothing(pg: Outage) -> None:
    """After a drop nothing of it is stored: no row of the bookkeeping names the collection."""
    with pg.store() as store:
        store["gone_c"].put("k", 1)
        store["gone_c"].delete("k")
        store.create_index("gone_c")
        store.drop("gone_c")
    with psycopg.connect(pg.url) as conn:
        for table in ("collections", "tombstones"):
            found: Any = conn.execute(f"SELECT to_jsonb(t)::text FROM standfast.{table} t")  # type: ignore[arg-type]
            assert not [row for (row,) in found if "gone_c" in row]
        assert conn.execute("SELECT to_regclass('gone_c')").fetchone() == (None,)
