"""Interactions: what users do with a bot, and what it answered in time."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from support.fakediscord import payloads
from support.fakediscord.messages import Button, FakeMessage, walk
from support.fakediscord.protocol import (
    ACTION_ROW,
    CHOICES,
    DEFERRED,
    DEFERRED_UPDATE,
    LABEL,
    MESSAGE,
    MODAL,
    TEXT_INPUT,
    UPDATE,
    FakeDiscordError,
    Json,
    Unanswered,
    snowflake,
)

if TYPE_CHECKING:
    from support.fakediscord.records import FakeChannel, FakeGuild, FakeUser
    from support.fakediscord.world import World

#: How much longer than the limit a test waits for a first answer.
GRACE_S = 2.0
_ATTACHMENT_LIMIT = 10 * 1024 * 1024
#: What an app may do in direct messages: send messages, embed links, attach files.
_DM_PERMISSIONS = (1 << 11) | (1 << 14) | (1 << 15)

Kind = Literal["message", "deferred", "update", "modal", "choices"]
KINDS: dict[int, Kind] = {
    MESSAGE: "message",
    DEFERRED: "deferred",
    DEFERRED_UPDATE: "deferred",
    UPDATE: "update",
    CHOICES: "choices",
    MODAL: "modal",
}


class ModalField(NamedTuple):
    """A text field of a modal, as a user sees it."""

    label: str | None
    custom_id: str
    value: str
    required: bool
    min_length: int
    max_length: int


@dataclass(eq=False, repr=False)
class Interaction:
    """One thing that a user did; `answer` waits for what the bot says first."""

    world: World
    type: int
    user: FakeUser
    channel: FakeChannel
    data: Json
    #: The message whose button was pressed, also for the modal that came of it.
    source: FakeMessage | None = None
    id: int = field(default_factory=snowflake)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    sent_at: float = 0.0
    #: The first answer, as it was when it was taken.
    first: Answer | None = None
    #: What @original is.
    original: FakeMessage | None = None
    #: Messages made or edited with the token after the first answer, in the order of the requests.
    results: list[FakeMessage] = field(default_factory=list)
    #: How long after it was sent an answer came that was refused for it.
    late_s: float | None = None

    def __repr__(self) -> str:
        return f"<interaction {self.id} of {self.user!r} in {self.channel!r}: {self._what()}>"

    def _what(self) -> str:
        return str(self.data.get("custom_id") or self.data.get("name"))

    @property
    def guild(self) -> FakeGuild | None:
        return self.channel.guild

    def send(self) -> Interaction:
        """Tell the bot of it; FakeDiscordError for somebody who could not have done it."""
        with self.world.changing():
            if self.guild is not None and self.user.id not in self.guild.members:
                raise FakeDiscordError(f"{self.user!r} is not in {self.guild!r}")
            self.sent_at = self.world.now()
            self.world.interactions[self.token] = self
            if not self.world.sessions:
                raise Unanswered(f"no bot is connected for {self!r}\n{self.world.describe()}")
            self.world.emit("INTERACTION_CREATE", self.payload(), intent=0)
        return self

    def answer(self, timeout_s: float | None = None) -> Answer:
        """The first answer; Unanswered when none was taken within the limit and two seconds more.

        An answer that was refused since it came late ends the wait at once.
        """
        deadline_s = self.world.answer_limit_s + GRACE_S if timeout_s is None else timeout_s
        begun = time.monotonic()
        try:
            self.world.wait_until(lambda: self.first or self.late_s is not None, deadline_s)
        except FakeDiscordError:
            after = f"within {time.monotonic() - begun:.1f} s"
            raise Unanswered(f"no answer {after} to {self!r}\n{self.world.describe()}") from None
        if self.first is None:
            raise Unanswered(
                f"the answer came after {self.late_s:.3f} s, where {self.world.answer_limit_s:g} s"
                f" are allowed, to {self!r}\n{self.world.describe()}"
            )
        return self.first

    def take(self, kind: int, message: FakeMessage | None, modal: Json | None = None) -> None:
        """Keep the first answer."""
        self.original = message
        self.first = Answer(
            interaction=self,
            kind=KINDS[kind],
            latency_s=self.world.now() - self.sent_at,
            message=None if kind == DEFERRED_UPDATE else message,
            modal=modal,
        ).shown()

    def payload(self) -> Json:
        """The interaction as the gateway sends it."""
        world = self.world
        data: Json = {
            "id": str(self.id),
            "application_id": str(world.application_id),
            "type": self.type,
            "data": self.data,
            "token": self.token,
            "version": 1,
            "channel_id": str(self.channel.id),
            "channel": payloads.channel(self.channel),
            "locale": "en-US",
            "entitlements": [],
            "attachment_size_limit": _ATTACHMENT_LIMIT,
        }
        if self.source is not None:
            data["message"] = payloads.message(self.source)
        guild = self.guild
        if guild is None:
            more: Json = {"user": payloads.user(self.user), "context": 1}
            more["authorizing_integration_owners"] = {"0": "0"}
            more["app_permissions"] = str(_DM_PERMISSIONS)
            return {**data, **more}
        permissions = str(guild.permissions_of(self.user))
        data["channel"]["permissions"] = permissions
        member = payloads.member_with_user(guild.members[self.user.id])
        return {
            **data,
            "guild_id": str(guild.id),
            "guild": {"id": str(guild.id), "locale": "en-US", "features": []},
            "guild_locale": "en-US",
            "member": {**member, "permissions": permissions},
            "app_permissions": str(guild.permissions_of(world.bot)),
            "authorizing_integration_owners": {"0": str(guild.id)},
            "context": 0,
        }

    def metadata(self) -> Json:
        """What messages say of the interaction that they answer."""
        owner = "0" if self.guild is None else str(self.guild.id)
        data: Json = {"id": str(self.id), "type": self.type, "user": payloads.user(self.user)}
        data["authorizing_integration_owners"] = {"0": owner}
        if self.source is not None:
            data["interacted_message_id"] = str(self.source.id)
        return data


@dataclass(repr=False)
class Answer:
    """What a bot answered; `content`, `embeds` and `buttons` are as they were at that time.

    `message` is the message as it is now; None for modals, and for a press whose answer is
    deferred without a message of its own.
    """

    interaction: Interaction
    kind: Kind
    latency_s: float
    message: FakeMessage | None = None
    modal: Json | None = None
    content: str = ""
    embeds: list[Json] = field(default_factory=list)
    buttons: list[Button] = field(default_factory=list)
    ephemeral: bool = False

    def __repr__(self) -> str:
        what = [self.modal_title] if self.modal else [self.content, self.embeds, self.buttons]
        hidden = " ephemeral" if self.ephemeral else ""
        return f"<{self.kind}{hidden} after {self.latency_s:.3f} s: {what}>"

    def shown(self) -> Answer:
        """Take what the message shows at this time."""
        if self.message is not None:
            self.content, self.embeds = self.message.content, self.message.embeds
            self.buttons, self.ephemeral = self.message.buttons, self.message.ephemeral
        return self

    @property
    def text(self) -> str:
        """All that there is to be read: the content and the texts of the embeds, by lines."""
        parts = [self.content]
        for embed in self.embeds:
            parts += [embed.get("title", ""), embed.get("description", "")]
            for each in embed.get("fields", ()):
                parts += [each["name"], each["value"]]
            parts.append((embed.get("footer") or {}).get("text", ""))
        return "\n".join(part for part in parts if part)

    @property
    def modal_custom_id(self) -> str | None:
        return self.modal["custom_id"] if self.modal else None

    @property
    def modal_title(self) -> str | None:
        return self.modal["title"] if self.modal else None

    @property
    def fields(self) -> list[ModalField]:
        """The text fields of a modal."""
        return [
            ModalField(
                label,
                each["custom_id"],
                each.get("value") or "",
                each.get("required", True),
                each.get("min_length") or 0,
                each.get("max_length") or 4000,
            )
            for label, each in _inputs(self.modal)
        ]

    @property
    def followups(self) -> list[FakeMessage]:
        """The messages that were made after the first answer, oldest first."""
        with self.interaction.world.condition:
            first = self.message
            found = dict.fromkeys(self.interaction.results)
            return [m for m in found if m is not first and m is not self.interaction.original]

    def final(
        self, timeout_s: float = 10.0, *, where: Callable[[Answer], object] | None = None
    ) -> Answer:
        """What the user sees in the end: of a deferred answer, its follow-up or edited original.

        Other answers are final themselves, unless `where` asks for one that came later: then it is
        the first of all of which `where` is true, as the messages are now.
        """
        if where is None and self.kind != "deferred":
            return self
        test = where or (lambda _: True)

        def found() -> list[Answer]:
            with self.interaction.world.condition:
                return [each for each in self._results() if test(each)]

        return self.interaction.world.wait_until(
            found,
            timeout_s,
            what=f"the final answer to {self.interaction!r}",
            seen=lambda: f"answers so far: {[self, *self._results()]}",
        )[0]

    def _results(self) -> list[Answer]:
        latency_s = self.interaction.world.now() - self.interaction.sent_at
        return [
            Answer(self.interaction, "message", latency_s, message).shown()
            for message in dict.fromkeys(self.interaction.results)
        ]


def _inputs(modal: Json | None) -> list[tuple[str | None, Json]]:
    """The text inputs of a modal with their labels, in either form of modals."""
    found: list[tuple[str | None, Json]] = []
    for each in (modal or {}).get("components", ()):
        inner = each.get("components") or [each.get("component") or {}]
        for component in inner:
            if component.get("type") == TEXT_INPUT:
                found.append((component.get("label") or each.get("label"), component))
    return found


def modal_data(answer: Answer, texts: Mapping[str, str]) -> Json:
    """The data of a modal that was filled in; fields that are not named keep their values.

    FakeDiscordError for fields that there are not, and texts that a client would not let through.
    """
    if answer.modal is None:
        raise FakeDiscordError(f"not a modal: {answer!r}")
    known = {name for each in answer.fields for name in (each.label, each.custom_id)}
    if not set(texts) <= known:
        raise FakeDiscordError(f"fields {list(texts)} where there are {answer.fields}")
    values: dict[str, str] = {}
    for each in answer.fields:
        given = texts.get(each.custom_id, texts.get(each.label or "", each.value))
        if each.required and not given:
            raise FakeDiscordError(f"the field {each.label!r} is required")
        if given and not each.min_length <= len(given) <= each.max_length:
            raise FakeDiscordError(f"{len(given)} characters for {each}")
        values[each.custom_id] = given
    return {
        "custom_id": answer.modal["custom_id"],
        "components": [_filled(each, values) for each in answer.modal["components"]],
    }


def _filled(component: Json, values: Mapping[str, str]) -> Json:
    """What a client sends of a part of a modal."""
    kept = {name: component[name] for name in ("type", "id", "custom_id") if name in component}
    if component["type"] == ACTION_ROW:
        return {**kept, "components": [_filled(each, values) for each in component["components"]]}
    if component["type"] == LABEL:
        return {**kept, "component": _filled(component["component"], values)}
    if component["type"] == TEXT_INPUT:
        return {**kept, "value": values[component["custom_id"]]}
    return {**kept, "values": []} if "custom_id" in kept else kept


def pressed(message: FakeMessage, custom_id: str) -> Json:
    """The component of a message; FakeDiscordError for one that cannot be used."""
    for component in walk(message.components):
        if custom_id in (component.get("custom_id"), component.get("label")):
            if component.get("disabled"):
                raise FakeDiscordError(f"{custom_id!r} is disabled in {message!r}")
            if "custom_id" in component:
                return component
    raise FakeDiscordError(f"nothing with custom_id or label {custom_id!r} in {message!r}")
