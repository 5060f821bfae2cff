"""What a batch of ops makes of the rows that it touches: pure, and the same for every backend.

A backend locks and reads the rows, calls `fold`, and writes what has changed; groups stand or fall
together here, `effect` and `settle` know what a single op means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from standfast.ops.apply import Current, Refusal, apply_op
from standfast.ops.reconcile import OnConflict, entry_of, reconcile
from standfast.ops.types import ConflictRecord, Identity, Op, Outcome

Place = tuple[str, str]
"""Collection and key: what an op touches."""


class BatchResult(NamedTuple):
    """The outcome of each op, in order, and the lines for the ledger."""

    outcomes: list[Outcome]
    entries: list[ConflictRecord]


def apply_ops(
    rows: dict[Place, Current],
    ops: Sequence[Op],
    *,
    on_conflict: OnConflict = "mine",
    entered: Iterable[Identity] = (),
) -> BatchResult:
    """Apply `ops` in order to `rows` (changed in place) and tell the outcome of each.

    A refused op changes nothing and the ones behind it go on; in a group, one refusal refuses all.
    A replayed op is rejected instead of refused, and decided by `standfast.ops.reconcile`.
    `entered` names the ops of earlier batches that are among the conflicts.  A delete that finds no
    document is applied with version 0: there was nothing to do.
    """
    result = BatchResult([], [])
    known = set(entered)
    for group in _groups(ops):
        _apply_group(rows, group, on_conflict, known, result)
    return result


def places(ops: Sequence[Op]) -> dict[str, list[str]]:
    """The keys that a batch touches, by collection, sorted bytewise: the order of locking."""
    touched: dict[str, set[str]] = {}
    for op in ops:
        touched.setdefault(op.collection, set()).add(op.key)
    return {
        name: sorted(touched[name], key=lambda key: key.encode("utf-8", "surrogatepass"))
        for name in sorted(touched)
    }


def groups(ops: Sequence[Op]) -> list[Sequence[Op]]:
    """The ops cut into what stands or falls together, in order."""
    return list(_groups(ops))


def _groups(ops: Sequence[Op]) -> Iterator[Sequence[Op]]:
    """Runs of consecutive ops with one non-zero group; every other op is a run of its own."""
    start = 0
    for index in range(1, len(ops) + 1):
        same = (
            index < len(ops)
            and ops[index].group != 0
            and ops[index].group == ops[start].group
            and ops[index].name[0] == ops[start].name[0]
        )
        if not same:
            yield ops[start:index]
            start = index


def _apply_group(
    rows: dict[Place, Current],
    ops: Sequence[Op],
    on_conflict: OnConflict,
    entered: set[Identity],
    result: BatchResult,
) -> None:
    drafts: dict[Place, Current] = {}
    outcomes: list[Outcome] = []
    entries: list[ConflictRecord] = []
    for op in ops:
        place = (op.collection, op.key)
        current = drafts.get(place) or rows.get(place) or Current()
        try:
            # A caller that says what its put is based on has it merged, healthy or not.
            if op.replay or (op.seen != "unknown" and op.if_version is None):
                changed, entry = reconcile(current, op, on_conflict=on_conflict, entered=entered)
            else:
                changed, entry = apply_op(current, op, entered), None
        except Refusal as refusal:
            _refuse_group(rows, ops, op, refusal, entered, result)
            return
        drafts[place] = changed
        if entry is not None:
            entries.append(entry)
        version = changed.version if changed is not current else current.live_version
        status = "applied" if entry is None else "merged"
        outcomes.append(Outcome(op.seq, status, version, changed.text))
    rows.update(drafts)
    entered.update((entry.lane, entry.seq) for entry in entries)
    result.outcomes.extend(outcomes)
    result.entries.extend(entries)


def _refuse_group(
    rows: dict[Place, Current],
    ops: Sequence[Op],
    culprit: Op,
    refusal: Refusal,
    entered: set[Identity],
    result: BatchResult,
) -> None:
    """Refuse all ops of a group for the sake of one; replayed ones go into the ledger."""
    for op in ops:
        code, message = "batch", "another op of its batch was refused"
        if op is culprit:
            code, message = refusal.code, refusal.message
        version = refusal.version if op is culprit else None
        if op.replay:
            entered.add(op.name)
            found = rows.get((op.collection, op.key)) or Current()
            entry = entry_of(op, code, theirs=found.text, state="open", resolution=None)
            result.entries.append(entry)
        status = "rejected" if op.replay else "refused"
        result.outcomes.append(Outcome(op.seq, status, version, None, code, message))
