"""What follows a commit on the primary: the mirror, then the answers (R6)."""

from __future__ import annotations

from collections.abc import Sequence

from standfast.engine.local_state import LocalState
from standfast.engine.promise import CompletionBatch
from standfast.engine.write_queue import Result, Submission
from standfast.ops.types import Applied, Op, Receipt
from standfast.system.failpoints import failpoint

Sent = tuple[Submission, list[Op]]
"""A submission, and its ops with the names under which they were sent."""


def confirm(local_state: LocalState, sent: Sequence[Sent], applied: Applied, *, lane: str) -> None:
    """Confirm a batch: a caller that has its receipt reads its write here too."""
    versions = [outcome.version for outcome in applied.outcomes]
    ops = [op for _, own in sent for op in own]
    local_state.confirm(applied, lane=lane, retained=list(zip(ops, versions, strict=True)))
    with CompletionBatch() as completions:
        outcomes = iter(applied.outcomes)
        for submission, own in sent:
            results = [
                Result(op, outcome, Receipt(outcome.version, "primary", op.lane, op.seq))
                for op, outcome in zip(own, outcomes, strict=False)
            ]
            completions.value(submission.promise, results)
    failpoint("confirm-answered")
