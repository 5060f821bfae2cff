"""A tournament bot: registration and check-in with buttons, a waitlist, schedules.

    DISCORD_TOKEN=... DATABASE_URL=postgresql://... python bot.py

All of its state is in one store, which goes on while PostgreSQL is away: see `core`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterable
from typing import Any

import discord
from commands import tournament
from core.registrations import Registrations
from core.storage_service import close_storage_service, get_storage_service
from discord import app_commands
from discord.ext import commands
from helpers.reporting import as_written, report
from panel import Panel, panel_embed

from standfast import StandfastError, Unavailable
from standfast.bot import AsyncBotStore, WaitlistEntry
from standfast.bot.discordpy import StorageMixin
from standfast.bot.schedules import DueClaim

PANEL = "registration"
OPENING = {"open_registration": True, "close_registration": False}

logger = logging.getLogger("tournament_bot")


class TournamentBot(StorageMixin, commands.Bot):
    """The bot; `registrations` and `state` are what commands and buttons use."""

    registrations: Registrations

    def __init__(self) -> None:
        intents = discord.Intents(guilds=True, members=True)
        # What members are called, or have written, never mentions anybody.
        quiet = discord.AllowedMentions.none()
        super().__init__(
            command_prefix=commands.when_mentioned, intents=intents, allowed_mentions=quiet
        )
        self.persist_view(PANEL, lambda message: Panel(self))
        self.tree.add_command(tournament)
        self.tree.error(self.on_command_failed)

    async def open_storage(self) -> AsyncBotStore:
        service = await asyncio.to_thread(get_storage_service)
        self.registrations = Registrations(service.async_bot)
        return service.async_bot

    async def close_storage(self) -> None:
        await asyncio.to_thread(close_storage_service)

    async def setup_hook(self) -> None:
        await super().setup_hook()
        await self._learn()
        await self.tree.sync()

    async def _learn(self) -> None:
        """Read what buttons need, so that it is known here should PostgreSQL go away."""
        for name in ("guild_settings", "registrations", "waitlist_data"):
            try:
                async for _ in self.store[name].items():
                    pass
            except Unavailable as error:
                logger.warning("%s could not be read ahead: %s", name, error)

    # ---- the panel

    async def post_panel(self, channel: Any) -> None:
        """Post the message with the buttons, remember it, and delete the one before.

        Only the buttons of the one that is remembered answer after a restart.
        """
        before = await self.state.messages.get(channel.guild.id, PANEL)
        embed = await panel_embed(self, channel.guild.id)
        message = await channel.send(embed=embed, view=Panel(self))
        await self.state.messages.set(channel.guild.id, PANEL, channel.id, message.id)
        if before is None or before.channel_id is None:
            return
        former = self.get_partial_messageable(before.channel_id, guild_id=channel.guild.id)
        try:
            await former.get_partial_message(before.message_id).delete()
        except discord.HTTPException as error:
            logger.info("the former panel of guild %s stays: %s", channel.guild.id, error)

    async def refresh_panel(self, guild_id: int | str) -> None:
        """Show the counts as they are now, where there is a panel."""
        place = await self.state.messages.get(guild_id, PANEL)
        if place is None or place.channel_id is None:
            return
        channel = self.get_partial_messageable(place.channel_id, guild_id=int(guild_id))
        try:
            await channel.get_partial_message(place.message_id).edit(
                embed=await panel_embed(self, guild_id)
            )
        except discord.HTTPException as error:
            logger.warning("the panel of guild %s was not refreshed: %s", guild_id, error)

    async def fill_places(self, guild_id: int | str) -> None:
        """Promote those who come next, tell them, and refresh the panel."""
        await self.tell(guild_id, await self.registrations.promote(guild_id))
        await self.refresh_panel(guild_id)

    async def tell(self, guild_id: int | str, entries: Iterable[WaitlistEntry]) -> None:
        """Tell those who were promoted, each by a message and in the panel's channel."""
        for entry in entries:
            await self._tell(guild_id, entry)

    async def _tell(self, guild_id: int | str, entry: WaitlistEntry) -> None:
        guild = self.get_guild(int(guild_id))
        if guild is None:
            return
        member = guild.get_member(entry.member_id)
        try:
            if member is not None:
                await member.send(
                    f"A place is free: you are registered in {as_written(guild.name)} now."
                )
        except discord.HTTPException as error:  # many people take no messages from bots
            logger.info("member %s could not be told: %s", entry.member_id, error)
        place = await self.state.messages.get(guild_id, PANEL)
        if place is None or place.channel_id is None:
            return
        channel = self.get_partial_messageable(place.channel_id, guild_id=guild.id)
        try:
            await channel.send(
                f"<@{entry.member_id}> comes up from the waitlist.",
                allowed_mentions=discord.AllowedMentions(users=True),
            )
        except discord.HTTPException as error:
            logger.info("nothing can be said in the panel's channel: %s", error)

    # ---- what happens

    async def on_schedule_due(self, claim: DueClaim) -> None:
        """Open or close the registration when its time has come."""
        if claim.due.name in OPENING:
            await self.state.settings.patch(claim.guild_id, {"is_open": OPENING[claim.due.name]})
            await self.refresh_panel(claim.guild_id)

    async def on_raw_member_remove(self, payload: discord.RawMemberRemoveEvent) -> None:
        """Somebody has left: their place is free."""
        if self.state.allows(payload.guild_id):
            await self.on_member_gone(str(payload.guild_id), payload.user.id)

    async def tracked_members(self, guild: discord.Guild) -> Iterable[int]:
        registered = await self.registrations.members(guild.id)
        waiting = await super().tracked_members(guild)
        return [*map(int, registered), *waiting]

    async def on_member_gone(self, guild_id: str, member_id: int) -> None:
        if await self.registrations.unregister(guild_id, member_id):
            await self.fill_places(guild_id)

    # ---- errors

    async def on_command_failed(
        self, interaction: discord.Interaction, error: app_commands.AppCommandError
    ) -> None:
        """Say in one sentence what went wrong."""
        await report(interaction, getattr(error, "original", error))


def main() -> int:
    """Run the bot until it is stopped."""
    token = os.environ.get("DISCORD_TOKEN", "").strip()
    if not token:
        print("DISCORD_TOKEN is not set: see .env.example", file=sys.stderr)
        return 2
    try:
        TournamentBot().run(token, root_logger=True)
    except StandfastError as error:
        print(f"the storage cannot be opened: {error.message}; {error.hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
