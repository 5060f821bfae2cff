"""A document as its data directory sees it: the mirror's row with the pending ops laid over it."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from standfast.document.codec import encode
from standfast.engine.overlay import UNCONFIRMED, UNKNOWN, MirrorRow, View, after, view_of
from standfast.ops.apply import Current, Refusal, apply_op
from standfast.ops.types import Op, ProvisionalVersion, State

LANES = ("lane-a", "lane-b")
NOW_US = 1_000_000


def op_of(kind: str, body: Any, *, lane: str = "lane-a", seq: int = 1, pointer: str = "") -> Op:
    return Op(
        lane=lane,
        seq=seq,
        kind=kind,  # type: ignore[arg-type]
        collection="c",
        key="k",
        body=None if kind == "delete" else encode(body),
        pointer=pointer,
        at_us=NOW_US + seq,
    )


CHANGES: list[tuple[Any, Any, str]] = [
    ("put", {"n": 1}, ""),
    ("put", {"n": 7, "l": []}, ""),
    ("put", "text", ""),
    ("patch", {"m": True}, ""),
    ("patch", {"n": None}, ""),
    ("append", "x", "/l"),
    ("increment", 2, "/n"),
    ("delete", None, ""),
]


@st.composite
def pending_ops(draw: st.DrawFn) -> list[Op]:
    """Ops of two lanes in the order of a journal: sequences rise within each lane."""
    seqs = dict.fromkeys(LANES, 0)
    found: list[Op] = []
    for _ in range(draw(st.integers(0, 8))):
        lane = draw(st.sampled_from(LANES))
        seqs[lane] += draw(st.integers(1, 3))
        kind, body, pointer = draw(st.sampled_from(CHANGES))
        found.append(op_of(kind, body, lane=lane, seq=seqs[lane], pointer=pointer))
    return found


TEXTS = st.sampled_from([None, '{"n":1}', '{"n":1,"l":[1]}', '"text"'])


def row_of(text: str | None, version: int, marks: dict[str, int]) -> MirrorRow:
    """A row of the mirror with this text and these watermarks."""
    return MirrorRow(State("c", "k", text, version, 5, 6), marks, 99)


ROWS = st.builds(
    row_of,
    TEXTS,
    st.integers(1, 9),
    st.dictionaries(st.sampled_from(LANES), st.integers(0, 9)),
)


def folded(row: MirrorRow, ops: list[Op]) -> tuple[str | None, list[Op]]:
    """What the primary would make of the row, and the ops that change something."""
    current = Current(row.state.text, row.state.version)
    changing: list[Op] = []
    for op in ops:
        try:
            changed = apply_op(current, op)
        except Refusal:
            continue
        if changed is not current:
            changing.append(op)
        current = changed
    return current.text, changing


@given(ROWS, pending_ops())
def test_a_view_is_the_row_with_the_ops_that_are_not_in_it(row: MirrorRow, ops: list[Op]) -> None:
    """R5, R8: ops above the row's watermarks are applied in order; those in the row never twice."""
    waiting = [op for op in ops if op.seq > row.watermarks.get(op.lane, 0)]
    text, changing = folded(row, waiting)
    view = view_of(row, ops, now_us=NOW_US)
    assert view.text == text
    assert view.knowledge == ("absent" if text is None else "present")
    assert view.pending == tuple(op.name for op in changing)
    assert view.seen_us == row.seen_us


@given(ROWS, pending_ops())
def test_versions_are_definite_only_without_pending_ops(row: MirrorRow, ops: list[Op]) -> None:
    """R11: a version says that it is provisional exactly when pending ops changed the document."""
    view = view_of(row, ops, now_us=NOW_US)
    assert view.confirmed == row.state.version
    assert int(view.version) == row.state.version
    assert isinstance(view.version, ProvisionalVersion) == bool(view.pending)


@given(pending_ops())
def test_the_unknown_stays_unknown_until_it_is_replaced(ops: list[Op]) -> None:
    """I4: of a document that nobody knows, a patch tells nothing; a put or a delete tells all."""
    known = next((n for n, op in enumerate(ops) if op.kind in ("put", "delete")), None)
    view = view_of(None, ops, now_us=NOW_US)
    if known is None:
        assert view == UNKNOWN
        return
    start = MirrorRow(State("c", "k", None, 0), {}, 0)
    assert view.text == folded(start, ops[known:])[0]
    assert view.confirmed == UNCONFIRMED
    assert view.pending[0] == ops[known].name


@given(ROWS, pending_ops())
def test_laying_over_can_go_on(row: MirrorRow, ops: list[Op]) -> None:
    """A writer's view, op by op, is the view that a reader of the journal gets."""
    bare = msgspec.structs.replace(row, watermarks={})
    view = view_of(bare, [], now_us=NOW_US)
    for op in ops:
        view = after(view, op)
    assert view == view_of(bare, ops, now_us=NOW_US)


def test_a_condition_is_not_judged_again() -> None:
    """A condition held when the op was acknowledged: the view has what the op made."""
    row = MirrorRow(State("c", "k", '"old"', 4), {}, 9)
    op = msgspec.structs.replace(op_of("put", "new"), if_version=99)
    assert view_of(row, [op], now_us=NOW_US).text == '"new"'


def test_an_expired_row_is_absent() -> None:
    """A document whose time is over is no document, also while the primary is away."""
    state = State("c", "k", "1", 4, 5, 6, expires_us=NOW_US)
    assert view_of(MirrorRow(state, {}, 9), [], now_us=NOW_US - 1).knowledge == "present"
    gone = view_of(MirrorRow(state, {}, 9), [], now_us=NOW_US)
    assert (gone.knowledge, gone.text, gone.version) == ("absent", None, 4)


def test_origin_names_the_op() -> None:
    """R1: an op that was moved to another lane is pending under the name of its receipt."""
    moved = msgspec.structs.replace(op_of("put", 1, lane="lane-b"), origin=("lane-a", 7))
    assert view_of(None, [moved], now_us=NOW_US).pending == (("lane-a", 7),)


def test_a_provisional_version_is_shown_with_what_is_pending() -> None:
    """A version that is not definite says so: confirmed plus pending, `?` where none is known."""
    row = MirrorRow(State("c", "k", "1", 3), {}, 9)
    known, unknown = (view_of(each, [op_of("put", "x")], now_us=NOW_US) for each in (row, None))
    assert (repr(known.version), repr(unknown.version)) == ("3+1", "?+1")


def test_a_view_does_not_show_its_content() -> None:
    """No repr shows a document's content."""
    row = MirrorRow(State("c", "k", '"secret"', 4), {}, 9)
    shown = repr(
        [row, view_of(row, [op_of("put", "secret")], now_us=NOW_US), View("present", "secret", 1)]
    )
    assert "secret" not in shown
