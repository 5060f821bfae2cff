"""Folded heads: a place with all of its pending ops applied, kept beside the journal.

Without them each write and read of a hot document applies everything again that is pending on it.
A head says what it rests on; where that has changed, the ops are applied anew.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from typing import Any

import msgspec

from standfast.engine.overlay import MirrorRow, View, after, fold
from standfast.ops.types import Identity, Op, Redacted

Basis = tuple[int, int, int, bool]
"""What a head rests on: version, time of change, expiry of the mirror's row, and whether it is a
document."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Head(Redacted, frozen=True):
    """A view with every pending op applied, the row it rests on, and the first op of each lane.

    Its document may have ended since: `overlay.ended` says so.
    """

    content = frozenset()

    view: View
    basis: Basis | None
    floors: Mapping[str, int]


def basis_of(row: MirrorRow | None, *, now_us: int) -> Basis | None:
    """What a head over this row rests on."""
    if row is None:
        return None
    state = row.state
    expired = state.expires_us is not None and state.expires_us <= now_us
    live = state.text is not None and not expired
    return (state.version, state.updated_us, state.expires_us or 0, live)


def head_of(
    row: MirrorRow | None, pending: Iterable[Op], *, now_us: int, ahead_us: int = 0
) -> Head:
    """The head over a row; `pending` in the order of the journal.  See `overlay.view_of`."""
    ops = list(pending)
    floors: dict[str, int] = {}
    for op in ops:
        if row is None or op.seq > row.watermarks.get(op.lane, 0):
            floors[op.lane] = min(op.seq, floors.get(op.lane, op.seq))
    return Head(fold(row, ops, ahead_us=ahead_us), basis_of(row, now_us=now_us), floors)


def is_current(head: Head, row: MirrorRow | None, *, now_us: int) -> bool:
    """Whether the head rests on this row, and none of its ops is in the row already (R8)."""
    if head.basis != basis_of(row, now_us=now_us):
        return False
    if row is None:
        return True
    return all(row.watermarks.get(lane, 0) < first for lane, first in head.floors.items())


def followed(head: Head, op: Op, *, ahead_us: int = 0) -> Head:
    """The head with one more pending op."""
    floors = head.floors if op.lane in head.floors else {**head.floors, op.lane: op.seq}
    return Head(after(head.view, op, ahead_us=ahead_us), head.basis, floors)


def seen(head: Head, row: MirrorRow | None) -> Head:
    """A current head, as old as the row is now."""
    if row is None or (row.seen_us, row.source) == (head.view.seen_us, head.view.source):
        return head
    view = msgspec.structs.replace(head.view, seen_us=row.seen_us, source=row.source)
    return msgspec.structs.replace(head, view=view)


def pack_head(head: Head, *, without_text: bool) -> bytes:
    """The bytes of a head; without the text where its last op, a put, holds that."""
    fields = msgspec.structs.asdict(head.view)
    fields["pending"] = _runs(head.view.pending)
    if without_text:
        del fields["text"]
    return _encode((head.basis, head.floors, fields))


def unpack_head(data: bytes, *, last: Op | None) -> Head:
    """The head that was packed; `last` is the put that holds its text."""
    basis, floors, fields = _decode(data)
    fields["pending"] = _names(fields["pending"])
    if last is not None:
        fields["text"] = last.body
    return Head(View(**fields), None if basis is None else tuple(basis), floors)


def _runs(names: tuple[Identity, ...]) -> list[list[Any]]:
    """Names as (lane, first, last): those of a hot document follow each other."""
    if names:
        lane, first = names[0]
        last = first + len(names) - 1
        if names == tuple(zip(repeat(lane), range(first, last + 1), strict=False)):
            return [[lane, first, last]]
    runs: list[list[Any]] = []
    for lane, seq in names:
        if runs and runs[-1][0] == lane and runs[-1][2] == seq - 1:
            runs[-1][2] = seq
        else:
            runs.append([lane, seq, seq])
    return runs


def _names(runs: Iterable[tuple[str, int, int]]) -> tuple[Identity, ...]:
    each = (zip(repeat(lane), range(first, last + 1), strict=False) for lane, first, last in runs)
    return tuple(chain.from_iterable(each))
