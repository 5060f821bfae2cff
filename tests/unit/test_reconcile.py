"""What becomes of a journaled op on replay: nobody's change is lost without a line that has it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.document.codec import decode, encode
from standfast.document.merge import same_value
from standfast.document.values import MISSING
from standfast.ops.apply import Current, Refusal, apply_op
from standfast.ops.batch import apply_ops, groups
from standfast.ops.reconcile import OnConflict, Reconciled, is_rejected, reconcile
from standfast.ops.types import Op
from support import json_strategies

NAMES = ("a", "b", "c")
scalars = st.sampled_from([None, True, 0, 1, 1.0, -0.0, "", "x"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=3)
documents = objects | objects | values
policies = st.sampled_from(["mine", "theirs", "newest"])
VERSION = 5


def make_op(kind: Any, body: Any, *, base: Any = MISSING, seen: Any = None, **how: Any) -> Op:
    known = "unknown" if base is MISSING else "present"
    return Op(
        lane="lane",
        seq=9,
        collection="things",
        key="1",
        replay=True,
        kind=kind,
        body=None if body is MISSING else encode(body),
        seen=seen or known,
        base=None if base is MISSING else encode(base),
        **how,
    )


def place(theirs: Any, updated_us: int = 50) -> Current:
    text = None if theirs is MISSING else encode(theirs)
    return Current(text, VERSION, created_us=1, updated_us=updated_us)


def reconciled(theirs: Any, op: Op, on_conflict: OnConflict = "mine") -> Reconciled:
    """The op's effect; a refusal counts as a conflict record, as it does in `apply_ops`."""
    rows = {("things", "1"): place(theirs)}
    done = apply_ops(rows, [op], on_conflict=on_conflict)
    assert len(done.entries) <= 1
    return Reconciled(rows[("things", "1")], done.entries[0] if done.entries else None)


def value_of(result: Reconciled) -> Any:
    return MISSING if result.current.text is None else decode(result.current.text)


@st.composite
def puts(draw: st.DrawFn) -> tuple[Op, Any, Any, Any]:
    """A put with what it knew: (op, base, mine, theirs)."""
    base, theirs = draw(st.just(MISSING) | documents), draw(st.just(MISSING) | documents)
    mine = draw(documents)
    if base is not MISSING:
        mine, theirs = draw(st.sampled_from([mine, base])), draw(st.sampled_from([theirs, base]))
    op = make_op("put", mine, base=base, seen="absent" if base is MISSING else None, at_us=50)
    return op, base, mine, theirs


@st.composite
def replays(draw: st.DrawFn) -> tuple[Op, Any]:
    """Any op of a journal, and what is found in its place."""
    kind = draw(st.sampled_from(["put", "patch", "append", "increment", "delete"]))
    base = draw(st.just(MISSING) | documents)
    seen = "present" if base is not MISSING else draw(st.sampled_from(["unknown", "absent"]))
    body = MISSING if kind == "delete" else draw(documents)
    how: dict[str, Any] = {
        "pointer": draw(st.sampled_from(["", "/a"])) if kind in ("append", "increment") else "",
        "ttl_us": None if kind == "delete" else draw(st.sampled_from([None, 0, 7])),
        "at_us": draw(st.sampled_from([1, 99])),
        "reject": draw(st.sampled_from(["", "", "", "held"])),
        "if_version": draw(st.sampled_from([None, None, None, 0, VERSION])),
    }
    theirs = draw(st.just(MISSING) | documents | (st.just(base)))
    return make_op(kind, body, base=base, seen=seen, **how), theirs


# ---- properties of all ops


@given(replays(), policies)
def test_settling_is_deterministic(replay: tuple[Op, Any], policy: OnConflict) -> None:
    """I2: the same op on the same document comes to the same, whoever replays it and how often."""
    op, theirs = replay
    assert reconciled(theirs, op, policy) == reconciled(theirs, op, policy)


@given(replays(), policies)
def test_i5_a_line_stands_for_all_that_is_not_simply_applied(
    replay: tuple[Op, Any], policy: OnConflict
) -> None:
    """I5, R12: without a line the document is exactly what the op makes of it; with one, the line
    has base, mine and theirs."""
    op, theirs = replay
    result = reconciled(theirs, op, policy)
    if result.entry is None:
        assert result.current == apply_op(place(theirs), op)
        return
    found = None if theirs is MISSING else encode(theirs)
    assert (result.entry.base, result.entry.mine, result.entry.theirs) == (op.base, op.body, found)
    assert (result.entry.lane, result.entry.seq, result.entry.kind) == (*op.name, op.kind)
    if is_rejected(result.entry):
        assert result.current == place(theirs)
        assert result.entry.state == "open"


@given(replays(), policies)
def test_i3_a_reconciled_op_never_takes_a_version_back(
    replay: tuple[Op, Any], policy: OnConflict
) -> None:
    """I3: the version goes up by one with each change, and stays where nothing changed."""
    op, theirs = replay
    after = reconciled(theirs, op, policy).current
    assert after.version == VERSION + after.changed
    assert after.changed or after == place(theirs)


# ---- puts whose base is known


@given(puts(), policies)
def test_i5_no_field_is_lost_that_one_side_alone_changed(
    put: tuple[Op, Any, Any, Any], policy: OnConflict
) -> None:
    """I5: every member that only one side changed is in the result as that side left it, unless
    the documents as wholes conflict, and then the line has both."""
    op, base, mine, theirs = put
    result = reconciled(theirs, op, policy)
    after = value_of(result)
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return
    old = base if isinstance(base, dict) else {}
    if not isinstance(after, dict):
        assert result.entry is not None
        return
    for name in {*old, *mine, *theirs}:
        was, one, other = (side.get(name, MISSING) for side in (old, mine, theirs))
        if same_value(one, was):
            assert same_value(after.get(name, MISSING), other)
        elif same_value(other, was) or same_value(one, other):
            assert same_value(after.get(name, MISSING), one)
        else:
            assert result.entry is not None


@given(documents, documents, policies, st.sampled_from([None, 7]))
def test_on_its_base_the_text_is_the_ops(
    base: Any, mine: Any, policy: OnConflict, ttl_us: int | None
) -> None:
    """I11: where the document is still the base, in whatever form, exactly the op's text and time
    to live are stored, and there is no line."""
    text = " " + encode(mine)  # not canonical: it must come through as it is
    op = make_op("put", mine, base=base, ttl_us=ttl_us)
    exact = msgspec.structs.replace(op, body=text)
    result = reconciled(base, exact, policy)
    assert (result.current.text, result.entry) == (text, None)
    assert result.current.ttl_us == (ttl_us or 0)


@given(puts())
def test_the_policy_only_matters_where_both_changed_one_thing(
    put: tuple[Op, Any, Any, Any],
) -> None:
    """I5: `mine` and `theirs` differ in the document only with a true conflict, which is open."""
    op, _, _, theirs = put
    mine_wins, theirs_win = reconciled(theirs, op, "mine"), reconciled(theirs, op, "theirs")
    if mine_wins.current.text != theirs_win.current.text:
        for result in (mine_wins, theirs_win):
            assert result.entry is not None
            assert (result.entry.reason, result.entry.state) == ("conflict", "open")
    reasons = [r.entry.reason if r.entry else "" for r in (mine_wins, theirs_win)]
    assert reasons[0] == reasons[1]


@given(puts(), policies)
def test_an_update_beats_a_delete_either_way(
    put: tuple[Op, Any, Any, Any], policy: OnConflict
) -> None:
    """I5: a document that one side changed and the other deleted is there afterwards."""
    op, base, mine, theirs = put
    if base is MISSING:
        return
    if not same_value(mine, base):
        result = reconciled(MISSING, op, policy)
        assert same_value(value_of(result), mine)
        assert result.entry is not None
        assert result.entry.reason == "update_beats_delete"
    if theirs is not MISSING and not same_value(theirs, base):
        result = reconciled(theirs, make_op("delete", MISSING, base=base), policy)
        assert same_value(value_of(result), theirs)
        assert result.entry is not None


@pytest.mark.parametrize(("updated_us", "kept"), [(49, 2), (50, 2), (51, 3)])
def test_newest_goes_by_the_two_clocks(updated_us: int, kept: int) -> None:
    """`newest` is `mine` for an op that was acknowledged at the time of the change or later, and
    `theirs` for an earlier one."""
    op = make_op("put", 2, base=1, at_us=50)
    assert value_of(reconcile(place(3, updated_us), op, on_conflict="newest")) == kept


@given(puts(), json_strategies.values)
def test_a_function_decides_true_conflicts_alone(
    put: tuple[Op, Any, Any, Any], decided: Any
) -> None:
    """I5: a function is asked where both sides changed one thing, with all three, and its value
    is stored; everything else is merged without it."""
    op, base, mine, theirs = put
    asked: list[tuple[Any, Any, Any]] = []

    def resolver(*sides: Any) -> Any:
        asked.append(sides)
        return decided

    result, plain = reconciled(theirs, op, resolver), reconciled(theirs, op)
    if not asked:
        assert result == plain
        return
    assert all(map(same_value, asked[0], (base, mine, theirs)))
    assert plain.entry is not None
    assert plain.entry.reason == "conflict"
    assert same_value(value_of(result), decided)


@pytest.mark.parametrize("ends", [KeyboardInterrupt, SystemExit])
def test_the_end_of_the_program_is_no_refusal(ends: type[BaseException]) -> None:
    """I2: what ends the program is not taken for a failure of the function: nothing is rejected."""

    def resolver(*_: Any) -> Any:
        raise ends

    with pytest.raises(ends):
        reconcile(place(3), make_op("put", 2, base=1), on_conflict=resolver)


# ---- refusals


@pytest.mark.parametrize(
    ("theirs", "op", "code"),
    [
        (1, make_op("put", 2, reject="poison"), "poison"),
        (1, make_op("put", 2, if_version=VERSION - 1), "condition"),
        (MISSING, make_op("patch", {}, base={}), "deleted_meanwhile"),
        (MISSING, make_op("append", 1, base=[]), "deleted_meanwhile"),
        ("x", make_op("increment", 1, base=1), "wrong_type"),
    ],
)
def test_i6_what_cannot_be_applied_is_refused_with_its_reason(
    theirs: Any, op: Op, code: str
) -> None:
    """I6: each reason has its code, and the version that was found."""
    with pytest.raises(Refusal) as caught:
        reconcile(place(theirs), op, on_conflict="mine")
    assert caught.value.code == code
    assert caught.value.version == (0 if theirs is MISSING else VERSION)


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("uv"), st.integers(0, 2))))
def test_groups_are_runs_of_one_origin(marks: list[tuple[str, str, int]]) -> None:
    """I2: what stands or falls together are runs of one group of one original lane; nothing is
    left out, and ops without a group are alone."""
    ops = [
        make_op("put", n, group=group, origin=(origin, n))
        for n, (_, origin, group) in enumerate(marks)
    ]
    cut = groups(ops)
    assert [op for run in cut for op in run] == ops
    for run in cut:
        assert len({(op.group, op.name[0]) for op in run}) == 1
        assert len(run) == 1 or run[0].group
    for left, right in pairwise(cut):
        a, b = left[-1], right[0]
        assert not a.group or (a.group, a.name[0]) != (b.group, b.name[0])
