"""The journal: what it acknowledged is on disk, in order and counted, whoever opens it."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from standfast import ConfigError, CorruptData, StandfastError, Unavailable
from standfast.engine import journal as journal_module
from standfast.engine.journal import History, Journal, Totals
from standfast.engine.salvage import Loss
from standfast.ops.types import Op, ServerIdentity

LANE = "00000000-0000-4000-8000-000000000001"
BIG = {"max_ops": 10**6, "max_bytes": 10**9}


def make(seq: int, *, key: str = "k", body: str | None = "1", lane: str = LANE, **more: Any) -> Op:
    return Op(lane=lane, seq=seq, kind="put", collection="c", key=key, body=body, at_us=seq, **more)


def size(*ops: Op) -> int:
    return sum(len(op.body or "") + len(op.base or "") + len(op.key) + 100 for op in ops)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


def add(journal: Journal, *ops: Op, **limits: int) -> None:
    with journal.writing() as transaction:
        transaction.add(ops, **{**BIG, **limits})


def names(journal: Journal) -> list[tuple[str, int]]:
    return [one.op.name for one in journal.everything()]


def test_what_was_written_is_there_again(journal: Journal, tmp_path: Path) -> None:
    """I1, I11: every field of an op survives closing and opening, in the order of writing."""
    ops = [
        make(2, body='{"a":"\\ud800","b":1.0e2}', seen="present", base="[]", replay=True),
        make(1, key="x\u00e9", if_version=3, pending=((LANE, 9),), ttl_us=5, group=1),
        make(7, body=None, reject="check", origin=(LANE, 4), pointer="/a~1b"),
    ]
    add(journal, *ops)
    journal.close()
    again = Journal(tmp_path)
    assert [one.op for one in again.everything()] == ops
    assert again.directory == journal.directory
    again.close()


def test_totals_are_exact(journal: Journal, tmp_path: Path) -> None:
    """I7: what counts against the limit is what is pending, after every kind of change."""
    ops = [make(seq, key=f"k{seq}", body="x" * seq, base="y") for seq in range(1, 6)]
    add(journal, *ops)
    assert journal.totals() == Totals(5, size(*ops))
    pending = list(journal.everything())
    journal.replace(pending[:2], lambda op: msgspec.structs.replace(op, reject="check"))
    assert journal.totals() == Totals(5, size(*ops))
    journal.remove(pending[1:3])
    journal.remove(pending[1:3])
    left = [ops[0], *ops[3:]]
    assert journal.totals() == Totals(3, size(*left))
    journal.close()
    again = Journal(tmp_path)
    assert again.totals() == Totals(3, size(*left))
    again.remove(list(again.everything()))
    assert again.totals() == Totals(0, 0)
    assert again.oldest_us() is None
    again.close()


def test_a_full_journal_takes_nothing(journal: Journal) -> None:
    """I7: at either limit `journal_full` is raised before anything of the call is written."""
    add(journal, make(1))
    for limits in ({"max_ops": 2}, {"max_bytes": size(make(1), make(2), make(3)) - 1}):
        with pytest.raises(Unavailable) as caught:
            add(journal, make(2), make(3), **limits)
        assert caught.value.code == "journal_full"
        assert caught.value.hint
        assert names(journal) == [(LANE, 1)]
        assert journal.totals() == Totals(1, size(make(1)))
    add(journal, make(2), make(3), max_ops=3, max_bytes=size(make(1), make(2), make(3)))
    assert journal.totals().ops == 3


def test_a_failed_transaction_leaves_nothing(journal: Journal) -> None:
    """I1: an error inside the transaction takes all of it back."""
    with pytest.raises(StandfastError):
        add(journal, make(1), make(2), make(1))
    assert names(journal) == []
    assert journal.totals() == Totals(0, 0)


def test_ops_of_one_place(journal: Journal) -> None:
    """I12: the ops of a place come in order, inside the transaction that adds too."""
    add(journal, make(1, key="a"), make(2, key="b"), make(3, key="a"))
    with journal.writing() as transaction:
        transaction.add([make(4, key="a")], **BIG)
        assert [op.seq for op in transaction.at("c", "a")] == [1, 3, 4]
    assert [op.seq for op in journal.at("c", "a")] == [1, 3, 4]
    assert journal.at("c", "none") == journal.at("other", "a") == []
    assert sorted(journal.keys("c")) == ["a", "b"]
    assert journal.keys("other") == []


def test_everything_comes_in_pages(journal: Journal) -> None:
    """A long journal is read page by page, complete, also while it gets shorter."""
    add(journal, *[make(seq) for seq in range(1, 26)])
    assert [one.op.seq for one in journal.everything(page=4)] == list(range(1, 26))
    found = []
    for one in journal.everything(page=4):
        found.append(one.op.seq)
        journal.remove([one])
    assert found == list(range(1, 26))


def test_replaced_ops_keep_their_place_and_are_found(journal: Journal) -> None:
    """R1: an op that moves to another lane keeps its order, and its receipt still finds it."""
    add(journal, make(1), make(2))
    first = next(journal.everything())
    journal.replace(
        [first],
        lambda op: msgspec.structs.replace(op, lane="other", seq=90, origin=op.name),
    )
    assert names(journal) == [(LANE, 1), (LANE, 2)]
    assert [one.op.seq for one in journal.everything()] == [90, 2]
    assert journal.has(LANE, 1)
    assert journal.has(LANE, 2)
    assert not journal.has(LANE, 3)
    journal.remove([one for one in journal.everything() if one.op.seq == 90])
    assert not journal.has(LANE, 1)


def test_lanes_are_known_until_they_are_done(journal: Journal) -> None:
    """R1: a lane is remembered until nothing of it is pending, so that it will be fenced."""
    journal.open_lane(LANE)
    journal.open_lane("other")
    add(journal, make(1))
    assert set(journal.lanes()) == {LANE, "other"}
    assert not journal.close_lane(LANE)
    assert journal.close_lane("other")
    journal.remove(list(journal.everything()))
    assert journal.close_lane(LANE)
    assert journal.lanes() == []


@pytest.mark.parametrize("change", ["unlinked", "replaced"])
def test_a_file_that_is_gone_acknowledges_nothing(
    journal: Journal, tmp_path: Path, change: str
) -> None:
    """I1: an unlinked or replaced file swallows writes without an error, so it is looked at."""
    add(journal, make(1))
    journal.path.unlink()
    if change == "replaced":
        Journal(tmp_path).close()
    with pytest.raises(CorruptData) as caught:
        add(journal, make(2))
    assert caught.value.code == "file_gone"
    assert caught.value.hint


def test_only_its_owner_reads_it(journal: Journal) -> None:
    """Contents are private: the file and what belongs to it are for the owner's eyes only."""
    add(journal, make(1))
    for path in journal.path.parent.glob("journal.db*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A SQLite file that is no journal is ConfigError, and is not changed."""
    import apsw

    path = tmp_path / journal_module.FILE
    conn = apsw.Connection(str(path))
    conn.execute("CREATE TABLE mine (a)")
    conn.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        Journal(tmp_path)
    assert caught.value.code == "not_ours"
    assert path.read_bytes() == before


def test_the_history_that_it_belongs_to(journal: Journal, tmp_path: Path) -> None:
    """I9: whose ops these are is written down, and copies of that database are told apart."""
    assert journal.history() is None
    history = History("id", "system", "display")
    journal.set_history(history)
    again = Journal(tmp_path)
    assert again.history() == history
    again.close()
    assert history.is_of(ServerIdentity("id", "system"))
    assert history.is_of(ServerIdentity("id", ""))
    assert not history.is_of(ServerIdentity("id", "copy"))
    assert not history.is_of(ServerIdentity("other", "system"))
    assert not history.is_of(ServerIdentity(None, "system"))


def forgetting_fails(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the file takes nothing."""

    def full(doing: str, *, durable: bool, wait_s: float | None = None) -> Any:
        raise Unavailable("the disk is full", code="disk_full", hint="free space")

    monkeypatch.setattr(journal._file, "writing", full)


def test_forgetting_needs_no_space(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2, R25: on a full disk what is settled is not pending any more, in every question that is
    asked of the journal, and it leaves the file when there is room again."""
    ops = [make(1), make(2, key="other"), make(3)]
    add(journal, *ops)
    journal.open_lane(LANE)
    before, pending = journal.version(), list(journal.everything())
    with monkeypatch.context() as patch:
        forgetting_fails(journal, patch)
        journal.remove(pending[:2])
        assert [one.op.seq for one in journal.first(1)] == [3]
        assert [op.seq for op in journal.at("c", "k")] == [3]
        assert journal.totals() == Totals(1, size(ops[2]))
        assert journal.keys("c") == ["k"]
        assert (journal.is_at("c", "k"), journal.is_at("c", "other")) == (True, False)
        assert (journal.has(LANE, 1), journal.has(LANE, 3)) == (False, True)
        assert journal.oldest_us() == 3
        assert not journal.close_lane(LANE)
        journal.remove(pending[2:])
        assert journal.totals() == Totals(0, 0)
        assert not journal.holds(LANE)
        assert journal.close_lane(LANE)
        assert journal.lanes() == []
        assert journal.version() != before
        with pytest.raises(Unavailable):
            journal.remove(pending, durable=True)
    assert journal.settled_in_memory == 3
    again = Journal(journal.path.parent)
    assert again.totals().ops == 3  # a kill -9 here brings them back, and the primary skips them
    journal.tidy()
    assert again.totals() == Totals(0, 0)
    assert again.lanes() == []
    assert journal.settled_in_memory == 0
    again.close()


def test_the_next_write_forgets_too(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """D2: what is settled in memory leaves the file with the next transaction that succeeds."""
    add(journal, make(1))
    with monkeypatch.context() as patch:
        forgetting_fails(journal, patch)
        journal.remove(list(journal.everything()))
    add(journal, make(2))
    assert [one.op.seq for one in journal.everything()] == [2]
    assert journal.totals() == Totals(1, size(make(2)))
    assert journal.settled_in_memory == 0


def test_what_is_lost_with_a_damaged_file_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: of a damaged journal every readable op is there, in order, and each lost one is named."""
    made = Journal(tmp_path)
    made.open_lane("ended")
    directory = made.directory
    made.set_history(History("id", "system", "display"))
    add(made, *[make(seq, key=f"k{seq}", body=f'"{"x" * 900}"') for seq in range(1, 101)])
    made.close()
    damage(made.path)
    again = Journal(tmp_path)
    kept = [one.op.seq for one in again.everything()]
    (loss,) = again.losses()
    assert 80 < len(kept) < 100
    assert kept == sorted(kept)
    assert loss.salvaged == len(kept)
    assert loss.lost == 100 - len(kept)
    assert {seq for _, seq in loss.names} == set(range(1, 101)) - set(kept)
    assert again.totals().ops == len(kept)
    assert again.directory == directory
    assert again.history() == History("id", "system", "display")
    assert {"ended", LANE} <= set(again.lanes())
    assert (tmp_path / loss.file).exists()
    assert "damaged" in caplog.text
    add(again, make(101))
    again.close()
    once_more = Journal(tmp_path)
    assert len(once_more.losses()) == 1
    assert once_more.totals().ops == len(kept) + 1
    once_more.close()


def damage(path: Path) -> None:
    """Overwrite a page of the middle of `ops`."""
    content = bytearray(path.read_bytes())
    leaves = [at for at in range(4096, len(content), 4096) if content[at] == 0x0D]
    at = leaves[len(leaves) // 2]
    content[at : at + 4096] = b"\xff" * 4096
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["garbage", "directory"])
def test_a_journal_of_which_nothing_can_be_read(tmp_path: Path, what: str) -> None:
    """D3: it is set aside too, a new one begins, and the loss is said to be of unknown size."""
    path = tmp_path / journal_module.FILE
    if what == "directory":
        path.mkdir()
    else:
        path.write_bytes(b"\x00\xff" * 8192)
    made = Journal(tmp_path)
    add(made, make(1))
    (loss,) = made.losses()
    assert (loss.salvaged, loss.lost) == (0, None)
    assert (tmp_path / loss.file).exists()
    made.close()


@pytest.mark.parametrize("what", ["log removed", "log emptied", "log zeroed", "all removed"])
def test_a_journal_that_is_older_than_it_was_says_so(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """D3: what a kill -9 left, without its log: SQLite opens it, and the loss is noticed once."""
    left = killed_with(tmp_path, [1, 2, 3], settled=1)
    log = left / "journal.db-wal"
    if what == "log emptied":
        log.write_bytes(b"")
    elif what == "log zeroed":
        log.write_bytes(bytes(log.stat().st_size))
    else:
        log.unlink()
    if what == "all removed":
        (left / "journal.db").unlink()
    (loss,) = losses_of(left)
    assert (loss.lost, loss.names) == (2, ((LANE, 3),))
    assert "older than what it has acknowledged" in caplog.text
    assert losses_of(left) == [loss]
    (left / loss.file).unlink()
    assert losses_of(left) == []


@pytest.mark.parametrize("settled", [0, 3])
def test_a_journal_that_has_lost_nothing_says_nothing(tmp_path: Path, settled: int) -> None:
    """D3: with its log nothing is lost; nor is it without, where nothing was pending."""
    left = killed_with(tmp_path, [1, 2, 3], settled=settled)
    if settled:
        (left / "journal.db-wal").unlink()
    assert losses_of(left) == []


@pytest.mark.parametrize("what", ["emptied", "zeroed", "garbage"])
def test_nothing_is_acknowledged_in_a_log_that_is_none(journal: Journal, what: str) -> None:
    """I1, D3: a log that was overwritten under an open journal takes commits that a kill loses."""
    add(journal, make(1))
    log = journal.path.with_name("journal.db-wal")
    size = log.stat().st_size
    log.write_bytes({"emptied": b"", "zeroed": bytes(size), "garbage": b"\xff" * size}[what])
    with pytest.raises(CorruptData):
        add(journal, make(2))


def killed_with(tmp_path: Path, seqs: Sequence[int], *, settled: int) -> Path:
    """The files as a kill -9 leaves them, after these ops and the removal of the first ones."""
    (tmp_path / "data").mkdir()
    made = Journal(tmp_path / "data")
    for seq in seqs:
        add(made, make(seq))
    made.remove(list(made.everything())[:settled])
    shutil.copytree(tmp_path / "data", tmp_path / "left")
    made.close()
    return tmp_path / "left"


def losses_of(data_dir: Path) -> list[Loss]:
    """What a journal says it has lost, when it is opened."""
    opened = Journal(data_dir)
    try:
        return opened.losses()
    finally:
        opened.close()


def test_a_journal_in_use_is_not_set_aside(tmp_path: Path) -> None:
    """D3: a damaged journal stays where it is while a process of the directory has it open."""
    from standfast.engine.lanes import Lane

    lane = Lane(tmp_path)
    (tmp_path / journal_module.FILE).write_bytes(b"\x00\xff" * 8192)
    with pytest.raises(CorruptData) as caught:
        Journal(tmp_path)
    assert caught.value.hint
    assert not list(tmp_path.glob("*.damaged-*"))
    lane.lock.release()
    Journal(tmp_path).close()


_PROCESS = """
import sys
from pathlib import Path
from standfast.engine.journal import Journal
from standfast.ops.types import Op

journal = Journal(Path(sys.argv[1]))
journal.open_lane(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for seq in range(1, 101):
    op = Op(lane=sys.argv[2], seq=seq, kind="put", collection="c", key="k", body="1", at_us=seq)
    with journal.writing() as transaction:
        transaction.add([op], max_ops=10**6, max_bytes=10**9)
    if seq % 10 == 0:
        journal.remove(journal.first(1))
"""


@pytest.mark.process
def test_two_processes_share_a_journal(tmp_path: Path) -> None:
    """I1, I3: two processes that create and use one journal lose nothing, and each keeps order."""
    lanes = ["one", "two"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, tmp_path / "data", lane],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path)},
        )
        for lane in lanes
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("\n")
    assert [worker.returncode for worker in workers] == [0, 0]
    journal = Journal(tmp_path / "data")
    left = [one.op for one in journal.everything()]
    assert journal.totals() == Totals(180, size(*left))
    assert len(left) == 180
    for lane in lanes:
        seqs = [op.seq for op in left if op.lane == lane]
        assert seqs == sorted(seqs)
        assert seqs[-1] == 100
    assert set(journal.lanes()) == set(lanes)
    journal.close()
