"""Spool, snapshots and reserve, killed at each marked step: nothing is lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from standfast.engine import reserve
from standfast.engine.journal import Journal
from standfast.engine.reserve import Reserve
from standfast.engine.snapshot import Snapshots
from standfast.engine.spool import Spool
from standfast.limits import RESERVE_BYTES
from support.outage_points import LAST_RESORT

_START = """
import sys
from pathlib import Path
from standfast.engine.journal import Journal
from standfast.engine.snapshot import Snapshots
from standfast.engine.spool import Spool
from standfast.ops.types import Op, Row
folder = Path(sys.argv[1])
def op(n):
    return Op(lane="l", seq=n, kind="put", collection="c", key="k", body=str(n), at_us=n)
"""
_SPOOL = """
spool = Spool(folder)
for n in (1, 2, 3):
    spool.append([[op(n)]])
    print(n, flush=True)
"""
_TAKEN_OVER = """
journal = Journal(folder)
journal.spool.append([[op(1)]])
print(1, flush=True)
with journal.writing() as transaction:
    transaction.add([op(2)], max_ops=10**6, max_bytes=10**9)
print(2, flush=True)
"""
_FULL = """
import standfast
from standfast.engine import reserve
from standfast.engine.journal import Journal
from standfast.engine.reserve import Reserve
journal = Journal(folder)
with journal.writing() as transaction:
    transaction.add([op(1)], max_ops=10**6, max_bytes=10**9)
journal.close()
Reserve(folder).fill()
print(1, flush=True)
reserve.free_bytes = lambda _: 0
standfast.open("memory://", data_dir=folder)
"""
_ANEW = """
import os
journal = Journal(folder)
def add(n):
    with journal.writing() as transaction:
        transaction.add([op(n)], max_ops=10**6, max_bytes=10**9)
    print(n, flush=True)
add(1)
add(2)
os.unlink(journal.path)
for _ in range(2):  # whoever meets the damage notices it, and the next one writes it anew
    journal.tidy()
"""
_SNAPSHOT = """
snapshots = Snapshots(folder)
for n in (1, 2):
    snapshots.write(
        "c", lambda: [Row("k", str(n), n, 0, 0)], history="h", seen_us=n, watermarks={}
    )
    print(n, flush=True)
"""


def killed(program: str, folder: Path, failpoint: str) -> list[int]:
    """The numbers that the program acknowledged before it was killed at this step."""
    done = subprocess.run(
        [sys.executable, "-c", _START + program, str(folder)],
        env=os.environ | {"STANDFAST_FAILPOINT": failpoint},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return [int(line) for line in done.stdout.split()]


@pytest.mark.process
@pytest.mark.parametrize("step", ["spool-before-write", "spool-written", "spool-synced"])
def test_a_spool_keeps_what_it_acknowledged(tmp_path: Path, step: str) -> None:
    """I1: each acknowledged line is there once, in order, after a kill while one is appended."""
    assert killed(_SPOOL, tmp_path, f"{step}@2") == [1]
    assert [one.seq for one in Spool(tmp_path).ops()] in ([1], [1, 2])


@pytest.mark.process
def test_a_spool_that_the_journal_took_over_is_there_once(tmp_path: Path) -> None:
    """I2: a kill right after the spool was emptied leaves each write once, in the journal."""
    assert killed(_TAKEN_OVER, tmp_path, "spool-emptied") == [1]
    journal = Journal(tmp_path)
    try:
        assert [one.op.seq for one in journal.everything()] in ([1], [1, 2])
    finally:
        journal.close()


@pytest.mark.process
def test_a_reserve_that_was_given_up_is_made_again(tmp_path: Path) -> None:
    """I1: a start that is killed when it has given up the reserve leaves every write, and the next
    one that finds room makes the reserve again."""
    assert killed(_FULL, tmp_path, "reserve-given-up") == [1]
    assert not (tmp_path / reserve.FILE).exists()
    journal = Journal(tmp_path)
    try:
        assert [one.op.seq for one in journal.everything()] == [1]
    finally:
        journal.close()
    Reserve(tmp_path).fill()
    assert (tmp_path / reserve.FILE).stat().st_size == RESERVE_BYTES


@pytest.mark.process
def test_a_journal_that_was_written_anew_is_whole(tmp_path: Path) -> None:
    """I1: a kill right after a journal that was removed is written anew leaves what it had."""
    assert killed(_ANEW, tmp_path, "journal-written-anew") == [1, 2]
    journal = Journal(tmp_path)
    try:
        assert [one.op.seq for one in journal.everything()] == [1, 2]
    finally:
        journal.close()


@pytest.mark.process
def test_a_kill_while_a_journal_is_written_anew_is_named(tmp_path: Path) -> None:
    """What only the removed file had is lost with the process that had it open, and is counted."""
    assert killed(_ANEW, tmp_path, "journal-begun-anew") == [1, 2]
    journal = Journal(tmp_path)
    try:
        assert [one.op.seq for one in journal.everything()] == []
        assert [loss.lost for loss in journal.losses()] == [2]
    finally:
        journal.close()


@pytest.mark.process
@pytest.mark.parametrize(
    ("step", "found"), [("snapshot-before-write@2", None), ("snapshot-written@2", "2")]
)
def test_a_snapshot_is_whole_or_not_read(tmp_path: Path, step: str, found: str | None) -> None:
    """I12: a kill while a snapshot is written leaves none that is read, or the new one."""
    assert killed(_SNAPSHOT, tmp_path, step) == [1]
    row = Snapshots(tmp_path).row("c", "k", history="h")
    assert (row and row.state.text) == found


def test_each_step_of_the_last_resort_is_killed_at() -> None:
    """The steps that `support.outage_points` leaves to this file are the ones above."""
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in LAST_RESORT if f'"{name}' not in here] == []
