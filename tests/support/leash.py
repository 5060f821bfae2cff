"""Keeps single processes from outliving a test, or from staying frozen.

    with Leash() as leash:
        leash.kill_at_end(worker.pid)
        leash.thaw_after(backend_pid, 5.0)

The leash is a process with a pipe from the owner on stdin. End of file on that pipe means that the
owner closed it or died, in whatever way: then everything is thawed, and what is to be killed is
killed. A process is known by its id and the time of its birth, so nobody else's is ever signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Self

import psutil


class Leash:
    """The owner's end: tells the process which others to look after."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal must not end it
            cwd="/",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill_at_end(self, pid: int) -> None:
        """SIGKILL this process when the owner is gone or closes the leash."""
        self._tell(pid, {"kill": True})

    def thaw_after(self, pid: int, limit_s: float) -> None:
        """SIGCONT this process when so much time has passed, or when the owner is gone."""
        self._tell(pid, {"limit_s": limit_s})

    def close(self) -> None:
        """Thaw and kill what is still there, and return when that is done.  Idempotent."""
        self._process.communicate()

    def _tell(self, pid: int, what: dict[str, Any]) -> None:
        stdin = self._process.stdin
        assert stdin is not None, "it was made with a pipe"
        with contextlib.suppress(psutil.NoSuchProcess):
            line = {"pid": pid, "born": psutil.Process(pid).create_time(), **what}
            stdin.write(json.dumps(line).encode() + b"\n")
            stdin.flush()


def same_process(pid: int, born: float) -> psutil.Process | None:
    """The living process with this id and time of birth, or None."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def signal_one(line: dict[str, Any], signum: signal.Signals) -> None:
    process = same_process(line["pid"], line["born"])
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)


def main() -> None:
    """Follow the owner's lines, thaw what is due, and clear up when the owner is gone."""
    lines: list[dict[str, Any]] = []
    thaws: list[tuple[float, dict[str, Any]]] = []
    buffer = b""
    while True:
        next_s = max(0.0, min(at for at, _ in thaws) - time.monotonic()) if thaws else None
        if select.select([sys.stdin], [], [], next_s)[0]:
            chunk = os.read(sys.stdin.fileno(), 65536)
            if not chunk:
                break
            *whole, buffer = (buffer + chunk).split(b"\n")
            for line in map(json.loads, whole):
                lines.append(line)
                if "limit_s" in line:
                    thaws.append((time.monotonic() + line["limit_s"], line))
        due = [entry for entry in thaws if entry[0] <= time.monotonic()]
        for entry in due:
            thaws.remove(entry)
            signal_one(entry[1], signal.SIGCONT)
    for line in lines:
        signal_one(line, signal.SIGCONT)
        if line.get("kill"):
            signal_one(line, signal.SIGKILL)


if __name__ == "__main__":
    main()
