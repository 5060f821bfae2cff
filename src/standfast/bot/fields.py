"""What guilds' documents are made of: ids, names of members, times.  Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from standfast.document.names import key_text
from standfast.errors import DataError

# ---- ids of guilds, channels, messages and members: ints or their decimal strings

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


# ---- names of messages, schedules, modes and settings

#: The members of `persisted_views` that are not messages.
MODE = "event_mode"
CLAIMS = "claims"
SCHEDULE = "_schedule"

_LONGEST_NAME = 100


def is_name(value: object) -> bool:
    """Whether it can name something: 1 to 100 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def checked_name(name: Any, what: str) -> str:
    """The name of a message or a schedule.  DataError("bad_name")."""
    if is_name(name):
        return str(name)
    raise DataError(
        f"the name of a {what} has 1 to {_LONGEST_NAME} printable characters",
        code="bad_name",
        hint="such as registration",
    )


def is_message_name(name: str) -> bool:
    """Whether a member of this name can be a message: it is nothing else by its name."""
    return is_name(name) and name not in (MODE, CLAIMS) and not name.endswith(SCHEDULE)


def message_name(name: Any) -> str:
    """The name of a message.  DataError("bad_name") also for what means something else."""
    if is_message_name(checked_name(name, "message")):
        return str(name)
    raise DataError(
        f"a message cannot be called {MODE}, {CLAIMS} or ...{SCHEDULE}",
        code="bad_name",
        hint="these members of the document mean something else; choose another name",
    )


def schedule_member(name: Any) -> str:
    """The member that holds the schedule of this name."""
    return checked_name(name, "schedule") + SCHEDULE


def schedule_name(member: str) -> str | None:
    """The name of the schedule that a member holds; None when it holds none."""
    name = member.removesuffix(SCHEDULE)
    return name if name and name != member else None


# ---- times of schedules, claims and entries: aware datetimes, stored as ISO 8601


def utc_now() -> datetime:
    """The time of day, by this machine's clock."""
    return datetime.now(UTC)


def aware(when: datetime | str, what: str) -> datetime:
    """A time that a caller gives, as an aware datetime.

    A string is ISO 8601.  DataError("naive_datetime") without a timezone, since what it means
    would depend on the machine; DataError("bad_time") if it is not a time.
    """
    time = when
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time.strip())
        except ValueError:
            time = None
    if not isinstance(time, datetime):
        raise DataError(
            f"the time of {what} is neither a datetime nor ISO 8601",
            code="bad_time",
            hint="give an aware datetime, or a string such as 2030-05-01T18:00:00+02:00",
        )
    if time.utcoffset() is None:
        raise DataError(
            f"the time of {what} has no timezone",
            code="naive_datetime",
            hint="datetime.now(UTC) and datetime(..., tzinfo=ZoneInfo('Europe/Berlin')) have one",
        )
    return time


def iso(time: datetime) -> str:
    """An aware time as it is stored."""
    return time.isoformat()


def stored_time(value: object) -> datetime | None:
    """A stored time; one without a timezone is UTC, as older code wrote it.  None: no time."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.utcoffset() is None else time
