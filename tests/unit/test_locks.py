"""The lock on a file that lanes, the drain of a journal and migrations use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from standfast.system import locks
from standfast.system.locks import FileLock

_HOLDER = """
import sys, time
{without}
from pathlib import Path
from standfast.system.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["fcntl", "without fcntl"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With this system's locks, and as on one that has no `fcntl`."""
    if request.param != "fcntl":
        monkeypatch.setattr(locks, "fcntl", None)
    return str(request.param)


def test_one_holder_at_a_time(tmp_path: Path, kind: str) -> None:
    """A lock is had by one, can be had again, and its file is for its owner's eyes only."""
    path = tmp_path / "one.lock"
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert (first.held, second.held) == (True, False)
    second.release()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.process
def test_a_killed_process_frees_its_lock(tmp_path: Path, kind: str) -> None:
    """kill -9 frees a lock, and before that another process cannot have it."""
    path = tmp_path / "one.lock"
    without = "" if kind == "fcntl" else "sys.modules['fcntl'] = None"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER.format(without=without), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "True\n"
        lock = FileLock(path)
        assert not lock.acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert lock.acquire()
    lock.release()


def test_a_forked_child_does_not_have_it(tmp_path: Path) -> None:
    """A child of a fork neither holds its parent's lock nor frees it, and does not keep it."""
    path = tmp_path / "one.lock"
    lock = FileLock(path)
    assert lock.acquire()
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        took = lock.held or FileLock(path).acquire()
        lock.release()
        os.write(ready[1], b"held" if took else b"free")
        os.read(go[0], 1)
        os._exit(0)
    assert os.read(ready[0], 4) == b"free"
    other = FileLock(path)
    assert not other.acquire()
    lock.release()
    assert other.acquire()
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    other.release()
    for fd in (*ready, *go):
        os.close(fd)


def test_what_cannot_be_locked_is_an_os_error(tmp_path: Path, kind: str) -> None:
    """A directory that is not there is the caller's to explain: OSError, no lock."""
    lock = FileLock(tmp_path / "missing" / "one.lock")
    with pytest.raises(OSError, match="missing"):
        lock.acquire()
    assert not lock.held
