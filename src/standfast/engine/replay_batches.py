"""Which pending ops go into the next transaction: pure.

Ops of one place keep the order in which they were acknowledged, whatever their lanes; ops of one
lane keep their order too, since its watermark passes them all.  What waits for a lock holds up only
the ops on its own places.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from standfast.engine.journal import Pending
from standfast.limits import MAX_TRANSACTION_BYTES, MAX_TRANSACTION_OPS
from standfast.ops.batch import Place


def place_of(pending: Pending) -> Place:
    """Collection and key of a pending op."""
    return (pending.op.collection, pending.op.key)


def units(window: Sequence[Pending]) -> list[list[Pending]]:
    """The ops cut into what stands or falls together, in order."""
    found: list[list[Pending]] = []
    for pending in window:
        last = found[-1][-1].op if found else None
        op = pending.op
        together = last is not None and op.group and (op.lane, op.group) == (last.lane, last.group)
        if together:
            found[-1].append(pending)
        else:
            found.append([pending])
    return found


def next_batch(
    window: Sequence[Pending],
    *,
    blocked: Set[Place] = frozenset(),
    max_ops: int = MAX_TRANSACTION_OPS,
    max_bytes: int = MAX_TRANSACTION_BYTES,
    whole: bool = True,
) -> list[list[Pending]]:
    """The units of the next transaction: one lane, in order, within the limits but at least one.

    `blocked` are places whose ops have to wait; `whole` False says that the window may end inside
    a group, which is then left for a larger window.
    """
    passed = set(blocked)
    batch: list[list[Pending]] = []
    lane: str | None = None
    stopped: set[str] = set()
    ops = size = 0
    found = units(window)
    if not whole and len(found) > 1 and found[-1][-1].op.group:
        found.pop()
    for unit in found:
        places = set(map(place_of, unit))
        mine = unit[0].op.lane
        fits = mine not in stopped and passed.isdisjoint(places)
        if not fits or (lane is not None and mine != lane):
            passed |= places
            stopped.add(mine)
            continue
        ops += len(unit)
        size += sum(len(one.op.body or "") + len(one.op.base or "") for one in unit)
        if batch and (ops > max_ops or size > max_bytes):
            break
        lane = mine
        batch.append(unit)
    return batch


def along_with(window: Iterable[Pending], places: Set[Place]) -> set[Place]:
    """The places that have to wait with these: those of the groups that touch one of them."""
    waiting = set(places)
    for unit in units(list(window)):
        touched = set(map(place_of, unit))
        if not waiting.isdisjoint(touched):
            waiting |= touched
    return waiting
