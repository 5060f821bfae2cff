"""A bot in a process of its own against the fake Discord, which outlives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fakediscord import BotProcess, FakeDiscord

pytestmark = pytest.mark.process

_SCRIPT = """
import os

import discord
from discord.ext import commands


class Panel(discord.ui.View):
    def __init__(self):
        super().__init__(timeout=None)

    @discord.ui.button(label="Who", custom_id="who")
    async def who(self, interaction, button):
        await interaction.response.send_message(str(os.getpid()))


class Bot(commands.Bot):
    async def setup_hook(self):
        self.add_view(Panel())

    async def on_guild_available(self, guild):
        if not guild.text_channels[0].last_message_id:
            await guild.text_channels[0].send("panel", view=Panel())


Bot("!", intents=discord.Intents(guilds=True)).run(os.environ["BOT_TOKEN"])
"""


def test_killed_process_starts_again(tmp_path: Path) -> None:
    """A bot killed with SIGKILL and started again answers the button of its first life."""
    script = tmp_path / "bot.py"
    script.write_text(_SCRIPT)
    with FakeDiscord(answer_limit_s=30.0) as fake:
        guild = fake.add_guild("Test Guild")
        alice = guild.add_member("alice")
        with BotProcess(script, fake=fake, env={"BOT_TOKEN": fake.token}) as bot:
            message = guild.general.wait_message(lambda each: each.buttons)
            first = fake.press(alice, message, "who").content
            assert first == str(bot.pid)
            assert bot.kill() == -9
            fake.wait_gone()
            lost = fake.begin_press(alice, message, "who")
            bot.start()
            fake.wait_ready(sessions=2)
            assert fake.press(alice, message, "who").content == str(bot.pid) != first
            assert "RuntimeWarning" not in bot.output()
            assert lost.first is None
        assert bot.returncode == -9
        assert "logging in" in bot.output()
        assert [each for each in guild.general.messages if each.buttons] == [message]
