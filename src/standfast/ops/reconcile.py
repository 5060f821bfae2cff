"""What happens to a journaled op on replay: it is applied, merged or rejected.

The op was acknowledged while the primary was unreachable, and its document may have changed since.
No data is lost (I5): an op that is not simply applied leaves a conflict record with base, mine and
theirs.  Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Literal, NamedTuple, TypeAlias

from standfast.document.codec import decode, encode
from standfast.document.merge import Side, same_value, three_way
from standfast.document.values import JSON, MISSING, Missing
from standfast.errors import CorruptData, DataError
from standfast.ops.apply import (
    Current,
    Refusal,
    apply_op,
    deleted,
    holds,
    new_text,
    replaced,
    touched,
)
from standfast.ops.types import ConflictRecord, Identity, Op

Resolver: TypeAlias = Callable[[JSON | Missing, JSON | Missing, JSON | Missing], JSON]
"""Returns one value for base, mine and theirs (`MISSING`: no document, or not known)."""

OnConflict: TypeAlias = Literal["mine", "theirs", "newest"] | Resolver
"""Which side wins if both changed the same field to different values.

`mine`: the replayed op, as any later write would; `theirs`: what is on the primary; `newest`: the
later by the clocks of the two machines; or a function that decides.
"""


#: Reasons of conflicts whose op took effect, or yielded by a documented rule.
_NOT_REJECTED = ("conflict", "merged", "update_beats_delete")


def is_rejected(entry: ConflictRecord) -> bool:
    """Whether a conflict record stands for an op that was not applied."""
    return entry.lane != "" and entry.reason not in _NOT_REJECTED


class Reconciled(NamedTuple):
    """The place after a replayed op, and its conflict record if there is one."""

    current: Current
    entry: ConflictRecord | None


def reconcile(
    current: Current, op: Op, *, on_conflict: OnConflict, entered: Container[Identity] = ()
) -> Reconciled:
    """Apply a journaled op to what the primary holds now.

    Raises Refusal if it must be rejected: its condition no longer holds, its document was deleted
    meanwhile, its data do not fit, or it was marked for rejection (`op.reject`).
    """
    if op.reject:
        raise Refusal(op.reject, "the op was set aside", current.live_version)
    if current.unfit:
        raise Refusal("bad_key", current.unfit)
    if op.if_version is not None:
        if not holds(current, op, entered):
            raise Refusal("condition", "its condition no longer holds", current.live_version)
        return Reconciled(apply_op(current, op, entered), None)
    try:
        if op.kind == "put":
            return _reconcile_put(current, op, on_conflict)
        if op.kind == "delete":
            return _reconcile_delete(current, op, on_conflict)
        if op.kind == "touch":
            return _reconcile_touch(current, op)
        return _reconcile_change(current, op)
    except (DataError, CorruptData) as error:
        raise Refusal(error.code, error.message, current.live_version) from error


def entry_of(
    op: Op, reason: str, *, theirs: str | None, state: str, resolution: str | None
) -> ConflictRecord:
    """The conflict record of an op."""
    lane, seq = op.name
    return ConflictRecord(
        lane=lane,
        seq=seq,
        collection=op.collection,
        key=op.key,
        kind=op.kind,
        pointer=encode(op.pointer) if op.pointer else "",
        reason=reason,
        base=op.base,
        mine=op.base if op.kind == "touch" else op.body,
        theirs=theirs,
        state=state,
        resolution=resolution,
    )


def _reconcile_put(current: Current, op: Op, on_conflict: OnConflict) -> Reconciled:
    assert op.body is not None, "a put has a body"
    theirs = current.text
    known = theirs is None if op.seen == "unknown" else same_text(theirs, op.base)
    if known or same_text(theirs, op.body):
        return Reconciled(replaced(current, op, op.body), None)
    side = _side(on_conflict, current, op)
    mine, found = decode(op.body), MISSING if theirs is None else decode(theirs)
    if op.seen == "unknown":
        # No common base is known: one of the two is taken whole.
        base, value, is_open = MISSING, (mine if side == "mine" else found), True
        reason = "conflict"
    else:
        base = MISSING if op.base is None else decode(op.base)
        merge = three_way(base, mine, found, prefer=side)
        value, is_open = merge.value, bool(merge.true_conflicts)
        kinds = {conflict.kind for conflict in merge.conflicts}
        reason = "conflict" if is_open else (kinds.pop() if kinds else "merged")
    if is_open and callable(on_conflict):
        is_open = False  # the function has decided
        try:
            value = decode(encode(on_conflict(base, mine, found)))
        except Exception as error:
            # The application's function: whatever it raises, the other ops must not be held up.
            what = f"the on_conflict function raised {type(error).__name__}"
            raise Refusal("resolver_failed", what, current.live_version) from error
    resolution = "mine" if value is mine else "theirs" if value is found else "merged"
    entry = entry_of(
        op, reason, theirs=theirs, state="open" if is_open else "merged", resolution=resolution
    )
    if value is found or value is MISSING:
        return Reconciled(current, entry)
    return Reconciled(replaced(current, op, op.body if value is mine else encode(value)), entry)


def _reconcile_delete(current: Current, op: Op, on_conflict: OnConflict) -> Reconciled:
    theirs = current.text
    if theirs is None:
        return Reconciled(current, None)
    if op.seen == "present" and same_text(theirs, op.base):
        return Reconciled(deleted(current), None)
    if op.seen == "unknown":
        side = _side(on_conflict, current, op)
        entry = entry_of(op, "conflict", theirs=theirs, state="open", resolution=side)
        return Reconciled(deleted(current) if side == "mine" else current, entry)
    entry = entry_of(op, "update_beats_delete", theirs=theirs, state="merged", resolution="theirs")
    return Reconciled(current, entry)


def _reconcile_touch(current: Current, op: Op) -> Reconciled:
    """Give the document its expiry; one that ended because the touch came late is put back."""
    if current.text is not None:
        return Reconciled(touched(current, op), None)
    if op.seen != "present" or op.base is None:
        return Reconciled(current, None)
    if current.expires_us is None:
        raise Refusal("deleted_meanwhile", "its document was deleted meanwhile", 0)
    return Reconciled(replaced(current, op, op.base), None)


def _reconcile_change(current: Current, op: Op) -> Reconciled:
    """Apply a patch, append, increment, set or remove to the document as it is now."""
    theirs = current.text
    if theirs is None and op.kind == "remove":
        return Reconciled(current, None)
    if theirs is None and op.seen == "present":
        raise Refusal("deleted_meanwhile", "its document was deleted meanwhile", 0)
    text = new_text(theirs, op)
    changed = current if text is None else replaced(current, op, text)
    if op.kind in ("append", "increment") or op.seen == "unknown" or same_text(theirs, op.base):
        return Reconciled(changed, None)
    # If it overwrites a change by others, that is a conflict, which it wins.
    base = MISSING if op.base is None else decode(op.base)
    found = MISSING if theirs is None else decode(theirs)
    made = new_text(op.base, op)
    mine = base if made is None else decode(made)
    is_open = bool(three_way(base, mine, found).true_conflicts)
    entry = entry_of(
        op,
        "conflict" if is_open else "merged",
        theirs=theirs,
        state="open" if is_open else "merged",
        resolution="mine" if is_open else "merged",
    )
    return Reconciled(changed, entry)


def _side(on_conflict: OnConflict, current: Current, op: Op) -> Side:
    if on_conflict == "newest":
        return "mine" if op.at_us >= current.updated_us else "theirs"
    return "theirs" if on_conflict == "theirs" else "mine"


def same_text(a: str | None, b: str | None) -> bool:
    """Whether two texts (None: no document) are the same JSON value."""
    if a == b:
        return True
    return a is not None and b is not None and same_value(decode(a), decode(b))
