"""A TCP proxy before a PostgreSQL that fails on demand.

    with Proxy(cluster.port) as proxy:
        store = standfast.open(proxy.url(cluster.url()), ...)
        proxy.drop_commit_replies(1)

It runs in a thread of its own and passes every byte on, encrypted ones too; what looks at commits
(`drop_commit_replies`, `reset_before_commits`, `hold_commits`) needs a connection in plain text.
Faults are switched at run time and are in force when the call returns; `heal` ends all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from support.pgwire import Session

Mode = Literal["pass", "blackhole", "refuse"]
Armed = Literal["drop_commit_reply", "rst_before_commit", "hold_commit"]
Held = Literal["cut", "thaw", "keep"]
T = TypeVar("T")

_CHUNK = 64 * 1024
#: Chunks that one direction of a held connection takes before it pushes back: 8 MiB.
_MAX_CHUNKS = 128
_CALL_TIMEOUT_S = 10.0


class Proxy:
    """Listens on 127.0.0.1 and passes connections on to a port there.  Thread-safe.

    `port` is one that `reserved` holds: the address of a database, whoever lives and dies there.
    """

    def __init__(self, upstream_port: int, *, port: int = 0) -> None:
        self.upstream = ("127.0.0.1", upstream_port)
        self.mode: Mode = "pass"
        self.delay_s = 0.0
        self.trickle_bytes = 0
        #: How often each armed fault has struck.
        self.fired: Counter[str] = Counter()
        #: How often each is still to strike.
        self.armed: Counter[str] = Counter()
        #: Whether a dropped reply is the last thing that happens.
        self.refuses_after_drop = False
        #: What went wrong in the proxy itself; empty unless it has a bug.
        self.errors: list[BaseException] = []
        self._links: set[_Link] = set()
        self._socket = _bound(port)
        self.port: int = self._socket.getsockname()[1]
        self._listening = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._call(self._listen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, url: str) -> str:
        """The same URL, through the proxy."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    # ---- faults

    def drop_commit_replies(self, n: int = 1) -> None:
        """For the next `n` writes: the server commits, the client is reset without an answer."""
        self._arm("drop_commit_reply", n)

    def drop_commit_reply_and_refuse(self) -> None:
        """For the next write: the server commits; in the same step the client is reset without an
        answer, as is every other one, and new connections are refused, until `heal`."""

        def arm() -> None:
            self.refuses_after_drop = True
            self.armed["drop_commit_reply"] = 1

        self._call(arm)

    def reset_before_commits(self, n: int = 1) -> None:
        """For the next `n` writes: the client is reset, and the commit never reaches the server."""
        self._arm("rst_before_commit", n)

    def hold_commits(self, n: int = 1) -> None:
        """For the next `n` writes: the connection freezes with the commit on its way, till `thaw`.

        The commit is delivered even if the client has given up and gone by then.
        """
        self._arm("hold_commit", n)

    def disarm(self) -> None:
        """Nothing more is dropped, reset or held than has been."""
        self._call(self._disarm)

    def blackhole(self) -> None:
        """Take bytes and connections, and deliver nothing in either direction."""
        self._call(self._blackhole)

    def freeze_links(self) -> int:
        """Hold the connections that there are, not new ones; returns how many these are."""
        return self._call(self._freeze_links)

    def refuse(self) -> None:
        """Reset the connections that there are, and refuse new ones."""
        self._call(self._refuse)

    def delay(self, ms: float) -> None:
        """Deliver every chunk of bytes that much later."""
        self.delay_s = ms / 1000

    def trickle(self, size: int, ms: float) -> None:
        """Deliver `size` bytes at a time, with that pause before each."""
        self.trickle_bytes, self.delay_s = size, ms / 1000

    def thaw(self) -> None:
        """Deliver what held connections hold, in order, and let them go on."""
        self._call(self._thaw)

    def cut(self) -> None:
        """Reset every connection; what was held is never delivered."""
        self._call(self._cut)

    def heal(self, *, held: Held = "cut") -> None:
        """Pass everything on again.

        Held connections are reset (`cut`), go on with what was held (`thaw`), or stay dead until
        a later `thaw` or `cut` (`keep`).
        """
        self._call(lambda: self._heal(held))

    def close(self) -> None:
        """Reset every connection and stop.  Idempotent."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(_CALL_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_TIMEOUT_S)
        self._loop.close()
        if self.errors:
            raise RuntimeError("the proxy failed by itself") from self.errors[0]

    # ---- looking

    @property
    def held(self) -> int:
        """The number of connections that are held now."""
        return self._call(lambda: sum(not link.flow.is_set() for link in self._links))

    @property
    def links(self) -> int:
        """The number of connections."""
        return len(self._links)

    def wait_fired(self, name: Armed, count: int, *, timeout_s: float = 10.0) -> None:
        """Return when an armed fault has struck that often in all; TimeoutError if it does not."""
        deadline = time.monotonic() + timeout_s
        while self.fired[name] < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} struck {self.fired[name]} times, not {count}")
            time.sleep(0.002)

    # ---- in the thread of the loop

    def _call(self, action: Callable[[], T]) -> T:
        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALL_TIMEOUT_S)

    def _arm(self, name: Armed, n: int) -> None:
        def arm() -> None:
            self.armed[name] = n

        self._call(arm)

    def take(self, name: Armed) -> bool:
        """Whether a fault is to strike now; it is counted down."""
        if self.armed[name] <= 0:
            return False
        self.armed[name] -= 1
        return True

    def reply_dropped(self) -> None:
        """The server has committed, and the client will not hear of it."""
        self.fired["drop_commit_reply"] += 1
        if self.refuses_after_drop:
            self.refuses_after_drop = False
            self._refuse()

    def _blackhole(self) -> None:
        self.mode = "blackhole"
        self._freeze_links()

    def _freeze_links(self) -> int:
        for link in self._links:
            link.flow.clear()
        return len(self._links)

    def _thaw(self) -> None:
        if self.mode == "blackhole":
            self.mode = "pass"
        for link in self._links:
            link.flow.set()

    def _cut(self) -> None:
        for link in list(self._links):
            link.cut()

    def _refuse(self) -> None:
        self.mode = "refuse"
        if self._listening:
            # A bound socket that does not listen: refused, and nobody else gets the port.
            self._listening = not self._loop.remove_reader(self._socket)
            reserve = _bound(self.port)
            self._socket.close()
            self._socket = reserve
        self._cut()

    def _disarm(self) -> None:
        self.armed.clear()
        self.refuses_after_drop = False

    def _heal(self, held: Held) -> None:
        self._disarm()
        self.delay_s, self.trickle_bytes = 0.0, 0
        self.mode = "pass"
        self._listen()
        if held == "thaw":
            self._thaw()
        elif held == "cut":
            for link in [link for link in self._links if not link.flow.is_set()]:
                link.cut()

    def _listen(self) -> None:
        if not self._listening:
            self._socket.setblocking(False)
            self._socket.listen(128)
            self._loop.add_reader(self._socket, self._accept)
            self._listening = True

    def _accept(self) -> None:
        """Take one connection.  Not in a task: cancelled at that moment, it would lose it."""
        try:
            client, _ = self._socket.accept()
        except OSError:  # it has gone already
            return
        client.setblocking(False)
        link = _Link(self, client)
        if self.mode == "blackhole":
            link.flow.clear()
        self._links.add(link)
        link.task = self._loop.create_task(link.run())
        link.task.add_done_callback(lambda task: self._ended(link, task))

    def _ended(self, link: _Link, task: asyncio.Task[None]) -> None:
        link.client.close()  # one that was cut before its task has begun never got to that
        self._links.discard(link)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    async def _shut_down(self) -> None:
        tasks = [link.task for link in self._links if link.task is not None]
        self._cut()
        self._loop.remove_reader(self._socket)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()


class _Cut(Exception):
    """The connection ends here, with a reset."""


class _Link:
    """One connection through the proxy.

    While `flow` is cleared it goes on taking bytes, and delivers them when it is set again, also
    for a side that has left in the meantime.
    """

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.flow = asyncio.Event()
        self.flow.set()
        self.task: asyncio.Task[None] | None = None
        self._session = Session()
        self._swallowed: bytearray | None = None
        self._reset = False

    def cut(self) -> None:
        """End it with a reset, and forget what it holds."""
        self._reset = True
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        server = socket.socket()
        try:
            server.setblocking(False)
            await self.flow.wait()
            await asyncio.get_running_loop().sock_connect(server, self.proxy.upstream)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._pump_all(server)
        except (OSError, asyncio.CancelledError):
            self._reset = True  # not even connected, or cut
        finally:
            if self._reset:
                linger = struct.pack("ii", 1, 0)
                with contextlib.suppress(OSError):
                    self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.client.close()
            server.close()

    async def _pump_all(self, server: socket.socket) -> None:
        up: asyncio.Queue[bytes] = asyncio.Queue(_MAX_CHUNKS)
        down: asyncio.Queue[bytes] = asyncio.Queue(_MAX_CHUNKS)
        pumps: list[Coroutine[Any, Any, None]] = [
            _read(self.client, up),
            self._deliver(up, server, self._to_server),
            _read(server, down),
            self._deliver(down, self.client, self._to_client),
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for pump in pumps:
                    group.create_task(pump)
        except* _Cut:
            self._reset = True

    async def _deliver(
        self,
        source: asyncio.Queue[bytes],
        target: socket.socket,
        look: Callable[[bytes], Coroutine[Any, Any, bytes | None]],
    ) -> None:
        """Pass on what `look` makes of each chunk, and the end as a half-close."""
        gone = False
        while True:
            chunk = await source.get()
            await self.flow.wait()
            out = await look(chunk)
            if out and not gone:
                try:
                    await self._send(target, out)
                except OSError:
                    gone = True  # the rest is for nobody, but is heard to its end
            if not chunk:
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
                return

    async def _send(self, target: socket.socket, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        size = self.proxy.trickle_bytes or len(data)
        for start in range(0, len(data), size):
            if self.proxy.delay_s:
                await asyncio.sleep(self.proxy.delay_s)
            await loop.sock_sendall(target, data[start : start + size])

    async def _to_server(self, chunk: bytes) -> bytes | None:
        commit = self._session.client_said(chunk)
        if commit is None:
            return chunk
        proxy = self.proxy
        if proxy.take("rst_before_commit"):
            proxy.fired["rst_before_commit"] += 1
            raise _Cut
        if proxy.take("hold_commit"):
            self.flow.clear()
            proxy.fired["hold_commit"] += 1
            await self.flow.wait()
        elif proxy.take("drop_commit_reply"):
            self._session.await_ready(commit)
            self._swallowed = bytearray()
        return chunk

    async def _to_client(self, chunk: bytes) -> bytes | None:
        committed = self._session.server_said(chunk)
        if self._swallowed is None:
            return chunk
        self._swallowed += chunk
        if committed:
            self.proxy.reply_dropped()
            raise _Cut
        if committed is None and chunk:
            return None
        # It did not commit, or nobody knows: this was not one to drop.
        held, self._swallowed = bytes(self._swallowed), None
        self.proxy.armed["drop_commit_reply"] += 1
        return held


async def _read(source: socket.socket, target: asyncio.Queue[bytes]) -> None:
    """Take bytes until the end, which is an empty chunk; a reset counts as one."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            chunk = await loop.sock_recv(source, _CHUNK)
        except OSError:
            chunk = b""
        await target.put(chunk)
        if not chunk:
            return


def reserved() -> socket.socket:
    """A bound socket: as long as it is open, nobody but proxies of ours gets its port."""
    return _bound(0)


def _bound(port: int) -> socket.socket:
    found = socket.socket()
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # For the moment at which the socket that listens is replaced by one that does not.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.setblocking(False)
        found.bind(("127.0.0.1", port))
    except BaseException:
        found.close()
        raise
    return found
