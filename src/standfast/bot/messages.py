"""Persisted messages: which message of a guild carries which view."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from typing import Any, cast

from standfast.api.drive import Blocking, blocking
from standfast.bot.fields import GuildId, is_message_name, message_name, number_id
from standfast.bot.guilds import MESSAGES, VIEWS, Guilds, Members, Part
from standfast.errors import Unavailable
from standfast.ops.types import Receipt, Redacted

#: A bare number in a listing is taken for a message from here on: Discord's ids are that large
#: since its first days, counts and colours are not.
_SMALLEST_BARE_ID = 10**15


class Message(Redacted, frozen=True):
    """Where a persisted message is.  `channel_id` is None where only the message was stored."""

    content = frozenset({"channel_id", "message_id"})

    guild_id: str
    name: str
    channel_id: int | None
    message_id: int


class AsyncMessages(Part):
    """Persisted messages: a place `(channel_id, message_id)` for each name.

    What `set` has written is recorded beside the document, in `bot_messages`, by name and message:
    what a member looks like is never a reason to delete it, nor that its name was a message once.
    """

    def __init__(self, guilds: Guilds) -> None:
        super().__init__(guilds)
        self._recorded: dict[tuple[str, str], int] = {}

    async def set(
        self, guild_id: GuildId, name: str, channel_id: int | str, message_id: int | str
    ) -> Receipt:
        """Remember where a message is; works during an outage.

        DataError("bad_name") for `event_mode`, `claims` and names that end with `_schedule`, which
        mean something else in the document; DataError("bad_id").
        """
        place = [number_id(channel_id, "channel"), number_id(message_id, "message")]
        patch = {message_name(name): place}
        record = (self._guilds.key(guild_id), name)
        if self._recorded.get(record) != place[1]:
            await self._guilds.patch(MESSAGES, guild_id, {name: place[1]})
            self._recorded[record] = place[1]
        return await self._guilds.patch(VIEWS, guild_id, patch)

    async def get(self, guild_id: GuildId, name: str) -> Message | None:
        """Where the message is, or None; the older form, a bare message id, is read too."""
        member = message_name(name)
        members = await self._guilds.members(VIEWS, guild_id)
        return _message(self._guilds.key(guild_id), member, members.get(member), smallest=1)

    async def remove(
        self, guild_id: GuildId, name: str, *, message_id: int | str | None = None
    ) -> bool:
        """Forget where the message is; False when it was not known.  Works during an outage.

        `message_id`: only if it is this one, by a look right before.
        """
        member = message_name(name)
        only = None if message_id is None else number_id(message_id, "message")

        def removal(members: Members | None) -> Members | None:
            if members is None:
                return {member: None} if only is None else None
            if only is not None:
                found = _message("", member, members.get(member), smallest=1)
                return {member: None} if found and found.message_id == only else None
            return {member: None} if member in members else None

        return await self._guilds.patch_seen(VIEWS, guild_id, removal)

    async def list(self, guild_id: GuildId | None = None) -> builtins.list[Message]:
        """The messages of a guild, or of all guilds, in order of guild and name.

        A member counts as a message when it is a list of two ids, or a bare number from 10**15 on
        (the older form): it may be something else that looks so; see `known`.  In an outage from
        the mirror: Unavailable("not_mirrored") when that does not hold the guild, or not the whole
        collection.
        """
        if guild_id is None:
            documents = await self._guilds.documents(VIEWS)
        else:
            members = await self._guilds.members(VIEWS, guild_id)
            documents = [(self._guilds.key(guild_id), members)]
        found: builtins.list[Message] = []
        for key, value in documents:
            if isinstance(value, dict):
                members = cast("Members", value)
                messages = (_message(key, name, members[name]) for name in sorted(members))
                found += [message for message in messages if message is not None]
        return found

    async def known(self, names: Iterable[str] = ()) -> builtins.list[Message]:
        """The messages of all guilds that are known as such, in order of guild and name.

        These are the ones that `set` has written, as it wrote them, and the members with one of
        `names`, which may be in the older form.  In an outage as `list`; where the records are not
        known then, only those with one of `names`, if there are any.
        """
        given = builtins.set(names)
        records: dict[str, Any] = {}
        try:
            records = dict(await self._guilds.documents(MESSAGES))
        except Unavailable:
            if not given:
                raise
        found: builtins.list[Message] = []
        for key, value in await self._guilds.documents(VIEWS):
            if not isinstance(value, dict):
                continue
            members, record = cast("Members", value), records.get(key)
            written = cast("Members", record) if isinstance(record, dict) else {}
            for name in sorted((given | written.keys()) & members.keys()):
                message = _message(key, name, members[name], smallest=1)
                # Another value has taken the place of what was written: it may be anything.
                if message and (name in given or written[name] == message.message_id):
                    found.append(message)
        return found


class Messages(Blocking[AsyncMessages]):
    """Which message of a guild carries which view: `bot.messages`."""

    set = blocking(AsyncMessages.set)
    get = blocking(AsyncMessages.get)
    remove = blocking(AsyncMessages.remove)
    list = blocking(AsyncMessages.list)
    known = blocking(AsyncMessages.known)


def _message(
    guild_id: str, name: str, value: Any, *, smallest: int = _SMALLEST_BARE_ID
) -> Message | None:
    """The message that a member holds, in the form of today or the older one; None if neither."""
    if not is_message_name(name):
        return None
    match value:
        case [int(channel_id), int(message_id)] if _are_ids(channel_id, message_id):
            return Message(guild_id, name, channel_id, message_id)
        case int() if _are_ids(value) and value >= smallest:
            return Message(guild_id, name, None, value)
        case _:
            return None


def _are_ids(*values: int) -> bool:
    return all(not isinstance(value, bool) and value >= 0 for value in values)
