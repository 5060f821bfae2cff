"""What Linux, macOS and Windows do differently stands in one room, with how to do without it."""

from __future__ import annotations

import ast
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from standfast.system.platform import duplicate_socket, is_ready
from support.sources import PACKAGE, nodes_of, sources

TESTS = Path(__file__).parents[1]

#: Modules that not every system has, or that are different on each.
MODULES = frozenset("fcntl grp msvcrt posix pwd resource select signal termios winreg".split())
#: What the other rooms may use of `os`: it is there, and means the same, on every system.
EVERYWHERE = frozenset(
    """
    O_CREAT O_EXCL O_RDWR O_WRONLY PathLike SEEK_SET close devnull dup2 environ fsdecode fsencode
    fspath fstat fsync ftruncate getpid listdir lseek lstat open path readlink rename scandir stat
    stat_result truncate urandom write
    """.split()
)


def differing(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Everything in a module that depends on the operating system."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if node.module in MODULES:
                yield node.module
            elif node.module == "os":
                yield from (f"os.{each.name}" for each in node.names if each.name not in EVERYWHERE)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if (node.value.id == "os" and node.attr not in EVERYWHERE) or name == "sys.platform":
                yield name
        elif isinstance(node, ast.Constant) and re.match(r"/(proc|dev|tmp)(/|$)", str(node.value)):
            yield str(node.value)


def test_what_differs_by_operating_system_stands_in_system() -> None:
    """No module outside `system` uses what one of the systems lacks or does in its own way."""
    found = [
        f"{path.relative_to(PACKAGE)}: {what}"
        for path in sources()
        if path.parent.name != "system"
        for what in differing(nodes_of(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import fcntl", "fcntl"),
        ("from select import poll", "select"),
        ("from os import fork", "os.fork"),
        ("import os\nos.register_at_fork()", "os.register_at_fork"),
        ("import os\nflags = os.O_DIRECTORY", "os.O_DIRECTORY"),
        ("import sys\nif sys.platform == 'win32': pass", "sys.platform"),
        ("PATH = '/proc/self/mounts'", "/proc/self/mounts"),
    ],
)
def test_the_search_finds_what_it_looks_for(code: str, what: str) -> None:
    """Each way to depend on the operating system is found."""
    assert list(differing(ast.walk(ast.parse(code)))) == [what]


def use_on_lesser_system(folder: Path, *words: str) -> None:
    """Run `support.lesser_system` in a folder, to its end."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "support.lesser_system", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["done"]), ran.stderr


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux")
def test_embedded_store_json_file_and_commands_need_no_posix(tmp_path: Path) -> None:
    """Without fork, flock, poll, modes and directory handles all of it works, to the byte."""
    use_on_lesser_system(tmp_path, "embedded")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed by Linux")
def test_postgresql_mode_needs_no_posix(tmp_path: Path, pg_database: str) -> None:
    """There too: connections, mirror, lanes and their locks; nothing of it is left out."""
    use_on_lesser_system(tmp_path, "postgresql", pg_database)


@pytest.fixture(params=["poll", "select"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wait for a socket."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


@pytest.mark.usefixtures("waiting")
def test_a_socket_is_ready_when_there_is_something_to_read_or_room_to_write() -> None:
    """Ready means: to be read or written without waiting; the end of a stream can be read."""
    one, other = socket.socketpair()
    with one, other:
        assert not is_ready(one.fileno())
        assert is_ready(one.fileno(), writing=True)
        other.send(b"x")
        assert is_ready(one.fileno(), timeout_s=60)
        assert one.recv(1) == b"x"
        assert not is_ready(one.fileno(), timeout_s=0.001)
        other.close()
        assert is_ready(one.fileno(), timeout_s=60)


@pytest.mark.usefixtures("waiting")
def test_a_refused_connection_is_ready() -> None:
    """Waiting for a connection ends when it is refused, not when the time is up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with socket.socket() as client:
        client.setblocking(False)
        client.connect_ex(address)
        assert is_ready(client.fileno(), writing=True, timeout_s=60)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_shutting_down_a_duplicate_ends_the_socket() -> None:
    """A duplicate is closed by itself, and shut down together with its original."""
    one, other = socket.socketpair()
    with one, other:
        duplicate_socket(one.fileno()).close()
        assert not is_ready(other.fileno())
        with duplicate_socket(one.fileno()) as twin:
            twin.shutdown(socket.SHUT_RDWR)
        assert (one.recv(1), other.recv(1)) == (b"", b"")
