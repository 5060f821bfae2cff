"""Debian's PgBouncer before a test PostgreSQL, as a transaction pooler that no URL speaks of.

It is installed when it is missing and can be; `why_no_pgbouncer` says why it is not there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from support.leash import Leash
from support.pgbin import programs

_INSTALL = ["apt-get", "install", "-y", "--no-install-recommends", "pgbouncer"]


@functools.cache
def why_no_pgbouncer() -> str:
    """Why there is no PgBouncer here; empty when there is one."""
    if _program():
        return ""
    if os.geteuid() or shutil.which("apt-get") is None:
        return "pgbouncer is not installed, and cannot be by this user"
    done = subprocess.run(_INSTALL, capture_output=True, text=True, timeout=300)
    return "" if _program() else f"pgbouncer cannot be installed: {done.stderr.strip()[-200:]}"


def _program() -> str | None:
    return shutil.which("pgbouncer", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


@contextmanager
def pooled(url: str, folder: Path, *, size: int = 1) -> Generator[str]:
    """The URL of the same database through a pooler that shares `size` sessions."""
    parts = urlsplit(url)
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    password = unquote(parts.password or "").replace("'", "''")
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host={parts.hostname} port={parts.port} user={parts.username} password='{password}'\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = {size}\nmax_client_conn = 100\n"
        "ignore_startup_parameters = extra_float_digits,options\n",
        encoding="utf-8",
    )
    owner = programs()
    owner.give(folder)
    owner.give(config)
    program = _program()
    assert program is not None, "ask why_no_pgbouncer first"
    options = owner.popen_options()
    with (folder / "log").open("wb") as log, config.open("rb") as stdin, Leash() as leash:
        # It refuses to run as root, and cannot look into root's folders.
        options |= {"stdin": stdin.fileno()}
        command = [program, "/dev/stdin"]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **options)
        leash.kill_at_end(process.pid)
        try:
            _wait_listening(port, process)
            yield url.replace(f":{parts.port}/", f":{port}/")
        finally:
            process.kill()
            process.wait()


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise RuntimeError("pgbouncer does not listen")
