"""The spool: what it acknowledged is there again, whatever was cut off, and it comes in order."""

from __future__ import annotations

import errno
import json
import os
import random
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from standfast import StandfastError, Unavailable
from standfast.engine import journal as journal_module
from standfast.engine import spool as spool_module
from standfast.engine.journal import Journal
from standfast.engine.spool import Spool, line_of
from standfast.ops.types import Op
from support.faulty import Link, Open, Server, eventually, wait_direct

BIG: dict[str, Any] = {"max_ops": 10**6, "max_bytes": 10**9}


def make(seq: int, *, key: str = "k", body: str | None = "1", lane: str = "l", **more: Any) -> Op:
    return Op(lane=lane, seq=seq, kind="put", collection="c", key=key, body=body, at_us=seq, **more)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path)
    yield made
    made.close()


ODD = [
    make(1, body='{"a":"\\ud800","b":1.0e2}', seen="present", base="[]", replay=True),
    make(2, key="\u00e9\u2028\n", if_version=3, pending=(("l", 9),), ttl_us=5, group=1),
    make(3, body=None, reject="check", origin=("m", 4), pointer="/a~1\ud800"),
]


def test_every_field_comes_back(spool: Spool, tmp_path: Path) -> None:
    """I1, I11: each line is JSON, and each op comes back as it was, lone surrogates included."""
    spool.append([ODD[:1], ODD[1:]])
    assert Spool(tmp_path).ops() == ODD
    lines = spool.path.read_text(encoding="ascii").splitlines()
    assert [len(json.loads(line)["ops"]) for line in lines] == [1, 2]
    if os.name == "posix":
        assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600


def cut_points(size: int, *, wanted: int) -> list[int]:
    chosen = random.Random(size).sample(range(size + 1), min(wanted, size + 1))
    return sorted({0, size, *chosen})


@pytest.mark.parametrize("wanted", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_spool_that_is_cut_anywhere(tmp_path: Path, wanted: int) -> None:
    """D5, I1, I2: cut at any byte, it holds exactly the calls whose lines are whole, each with all
    of its ops, and takes the next call."""
    rng = random.Random(7)
    calls: list[list[Op]] = []
    seq = 0
    while len(calls) < 25:
        ops: list[Op] = []
        for _ in range(rng.choice([1, 1, 1, 3])):
            seq += 1
            ops.append(make(seq, key=str(rng.randrange(3)), body=f'"{"x" * rng.randrange(40)}"'))
        calls.append(ops)
    ends = [0]
    data = b""
    for ops in calls:
        data += line_of(ops)
        ends.append(len(data))
    for cut in cut_points(len(data), wanted=wanted):
        (tmp_path / "spool.jsonl").write_bytes(data[:cut])
        spool = Spool(tmp_path)
        whole = max(number for number, end in enumerate(ends) if end <= cut)
        expected = [op for ops in calls[:whole] for op in ops]
        assert spool.ops() == expected
        assert spool.damaged == 0
        spool.append([[make(seq + 1)]])
        assert Spool(tmp_path).ops() == [*expected, make(seq + 1)]
        os.unlink(tmp_path / "spool.jsonl")


def test_a_damaged_line_costs_itself_alone(
    spool: Spool, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """D5, D3: a line that cannot be read is counted, the others arrive, and the file is kept."""
    spool.append([[make(1)], [make(2)], [make(3)]])
    content = bytearray(spool.path.read_bytes())
    content[len(content) // 2] ^= 1
    spool.path.write_bytes(content)
    again = Spool(spool.path.parent)
    assert [op.seq for op in again.ops()] == [1, 3]
    assert again.damaged == 1
    journal.take_spool()
    assert [one.op.seq for one in journal.everything()] == [1, 3]
    assert len(journal.spool.aside) == 1
    assert "1 lines" in caplog.text
    assert not spool.ops()


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_the_disk_refuses_is_not_there(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """I1: a call that failed leaves nothing, half a line included, and the next one succeeds."""
    spool.append([[make(1)]])

    def fail(handle: int, *data: Any) -> int:
        if call == "write" and len(data[0]) > 10:
            return real(handle, bytes(data[0][:10]))
        raise OSError(number, os.strerror(number))

    real = getattr(os, call)
    with monkeypatch.context() as patch:
        patch.setattr(spool_module.os, call, fail)
        with pytest.raises(StandfastError):
            spool.append([[make(2)]])
    assert spool.ops() == Spool(spool.path.parent).ops() == [make(1)]
    spool.append([[make(3)]])
    assert Spool(spool.path.parent).ops() == [make(1), make(3)]


def test_it_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: a full spool refuses, and takes nothing of the call."""
    monkeypatch.setattr(spool_module, "MAX_SPOOL_BYTES", 300)
    spool.append([[make(1)]])
    with pytest.raises(Unavailable) as caught:
        spool.append([[make(2, body="1" * 300)]])
    assert caught.value.code == "journal_full"
    assert spool.ops() == [make(1)]


def test_two_processes_append(tmp_path: Path) -> None:
    """I1: two that append at once lose nothing, and each sees what the other wrote."""
    spools = [Spool(tmp_path), Spool(tmp_path)]

    def work(number: int) -> None:
        for seq in range(1, 31):
            spools[number].append([[make(seq, lane=str(number))]])

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in (spools[0].ops(), spools[1].ops(), Spool(tmp_path).ops()):
        assert len(found) == 60
        for lane in ("0", "1"):
            assert [op.seq for op in found if op.lane == lane] == list(range(1, 31))


def test_the_journal_and_the_spool_are_one(journal: Journal, tmp_path: Path) -> None:
    """D5, I12: every question to the journal has the ops of the spool in its answer, last."""
    with journal.writing() as transaction:
        transaction.add([make(1), make(2, key="other")], **BIG)
    before = journal.version()
    Spool(tmp_path).append([[make(3)], [make(4, key="new", lane="m")]])
    assert journal.version() != before
    assert [one.op.seq for one in journal.first(3)] == [1, 2, 3]
    assert [one.op.seq for one in journal.everything(page=1)] == [1, 2, 3, 4]
    assert [op.seq for op in journal.at("c", "k")] == [1, 3]
    assert (journal.is_at("c", "new"), journal.is_at("c", "none")) == (True, False)
    assert sorted(journal.keys("c")) == ["k", "new", "other"]
    assert journal.totals().ops == 4
    assert (journal.holds("m"), journal.has("m", 4), journal.has("m", 5)) == (True, True, False)
    assert journal.count_at("c", "k", limit=9) == 2
    pending = list(journal.everything())
    journal.remove(pending[2:3])
    assert [op.seq for op in journal.at("c", "k")] == [1]
    journal.remove(pending[:2])
    assert journal.oldest_us() == 4
    journal.remove(pending[3:])
    assert journal.totals() == (0, 0)
    assert journal.spool.path.stat().st_size == 0


def test_the_journal_takes_the_spool_over(journal: Journal, tmp_path: Path) -> None:
    """D5, I3: before anything new, in order; and once, when a kill came before it was emptied."""
    with journal.writing() as transaction:
        transaction.add([make(1)], **BIG)
    journal.spool.append([[make(2)], [make(3)]])
    kept = journal.spool.path.read_bytes()
    with journal.writing() as transaction:
        transaction.add([make(4)], **BIG)
    assert [one.op.seq for one in journal.first(9)] == [1, 2, 3, 4]
    assert journal.spool.path.read_bytes() == b""
    journal.spool.path.write_bytes(kept)  # as if it had been killed before
    again = Journal(tmp_path)
    again.take_spool()
    assert [one.op.seq for one in again.everything()] == [1, 2, 3, 4]
    assert again.totals().ops == 4
    again.close()


def test_a_spool_that_cannot_be_emptied(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, I12: what the journal has taken over is not pending a second time, and above all not
    behind what was written since, here and in other processes; later it is emptied."""

    def full(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    journal.spool.append([[make(1)], [make(2)]])
    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", full)
        with journal.writing() as transaction:
            transaction.add([make(3, body="3")], **BIG)
        with closing(Journal(tmp_path)) as other:
            for each in (journal, other):
                assert [op.seq for op in each.at("c", "k")] == [1, 2, 3]
                assert [one.op.seq for one in each.everything()] == [1, 2, 3]
                assert each.totals().ops == 3
                assert each.spooled() == []
            journal.remove(journal.first(9))  # the primary has them
            for each in (journal, other):
                assert list(each.everything()) == []
                assert not each.is_at("c", "k")
            other.spool.append([[make(4)]])  # behind what could not be removed
            for each in (journal, other):
                assert [op.seq for op in each.at("c", "k")] == [4]
                assert each.totals().ops == 1
    journal.tidy()
    assert journal.spool.path.stat().st_size == 0
    assert [one.op.seq for one in journal.everything()] == [4]


def test_an_op_in_both_files_is_pending_once(journal: Journal) -> None:
    """I2, I12: the disk reports an error of a transaction that it has kept all the same: its ops go
    into the spool under their names, and are read and replayed once."""
    with journal.writing() as transaction:
        transaction.add([make(1), make(2)], **BIG)
    journal.spool.append([[make(2), make(3)]])
    assert [op.seq for op in journal.at("c", "k")] == [1, 2, 3]
    assert [one.op.seq for one in journal.first(10)] == [1, 2, 3]
    with journal.writing() as transaction:
        transaction.add([make(4)], **BIG)
    assert [op.seq for op in journal.at("c", "k")] == [1, 2, 3, 4]
    assert journal.totals().ops == 4


def test_replaced_and_discarded_ops_leave_the_spool(journal: Journal) -> None:
    """R1: what changes in the journal is taken over first."""
    journal.spool.append([[make(1)], [make(2)]])
    found = list(journal.everything())
    journal.replace(found[:1], lambda op: make(op.seq + 50, origin=op.name))
    assert [one.op.seq for one in journal.everything()] == [51, 2]
    journal.spool.append([[make(3)]])
    journal.remove([one for one in journal.everything() if one.op.seq == 3], durable=True)
    assert [one.op.seq for one in journal.everything()] == [51, 2]
    assert journal.spool.ops() == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked journal is waited for for less long than in use."""
    monkeypatch.setattr(journal_module, "JOURNAL_WAIT_S", 0.3)


def locked(path: Path) -> apsw.Connection:
    holder = apsw.Connection(str(path))
    holder.execute("BEGIN IMMEDIATE")
    return holder


@pytest.mark.usefixtures("impatient")
def test_writes_of_an_outage_go_into_the_spool(memory: Server, open_it: Open) -> None:
    """D5, I1, I2, I12: with the journal locked they are in the spool, read, and arrive in order;
    what cannot be decided without the primary is refused as ever."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", {"n": 0, "l": []})
    link.down = True
    assert store["c"].increment("k", "/n", 1) == 1
    holder = locked(engine.local_state.journal.path)
    receipt = store["c"].put("other", 1)
    assert receipt.durable_on == "spool"
    assert receipt.version is None
    assert store["c"].increment("k", "/n", 1) == 2
    with store.batch() as batch:
        batch.put("c", "a", 1)
        batch.put("c", "b", 2)
    with pytest.raises(Unavailable) as caught:
        store["c"].put("k", 1, if_version=1)
    assert caught.value.code == "needs_primary"
    assert store["c"].get("k") == {"n": 2, "l": []}
    assert store["c"].get("a") == 1
    assert store.health().lag_ops == 5
    assert store.health().spooled == 4
    holder.execute("ROLLBACK")
    holder.close()
    assert store["c"].increment("k", "/n", 1) == 3
    assert store.health().spooled == 0
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") == {"n": 3, "l": []}
    assert store["c"].get("b") == 2


@pytest.mark.usefixtures("impatient")
def test_a_spool_is_replayed_although_the_journal_is_locked(memory: Server, open_it: Open) -> None:
    """D5, R25: nothing of the journal has to be written for what is in the spool to arrive."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 0)
    link.down = True
    holder = locked(engine.local_state.journal.path)
    for number in range(3):
        assert store["c"].increment("k", "", 1) == number + 1
    link.down = False
    wait_direct(engine)
    assert store["c"].get("k") == 3
    assert store["c"].put("later", 1).durable_on == "primary"
    eventually(lambda: not engine.local_state.journal.spool.ops())
    holder.execute("ROLLBACK")
    holder.close()


@pytest.mark.usefixtures("impatient")
def test_a_spool_outlives_its_process(memory: Server, open_it: Open) -> None:
    """D5, I1, I2: the next process to open the directory replays what is in the spool, once."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 0)
    link.down = True
    holder = locked(engine.local_state.journal.path)
    assert store["c"].increment("k", "", 1) == 1
    kept = engine.local_state.journal.spool.path.read_bytes()
    holder.execute("ROLLBACK")
    holder.close()
    store.close()
    link.down = False
    spooled = engine.local_state.journal.spool.path
    spooled.write_bytes(kept)  # as if the journal had taken it over, and was killed before the end
    store, engine = open_it(link)
    wait_direct(engine)
    assert store["c"].get("k") == 1
    spooled.write_bytes(kept)  # and once more, long after it was applied
    store.close()
    store, engine = open_it(link)
    wait_direct(engine)
    assert store["c"].get("k") == 1


@pytest.mark.usefixtures("impatient")
def test_one_that_may_not_be_read_stops_no_write(
    memory: Server, open_it: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D5, I2, R26: a spool with wrong rights is set aside and named; writes go on, directly and in
    an outage.  With its rights corrected and its name restored, it is replayed, once."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["c"].put("k", 0)
    link.down = True
    holder = locked(engine.local_state.journal.path)
    assert store["c"].increment("k", "", 1) == 1
    path = engine.local_state.journal.spool.path
    kept = path.read_bytes()
    holder.execute("ROLLBACK")
    holder.close()
    store.close()
    path.write_bytes(kept)
    read_regular = spool_module.read_regular

    def read(at: Path) -> Any:
        if at.exists() and at.stat().st_mode & 0o777 == 0:
            raise PermissionError(errno.EACCES, "permission denied")
        return read_regular(at)

    monkeypatch.setattr(spool_module, "read_regular", read)
    path.chmod(0)
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        path.with_name(name).unlink(missing_ok=True)
    store, engine = open_it(link)
    assert store["c"].put("j", 1).durable_on == "journal"
    assert any("spool.jsonl.damaged-" in problem for problem in store.health().problems)
    link.down = False
    wait_direct(engine)
    assert store["c"].put("j", 2).durable_on == "primary"
    assert store["c"].get("k") == 0
    store.close()
    (aside,) = path.parent.glob("spool.jsonl.damaged-*")
    aside.chmod(0o600)
    aside.rename(path)
    for _ in range(2):
        store, engine = open_it(link)
        wait_direct(engine)
        assert store["c"].get("k") == 1
        assert store.health().problems == ()
        store.close()
