"""A client of discord.py in this process, in a thread and a loop of its own.

    with FakeDiscord() as fake, RunningClient(client, fake) as running:
        fake.press(...)
        running.call(client.fetch_user(1))

Views belong to the loop in which they are made: make them in coroutines that are given to `call`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Self, TypeVar

from support.fakediscord.launch import point_to
from support.fakediscord.protocol import FakeDiscordError

if TYPE_CHECKING:
    import discord

    from support.fakediscord.controller import FakeDiscord

Result = TypeVar("Result")
_LIMIT_S = 30.0
_CALLBACK_LIMIT_S = 2.0
#: Names that discord.py gives to the tasks of callbacks, commands and listeners.
_CALLBACKS = ("discord-ui-", "CommandTree", "discord.py: ")


class RunningClient:
    """Logs in, connects, and waits until the client says that it is ready; closes it at the end.

    What the client died of is raised where it is noticed: at the start, or at the end. While it
    runs, discord.py of this process talks to `fake` alone. discord.py is ready when no guild has
    come for `guild_ready_timeout`: a client made with 0.05 there starts in a tenth of a second.
    """

    def __init__(self, client: discord.Client, fake: FakeDiscord) -> None:
        self.client = client
        self._fake = fake
        self._pointing = point_to(fake)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    def __enter__(self) -> Self:
        self._pointing.__enter__()
        self._thread.start()
        try:
            self._fake.wait_until(
                lambda: not self._thread.is_alive() or self.client.is_ready(),
                _LIMIT_S,
                what="the client to be ready",
            )
            if self._error is not None:
                raise self._error
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        self._stop()
        if self._error is not None:
            raise self._error from error  # a test that failed did so because of it

    def call(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float = 10.0) -> Result:
        """Run a coroutine in the client's loop."""
        assert self._loop is not None, "the client runs"
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._error = error

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.client:
            await self.client.start(self._fake.token)

    async def _close(self) -> None:
        """Close the client once what it has begun is done: an answer is seen before it returns."""
        begun = [t for t in asyncio.all_tasks() if t.get_name().startswith(_CALLBACKS)]
        if begun:
            await asyncio.wait(begun, timeout=_CALLBACK_LIMIT_S)
        await self.client.close()

    def _stop(self) -> None:
        try:
            if self._loop is not None and self._thread.is_alive():
                closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
                closing.result(_LIMIT_S)
            self._thread.join(_LIMIT_S)
            if self._thread.is_alive():
                raise FakeDiscordError("the client did not end")
        finally:
            self._pointing.__exit__(None, None, None)
