"""The event mode of each guild."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from standfast.api.drive import Blocking, blocking
from standfast.bot.fields import MODE, GuildId, is_name
from standfast.bot.guilds import VIEWS, Guilds, Part
from standfast.errors import ConfigError, CorruptData, DataError
from standfast.ops.types import Receipt


class AsyncModes(Part):
    """Event modes: one of the known ones for each guild, the first unless it is set.

    `team_names` are those in which teams play; they have to be among `names`.
    """

    def __init__(self, guilds: Guilds, *, names: Iterable[str], team_names: Iterable[str]) -> None:
        super().__init__(guilds)
        self.names = tuple(names)
        self.team_names = tuple(team_names)
        plain: tuple[Any, ...] = self.names
        if not plain or len(set(plain)) < len(plain) or not all(map(is_name, plain)):
            raise ConfigError(
                "modes are not one or more different names",
                code="bad_modes",
                hint="modes=('normal', 'doubleup')",
            )
        if not set(self.team_names) <= set(plain):
            raise ConfigError(
                "team_modes holds a name that is not in modes",
                code="bad_modes",
                hint="team_modes=() when no mode is played in teams",
            )

    def known(self, mode: str) -> str:
        """The mode, when it is one; else DataError("unknown_mode"), which names those there are."""
        if mode in self.names:
            return mode
        raise DataError(
            f"{mode!r} is not an event mode" if is_name(mode) else "an event mode is a name",
            code="unknown_mode",
            hint=f"one of {', '.join(self.names)}",
        )

    def is_team(self, mode: str) -> bool:
        """Whether teams play in this mode; DataError("unknown_mode") if there is no such mode."""
        return self.known(mode) in self.team_names

    async def get(self, guild_id: GuildId) -> str:
        """The mode of a guild.

        CorruptData("unknown_mode") if the stored mode is no longer among the known ones: the
        default could be the wrong rules for an event.  `set` corrects it.
        """
        members = await self._guilds.members(VIEWS, guild_id)
        mode = members.get(MODE)
        if mode is None:
            return self.names[0]
        if mode in self.names:
            return str(mode)
        raise CorruptData(
            f"guild {self._guilds.key(guild_id)} is in an event mode that is not known here",
            code="unknown_mode",
            hint=f"set one of {', '.join(self.names)}, or add it to modes=",
        )

    async def set(self, guild_id: GuildId, mode: str) -> Receipt:
        """Set the mode of a guild; works during an outage.  DataError("unknown_mode")."""
        return await self._guilds.patch(VIEWS, guild_id, {MODE: self.known(mode)})


class Modes(Blocking[AsyncModes]):
    """The event mode of each guild: `bot.modes`; `names` are the modes there are."""

    def __init__(self, calls: AsyncModes) -> None:
        super().__init__(calls)
        self.names = calls.names

    get = blocking(AsyncModes.get)
    set = blocking(AsyncModes.set)
