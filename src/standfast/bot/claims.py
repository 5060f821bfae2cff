"""Claims: something that is to be done once is marked, for a while, by the one who does it.  Pure.

A claim is a mark inside a guild's document, `{"id": ..., "until": ...}`.  It is taken by a
compare-and-set, so of several processes one gets it.  It lapses at `until`: what a process had
claimed when it died is free again then.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from standfast.bot.fields import iso, stored_time
from standfast.errors import DataError
from standfast.ops.types import Redacted

#: Long enough for any answer of Discord; what a dead process had claimed is late by so much.
LEASE_S = 60.0
_LONGEST_LEASE_S = 24 * 3600.0


class Claim(Redacted, frozen=True, kw_only=True):
    """The exclusive right of this process to handle something until `until`.

    The subclasses say what: `DueClaim.due` is a schedule, `EntryClaim.entry` an entry of the
    waitlist.
    """

    id: str
    guild_id: str
    until: datetime


def new_id() -> str:
    """The id of a claim that is about to be made."""
    return uuid.uuid4().hex


def lease_end(now: datetime, lease_s: float) -> datetime:
    """When a claim made now lapses.  DataError("bad_lease") unless above 0 and up to a day."""
    if not _is_lease(lease_s):
        raise DataError(
            "lease_s is not a number of seconds above 0 and up to a day",
            code="bad_lease",
            hint=f"give the longest that the work may take, such as {LEASE_S:.0f}",
        )
    return now + timedelta(seconds=lease_s)


def _is_lease(lease_s: object) -> bool:
    if isinstance(lease_s, bool) or not isinstance(lease_s, int | float):
        return False
    return 0 < lease_s <= _LONGEST_LEASE_S  # NaN is not


def mark_of(claim_id: str, until: datetime) -> dict[str, Any]:
    """The mark that a claim leaves in the document."""
    return {"id": claim_id, "until": iso(until)}


def is_live(mark: object, now: datetime) -> bool:
    """Whether a mark still holds; at `until` it has lapsed.  Anything else never holds."""
    if not isinstance(mark, Mapping):
        return False
    until = stored_time(cast("Mapping[str, Any]", mark).get("until"))
    return until is not None and now < until


def is_of(mark: object, claim_id: str) -> bool:
    """Whether a mark is that of this claim, lapsed or not: no other claim was made since."""
    return isinstance(mark, Mapping) and cast("Mapping[str, Any]", mark).get("id") == claim_id
