"""The organisers' commands: `/tournament ...`."""

from __future__ import annotations

import asyncio
from typing import Any

import discord
from core.storage_service import get_storage_service
from discord import app_commands
from helpers.reporting import MAX_MESSAGE_CHARS, as_written

tournament = app_commands.Group(
    name="tournament",
    description="Run a tournament",
    guild_only=True,
    default_permissions=discord.Permissions(administrator=True),
)
administrators = app_commands.checks.has_permissions(administrator=True)


async def _begin(interaction: discord.Interaction) -> tuple[Any, int]:
    """Answer at once, so that the storage has time; the bot and the guild's id."""
    await interaction.response.defer(ephemeral=True, thinking=True)
    assert interaction.guild_id is not None, "the group is for guilds only"
    return interaction.client, interaction.guild_id


async def _say(interaction: discord.Interaction, text: str) -> None:
    await interaction.followup.send(text[:MAX_MESSAGE_CHARS], ephemeral=True)


@tournament.command(name="open", description="Open the registration and post the panel here")
@administrators
async def open_registration(interaction: discord.Interaction) -> None:
    bot, guild_id = await _begin(interaction)
    await bot.state.settings.patch(guild_id, {"is_open": True})
    await bot.post_panel(interaction.channel)
    await _say(interaction, "The registration is open.")


@tournament.command(name="close", description="Close the registration")
@administrators
async def close_registration(interaction: discord.Interaction) -> None:
    bot, guild_id = await _begin(interaction)
    await bot.state.settings.patch(guild_id, {"is_open": False})
    await bot.refresh_panel(guild_id)
    await _say(interaction, "The registration is closed.")


@tournament.command(name="capacity", description="How many may register")
@administrators
async def capacity(
    interaction: discord.Interaction, number: app_commands.Range[int, 1, 10_000]
) -> None:
    bot, guild_id = await _begin(interaction)
    await bot.state.settings.patch(guild_id, {"capacity": number})
    await bot.fill_places(guild_id)
    await _say(interaction, f"{number} places.")


@tournament.command(name="mode", description="Set the event mode")
@administrators
async def mode(interaction: discord.Interaction, name: str) -> None:
    bot, guild_id = await _begin(interaction)
    await bot.state.modes.set(guild_id, name)
    await _say(interaction, f"The mode is {as_written(name)}.")


@tournament.command(name="schedule", description="Open or close the registration at a time")
@app_commands.choices(
    name=[
        app_commands.Choice(name=choice, value=choice)
        for choice in ("open_registration", "close_registration")
    ]
)
@administrators
async def schedule(interaction: discord.Interaction, name: str, when: str) -> None:
    bot, guild_id = await _begin(interaction)
    await bot.state.schedules.set(guild_id, name, when)
    set_to = await bot.state.schedules.get(guild_id, name)
    await _say(interaction, f"{name}: {set_to.isoformat()}.")


@tournament.command(name="waitlist", description="Who waits")
@administrators
async def waitlist(interaction: discord.Interaction) -> None:
    bot, guild_id = await _begin(interaction)
    entries = await bot.state.waitlist.list(guild_id)
    lines = [
        f"{n}. {as_written(entry.ign)} ({as_written(entry.discord_tag)})"
        for n, entry in enumerate(entries, 1)
    ]
    await _say(interaction, "\n".join(lines) or "Nobody waits.")


@tournament.command(name="remove", description="Unregister somebody")
@administrators
async def remove(interaction: discord.Interaction, member: discord.Member) -> None:
    bot, guild_id = await _begin(interaction)
    was = await bot.registrations.unregister(guild_id, member.id)
    await _say(interaction, "Done." if was else "They were not registered.")
    if was:
        await bot.fill_places(guild_id)


@tournament.command(name="status", description="How the storage is doing")
@administrators
async def status(interaction: discord.Interaction) -> None:
    await _begin(interaction)
    found = await asyncio.to_thread(get_storage_service().get_storage_status)
    lines = [f"{name}: {value}" for name, value in found.items() if name != "primary"]
    await _say(interaction, "\n".join(lines))
