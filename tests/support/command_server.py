"""Runs `standfast ARGS` in a process of its own, without starting an interpreter for each.

    command = start(["migrate", "a.json"], env=..., cwd=...)
    out, err = command.communicate(timeout=60)
    start(["night"], env=..., cwd=..., program=Path("bot.py"))  # the same for any program

A server process imports what the commands need, once, and forks for each: that takes a few
milliseconds, a start a quarter of a second. The forked process has the environment, the directory
and the output that it was given, opens its own files and connections, and dies of SIGKILL like any
other. Its parent is a process that waits for it and reports how it ended.
"""

from __future__ import annotations

import functools
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO

_MOST_BYTES = 256 * 1024
#: The packages in which the commands find everything.
_ROOMS = ("admin", "api", "backends", "cli", "migrate")


class Command:
    """A command that was started; like `subprocess.Popen`, as far as the tests need it."""

    def __init__(self, report: int, out: IO[bytes], err: IO[bytes]) -> None:
        self._report = os.fdopen(report, "rb")
        self._out, self._err = out, err
        self.pid = int(self._report.readline())
        self.returncode: int | None = None

    def communicate(self, *, timeout: float) -> tuple[str, str]:
        """What it has printed, when it has ended; subprocess.TimeoutExpired and a kill before."""
        if not select.select([self._report], [], [], timeout)[0]:
            os.kill(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired("standfast", timeout)
        self.returncode = int(self._report.readline())
        self._report.close()
        texts: list[str] = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode("utf-8"))
            file.close()
        return texts[0], texts[1]


def start(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, program: Path | None = None
) -> Command:
    """Start `standfast ARGUMENTS`, or this program, with this environment in this directory."""
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - `communicate`
    report, reporting = os.pipe()
    request = {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd)}
    request["program"] = str(cwd / program) if program else None
    message = json.dumps(request).encode()
    assert len(message) < _MOST_BYTES, "the request fits into one message"
    socket.send_fds(_server(os.getpid()), [message], [out.fileno(), err.fileno(), reporting])
    os.close(reporting)
    return Command(report, out, err)


@functools.cache
def _server(_pid: int) -> socket.socket:
    """The connection to the server of this process; the server ends with it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.command_server", str(its.fileno())],
            env={**os.environ, "PYTHONPATH": paths, "LC_ALL": "C.UTF-8"},
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )
    _SERVERS.append(process)
    return ours


#: Kept, since a Popen that is thrown away while its process lives warns.
_SERVERS: list[subprocess.Popen[bytes]] = []


def serve(requests: socket.socket) -> dict[str, object] | None:
    """Fork for every request; in the process that has to run a command, that."""
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not message:
            return None
        if not os.fork():
            requests.close()
            return _supervise(json.loads(message), *fds)
        for fd in fds:
            os.close(fd)


def _supervise(request: dict[str, object], out: int, err: int, report: int) -> dict[str, object]:
    """Fork once more, for the command, and report how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        os.write(report, f"{pid}\n".encode())
        status = os.waitpid(pid, 0)[1]
        os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(report)
    for fd, standard in ((out, 1), (err, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    become(request)
    return request


def become(request: dict[str, object]) -> None:
    """Take on the directory, the environment and the arguments of a request."""
    from standfast.system import failpoints

    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    sys.argv[1:] = request["arguments"]  # type: ignore[assignment]
    # Read at the import, which was before.
    name, _, count = os.environ.get("STANDFAST_FAILPOINT", "").partition("@")
    failpoints._wanted, failpoints._left = name, int(count or 1) if name else 0


def main() -> None:
    """Import everything, then serve; in a process that is to run a command, run it."""
    for room in _ROOMS:
        package = import_module(f"standfast.{room}")
        for found in pkgutil.walk_packages(package.__path__, f"standfast.{room}."):
            import_module(found.name)
    from standfast.cli.main import run

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    if request["program"] is None:
        run()
    program = str(request["program"])
    sys.argv[0], sys.path[0] = program, str(Path(program).parent)
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
