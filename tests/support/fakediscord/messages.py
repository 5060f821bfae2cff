"""Messages: what they hold, and how they are made, edited and deleted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from support.fakediscord import payloads
from support.fakediscord.protocol import (
    BUTTON,
    COMPONENTS_V2,
    DIRECT_MESSAGES,
    EPHEMERAL,
    GUILD_MESSAGES,
    LOADING,
    SELECTS,
    SUPPRESS_EMBEDS,
    FakeDiscordError,
    Json,
    invalid_form,
    iso_time,
    snowflake,
    unknown,
)
from support.fakediscord.validate import check_message

if TYPE_CHECKING:
    from support.fakediscord.records import FakeChannel, FakeUser
    from support.fakediscord.world import World

_MENTION = re.compile(r"<@!?(\d+)>")
_REPLY = 19


class Button(NamedTuple):
    """A button as a user sees it; those with a link have no custom_id."""

    label: str | None
    custom_id: str | None
    disabled: bool
    style: int
    url: str | None


class Upload(NamedTuple):
    """A file that came with a request."""

    name: str
    content: bytes


@dataclass(eq=False, repr=False)
class FakeMessage:
    """A message, always as it is now; `deleted` when it is no more.

    `embeds`, `components` and `attachments` are in Discord's JSON form, `files` are the contents of
    the attachments by name.
    """

    channel: FakeChannel
    id: int
    author: FakeUser
    type: int = 0
    content: str = ""
    embeds: list[Json] = field(default_factory=list)
    components: list[Json] = field(default_factory=list)
    attachments: list[Json] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    mentions: list[FakeUser] = field(default_factory=list)
    flags: int = 0
    pinned: bool = False
    deleted: bool = False
    edited_at: str | None = None
    nonce: str | None = None
    reference: Json | None = None
    #: Set in answers to interactions.
    metadata: Json | None = None
    #: Whom an ephemeral message is for.
    reader: FakeUser | None = None

    def __repr__(self) -> str:
        return f"<FakeMessage {self.id} {self.shown()}>"

    @property
    def ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def loading(self) -> bool:
        """Whether it stands for an answer that is deferred."""
        return bool(self.flags & LOADING)

    @property
    def buttons(self) -> list[Button]:
        return [
            Button(
                each.get("label"),
                each.get("custom_id"),
                bool(each.get("disabled")),
                each["style"],
                each.get("url"),
            )
            for each in walk(self.components)
            if each["type"] == BUTTON
        ]

    def button(self, label_or_custom_id: str) -> Button:
        for button in self.buttons:
            if label_or_custom_id in (button.label, button.custom_id):
                return button
        raise FakeDiscordError(f"no button {label_or_custom_id!r} among {self.buttons}")

    @property
    def selects(self) -> list[Json]:
        return [each for each in walk(self.components) if each["type"] in SELECTS]

    def shown(self) -> str:
        """What a reader sees, in one line, for the messages of errors."""
        titles = [embed.get("title") or embed.get("description") for embed in self.embeds]
        labels = [button.label for button in self.buttons]
        parts = [repr(self.content), *([f"embeds={titles}"] if titles else [])]
        return " ".join([*parts, *([f"buttons={labels}"] if labels else [])])


def walk(components: Sequence[Json]) -> Iterator[Json]:
    """Components and all that is in them."""
    for component in components:
        yield component
        yield from walk(component.get("components", ()))
        for inner in ("accessory", "component"):
            if inner in component:
                yield from walk([component[inner]])


class MessageBook:
    """All messages; those for one user alone are found by their ids only."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_id: dict[int, FakeMessage] = {}
        self._channels: dict[int, list[FakeMessage]] = {}

    def find(self, message_id: int) -> FakeMessage | None:
        with self._world.condition:
            return self._by_id.get(message_id)

    def of(self, channel: FakeChannel) -> list[FakeMessage]:
        """The messages of a channel, oldest first."""
        with self._world.condition:
            return list(self._channels.get(channel.id, ()))

    def forget(self, channel: FakeChannel) -> None:
        """Drop the messages of a channel that is deleted."""
        for message in self._channels.pop(channel.id, []):
            message.deleted = True
            del self._by_id[message.id]

    def create(
        self,
        channel: FakeChannel,
        author: FakeUser,
        body: Json,
        *,
        files: Sequence[Upload] = (),
        flags: int = 0,
        metadata: Json | None = None,
        reader: FakeUser | None = None,
    ) -> FakeMessage:
        """A new message; ApiError for what Discord would not take.

        `flags` are added to those of the body. With LOADING it may be empty; with EPHEMERAL it is
        not among the channel's and no event tells of it.
        """
        flags |= int(body.get("flags") or 0)
        if not flags & LOADING:
            check_message(body, flags, files=bool(files))
        with self._world.changing():
            message = FakeMessage(channel, snowflake(), author, flags=flags, metadata=metadata)
            self._reply(message, body)
            self._fill(message, body, files)
            self._by_id[message.id] = message
            if message.ephemeral:
                message.reader = reader
            else:
                self._channels.setdefault(channel.id, []).append(message)
                self._emit("MESSAGE_CREATE", message)
            return message

    def edit(self, message: FakeMessage, body: Json, *, files: Sequence[Upload] = ()) -> None:
        """Change what the body names; ApiError for what Discord would not take."""
        kept = {"content": message.content, "embeds": message.embeds}
        kept |= {"components": message.components, "attachments": message.attachments}
        flags = message.flags
        if body.get("flags") is not None:  # only these can be changed, and the second only set
            asked = int(body["flags"])
            flags = (flags & ~SUPPRESS_EMBEDS) | (asked & (SUPPRESS_EMBEDS | COMPONENTS_V2))
        check_message({**kept, **body}, flags, files=bool(files))
        with self._world.changing():
            message.flags = flags & ~LOADING
            self._fill(message, body, files)
            message.edited_at = iso_time(snowflake())
            if not message.ephemeral:
                self._emit("MESSAGE_UPDATE", message)

    def delete(self, message: FakeMessage) -> None:
        with self._world.changing():
            if self._by_id.pop(message.id, None) is None:
                raise unknown("message")
            message.deleted = True
            if not message.ephemeral:
                self._channels[message.channel.id].remove(message)
                intent = self._intent(message)
                self._world.emit("MESSAGE_DELETE", payloads.deleted(message), intent=intent)

    def _emit(self, event: str, message: FakeMessage) -> None:
        self._world.emit(
            event,
            lambda intents: payloads.message_event(message, intents),
            intent=self._intent(message),
        )

    def _intent(self, message: FakeMessage) -> int:
        return GUILD_MESSAGES if message.channel.guild else DIRECT_MESSAGES

    def _reply(self, message: FakeMessage, body: Json) -> None:
        reference = body.get("message_reference")
        if not reference:
            return
        to = self._by_id.get(int(reference["message_id"]))
        if to is not None:
            place = {"guild_id": str(to.channel.guild.id)} if to.channel.guild else {}
            message.reference = {
                "message_id": str(to.id),
                "channel_id": str(to.channel.id),
                **place,
            }
            message.type = _REPLY
        elif reference.get("fail_if_not_exists", True):
            raise invalid_form("message_reference", "Unknown message")

    def _fill(self, message: FakeMessage, body: Json, files: Sequence[Upload]) -> None:
        """Take over what the body names."""
        if "content" in body:
            message.content = body["content"] or ""
            ids = [int(found) for found in _MENTION.findall(message.content)]
            users = self._world.users
            message.mentions = [users[each] for each in dict.fromkeys(ids) if each in users]
        if "embeds" in body:
            message.embeds = [{"type": "rich", **embed} for embed in body["embeds"] or ()]
        if "components" in body:
            message.components = numbered(body["components"] or [])
        if body.get("nonce") is not None:
            message.nonce = str(body["nonce"])
        if "attachments" in body or files:
            self._attach(message, body.get("attachments"), files)

    def _attach(
        self, message: FakeMessage, named: list[Json] | None, files: Sequence[Upload]
    ) -> None:
        """Keep the attachments that are named by their ids, and add the files."""
        keep = {str(each["id"]) for each in named or ()}
        message.attachments = [old for old in message.attachments if old["id"] in keep]
        names = {old["filename"] for old in message.attachments}
        message.files = {name: data for name, data in message.files.items() if name in names}
        for file in files:
            number = str(snowflake())
            url = f"{self._world.url}/attachments/{message.channel.id}/{number}/{file.name}"
            message.attachments = [
                *message.attachments,
                {
                    "id": number,
                    "filename": file.name,
                    "size": len(file.content),
                    "url": url,
                    "proxy_url": url,
                    "content_type": "application/octet-stream",
                },
            ]
            message.files = {**message.files, file.name: file.content}

    def file(self, channel_id: int, name: str, attachment_id: str) -> bytes | None:
        """The content of an attachment, if there is one."""
        with self._world.condition:
            for message in self._by_id.values():
                if message.channel.id == channel_id:
                    for each in message.attachments:
                        if each["id"] == attachment_id and each["filename"] == name:
                            return message.files[name]
        return None


def numbered(components: list[Json]) -> list[Json]:
    """Components with the numbers that Discord gives to those without one."""
    taken = {each["id"] for each in walk(components) if each.get("id")}
    free = (number for number in itertools.count(1) if number not in taken)

    def number(component: Json) -> Json:
        done = {**component, "id": component.get("id") or next(free)}
        if "components" in component:
            done["components"] = [number(each) for each in component["components"]]
        for inner in ("accessory", "component"):
            if inner in component:
                done[inner] = number(component[inner])
        return done

    return [number(each) for each in components]
