"""Which database the local files belong to, and whether it still has what it confirmed: pure.

A *history* is what versions mean something in (R22): the identity that our schema was given, the
server's system identifier, the OID of the database, its epoch; and an era, which this directory
counts by itself, since a database that was restored looks like itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from standfast.ops.types import ServerIdentity

Held = Literal["other_database", "went_back"]

#: Beginning of the mark of an op that was acknowledged before any database was reached there.
_ADDRESS = "address:"
#: End of the mark of an op that was acknowledged after its database was seen to have gone back.
_AFTER = "+"


class History(msgspec.Struct, frozen=True):
    """The database that the local files belong to (I9): who it is, and under which address.

    `ahead_us` is how far its clock was ahead of this machine's; `failovers` counts those at which
    confirmed writes were lost and regained.  Fields that an older file lacks,
    or a host does not say, are empty, and not compared.
    """

    identity: str
    system: str
    display: str
    database: str = ""
    name: str = ""
    timeline: int = 0
    epoch: int = 0
    era: int = 0
    ahead_us: int = 0
    failovers: int = 0

    @property
    def mark(self) -> str:
        """What an op carries that was acknowledged for it."""
        return f"{self.identity}/{self.system}/{self.database}/{self.era}"

    def is_of(self, found: ServerIdentity) -> bool:
        """Whether this is the database that answers; a copy of it is another one."""
        return self.identity == found.identity and all(
            not known or not now or known == now
            for known, now in ((self.system, found.system), (self.database, found.database))
        )


class Notice(msgspec.Struct, frozen=True):
    """That the database was seen to have gone back (I10): when, how that is known.

    `is_open`: what is pending waits for somebody's decision.  `saved` names the files with what was
    confirmed shortly before and is no longer there.  `regained` writes were put back in front of
    the journal, as after a failover that lost them.
    """

    at_us: int
    why: str
    is_open: bool = True
    saved: tuple[str, ...] = ()
    regained: int = 0


def history_of(found: ServerIdentity, display: str, *, era: int, ahead_us: int) -> History:
    """The history of a database that has an identity."""
    assert found.identity is not None, "a database without a schema has no history"
    return History(
        identity=found.identity,
        system=found.system,
        display=display,
        database=found.database,
        name=found.name,
        timeline=found.timeline,
        epoch=found.epoch,
        era=era,
        ahead_us=ahead_us,
    )


def loss(known: History, found: ServerIdentity, expected: Mapping[str, int]) -> str:
    """Why the database that answers is known to have lost something; empty when it is not (R23).

    `expected` are watermarks as it last returned them.  A newer timeline alone proves nothing: a
    planned change of the server loses nothing.
    """
    if known.timeline and found.timeline and found.timeline < known.timeline:
        return f"its timeline is {found.timeline}, and was {known.timeline}"
    if known.epoch and found.epoch and found.epoch != known.epoch:
        return f"its epoch is {found.epoch}, and was {known.epoch}"
    if found.lanes is None:
        return ""
    for lane, watermark in expected.items():
        now = found.lanes.get(lane)
        if now is None:
            return f"it does not know lane {lane[:8]}..., which had written {watermark} there"
        if now < watermark:
            return f"lane {lane[:8]}... has written {now} there, and had written {watermark}"
    return ""


def address_mark(display: str) -> str:
    """What an op carries that was acknowledged before the database there was reached."""
    return _ADDRESS + display


def mark_of(history: History | None, display: str, *, verified: bool, gone_back: bool) -> str:
    """What an op carries that is acknowledged now.

    Where this process has not reached the database yet, only the address says which one is meant.
    """
    if history is None or not (verified or history.display == display):
        return address_mark(display)
    return history.mark + (_AFTER if gone_back else "")


def is_meant_for(mark: str, history: History, display: str) -> bool:
    """Whether an op with this mark may go to the database of a history; display: its address."""
    return mark in ("", history.mark, address_mark(display))


def is_after(mark: str) -> bool:
    """Whether an op was acknowledged after its database was seen to have gone back."""
    return mark.endswith(_AFTER)
