"""Entries of a waitlist: how they are stored, and what older forms of them mean.  Pure.

The document of a guild is `{"waitlist": [entry, ...]}` in the order in which people wait.

During an outage, changes are appended to the list: appended elements merge with those of other
processes, while two whole lists would conflict.  So an element may be a later change of a member
who is in the list already: with `"standfast_change": "updated"` or `"removed"`, or as a second
entry.  No other program is expected to use that name for a member of its own.  Reading applies
these changes; the next write of the list that the primary decides stores the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from standfast.bot.fields import iso, number_id, stored_time
from standfast.document.values import json_path, type_name
from standfast.errors import CorruptData, DataError
from standfast.limits import MAX_ALT_IGNS, MAX_ENTRY_TEXT_CHARS
from standfast.ops.types import Redacted

MEMBER = "waitlist"
#: What an element of the list may be besides an entry.
UPDATED, REMOVED = "updated", "removed"
_CHANGE = "standfast_change"

#: The members of an entry that are known here; others are kept as they are.
_KNOWN = frozenset(
    "discord_tag member_id ign alt_igns pronouns team_name added_at claim".split(),
)
#: What a caller may say of a member, and change later.
DETAILS = ("discord_tag", "ign", "alt_igns", "pronouns", "team_name")


class Mark(msgspec.Struct, frozen=True):
    """The mark of a claim on an entry: whose it is, and until when."""

    id: str
    until: datetime


class WaitlistEntry(Redacted, frozen=True, kw_only=True):
    """One member on the waitlist.

    `member_id` is None in an older entry that has the tag alone.  `added_at` is when the place in
    the list was taken (None: an older entry does not say).  `older`: it is stored in the form of
    older bots, with `alt_text`, the alternative names as one text, and times in UTC without saying
    so; it stays in that form, so that such a bot can still read it.
    `claim`: a place was offered, which is reserved until then; it may have lapsed.  `extra` holds
    the members that are not known here.
    """

    content = frozenset(
        "discord_tag member_id ign alt_igns pronouns team_name extra alt_text".split(),
    )

    discord_tag: str
    member_id: int | None
    ign: str
    alt_igns: tuple[str, ...] = ()
    pronouns: str | None = None
    team_name: str | None = None
    added_at: datetime | None = None
    claim: Mark | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    older: bool = False
    alt_text: str | None = None

    @property
    def who(self) -> int | str:
        """Whose entry it is: the member's id, or the tag in an older entry without one."""
        return self.discord_tag if self.member_id is None else self.member_id

    def is_claimed(self, now: datetime) -> bool:
        """Whether a claim reserves a place for it; at its `until` a claim has lapsed."""
        return self.claim is not None and now < self.claim.until

    def is_claim(self, claim_id: str) -> bool:
        """Whether it carries the mark of this claim, lapsed or not: no other was made since."""
        return self.claim is not None and self.claim.id == claim_id

    def to_json(self) -> dict[str, Any]:
        """The entry in its normal form, as it is stored."""
        stored: dict[str, Any] = {
            "discord_tag": self.discord_tag,
            "member_id": self.member_id,
            "ign": self.ign,
            "alt_igns": self.alt_text if self.older else list(self.alt_igns),
            "pronouns": self.pronouns,
            "team_name": self.team_name,
            "added_at": None if self.added_at is None else self._stamp(self.added_at),
            **self.extra,
        }
        if self.member_id is None:
            del stored["member_id"]
        if self.claim is not None:
            stored["claim"] = {"id": self.claim.id, "until": iso(self.claim.until)}
        return stored

    def _stamp(self, time: datetime) -> str:
        return iso(time.astimezone(UTC).replace(tzinfo=None) if self.older else time)


def stored_list(members: Mapping[str, Any]) -> list[Any]:
    """The list of a guild's document as it is stored; CorruptData("bad_entry") if not a list."""
    stored = members.get(MEMBER)
    if stored is None:
        return []
    if not isinstance(stored, list):
        raise _bad(stored, "an array", (MEMBER,))
    return cast("list[Any]", stored)


def read_entries(members: Mapping[str, Any], *, older: bool = False) -> list[WaitlistEntry]:
    """The entries of a guild's document, in order, each member of the guild once.

    A member who is there twice, because two processes added them, has the first place and the
    latest details.  CorruptData("bad_entry"), which names the place, for an invalid entry.
    `older`, for a list that an older bot writes too: entries keep its form, and invalid ones are
    left out (`unreadable`).
    """
    found: dict[int | str, WaitlistEntry] = {}
    for index, one in enumerate(stored_list(members)):
        try:
            entry = read_entry(one, (MEMBER, index), older=older)
        except CorruptData:
            if not older:
                raise
            continue
        first = found.get(entry.who)
        change = one.get(_CHANGE)
        if change == REMOVED:
            found.pop(entry.who, None)
        elif change != UPDATED or first is not None:  # else another process has removed it
            found[entry.who] = entry if first is None else _merged(first, entry)
    return list(found.values())


def unreadable(members: Mapping[str, Any]) -> list[tuple[int, CorruptData]]:
    """The elements of the list that are no entries: where, and why.

    They wait for a person to look at them: whoever writes the list keeps them.
    """
    found: list[tuple[int, CorruptData]] = []
    for index, one in enumerate(stored_list(members)):
        try:
            read_entry(one, (MEMBER, index))
        except CorruptData as error:
            found.append((index, error))
    return found


def change_of(entry: WaitlistEntry, change: str) -> dict[str, Any]:
    """The element of the list that says of an entry that it was changed, or is gone."""
    stored = msgspec.structs.replace(entry, claim=None).to_json()
    return {**stored, _CHANGE: change}


def with_entries(members: Mapping[str, Any], entries: Iterable[WaitlistEntry]) -> dict[str, Any]:
    """The document with these entries in their normal form; its other members stay.

    So does what could not be read in its list, about where it was.
    """
    stored = [entry.to_json() for entry in entries]
    for index, _ in unreadable(members):
        stored.insert(index, members[MEMBER][index])
    return {**members, MEMBER: stored}


def read_entry(
    stored: Any, place: tuple[str | int, ...] = (), *, older: bool = False
) -> WaitlistEntry:
    """An entry as it was stored, in the normal form or an older one.

    Older forms: `alt_igns` as one string with commas, or null; `added_at` without a timezone, which
    is UTC; `member_id` as a decimal string, or none beside a tag.  A missing text is empty.
    CorruptData("bad_entry"), which names the place, for what is not an entry.
    """
    if not isinstance(stored, dict):
        raise _bad(stored, "an object", place)
    members = cast("dict[str, Any]", stored)

    def text(name: str) -> str | None:
        value = members.get(name)
        if value is not None and not isinstance(value, str):
            raise _bad(value, "a string", (*place, name))
        return value

    tag, member_id = text("discord_tag") or "", None
    if members.get("member_id") is not None or not tag:
        member_id = _member_id(members.get("member_id"), (*place, "member_id"))
    alt_igns = _alt_igns(members.get("alt_igns"), (*place, "alt_igns"))
    older = older and not isinstance(members.get("alt_igns"), list)
    return WaitlistEntry(
        discord_tag=tag,
        member_id=member_id,
        ign=text("ign") or "",
        alt_igns=alt_igns,
        older=older,
        alt_text=text("alt_igns") if older else None,
        pronouns=text("pronouns"),
        team_name=text("team_name"),
        added_at=_time(members.get("added_at"), (*place, "added_at")),
        claim=_mark(members.get("claim")),
        extra={
            name: value
            for name, value in members.items()
            if name not in _KNOWN and (name != _CHANGE or value not in (UPDATED, REMOVED))
        },
    )


def checked_details(*, older: bool = False, **details: Any) -> dict[str, Any]:
    """The details that a caller gives, as an entry holds them.  DataError, which names the place.

    "unknown_field" for anything but discord_tag, ign, alt_igns, pronouns and team_name;
    "wrong_type"; "too_long" above the limits.  `alt_igns` may be one string with commas, too.
    `older`: in the form of older bots.
    """
    checked: dict[str, Any] = {}
    for name, value in details.items():
        if name not in DETAILS:
            raise DataError(
                f"an entry of the waitlist has no {name!r} that can be given",
                code="unknown_field",
                hint=f"there are {', '.join(DETAILS)}",
                path=json_path([name]) if name.isprintable() else "$",
            )
        if name == "alt_igns":
            checked[name] = _checked_alt_igns(value)
            if older:
                text = value if isinstance(value, str) else ", ".join(checked[name])
                checked |= {"older": True, "alt_text": text.strip() or None}
        elif value is None and name in ("pronouns", "team_name"):
            checked[name] = None
        else:
            checked[name] = _checked_text(value, (name,))
    return checked


def _merged(first: WaitlistEntry, latest: WaitlistEntry) -> WaitlistEntry:
    return msgspec.structs.replace(
        latest,
        added_at=first.added_at,
        claim=first.claim or latest.claim,
        extra={**first.extra, **latest.extra},
    )


def _member_id(stored: Any, place: tuple[str | int, ...]) -> int:
    try:
        return number_id(stored, "member")
    except DataError:
        problem = _bad(stored, "the id of a member", place)
    raise problem


def _alt_igns(stored: Any, place: tuple[str | int, ...]) -> tuple[str, ...]:
    if stored is None:
        return ()
    if isinstance(stored, str):
        return tuple(name for part in stored.split(",") if (name := part.strip()))
    if not isinstance(stored, list):
        raise _bad(stored, "an array of strings", place)
    names: list[str] = []
    for index, name in enumerate(cast("list[Any]", stored)):
        if not isinstance(name, str):
            raise _bad(name, "a string", (*place, index))
        names.append(name)
    return tuple(names)


def _time(stored: Any, place: tuple[str | int, ...]) -> datetime | None:
    time = stored_time(stored)
    if time is None and stored is not None:
        raise _bad(stored, "an ISO 8601 time", place)
    return time


def _mark(stored: Any) -> Mark | None:
    """The mark of a claim; what is none never holds, and goes with the next write."""
    mark = cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}
    claim_id, until = mark.get("id"), stored_time(mark.get("until"))
    return Mark(claim_id, until) if isinstance(claim_id, str) and until is not None else None


def _checked_alt_igns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or value is None:
        names: list[Any] = list(_alt_igns(value, ()))
    elif isinstance(value, list | tuple):
        names = list(cast("Iterable[Any]", value))
    else:
        raise _wrong_type(value, "a list of strings", ("alt_igns",))
    if len(names) > MAX_ALT_IGNS:
        raise DataError(
            f"{len(names)} alternative names are over the limit of {MAX_ALT_IGNS}",
            code="too_long",
            hint="nothing was written; keep the most important ones",
            path=json_path(["alt_igns"]),
        )
    return tuple(_checked_text(name, ("alt_igns", index)) for index, name in enumerate(names))


def _checked_text(value: Any, place: tuple[str | int, ...]) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "a string", place)
    if len(value) > MAX_ENTRY_TEXT_CHARS:
        raise DataError(
            f"a text of {len(value)} characters is over the limit of {MAX_ENTRY_TEXT_CHARS}",
            code="too_long",
            hint="nothing was written; limit the field of the form",
            path=json_path(place),
        )
    return value


def _wrong_type(value: object, wanted: str, place: tuple[str | int, ...]) -> DataError:
    return DataError(
        f"found {type(value).__name__}, expected {wanted}",
        code="wrong_type",
        hint="nothing was written",
        path=json_path(place),
    )


def _bad(found: object, wanted: str, place: tuple[str | int, ...]) -> CorruptData:
    return CorruptData(
        f"a stored waitlist cannot be read: at {json_path(place)}, expected {wanted}, found"
        f" {type_name(found)}",
        code="bad_entry",
        hint="correct the document: standfast get waitlist_data GUILD, then standfast put",
    )
