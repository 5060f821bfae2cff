"""The state of a Discord bot, ready made, over an open store.  It knows no Discord library.

with standfast.open() as store:
    bot = BotStore(store)
    bot.messages.set(guild.id, "registration", channel.id, message.id)
"""

from __future__ import annotations

from standfast.bot.claims import Claim
from standfast.bot.documents import AsyncGuildDocuments, GuildDocuments, LoadedGuilds
from standfast.bot.entries import WaitlistEntry
from standfast.bot.environment import Environment
from standfast.bot.messages import Message
from standfast.bot.promotion import Registration
from standfast.bot.records import Statistics
from standfast.bot.schedules import Due, DueClaim
from standfast.bot.store import AsyncBotStore, BotStore, close_shared, shared
from standfast.bot.waitlist import EntryClaim
from standfast.bot.waitlist_calls import Added

__all__ = [
    "Added",
    "AsyncBotStore",
    "AsyncGuildDocuments",
    "BotStore",
    "Claim",
    "Due",
    "DueClaim",
    "EntryClaim",
    "Environment",
    "GuildDocuments",
    "LoadedGuilds",
    "Message",
    "Registration",
    "Statistics",
    "WaitlistEntry",
    "close_shared",
    "shared",
]
