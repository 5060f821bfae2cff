"""What a batch of ops makes of the rows that it touches: pure, and the same for every backend.

A backend locks and reads the rows, calls `fold`, and writes what has changed; all rules of
conditions, versions, expiry and groups are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from holdfast.codec import decode, encode
from holdfast.errors import CorruptData, DataError
from holdfast.jsonvalue import MISSING
from holdfast.patch import append_at, increment_at, merge_patch
from holdfast.types import Discreet, Op, Outcome

Place = tuple[str, str]
"""Collection and key: what an op touches."""


class Current(Discreet, frozen=True):
    """What is stored at one place before a batch, or after some of its ops.

    `text` is None when there is no live document (never was, deleted or expired).  `version` is
    the one that a new document must exceed, so that versions never go down (R17): the row's, the
    tombstone's or the collection's floor.  `ttl_us`: None leaves the row's expiry as it is, 0
    clears it, above 0 sets it that long from now.  `changed` marks what has to be written.
    `unfit` says why the place cannot hold any document (a key that is no number in a table whose
    key column is bigint).
    """

    content = frozenset({"text"})

    text: str | None = None
    version: int = 0
    ttl_us: int | None = None
    changed: bool = False
    unfit: str = ""

    @property
    def live_version(self) -> int:
        """The version that `if_version` is compared with; 0 when there is no document."""
        return self.version if self.text is not None else 0


class Refusal(Exception):
    """One op cannot be applied; the others are not affected."""

    def __init__(self, code: str, message: str, version: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.version = version


def fold(rows: dict[Place, Current], ops: Sequence[Op]) -> list[Outcome]:
    """Apply `ops` in order to `rows` (changed in place) and tell the outcome of each.

    A refused op changes nothing and the ones behind it go on; in a group, one refusal refuses all.
    A delete that finds no document is applied with version 0: there was nothing to do.
    """
    outcomes: list[Outcome] = []
    for group in _groups(ops):
        outcomes.extend(_fold_group(rows, group))
    return outcomes


def places(ops: Sequence[Op]) -> dict[str, list[str]]:
    """The keys that a batch touches, by collection, sorted bytewise: the order of locking."""
    touched: dict[str, set[str]] = {}
    for op in ops:
        touched.setdefault(op.collection, set()).add(op.key)
    return {
        name: sorted(touched[name], key=lambda key: key.encode("utf-8", "surrogatepass"))
        for name in sorted(touched)
    }


def _groups(ops: Sequence[Op]) -> Iterator[Sequence[Op]]:
    """Runs of consecutive ops with one non-zero group; every other op is a run of its own."""
    start = 0
    for index in range(1, len(ops) + 1):
        same = index < len(ops) and ops[index].group != 0 and ops[index].group == ops[start].group
        if not same:
            yield ops[start:index]
            start = index


def _fold_group(rows: dict[Place, Current], ops: Sequence[Op]) -> list[Outcome]:
    drafts: dict[Place, Current] = {}
    outcomes: list[Outcome] = []
    for op in ops:
        place = (op.collection, op.key)
        current = drafts.get(place) or rows.get(place) or Current()
        try:
            drafts[place] = changed = apply_op(current, op)
        except Refusal as refusal:
            return _refused_group(ops, op, refusal)
        version = changed.version if changed is not current else 0
        outcomes.append(Outcome(op.seq, "applied", version, changed.text))
    rows.update(drafts)
    return outcomes


def _refused_group(ops: Sequence[Op], culprit: Op, refusal: Refusal) -> list[Outcome]:
    return [
        Outcome(op.seq, "refused", refusal.version, None, refusal.code, refusal.message)
        if op is culprit
        else Outcome(op.seq, "refused", None, None, "batch", "another op of its batch was refused")
        for op in ops
    ]


def apply_op(current: Current, op: Op) -> Current:
    """What one op makes of one place; Refusal when its condition or its data do not allow it."""
    if current.unfit:
        raise Refusal("bad_key", current.unfit)
    found = current.live_version
    if op.if_version is not None and op.if_version != found:
        raise Refusal("conflict", "the document's version is not the expected one", found)
    if op.kind == "delete":
        if current.text is None:
            return current
        return Current(None, current.version + 1, None, True)
    try:
        text = _new_text(current.text, op)
    except (DataError, CorruptData) as error:
        raise Refusal(error.code, error.message, found) from error
    ttl_us = op.ttl_us
    if ttl_us is None:
        ttl_us = 0 if op.kind == "put" or current.text is None else current.ttl_us
    return Current(text, current.version + 1, ttl_us, True)


def _new_text(text: str | None, op: Op) -> str:
    assert op.body is not None, "only a delete has no body"
    if op.kind == "put":
        return op.body
    document: Any = MISSING if text is None else decode(text)
    operand = decode(op.body)
    if op.kind == "patch":
        return encode(merge_patch({} if document is MISSING else document, operand))
    change = append_at if op.kind == "append" else increment_at
    return encode(change(document, op.pointer, operand)[0])
