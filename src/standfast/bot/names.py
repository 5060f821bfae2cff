"""Names of members in a guild's document: of messages, schedules, modes and settings.  Pure."""

from __future__ import annotations

from typing import Any

from standfast.errors import DataError

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
