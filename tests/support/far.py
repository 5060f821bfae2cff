"""A far PostgreSQL: a line with a round trip, a bandwidth, TLS and cuts before a near one.

    with Far(cluster.port, rtt_ms=80, bandwidth=1_000_000) as far:
        store = standfast.open(far.url(cluster.url()), ...)
        far.cut_after(20_000, way="down")

The line is a process of its own (`support.far_line`), so that it neither slows the app nor is
slowed by it; it ends with its owner.  A setting is in force when the call returns.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

Way = Literal["up", "down"]
How = Literal["rst", "fin"]
Tls = Literal["on", "reset"]


class Far:
    """One line to a port.  `bandwidth` is in bytes a second, in each direction."""

    def __init__(
        self,
        upstream_port: int,
        *,
        host: str = "127.0.0.1",
        at: tuple[str, int] = ("127.0.0.1", 0),
        rtt_ms: float = 0.0,
        bandwidth: float | None = None,
        up: float | None = None,
        down: float | None = None,
        tls: Tls | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        config: dict[str, Any] = {"host": host, "port": upstream_port, "at": at}
        if tls:
            assert certificate is not None, "TLS needs a key and a certificate"
            config |= {"tls": tls, "key": str(certificate[0]), "cert": str(certificate[1])}
        self._tls = tls
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("far_line.py")), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C at the terminal is for the tests alone
        )
        self.port: int = self._read()["port"]
        self.set(rtt_s=rtt_ms / 1000, up_bytes_s=up or bandwidth, down_bytes_s=down or bandwidth)

    @classmethod
    def to(cls, url: str, **settings: Any) -> Self:
        """A line to the server of a URL."""
        parts = urlsplit(url)
        return cls(parts.port or 5432, host=parts.hostname or "127.0.0.1", **settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, url: str) -> str:
        """The same URL, over the line."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        query = parts.query
        if self._tls:
            query = f"{query}&sslmode=require".lstrip("&")
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}", query=query))

    def set(self, **settings: Any) -> None:
        """Change settings of the line, by name.

        `rtt_s`, `up_bytes_s`, `down_bytes_s`, `silent`, `max_connections`, `tls`, `upstream_port`.
        """
        self._do("set", **settings)

    def silence(self, silent: bool = True) -> None:
        """Accept new connections and say nothing on them."""
        self.set(silent=silent)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nothing gets through inside the block: what there is is cut, what comes is reset."""
        self.set(max_connections=0)
        self.cut()
        try:
            yield
        finally:
            self.set(max_connections=None)

    def cut(self, how: How = "rst") -> int:
        """End the connections that there are; returns how many these were."""
        return int(self._do("cut", how=how))

    def cut_after(self, count: int, *, way: Way, how: How = "rst") -> None:
        """End the connection on which the `count`-th byte from now goes that way; once."""
        self._do("arm", way=way, how=how, count=count)

    def cut_behind(self, pattern: bytes, *, way: Way, how: How = "rst") -> None:
        """End the connection on which these bytes (in one piece, in plain text) pass; once."""
        self._do("arm", way=way, how=how, pattern=pattern.hex())

    def look(self) -> dict[str, int]:
        """`accepted`, `refused`, `cut`, `links`, `trips`, and the bytes that went `up` and `down`.

        `trips` are round trips: how often a client spoke after it had the answer so far.  The line
        needs a round trip of some length, since what belongs together must come in one piece.
        """
        return dict(self._do("look"))

    def wait(self, name: str, count: int, *, timeout_s: float = 10.0) -> None:
        """Return when a count of `look` has come so far; TimeoutError if it does not."""
        deadline = time.monotonic() + timeout_s
        while self.look()[name] < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} is {self.look()[name]}, not {count}")
            time.sleep(0.005)

    def close(self) -> None:
        """Cut everything and end the process.  Idempotent."""
        if self._process.poll() is not None:
            return
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise

    def _do(self, name: str, **arguments: Any) -> Any:
        stdin = self._process.stdin
        assert stdin is not None, "it was made with pipes"
        stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise RuntimeError(f"the line failed: {answer['error']}")
        return answer["ok"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was made with pipes"
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the line has ended: {self._process.wait(10)}")
        return json.loads(line)


@dataclass(frozen=True)
class FarPg:
    """A fresh database: its URL over a line, its URL directly, and the line."""

    url: str
    near_url: str
    line: Far
