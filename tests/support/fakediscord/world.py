"""What the fake Discord knows, under one lock, and how tests wait for it to change."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from support.fakediscord.messages import MessageBook
from support.fakediscord.protocol import FakeDiscordError, Json, Request, snowflake
from support.fakediscord.records import FakeChannel, FakeGuild, FakeUser

if TYPE_CHECKING:
    from support.fakediscord.gateway import Session
    from support.fakediscord.interactions import Interaction

Found = TypeVar("Found")
#: How often a wait looks again without having been told of a change: what it waits for may lie
#: outside of the fake.
_LOOK_AGAIN_S = 0.05
_SHOWN_REQUESTS = 15


class World:
    """Users, guilds, channels, messages, commands, sessions and interactions.

    Whoever reads more than one thing, or changes anything, does so inside `changing()`. The
    server's loop and the tests' threads share it.
    """

    def __init__(
        self, *, clock: Callable[[], float], answer_limit_s: float, token: str, bot_name: str
    ) -> None:
        self.condition = threading.Condition()
        self.token = token
        self.answer_limit_s = answer_limit_s
        self.url = ""
        self._clock = clock
        self._passed_s = 0.0
        self._version = 0
        self.users: dict[int, FakeUser] = {}
        self.guilds: dict[int, FakeGuild] = {}
        self.channels: dict[int, FakeChannel] = {}
        self.dm_channels: dict[int, FakeChannel] = {}
        self.messages = MessageBook(self)
        #: Registered commands: of a guild by its id, global ones under None; by (type, name).
        self.commands: dict[int | None, dict[tuple[int, str], Json]] = {}
        self.sessions: list[Session] = []
        self.identified = 0
        self.resumed = 0
        self.interactions: dict[str, Interaction] = {}
        self.requests: list[Request] = []
        self.unknown_requests: list[Request] = []
        #: Errors of the fake itself, told when it is closed.
        self.failures: list[BaseException] = []
        self.bot = self.new_user(bot_name, bot=True)

    @property
    def application_id(self) -> int:
        return self.bot.id

    def now(self) -> float:
        """The fake's time, in seconds; only differences mean something."""
        with self.condition:
            return self._clock() + self._passed_s

    def pass_time(self, seconds: float) -> None:
        with self.changing():
            self._passed_s += seconds

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock, and tell those who wait that something may have changed."""
        with self.condition:
            try:
                yield
            finally:
                self._version += 1
                self.condition.notify_all()

    def new_user(self, name: str, *, bot: bool = False) -> FakeUser:
        user = FakeUser(self, snowflake(), name, bot)
        self.users[user.id] = user
        return user

    def dm_channel(self, user: FakeUser) -> FakeChannel:
        """The channel of the bot and a user; made when there is none."""
        with self.changing():
            channel = self.dm_channels.get(user.id)
            if channel is None:
                channel = FakeChannel(self, snowflake(), "", recipient=user)
                self.channels[channel.id] = self.dm_channels[user.id] = channel
            return channel

    def emit(self, event: str, data: Json | Callable[[int], Json], *, intent: int) -> None:
        """Send an event to every session that asked for it; 0: all of them.

        `data` may depend on the session's intents.
        """
        with self.changing():
            for session in self.sessions:
                if not intent or session.intents & intent:
                    session.push(event, data(session.intents) if callable(data) else data)

    def wait_until(
        self,
        predicate: Callable[[], Found],
        timeout_s: float,
        *,
        what: str = "what the test waits for",
        seen: Callable[[], str] | None = None,
    ) -> Found:
        """The first true value of `predicate`, which is called without the lock.

        Raises FakeDiscordError after `timeout_s`, with what `seen` says and the last requests.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self.condition:
                version = self._version
            found = predicate()
            if found:
                return found
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                told = f"{seen()}\n" if seen else ""
                raise FakeDiscordError(
                    f"not within {timeout_s:g} s: {what}\n{told}{self.describe()}"
                )
            with self.condition:
                if self._version == version:
                    self.condition.wait(min(left_s, _LOOK_AGAIN_S))

    def describe(self) -> str:
        """Sessions, last requests and errors, for the message of an error."""
        with self.condition:
            lines = [f"sessions: {[session.describe() for session in self.sessions]}"]
            lines += [f"fake's own error: {failure!r}" for failure in self.failures]
            lines.append(f"last of {len(self.requests)} requests:")
            lines += [
                f"  {r.method} {r.path} -> {r.status}" for r in self.requests[-_SHOWN_REQUESTS:]
            ]
        return "\n".join(lines)
