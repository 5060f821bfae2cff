"""A bot of discord.py with every kind of answer, for the tests of the fake Discord."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from support.fakediscord import FakeDiscord, FakeGuild, FakeMessage
from support.fakediscord.inprocess import RunningClient
from support.fakediscord.launch import import_discord

import_discord()

import discord  # noqa: E402
from discord import app_commands  # noqa: E402
from discord.ext import commands  # noqa: E402


class Panel(discord.ui.View):
    """A view that outlives its process."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.button(label="Hello", custom_id="hello")
    async def hello(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.send_message(f"hello {interaction.user.name}", ephemeral=True)

    @discord.ui.button(label="Slow", custom_id="slow")
    async def slow(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        await interaction.followup.send("done", embed=discord.Embed(title="Result"))
        await interaction.followup.send("and more", ephemeral=True)

    @discord.ui.button(label="Quiet", custom_id="quiet")
    async def quiet(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.defer()
        await interaction.edit_original_response(content="edited")

    @discord.ui.button(label="Change", custom_id="change")
    async def change(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.edit_message(content="changed")

    @discord.ui.button(label="Ask", custom_id="ask")
    async def ask(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.send_modal(Question())


class Question(discord.ui.Modal, title="Who are you?"):
    ign: discord.ui.TextInput[Question] = discord.ui.TextInput(
        label="In-game name", custom_id="ign", max_length=10
    )
    team: discord.ui.TextInput[Question] = discord.ui.TextInput(label="Team", required=False)

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await interaction.response.send_message(f"{self.ign.value} of {self.team.value or '-'}")


class Vote(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"vote:(?P<number>\d+)"):
    """A button whose custom_id says what it is about."""

    def __init__(self, number: int) -> None:
        super().__init__(discord.ui.Button(label=f"Vote {number}", custom_id=f"vote:{number}"))
        self.number = number

    @classmethod
    async def from_custom_id(cls, interaction: Any, item: Any, match: re.Match[str]) -> Vote:
        return cls(int(match["number"]))

    async def callback(self, interaction: discord.Interaction) -> None:
        await interaction.response.send_message(f"voted {self.number}")


class Bot(commands.Bot):
    """Keeps the errors of its handlers, and is ready as soon as it has its guilds."""

    def __init__(self) -> None:
        intents = discord.Intents(guilds=True, members=True, guild_messages=True)
        intents.dm_messages = True
        super().__init__("!", intents=intents, guild_ready_timeout=0.05, help_command=None)
        self.errors: list[BaseException] = []
        self.joined: list[str] = []
        self.left: list[str] = []
        self.tree.add_command(_tournament)
        self.tree.error(self._command_error)

    async def setup_hook(self) -> None:
        self.add_view(Panel())
        self.add_dynamic_items(Vote)
        await self.tree.sync()

    async def on_member_join(self, member: discord.Member) -> None:
        self.joined.append(member.name)

    async def on_member_remove(self, member: discord.Member) -> None:
        self.left.append(member.name)

    async def _command_error(
        self, interaction: discord.Interaction, error: app_commands.AppCommandError
    ) -> None:
        if isinstance(error, app_commands.MissingPermissions):
            await interaction.response.send_message("not allowed", ephemeral=True)
        else:
            self.errors.append(getattr(error, "original", error))


_tournament = app_commands.Group(name="tournament", description="The tournament")


@_tournament.command(name="capacity", description="How many may play")
@app_commands.checks.has_permissions(administrator=True)
async def _capacity(
    interaction: discord.Interaction, number: int, who: discord.Member | None = None
) -> None:
    await interaction.response.send_message(f"{number} for {who.name if who else 'all'}")


class Running(RunningClient):
    """A bot in a thread of this process."""

    def __init__(self, fake: FakeDiscord) -> None:
        self.bot = Bot()
        super().__init__(self.bot, fake)


def send_panel(
    running: Running,
    guild: FakeGuild,
    content: str = "panel",
    *,
    view_class: Callable[[], Any] = Panel,
) -> FakeMessage:
    """Let the bot send a message with a view, and answer the message."""

    async def send() -> int:
        channel = running.bot.get_partial_messageable(guild.general.id)
        return (await channel.send(content, view=view_class())).id

    message_id = running.call(send())
    return guild.general.wait_message(lambda message: message.id == message_id)
