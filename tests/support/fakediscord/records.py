"""Users, roles, guilds and channels, as tests handle them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.fakediscord import payloads
from support.fakediscord.protocol import (
    ADMINISTRATOR,
    ALL_PERMISSIONS,
    DM,
    GUILD_MEMBERS,
    GUILDS,
    PLAIN_PERMISSIONS,
    TEXT,
    FakeDiscordError,
    Json,
    snowflake,
)

if TYPE_CHECKING:
    from support.fakediscord.messages import FakeMessage
    from support.fakediscord.world import World


@dataclass(eq=False, repr=False)
class FakeUser:
    """Somebody on Discord. `dms_closed`: nobody's direct messages reach them (403, code 50007)."""

    world: World
    id: int
    name: str
    bot: bool = False
    dms_closed: bool = False

    def __repr__(self) -> str:
        return f"<FakeUser {self.name} {self.id}>"

    @property
    def mention(self) -> str:
        return f"<@{self.id}>"

    @property
    def guilds(self) -> list[FakeGuild]:
        with self.world.condition:
            return [guild for guild in self.world.guilds.values() if self.id in guild.members]


@dataclass(eq=False)
class FakeRole:
    """A role of a guild; the one with the guild's id is everybody's."""

    id: int
    name: str
    permissions: int
    position: int
    managed: bool = False


@dataclass(eq=False)
class Membership:
    """What a guild knows of a member."""

    user: FakeUser
    joined: int
    roles: list[int] = field(default_factory=list)
    nick: str | None = None
    timeout_until: str | None = None


class FakeGuild:
    """A guild with an owner, the bot as an administrator, and the text channel "general"."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.id = snowflake()
        self.name = name
        self.roles = {self.id: FakeRole(self.id, "@everyone", PLAIN_PERMISSIONS, 0)}
        self.members: dict[int, Membership] = {}
        self.channels: list[FakeChannel] = []
        #: Events of what is done before the guild is known to clients would be news of nothing.
        self._known = False
        self.owner = self.add_member(f"{name} owner")
        self.admins = self.add_role("Admins", permissions=ADMINISTRATOR)
        bots = self.add_role(world.bot.name, permissions=ADMINISTRATOR)
        bots.managed = True
        self.add_member(world.bot)
        self.members[world.bot.id].roles.append(bots.id)
        self.add_channel("general")
        with world.changing():
            world.guilds[self.id] = self
            world.emit("GUILD_CREATE", lambda i: payloads.guild_create(self, i), intent=GUILDS)
            self._known = True

    def __repr__(self) -> str:
        return f"<FakeGuild {self.name} {self.id}>"

    @property
    def general(self) -> FakeChannel:
        return self.channel("general")

    @property
    def messages(self) -> list[FakeMessage]:
        """The messages of all channels, oldest first."""
        with self.world.condition:
            every = [message for channel in self.channels for message in channel.messages]
        return sorted(every, key=lambda message: message.id)

    def channel(self, name: str) -> FakeChannel:
        with self.world.condition:
            for channel in self.channels:
                if channel.name == name:
                    return channel
            raise FakeDiscordError(f"no channel {name!r} among {[c.name for c in self.channels]}")

    def add_channel(self, name: str) -> FakeChannel:
        """A new text channel."""
        with self.world.changing():
            channel = FakeChannel(self.world, snowflake(), name, self, position=len(self.channels))
            self.channels.append(channel)
            self.world.channels[channel.id] = channel
            self._emit("CHANNEL_CREATE", payloads.channel(channel), intent=GUILDS)
            return channel

    def remove_channel(self, channel: FakeChannel) -> None:
        with self.world.changing():
            self.channels.remove(channel)
            del self.world.channels[channel.id]
            self.world.messages.forget(channel)
            self._emit("CHANNEL_DELETE", payloads.channel(channel), intent=GUILDS)

    def add_member(self, who: str | FakeUser, *, administrator: bool = False) -> FakeUser:
        """Let a new user, or one of another guild, join."""
        with self.world.changing():
            user = self.world.new_user(who) if isinstance(who, str) else who
            member = Membership(user, snowflake())
            if administrator:
                member.roles.append(self.admins.id)
            self.members[user.id] = member
            data = payloads.guild_member(self, member)
            self._emit("GUILD_MEMBER_ADD", data, intent=GUILD_MEMBERS)
            return user

    def remove_member(self, user: FakeUser) -> None:
        with self.world.changing():
            if self.members.pop(user.id, None) is None:
                raise FakeDiscordError(f"{user!r} is not in {self!r}")
            data: Json = {"guild_id": str(self.id), "user": payloads.user(user)}
            self._emit("GUILD_MEMBER_REMOVE", data, intent=GUILD_MEMBERS)

    def add_role(self, name: str, *, permissions: int = 0) -> FakeRole:
        with self.world.changing():
            role = FakeRole(snowflake(), name, permissions, len(self.roles))
            self.roles[role.id] = role
            data = {"guild_id": str(self.id), "role": payloads.role(role)}
            self._emit("GUILD_ROLE_CREATE", data, intent=GUILDS)
            return role

    def remove_role(self, role: FakeRole) -> None:
        with self.world.changing():
            del self.roles[role.id]
            for member in self.members.values():
                if role.id in member.roles:
                    member.roles.remove(role.id)
            data: Json = {"guild_id": str(self.id), "role_id": str(role.id)}
            self._emit("GUILD_ROLE_DELETE", data, intent=GUILDS)

    def roles_of(self, user: FakeUser) -> list[FakeRole]:
        with self.world.condition:
            return [self.roles[each] for each in self.members[user.id].roles]

    def set_roles(self, user: FakeUser, roles: list[int]) -> None:
        with self.world.changing():
            self.members[user.id].roles = roles
            self.member_changed(user)

    def member_changed(self, user: FakeUser) -> None:
        """Tell clients that something about a member is new."""
        data = payloads.guild_member(self, self.members[user.id])
        self._emit("GUILD_MEMBER_UPDATE", data, intent=GUILD_MEMBERS)

    def permissions_of(self, user: FakeUser) -> int:
        """The bits of a member; all of them for the owner and administrators."""
        member = self.members[user.id]
        bits = self.roles[self.id].permissions
        for each in member.roles:
            bits |= self.roles[each].permissions
        return ALL_PERMISSIONS if bits & ADMINISTRATOR or user is self.owner else bits

    def leave(self) -> None:
        """The bot is removed from the guild."""
        with self.world.changing():
            del self.world.guilds[self.id]
            for channel in self.channels:
                del self.world.channels[channel.id]
                self.world.messages.forget(channel)
            self.world.emit("GUILD_DELETE", {"id": str(self.id)}, intent=GUILDS)

    def _emit(self, event: str, data: Json, *, intent: int) -> None:
        if self._known:
            self.world.emit(event, data, intent=intent)


@dataclass(eq=False, repr=False)
class FakeChannel:
    """A text channel of a guild, or the direct messages of the bot with `recipient`."""

    world: World
    id: int
    name: str
    guild: FakeGuild | None = None
    recipient: FakeUser | None = None
    position: int = 0
    topic: str | None = None
    overwrites: dict[int, Json] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<FakeChannel {self.name or f'with {self.recipient!r}'} {self.id}>"

    @property
    def type(self) -> int:
        return TEXT if self.guild else DM

    @property
    def messages(self) -> list[FakeMessage]:
        """The messages that are to be seen, oldest first; not those for one user, or to come."""
        return [m for m in self.world.messages.of(self) if not m.loading]

    def changed(self) -> None:
        """Tell clients that something about the channel is new."""
        self.world.emit("CHANNEL_UPDATE", payloads.channel(self), intent=GUILDS)

    def say(self, user: FakeUser, content: str) -> FakeMessage:
        """A user writes something."""
        return self.world.messages.create(self, user, {"content": content})

    def delete_message(self, message: FakeMessage) -> None:
        """A moderator deletes a message."""
        self.world.messages.delete(message)

    def wait_message(
        self, predicate: Callable[[FakeMessage], object], timeout_s: float = 10.0
    ) -> FakeMessage:
        """The first message of which `predicate` is true."""
        found = self.world.wait_until(
            lambda: [message for message in self.messages if predicate(message)],
            timeout_s,
            what=f"a message in {self!r}",
            seen=lambda: f"messages: {[message.shown() for message in self.messages]}",
        )
        return found[0]
