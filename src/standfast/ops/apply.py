"""Applies one op to one document: pure, and the same for every backend.

All rules of conditions, versions and expiry are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from standfast.document.codec import decode, encode
from standfast.document.patch import append_at, increment_at, merge_patch
from standfast.document.values import MISSING
from standfast.errors import CorruptData, DataError
from standfast.ops.types import Identity, Op, Redacted


class Current(Redacted, frozen=True):
    """What is stored at one place before a batch, or after some of its ops.

    `text` is None when there is no live document (never was, deleted or expired).  `version` is
    the one that a new document must exceed, so that versions never go down (R17): the row's, the
    tombstone's or the collection's floor.  `ttl_us`: None leaves the row's expiry as it is, 0
    clears it, above 0 sets it that long from now.  `changed` marks what has to be written.
    `unfit` says why the place cannot hold any document (a key that is not a number, in a table
    whose key column is bigint).  The times are those of the stored row; `fresh` means that the
    document is created by this batch, so its time of creation is now.
    """

    content = frozenset({"text"})

    text: str | None = None
    version: int = 0
    ttl_us: int | None = None
    changed: bool = False
    unfit: str = ""
    created_us: int = 0
    updated_us: int = 0
    expires_us: int | None = None
    fresh: bool = False

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


def holds(current: Current, op: Op, entered: Container[Identity] = ()) -> bool:
    """Whether the op's condition holds: the document is exactly what its caller saw.

    `entered` holds the names of ops with a conflict record: the document is then not what their
    caller saw.
    """
    if op.if_version is None:
        return True
    if not op.pending:
        return op.if_version == current.live_version
    exact = current.version == op.if_version + len(op.pending)
    return exact and not any(name in entered for name in op.pending)


def apply_op(current: Current, op: Op, entered: Container[Identity] = ()) -> Current:
    """The place after one op; raises Refusal if the condition or the data do not allow it."""
    if current.unfit:
        raise Refusal("bad_key", current.unfit)
    found = current.live_version
    if not holds(current, op, entered):
        raise Refusal("conflict", "the document's version is not the expected one", found)
    if op.kind == "delete":
        return current if current.text is None else deleted(current)
    try:
        text = new_text(current.text, op)
    except (DataError, CorruptData) as error:
        raise Refusal(error.code, error.message, found) from error
    return replaced(current, op, text)


def deleted(current: Current) -> Current:
    """The place after its document was deleted."""
    return Current(None, current.version + 1, None, True)


def replaced(current: Current, op: Op, text: str) -> Current:
    """The place with this text as its document, and the expiry that the op gives it."""
    ttl_us = op.ttl_us
    if ttl_us is None:
        ttl_us = 0 if op.kind == "put" or current.text is None else current.ttl_us
    return Current(
        *(text, current.version + 1, ttl_us, True),
        created_us=current.created_us,
        expires_us=current.expires_us if ttl_us is None else None,
        fresh=current.fresh or current.text is None,
    )


def new_text(text: str | None, op: Op) -> str:
    """The document's text after a put, patch, append or increment; None stands for none before.

    Raises DataError when the op does not fit the document, CorruptData when that is unreadable.
    """
    assert op.body is not None, "only a delete has no body"
    if op.kind == "put":
        return op.body
    document: Any = MISSING if text is None else decode(text)
    operand = decode(op.body)
    if op.kind == "patch":
        return encode(merge_patch({} if document is MISSING else document, operand))
    change = append_at if op.kind == "append" else increment_at
    return encode(change(document, op.pointer, operand)[0])
