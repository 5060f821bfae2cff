"""Settings of each guild: what differs from the registered defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from standfast.api.drive import Blocking, blocking
from standfast.bot.fields import GuildId
from standfast.bot.guilds import SETTINGS, Guilds, Members, Part
from standfast.document.codec import decode, encode
from standfast.errors import DataError
from standfast.ops.types import Receipt


class AsyncGuildSettings(Part):
    """Settings.  Stored is what differs from `defaults`, which may be empty.

    With defaults, names that are not among them are refused: DataError("unknown_setting").
    DataError when the defaults are not JSON.
    """

    def __init__(self, guilds: Guilds, *, defaults: Mapping[str, Any]) -> None:
        super().__init__(guilds)
        self._defaults = encode(
            dict(defaults)
        )  # as text: callers cannot change it through what `get` returns
        self._names = frozenset(defaults)

    async def get(self, guild_id: GuildId, name: str | None = None) -> Any:
        """All settings of a guild as a dict, or the one of this name.

        Nested objects override the default member by member.  Without defaults, a name
        that is not set is None.
        """
        if name is not None:
            self._known(name)
        own = await self._guilds.members(SETTINGS, guild_id)
        settings = _overridden(decode(self._defaults), own)
        return settings if name is None else settings.get(name)

    async def patch(self, guild_id: GuildId, changes: Mapping[str, Any]) -> Receipt:
        """Change settings by a merge patch (RFC 7396); works during an outage.

        None puts a setting back to its default.  A value that is the default is not stored: the
        guild follows the default when that changes.
        """
        defaults = decode(self._defaults)
        patch: Members = {}
        for name, value in changes.items():
            default = defaults.get(self._known(name))
            is_default = default is not None and encode(value) == encode(default)
            patch[name] = None if is_default else value
        return await self._guilds.patch(SETTINGS, guild_id, patch)

    async def reset(self, guild_id: GuildId, *names: str) -> Receipt:
        """Put these settings back to their defaults, without names all; works during an outage."""
        if names:
            patch: Members = {self._known(name): None for name in names}
            return await self._guilds.patch(SETTINGS, guild_id, patch)
        key = await self._guilds.writable(guild_id)
        return await self._guilds.collection(SETTINGS).delete(key)

    async def overrides(self, guild_id: GuildId) -> dict[str, Any]:
        """What differs from the defaults in this guild."""
        return await self._guilds.members(SETTINGS, guild_id)

    def _known(self, name: str) -> str:
        if not self._names or name in self._names:
            return name
        raise DataError(
            f"there is no setting {name!r}",
            code="unknown_setting",
            hint=f"registered are {', '.join(sorted(self._names))}",
        )


class GuildSettings(Blocking[AsyncGuildSettings]):
    """Settings of each guild over registered defaults: `bot.settings`."""

    get = blocking(AsyncGuildSettings.get)
    patch = blocking(AsyncGuildSettings.patch)
    reset = blocking(AsyncGuildSettings.reset)
    overrides = blocking(AsyncGuildSettings.overrides)


def _overridden(default: Members, own: Members) -> Members:
    """The own values where there are some; what a null stands for in the document, stays null."""
    merged = default | own
    for name in default.keys() & own.keys():
        below, above = default[name], own[name]
        if isinstance(below, dict) and isinstance(above, dict):
            merged[name] = _overridden(cast("Members", below), cast("Members", above))
    return merged
