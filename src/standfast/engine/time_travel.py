"""Writes that the primary confirmed and lost at a failover to a standby that lagged (R13-R16).

A newer timeline of the same server says that this was a failover, and not a restore that somebody
meant.  The retained writes above the watermarks that are left are put back in front of the journal,
and decided here when what the primary holds now is known: a replacement counts only where nobody
has written since, appends and increments are made again.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from standfast.engine.histories import History
from standfast.errors import CorruptData, DataError
from standfast.ops.apply import new_text
from standfast.ops.batch import Place
from standfast.ops.types import Op, ServerIdentity, State

#: Reason of the conflict of a regained write whose document others have changed since.
REASON = "time_travel"


class Retained(NamedTuple):
    """A confirmed write: its version (None: not known), and when that was, by this clock."""

    op: Op
    version: int | None
    at_us: int


def is_failover(known: History, found: ServerIdentity) -> bool:
    """Whether the same database answers on a newer timeline of the same server."""
    same_system = bool(known.system) and known.system == found.system
    same_epoch = not (known.epoch and found.epoch) or known.epoch == found.epoch
    return same_system and same_epoch and found.timeline > known.timeline > 0


def reaches_back(
    retained: Iterable[Retained], expected: Mapping[str, int], left: Mapping[str, int]
) -> bool:
    """Whether everything that is lost is retained.

    `expected` watermarks were confirmed; `left` is what the primary still has of them.
    """
    first: dict[str, int] = {}
    for op, _, _ in retained:
        first[op.lane] = min(op.seq, first.get(op.lane, op.seq))
    return all(
        first.get(lane, confirmed + 1) <= left.get(lane, 0) + 1
        for lane, confirmed in expected.items()
        if confirmed > left.get(lane, 0)
    )


def regained(one: Retained, *, history: str, ahead_us: int) -> Op:
    """The op as it goes in front of the journal; `decide` makes it an ordinary one."""
    return msgspec.structs.replace(
        one.op,
        replay=True,
        seen="unknown",
        base=None,
        at_us=one.at_us,
        history=history,
        regained=(one.version or -1, one.at_us + ahead_us),
    )


def decide(ops: Iterable[Op], states: Mapping[Place, State]) -> list[Op]:
    """The ops as they are replayed over what the primary holds at their places."""
    later: set[Place] = set()
    texts: dict[Place, str | None] = {}
    done: list[Op] = []
    for op in ops:
        place = (op.collection, op.key)
        if place not in texts:
            state = states.get(place) or State(*place, None, 0)
            texts[place] = state.text
            if _is_later(state, op):
                later.add(place)
        replaces = op.kind in ("put", "delete") or op.if_version is not None
        if place in later and replaces and not op.reject:
            done.append(msgspec.structs.replace(op, regained=None, reject=REASON))
            continue
        text = texts[place]
        told: dict[str, object] = {}
        if op.kind in ("put", "delete") and op.if_version is None:
            told = {"seen": "absent" if text is None else "present", "base": text}
        done.append(msgspec.structs.replace(op, regained=None, **told))
        texts[place] = _after(text, op)
    return done


def _is_later(state: State, op: Op) -> bool:
    """Whether the place was written after the op was confirmed: the op is not news there."""
    assert op.regained is not None, "only regained ops are decided"
    version, at_us = op.regained
    return state.version >= version > 0 or state.updated_us > at_us


def _after(text: str | None, op: Op) -> str | None:
    if op.reject:
        return text
    if op.kind == "delete":
        return None
    try:
        made = new_text(text, op)
        return text if made is None else made  # None: there was nothing to remove
    except (DataError, CorruptData):
        return text
