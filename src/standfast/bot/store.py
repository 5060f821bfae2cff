"""A bot's state over an open store, with its two faces: one that blocks, one that is awaited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from standfast.api.aio import AsyncStore
from standfast.api.drive import awaited, blocking, plain
from standfast.api.store import StoreCalls
from standfast.api.sync import Store
from standfast.bot import faces
from standfast.bot.environment import Environment
from standfast.bot.environment_check import Guard
from standfast.bot.guild_settings import SettingsCalls
from standfast.bot.guilds import Guilds
from standfast.bot.messages import MessagesCalls
from standfast.bot.modes import ModesCalls
from standfast.bot.records import RecordsCalls
from standfast.bot.schedules import SchedulesCalls
from standfast.bot.times import utc_now
from standfast.bot.waitlist import AsyncWaitlist, Waitlist, WaitlistCalls

MODES = ("normal", "doubleup")
TEAM_MODES = ("doubleup",)


class _Parts:
    """The calls of every part, over the calls of a store."""

    def __init__(
        self,
        store: StoreCalls,
        *,
        environment: Environment,
        modes: Iterable[str],
        team_modes: Iterable[str],
        settings: Mapping[str, Any] | None,
        clock: Callable[[], datetime],
    ) -> None:
        guilds = Guilds(store, guard=Guard(store, environment), clock=clock)
        self.messages = MessagesCalls(guilds)
        self.modes = ModesCalls(guilds, names=modes, team_names=team_modes)
        self.schedules = SchedulesCalls(guilds)
        self.settings = SettingsCalls(guilds, defaults=settings or {})
        self.records = RecordsCalls(guilds)
        self.waitlist = WaitlistCalls(guilds, self.modes)


class BotStore:
    """The state of a Discord bot over an open store, which it does not own: the caller closes it.

    `environment`: by default what the environment's variables tell (`Environment.detect`).
    `modes` are the event modes, the first one that of a guild which has set none; in `team_modes`
    teams play.  `settings`: the defaults of the guilds' settings.  `clock` tells an aware time.
    ConfigError when one of them is wrong.  Thread-safe.
    """

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
        self.store = store
        self.environment = environment or Environment.detect()
        parts = _Parts(
            store.calls,
            environment=self.environment,
            modes=modes,
            team_modes=team_modes,
            settings=settings,
            clock=clock,
        )
        self.calls = parts.records
        self.messages = faces.Messages(parts.messages)
        self.modes = faces.Modes(parts.modes)
        self.schedules = faces.Schedules(parts.schedules)
        self.settings = faces.GuildSettings(parts.settings)
        self.guilds = faces.GuildRecords(parts.records)
        self.waitlist = Waitlist(parts.waitlist)

    def __repr__(self) -> str:
        return f"BotStore({self.store!r}, {str(self.environment)!r})"

    allows = plain(RecordsCalls.allows)
    statistics = blocking(RecordsCalls.statistics)


class AsyncBotStore:
    """The state of a Discord bot over an asynchronous store: as `BotStore`, awaited."""

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
        parts = _Parts(
            store.calls,
            environment=self.environment,
            modes=modes,
            team_modes=team_modes,
            settings=settings,
            clock=clock,
        )
        self.calls = parts.records
        self.messages = faces.AsyncMessages(parts.messages)
        self.modes = faces.AsyncModes(parts.modes)
        self.schedules = faces.AsyncSchedules(parts.schedules)
        self.settings = faces.AsyncGuildSettings(parts.settings)
        self.guilds = faces.AsyncGuildRecords(parts.records)
        self.waitlist = AsyncWaitlist(parts.waitlist)

    def __repr__(self) -> str:
        return f"AsyncBotStore({self.store!r}, {str(self.environment)!r})"

    allows = plain(RecordsCalls.allows)
    statistics = awaited(RecordsCalls.statistics)
