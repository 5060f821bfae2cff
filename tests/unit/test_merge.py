"""Three-way merge: nothing is lost, nothing is decided twice, and no value is ever shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.document.merge import Conflict, Difference, changed_paths, same_value, three_way
from standfast.document.patch import resolve
from standfast.document.values import MISSING, type_name
from standfast.limits import MAX_DEPTH

names = st.sampled_from("abcd")
scalars = (
    st.none()
    | st.booleans()
    | st.integers(0, 1)
    | st.sampled_from([0.0, -0.0, 1.0])
    | st.sampled_from(["", "x"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)
objects = st.recursive(
    scalars | st.lists(scalars, max_size=2),
    lambda inner: st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """A value a few changes away from `value`, so that members stay, change, go and come."""
    if not isinstance(value, dict):
        return draw(st.one_of(st.just(value), values))
    result: dict[str, Any] = {}
    for name, member in value.items():
        fate = draw(st.sampled_from(["keep", "keep", "edit", "drop"]))
        if fate != "drop":
            result[name] = draw(edited(member)) if fate == "edit" else member
    for name in draw(st.lists(names, max_size=1)):
        result.setdefault(name, draw(objects))
    if draw(st.booleans()):
        result = dict(reversed(result.items()))
    return result


@st.composite
def triples(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """A base and two sides; each side is an edit of the base, something else, or missing."""
    base = draw(objects | st.just(MISSING))
    sides = st.one_of(edited(base), edited(base), edited(base), values, st.just(MISSING))
    return base, draw(sides), draw(sides)


def exact(value: Any) -> str:
    """Text that differs whenever types, signs or the order of members differ."""
    return "MISSING" if value is MISSING else json.dumps(value)


def unordered(value: Any) -> str:
    """The same without the order of members: an independent judge of `same_value`."""
    return "MISSING" if value is MISSING else json.dumps(value, sort_keys=True)


def places(value: Any, tokens: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place reached through objects, the root included."""
    yield tokens
    if isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, (*tokens, name))


# ---- rules, one by one ------------------------------------------------------------------------

A, B = "A", "B"
BOTH, BEATS = "both_changed", "update_beats_delete"
RULES: list[tuple[str, Any, Any, Any, Any, list[tuple[tuple[str, ...], str, str]]]] = [
    ("only mine changed", {"k": 1}, {"k": 2}, {"k": 1}, {"k": 2}, []),
    ("only theirs changed", {"k": 1}, {"k": 1}, {"k": 2}, {"k": 2}, []),
    ("only mine removed", {"k": 1, "l": 2}, {"l": 2}, {"k": 1, "l": 2}, {"l": 2}, []),
    ("only theirs removed", {"k": 1}, {"k": 1}, {}, {}, []),
    ("both removed", {"k": 1, "l": 0}, {"l": 2}, {"l": 0}, {"l": 2}, []),
    ("both changed alike", {"k": 1}, {"k": 2}, {"k": 2}, {"k": 2}, []),
    ("both added alike", {}, {"k": 2}, {"k": 2}, {"k": 2}, []),
    ("different fields", {"k": 1, "l": 1}, {"k": 2, "l": 1}, {"k": 1, "l": 3},
     {"k": 2, "l": 3}, []),
    ("true conflict", {"k": 1}, {"k": A}, {"k": B}, {"k": A}, [(("k",), BOTH, "mine")]),
    ("both added", {}, {"k": A}, {"k": B}, {"k": A}, [(("k",), BOTH, "mine")]),
    ("arrays whole", {"k": [1]}, {"k": [1, 2]}, {"k": [0, 1]}, {"k": [1, 2]},
     [(("k",), BOTH, "mine")]),
    ("types", {"k": 1}, {"k": {}}, {"k": []}, {"k": {}}, [(("k",), BOTH, "mine")]),
    ("1 is not 1.0", {"k": 0}, {"k": 1}, {"k": 1.0}, {"k": 1}, [(("k",), BOTH, "mine")]),
    ("to 1.0 is a change", {"k": 1}, {"k": 1.0}, {"k": 1}, {"k": 1.0}, []),
    ("deep", {"o": {"p": {"k": 1}}}, {"o": {"p": {"k": 1, "m": 1}}}, {"o": {"p": {"k": 2}}},
     {"o": {"p": {"k": 2, "m": 1}}}, []),
    ("deep conflict", {"o": {"k": 1}}, {"o": {"k": A}}, {"o": {"k": B}}, {"o": {"k": A}},
     [(("o", "k"), BOTH, "mine")]),
    ("objects added on both sides", {}, {"o": {"k": 1}}, {"o": {"l": 2}},
     {"o": {"l": 2, "k": 1}}, []),
    ("null became objects", {"o": None}, {"o": {"k": 1}}, {"o": {"l": 2}},
     {"o": {"l": 2, "k": 1}}, []),
    ("theirs removed, mine changed", {"k": 1}, {"k": 2}, {}, {"k": 2}, [(("k",), BEATS, "mine")]),
    ("mine removed, theirs changed", {"k": 1}, {}, {"k": 2}, {"k": 2}, [(("k",), BEATS, "theirs")]),
    ("a changed object outlives its removal", {"o": {"k": 1, "l": 1}}, {},
     {"o": {"k": 2, "l": 1}}, {"o": {"k": 2, "l": 1}}, [(("o",), BEATS, "theirs")]),
    ("document removed by them", {"k": 1}, {"k": 2}, MISSING, {"k": 2}, [((), BEATS, "mine")]),
    ("document removed by me", {"k": 1}, MISSING, {"k": 2}, {"k": 2}, [((), BEATS, "theirs")]),
    ("document removed, else unchanged", {"k": 1}, MISSING, {"k": 1}, MISSING, []),
    ("document removed by both", {"k": 1}, MISSING, MISSING, MISSING, []),
    ("document new on one side", MISSING, {"k": 1}, MISSING, {"k": 1}, []),
    ("document new on both sides", MISSING, {"k": 1, "a": A}, {"l": 2, "a": B},
     {"l": 2, "a": A, "k": 1}, [(("a",), BOTH, "mine")]),
    ("documents that are no objects", [1], [2], [3], [2], [((), BOTH, "mine")]),
    ("null is a value", {"k": 1}, {"k": None}, {}, {"k": None}, [(("k",), BEATS, "mine")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "value", "conflicts"),
    [rule[1:] for rule in RULES],
    ids=[rule[0] for rule in RULES],
)
def test_rules(base: Any, mine: Any, theirs: Any, value: Any, conflicts: list[Any]) -> None:
    """The rules of merging, one case each: the value, the order of members and the conflicts."""
    merge = three_way(base, mine, theirs)
    assert exact(merge.value) == exact(value)
    assert [(c.tokens, c.kind, c.kept) for c in merge.conflicts] == conflicts


def test_theirs_can_be_preferred() -> None:
    """`prefer` decides true conflicts, and has no say where an update meets a removal."""
    merge = three_way({"k": 1, "r": 1, "s": 1}, {"k": A, "r": 2}, {"k": B, "s": 2}, prefer="theirs")
    assert merge.value == {"k": B, "r": 2, "s": 2}
    assert [(c.tokens, c.kind, c.kept) for c in merge.conflicts] == [
        (("k",), BOTH, "theirs"),
        (("s",), BEATS, "theirs"),
        (("r",), BEATS, "mine"),
    ]
    assert [c.tokens for c in merge.true_conflicts] == [("k",)]


def test_order_of_members() -> None:
    """Members stand as in theirs, then those of mine alone in mine's order, at every level."""
    base = {"o": {"a": 1, "b": 1}, "z": 0}
    mine = {"n2": 1, "z": 0, "n1": 1, "o": {"m": 1, "a": 1, "b": 1}}
    theirs = {"z": 0, "o": {"b": 1, "t": 1, "a": 1}, "new": 1}
    assert exact(three_way(base, mine, theirs).value) == exact(
        {"z": 0, "o": {"b": 1, "t": 1, "a": 1, "m": 1}, "new": 1, "n2": 1, "n1": 1}
    )


def test_no_repr_shows_a_value() -> None:
    """A merge, a conflict and a difference can be logged: places and kinds, no content."""
    merge = three_way({"a": 1}, {"a": "hunter2"}, {"a": "hunter3"})
    shown = repr(merge) + repr(changed_paths({"a": "hunter2"}, {"a": "hunter3"}))
    assert "hunter" not in shown
    assert "'a'" in shown


def test_paths() -> None:
    """Conflicts and differences say their place as a JSONPath."""
    assert Conflict(("a", "odd key"), "both_changed", "mine").path == '$.a["odd key"]'
    assert Difference((), "added").path == "$"


# ---- properties -------------------------------------------------------------------------------


@given(base=objects | st.just(MISSING), side=objects | st.just(MISSING))
def test_one_side_alone(base: Any, side: Any) -> None:
    """Where only one side changed anything, the result is that side, without conflicts."""
    for merge in (three_way(base, side, base), three_way(base, base, side)):
        assert unordered(merge.value) == unordered(side)
        assert merge.conflicts == ()
    same = three_way(base, side, side)
    assert exact(same.value) == exact(side)
    assert same.conflicts == ()


@given(sides=triples(), prefer=st.sampled_from(["mine", "theirs"]))
def test_deterministic_and_pure(sides: tuple[Any, Any, Any], prefer: Any) -> None:
    """The same inputs give the same result, and stay as they are."""
    before = copy.deepcopy(sides)
    first = three_way(*sides, prefer=prefer)
    again = three_way(*before, prefer=prefer)
    assert exact(first.value) == exact(again.value)
    assert first.conflicts == again.conflicts
    assert [exact(side) for side in sides] == [exact(side) for side in before]


@given(sides=triples())
def test_exchanging_the_sides(sides: tuple[Any, Any, Any]) -> None:
    """Exchanging mine and theirs, and the preference, gives the same value and conflicts."""
    base, mine, theirs = sides
    one = three_way(base, mine, theirs, prefer="mine")
    other = three_way(base, theirs, mine, prefer="theirs")
    assert unordered(one.value) == unordered(other.value)
    swapped = {"mine": "theirs", "theirs": "mine"}
    assert {(c.tokens, c.kind, c.kept) for c in one.conflicts} == {
        (c.tokens, c.kind, swapped[c.kept]) for c in other.conflicts
    }


@given(sides=triples(), prefer=st.sampled_from(["mine", "theirs"]))
def test_no_change_of_one_side_is_lost(sides: tuple[Any, Any, Any], prefer: Any) -> None:
    """What only one side changed stands in the result, unless a conflict above it is reported."""
    base, mine, theirs = sides
    merge = three_way(base, mine, theirs, prefer=prefer)
    reported = {conflict.tokens for conflict in merge.conflicts}
    for tokens in {*places(base), *places(mine), *places(theirs)}:
        if any(tokens[:length] in reported for length in range(len(tokens) + 1)):
            continue
        old, one, other = (resolve(side, tokens) for side in sides)
        result = resolve(merge.value, tokens)
        if unordered(one) == unordered(old):
            assert unordered(result) == unordered(other)
        elif unordered(other) == unordered(old) or unordered(one) == unordered(other):
            assert unordered(result) == unordered(one)


@given(sides=triples(), prefer=st.sampled_from(["mine", "theirs"]))
def test_conflicts_are_real_and_told(sides: tuple[Any, Any, Any], prefer: Any) -> None:
    """Each conflict is a place that both sides changed differently, decided as it says."""
    merge = three_way(*sides, prefer=prefer)
    for conflict in merge.conflicts:
        old, mine, theirs = (resolve(side, conflict.tokens) for side in sides)
        assert len({unordered(old), unordered(mine), unordered(theirs)}) == 3
        kept = mine if conflict.kept == "mine" else theirs
        assert exact(resolve(merge.value, conflict.tokens)) == exact(kept)
        if conflict.kind == "both_changed":
            assert conflict.kept == prefer
            assert MISSING not in (mine, theirs)
            assert {type_name(mine), type_name(theirs)} != {"object"}
        else:
            assert (mine is MISSING) != (theirs is MISSING)
            assert kept is not MISSING


@given(base=st.dictionaries(names, objects), data=st.data())
def test_disjoint_changes_do_not_conflict(base: dict[str, Any], data: st.DataObject) -> None:
    """Changes of different fields are both taken, and nothing is reported."""
    owners = {name: data.draw(st.sampled_from(["mine", "theirs", "nobody"])) for name in "abcd"}
    edits = {name: data.draw(values | st.just(MISSING)) for name in "abcd"}

    def side(*of: str) -> dict[str, Any]:
        changed = {**base, **{name: edits[name] for name in edits if owners[name] in of}}
        return {name: value for name, value in changed.items() if value is not MISSING}

    merge = three_way(base, side("mine"), side("theirs"))
    assert merge.conflicts == ()
    assert unordered(merge.value) == unordered(side("mine", "theirs"))


# ---- same_value -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (0, False),
        (1, 1.0),
        (1.0, True),
        (0.0, -0.0),
        (None, False),
        ("", None),
        ([], {}),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": None}, {}),
        (None, MISSING),
        (2**53 + 1, float(2**53)),
    ],
)
def test_not_the_same(a: Any, b: Any) -> None:
    """Types, signs and the order of elements count, at every depth."""
    for left, right in ((a, b), (b, a), ([a], [b]), ({"k": {"l": a}}, {"k": {"l": b}})):
        assert not same_value(left, right)


@given(a=values, b=values)
def test_same_value_agrees_with_the_text(a: Any, b: Any) -> None:
    """Two values are the same exactly when their texts are, members sorted."""
    assert same_value(a, b) is (unordered(a) == unordered(b))
    assert same_value(a, copy.deepcopy(a))


@given(value=values, data=st.data())
def test_same_value_finds_small_changes(value: Any, data: st.DataObject) -> None:
    """The same holds for values that are nearly alike."""
    other = data.draw(edited(value))
    assert same_value(value, other) is (unordered(value) == unordered(other))


# ---- changed_paths ----------------------------------------------------------------------------


def test_changed_paths() -> None:
    """Old members in their order, then added ones; arrays whole; an added object is one."""
    old = {"same": 1, "z": 1, "gone": {"x": 1}, "o": {"k": 1, "l": [1]}, "type": 1}
    new = {"n": {"x": 1}, "o": {"l": [1, 2], "k": 1, "m": 0}, "type": 1.0, "z": 2, "same": 1}
    assert changed_paths(old, new) == [
        Difference(("z",), "changed"),
        Difference(("gone",), "removed"),
        Difference(("o", "l"), "changed"),
        Difference(("o", "m"), "added"),
        Difference(("type",), "changed"),
        Difference(("n",), "added"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [(MISSING, {}, "added"), ({}, MISSING, "removed"), ({}, [], "changed"), (1, 2, "changed")],
)
def test_changed_whole_documents(old: Any, new: Any, kind: str) -> None:
    """A document that came, went or changed its type is one difference, at the root."""
    assert [(d.tokens, d.kind) for d in changed_paths(old, new)] == [((), kind)]


def test_changed_paths_are_bounded() -> None:
    """At most `most` differences, 20 when nothing else is said."""
    new = {str(number): number for number in range(100)}
    assert len(changed_paths({}, new)) == 20
    assert changed_paths({}, new, most=3) == [Difference((n,), "added") for n in "012"]
    assert changed_paths({}, new, most=0) == []
    assert len(changed_paths({}, new, most=1000)) == 100


@given(sides=triples())
def test_differences_lead_from_old_to_new(sides: tuple[Any, Any, Any]) -> None:
    """Differences are none exactly when the values are the same, and each is as it says."""
    old, new, _ = sides
    found = changed_paths(old, new, most=1000)
    assert (found == []) is (unordered(old) == unordered(new))
    assert len({difference.tokens for difference in found}) == len(found)
    for difference in found:
        before, after = resolve(old, difference.tokens), resolve(new, difference.tokens)
        assert unordered(before) != unordered(after)
        expected = {"added": (True, False), "removed": (False, True), "changed": (False, False)}
        assert (before is MISSING, after is MISSING) == expected[difference.kind]


# ---- depth ------------------------------------------------------------------------------------


def under(frames: int, function: Callable[[], Any]) -> Any:
    """Call from a stack that is already some frames deep, as in an application."""
    return under(frames - 1, function) if frames else function()


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_the_deepest_documents(wrap: Callable[[Any], Any]) -> None:
    """Documents at the depth limit are merged, also from deep within an application."""
    base, mine, same, theirs = {"k": 1}, {"k": 1, "m": 2}, {"k": 1, "m": 2}, {"k": 1, "t": 3}
    for _ in range(MAX_DEPTH - 1):
        base, mine, same, theirs = wrap(base), wrap(mine), wrap(same), wrap(theirs)
    merge = under(300, lambda: three_way(base, mine, theirs))
    assert len(merge.conflicts) == (1 if isinstance(base, list) else 0)
    assert under(300, lambda: same_value(mine, same)) is True
    assert len(under(300, lambda: changed_paths(base, mine))) == 1
