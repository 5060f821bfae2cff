"""Acknowledging writes without the primary: judged, based on what is known, and journaled (I1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import msgspec

from standfast.engine import clock
from standfast.engine.heads import Head, followed
from standfast.engine.journal_rows import Transaction, size_of
from standfast.engine.lanes import Lane
from standfast.engine.local_state import LocalState, PendingAt
from standfast.engine.overlay import View, ended
from standfast.engine.write_queue import Result, Submission
from standfast.errors import DeadlineExceeded, StandfastError, Unavailable
from standfast.ops.apply import Current, Refusal, apply_op
from standfast.ops.batch import Place
from standfast.ops.build import refusal_error, refused
from standfast.ops.types import Op, Outcome, Receipt

logger = logging.getLogger("standfast")

#: Errors of the journal that are its answer, and not a fault of its file.
_REFUSED = frozenset({"journal_full", "closed"})


class Answer(NamedTuple):
    """What a submission gets: results, or the error of its caller."""

    submission: Submission
    results: list[Result]
    error: StandfastError | None = None


class Journaling:
    """Writes batches of submissions into the journal, each in one durable transaction."""

    def __init__(self, local_state: LocalState) -> None:
        self._local_state = local_state

    def write(self, submissions: Sequence[Submission], lane: Lane) -> list[Answer]:
        """Judge new submissions by what is known here, and journal those that hold.

        Nothing is acknowledged unless the whole transaction is on disk: an error of the journal
        is raised, and no submission has taken effect.
        """
        return self._written(
            lambda known: [self._judge(submission, lane, known) for submission in submissions]
        )

    def _written(self, judge: Callable[[_Known], list[Answer]]) -> list[Answer]:
        """Write what is judged to hold into the journal; into the spool when that fails.

        Under the same names: a transaction of which the disk reports an error may be there later.
        """
        local_state = self._local_state
        answers: list[Answer] | None = None
        try:
            with local_state.journal.writing() as transaction:
                known = _Known(local_state, transaction)
                answers = judge(known)
                self._add(answers, transaction, known)
            return answers
        except StandfastError as error:
            if error.code in _REFUSED:
                raise
            if answers is None:
                answers = judge(_Known(local_state, local_state.journal))
            return self._spooled(answers, error)

    def _spooled(self, answers: list[Answer], failure: StandfastError) -> list[Answer]:
        calls = [_kept(answer) for answer in answers]
        totals, options = self._local_state.journal.totals(), self._local_state.options
        size = sum(size_of(op) for call in calls for op in call)
        if (
            totals.ops + sum(map(len, calls)) > options.max_journal_ops
            or totals.bytes + size > options.max_journal_bytes
        ):
            raise failure
        if any(calls):
            try:
                self._local_state.journal.spool.append(filter(None, calls))
            except StandfastError:
                raise failure from None
            logger.warning("the journal cannot be written (%s): the spool is used", failure.code)
        return [
            answer._replace(results=[_in_spool(result) for result in answer.results])
            for answer in answers
        ]

    def write_sent(self, sent: Sequence[tuple[Submission, Sequence[Op]]]) -> list[Answer]:
        """Journal ops whose outcome on the primary is unknown, under the names they were sent with.

        A write that only the primary can decide is not acknowledged: its caller learns that the
        outcome is unknown.
        """
        return self._written(lambda known: [_judge_sent(*one, known) for one in sent])

    def _add(self, answers: Sequence[Answer], transaction: Transaction, known: _Known) -> None:
        options = self._local_state.options
        ops = [op for answer in answers for op in _kept(answer)]
        if ops:
            transaction.add(
                ops,
                max_ops=options.max_journal_ops,
                max_bytes=options.max_journal_bytes,
                heads=known.heads,
            )

    def _judge(self, submission: Submission, lane: Lane, known: _Known) -> Answer:
        may_judge = self._local_state.options.sole_writer or submission.provisional
        if submission.conditional and not may_judge and not submission.independent:
            return Answer(submission, [], needs_primary(submission.ops))
        mark = known.mark()
        results: list[Result] = []
        group = 0
        for draft in submission.ops:
            seq = lane.next_seq()
            group = group or seq
            op = msgspec.structs.replace(
                draft, lane=lane.id, seq=seq, group=group + draft.group - 1 if draft.group else 0
            )
            try:
                if submission.independent and op.if_version is not None and not may_judge:
                    raise needs_primary([op])
                if submission.read_modify_write:
                    op = _difference(op, known.at(op))
                elif op.if_version is not None:
                    op = _provisional(op, known.at(op))
                _refuse_misfit(op, known.at(op))
            except StandfastError as error:
                if submission.independent:
                    results.append(_refused(op, error))
                    continue
                known.back_to(mark)
                return Answer(submission, [], error)
            results.append(_journaled(op, known))
        return Answer(submission, results)


def _judge_sent(submission: Submission, ops: Sequence[Op], known: _Known) -> Answer:
    if submission.conditional:
        return Answer(submission, [], unknown_outcome(ops[0]))
    mark = known.mark()
    try:
        results = [_sent(op, known, read_modify_write=submission.read_modify_write) for op in ops]
    except StandfastError:
        known.back_to(mark)
        return Answer(submission, [], unknown_outcome(ops[0]))
    return Answer(submission, results)


def _kept(answer: Answer) -> list[Op]:
    """The ops of a call that are to be replayed: without those that were refused."""
    return [result.op for result in answer.results if result.outcome.status != "refused"]


def _refused(op: Op, error: StandfastError) -> Result:
    """One refused op of a call whose ops are independent."""
    return Result(op, refused(op, error), Receipt(None, "journal", op.lane, op.seq, False))


def _in_spool(result: Result) -> Result:
    receipt = msgspec.structs.replace(result.receipt, durable_on="spool")
    return msgspec.structs.replace(result, receipt=receipt)


class _Known:
    """What is known of each place within one transaction of the journal, its own ops included."""

    def __init__(self, local_state: LocalState, transaction: PendingAt) -> None:
        self._local_state = local_state
        self._transaction = transaction
        self.heads: dict[Place, Head] = {}
        self._marked: dict[Place, Head] | None = None
        self.history_mark = local_state.mark

    def at(self, op: Op) -> View:
        return ended(self._head(op).view, self._local_state.server_now_us())

    def _head(self, op: Op) -> Head:
        place = (op.collection, op.key)
        head = self.heads.get(place)
        if head is None:
            head = self._local_state.head(*place, self._transaction)
            self.heads[place] = head
        return head

    def note(self, op: Op) -> View:
        place = (op.collection, op.key)
        before = self._head(op)
        if self._marked is not None:
            self._marked.setdefault(place, before)
        head = self.heads[place] = followed(before, op, ahead_us=self._local_state.ahead_us)
        return head.view

    def mark(self) -> dict[Place, Head]:
        """From here on, what changes can be taken back."""
        self._marked = {}
        return self._marked

    def back_to(self, mark: dict[Place, Head]) -> None:
        self.heads.update(mark)
        self._marked = None


def _journaled(op: Op, known: _Known) -> Result:
    """The op as it is kept for the replay: with what its writer knew of the document."""
    view = known.at(op)
    based = op
    if op.seen == "unknown":
        base = None if op.kind in ("append", "increment") else view.text
        based = msgspec.structs.replace(op, seen=view.knowledge, base=base)
    kept = msgspec.structs.replace(
        based, replay=True, at_us=clock.now_us(), history=known.history_mark
    )
    now = known.note(kept)
    changed = view.knowledge == "unknown" or now.pending != view.pending
    outcome = Outcome(op.seq, "applied", None, now.text, changed=changed)
    return Result(kept, outcome, Receipt(None, "journal", op.lane, op.seq, changed))


def _sent(op: Op, known: _Known, *, read_modify_write: bool) -> Result:
    """An op that was sent already, as it is kept; raises where it does not fit what is known."""
    if read_modify_write:
        op = msgspec.structs.replace(op, if_version=None, pending=())
    _refuse_misfit(op, known.at(op))
    return _journaled(op, known)


def _difference(op: Op, view: View) -> Op:
    """A read-modify-write as the difference it made; ConflictError when the document moved on."""
    assert op.if_version is not None, "a read-modify-write knows what it has read"
    _require_exact(op, view)
    return msgspec.structs.replace(op, if_version=None, pending=())


def _provisional(op: Op, view: View) -> Op:
    """A conditional op, judged here; on replay it holds only for exactly what was seen."""
    if view.knowledge == "unknown":
        raise needs_primary([op])
    _require_exact(op, view)
    if not view.pending or (view.expired and not op.if_version):
        return op  # what has ended here has ended there, whatever led to it
    return msgspec.structs.replace(op, if_version=view.confirmed, pending=view.pending)


def _require_exact(op: Op, view: View) -> None:
    if op.pending:
        exact = (op.if_version, op.pending) == (view.confirmed, view.pending)
    elif op.if_version == 0:
        exact = view.text is None
    else:
        exact = not view.pending and view.text is not None and op.if_version == view.confirmed
    if not exact:
        outcome = Outcome(
            *(0, "refused", None, None),
            code="conflict",
            message="the document is not the expected one, as far as is known here",
        )
        raise refusal_error(op, outcome)


def _refuse_misfit(op: Op, view: View) -> None:
    """An op that does not fit the document as it is known is refused at once."""
    if view.knowledge == "unknown" or op.kind in ("put", "delete"):
        return
    plain = msgspec.structs.replace(op, if_version=None, pending=())
    try:
        apply_op(Current(view.text, max(0, view.confirmed)), plain)
    except Refusal as refusal:
        outcome = Outcome(op.seq, "refused", None, None, refusal.code, refusal.message)
        raise refusal_error(op, outcome) from None


def needs_primary(ops: Sequence[Op]) -> Unavailable:
    """The error of a call that only the primary can decide."""
    message = "its condition must be decided by the primary, which does not answer; nothing was"
    outcome = Outcome(0, "refused", code="needs_primary", message=f"{message} written")
    return cast(Unavailable, refusal_error(ops[0], outcome))


def unknown_outcome(op: Op) -> DeadlineExceeded:
    """The error of a call whose reply was lost, and that was not acknowledged."""
    return DeadlineExceeded(
        f"{op.kind} of key {op.key!r} in `{op.collection}`: the reply was lost; whether it took"
        " effect is unknown",
        code="unknown_outcome",
        hint="read the document when the primary answers again",
    )
