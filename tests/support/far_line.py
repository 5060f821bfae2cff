"""A line to a far server: the process behind `support.far`, run as `python far_line.py CONFIG`.

    client -> delay line, bandwidth, cuts -> (TLS end) -> server

One process is one line; all its connections share the bandwidth.  The delay is that of a line, not
a pause for each packet: bytes enter at the pace of the bandwidth and leave half a round trip later,
in order.  The kernel accepts a connection at once, so the round trip of TCP's own handshake is
spent before the first byte is delivered.

stdin takes one JSON object a line, each answered by one on stdout; the end of stdin ends the
process, and so does the kernel's alarm, should the loop hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import struct
import sys
from collections import deque
from typing import Any

#: Bytes that are read at once: at 1 MB/s a chunk lasts 8 ms.
_CHUNK = 8192
#: Bytes that one direction of a connection holds before it pushes back, beyond what is under way.
_BUFFER = 128 * 1024
#: How long a line lives at the most, whatever happens to its owner and its loop.
_LIFETIME_S = 1800
#: What clients ask before they speak (PostgreSQL documentation, 54.7): TLS, and GSSAPI encryption.
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
_GSS_REQUEST = bytes.fromhex("0000000804d21630")
_NO_LINGER = struct.pack("ii", 1, 0)


class Direction:
    """One way of the line: its bandwidth, which all connections share, and what it passed."""

    def __init__(self) -> None:
        self.bytes_s: float | None = None
        self.free_at = 0.0
        self.passed = 0
        #: Cut after so many bytes more, or after this pattern has passed; once.
        self.cut_at: int | None = None
        self.cut_after = b""

    def enter(self, size: int, now: float) -> float:
        """When the last of these bytes has entered the line."""
        self.free_at = max(self.free_at, now)
        if self.bytes_s:
            self.free_at += size / self.bytes_s
        return self.free_at


class Line:
    """The listening end, its settings and its connections."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.server = (config["host"], config["port"])
        self.tls: str | None = config.get("tls")
        self.context: ssl.SSLContext | None = None
        if self.tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(config["cert"], config["key"])
        self.tls_port = 0
        self.rtt_s = 0.0
        self.silent = False
        self.max_connections: int | None = None
        self.up, self.down = Direction(), Direction()
        self.cut_how = "rst"
        self.links: set[Link] = set()
        #: `trips`: how often a client spoke again after the server's last word had arrived.
        self.counts = {"accepted": 0, "refused": 0, "cut": 0, "trips": 0}

    # ---- commands

    def set(self, **settings: Any) -> None:
        for name, value in settings.items():
            if name in ("up_bytes_s", "down_bytes_s"):
                getattr(self, name.removesuffix("_bytes_s")).bytes_s = value
            elif name == "upstream_port":
                self.server = (self.server[0], value)
            else:
                assert name in ("rtt_s", "silent", "max_connections", "tls"), name
                setattr(self, name, value)

    def arm(self, way: str, how: str, *, count: int | None = None, pattern: str = "") -> None:
        direction: Direction = getattr(self, way)
        self.cut_how = how
        direction.cut_at = None if count is None else direction.passed + count
        direction.cut_after = bytes.fromhex(pattern)

    def cut(self, how: str) -> int:
        links = list(self.links)
        for link in links:
            link.cut(how)
        return len(links)

    def look(self) -> dict[str, Any]:
        passed = {"up": self.up.passed, "down": self.down.passed}
        return {**self.counts, **passed, "links": len(self.links)}

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = command.pop("do")
        return {
            "ok": {"set": self.set, "arm": self.arm, "cut": self.cut, "look": self.look}[name](
                **command
            )
        }

    # ---- connections

    async def accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.max_connections is not None and len(self.links) >= self.max_connections:
                self.counts["refused"] += 1
                _reset(client)
                continue
            self.counts["accepted"] += 1
            link = Link(self, client)
            self.links.add(link)
            link.task = loop.create_task(link.run())
            link.task.add_done_callback(lambda _, link=link: self.links.discard(link))

    async def upstream(self) -> socket.socket:
        """A connection to the server, or to the end of TLS in this process."""
        found = socket.socket()
        found.setblocking(False)
        address = ("127.0.0.1", self.tls_port) if self.tls else self.server
        await asyncio.get_running_loop().sock_connect(found, address)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    async def end_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak TLS with a client, and plain text with the server."""
        assert self.context is not None
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while (asked := await reader.readexactly(8)) == _GSS_REQUEST:
                writer.write(b"N")
            if asked == _SSL_REQUEST:
                writer.write(b"S")
                if self.tls == "reset":
                    await reader.read(1)  # the client's hello: this is in the handshake
                    linger = (socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    writer.get_extra_info("socket").setsockopt(*linger)
                else:
                    await writer.start_tls(self.context)
                    await self._pass(reader, writer)
        # Not closed in TLS: nobody waits for its farewell.
        writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(*self.server)
        pumps = [
            asyncio.ensure_future(_pump(reader, back_writer)),
            asyncio.ensure_future(_pump(back_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()


class Link:
    """One connection over the line."""

    def __init__(self, line: Line, client: socket.socket) -> None:
        self.line = line
        self.client = client
        self.how = "fin"
        self.is_answered = True
        self.task: asyncio.Task[None] | None = None
        self.opens_at = asyncio.get_running_loop().time() + line.rtt_s

    def cut(self, how: str) -> None:
        """End it now, with a reset or an orderly end; what is under way is lost."""
        self.how = how
        self.line.counts["cut"] += 1
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        server: socket.socket | None = None
        try:
            if self.line.silent:
                await asyncio.Event().wait()
            server = await self.line.upstream()
            pumps = [
                asyncio.ensure_future(self._way(self.client, server, self.line.up)),
                asyncio.ensure_future(self._way(server, self.client, self.line.down)),
            ]
            try:
                await asyncio.gather(*pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            self.how = "rst"  # either side was reset: so is the other
        except asyncio.CancelledError:
            pass
        finally:
            for end in filter(None, (self.client, server)):
                _reset(end) if self.how == "rst" else end.close()

    async def _way(self, source: socket.socket, target: socket.socket, way: Direction) -> None:
        """Read, and write what has come through the line; the end of the stream comes through, too.

        Raises ConnectionResetError when either side is reset.
        """
        waiting: deque[tuple[float, bytes]] = deque()
        changed, room = asyncio.Event(), asyncio.Event()
        writing = asyncio.ensure_future(self._leave(waiting, target, changed, room, way))
        loop = asyncio.get_running_loop()
        try:
            while True:
                chunk = await loop.sock_recv(source, _CHUNK)
                now = loop.time()
                if chunk and way is self.line.up and self.is_answered:
                    self.is_answered = False
                    self.line.counts["trips"] += 1
                entered = way.enter(len(chunk), now)
                leaves_at = max(entered, self.opens_at) + self.line.rtt_s / 2
                out, is_cut = _till_cut(way, chunk)
                waiting.append((leaves_at, out))
                changed.set()
                if is_cut:
                    while waiting:
                        room.clear()
                        await room.wait()
                    self.how = self.line.cut_how
                    self.line.counts["cut"] += 1
                    assert self.task is not None
                    self.task.cancel()
                if not chunk:
                    await writing
                    return
                # What the line itself holds is not pushed back; what waits to enter it is.
                while (late := entered - loop.time()) > 0 and late * (way.bytes_s or 0) > _BUFFER:
                    await asyncio.sleep(0.001)
                while len(waiting) > 4096:
                    room.clear()
                    await room.wait()
                if writing.done():
                    writing.result()
        finally:
            writing.cancel()

    async def _leave(
        self,
        waiting: deque[tuple[float, bytes]],
        target: socket.socket,
        changed: asyncio.Event,
        room: asyncio.Event,
        way: Direction,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not waiting:
                changed.clear()
                await changed.wait()
            leaves_at, chunk = waiting[0]
            if (late := leaves_at - loop.time()) > 0:
                await asyncio.sleep(late)
            if not chunk:
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
                waiting.popleft()
                return
            if way is self.line.down:
                self.is_answered = True
            await loop.sock_sendall(target, chunk)
            waiting.popleft()
            room.set()


def _till_cut(way: Direction, chunk: bytes) -> tuple[bytes, bool]:
    """What of the chunk still passes, and whether the connection is cut behind it."""
    end: int | None = None
    if way.cut_at is not None and way.passed + len(chunk) >= way.cut_at:
        end = way.cut_at - way.passed
    elif way.cut_after and (found := chunk.find(way.cut_after)) >= 0:
        end = found + len(way.cut_after)
    if end is None:
        way.passed += len(chunk)
        return chunk, False
    way.cut_at, way.cut_after = None, b""
    way.passed += end
    return chunk[:end], True


def _reset(client: socket.socket) -> None:
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    client.close()


async def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    line = Line(config)
    listener = socket.create_server(tuple(config["at"]), backlog=128)
    listener.setblocking(False)
    loop = asyncio.get_running_loop()
    if line.tls:
        ends = await asyncio.start_server(line.end_tls, "127.0.0.1", 0)
        line.tls_port = ends.sockets[0].getsockname()[1]
    accepting = loop.create_task(line.accept(listener))
    commands = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    _say({"port": listener.getsockname()[1]})
    while said := await commands.readline():
        try:
            _say(line.answer(json.loads(said)))
        except Exception as error:
            _say({"error": repr(error)})
    accepting.cancel()
    line.cut("rst")


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.alarm(_LIFETIME_S)
    asyncio.run(main(json.loads(sys.argv[1])))
