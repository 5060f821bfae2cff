"""Snapshots: plain JSON of whole collections, read when nothing else can be, and never too old."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from standfast import Unavailable
from standfast.engine import replicated
from standfast.engine.replicated import ReplicatedEngine
from standfast.engine.snapshot import Snapshots
from standfast.ops.types import Row
from support.faulty import Link, Open, Server, eventually, wait_direct


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are looked after more often than in use."""
    monkeypatch.setattr(replicated, "SNAPSHOT_PAUSE_S", 0.05)


def without_mirror(engine: ReplicatedEngine) -> None:
    """The mirror's file is damaged, and nothing can be made in its place."""
    mirror = engine.local_state.mirror
    mirror._retry_at = float("inf")
    file, mirror._file = mirror._file, None
    assert file is not None
    file.close()


def taken(engine: ReplicatedEngine, collection: str = "c") -> Path:
    snapshots = engine.local_state.snapshots
    eventually(lambda: snapshots.is_current(collection))
    return snapshots.path(collection)


def test_it_is_read_when_neither_database_can_be(memory: Server, open_it: Open) -> None:
    """D5: a read says its source and its age; a key that it has not is not told as missing; and
    writes of the outage are applied over it."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", {"n": 1})
    assert dict(store["c"].items()) == {"k": {"n": 1}}
    path = taken(engine)
    assert json.loads(path.read_text(encoding="utf-8")) == {"k": {"n": 1}}
    link.down = True
    without_mirror(engine)
    eventually(lambda: store.health().state == "journaling" or store["x"].put("y", 1))
    document = store["c"].read("k")
    assert document is not None
    assert (document.value, document.source, document.version) == ({"n": 1}, "snapshot", 1)
    assert document.age_s > 0
    with pytest.raises(Unavailable) as caught:
        store["c"].get("none")
    assert caught.value.code == "not_mirrored"
    store["c"].increment("k", "/n", 1)
    assert store["c"].get("k") == {"n": 2}


def test_it_is_listed_counted_and_searched(
    memory: Server, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5, R24: a collection is read whole from its snapshot, in both directions and page by page,
    with the writes of the outage over it; documents say their source and age; what has expired is
    gone; and a collection without one is not said to be empty."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    keys = [f"k{number:04}" for number in range(1100)] + ["z\u00fc", "\U0001f600"]
    store["c"].put_many({key: {"n": key[-1]} for key in keys})
    store["c"].put("soon", {"n": "0"}, ttl_s=3600)
    assert len(dict(store["c"].items())) == len(keys) + 1
    taken(engine)
    link.down = True
    without_mirror(engine)
    eventually(lambda: store.health().state == "journaling" or store["x"].put("y", 1))
    assert store["c"].count() == len(keys) + 1
    later_us = engine.local_state.server_now_us() + 2 * 3_600_000_000
    monkeypatch.setattr(engine.local_state, "server_now_us", lambda: later_us)
    assert list(store["c"].keys()) == keys
    assert list(store["c"].keys(reverse=True)) == keys[::-1]
    assert list(store["c"].keys(prefix="k00")) == keys[:100]
    found = list(store["c"].find({"n": "7"}))
    assert [one.key for one in found] == [key for key in keys if key[-1] == "7"]
    assert all(one.source == "snapshot" and one.age_s > 0 for one in found)
    assert store["c"].count() == len(keys)
    store["c"].delete("k0000")
    store["c"].put("k00005", 1)
    store["c"].increment("new", "/n", 2)
    assert store["c"].count() == len(keys) + 1
    assert list(store["c"].keys())[:2] == ["k00005", "k0001"]
    with pytest.raises(Unavailable) as caught:
        store["other"].count()
    assert caught.value.code == "not_mirrored"
    monkeypatch.undo()
    link.down = False
    wait_direct(engine)
    assert store["c"].count() == len(keys) + 2  # with `soon`, by the clock of the primary
    link.down = True
    eventually(lambda: store.health().state == "journaling" or store["x"].put("y", 2))
    with pytest.raises(Unavailable) as caught:
        store["c"].count()  # the writes of the outage have made it old
    assert caught.value.code == "not_mirrored"


def test_what_was_written_after_it_is_never_hidden_by_it(memory: Server, open_it: Open) -> None:
    """D5, I12: after an acknowledged write the snapshot of its collection is not read any more;
    it is written again when things are quiet."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 1)
    store["d"].put("k", 1)
    for name in ("c", "d"):
        assert dict(store[name].items()) == {"k": 1}
        path = taken(engine, name)
    snapshots = engine.local_state.snapshots
    store["c"].put("k", 2)
    assert path.exists()
    history = engine.local_state.history
    assert history is not None
    assert snapshots.row("c", "k", history=history.mark) is None
    assert snapshots.row("d", "k", history=history.mark) is not None
    path = taken(engine)
    assert json.loads(path.read_text(encoding="utf-8")) == {"k": 2}
    assert snapshots.row("d", "k", history="another") is None


def test_a_write_while_it_is_taken_spoils_it(tmp_path: Path) -> None:
    """D5, I12: what changes while a collection is read leaves no snapshot that is taken for new."""
    snapshots = Snapshots(tmp_path)

    def rows() -> list[object]:
        snapshots.spoil(["c"])
        return []

    snapshots.write("c", rows, history="h", seen_us=1, watermarks={})  # type: ignore[arg-type]
    assert snapshots.path("c").exists()
    assert not snapshots.is_current("c")
    snapshots.write("c", list, history="h", seen_us=1, watermarks={})
    assert snapshots.is_current("c")
    snapshots.spoil_all()
    assert not snapshots.is_current("c")


def test_a_snapshot_that_was_changed_or_cut_is_not_read(memory: Server, open_it: Open) -> None:
    """D5: a file that is not the one that was written, or a note that was cut, is no knowledge."""
    store, engine = open_it(Link(memory))
    wait_direct(engine)
    store["c"].put("k", 1)
    assert list(store["c"].items())
    path = taken(engine)
    history, snapshots = engine.local_state.history, engine.local_state.snapshots
    assert history is not None
    whole, note = path.read_bytes(), snapshots._note("c").read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert Snapshots(path.parent.parent).row("c", "k", history=history.mark) is None
    path.write_bytes(whole)
    for cut in range(len(note)):
        snapshots._note("c").write_bytes(note[:cut])
        assert Snapshots(path.parent.parent).row("c", "k", history=history.mark) is None
    snapshots._note("c").write_bytes(note)
    assert Snapshots(path.parent.parent).row("c", "k", history=history.mark) is not None


def test_large_collections_get_none(memory: Server, open_it: Open) -> None:
    """I7: a collection above the limit has no snapshot, the others have."""
    store, engine = open_it(Link(memory), max_snapshot_bytes=1000)
    wait_direct(engine)
    store["large"].put("k", "x" * 2000)
    store["small"].put("k", 1)
    for name in ("large", "small"):
        assert list(store[name].items())
    taken(engine, "small")
    assert not engine.local_state.snapshots.path("large").exists()


def test_one_that_could_not_be_removed_is_not_read_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I12: what was written while nothing on the disk could be changed is not hidden later by a
    snapshot of before; when that can be removed again, new ones are read."""

    def write(snapshots: Snapshots, text: str) -> None:
        rows = [Row("k", text, 1, 1, 1, None)]
        snapshots.write("c", lambda: rows, history="h", seen_us=1, watermarks={})

    first = Snapshots(tmp_path)
    write(first, "1")
    assert Snapshots(tmp_path).row("c", "k", history="h") is not None

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        patch.setattr(os, "truncate", refuse)
        first.spoil(["c"])
        assert Snapshots(tmp_path).row("c", "k", history="h") is None
    again = Snapshots(tmp_path)
    assert again.row("c", "k", history="h") is None
    write(again, "2")
    assert again.row("c", "k", history="h") is not None
    assert Snapshots(tmp_path).row("c", "k", history="h") is not None
