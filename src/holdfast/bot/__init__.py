"""The state of a Discord bot, ready made, over an open store.  It knows no Discord library.

with holdfast.open() as store:
    bot = BotStore(store)
    bot.messages.set(guild.id, "registration", channel.id, message.id)
"""

from __future__ import annotations

from holdfast.bot.botstore import AsyncBotStore, BotStore
from holdfast.bot.claims import Claim
from holdfast.bot.entries import Entry
from holdfast.bot.environment import Environment
from holdfast.bot.messages import Message
from holdfast.bot.records import Statistics
from holdfast.bot.schedules import Due, DueClaim
from holdfast.bot.waiting import Placed
from holdfast.bot.waitlist import EntryClaim

__all__ = [
    "AsyncBotStore",
    "BotStore",
    "Claim",
    "Due",
    "DueClaim",
    "Entry",
    "EntryClaim",
    "Environment",
    "Message",
    "Placed",
    "Statistics",
]
