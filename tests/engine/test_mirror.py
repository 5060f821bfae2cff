"""The mirror: the newest that the primary said, whatever the order in which it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import apsw
import msgspec
import pytest

from standfast import CorruptData, StandfastError
from standfast.engine import mirror as mirror_module
from standfast.engine.mirror import Mirror
from standfast.ops.types import Observed, Op, State

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
    conn = apsw.Connection(str(mirror._file.path))
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


def test_rows_and_watermark_are_one_transaction(mirror: Mirror) -> None:
    """R6: rows, watermark and retained ops are there together or not at all."""
    broken = State("c", "x", "1", None, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(StandfastError):
        mirror.confirm(
            Observed([state(1), broken], {LANE: 1}), lane=LANE, watermark=1, retained=[(op(1), 1)]
        )
    assert mirror.get("c", "k") is None
    assert mirror.expected_watermark(LANE) == 0
    assert retained(mirror) == []


def test_a_mirror_that_is_gone_says_so(mirror: Mirror, tmp_path: Path) -> None:
    """A removed file swallows writes without an error, so it is looked at."""
    (tmp_path / "mirror.db").unlink()
    with pytest.raises(CorruptData) as caught:
        mirror.take(Observed([state(1)]), seen_us=1)
    assert caught.value.code == "file_gone"
