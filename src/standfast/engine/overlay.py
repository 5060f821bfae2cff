"""A document as its data directory sees it: the mirror's row with the pending ops applied.

Pure.  The mirror holds what the primary confirmed; ops above the row's lane watermarks are pending
and are applied here, those at or below are in the row already (R5, R8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from standfast.ops.apply import Current, Refusal, apply_op
from standfast.ops.types import (
    KEEP_EXPIRY,
    Identity,
    Knowledge,
    Op,
    ProvisionalVersion,
    Redacted,
    Row,
    Source,
    State,
)

#: The confirmed version of a document about which nothing is known: no condition on it can hold.
UNCONFIRMED = -1


class View(Redacted, frozen=True):
    """What is known of one place: its document, if there is one, and how it came about.

    `knowledge` "unknown": nothing is known, not even whether there is a document.  `confirmed` is
    the version that the primary last returned, `pending` names the ops since then that change the
    document.  `seen_us` is when the primary returned it, 0 if it never did.  `expires_us` is when
    it ends, by the server's clock; `expired`: that is why there is none.
    """

    content = frozenset({"text"})

    knowledge: Knowledge
    text: str | None
    confirmed: int
    pending: tuple[Identity, ...] = ()
    created_us: int = 0
    updated_us: int = 0
    seen_us: int = 0
    expires_us: int | None = None
    expired: bool = False
    source: Source = "mirror"

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
    source: Source = "mirror"


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


def view_of(
    row: MirrorRow | None, pending: Iterable[Op], *, now_us: int, ahead_us: int = 0
) -> View:
    """The document as its writers have to see it; `pending` in the order of the journal.

    `now_us` is by the server's clock, which is `ahead_us` ahead of the one of this process.
    """
    return ended(fold(row, pending, ahead_us=ahead_us), now_us)


def fold(row: MirrorRow | None, pending: Iterable[Op], *, ahead_us: int = 0) -> View:
    """The same, whose document may have ended since the last op: `ended` says so."""
    view = UNKNOWN if row is None else _confirmed(row)
    names: list[Identity] = []
    for op in pending:
        if row is None or op.seq > row.watermarks.get(op.lane, 0):
            view = ended(view, op.at_us + ahead_us)
            changed = _changed(view, op, ahead_us)
            if changed is not view:
                view = changed
                names.append(op.name)
    # Once at the end: thousands of ops may be pending on one document.
    return msgspec.structs.replace(view, pending=tuple(names)) if names else view


def ended(view: View, now_us: int) -> View:
    """The view at this instant of the server's clock: a document whose time is over is gone."""
    if view.text is None or view.expires_us is None or view.expires_us > now_us:
        return view
    return msgspec.structs.replace(view, knowledge="absent", text=None, expired=True)


def after(view: View, op: Op, *, ahead_us: int = 0) -> View:
    """The view with one more pending op; an op that the document refuses leaves it as it is.

    A condition was checked when the op was acknowledged, so it is not checked again.  The result
    of a patch on an unknown document is unknown, too.
    """
    current = ended(view, op.at_us + ahead_us)
    changed = _changed(current, op, ahead_us)
    if changed is current:
        return view
    return msgspec.structs.replace(changed, pending=(*view.pending, op.name))


def _changed(view: View, op: Op, ahead_us: int) -> View:
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
        _expiry(view, op, ahead_us),
        source=view.source,
    )


def _expiry(view: View, op: Op, ahead_us: int) -> int | None:
    """When the document that an op leaves ends: the same rules as in `ops.apply.replaced`."""
    if op.kind == "delete" or op.ttl_us == 0:
        return None
    if op.ttl_us == KEEP_EXPIRY:
        return None if view.text is None else view.expires_us
    if op.ttl_us is not None:
        return op.at_us + ahead_us + op.ttl_us
    return None if op.kind == "put" or view.text is None else view.expires_us


def lay_over(
    rows: Sequence[Row],
    views: Mapping[str, View],
    wanted: Callable[[str, View], bool],
    *,
    limit: int,
    reverse: bool = False,
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
        if last is not None and key.encode() != last and (key.encode() < last) == reverse:
            continue  # it belongs to a later page
        if view.text is not None and wanted(key, view):
            times = (view.created_us, view.updated_us)
            stamps = (*times, view.expires_us, view.seen_us)
            page[key] = Row(key, view.text, view.version, *stamps, view.source)
    return [page[key] for key in sorted(page, key=str.encode, reverse=reverse)]


def _confirmed(row: MirrorRow) -> View:
    state = row.state
    return View(
        "absent" if state.text is None else "present",
        state.text,
        state.version,
        (),
        state.created_us,
        state.updated_us,
        row.seen_us,
        state.expires_us,
        source=row.source,
    )
