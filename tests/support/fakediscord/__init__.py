"""A Discord on loopback, for tests with the real client library.

    with FakeDiscord() as fake, BotProcess(script, fake=fake):
        guild = fake.add_guild("Test Guild")
        alice = guild.add_member("alice")
        fake.wait_ready()
        message = guild.general.wait_message(lambda message: message.buttons)
        answer = fake.press(alice, message, "register")

It holds bots to what Discord holds them to where that matters to their state: a first answer that
comes late is refused, messages that are deleted are unknown, forms that are too long are invalid.
"""

from __future__ import annotations

from support.fakediscord.controller import FakeDiscord
from support.fakediscord.interactions import Answer, Interaction, ModalField
from support.fakediscord.messages import Button, FakeMessage
from support.fakediscord.process import BotProcess
from support.fakediscord.protocol import FakeDiscordError, Unanswered
from support.fakediscord.records import FakeChannel, FakeGuild, FakeRole, FakeUser

__all__ = [
    "Answer",
    "BotProcess",
    "Button",
    "FakeChannel",
    "FakeDiscord",
    "FakeDiscordError",
    "FakeGuild",
    "FakeMessage",
    "FakeRole",
    "FakeUser",
    "Interaction",
    "ModalField",
    "Unanswered",
]
