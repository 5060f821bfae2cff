"""The status of a store over HTTP, served in a thread of this process on a free port."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOKEN = "t0ken-for-tests-only"


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True)
class Served:
    """A server, and a client for it."""

    port: int
    prefix: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}/"

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float = 10.0,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, self.prefix + path, body, dict(headers or {}))
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, text)
        finally:
            connection.close()

    def raw(self, data: bytes, *, timeout_s: float = 5.0) -> bytes:
        """Send these bytes, and return what comes back until the server ends it or says nothing."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as found:
            found.sendall(data)
            found.shutdown(socket.SHUT_WR)
            parts: list[bytes] = []
            try:
                while part := found.recv(65536):
                    parts.append(part)
            except (TimeoutError, ConnectionError):
                pass
            return b"".join(parts)


@contextmanager
def serving(
    url: str | None, data_dir: Path, *, token: str | None = TOKEN, prefix: str = ""
) -> Iterator[Served]:
    """Serve the status of a store; with a prefix, mounted in another app."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from standfast.admin.serve import create_app

    app = create_app(url, data_dir=data_dir, token=token)
    whole = Starlette(routes=[Mount(prefix, app)]) if prefix else app
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        whole,
        log_level="critical",
        http="h11",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield Served(listening.getsockname()[1], prefix)
    finally:
        server.should_exit = True
        thread.join(10)
        app.close()
        listening.close()
