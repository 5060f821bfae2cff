"""`holdfast conflicts`: lines of the ledger, and what a person decides about them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Literal, NamedTuple

from holdfast.backends.base import Backend
from holdfast.codec import decode
from holdfast.errors import ConflictError, DataError, HoldfastError
from holdfast.ops import raise_refusal
from holdfast.types import Entry, Kind, Op

Side = Literal["mine", "theirs", "base"]

#: Names the lanes of resolutions that apply an operation again.
_AGAIN = uuid.UUID("8d9fb0c2-6c0f-4d7e-9c38-3b1f0f4f2a57")


class Decision(NamedTuple):
    """What is to become of a line: take a side, put this JSON text, or leave all as it is."""

    take: Side | None = None
    value: str | None = None

    @property
    def name(self) -> str:
        """How the ledger calls it."""
        if self.value is not None:
            return "value"
        return self.take or "dismissed"


class Resolved(NamedTuple):
    """A line that was resolved, how, and the version that the document got (None: no write)."""

    entry: Entry
    resolution: str
    version: int | None


def open_entries(counts: Mapping[str, int]) -> int:
    """The number of lines that somebody should look at."""
    return counts.get("open", 0)


def find(backend: Backend, number: int, *, deadline_s: float) -> Entry:
    """One line; HoldfastError("no_entry") when there is none of this id."""
    deadline = time.monotonic() + deadline_s
    found = backend.entries(after=number - 1, limit=1, deadline=deadline)
    if not found or found[0].id != number:
        raise HoldfastError(
            f"the ledger has no line {number}", code="no_entry", hint="see: holdfast conflicts list"
        )
    return found[0]


def resolve(
    backend: Backend,
    number: int,
    decision: Decision,
    *,
    if_version: int | None = None,
    deadline_s: float,
) -> Resolved:
    """Carry out a decision, and mark the line only when that has taken effect.

    `if_version` makes the write conditional: ConflictError when the document has another version.
    Killed in between, the same call again does no harm: a document is put once more, an append or
    increment is not applied twice.  ConflictError("resolved") for a line that is not open.
    """
    entry = find(backend, number, deadline_s=deadline_s)
    if entry.state != "open":
        raise _not_open(entry)
    op = _op(entry, decision, if_version, backend)
    version = None
    if op is not None:
        try:
            version = _apply(backend, op, deadline_s)
            marked = backend.resolve_entry(number, decision.name)
        finally:
            backend.close_lane(op.lane)
    else:
        marked = backend.resolve_entry(number, decision.name)
    if not marked:
        raise _not_open(find(backend, number, deadline_s=deadline_s))
    return Resolved(entry, decision.name, version)


def _not_open(entry: Entry) -> ConflictError:
    return ConflictError(
        f"line {entry.id} is not open: {entry.state}, {entry.resolution or 'no resolution'}",
        code="not_open",
        hint="change the document itself, if it should be another: holdfast put",
    )


def _op(entry: Entry, decision: Decision, if_version: int | None, backend: Backend) -> Op | None:
    """The write that the decision means; None for none."""
    if decision.value is not None:
        return _document(entry, decision.value, if_version)
    if decision.take is None:
        return None
    if decision.take == "base":
        return _document(entry, entry.base, if_version)
    if decision.take == "theirs":
        return _document(entry, entry.theirs, if_version)
    if entry.kind in ("put", "delete"):
        return _document(entry, entry.mine, if_version)
    kind: Kind
    if entry.kind == "append":
        kind = "append"
    elif entry.kind == "increment":
        kind = "increment"
    else:
        kind = "patch"
    # Of one line and database there is one lane: what was applied already is skipped there.
    name = f"{backend.identity()}/{entry.id}"
    return Op(
        lane=str(uuid.uuid5(_AGAIN, name)),
        seq=1,
        kind=kind,
        collection=entry.collection,
        key=entry.key,
        body=entry.mine,
        pointer=str(decode(entry.pointer)) if entry.pointer else "",
        if_version=if_version,
    )


def _document(entry: Entry, text: str | None, if_version: int | None) -> Op:
    return Op(
        lane=str(uuid.uuid4()),
        seq=1,
        kind="delete" if text is None else "put",
        collection=entry.collection,
        key=entry.key,
        body=text,
        if_version=if_version,
    )


def _apply(backend: Backend, op: Op, deadline_s: float) -> int | None:
    (outcome,) = backend.apply([op], deadline=time.monotonic() + deadline_s).outcomes
    if outcome.status == "refused" or outcome.code:
        raise_refusal(op, outcome)
    return outcome.version


def require_if_version(decision: Decision, if_version: int | None) -> None:
    """Refuse a condition on a decision that writes nothing."""
    if if_version is not None and decision.name == "dismissed":
        raise DataError(
            "--if-version has no meaning with --dismiss, which writes nothing", code="usage"
        )
