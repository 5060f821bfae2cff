"""The mirror: the newest that the primary said, whatever the order in which it arrives."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from standfast import ConfigError, CorruptData, Unavailable
from standfast.engine import mirror as mirror_module
from standfast.engine.mirror import Mirror
from standfast.engine.sqlite_file import LocalFile
from standfast.ops.types import Observed, Op, State
from standfast.system import elsewhere
from standfast.system.locks import FileLock

LANE = "lane"


def state(version: int, *, key: str = "k", text: str | None = "") -> State:
    said = f'"{version}"' if text == "" else text
    return State("c", key, said, version, created_us=1, updated_us=version)


def op(seq: int) -> Op:
    return Op(lane=LANE, seq=seq, kind="put", collection="c", key="k", body="1")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path / "mirror.db")
    yield made
    made.close()


def retained(mirror: Mirror) -> list[int]:
    conn = apsw.Connection(str(mirror._path))
    found = conn.execute("SELECT batch FROM retained ORDER BY id")
    batches = [msgspec.msgpack.decode(blob, type=list[tuple[Op, int | None]]) for (blob,) in found]
    conn.close()
    return [kept.seq for batch in batches for kept, _ in batch]


@pytest.mark.parametrize("order", list(permutations([1, 2, 3])), ids=str)
def test_the_newest_version_wins(mirror: Mirror, order: tuple[int, ...]) -> None:
    """R5, I3: reads and confirmations that overtake each other never take a document back."""
    for version in order:
        if version == 2:
            mirror.confirm(
                Observed([state(2)], {LANE: 2}), lane=LANE, watermark=2, retained=[(op(2), 2)]
            )
        else:
            mirror.take(Observed([state(version)], {LANE: version}), seen_us=version)
    row = mirror.get("c", "k")
    assert row is not None
    assert row.state == state(3)
    assert row.watermarks == {LANE: 3}


def test_of_one_version_the_later_snapshot_wins(mirror: Mirror) -> None:
    """R8: a later look at the same version knows more of the lanes, an earlier one less."""
    mirror.take(Observed([state(1)], {LANE: 5}), seen_us=50)
    mirror.take(Observed([state(1)], {LANE: 4}), seen_us=40)
    row = mirror.get("c", "k")
    assert row is not None
    assert (row.watermarks, row.seen_us) == ({LANE: 5}, 50)
    mirror.take(Observed([state(1)], {LANE: 9, "other": 1}), seen_us=60)
    row = mirror.get("c", "k")
    assert row is not None
    assert (row.watermarks, row.seen_us) == ({LANE: 9, "other": 1}, 60)


def test_absence_is_knowledge(mirror: Mirror) -> None:
    """I4: "there is no document" is remembered, and is not the same as knowing nothing."""
    assert mirror.get("c", "k") is None
    mirror.take(Observed([state(4, text=None)]), seen_us=1)
    row = mirror.get("c", "k")
    assert row is not None
    assert (row.state.text, row.state.version) == (None, 4)
    assert mirror.get("c", "other") is None
    assert mirror.get("other", "k") is None
    assert mirror.count() == 1


def test_the_believed_watermark_never_goes_down(mirror: Mirror, tmp_path: Path) -> None:
    """R2, R6: what the primary told of a lane is remembered across processes."""
    assert mirror.expected_watermark(LANE) == 0
    for watermark in (3, 7, 5):
        mirror.confirm(Observed([]), lane=LANE, watermark=watermark, retained=[])
    assert mirror.expected_watermark(LANE) == 7
    again = Mirror(tmp_path / "mirror.db")
    assert again.expected_watermark(LANE) == 7
    again.close()
    mirror.forget_lane(LANE)
    assert mirror.expected_watermark(LANE) == 0


def test_retained_ops_are_kept_for_a_while(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10, I7: confirmed ops are kept for a bounded time, then cleared."""
    monkeypatch.setattr(mirror_module, "_CLEAR_EVERY", 2)
    mirror.confirm(Observed([]), lane=LANE, watermark=1, retained=[(op(1), 1)])
    mirror.confirm(Observed([]), lane=LANE, watermark=2, retained=[(op(2), 2)])
    assert retained(mirror) == [1, 2]
    monkeypatch.setattr(mirror_module, "RETENTION_S", -60.0)
    mirror.confirm(Observed([]), lane=LANE, watermark=3, retained=[(op(3), 3)])
    assert retained(mirror) == [1, 2, 3]
    mirror.confirm(Observed([]), lane=LANE, watermark=4, retained=[(op(4), 4)])
    assert retained(mirror) == []


def test_a_repeated_read_notices_what_another_process_has_written(mirror: Mirror) -> None:
    """A row that was compared once is compared again after any change of the file."""
    for seen_us in (1, 2, 3):
        assert mirror.take(Observed([state(5)]), seen_us=seen_us) == {}
    other = Mirror(mirror._path)
    other.take(Observed([state(6)]), seen_us=4)
    assert mirror.take(Observed([state(5)]), seen_us=5) == {"k": 6}
    other.forget("c", ["k"])
    assert mirror.take(Observed([state(5)]), seen_us=6) == {}
    found = mirror.get("c", "k")
    assert found is not None
    assert found.state.version == 5
    other.close()


@pytest.mark.parametrize("other", ['"another"', None])
def test_a_repeated_read_notices_another_text_of_the_same_version(
    mirror: Mirror, other: str | None
) -> None:
    """As a restored database may have it."""
    for seen_us in (1, 2, 3):
        mirror.take(Observed([state(5)]), seen_us=seen_us)
    mirror.take(Observed([state(5, text=other)]), seen_us=4)
    found = mirror.get("c", "k")
    assert found is not None
    assert found.state.text == other


def test_what_came_before_is_forgotten_by_its_age(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is older than the limit goes, and the order in which it came decides."""
    now_us = iter([0, 500_000_000, 700_000_000])
    monkeypatch.setattr(mirror_module, "_CLEAR_EVERY", 3)
    monkeypatch.setattr(mirror_module.clock, "now_us", lambda: next(now_us))
    for seq in (1, 2, 3):
        mirror.confirm(Observed([]), lane=LANE, watermark=seq, retained=[(op(seq), seq)])
    assert retained(mirror) == [2, 3]


def test_a_file_of_an_earlier_version_loses_its_index(mirror: Mirror) -> None:
    mirror.close()
    conn = apsw.Connection(str(mirror._path))
    conn.execute("CREATE INDEX retained_at ON retained (at_us)")
    Mirror(mirror._path).close()
    assert conn.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'retained_at'").get == 0
    conn.close()


def test_retained_ops_are_bounded(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: confirmed ops are kept up to a number of bytes; the older ones go first."""
    mirror.confirm(Observed([]), lane=LANE, watermark=1, retained=[(op(1), 1)])
    monkeypatch.setattr(mirror_module, "MAX_RETAINED_BYTES", mirror._retained_bytes * 10)
    for seq in range(2, 101):
        mirror.confirm(Observed([]), lane=LANE, watermark=seq, retained=[(op(seq), seq)])
    kept = retained(mirror)
    assert 4 <= len(kept) <= 10
    assert kept == list(range(kept[0], 101))


def test_another_history_empties_it(mirror: Mirror) -> None:
    """I9, I10: versions and watermarks mean something only within one history."""
    mirror.belongs_to("one")
    mirror.confirm(Observed([state(1)], {LANE: 1}), lane=LANE, watermark=1, retained=[(op(1), 1)])
    mirror.belongs_to("one")
    assert mirror.count() == 1
    mirror.belongs_to("two")
    assert mirror.count() == mirror.expected_watermark(LANE) == 0
    assert retained(mirror) == []


def test_rows_and_watermark_are_one_transaction(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R6, R25: rows, watermark and retained ops are written together, or the mirror is removed."""
    confirm(mirror, 1)
    broken = State("c", "x", "1", None, 1, 1)  # type: ignore[arg-type]
    mirror.confirm(
        Observed([state(2), broken], {LANE: 2}), lane=LANE, watermark=2, retained=[(op(2), 2)]
    )
    assert mirror.get("c", "k") is None
    assert mirror.expected_watermark(LANE) == 0
    assert not mirror._path.exists()
    monkeypatch.setattr(mirror, "_retry_at", 0.0)
    confirm(mirror, 3)
    assert mirror.get("c", "k").state == state(3)  # type: ignore[union-attr]


def confirm(mirror: Mirror, version: int, *, key: str = "k") -> None:
    mirror.confirm(
        Observed([state(version, key=key)], {LANE: version}),
        lane=LANE,
        watermark=version,
        retained=[(op(version), version)],
    )


def test_a_mirror_that_is_gone_is_begun_anew(mirror: Mirror) -> None:
    """I12: a removed file swallows writes without an error, so it is looked at: the news is in a
    new one."""
    confirm(mirror, 1, key="old")
    mirror._path.unlink()
    confirm(mirror, 2)
    assert mirror.get("c", "k").state == state(2)  # type: ignore[union-attr]
    assert mirror.get("c", "old") is None
    again = Mirror(mirror._path)
    assert again.get("c", "k") is not None
    again.close()


def test_two_that_use_one_file_notice_that_it_was_removed(mirror: Mirror) -> None:
    """R25: when one process removes the mirror, the others read it no longer."""
    mirror.belongs_to("history")
    other = Mirror(mirror._path)
    confirm(mirror, 1)
    assert other.get("c", "k") is not None
    mirror._drop(CorruptData("it missed something", code="file_gone"))
    assert other.get("c", "k") is None
    confirm(other, 2)
    assert retained(other) == [2]
    other.close()


@pytest.mark.parametrize("ending", ["kill", "close"])
def test_what_a_locked_file_missed_is_not_forgotten(mirror: Mirror, ending: str) -> None:
    """D4, R25, I12: news that a locked file cannot take is read from memory, written when it is
    free again, and when the process ends before, nobody reads the file any more."""
    confirm(mirror, 1)
    holder = apsw.Connection(str(mirror._path))
    holder.execute("BEGIN IMMEDIATE")
    confirm(mirror, 2)
    mirror.take(Observed([state(7, key="other")], {LANE: 2}), seen_us=5)
    assert mirror.get("c", "k").state == state(2)  # type: ignore[union-attr]
    assert mirror.get("c", "other").state == state(7, key="other")  # type: ignore[union-attr]
    assert mirror.expected_watermark(LANE) == 2
    assert mirror.complete_mark("c") is None
    if ending == "kill":
        assert mirror._mark is not None
        mirror._mark.release()  # as its end would
    else:
        mirror.close()
    holder.execute("ROLLBACK")
    holder.close()
    again = Mirror(mirror._path)
    assert again.count() == 0
    assert list(mirror._path.parent.glob("mirror.db.behind-*")) == []
    again.close()


@contextmanager
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing on the disk can be written, made or removed."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        patch.setattr(FileLock, "acquire", refuse)
        patch.setattr(LocalFile, "write", refuse_write)
        yield


def refuse_write(*_: Any, **__: Any) -> Any:
    raise ConfigError("read-only", code="read_only")


def refuse_busy(*_: Any, **__: Any) -> Any:
    raise Unavailable("another program has it", code="locked")


def test_a_disk_that_was_read_only_for_a_while(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I12, R25: what was acknowledged while the file could be neither written nor removed nor
    marked is not in it; so the next process, on a disk that is in order again, does not read it."""
    confirm(mirror, 1)
    with read_only(monkeypatch):
        confirm(mirror, 2)
        assert mirror.get("c", "k") is None
        looking = Mirror(mirror._path, only_look=True)
        assert not looking.usable
    assert elsewhere.is_marked(mirror._path)
    again = Mirror(mirror._path)
    assert again.usable
    assert again.get("c", "k") is None
    assert not elsewhere.is_marked(mirror._path)
    confirm(again, 3)
    again.close()
    once_more = Mirror(mirror._path)
    assert once_more.get("c", "k").state == state(3)  # type: ignore[union-attr]
    once_more.close()


@pytest.mark.parametrize("ending", ["stay", "kill"])
def test_what_was_missed_before_it_could_be_opened(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """I12: news that came while the file could not be opened is not in it, however well it opens
    afterwards, here or in the next process."""
    confirm(mirror, 1)
    mirror.close()
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_opened", refuse_busy)
        late = Mirror(mirror._path)
        confirm(late, 2)
    if ending == "kill":
        assert late._mark is not None
        late._mark.release()  # as its end would
        late = Mirror(mirror._path)
    monkeypatch.setattr(late, "_retry_at", 0.0)
    confirm(late, 3, key="other")
    assert late.get("c", "other") is not None
    assert late.get("c", "k") is None
    late.close()


def test_marks_elsewhere_are_this_user_s(tmp_path: Path) -> None:
    """A mark that another user has made, or that is no file, is none; and a new file has none."""
    path = tmp_path / "file"
    path.touch()
    assert not elsewhere.is_marked(path)
    assert elsewhere.mark(path)
    assert elsewhere.mark(path)
    assert elsewhere.is_marked(path)
    marks = [one for one in elsewhere.marks_of(path) if one.exists()]
    assert {one.stat().st_mode & 0o777 for one in marks} == {0o600}
    for one in marks:
        one.unlink()
        one.symlink_to(path)
    assert not elsewhere.mark(path)
    assert not elsewhere.is_marked(path)
    for one in marks:
        one.unlink()
    elsewhere.mark(path)
    marks = elsewhere.marks_of(path)
    path.unlink()
    elsewhere.forget(marks)
    assert not any(one.exists() for one in marks)


def test_a_locked_file_is_caught_up(mirror: Mirror) -> None:
    """D4: when the lock is gone, the file has everything, in order, and the mark is gone."""
    holder = apsw.Connection(str(mirror._path))
    holder.execute("BEGIN IMMEDIATE")
    for version in (1, 2):
        confirm(mirror, version)
    assert list(mirror._path.parent.glob("mirror.db.behind-*"))
    holder.execute("ROLLBACK")
    holder.close()
    mirror.catch_up()
    assert list(mirror._path.parent.glob("mirror.db.behind-*")) == []
    again = Mirror(mirror._path)
    assert again.get("c", "k").state == state(2)  # type: ignore[union-attr]
    assert retained(again) == [1, 2]
    again.close()


@pytest.mark.parametrize("limit", ["MAX_MIRROR_BEHIND", "MAX_MIRROR_BEHIND_BYTES"])
def test_what_a_locked_file_misses_is_bounded(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """I7, R25: with more than it keeps in memory, it is removed."""
    monkeypatch.setattr(mirror_module, limit, 2 if limit == "MAX_MIRROR_BEHIND" else 400)
    monkeypatch.setattr(mirror_module, "MIRROR_WAIT_S", 0.001)
    holder = apsw.Connection(str(mirror._path))
    holder.execute("BEGIN IMMEDIATE")
    for version in range(1, 6):
        confirm(mirror, version)
    assert not mirror._path.exists()
    assert list(mirror._path.parent.glob("mirror.db.behind-*")) == []
    holder.close()


def test_a_damaged_page_is_found_when_it_is_read(mirror: Mirror) -> None:
    """D3: damage in the middle of the file costs what it knew, and nothing else."""
    for number in range(200):
        mirror.take(Observed([state(1, key=f"k{number}", text=f'"{"x" * 500}"')]), seen_us=1)
    mirror.close()
    content = bytearray(mirror._path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    mirror._path.write_bytes(content)
    again = Mirror(mirror._path)
    assert [again.get("c", f"k{number}") for number in range(200)] == [None] * 200
    confirm(again, 3)
    assert again.get("c", "k").state == state(3)  # type: ignore[union-attr]
    assert len(list(mirror._path.parent.glob("mirror.db.damaged-*Z"))) == 1
    again.close()


def test_few_damaged_files_are_kept(tmp_path: Path) -> None:
    """I7: of what was set aside, the newest three are kept."""
    for _ in range(5):
        (tmp_path / "mirror.db").write_bytes(b"\x00\xff" * 8192)
        Mirror(tmp_path / "mirror.db").close()
        for path in tmp_path.glob("mirror.db*"):
            if "damaged" not in path.name:
                path.unlink()
    assert len(list(tmp_path.glob("mirror.db.damaged-*Z"))) == 3


def test_a_page_that_shows_nothing_new_is_not_written(mirror: Mirror) -> None:
    """C3, R5: of a page only what differs in text, version or expiry is written; a row that is
    known in a higher version stays, and is named; rows beside those of the page stay."""
    keys = ["a", "b", "c", "\u00e4", "\U0001f600"]
    mirror.take(Observed([state(2, key=key) for key in keys], {LANE: 1}), seen_us=100)
    page = [
        state(2, key="a"),
        state(3, key="c"),
        state(1, key="\u00e4"),
        state(2, key="\U0001f600", text="0"),
    ]
    higher = mirror.take(Observed(page, {LANE: 4}), seen_us=200, in_order=True)
    assert higher == {"\u00e4": 2}
    again = Mirror(mirror._path)
    found = {key: again.get("c", key) for key in keys}
    again.close()
    assert {key: (row.state, row.seen_us) for key, row in found.items() if row} == {
        "a": (state(2, key="a"), 100),
        "b": (state(2, key="b"), 100),
        "c": (state(3, key="c"), 200),
        "\u00e4": (state(2, key="\u00e4"), 100),
        "\U0001f600": (state(2, key="\U0001f600", text="0"), 200),
    }
    assert mirror.unseen("c", before_us=150) == ["b", "\u00e4"]


def test_a_look_that_shows_nothing_new_is_remembered(mirror: Mirror) -> None:
    """C3: nothing is written, and age and watermarks are those of the last look all the same."""
    mirror.take(Observed([state(1)], {LANE: 1}), seen_us=100)
    mirror.take(Observed([state(1)], {LANE: 4}), seen_us=200)
    row = mirror.get("c", "k")
    assert row is not None
    assert (row.seen_us, row.watermarks) == (200, {LANE: 4})
    assert mirror.unseen("c", before_us=150) == []
    assert mirror.unseen("c", before_us=250) == ["k"]
    ((page),) = mirror.page("c", prefix="", after=None, limit=5, now_us=0)
    assert page.seen_us == 200
    again = Mirror(mirror._path)
    assert again.get("c", "k").seen_us == 100  # type: ignore[union-attr]
    again.close()
    minute_us = 61_000_000
    mirror.take(Observed([state(1)], {LANE: 5}), seen_us=100 + minute_us)
    again = Mirror(mirror._path)
    assert again.get("c", "k").seen_us == 100 + minute_us  # type: ignore[union-attr]
    again.close()
    confirm(mirror, 2)
    assert mirror.get("c", "k").watermarks == {LANE: 2}  # type: ignore[union-attr]
