"""What members read: fixed sentences, and names that are shown as they are written.

Details of an error, with hosts and names in them, go into the log.
"""

from __future__ import annotations

import logging

import discord
from discord import app_commands

from standfast import DataError, StandfastError

logger = logging.getLogger("tournament_bot")

#: The longest message of Discord.
MAX_MESSAGE_CHARS = 2000


class NotHere(Exception):
    """A button was pressed where there is no server."""


#: The first class that fits decides.
SENTENCES: tuple[tuple[type[BaseException], str], ...] = (
    (DataError, "This value cannot be used. Please check it."),
    (StandfastError, "The storage cannot do that now. Please try again in a minute."),
    (NotHere, "This works in a server only."),
    (app_commands.MissingPermissions, "This needs the permission of an administrator."),
    (app_commands.BotMissingPermissions, "I lack a permission that this needs."),
    (app_commands.NoPrivateMessage, "This works in a server only."),
    (app_commands.CommandOnCooldown, "Please wait a moment before you use this again."),
    (app_commands.TransformerError, "One of the values is not valid."),
    (app_commands.CheckFailure, "You cannot use this here."),
    (app_commands.CommandNotFound, "This command is not there any more."),
    (app_commands.CommandSignatureMismatch, "This command has changed. Please try again later."),
)
FAILED = "Something went wrong; the organisers can see it in the log."


def sentence(error: BaseException) -> str:
    """What members read of an error: nothing of its own text."""
    return next((text for kind, text in SENTENCES if isinstance(error, kind)), FAILED)


def as_written(name: str) -> str:
    """A name that a member has given: without markdown, mentions and line breaks of its own."""
    one_line = " ".join(name.split())
    return discord.utils.escape_mentions(discord.utils.escape_markdown(one_line))


async def report(interaction: discord.Interaction, error: BaseException) -> None:
    """Show the user what went wrong, and log the details."""
    if isinstance(error, app_commands.CommandInvokeError):
        error = error.original
    text = sentence(error)
    if isinstance(error, StandfastError):
        logger.warning("the storage: %s (%s)", error.message, error.hint)
    elif text == FAILED:
        logger.error("a command or button failed", exc_info=error)
    if interaction.response.is_done():
        await interaction.followup.send(text, ephemeral=True)
    else:
        await interaction.response.send_message(text, ephemeral=True)
