"""A document as its data directory sees it: the mirror's row with the pending ops applied.

Pure.  The mirror holds what the primary confirmed; ops above the row's lane watermarks are pending
and are applied here, those at or below are in the row already (R5, R8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from standfast.ops.apply import Current, Refusal, apply_op
from standfast.ops.types import Identity, Knowledge, Op, ProvisionalVersion, Redacted, Row, State

#: The confirmed version of a document about which nothing is known: no condition on it can hold.
UNCONFIRMED = -1


class View(Redacted, frozen=True):
    """What is known of one place: its document, if there is one, and how it came about.

    `knowledge` "unknown": nothing is known, not even whether there is a document.  `confirmed` is
    the version that the primary last returned, `pending` names the ops since then that change the
    document.  `seen_us` is when the primary returned it, 0 if it never did.
    """

    content = frozenset({"text"})

    knowledge: Knowledge
    text: str | None
    confirmed: int
    pending: tuple[Identity, ...] = ()
    created_us: int = 0
    updated_us: int = 0
    seen_us: int = 0

    @property
    def version(self) -> int:
        """The document's version, definite only where nothing is pending (R11)."""
        return ProvisionalVersion(self.confirmed, self.pending) if self.pending else self.confirmed


class MirrorRow(Redacted, frozen=True):
    """A row of the mirror: a state, the watermarks of its snapshot, and when it was taken."""

    content = frozenset()

    state: State
    watermarks: Mapping[str, int]
    seen_us: int


class CompleteMark(msgspec.Struct, frozen=True):
    """The mark of a collection that the mirror holds whole: as of when, and of which watermarks.

    The watermarks are those at the beginning of the full scan: ops above them are not in it.
    """

    since_us: int
    watermarks: Mapping[str, int]

    def absence(self, collection: str, key: str) -> MirrorRow:
        """What it says of a key that the mirror does not know."""
        return MirrorRow(State(collection, key, None, 0), self.watermarks, self.since_us)


UNKNOWN = View("unknown", None, UNCONFIRMED)


def view_of(row: MirrorRow | None, pending: Iterable[Op], *, now_us: int) -> View:
    """The document as its writers have to see it; `pending` in the order of the journal."""
    view = UNKNOWN if row is None else _confirmed(row, now_us)
    names: list[Identity] = []
    for op in pending:
        if row is None or op.seq > row.watermarks.get(op.lane, 0):
            changed = _changed(view, op)
            if changed is not view:
                view = changed
                names.append(op.name)
    # Once at the end: thousands of ops may be pending on one document.
    return msgspec.structs.replace(view, pending=tuple(names)) if names else view


def after(view: View, op: Op) -> View:
    """The view with one more pending op; an op that the document refuses leaves it as it is.

    A condition was checked when the op was acknowledged, so it is not checked again.  The result
    of a patch on an unknown document is unknown, too.
    """
    changed = _changed(view, op)
    if changed is view:
        return view
    return msgspec.structs.replace(changed, pending=(*view.pending, op.name))


def _changed(view: View, op: Op) -> View:
    """What the op makes of the document; the view itself when that is nothing."""
    if view.knowledge == "unknown" and op.kind not in ("put", "delete"):
        return view
    current = Current(view.text, max(view.confirmed, 0), created_us=view.created_us)
    plain = msgspec.structs.replace(op, if_version=None, pending=())
    try:
        changed = apply_op(current, plain)
    except Refusal:
        return view
    if changed is current and view.knowledge != "unknown":
        return view
    return View(
        "absent" if changed.text is None else "present",
        changed.text,
        view.confirmed,
        view.pending,
        changed.created_us or op.at_us,
        op.at_us,
        view.seen_us,
    )


def lay_over(
    rows: Sequence[Row],
    views: Mapping[str, View],
    wanted: Callable[[str, View], bool],
    *,
    limit: int,
) -> list[Row]:
    """A page of the primary's rows, with pending changes applied.

    `views` are the documents with pending ops; `wanted` says whether one of them belongs to the
    page's range and query.
    """
    if not views:
        return list(rows)
    page = {row.key: row for row in rows if row.key not in views}
    last = rows[-1].key.encode() if len(rows) == limit else None
    for key, view in views.items():
        if last is not None and key.encode() > last:
            continue  # it belongs to a later page
        if view.text is not None and wanted(key, view):
            times = (view.created_us, view.updated_us)
            page[key] = Row(key, view.text, view.version, *times, seen_us=view.seen_us)
    return [page[key] for key in sorted(page, key=str.encode)]


def _confirmed(row: MirrorRow, now_us: int) -> View:
    state = row.state
    text = state.text
    if state.expires_us is not None and state.expires_us <= now_us:
        text = None
    return View(
        "absent" if text is None else "present",
        text,
        state.version,
        (),
        state.created_us,
        state.updated_us,
        row.seen_us,
    )
