"""The gateway: a websocket for each client, its opcodes and its compression."""

from __future__ import annotations

import asyncio
import importlib
import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from aiohttp import WSMsgType, web

from support.fakediscord.protocol import (
    HEARTBEAT,
    HEARTBEAT_ACK,
    HELLO,
    IDENTIFY,
    INVALID_SESSION,
    PRESENCE,
    RECONNECT,
    REQUEST_MEMBERS,
    RESUME,
    VOICE_STATE,
    Json,
)
from support.fakediscord.sessions import Session
from support.fakediscord.world import World

#: How a connection is ended: by a close frame, by asking the client to reconnect, or by a cut.
How = Literal["close", "reconnect", "abort"]

_UNKNOWN_ERROR, _UNKNOWN_OPCODE, _NOT_AUTHENTICATED, _BAD_TOKEN = 4000, 4001, 4003, 4004
_GOOD_BYE = (1000, 1001)
Encode = Callable[[str], "str | bytes"]


def gateway_url(world: World) -> str:
    """Where clients connect to."""
    return f"ws{world.url.removeprefix('http')}/gateway"


def encoder(compress: str | None) -> Encode:
    """How the messages of one connection are put into frames; ValueError when unknown.

    Both compressions are one stream for the whole connection, flushed after each message.
    """
    if compress is None:
        return lambda text: text
    if compress == "zlib-stream":
        stream = zlib.compressobj()
        return lambda text: stream.compress(text.encode()) + stream.flush(zlib.Z_SYNC_FLUSH)
    if compress == "zstd-stream":
        return _zstd_encoder()
    raise ValueError(f"unknown compression {compress!r}")


def _zstd_encoder() -> Encode:
    """With the module that discord.py found when it asked for zstd."""
    with suppress(ImportError):
        zstandard: Any = importlib.import_module("zstandard")
        stream = zstandard.ZstdCompressor().compressobj()
        block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return lambda text: stream.compress(text.encode()) + stream.flush(block)
    zstd: Any = importlib.import_module("compression.zstd")
    compressor = zstd.ZstdCompressor()
    return lambda text: compressor.compress(text.encode(), mode=compressor.FLUSH_BLOCK)


class Connection:
    """One websocket, and the session that it is part of, once there is one."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request, encode: Encode) -> None:
        self.socket = socket
        self.session: Session | None = None
        self._request = request
        self._encode = encode
        self.gone = asyncio.Event()
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Tell the writer, from whatever thread, that there are events."""
        self._loop.call_soon_threadsafe(self._wake.set)

    async def send(self, op: int, data: Any = None) -> None:
        await self._send_text(json.dumps({"op": op, "d": data, "s": None, "t": None}))

    async def write(self, world: World, session: Session) -> None:
        """Send the session's events as they come, until cancelled or the client is gone."""
        while True:
            with world.condition:
                batch = session.waiting()
            for number, text in batch:
                await self._send_text(text)
                with world.changing():
                    if self.session is session:
                        session.sent = number
            if not batch:
                await self._wake.wait()
                self._wake.clear()

    async def end(self, how: How) -> None:
        with suppress(ConnectionError):
            if how == "reconnect":
                await self.send(RECONNECT)
            elif how == "close":
                await self.socket.close(code=_UNKNOWN_ERROR)
        if how == "abort" and self._request.transport is not None:
            self._request.transport.abort()

    async def _send_text(self, text: str) -> None:
        async with self._sending:  # a compressed stream has an order
            frame = self._encode(text)
            if isinstance(frame, str):
                await self.socket.send_str(frame)
            else:
                await self.socket.send_bytes(frame)


class Gateway:
    """Serves the websocket; its methods run in the server's loop."""

    def __init__(self, world: World, *, heartbeat_s: float) -> None:
        self._world = world
        self._heartbeat_ms = int(heartbeat_s * 1000)
        self._connections: list[Connection] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One client, from HELLO until it is gone."""
        try:
            encode = encoder(request.query.get("compress"))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        socket = web.WebSocketResponse(compress=False, timeout=2.0)
        await socket.prepare(request)
        connection = Connection(socket, request, encode)
        self._connections.append(connection)
        writer: asyncio.Task[None] | None = None
        good_bye = False
        try:
            await connection.send(HELLO, {"heartbeat_interval": self._heartbeat_ms})
            while (frame := await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
                joined = await self._receive(connection, json.loads(frame.data))
                if joined is not None:
                    writer = asyncio.create_task(self._write(connection, joined))
            # Not the socket's close_code: that is 1000 also when the line is cut.
            good_bye = frame.type is WSMsgType.CLOSE and frame.data in _GOOD_BYE
        except ConnectionError:
            pass  # the client is gone in the middle of a message
        except Exception as error:
            with self._world.changing():
                self._world.failures.append(error)  # an error of the fake
            raise
        finally:
            self._connections.remove(connection)
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
            self._detach(connection, good_bye=good_bye)
            connection.gone.set()
        return socket

    async def disconnect(self, how: How = "close", *, resumable: bool = True) -> None:
        """End every connection, and return when all are gone; new ones are not waited for.

        Unless `resumable`, the sessions are forgotten: clients that ask to resume must begin anew.
        """
        ending = list(self._connections)
        if not resumable:
            with self._world.changing():
                self._world.sessions.clear()
        await asyncio.gather(*(each.end(how) for each in ending))
        await asyncio.gather(*(each.gone.wait() for each in ending))

    async def close(self) -> None:
        """Let go of every client."""
        sockets = [each.socket for each in self._connections]
        await asyncio.gather(*(each.close(code=1001) for each in sockets))

    async def _write(self, connection: Connection, session: Session) -> None:
        with suppress(ConnectionError):  # the reader notices, too
            await connection.write(self._world, session)

    async def _receive(self, connection: Connection, message: Json) -> Session | None:
        """Do what a client asks; the session that it has entered with this message."""
        op, data = message["op"], message.get("d")
        if op == HEARTBEAT:
            await connection.send(HEARTBEAT_ACK)
        elif op == IDENTIFY:
            return await self._identify(connection, data)
        elif op == RESUME:
            return await self._resume(connection, data)
        elif op in (PRESENCE, VOICE_STATE):
            pass
        elif op == REQUEST_MEMBERS:
            if connection.session is None:
                await connection.socket.close(code=_NOT_AUTHENTICATED)
            else:
                with self._world.changing():
                    connection.session.send_members(self._world, data)
        else:
            await connection.socket.close(code=_UNKNOWN_OPCODE)
        return None

    async def _identify(self, connection: Connection, data: Json) -> Session | None:
        if data["token"] != self._world.token:
            await connection.socket.close(code=_BAD_TOKEN, message=b"Authentication failed.")
            return None
        world = self._world
        with world.changing():
            world.identified += 1
            session = Session(world.identified, data["intents"], data.get("shard"))
            session.greet(world, gateway_url(world))
            world.sessions.append(session)
            self._attach(connection, session)
        return session

    async def _resume(self, connection: Connection, data: Json) -> Session | None:
        world = self._world
        with world.changing():
            known = {each.id: each for each in world.sessions}
            session = known.get(data["session_id"])
            after = data["seq"]
            good = data["token"] == world.token
            if good and session is not None and after is not None and session.can_resume(after):
                for other in self._connections:
                    if other.session is session:
                        other.session = None
                session.resume(after)
                world.resumed += 1
                self._attach(connection, session)
                return session
        await connection.send(INVALID_SESSION, False)
        return None

    def _attach(self, connection: Connection, session: Session) -> None:
        connection.session = session
        session.wake = connection.wake

    def _detach(self, connection: Connection, *, good_bye: bool) -> None:
        """A client that said good-bye cannot resume; any other can."""
        with self._world.changing():
            session = connection.session
            if session is not None:
                connection.session = session.wake = None
                if good_bye and session in self._world.sessions:
                    self._world.sessions.remove(session)
