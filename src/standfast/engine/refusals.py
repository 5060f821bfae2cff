"""Writes that a store has refused to its callers, and what the log says of them: pure.

Each is an exception of its caller, which many programs swallow; so they are counted, the first of
a kind is logged, then one line a minute, and one more when writes of the collection are taken
again.  A condition that does not hold is an answer, and not counted here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from standfast.engine.outages import duration
from standfast.errors import StandfastError
from standfast.limits import MAX_REFUSING_COLLECTIONS, REFUSAL_LOG_PAUSE_S
from standfast.ops.types import Op


class Refused(NamedTuple):
    """A write that was refused: its place, its kind, and the error of its caller.

    The message names what the server said; never the contents of the document.
    """

    collection: str
    key: str
    kind: str
    code: str
    message: str
    hint: str


class Refusal(msgspec.Struct):
    """The refused writes of one collection, since the last one that was taken.

    Times are of `time.time()`; `code`, `message` and `hint` are of the last one.
    """

    collection: str
    code: str
    message: str
    hint: str
    first: float
    last: float
    count: int = 1
    logged: float = 0.0
    unlogged: int = 0


class Refusals:
    """The collections that refuse writes now, and how many were refused in all."""

    def __init__(self) -> None:
        self.now: dict[str, Refusal] = {}
        self.total: dict[str, int] = {}

    def refused(self, op: Op, error: StandfastError, at: float) -> str:
        """Note one; returns the line for the log, or nothing."""
        self.total[error.code] = self.total.get(error.code, 0) + 1
        one = self.now.get(op.collection)
        if one is None:
            if len(self.now) >= MAX_REFUSING_COLLECTIONS:
                return ""
            one = Refusal(op.collection, error.code, error.message, error.hint, at, at, 0)
            self.now[op.collection] = one
        is_new = one.code != error.code
        one.code, one.message, one.hint = error.code, error.message, error.hint
        one.last, one.count = at, one.count + 1
        if not is_new and one.logged and at - one.logged < REFUSAL_LOG_PAUSE_S:
            one.unlogged += 1
            return ""
        more = f" ({one.unlogged} more since the last such line)" if one.unlogged else ""
        one.logged, one.unlogged = at, 0
        hint = f" To do: {error.hint}." if error.hint else ""
        return (
            f"a write to `{op.collection}` was refused and is not stored: {error.message}{more}."
            f"{hint} Details: standfast doctor"
        )

    def taken(self, collections: Iterable[str], at: float) -> list[str]:
        """Writes of these collections were taken: the lines for the log."""
        if not self.now:
            return []
        lines: list[str] = []
        for name in collections:
            one = self.now.pop(name, None)
            if one is not None and one.logged:
                lines.append(
                    f"writes to `{name}` are taken again after {duration(at - one.first)}:"
                    f" {one.count} were refused meanwhile, and are not stored"
                )
        return lines
