"""What tests do with a fake Discord."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

from support.fakediscord import commands
from support.fakediscord.gateway import How
from support.fakediscord.interactions import Answer, Interaction, modal_data, pressed
from support.fakediscord.messages import FakeMessage
from support.fakediscord.protocol import (
    BUTTON,
    COMMAND,
    COMPONENT,
    MODAL_SUBMIT,
    ApiError,
    FakeDiscordError,
    Request,
)
from support.fakediscord.records import FakeChannel, FakeGuild, FakeRole, FakeUser
from support.fakediscord.rest import Fault
from support.fakediscord.server import Server
from support.fakediscord.world import World

Found = TypeVar("Found")
_REGISTER_LIMIT_S = 10.0


class FakeDiscord:
    """A Discord with one bot, which any client may log in as with `token`.

    A first answer to an interaction is refused later than `answer_limit_s` after it was sent; the
    time is `clock`'s, and `pass_time` moves it. Every method can be called from any thread.
    """

    def __init__(
        self,
        *,
        answer_limit_s: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        token: str = "fake-token",
        bot_name: str = "Fake Bot",
        heartbeat_s: float = 41.25,
    ) -> None:
        self.world = World(
            clock=clock, answer_limit_s=answer_limit_s, token=token, bot_name=bot_name
        )
        self._server = Server(self.world, heartbeat_s=heartbeat_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        # An error of the fake is told, unless the test fails already, where it would hide why.
        if kind is None and self.world.failures:
            raise FakeDiscordError("the fake itself failed") from self.world.failures[0]

    def start(self) -> None:
        self.world.url = self._server.start()

    def stop(self) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return self.world.url

    @property
    def token(self) -> str:
        return self.world.token

    @property
    def bot(self) -> FakeUser:
        return self.world.bot

    @property
    def guilds(self) -> list[FakeGuild]:
        with self.world.condition:
            return list(self.world.guilds.values())

    @property
    def requests(self) -> list[Request]:
        """All REST requests: (method, path, status)."""
        with self.world.condition:
            return list(self.world.requests)

    @property
    def unknown_requests(self) -> list[Request]:
        """Requests to routes that the fake does not know, answered with 404."""
        with self.world.condition:
            return list(self.world.unknown_requests)

    @property
    def sessions(self) -> int:
        """How many sessions clients have begun, in all; one that is resumed is not a new one."""
        with self.world.condition:
            return self.world.identified

    @property
    def connected(self) -> bool:
        """Whether a client has a session, and a connection for it, now."""
        with self.world.condition:
            return any(session.connected for session in self.world.sessions)

    @property
    def commands(self) -> list[str]:
        """Names of the application commands that the bot has registered."""
        return commands.names(self.world)

    @property
    def answer_limit_s(self) -> float:
        """How long after an interaction was sent its first answer is taken; can be set."""
        return self.world.answer_limit_s

    @answer_limit_s.setter
    def answer_limit_s(self, value: float) -> None:
        with self.world.changing():
            self.world.answer_limit_s = value

    def pass_time(self, seconds: float) -> None:
        """Let the fake's clock jump, by which the ages of interactions are told."""
        self.world.pass_time(seconds)

    def add_guild(self, name: str) -> FakeGuild:
        return FakeGuild(self.world, name)

    def dms(self, user: FakeUser) -> list[FakeMessage]:
        """The messages between the bot and a user, oldest first."""
        with self.world.condition:
            channel = self.world.dm_channels.get(user.id)
            return channel.messages if channel else []

    def wait_until(
        self,
        predicate: Callable[[], Found],
        timeout_s: float = 10.0,
        *,
        what: str = "what the test waits for",
    ) -> Found:
        """The first true value of `predicate`; FakeDiscordError with what was received if none."""
        return self.world.wait_until(predicate, timeout_s, what=what)

    def wait_ready(self, timeout_s: float = 20.0, *, sessions: int = 1) -> None:
        """Wait until a client was sent READY and its guilds, or has resumed.

        `sessions` is the least number that its session may have: 2 for the one after a restart.
        """
        self.world.wait_until(
            lambda: self._is_ready(sessions), timeout_s, what=f"session {sessions} to be ready"
        )

    def _is_ready(self, number: int) -> bool:
        with self.world.condition:
            return any(each.ready and each.number >= number for each in self.world.sessions)

    def wait_gone(self, timeout_s: float = 10.0) -> None:
        """Wait until no client is connected, as after its process was killed."""
        self.world.wait_until(lambda: not self.connected, timeout_s, what="the client to be gone")

    def disconnect_gateway(self, how: How = "close", *, resumable: bool = False) -> None:
        """End every gateway connection, as Discord does from time to time, and wait for that.

        `how`: by a close frame, by asking clients to reconnect, or by a cut. Clients come back with
        a new session, or resume theirs when that is `resumable`.
        """
        self._server.disconnect_clients(how, resumable=resumable)

    def fail_next(
        self,
        method: str,
        path_regex: str,
        *,
        status: int,
        code: int = 0,
        times: int = 1,
        applied: bool = False,
        retry_after_s: float = 0.05,
    ) -> None:
        """Answer the next requests of a kind with an error.

        `applied`: they are carried out, and only their answers are replaced. `path_regex` is
        searched in what follows /api/v10. With status 429 clients come again after
        `retry_after_s`; with 500, 502 and 504, and any from 500 on the routes of interactions,
        discord.py does after 1, 3, 5, 7 seconds: 503 elsewhere is told to the bot at once.
        """
        error = ApiError(status, code, "made to fail by the test")
        with self.world.changing():
            self._server.rest.faults.append(
                Fault(method, re.compile(path_regex), error, times, applied, retry_after_s)
            )

    def press(self, user: FakeUser, message: FakeMessage | Answer, custom_id: str) -> Answer:
        """Press a button, by its custom_id or label; Unanswered when the bot does not answer."""
        return self.begin_press(user, message, custom_id).answer()

    def begin_press(
        self, user: FakeUser, message: FakeMessage | Answer, custom_id: str
    ) -> Interaction:
        """Press a button without waiting; the answer is had by `.answer()`."""
        return self._use(user, message, custom_id)

    def select(
        self,
        user: FakeUser,
        message: FakeMessage | Answer,
        custom_id: str,
        values: Sequence[str | FakeUser | FakeRole | FakeChannel],
    ) -> Answer:
        """Choose from a select: values of its options, or users, roles, channels of the guild."""
        return self._use(user, message, custom_id, list(values)).answer()

    def _use(
        self,
        user: FakeUser,
        message: FakeMessage | Answer,
        custom_id: str,
        values: Sequence[str | FakeUser | FakeRole | FakeChannel] | None = None,
    ) -> Interaction:
        found = message.message if isinstance(message, Answer) else message
        with self.world.changing():
            if found is None or found.deleted:
                raise FakeDiscordError(f"there is no message (any more): {message!r}")
            if found.reader not in (None, user):
                raise FakeDiscordError(f"only {found.reader!r} sees {found!r}")
            component = pressed(found, custom_id)
            data = {
                "custom_id": component["custom_id"],
                "component_type": component["type"],
                "id": component["id"],
            }
            if (component["type"] == BUTTON) != (values is None):
                raise FakeDiscordError(f"press buttons, select from selects: {component}")
            if values is not None:
                data |= commands.chosen(component, values, guild=found.channel.guild)
            return Interaction(
                self.world, COMPONENT, user, found.channel, data, source=found
            ).send()

    def submit(self, user: FakeUser, modal: Answer, texts: Mapping[str, str]) -> Answer:
        """Fill in a modal, by labels or custom_ids, and send it."""
        return self.begin_submit(user, modal, texts).answer()

    def begin_submit(self, user: FakeUser, modal: Answer, texts: Mapping[str, str]) -> Interaction:
        """Send a modal without waiting."""
        before = modal.interaction
        if user is not before.user:
            raise FakeDiscordError(f"the modal is {before.user!r}'s, not {user!r}'s")
        data = modal_data(modal, texts)
        return Interaction(
            self.world, MODAL_SUBMIT, user, before.channel, data, source=before.source
        ).send()

    def slash(
        self,
        user: FakeUser,
        *path: str,
        options: Mapping[str, Any] | None = None,
        guild: FakeGuild | None = None,
        channel: FakeChannel | None = None,
    ) -> Answer:
        """Use a command; the names of subcommands follow its own.

        Options are str, int, bool, float, FakeUser, FakeChannel or FakeRole, as the command says.
        Without `guild` it is the channel's, else the only one the user is in; without `channel`
        its first. A command that is not registered yet is waited for. Default permissions of
        commands do not hold anybody back, since servers can change them.
        """
        return self.begin_slash(user, *path, options=options, guild=guild, channel=channel).answer()

    def begin_slash(
        self,
        user: FakeUser,
        *path: str,
        options: Mapping[str, Any] | None = None,
        guild: FakeGuild | None = None,
        channel: FakeChannel | None = None,
    ) -> Interaction:
        """Use a command without waiting for the answer."""
        place = guild or (channel.guild if channel else None)
        if place is None:
            (place,) = user.guilds
        found = self.world.wait_until(
            lambda: commands.find(self.world, place, path),
            _REGISTER_LIMIT_S,
            what=f"the command {' '.join(path)!r} to be registered",
            seen=lambda: f"registered: {self.commands}",
        )
        data = commands.data(found, options or {}, guild=place)
        where = channel or place.channels[0]
        return Interaction(self.world, COMMAND, user, where, data).send()
