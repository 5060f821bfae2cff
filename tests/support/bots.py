"""Bots for tests: a database, stores on it, and the state of a bot by either API.

home = Home(url, root, face="awaited")
bot = home.bot()                 # its calls block in the test, whichever API they go through
bot.messages.set(1, "registration", 2, 3)
home.clock.advance(60)
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import standfast
from standfast.api.sync import Store
from standfast.bot import AsyncBotStore, BotStore, Environment

Face = Literal["blocking", "awaited"]

#: Longer than a machine under load takes to answer: no test is about this.
DEADLINE_S = 10.0


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2030, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


class Awaited:
    """An object of the asynchronous API; each of its calls is awaited to its end at once."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self.inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if inspect.iscoroutinefunction(value):
            return self._run(value)
        if type(value).__name__.startswith("Async"):
            return Awaited(value, self._runner)
        return value

    def __getitem__(self, name: str) -> Awaited:
        return Awaited(self.inner[name], self._runner)

    def _run(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return self._runner.run(method(*args, **options))

        return call


class Home:
    """One database with stores of one API on it; all are closed in the end."""

    def __init__(self, url: str | None, root: Path, *, face: Face = "blocking") -> None:
        self.url = url or f"sqlite:///{root}/bot.db"
        self.root = root
        self.face: Face = face
        self.clock = Clock()
        self._stack = ExitStack()
        self._runner: asyncio.Runner | None = None

    def store(self, name: str = "storage", **options: Any) -> Store:
        """A blocking store, to look at what is there, or to be another program."""
        options = {"data_dir": self.root / name, "deadline_s": DEADLINE_S} | options
        return self._stack.enter_context(standfast.open(self.url, **options))

    def bot(
        self,
        name: str = "storage",
        *,
        environment: Environment | None = None,
        store_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """A bot over a store of its own, in the data directory of this name."""
        options = {"clock": self.clock, "environment": environment or Environment()} | options
        if self.face == "blocking":
            return BotStore(self.store(name, **(store_options or {})), **options)
        if self._runner is None:
            self._runner = self._stack.enter_context(asyncio.Runner())
        runner = self._runner
        opening = {"data_dir": self.root / name, "deadline_s": DEADLINE_S} | (store_options or {})

        async def opened() -> standfast.AsyncStore:
            return await standfast.open_async(self.url, **opening)

        store = runner.run(opened())
        self._stack.callback(lambda: runner.run(store.close()))
        return Awaited(AsyncBotStore(store, **options), runner)

    def close(self) -> None:
        self._stack.close()
