"""REST: how requests find their handlers, and what becomes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from support.fakediscord.messages import FakeMessage, Upload
from support.fakediscord.protocol import ApiError, Json, Request, unknown

if TYPE_CHECKING:
    from support.fakediscord.records import FakeChannel, FakeGuild, FakeUser, Membership
    from support.fakediscord.world import World

PREFIX = "/api/v10"


@dataclass
class Call:
    """A request, as handlers see it."""

    world: World
    query: dict[str, str]
    body: Any
    files: Sequence[Upload]

    def channel(self, channel_id: str) -> FakeChannel:
        found = self.world.channels.get(_number(channel_id))
        if found is None:
            raise unknown("channel")
        return found

    def guild(self, guild_id: str) -> FakeGuild:
        found = self.world.guilds.get(_number(guild_id))
        if found is None:
            raise unknown("guild")
        return found

    def member(self, guild: FakeGuild, user_id: str) -> Membership:
        found = guild.members.get(_number(user_id))
        if found is None:
            raise unknown("member")
        return found

    def user(self, user_id: str) -> FakeUser:
        found = self.world.users.get(_number(user_id))
        if found is None:
            raise unknown("user")
        return found

    def message(self, channel_id: str, message_id: str) -> FakeMessage:
        """A message of a channel that everybody there sees."""
        channel = self.channel(channel_id)
        found = self.world.messages.find(_number(message_id))
        if found is None or found.channel is not channel or found.ephemeral:
            raise unknown("message")
        return found


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ApiError(400, 50035, "Invalid Form Body")
    return int(text)


Handler = Callable[..., Any]


class Routes:
    """Handlers by method and path: `@routes("GET /channels/{channel}")`.

    A handler is given the call and the parts of the path, in their order; it runs with the world's
    lock held. Its answer is sent as JSON; None is 204.
    """

    def __init__(self) -> None:
        self._all: list[tuple[str, re.Pattern[str], Handler, bool]] = []

    def __call__(self, *wheres: str, token: bool = True) -> Callable[[Handler], Handler]:
        """`token`: whether the bot's token is asked for."""

        def register(handler: Handler) -> Handler:
            for where in wheres:
                method, path = where.split(" ")
                pattern = re.compile(re.sub(r"\{\w+\}", "([^/]+)", path))
                self._all.append((method, pattern, handler, token))
            return handler

        return register

    def add(self, others: Routes) -> None:
        """Take over the handlers of another table, after those that are here."""
        self._all += others._all

    def find(self, method: str, path: str) -> tuple[Handler, tuple[str, ...], bool] | None:
        for its_method, pattern, handler, token in self._all:
            match = pattern.fullmatch(path) if its_method == method else None
            if match:
                return handler, match.groups(), token
        return None


@dataclass
class Fault:
    """What the next requests of a kind are answered with instead."""

    method: str
    path: re.Pattern[str]
    error: ApiError
    left: int
    applied: bool
    retry_after_s: float


@dataclass
class Rest:
    """Answers requests to the API of one world."""

    world: World
    routes: Routes
    faults: list[Fault] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix(PREFIX)
        body, files = await _read(request)
        call = Call(self.world, dict(request.query), body, files)
        with self.world.changing():
            fault = self._fault(request.method, path)
            if fault is not None and not fault.applied:
                response = _refusal(fault.error, retry_after_s=fault.retry_after_s)
            else:
                response = self._handle(call, request, path)
            if fault is not None and fault.applied:
                response = _refusal(fault.error, retry_after_s=fault.retry_after_s)
            self.world.requests.append(Request(request.method, path, response.status))
        return response

    def _handle(self, call: Call, request: web.Request, path: str) -> web.Response:
        try:
            found = self.routes.find(request.method, path)
            if found is None:
                self.world.unknown_requests.append(Request(request.method, path, 404))
                raise ApiError(404, 0, "404: Not Found")
            handler, parts, token = found
            if token and request.headers.get("Authorization") != f"Bot {self.world.token}":
                raise ApiError(401, 0, "401: Unauthorized")
            result = handler(call, *parts)
        except ApiError as error:
            return _refusal(error)
        except BaseException as error:
            # An error of the fake: the test is told of it when the fake is closed.
            self.world.failures.append(error)
            raise
        return web.Response(status=204) if result is None else _json(result, status=200)

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.left and fault.method == method and fault.path.search(path):
                fault.left -= 1
                return fault
        return None


async def _read(request: web.Request) -> tuple[Any, list[Upload]]:
    """The JSON of a request, and its files."""
    if request.content_type != "multipart/form-data":
        text = await request.read()
        return (json.loads(text) if text else {}), []
    body: Json = {}
    files: list[Upload] = []
    async for part in await request.multipart():
        content = bytes(await part.read())
        if part.name == "payload_json":
            body = json.loads(content)
        else:
            files.append(Upload(part.filename or "file", content))
    return body, files


def _json(value: Any, *, status: int, headers: dict[str, str] | None = None) -> web.Response:
    # Exactly this type, without a character set: clients compare it.
    more = {"Content-Type": "application/json", **(headers or {})}
    return web.Response(body=json.dumps(value).encode(), status=status, headers=more)


def _refusal(error: ApiError, *, retry_after_s: float = 0.0) -> web.Response:
    body = error.body()
    if error.status == 429:
        limits: Json = {"retry_after": retry_after_s, "global": False}
        return _json({**body, **limits}, status=429, headers={"Via": "1.1 fake"})
    return _json(body, status=error.status)
