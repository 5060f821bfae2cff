"""A bot's state over an open store, synchronous and asynchronous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from standfast.api.aio import AsyncStore
from standfast.api.drive import Blocking, blocking
from standfast.api.sync import Store
from standfast.bot.environment import Environment
from standfast.bot.environment_check import Guard
from standfast.bot.fields import GuildId, utc_now
from standfast.bot.guild_settings import AsyncGuildSettings, GuildSettings
from standfast.bot.guilds import Guilds
from standfast.bot.messages import AsyncMessages, Messages
from standfast.bot.modes import AsyncModes, Modes
from standfast.bot.records import AsyncGuildRecords, GuildRecords, Statistics
from standfast.bot.schedules import AsyncSchedules, Schedules
from standfast.bot.waitlist import AsyncWaitlist, Waitlist
from standfast.engine.interfaces import Engine

MODES = ("normal", "doubleup")
TEAM_MODES = ("doubleup",)


class AsyncBotStore:
    """The state of a Discord bot over an open store, which it does not own: the caller closes it.

    `environment`: by default what the environment's variables say (`Environment.detect`).
    `modes` are the event modes, the first one that of a guild which has set none; in `team_modes`
    teams play.  `settings`: the defaults of the guilds' settings.  `clock` gives an aware time.
    ConfigError when one of them is wrong.
    """

    def __init__(
        self,
        store: AsyncStore,
        *,
        environment: Environment | None = None,
        modes: Iterable[str] = MODES,
        team_modes: Iterable[str] = TEAM_MODES,
        settings: Mapping[str, Any] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.store = store
        self.environment = environment or Environment.detect()
        guilds = Guilds(store.handle, guard=Guard(store.handle, self.environment), clock=clock)
        self.messages = AsyncMessages(guilds)
        self.modes = AsyncModes(guilds, names=modes, team_names=team_modes)
        self.schedules = AsyncSchedules(guilds)
        self.settings = AsyncGuildSettings(guilds, defaults=settings or {})
        self.guilds = AsyncGuildRecords(guilds)
        self.waitlist = AsyncWaitlist(guilds, self.modes)

    def __repr__(self) -> str:
        return f"AsyncBotStore({self.store!r}, {str(self.environment)!r})"

    @property
    def engine(self) -> Engine:
        """The engine that serves the calls; not for users."""
        return self.store.engine

    def allows(self, guild_id: GuildId) -> bool:
        """Whether this process sees and writes the guild; no I/O.  DataError("bad_guild")."""
        return self.guilds.allows(guild_id)

    async def statistics(self) -> Statistics:
        """Counts over all guilds that this process may see.  In an outage from the mirror."""
        return await self.guilds.statistics()


class BotStore(Blocking[AsyncBotStore]):
    """The state of a Discord bot over an open store, as `AsyncBotStore`.  Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        environment: Environment | None = None,
        modes: Iterable[str] = MODES,
        team_modes: Iterable[str] = TEAM_MODES,
        settings: Mapping[str, Any] | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        calls = AsyncBotStore(
            store.calls,
            environment=environment,
            modes=modes,
            team_modes=team_modes,
            settings=settings,
            clock=clock,
        )
        super().__init__(calls)
        self.store = store
        self.environment = calls.environment
        self.messages = Messages(calls.messages)
        self.modes = Modes(calls.modes)
        self.schedules = Schedules(calls.schedules)
        self.settings = GuildSettings(calls.settings)
        self.guilds = GuildRecords(calls.guilds)
        self.waitlist = Waitlist(calls.waitlist)

    def __repr__(self) -> str:
        return f"BotStore({self.store!r}, {str(self.environment)!r})"

    def allows(self, guild_id: GuildId) -> bool:
        """Whether this process sees and writes the guild; no I/O.  DataError("bad_guild")."""
        return self.calls.allows(guild_id)

    statistics = blocking(AsyncBotStore.statistics)
