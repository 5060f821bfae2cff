"""Which environment this process is of: production, development or another one.  Pure.

Sources: the variables that Railway, Vercel and Render document for their deployments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from standfast.bot.fields import guild_key
from standfast.errors import ConfigError, DataError

PRODUCTION = "production"
DEVELOPMENT = "development"

_LIKE_PRODUCTION = frozenset({PRODUCTION, "main", "prod"})
_LONGEST_NAME = 64
#: Looked at in this order.
_VARIABLES = (
    "STANDFAST_ENVIRONMENT",
    "RAILWAY_ENVIRONMENT_NAME",
    "RAILWAY_ENVIRONMENT",
    "VERCEL_ENV",
)


@dataclass(frozen=True, slots=True)
class Environment:
    """The name of an environment (None: it has none), and the guild in which it is tested.

    Names are compared in lower case; `main` and `prod` are `production`.  A process with a
    `dev_guild` that is not production sees and writes that guild alone.  ConfigError for an
    invalid name, or a `dev_guild` that is not a guild id.
    """

    name: str | None = None
    dev_guild: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            object.__setattr__(self, "name", environment_name(self.name))
        if self.dev_guild is not None:
            object.__setattr__(self, "dev_guild", _dev_guild(self.dev_guild))

    @classmethod
    def detect(
        cls, environ: Mapping[str, str] | None = None, *, unnamed: str | None = None
    ) -> Environment:
        """The environment that variables describe, by default those of this process.

        STANDFAST_ENVIRONMENT, else the hosting provider's: RAILWAY_ENVIRONMENT_NAME,
        RAILWAY_ENVIRONMENT, VERCEL_ENV, RENDER (`true` is production, and development in a
        preview of a pull request); else development when DEV_GUILD_ID is set; else `unnamed`.  A
        blank variable counts as unset.
        """
        environ = os.environ if environ is None else environ
        dev_guild = _value(environ, "DEV_GUILD_ID") or None
        name = next((found for one in _VARIABLES if (found := _value(environ, one))), None)
        if name is None and _is_true(environ, "RENDER"):
            name = DEVELOPMENT if _is_true(environ, "IS_PULL_REQUEST") else PRODUCTION
        if name is None and dev_guild is not None:
            name = DEVELOPMENT
        return cls(name or unnamed, dev_guild)

    @property
    def is_production(self) -> bool:
        """Whether this is where the real users are."""
        return self.name == PRODUCTION

    @property
    def only_guild(self) -> str | None:
        """The one guild that this process sees and writes; None: there is no such limit."""
        return None if self.is_production else self.dev_guild

    def __str__(self) -> str:
        return self.name or "an environment without a name"


def environment_name(name: object) -> str:
    """The name as it is compared and stored.  ConfigError("bad_environment")."""
    text = name.strip().casefold() if isinstance(name, str) else ""
    if not text or len(text) > _LONGEST_NAME or not text.isprintable():
        raise ConfigError(
            "the name of the environment is not a plain name",
            code="bad_environment",
            hint=f"use up to {_LONGEST_NAME} printable characters, such as production",
        )
    return PRODUCTION if text in _LIKE_PRODUCTION else text


def _dev_guild(guild_id: object) -> str:
    try:
        return guild_key(guild_id)
    except DataError:
        problem = "the development guild (DEV_GUILD_ID) is not a guild's id"
    raise ConfigError(problem, code="bad_environment", hint="give the number that Discord shows")


def _value(environ: Mapping[str, str], name: str) -> str:
    """The variable without blanks and without one pair of quotes."""
    text = environ.get(name, "").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return _value(environ, name).casefold() in ("true", "1")
