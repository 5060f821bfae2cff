"""Lanes: others can tell whether the process of a lane is alive, whatever has killed it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import standfast
from standfast import StandfastError, Unavailable
from standfast.engine.journal import Journal
from standfast.engine.lanes import FOLDER, Lane, forget, is_dead
from standfast.engine.sqlite_file import LocalFile
from standfast.system.locks import FileLock
from support.faulty import eventually

_HOLDER = """
import sys
from pathlib import Path
from standfast.engine.lanes import Lane

lane = Lane(Path(sys.argv[1]))
print(lane.id, flush=True)
sys.stdin.readline()
"""


def holder(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.process
def test_a_lane_is_dead_when_its_process_is(tmp_path: Path) -> None:
    """R1: a lane is alive while its process is, also a stopped one, and dead after kill -9."""
    process, lane = holder(tmp_path)
    assert not is_dead(tmp_path, lane)
    os.kill(process.pid, signal.SIGSTOP)
    assert not is_dead(tmp_path, lane)
    process.kill()
    process.communicate()
    assert is_dead(tmp_path, lane)
    assert (tmp_path / FOLDER / f"{lane}.lock").exists()
    forget(tmp_path, lane)
    assert is_dead(tmp_path, lane)
    forget(tmp_path, lane)


def test_a_lane_of_this_process_is_alive_to_it(tmp_path: Path) -> None:
    """R1: looking from the same process sees its own lanes alive, and frees none of them."""
    lane = Lane(tmp_path)
    for _ in range(2):
        assert not is_dead(tmp_path, lane.id)
    lane.end()
    assert is_dead(tmp_path, lane.id)
    assert not (tmp_path / FOLDER / f"{lane.id}.lock").exists()


def test_lanes_in_a_copied_directory_are_dead(tmp_path: Path) -> None:
    """R1: a copy of a data directory holds the files of lanes, and nobody's locks."""
    lane = Lane(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert is_dead(tmp_path / "copy", lane.id)
    assert not is_dead(tmp_path / "data", lane.id)
    lane.end()


def test_names_and_sequences_are_given_once(tmp_path: Path) -> None:
    """R1: every lane has a name of its own, and a sequence is never given twice."""
    lanes = [Lane(tmp_path) for _ in range(5)]
    assert len({lane.id for lane in lanes}) == 5
    assert [lanes[0].next_seq() for _ in range(3)] == [1, 2, 3]
    assert lanes[1].next_seq() == 1
    for lane in lanes:
        lane.end()


@pytest.mark.process
def test_a_forked_child_lets_go_without_freeing(tmp_path: Path) -> None:
    """R1: the lane stays the parent's when its child ends, and dies with the parent alone."""
    code = """
import os, sys
from pathlib import Path
from standfast.engine.lanes import Lane

lane = Lane(Path(sys.argv[1]))
ended, told = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(told, b"x")
    os.close(told)
    sys.stdin.readline()  # the child lives on
    os._exit(0)
os.read(ended, 1)
print(lane.id, pid, flush=True)
os.kill(os.getpid(), __import__("signal").SIGSTOP)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert parent.stdout is not None
    lane, child = parent.stdout.readline().split()
    assert not is_dead(tmp_path, lane)
    parent.kill()
    parent.wait()
    assert is_dead(tmp_path, lane)
    os.kill(int(child), 0)  # the child is still there
    assert parent.stdin is not None
    parent.stdin.close()
    eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(int(child)))
    parent.stdout.close()


def _is_zombie(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_only_one_gets_a_lock(tmp_path: Path) -> None:
    """One process of a directory replays at a time: a lock is had by one, and can be had again."""
    first, second = FileLock(tmp_path / "drain.lock"), FileLock(tmp_path / "drain.lock")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert first.held
    assert not second.held
    first.release()
    first.release()
    assert second.acquire()
    second.release()


def test_a_store_that_wrote_nothing_leaves_no_lane(tmp_path: Path) -> None:
    """R1: an open that is refused, and a store that is closed in an outage without a write, leave
    nothing that somebody has to fence."""
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with pytest.raises(StandfastError):
        standfast.open(nowhere, data_dir=tmp_path, deadline_s=0.2, fallback="off")
    assert left(tmp_path) == ([], [])
    with standfast.open(nowhere, data_dir=tmp_path, deadline_s=0.2):
        assert len(left(tmp_path)[0]) == 1
    assert left(tmp_path) == ([], [])
    with standfast.open(nowhere, data_dir=tmp_path, deadline_s=0.2) as store:
        store["c"].put("k", 1)
        lane = store.health().lane
    assert left(tmp_path) == ([lane], [f"{lane}.lock"])


def left(data_dir: Path) -> tuple[list[str], list[str]]:
    """The lanes that the next process would fence, and the files of lanes."""
    journal = Journal(data_dir)
    try:
        return journal.lanes(), sorted(os.listdir(data_dir / FOLDER))
    finally:
        journal.close()


def test_a_lane_is_noted_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1, R25: where the journal cannot take it, a lane is known all the same: to this process, to
    the next one and to a look, until it is closed."""
    journal = Journal(tmp_path)
    lane = Lane(tmp_path)

    @contextmanager
    def is_full(*_: object, **__: object) -> Iterator[None]:
        raise Unavailable("the disk is full", code="disk_full", hint="free space")
        yield

    with monkeypatch.context() as full:
        full.setattr(LocalFile, "writing", is_full)
        journal.open_lane(lane.id)
    assert lane.id in journal.opened
    journal.close()
    lane.lock.release()  # its process is killed
    for only_look in (True, False):
        journal = Journal(tmp_path, only_look=only_look)
        assert journal.lanes() == [lane.id]
        assert is_dead(tmp_path, lane.id)
        if not only_look:
            assert journal.close_lane(lane.id)
            forget(tmp_path, lane.id)
        journal.close()
    assert left(tmp_path) == ([], [])
