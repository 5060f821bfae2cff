"""A real PostgreSQL server that tests may stop, kill, freeze and start again.

    with Cluster() as cluster:
        psycopg.connect(cluster.url())

Each cluster is a data directory of its own below a fresh temporary directory, reachable over TCP
on 127.0.0.1 (password, scram-sha-256) and over a Unix socket (trust). It works as root and as an
ordinary user. Nothing of it outlives the process that made it: see `support.watchdog`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from support import watchdog
from support.passwords import quick_verifier
from support.pgbin import ClusterError, programs, short_tempdir

StopMode = Literal["smart", "fast", "immediate"]

_STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

_CONF = {
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "jit": "off",
    "update_process_title": "off",
    # In the data directory, so that nothing stays in /dev/shm after a kill.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
#: For servers whose machine never crashes, and in which nothing lives long enough to be vacuumed.
_UNFLUSHED = {"fsync": "off", "autovacuum": "off"}


#: Ports that servers may get: below the range from which systems take the ports of clients.
_PORTS = range(15_000, 32_000)
#: Workers of pytest-xdist each have a part of them, so that the port of a server that a test has
#: stopped is not given to another worker's.
_PARTS = 16

#: False while tests run that must not need a server.
allowed = True


class Cluster:
    """One PostgreSQL server: made at construction, running between `start` and `stop` or `kill`.

    Without `fsync` the files are in memory where there is room, and a commit survives every end of
    a process, which is all that tests can cause; `fsync=True`, on disk, is for measurements. `conf`
    holds further settings of postgresql.conf. The address and the password stay the same over
    restarts, so URLs do too.
    """

    user = "postgres"

    def __init__(self, *, fsync: bool = False, conf: Mapping[str, str] | None = None) -> None:
        if not allowed:
            raise ClusterError("these tests were to run without a server: mark this one `pg`")
        self._programs = programs()
        self._owner_pid = os.getpid()
        self._server: subprocess.Popen[bytes] | None = None
        self.bin = self._programs.bin
        self.psql = self.bin / "psql"
        # What a URL must escape is in it: code that forgets to unescape fails here, not in use.
        self.password = secrets.token_urlsafe(12) + "/@:% é"
        self.port = _free_port()
        self.root = short_tempdir("sf-pg-", in_memory=not fsync)
        self.data = self.root / "data"
        self.socket_dir = self.root / "s"
        self.log = self.root / "log"
        self._programs.give(self.root)
        self._watchdog = watchdog.guard(self.root)
        atexit.register(self.close)
        try:
            self._initdb()
            self.socket_dir.mkdir(mode=0o700)
            self._programs.give(self.socket_dir)
            flush = {} if fsync else _UNFLUSHED
            self.configure(_CONF | flush | {"unix_socket_directories": str(self.socket_dir)})
            self.configure(conf or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<Cluster 127.0.0.1:{self.port} {state}>"

    @property
    def running(self) -> bool:
        """Whether the postmaster lives (frozen counts as living)."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process id; ClusterError when it does not run."""
        if self._server is None or not self.running:
            raise ClusterError("the server is not running")
        return self._server.pid

    def url(self, dbname: str = "postgres", *, unix: bool = False) -> str:
        """The URL of a database: over TCP with the password, or with `unix` over the socket."""
        name = quote(dbname, safe="")
        if unix:
            where = quote(str(self.socket_dir), safe="")
            return f"postgresql://{self.user}@/{name}?host={where}&port={self.port}"
        password = quote(self.password, safe="")
        return f"postgresql://{self.user}:{password}@127.0.0.1:{self.port}/{name}"

    def configure(self, settings: Mapping[str, str]) -> None:
        """Add settings to postgresql.conf, later ones winning; they act at `reload` or `start`."""
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            for name, value in settings.items():
                quoted = value.replace("'", "''")
                conf.write(f"{name} = '{quoted}'\n")

    def reload(self) -> None:
        """Make the server read its configuration again; it does so shortly after."""
        os.kill(self.pid, signal.SIGHUP)

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Start the server and return when it takes connections; nothing to do if it runs."""
        if self.running:
            return self
        if not self.root.exists():
            raise ClusterError("the cluster is closed")
        attempts = 1 if self._server else 5  # once it has served, its URLs are in use
        for attempt in range(attempts):
            try:
                self._launch(timeout_s)
            except _PortTakenError:
                if attempt == attempts - 1:
                    raise
                self.port = _free_port()
            else:
                break
        return self

    def stop(self, mode: StopMode = "fast", *, timeout_s: float = 60.0) -> None:
        """Shut the server down and return when it is gone; a frozen one is thawed first.

        `fast` ends sessions and writes a checkpoint, `smart` waits for the sessions to end, and
        `immediate` leaves recovery to the next start.
        """
        if self._server is None or not self.running:
            return
        self.thaw()
        os.kill(self._server.pid, _STOP_SIGNALS[mode])
        try:
            self._server.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"no end of the server {timeout_s} s after a {mode} stop") from None
        if not watchdog.wait_gone(self.root, timeout_s=timeout_s):
            raise ClusterError(f"processes of the server outlive its {mode} stop")

    def kill(self) -> None:
        """SIGKILL every process of the server at once: a crash of the machine, as clients see it.

        Returns when all are gone, so that `start` can follow.
        """
        watchdog.send(watchdog.members(self.root), signal.SIGKILL)
        if self._server is not None:
            self._server.wait()
        while not watchdog.wait_gone(self.root, timeout_s=0.2):
            watchdog.send(watchdog.members(self.root), signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP every process: the kernel still acknowledges packets, nobody answers them."""
        frozen: set[int] = set()
        while True:  # again, until no backend was forked meanwhile
            fresh = [one for one in watchdog.members(self.root) if one.pid not in frozen]
            if not fresh:
                return
            watchdog.send(fresh, signal.SIGSTOP)
            frozen.update(one.pid for one in fresh)

    def thaw(self) -> None:
        """SIGCONT every process: the opposite of `freeze`."""
        watchdog.send(watchdog.members(self.root), signal.SIGCONT)

    def close(self) -> None:
        """End the server in whatever state it is and remove its files; again is harmless."""
        if os.getpid() != self._owner_pid:  # a forked child inherits the exit handler only
            return
        atexit.unregister(self.close)
        if self._server is not None and self.running:
            self.thaw()
            with contextlib.suppress(subprocess.TimeoutExpired):
                os.kill(self._server.pid, signal.SIGQUIT)
                self._server.wait(10)
        self._watchdog.communicate()  # closes its stdin: it clears up what is left, and ends
        if self._server is not None:
            self._server.wait()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def _initdb(self) -> None:
        password_file = self.root / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(quick_verifier(self.password) + "\n", encoding="utf-8")
        self._programs.give(password_file)
        command = [self.bin / "initdb", "-D", self.data, "-U", self.user]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        command += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        options = self._programs.popen_options()
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.root, **options)
        password_file.unlink()
        if done.returncode != 0:
            raise ClusterError(f"initdb failed: {done.stderr.strip()}")

    def _launch(self, timeout_s: float) -> None:
        options = self._programs.popen_options()
        command = [self.bin / "postgres", "-D", self.data, "-c", f"port={self.port}"]
        start_at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                command,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal is for the tests alone
                **options,
            )
        try:
            self._wait_ready(server, time.monotonic() + timeout_s, start_at)
        except BaseException:
            server.kill()
            server.wait()
            raise
        self._server = server

    def _wait_ready(self, server: subprocess.Popen[bytes], deadline: float, start_at: int) -> None:
        status = self.data / "postmaster.pid"
        while True:
            with contextlib.suppress(FileNotFoundError):
                lines = status.read_text().splitlines()
                if lines[:1] == [str(server.pid)] and "ready" in "".join(lines[7:8]):
                    return
            if server.poll() is not None:
                if b"could not bind" in self.log.read_bytes()[start_at:]:
                    raise _PortTakenError(f"port {self.port} is taken")
                raise ClusterError(f"the server ended while starting:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"the server is not ready in time:\n{self.log_tail()}")
            time.sleep(0.01)


class _PortTakenError(ClusterError):
    """Somebody else took the port between choosing and binding it."""


def _free_port() -> int:
    """A free TCP port of this worker's, below the range from which systems take those of clients.

    Inside that range a client that tries again and again while the server is down can be given the
    server's own port, connect to itself, and keep the server from coming back.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(200):
        port = random.SystemRandom().choice(_PORTS[worker % _PARTS :: _PARTS])
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ClusterError("no free TCP port found on 127.0.0.1")
