"""The environment guard: which guilds this process may see, and which store it may write to.

A store carries the name of its environment once a process with a name has written to it.
"""

from __future__ import annotations

from typing import Any

from standfast.api.async_collection import AsyncCollection
from standfast.api.collection import Documents
from standfast.api.store import StoreHandle
from standfast.bot.environment import Environment, environment_name
from standfast.document.values import MISSING, Missing
from standfast.errors import ConfigError, ConflictError, CorruptData, Unavailable
from standfast.ops.types import Document

#: The document that carries the name: `{"name": "production"}`.
COLLECTION = "bot_environment"
KEY = "default"


class Guard:
    """Judges guilds and writes for one process.

    The store's name is read at the first write and kept.
    """

    def __init__(self, handle: StoreHandle, environment: Environment) -> None:
        self.environment = environment
        self._stamps: AsyncCollection[Any] = AsyncCollection(handle, COLLECTION)
        self._documents: Documents[Any] = Documents(handle, COLLECTION)
        self._store_name: str | Missing | None = MISSING

    def allows(self, key: str) -> bool:
        """Whether this process sees and writes the guild of this key."""
        return self.environment.only_guild in (None, key)

    def check(self, key: str) -> None:
        """Raise ConfigError("wrong_environment") for a guild that is not this process's."""
        if not self.allows(key):
            raise ConfigError(
                f"guild {key} is not the guild of this process, which is of {self.environment}",
                code="wrong_environment",
                hint="only the guild of DEV_GUILD_ID is seen here; set STANDFAST_ENVIRONMENT="
                "production, or unset DEV_GUILD_ID, to see all",
            )

    def check_all(self, what: str) -> None:
        """Raise ConfigError("wrong_environment") where this process reaches only one guild."""
        if self.environment.only_guild is not None:
            raise ConfigError(
                f"{what}: this process, which is of {self.environment}, reaches only the guild"
                f" {self.environment.only_guild}",
                code="wrong_environment",
                hint="set STANDFAST_ENVIRONMENT=production, or unset DEV_GUILD_ID, for that",
            )

    async def admit(self) -> None:
        """Let a write pass, or raise ConfigError("wrong_environment").

        A process that is limited to its own guild passes, since it reaches no other.  The
        first process with a name stamps the store; one with another name, or with none, is
        refused from then on.  While the primary is away and the name is not known here,
        production and processes without a name pass; others get
        Unavailable("environment_unknown").
        """
        if self.environment.only_guild is not None:
            return
        known = self._store_name
        if isinstance(known, Missing):
            try:
                known = await self._learn()
            except Unavailable as error:
                if self.environment.name is None or self.environment.is_production:
                    return
                problem = error
                raise Unavailable(
                    "the primary does not answer, and which environment this store belongs to is"
                    f" not known here: {problem.message}",
                    code="environment_unknown",
                    hint="try again when the primary is back; production may write meanwhile",
                ) from error
        if known is not None and known != self.environment.name:
            raise self._refusal(known)

    async def _learn(self) -> str | None:
        """The store's name, stamped with our own when it has none; None: neither has a name."""
        found, from_primary = await self._read()
        mine = self.environment.name
        if found is None and mine is not None:
            try:
                await self._stamps.put(KEY, {"name": mine}, if_absent=True)
            except ConflictError:
                found, from_primary = await self._read()
            else:
                self._store_name = mine
                return mine
        name = None if found is None else _name_of(found.value)
        if name is not None or from_primary:  # only the primary knows that there is none
            self._store_name = name
        return name

    async def _read(self) -> tuple[Document[Any] | None, bool]:
        """The stamp, and whether it came from the primary."""
        result = await self._documents.read_one(KEY)
        return self._documents.of(result, KEY), result.from_primary

    def _refusal(self, theirs: str) -> ConfigError:
        mine = self.environment.name
        return ConfigError(
            f"this store belongs to {theirs}, and this process is of {self.environment}:"
            " nothing was written",
            code="wrong_environment",
            hint=f"set STANDFAST_ENVIRONMENT={theirs} if it is the right store"
            + (f", else open one for {mine}" if mine else "")
            + "; set DEV_GUILD_ID to try things out in one guild of it",
        )


def _name_of(stamp: Any) -> str:
    try:
        return environment_name(stamp["name"])
    except (ConfigError, TypeError, KeyError):
        raise CorruptData(
            f"the document of key {KEY!r} in `{COLLECTION}` does not name an environment",
            code="bad_environment",
            hint=f'it is {{"name": "production"}}: standfast put {COLLECTION} {KEY} ...',
        ) from None
