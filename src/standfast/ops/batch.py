"""Applies a batch of ops to the rows that it touches: pure, and the same for every backend.

A backend locks and reads the rows, calls `apply_ops`, and writes the rows that changed.  This
module keeps groups together (all or nothing); `apply` and `reconcile` know what one op means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from standfast.ops.apply import Current, Refusal, apply_op, new_text
from standfast.ops.reconcile import OnConflict, entry_of, reconcile
from standfast.ops.types import KEEP_EXPIRY, ConflictRecord, Identity, Op, Outcome

Place = tuple[str, str]
"""Collection and key: what an op touches."""


class BatchResult(NamedTuple):
    """The outcome of each op, in order, and the conflict records to store."""

    outcomes: list[Outcome]
    entries: list[ConflictRecord]


def apply_ops(
    rows: dict[Place, Current],
    ops: Sequence[Op],
    *,
    on_conflict: OnConflict = "mine",
    entered: Iterable[Identity] = (),
) -> BatchResult:
    """Apply `ops` in order to `rows` (changed in place) and return the outcome of each.

    A refused op changes nothing, and the ops behind it are still applied; in a group, one refusal
    refuses all.  A replayed op is decided by `standfast.ops.reconcile`, and rejected instead of
    refused.  `entered` names the ops of earlier batches that have a conflict record.  A delete that
    finds no document is applied with version 0: there was nothing to do.
    """
    result = BatchResult([], [])
    known = set(entered)
    for group in _groups(ops):
        _apply_group(rows, group, on_conflict, known, result)
    return result


def retrace(
    known: Callable[[Place], tuple[str, int] | None],
    ops: Sequence[Op],
    outcomes: Sequence[Outcome],
) -> list[Outcome]:
    """The outcomes of a resend, with the texts that skipped ops had made.

    Lanes keep versions and no texts.  `known` is a document's text and version before the batch, or
    None.  What an op makes of the version right before its own is certain; other texts stay None.
    """
    rows: dict[Place, Current | None] = {}
    answers: list[Outcome] = []
    for op, outcome in zip(ops, outcomes, strict=True):
        place = (op.collection, op.key)
        if place not in rows:
            found = known(place)
            rows[place] = Current(*found) if found else None
        row, text = rows[place], outcome.text
        if outcome.status == "skipped" and text is None and outcome.version is not None:
            if op.kind == "put":
                text = op.body
            elif row is not None and row.version == outcome.version - 1 and op.kind != "delete":
                text = new_text(row.text, op)
        if outcome.status != "refused":
            rows[place] = None if outcome.version is None else Current(text, outcome.version)
            if text is None and op.kind != "delete":
                rows[place] = None
        answers.append(msgspec.structs.replace(outcome, text=text))
    return answers


def places(ops: Sequence[Op]) -> dict[str, list[str]]:
    """The keys that a batch touches, by collection, sorted bytewise: the order of locking."""
    touched: dict[str, set[str]] = {}
    for op in ops:
        touched.setdefault(op.collection, set()).add(op.key)
    return {
        name: sorted(touched[name], key=lambda key: key.encode("utf-8", "surrogatepass"))
        for name in sorted(touched)
    }


def kept(ops: Sequence[Op]) -> list[Op]:
    """The ops that are to take effect: those to be rejected leave a record, and touch no table."""
    return [op for op in ops if not op.reject]


def is_plain(ops: Sequence[Op]) -> bool:
    """Whether a batch is puts to one collection without conditions, and nothing else."""
    first = ops[0]
    for op in ops:
        if (
            op.kind != "put"
            or op.if_version is not None
            or op.group
            or op.replay
            or op.ttl_us == KEEP_EXPIRY
            or op.seen != "unknown"
            or op.collection != first.collection
        ):
            return False
    return True


def groups(ops: Sequence[Op]) -> list[Sequence[Op]]:
    """The ops split into groups that are applied together or not at all, in order."""
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
            # A put with a base is merged, whether the primary was reachable or not.
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
        is_new = changed is not current
        version = changed.version if is_new else current.live_version
        status = "applied" if entry is None else "merged"
        outcomes.append(Outcome(op.seq, status, version, changed.text, changed=is_new))
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
    """Refuse all ops of a group because of one; replayed ones are rejected, with a record each."""
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
