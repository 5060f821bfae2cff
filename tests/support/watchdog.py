"""Ends a test PostgreSQL whose owner is gone, frozen processes included.

`guard` runs this file as a process with a pipe from the owner on stdin. End of file on that pipe
means that the owner closed it or died, in whatever way: then every server process below the guarded
directory is thawed and ended, and the directory is removed. Only processes that `members` finds are
ever signalled.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

#: What a cluster consists of: the server, and initdb while it is being made.
_PROGRAMS = frozenset({"postgres", "initdb"})


def guard(root: Path) -> subprocess.Popen[bytes]:
    """Watch over `root` from now on; `communicate()` on the result clears it and returns after."""
    return subprocess.Popen(
        [sys.executable, __file__, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C at the terminal must not end the guard
        cwd="/",
    )


def members(root: Path) -> list[psutil.Process]:
    """Every living process of the cluster below `root`, the postmaster first.

    A process belongs to it when its program is PostgreSQL's and it works in the data directory or
    names `root` on its command line. Backends that outlive a killed postmaster are found too.
    Zombies are not: nothing of them runs.
    """
    found: list[psutil.Process] = []
    data = str(root / "data")
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.name() not in _PROGRAMS or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.cwd() == data or any(str(root) in word for word in process.cmdline()):
                found.append(process)
    first = postmaster_pid(root)
    return sorted(found, key=lambda process: process.pid != first)


def postmaster_pid(root: Path) -> int | None:
    """The process id in `postmaster.pid`, or None when there is no such file."""
    try:
        return int((root / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def send(processes: list[psutil.Process], signum: signal.Signals) -> None:
    """Send a signal to each process that still exists."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)


def wait_gone(root: Path, *, timeout_s: float) -> bool:
    """Wait until no process of the cluster lives; False when some still do after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while members(root):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def clear(root: Path, *, grace_s: float = 5.0) -> None:
    """Thaw and end the cluster below `root`, then remove `root`.

    The postmaster is asked first (immediate shutdown, which also frees its shared memory); whatever
    lives after `grace_s` seconds is killed.
    """
    alive = members(root)
    send(alive, signal.SIGCONT)
    first = postmaster_pid(root)
    send([process for process in alive if process.pid == first], signal.SIGQUIT)
    if not wait_gone(root, timeout_s=grace_s if alive else 0.0):
        send(members(root), signal.SIGKILL)
        wait_gone(root, timeout_s=grace_s)
    shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    """Wait for the owner to go, then clear until nothing is left (initdb may still be writing)."""
    root = Path(sys.argv[1])
    sys.stdin.buffer.read()
    for _ in range(10):
        clear(root)
        if not root.exists():
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
