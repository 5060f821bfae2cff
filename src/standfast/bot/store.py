"""A bot's state over an open store, synchronous and asynchronous, and the one of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from standfast.api.aio import AsyncStore
from standfast.api.drive import Blocking, blocking, plain
from standfast.api.sync import Store
from standfast.bot.documents import AsyncGuildDocuments, GuildDocuments
from standfast.bot.environment import PRODUCTION, Environment
from standfast.bot.environment_check import Guard
from standfast.bot.fields import GuildId, utc_now
from standfast.bot.guarded import guarded_async_store, guarded_store
from standfast.bot.guild_settings import AsyncGuildSettings, GuildSettings
from standfast.bot.guilds import Guilds
from standfast.bot.messages import AsyncMessages, Messages
from standfast.bot.modes import AsyncModes, Modes
from standfast.bot.records import AsyncGuildRecords, GuildRecords, Statistics
from standfast.bot.schedules import AsyncSchedules, Schedules
from standfast.bot.waitlist import AsyncWaitlist, Waitlist
from standfast.document.names import collection_name
from standfast.jsonfile import close_shared_store, shared_store

MODES = ("normal", "doubleup")
TEAM_MODES = ("doubleup",)


class AsyncBotStore:
    """The state of a Discord bot over an open store, which it does not own: the caller closes it.

    `environment`: by default what the environment's variables say (`Environment.detect`).
    `modes` are the event modes, the first one that of a guild which has set none; in `team_modes`
    teams play.  `settings`: the defaults of the guilds' settings.  `clock` gives an aware time.
    `older_entries`: new entries of the waitlist are stored in the form of older bots, which may
    still read them.  ConfigError when one of them is wrong.

    `store` is the same store under the environment guard, for collections of your own.
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
        older_entries: bool = False,
    ) -> None:
        self.environment = environment or Environment.detect()
        self.store = guarded_async_store(store, self.environment)
        self.handle = self.store.handle
        guilds = self._guilds = Guilds(
            store.handle, guard=Guard(store.handle, self.environment), clock=clock
        )
        self.messages = AsyncMessages(guilds)
        self.modes = AsyncModes(guilds, names=modes, team_names=team_modes)
        self.schedules = AsyncSchedules(guilds)
        self.settings = AsyncGuildSettings(guilds, defaults=settings or {})
        self.guilds = AsyncGuildRecords(guilds)
        self.waitlist = AsyncWaitlist(guilds, self.modes, older=older_entries)

    def __repr__(self) -> str:
        return f"AsyncBotStore({self.store!r}, {str(self.environment)!r})"

    def allows(self, guild_id: GuildId) -> bool:
        """Whether this process sees and writes the guild; no I/O.  DataError("bad_guild")."""
        return self.guilds.allows(guild_id)

    def documents(self, collection: str, *, file: str | Path | None = None) -> AsyncGuildDocuments:
        """All guilds' documents of a collection, for code that loads a dict and saves it.

        `file` is the JSON file that it came from: while nothing is stored and that is still there,
        `load` refuses.
        """
        return AsyncGuildDocuments(self._guilds, collection_name(collection), file=file)

    async def statistics(self) -> Statistics:
        """Counts over all guilds that this process may see.  In an outage from the mirror."""
        return await self.guilds.statistics()


class BotStore(Blocking[AsyncBotStore]):
    """The state of a Discord bot over an open store, which it does not own: the caller closes it.

    Thread-safe.  `environment`, `modes`, `team_modes`, `settings`, `clock`, `older_entries`, the
    errors and `store` are those of `AsyncBotStore`.
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
        older_entries: bool = False,
    ) -> None:
        environment = environment or Environment.detect()
        modes, team_modes = tuple(modes), tuple(team_modes)

        def over(inner: AsyncStore) -> AsyncBotStore:
            return AsyncBotStore(
                inner,
                environment=environment,
                modes=modes,
                team_modes=team_modes,
                settings=settings,
                clock=clock,
                older_entries=older_entries,
            )

        calls = over(store.calls)
        super().__init__(calls)
        self._over = over
        self._async: AsyncBotStore | None = None
        self._inner = store
        self.store = guarded_store(store, environment)
        self.environment = environment
        self.messages = Messages(calls.messages)
        self.modes = Modes(calls.modes)
        self.schedules = Schedules(calls.schedules)
        self.settings = GuildSettings(calls.settings)
        self.guilds = GuildRecords(calls.guilds)
        self.waitlist = Waitlist(calls.waitlist)

    def __repr__(self) -> str:
        return f"BotStore({self.store!r}, {str(self.environment)!r})"

    def as_async(self) -> AsyncBotStore:
        """This same state for tasks of an event loop, for programs that need both."""
        if self._async is None:
            self._async = self._over(self._inner.as_async())
        return self._async

    def documents(self, collection: str, *, file: str | Path | None = None) -> GuildDocuments:
        """All guilds' documents of a collection, as `AsyncBotStore.documents`."""
        return GuildDocuments(self.calls.documents(collection, file=file))

    allows = plain(AsyncBotStore.allows)
    statistics = blocking(AsyncBotStore.statistics)


_shared_lock = threading.Lock()
_bots: dict[Environment, tuple[Store, BotStore]] = {}


def shared() -> BotStore:
    """The one state of this process, over the store that `JsonFile` uses by default.

    It is opened when it is first asked for, and again after `close_shared`.  The environment is
    looked at each time; a process that has no name of one is taken for production, as older bots
    take it.  New entries of the waitlist are in the form of older bots.
    """
    environment = Environment.detect(unnamed=PRODUCTION)
    store = shared_store()
    with _shared_lock:
        found = _bots.get(environment)
        if found is None or found[0] is not store:
            bot = BotStore(store, environment=environment, older_entries=True)
            found = _bots[environment] = store, bot
        return found[1]


def close_shared() -> None:
    """Close it, if it is open; what could not reach PostgreSQL is safe in the journal."""
    close_shared_store()
