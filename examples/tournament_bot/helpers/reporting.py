"""Errors of commands and buttons, told to those who pressed them."""

from __future__ import annotations

import logging

import discord
from discord import app_commands

from standfast import StandfastError

logger = logging.getLogger("tournament_bot")


async def report(interaction: discord.Interaction, error: BaseException) -> None:
    """Tell the user what went wrong; details, with hosts and names in them, go into the log."""
    if isinstance(error, StandfastError):
        logger.warning("the storage: %s (%s)", error.message, error.hint)
        text = "The storage cannot do that now. Please try again in a minute."
    elif isinstance(error, app_commands.MissingPermissions):
        text = "This needs the permission of an administrator."
    elif isinstance(error, app_commands.AppCommandError | ValueError):
        text = str(error)
    else:
        logger.error("a command or button failed", exc_info=error)
        text = "Something went wrong; the organisers can see it in the log."
    if interaction.response.is_done():
        await interaction.followup.send(text, ephemeral=True)
    else:
        await interaction.response.send_message(text, ephemeral=True)
