"""The registration panel: its buttons, its form, and what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import discord
from helpers.reporting import NotHere, as_written, report

if TYPE_CHECKING:
    from bot import TournamentBot


class Panel(discord.ui.View):
    """Register, unregister, check in.  Persistent: it answers after a restart, too."""

    def __init__(self, bot: TournamentBot) -> None:
        super().__init__(timeout=None)
        self.bot = bot

    @discord.ui.button(
        label="Register", style=discord.ButtonStyle.success, custom_id="tournament:register"
    )
    async def register(self, interaction: discord.Interaction, _: Any) -> None:
        # At once: a form can only be the first answer.
        await interaction.response.send_modal(RegistrationForm(self.bot))

    @discord.ui.button(
        label="Unregister", style=discord.ButtonStyle.danger, custom_id="tournament:unregister"
    )
    async def unregister(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        guild_id, user = _place(interaction)
        was = await self.bot.registrations.unregister(guild_id, user.id)
        texts = {
            "registered": "You are not registered any more.",
            "waiting": "You are off the waitlist.",
            None: "You were not registered.",
        }
        await interaction.followup.send(texts[was], ephemeral=True)
        if was:
            await self.bot.fill_places(guild_id)

    @discord.ui.button(
        label="Check in", style=discord.ButtonStyle.primary, custom_id="tournament:checkin"
    )
    async def check_in(self, interaction: discord.Interaction, _: Any) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        guild_id, user = _place(interaction)
        there = await self.bot.registrations.check_in(guild_id, user.id)
        text = "You are checked in." if there else "Only those who are registered can check in."
        await interaction.followup.send(text, ephemeral=True)
        if there:
            await self.bot.refresh_panel(guild_id)

    async def on_error(
        self, interaction: discord.Interaction, error: Exception, item: Any, /
    ) -> None:
        await report(interaction, error)


class RegistrationForm(discord.ui.Modal):
    """What somebody says of themselves when they register."""

    def __init__(self, bot: TournamentBot) -> None:
        # No custom_id of our own: discord.py finds an open form by it, so each needs another one.
        super().__init__(title="Registration")
        self.bot = bot
        self.ign = _field("In-game name", "ign", required=True)
        self.alt_igns = _field("Other names, with commas", "alt_igns")
        self.pronouns = _field("Pronouns", "pronouns")
        self.team_name = _field("Team", "team_name")
        for item in (self.ign, self.alt_igns, self.pronouns, self.team_name):
            self.add_item(item)

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        guild_id, user = _place(interaction)
        if not await self.bot.state.settings.get(guild_id, "is_open"):
            await interaction.followup.send("The registration is closed.", ephemeral=True)
            return
        team_name = self.team_name.value.strip() or None
        hint = ""
        if team_name:
            members = await self.bot.registrations.members(guild_id)
            teams = {details.get("team_name") for details in members.values()} - {None}
            alike = await self.bot.state.waitlist.suggest_team(
                guild_id, team_name, registered=teams
            )
            if alike:
                hint = f" Did you mean the team {as_written(alike)}? Register again to change it."
        others = [name.strip() for name in self.alt_igns.value.split(",")]
        details = {
            "discord_tag": str(user),
            "ign": self.ign.value.strip(),
            "alt_igns": [name for name in others if name],
            "pronouns": self.pronouns.value.strip() or None,
            "team_name": team_name,
        }
        outcome = await self.bot.registrations.register(guild_id, user.id, details)
        text = "You are registered."
        if not outcome.registered:
            text = "All places are taken: you are on the waitlist."
            if outcome.position is not None:
                text = f"All places are taken: you are number {outcome.position} on the waitlist."
        await interaction.followup.send(text + hint, ephemeral=True)
        await self.bot.tell(guild_id, outcome.promoted)
        await self.bot.refresh_panel(guild_id)

    async def on_error(self, interaction: discord.Interaction, error: Exception, /) -> None:
        await report(interaction, error)


def _field(label: str, custom_id: str, *, required: bool = False) -> discord.ui.TextInput[Any]:
    return discord.ui.TextInput(label=label, custom_id=custom_id, required=required, max_length=100)


def _place(interaction: discord.Interaction) -> tuple[int, Any]:
    if interaction.guild_id is None:
        raise NotHere
    return interaction.guild_id, interaction.user


async def panel_embed(bot: TournamentBot, guild_id: int | str) -> discord.Embed:
    """What the panel shows: places, waitlist, check-ins."""
    settings = await bot.state.settings.get(guild_id)
    registered = await bot.registrations.document(guild_id)
    waiting = await bot.state.waitlist.length(guild_id)
    embed = discord.Embed(
        title="Tournament registration",
        description="Open" if settings["is_open"] else "Closed",
        colour=discord.Colour.green() if settings["is_open"] else discord.Colour.red(),
    )
    embed.add_field(name="Registered", value=f"{len(registered['members'])}/{settings['capacity']}")
    embed.add_field(name="Waitlist", value=str(waiting))
    embed.add_field(name="Checked in", value=str(len(registered["checked_in"])))
    return embed
