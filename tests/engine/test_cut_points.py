"""The journal and the spool cut off anywhere, as a power cut may leave them (I1)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from standfast.engine.journal import Journal
from standfast.engine.spool import Spool
from standfast.ops.types import Op

WRITES = 40


def op(seq: int) -> Op:
    """A write whose text says which it is."""
    return Op(lane="lane", seq=seq, kind="put", collection="c", key=str(seq % 7), body=str(seq))


def cuts(size: int, count: int) -> Iterable[int]:
    """So many lengths of a file, evenly spread, the shortest and the longest included."""
    return sorted({round(size * number / (count - 1)) for number in range(count)})


def assert_whole(found: list[Op], acknowledged: int) -> None:
    """Everything that was acknowledged, in order, and nothing in between that is not whole."""
    assert found == [op(seq) for seq in range(1, len(found) + 1)]
    assert len(found) >= acknowledged


def cut_spool(folder: Path, count: int) -> int:
    """Open a spool that ends at so many places; how many these were."""
    spool = Spool(folder)
    sizes = [0]
    for seq in range(1, WRITES + 1):
        spool.append([[op(seq)]])
        sizes.append(spool.path.stat().st_size)
    data = spool.path.read_bytes()
    points = cuts(len(data), count)
    for size in points:
        spool.path.write_bytes(data[:size])
        acknowledged = sum(one <= size for one in sizes[1:])
        assert_whole(list(Spool(folder).ops()), acknowledged)
        Spool(folder).append([[op(acknowledged + 1)]])  # it goes on behind the last whole line
        assert_whole(list(Spool(folder).ops()), acknowledged + 1)
    return len(points)


def cut_journal(folder: Path, count: int) -> int:
    """Open a journal whose log ends at so many places; how many these were."""
    journal = Journal(folder / "written")
    log = folder / "written" / "journal.db-wal"
    sizes: list[int] = []
    for seq in range(1, WRITES + 1):
        with journal.writing() as transaction:
            transaction.add([op(seq)], max_ops=10**6, max_bytes=10**9)
        sizes.append(log.stat().st_size)
    begun = sizes[0] if sizes else 0
    data = log.read_bytes()
    points = [size for size in cuts(len(data), count) if size >= begun]
    file = (folder / "written" / "journal.db").read_bytes()
    for number, size in enumerate(points):
        copy = folder / f"copy{number}"
        copy.mkdir()
        (copy / "journal.db").write_bytes(file)
        (copy / "journal.db-wal").write_bytes(data[:size])
        cut = Journal(copy)
        try:
            found = [one.op for one in cut.everything()]
            assert_whole(found, sum(one <= size for one in sizes))
            assert cut.totals().ops == len(found)
            assert cut.losses() == []
        finally:
            cut.close()
        shutil.rmtree(copy)
    journal.close()
    return len(points)


def test_a_spool_that_was_cut_off(tmp_path: Path) -> None:
    """I1: wherever a spool ends, each acknowledged line is read, and the rest is written over."""
    assert cut_spool(tmp_path, 60) == 60


def test_a_journal_that_was_cut_off(tmp_path: Path) -> None:
    """I1: wherever the journal's log ends, each acknowledged transaction is there, whole."""
    assert cut_journal(tmp_path, 40) > 30


@pytest.mark.slow
def test_two_thousand_cuts(tmp_path: Path) -> None:
    """I1: the same at two thousand places."""
    points = cut_spool(tmp_path, 1000) + cut_journal(tmp_path, 1100)
    assert points >= 2000
