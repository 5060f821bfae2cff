"""The trivial engine: every batch goes to the one configured backend, in the caller's thread."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

import msgspec

from holdfast.backends.base import Backend
from holdfast.errors import DeadlineExceeded, HoldfastError, Unavailable
from holdfast.types import Applied, Op, Outcome, Receipt

#: A lost connection is tried once more, with the same lane and sequences: the gate makes it safe.
_TRIED_AGAIN = ("connection", "connection_lost", "shutdown")


class InlineEngine:
    """One lane of ops to one backend.  Thread-safe: one batch at a time, in order."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._lane = str(uuid.uuid4())
        self._seq = 0
        self._watermark = 0
        self._lock = threading.Lock()
        self._closed = False

    def write(self, drafts: Sequence[Op]) -> list[tuple[Outcome, Receipt]]:
        """Number the ops, apply them in one transaction, and tell what became of each.

        A reply that is lost with the connection is asked for again: the same lane and sequences
        take effect at most once, and the lane remembers their outcomes.
        """
        with self._lock:
            self.require_open()
            first = self._seq + 1
            ops = [
                msgspec.structs.replace(op, lane=self._lane, seq=first + index)
                for index, op in enumerate(drafts)
            ]
            self._seq += len(ops)
            applied = self._apply(ops)
            self._watermark = applied.watermark
            return [
                (outcome, Receipt(outcome.version, "primary", self._lane, outcome.seq))
                for outcome in applied.outcomes
            ]

    def _apply(self, ops: Sequence[Op]) -> Applied:
        try:
            return self.backend.apply(ops, believed=self._watermark)
        except Unavailable as first:
            if first.code not in _TRIED_AGAIN:
                raise
            try:
                return self.backend.apply(ops, believed=self._watermark)
            except Unavailable as second:
                if "connection_lost" not in (first.code, second.code):
                    raise
                raise DeadlineExceeded(
                    f"{first.message}; whether it took effect is unknown",
                    code="unknown_outcome",
                    hint="read the document when the database answers again",
                ) from second

    def require_open(self) -> None:
        """Raise when the store was closed."""
        if self._closed:
            raise Unavailable("the store is closed", code="closed", hint="open it again")

    def close(self) -> None:
        """Close the lane and the backend.  Idempotent; never raises because of the database."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._seq:
                    self.backend.close_lane(self._lane)
            except HoldfastError:
                pass  # Its row stays behind, which costs nothing but its bytes.
            finally:
                self.backend.close()
