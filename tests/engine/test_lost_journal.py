"""A journal destroyed under an open store: what it has acknowledged is written anew (I1)."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import standfast
from standfast import CorruptData, StandfastError
from standfast.engine import journal as journal_module
from standfast.engine import rewriting
from standfast.engine.histories import History
from standfast.engine.journal import FILE, Journal, Totals
from standfast.engine.journal_rows import Pending, size_of
from standfast.ops.types import Op

LANE = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"
HISTORY = History("identity", "system", "display", era=3)


def make(seq: int, *, lane: str = LANE) -> Op:
    return Op(lane=lane, seq=seq, kind="put", collection="c", key=f"k{seq}", body="1", at_us=seq)


def add(journal: Journal, *ops: Op) -> None:
    with journal.writing() as transaction:
        transaction.add(ops, max_ops=10**6, max_bytes=10**9)


def names(journal: Journal) -> list[tuple[str, int]]:
    return [one.op.name for one in journal.everything()]


def every(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{FILE}*"))


def remove_all(folder: Path) -> None:
    for path in every(folder):
        path.unlink()


def remove_file(folder: Path) -> None:
    (folder / FILE).unlink()


def remove_log(folder: Path) -> None:
    (folder / f"{FILE}-wal").unlink()


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def replace(folder: Path) -> None:
    Journal(folder / "another").close()
    os.replace(folder / "another" / FILE, folder / FILE)


def contents(folder: Path) -> list[Path]:
    """Without the index in memory, which nobody can do without: a truncated one is a SIGBUS."""
    return [path for path in every(folder) if not path.name.endswith("-shm")]


def overwrite(folder: Path) -> None:
    for path in contents(folder):
        path.write_bytes(b"\xff" * 20_000)


def truncate(folder: Path) -> None:
    for path in contents(folder):
        os.truncate(path, 0)


GONE = (remove_all, remove_file, remove_log, remove_folder, replace)
BROKEN = (overwrite, truncate)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "ANEW_PAUSE_S", 0.0)
    monkeypatch.setattr(journal_module, "FAILED_ANEW_PAUSE_S", 0.0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    (tmp_path / "data").mkdir()
    made = Journal(tmp_path / "data")
    made.open_lane(LANE)
    made.set_history(HISTORY)
    add(made, make(1))
    add(made, make(2), make(3))
    made.remove(list(made.everything())[:1])
    yield made
    made.close()


def left_by_a_kill(folder: Path) -> Journal:
    """What the next process opens: a copy, so that nothing of this process's memory is in it."""
    copy = folder.parent / "killed"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("lanes"))
    return Journal(copy)


@pytest.mark.parametrize("destroy", [*GONE, *BROKEN])
def test_what_is_pending_is_written_anew(
    journal: Journal, destroy: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """I1: removed, replaced or overwritten under an open store, a journal holds what it has
    acknowledged again a moment later, for this process and after a kill -9 for the next; it
    belongs to the same database, its lanes are fenced, and nothing is called lost."""
    folder, directory = journal.path.parent, journal.directory
    destroy(folder)
    for _ in range(2):  # a damage is noticed by whoever meets it
        journal.tidy()
    assert names(journal) == [(LANE, 2), (LANE, 3)]
    add(journal, make(4))
    killed = left_by_a_kill(folder)
    try:
        for one in (journal, killed):
            assert names(one) == [(LANE, 2), (LANE, 3), (LANE, 4)]
            assert one.totals() == Totals(3, sum(size_of(make(seq)) for seq in (2, 3, 4)))
            assert one.lanes() == [LANE]
            assert (one.history(), one.directory) == (HISTORY, directory)
            assert one.losses() == []
    finally:
        killed.close()
    assert caplog.text.count("written anew") == 1


@pytest.mark.parametrize("destroy", [*GONE, *BROKEN])
def test_a_journal_that_is_closed_is_written_anew(
    journal: Journal, destroy: Callable[[Path], None]
) -> None:
    """I1: an app that is stopped after its journal was destroyed leaves all of it to the next."""
    destroy(journal.path.parent)
    with contextlib.suppress(StandfastError):  # notices a damage
        journal.totals()
        add(journal, make(9))
    journal.close()
    again = Journal(journal.path.parent)
    assert set(names(again)) - {(LANE, 9)} == {(LANE, 2), (LANE, 3)}
    again.close()


@pytest.mark.parametrize("destroy", [*GONE, *BROKEN])
def test_the_next_write_notices_by_itself(
    journal: Journal, destroy: Callable[[Path], None]
) -> None:
    """I1: one write fails, and the caller knows it; the next one is taken."""
    destroy(journal.path.parent)
    done = []
    for seq in (4, 5, 6):
        try:
            add(journal, make(seq))
        except StandfastError:
            continue
        done.append((LANE, seq))
    assert len(done) >= 2
    assert set(names(journal)) >= {(LANE, 2), (LANE, 3), *done}


@pytest.mark.parametrize("destroy", GONE)
def test_two_processes_write_one_new_journal(
    journal: Journal, destroy: Callable[[Path], None]
) -> None:
    """I1, I2: both have what either has acknowledged, each op once."""
    folder = journal.path.parent
    second = Journal(folder)
    second.open_lane(OTHER)
    add(second, make(7, lane=OTHER))
    destroy(folder)
    journal.tidy()
    with pytest.raises(CorruptData):
        add(second, make(8, lane=OTHER))
    add(second, make(9, lane=OTHER))
    add(journal, make(4))
    expected = {(LANE, 2), (LANE, 3), (LANE, 4), (OTHER, 7), (OTHER, 9)}
    for one in (journal, second):
        assert set(names(one)) - {(OTHER, 8)} == expected
        assert one.totals().ops == len(names(one)) == len(set(names(one)))
        assert set(one.lanes()) == {LANE, OTHER}
    second.close()


@pytest.mark.parametrize("destroy", [*GONE, *BROKEN])
def test_what_was_pending_before_this_process_is_remembered_too(
    journal: Journal, destroy: Callable[[Path], None]
) -> None:
    """I1: what an earlier process has left, what the spool had, and what was written anew once."""
    folder = journal.path.parent
    journal.spool.append([[make(4)]])
    journal.tidy()
    journal.close()
    second = Journal(folder)
    for seq, how in ((5, remove_all), (6, destroy), (7, overwrite)):
        how(folder)
        with contextlib.suppress(StandfastError):
            add(second, make(seq))
        second.tidy()
    add(second, make(8))
    assert set(names(second)) - {(LANE, 5), (LANE, 6), (LANE, 7)} == {
        (LANE, seq) for seq in (2, 3, 4, 8)
    }
    second.close()


def test_another_file_does_not_get_the_log_of_the_one_before(
    journal: Journal, tmp_path: Path
) -> None:
    """I1: a journal is put in its place by a rename, beside the log that two processes still use:
    what they commit there is not mixed with what is in that one."""
    other = Journal(tmp_path / "other")
    add(other, *(make(seq, lane=OTHER) for seq in (1, 2)))
    other.close()
    second = Journal(journal.path.parent)
    log = journal.path.with_name(f"{FILE}-wal")
    before = log.stat().st_ino
    os.replace(other.path, journal.path)
    journal.tidy()
    assert log.stat().st_ino != before
    second.tidy()
    add(second, make(5))
    add(journal, make(6))
    expected = {(OTHER, 1), (OTHER, 2), *((LANE, seq) for seq in (2, 3, 5, 6))}
    assert set(names(journal)) == set(names(second)) == expected
    second.close()


def test_an_id_of_another_journal_is_not_ours(journal: Journal, tmp_path: Path) -> None:
    """I1, I2: another journal in its place keeps its ops, also where a replay ends that had read
    ours under the same ids."""
    other = Journal(tmp_path / "other")
    other.open_lane(OTHER)
    add(other, *(make(seq, lane=OTHER) for seq in (1, 2, 3, 4)))
    other.close()
    ours = list(journal.everything())
    remove_all(journal.path.parent)
    shutil.copy(other.path, journal.path)
    journal.tidy()
    theirs = [(OTHER, seq) for seq in (1, 2, 3, 4)]
    assert names(journal) == [*theirs, (LANE, 2), (LANE, 3)]
    journal.remove(ours)
    journal.replace(ours, lambda op: msgspec.structs.replace(op, reject="check"))
    assert names(journal) == [*theirs, (LANE, 2), (LANE, 3)]
    assert not any(one.op.reject for one in journal.everything())


def test_what_is_not_remembered_is_named(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: memory is bounded; what it has not, and the file does not give, is counted as lost."""
    monkeypatch.setattr(rewriting, "MAX_REMEMBERED_BYTES", 3 * size_of(make(4)))
    for seq in range(4, 10):
        add(journal, make(seq))
    overwrite(journal.path.parent)
    for _ in range(2):
        journal.tidy()
    assert names(journal) == [(LANE, 7), (LANE, 8), (LANE, 9)]
    (loss,) = journal.losses()
    assert (loss.salvaged, loss.lost) == (3, 5)


def test_what_is_remembered_is_what_is_pending() -> None:
    """I7: changed ops are remembered as they are now, removed ones not at all."""
    remembered = rewriting.Remembered()
    remembered.add([Pending(number, make(number)) for number in (1, 2, 3)])
    remembered.change(Pending(2, make(20)))
    remembered.change(Pending(9, make(90)))
    remembered.remove([1, 8])
    assert remembered.everything() == [Pending(2, make(20)), Pending(3, make(3))]
    remembered.clear()
    assert remembered.everything() == []


@pytest.mark.parametrize("destroy", [remove_all, overwrite])
def test_a_store_goes_on_without_its_journal(
    tmp_path: Path, destroy: Callable[[Path], None]
) -> None:
    """I1, I12: an app whose journal was destroyed in an outage reads its writes, takes new ones,
    and leaves all of them to the next start."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    folder = tmp_path / "data"
    acknowledged: dict[str, int] = {}
    with standfast.open(url, data_dir=folder, deadline_s=0.2) as store:
        for number in range(20):
            if number == 10:
                destroy(folder)
            try:
                store["c"].put(str(number), number)
            except StandfastError:
                assert number == 10, "only the first one may fail"
            else:
                acknowledged[str(number)] = number
        assert {key: store["c"].get(key) for key in acknowledged} == acknowledged
        assert store.health().lag_ops == len(acknowledged)
        killed = left_by_a_kill(folder)
        assert {one.op.key for one in killed.everything()} == acknowledged.keys()
        killed.close()
