"""Times of schedules, claims and entries: aware datetimes, stored as ISO 8601.  Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from standfast.errors import DataError


def utc_now() -> datetime:
    """The time of day, by this machine's clock."""
    return datetime.now(UTC)


def aware(when: datetime | str, what: str) -> datetime:
    """A time that a caller gives, as an aware datetime.

    A string is ISO 8601.  DataError("naive_datetime") without a timezone, since what it means
    would depend on the machine; DataError("bad_time") when it is no time.
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
