"""Applies one op to one document: pure, and the same for every backend.

All rules of conditions, versions and expiry are here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from standfast.document.codec import decode, encode
from standfast.document.patch import append_at, increment_at, merge_patch, remove_at, set_at
from standfast.document.values import MISSING
from standfast.errors import CorruptData, DataError
from standfast.ops.types import KEEP_EXPIRY, Identity, Op, Redacted


class Current(Redacted, frozen=True):
    """What is stored at one place before a batch, or after some of its ops.

    `text` is None when there is no live document (never was, deleted or expired).  `version` is
    the one that a new document must exceed, so that versions never go down (R17): the row's, the
    tombstone's or the collection's floor.  `ttl_us`: None leaves the row's expiry as it is, 0
    clears it, above 0 sets it that long from now.  `changed` marks what has to be written.
    `unfit` says why the place cannot hold any document (a key that is not a number, in a table
    whose key column is bigint).  The times are those of the stored row; `fresh` means that the
    document is created by this batch, so its time of creation is now.  `same_text`: the row has
    this text already, and only its version and expiry have to be written.
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
    same_text: bool = False

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
    if op.kind == "touch":
        return current if current.text is None else touched(current, op)
    try:
        text = new_text(current.text, op)
    except (DataError, CorruptData) as error:
        raise Refusal(error.code, error.message, found) from error
    return current if text is None else replaced(current, op, text)


def deleted(current: Current) -> Current:
    """The place after its document was deleted."""
    return Current(None, current.version + 1, None, True)


def touched(current: Current, op: Op) -> Current:
    """The place with the same document, and the expiry that the op gives it."""
    return Current(
        *(current.text, current.version + 1, op.ttl_us or 0, True),
        created_us=current.created_us,
        fresh=current.fresh,
        same_text=current.same_text or not current.changed,
    )


def replaced(current: Current, op: Op, text: str) -> Current:
    """The place with this text as its document, and the expiry that the op gives it."""
    ttl_us = op.ttl_us
    if ttl_us == KEEP_EXPIRY:
        ttl_us = 0 if current.text is None else current.ttl_us
    elif ttl_us is None:
        ttl_us = 0 if op.kind == "put" or current.text is None else current.ttl_us
    return Current(
        *(text, current.version + 1, ttl_us, True),
        created_us=current.created_us,
        expires_us=current.expires_us if ttl_us is None else None,
        fresh=current.fresh or current.text is None,
    )


def new_text(text: str | None, op: Op) -> str | None:
    """The document's text after anything but a delete; None stands for none before.

    None: a remove found nothing to remove.  Raises DataError when the op does not fit the document,
    CorruptData when that is unreadable.
    """
    if op.kind == "put":
        return op.body
    if op.kind == "touch":
        return text
    document: Any = MISSING if text is None else decode(text)
    if op.kind == "remove":
        left = remove_at(document, op.pointer)
        return None if left is MISSING else encode(left)
    assert op.body is not None, "only a remove, a touch and a delete have no body"
    operand = decode(op.body)
    if op.kind == "set":
        return encode(set_at(document, op.pointer, operand))
    if op.kind == "patch":
        return encode(merge_patch({} if document is MISSING else document, operand))
    change = append_at if op.kind == "append" else increment_at
    return encode(change(document, op.pointer, operand)[0])
