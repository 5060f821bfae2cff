"""`standfast conflicts`: what was recorded about a write, and what a person decides about it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

from standfast.backends.base import Backend
from standfast.document.codec import decode
from standfast.errors import (
    ConfigError,
    ConflictError,
    CorruptData,
    DataError,
    StandfastError,
    Unavailable,
)
from standfast.ops.build import raise_refusal
from standfast.ops.types import ConflictRecord, Kind, Op

Side = Literal["mine", "theirs", "base"]

#: Names the lanes of resolutions that apply an operation again.
_AGAIN = uuid.UUID("8d9fb0c2-6c0f-4d7e-9c38-3b1f0f4f2a57")


class Decision(NamedTuple):
    """How to resolve a conflict: take a side, put this JSON text, or leave all as it is."""

    take: Side | None = None
    value: str | None = None

    @property
    def name(self) -> str:
        """Its name in the record of the conflict."""
        if self.value is not None:
            return "value"
        return self.take or "dismissed"


class Resolved(NamedTuple):
    """A resolved conflict, how, and the version that its document got (None: no write)."""

    entry: ConflictRecord
    resolution: str
    version: int | None


def open_conflicts(counts: Mapping[str, int]) -> int:
    """The number of conflicts that wait for a decision."""
    return counts.get("open", 0)


def find(backend: Backend, number: int, *, deadline_s: float) -> ConflictRecord:
    """One conflict; StandfastError("no_entry") when there is none of this id."""
    deadline = time.monotonic() + deadline_s
    found = backend.conflicts(after=number - 1, limit=1, deadline=deadline)
    if not found or found[0].id != number:
        raise StandfastError(
            f"there is no conflict {number}",
            code="no_entry",
            hint="see: standfast conflicts list",
        )
    return found[0]


def version_now(backend: Backend, entry: ConflictRecord, *, deadline_s: float) -> int:
    """The version of the conflict's document at this moment; 0 when there is none."""
    deadline = time.monotonic() + deadline_s
    (state,) = backend.observe(entry.collection, [entry.key], deadline=deadline).states
    return 0 if state.text is None else state.version


def resolve(
    backend: Backend,
    number: int,
    decision: Decision,
    *,
    if_version: int | None = None,
    deadline_s: float,
) -> Resolved:
    """Carry out a decision, and mark the conflict as resolved once that has taken effect.

    `if_version` makes the write conditional: ConflictError when the document has another version.
    After a kill in between, the same call again does no harm: a document is put once more, and a
    patch, append or increment is not applied twice.  ConflictError("not_open") for a conflict that
    is resolved, or was never open.
    """
    entry = find(backend, number, deadline_s=deadline_s)
    if entry.state != "open":
        raise _not_open(entry)
    op = _op(entry, decision, if_version, backend)
    version = None if op is None else _apply(backend, op, entry, deadline_s)
    if not backend.resolve_conflict(number, decision.name):
        raise _not_open(find(backend, number, deadline_s=deadline_s))
    if op is not None:
        # The same decision, made elsewhere at the same time, must not apply it once more.
        with contextlib.suppress(StandfastError):
            backend.fence([op.lane], deadline=time.monotonic() + deadline_s)
    return Resolved(entry, decision.name, version)


def _not_open(entry: ConflictRecord) -> ConflictError:
    how = f" ({entry.resolution})" if entry.resolution else ""
    return ConflictError(
        f"conflict {entry.id} is not open, it is {entry.state}{how}",
        code="not_open",
        hint="to change the document itself: standfast put",
    )


def _op(
    entry: ConflictRecord, decision: Decision, if_version: int | None, backend: Backend
) -> Op | None:
    """The write that the decision means; None for none."""
    if decision.value is not None:
        return _put_or_delete(entry, decision.value, if_version)
    if decision.take is None:
        return None
    if decision.take == "theirs":
        return _put_or_delete(entry, entry.theirs, if_version)
    if decision.take == "base":
        if entry.base is None:
            raise ConfigError(
                f"conflict {entry.id} has no base: there was no document, or none was known",
                code="no_base",
                hint="--take theirs, --value, or standfast delete and --dismiss",
            )
        return _put_or_delete(entry, entry.base, if_version)
    if entry.kind in ("put", "delete", "touch"):  # of a touch, the document that it kept
        return _put_or_delete(entry, entry.mine, if_version)
    # One conflict of one database has one lane: what was already applied is skipped there.
    return Op(
        lane=str(uuid.uuid5(_AGAIN, f"{backend.identity()}/{entry.id}")),
        seq=1,
        kind=cast(Kind, entry.kind),
        collection=entry.collection,
        key=entry.key,
        body=entry.mine,
        pointer=str(decode(entry.pointer)) if entry.pointer else "",
        if_version=if_version,
    )


def _put_or_delete(entry: ConflictRecord, text: str | None, if_version: int | None) -> Op:
    """A put of this text on a new lane, or a delete for None; nothing is sent yet."""
    return Op(
        lane=str(uuid.uuid4()),
        seq=1,
        kind="delete" if text is None else "put",
        collection=entry.collection,
        key=entry.key,
        body=text,
        if_version=if_version,
    )


def _apply(backend: Backend, op: Op, entry: ConflictRecord, deadline_s: float) -> int | None:
    try:
        (outcome,) = backend.apply([op], deadline=time.monotonic() + deadline_s).outcomes
    except Unavailable as error:
        if error.code == "fenced":
            raise _not_open(find(backend, entry.id, deadline_s=deadline_s)) from None
        raise
    if outcome.status != "refused":
        return outcome.version
    backend.close_lane(op.lane)  # so that it can be tried again
    try:
        raise_refusal(op, outcome)
    except (DataError, CorruptData) as error:
        error.hint = (
            "it cannot be applied to the document as it is now: give --take theirs, or --value"
        )
        raise
