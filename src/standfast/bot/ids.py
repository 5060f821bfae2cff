"""Ids of guilds, channels, messages and members: ints or their decimal strings.  Pure."""

from __future__ import annotations

import re

from standfast.document.names import key_text
from standfast.errors import DataError

GuildId = int | str
"""What a guild is called: a non-negative int, or its decimal string."""

_DECIMAL = re.compile(r"0|[1-9][0-9]*", re.ASCII)
#: No Discord id is longer; int() is quadratic, and refuses what has thousands of digits.
_LONGEST_ID = 20


def is_guild_key(key: str) -> bool:
    """Whether a document's key is that of a guild."""
    return _DECIMAL.fullmatch(key) is not None


def guild_key(guild_id: object) -> str:
    """The key of a guild's documents: the decimal string of its id.  DataError("bad_guild")."""
    if isinstance(guild_id, int | str) and not isinstance(guild_id, bool):
        key = key_text(guild_id)
        if is_guild_key(key):
            return key
    raise DataError(
        "a guild's id is a non-negative int or its decimal string",
        code="bad_guild",
        hint="give guild.id; what belongs to no guild goes into a collection of its own",
    )


def number_id(value: object, what: str) -> int:
    """The id of a channel, a message or a member as an int.  DataError("bad_id")."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if isinstance(value, str) and len(value) <= _LONGEST_ID and _DECIMAL.fullmatch(value):
        return int(value)
    raise DataError(
        f"the id of a {what} is a non-negative int or its decimal string",
        code="bad_id",
        hint=f"give {what}.id",
    )
