"""Which pending ops go into the next transaction: pure.

Ops of one place keep the order in which they were acknowledged, whatever their lanes; ops of one
lane keep their order too, since its watermark passes them all.  What waits for a lock holds up only
the ops on its own places.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence, Set

import msgspec

from standfast.engine.journal import Pending
from standfast.errors import CorruptData, DataError
from standfast.limits import MAX_TRANSACTION_BYTES, MAX_TRANSACTION_OPS
from standfast.ops.apply import new_text
from standfast.ops.batch import Place
from standfast.ops.reconcile import same_text
from standfast.ops.types import Identity, Knowledge, Op


def place_of(pending: Pending) -> Place:
    """Collection and key of a pending op."""
    return (pending.op.collection, pending.op.key)


def size_of(ops: Iterable[Op]) -> int:
    """The JSON bytes of ops."""
    return sum(len(op.body or "") + len(op.base or "") for op in ops)


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
    held: Set[str] = frozenset(),
    max_units: int = MAX_TRANSACTION_OPS,
    max_ops: int = MAX_TRANSACTION_OPS,
    max_bytes: int = MAX_TRANSACTION_BYTES,
    whole: bool = True,
) -> list[list[Pending]]:
    """The units of the next transaction: one lane, in order, within the limits but at least one.

    `blocked` are places whose ops have to wait, `held` such collections; `whole` False says that
    the window may end inside a group, which is then left for a larger window.
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
        fits = fits and not (held and any(place[0] in held for place in places))
        if not fits or (lane is not None and mine != lane):
            passed |= places
            stopped.add(mine)
            continue
        ops += len(unit)
        size += size_of(one.op for one in unit)
        if batch and (ops > max_ops or size > max_bytes or len(batch) >= max_units):
            break
        lane = mine
        batch.append(unit)
    return batch


def rebased(ops: Sequence[Op], rejected: Container[Identity]) -> dict[Identity, Op]:
    """Of the pending ops of one place, in order, those whose base a rejected one is no longer in.

    They were made from the document with it.  Against that base the document as it is would look
    as if others had changed it, and a delete would yield to a change that nobody made.
    """
    changed: dict[Identity, Op] = {}
    known = False
    old = new = None  # with and without the rejected ones
    for op in ops:
        is_rejected = (op.lane, op.seq) in rejected
        if not known and is_rejected:
            known = op.seen == "absent" or (op.seen == "present" and op.base is not None)
            old = new = op.base
        if not known:
            continue
        made_from_it = op.base is not None and same_text(op.base, old) and not same_text(old, new)
        if made_from_it and not is_rejected:
            seen: Knowledge = "absent" if new is None else "present"
            changed[op.lane, op.seq] = msgspec.structs.replace(op, base=new, seen=seen)
        try:
            old = _after(old, op)
            new = new if is_rejected else _after(new, op)
        except (DataError, CorruptData):
            break
    return changed


def _after(text: str | None, op: Op) -> str | None:
    if op.kind == "delete":
        return None
    after = new_text(text, op)
    return text if after is None and op.kind == "remove" else after
