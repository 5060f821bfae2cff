"""The server of a fake Discord: one thread with a loop of its own, on a port of loopback."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from aiohttp import web

from support.fakediscord import (
    commands,
    rest_channels,
    rest_guilds,
    rest_interactions,
)
from support.fakediscord.gateway import Gateway, How
from support.fakediscord.rest import PREFIX, Rest, Routes

if TYPE_CHECKING:
    from support.fakediscord.world import World

_START_LIMIT_S = 10.0
_MAX_BODY = 64 * 1024 * 1024


class Server:
    """Serves a world from `start` to `stop`."""

    def __init__(self, world: World, *, heartbeat_s: float) -> None:
        self.world = world
        routes = Routes()
        for module in (rest_channels, rest_guilds, rest_interactions, commands):
            routes.add(module.routes)
        self.rest = Rest(world, routes)
        self.gateway = Gateway(world, heartbeat_s=heartbeat_s)
        self._started: Future[str] = Future()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="fake-discord", daemon=True)

    def start(self) -> str:
        """Listen, and answer the URL."""
        self._thread.start()
        return self._started.result(_START_LIMIT_S)

    def disconnect_clients(self, how: How, *, resumable: bool) -> None:
        """End every gateway connection, and return when all are gone."""
        assert self._loop is not None, "it was started"
        closing = self.gateway.disconnect(how, resumable=resumable)
        asyncio.run_coroutine_threadsafe(closing, self._loop).result(_START_LIMIT_S)

    def stop(self) -> None:
        """Close the connections and the port, and end the thread."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_START_LIMIT_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                self.world.failures.append(error)
            else:
                self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/gateway", self._gateway)
        app.router.add_get("/attachments/{channel}/{number}/{name}", self._attachment)
        app.router.add_route("*", PREFIX + "/{path:.*}", self.rest.serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self._started.set_result(f"http://{host}:{port}")
            await self._stopping.wait()
            await self.gateway.close()
        finally:
            await runner.cleanup()

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        return await self.gateway.serve(request)

    async def _attachment(self, request: web.Request) -> web.StreamResponse:
        parts = request.match_info
        found = self.world.messages.file(int(parts["channel"]), parts["name"], parts["number"])
        return web.Response(status=404) if found is None else web.Response(body=found)
