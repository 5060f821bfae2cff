"""Merge patch, pointers, append and increment against their RFCs, and what they leave alone."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.document.patch import (
    MISSING,
    append_at,
    increment_at,
    merge_patch,
    parse_pointer,
    resolve,
)
from standfast.document.values import json_path, path_step, type_name
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH

SECRET = "hunter2"

names = st.sampled_from(["a", "b", "c", "", "a/b", "m~n", "0", "é"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(names, values, max_size=4)
tokens = st.lists(names, max_size=4)


def pointer_to(parts: list[str]) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def exact(value: Any) -> str:
    """Text that differs whenever types, signs or the order of members differ."""
    return json.dumps(value)


def refused(function: Any, *arguments: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        function(*arguments)
    assert caught.value.hint
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.path}"
    return caught.value


# ---- RFC 7396 ---------------------------------------------------------------------------------

RFC_7396_APPENDIX_A = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("original", "patch", "result"), RFC_7396_APPENDIX_A)
def test_merge_patch_follows_the_table_of_the_rfc(original: Any, patch: Any, result: Any) -> None:
    """RFC 7396, appendix A: every row of the table of test cases."""
    assert exact(merge_patch(original, patch)) == exact(result)


def test_merge_patch_on_nothing_removes_the_nulls() -> None:
    """A missing document counts as an empty object; nulls inside arrays are values."""
    assert merge_patch(MISSING, {"a": None, "b": {"c": None}}) == {"b": {}}
    assert merge_patch(MISSING, {"a": [1, None]}) == {"a": [1, None]}


def test_merge_patch_keeps_the_order_of_members() -> None:
    """Existing members keep their place, also changed ones; new ones follow in patch order."""
    merged = merge_patch({"z": 1, "y": {"k": 1, "j": 2}, "x": 3}, {"n": 0, "y": {"j": 5}, "m": 0})
    assert exact(merged) == exact({"z": 1, "y": {"k": 1, "j": 5}, "x": 3, "n": 0, "m": 0})


def test_merge_patch_shares_what_it_does_not_touch() -> None:
    """Only the path of a change is new: the rest is the same object as before."""
    target = {"kept": {"big": [1]}, "changed": {"kept": [2]}}
    merged = merge_patch(target, {"changed": {"new": 1}})
    assert isinstance(merged, dict)
    assert merged["kept"] is target["kept"]
    assert merged["changed"]["kept"] is target["changed"]["kept"]
    assert merged is not target
    assert merge_patch(target, {}) is not target


@given(target=values, patch=values)
def test_merge_patch_twice_is_once(target: Any, patch: Any) -> None:
    """Applying a patch again changes nothing, not even the order of members."""
    once = merge_patch(target, patch)
    assert exact(merge_patch(once, patch)) == exact(once)


@given(target=values, patch=values)
def test_merge_patch_leaves_its_inputs_alone(target: Any, patch: Any) -> None:
    """Neither the target nor the patch is changed in place."""
    before = copy.deepcopy((target, patch))
    merge_patch(target, patch)
    assert exact((target, patch)) == exact(before)


@given(target=documents, patch=documents)
def test_merge_patch_member_by_member(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """Null removes, absence keeps, and everything else is the patch of the member alone."""
    merged = merge_patch(target, patch)
    assert isinstance(merged, dict)
    for name in target.keys() | patch.keys():
        if name not in patch:
            assert merged[name] is target[name]
        elif patch[name] is None:
            assert name not in merged
        else:
            alone = merge_patch(target.get(name, MISSING), patch[name])
            assert exact(merged[name]) == exact(alone)
    assert merged.keys() <= target.keys() | patch.keys()


# ---- RFC 6901 ---------------------------------------------------------------------------------

RFC_6901_DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}
RFC_6901_SECTION_5 = [
    ("", RFC_6901_DOCUMENT),
    ("/foo", ["bar", "baz"]),
    ("/foo/0", "bar"),
    ("/", 0),
    ("/a~1b", 1),
    ("/c%d", 2),
    ("/e^f", 3),
    ("/g|h", 4),
    ("/i\\j", 5),
    ('/k"l', 6),
    ("/ ", 7),
    ("/m~0n", 8),
]


@pytest.mark.parametrize(("pointer", "result"), RFC_6901_SECTION_5)
def test_resolve_follows_the_table_of_the_rfc(pointer: str, result: Any) -> None:
    """RFC 6901, section 5: every row of the table of pointers."""
    assert resolve(RFC_6901_DOCUMENT, parse_pointer(pointer)) == result


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [("", ()), ("/", ("",)), ("/~01", ("~1",)), ("/~10", ("/0",)), ("//a/", ("", "a", ""))],
)
def test_pointer_tokens(pointer: str, expected: tuple[str, ...]) -> None:
    """Empty tokens are member names, and `~01` is a tilde and a one, not a slash."""
    assert parse_pointer(pointer) == expected


@given(parts=st.lists(st.text(max_size=4), max_size=5))
def test_pointer_round_trip(parts: list[str]) -> None:
    """Every list of member names has a pointer that gives it back."""
    assert parse_pointer(pointer_to(parts)) == tuple(parts)


@pytest.mark.parametrize("pointer", [SECRET, "a/b", "#/a", "/a~2", "/~", "/a~/b", "/~~0", 3, None])
def test_bad_pointers_are_refused(pointer: Any) -> None:
    """What RFC 6901 does not allow is "bad_pointer" with a hint, and is not shown."""
    assert refused(parse_pointer, pointer).code == "bad_pointer"
    assert refused(append_at, {}, pointer, 1).code == "bad_pointer"


def test_a_bad_escape_is_named_by_its_position() -> None:
    """The message tells where the lone tilde stands, counted from 1."""
    assert "character 5" in str(refused(parse_pointer, "/~0a~b"))


def test_pointers_have_a_longest() -> None:
    """As many tokens as a document may have levels, and not one more."""
    assert len(parse_pointer("/a" * MAX_DEPTH)) == MAX_DEPTH
    assert refused(parse_pointer, "/a" * (MAX_DEPTH + 1)).code == "bad_pointer"


@pytest.mark.parametrize(
    "pointer",
    [
        "/x",
        "/l/2",
        "/l/00",
        "/l/-",
        "/l/-1",
        "/l/ 1",
        "/l/1.0",
        "/l/٠",
        "/l/x",
        "/l/" + "9" * 5000,
        "/s/0",
        "/n/x",
    ],
)
def test_resolve_finds_nothing(pointer: str) -> None:
    """What does not exist is MISSING, and indexes have one spelling only."""
    document = {"l": [1, 2], "s": "text", "n": None}
    assert resolve(document, parse_pointer(pointer)) is MISSING


def test_resolve_tells_null_from_nothing() -> None:
    """A null member is a value; a missing document has nothing anywhere."""
    assert resolve({"n": None}, ("n",)) is None
    assert resolve(MISSING, ()) is MISSING
    assert resolve(MISSING, ("a",)) is MISSING


# ---- append and increment ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "pointer", "after", "there"),
    [
        ([1], "", [1, "x"], [1, "x"]),
        (MISSING, "", ["x"], ["x"]),
        (MISSING, "/a/b", {"a": {"b": ["x"]}}, ["x"]),
        (MISSING, "/0", {"0": ["x"]}, ["x"]),
        ({}, "/a/b", {"a": {"b": ["x"]}}, ["x"]),
        ({"z": 1, "a": [1], "y": 2}, "/a", {"z": 1, "a": [1, "x"], "y": 2}, [1, "x"]),
        ({"a": [[], [3], []]}, "/a/1", {"a": [[], [3, "x"], []]}, [3, "x"]),
        ([{"b": []}], "/0/b", [{"b": ["x"]}], ["x"]),
        ([{}], "/0/b", [{"b": ["x"]}], ["x"]),
        ({"a/b": {"m~n": []}}, "/a~1b/m~0n", {"a/b": {"m~n": ["x"]}}, ["x"]),
        ({"": []}, "/", {"": ["x"]}, ["x"]),
    ],
)
def test_append(document: Any, pointer: str, after: Any, there: Any) -> None:
    """The item is added at the end; missing members are created, the last one as an array."""
    changed, value = append_at(document, pointer, "x")
    assert exact(changed) == exact(after)
    assert exact(value) == exact(there)


@pytest.mark.parametrize(
    ("document", "pointer", "path", "found"),
    [
        ({"a": {"b": SECRET}}, "/a/b", "$.a.b", "string"),
        ({"a": {"b": {}}}, "/a/b", "$.a.b", "object"),
        ({"a": {"b": None}}, "/a/b", "$.a.b", "null"),
        ({"a": {"b": 7777}}, "/a/b", "$.a.b", "number"),
        ({"a": {"b": True}}, "/a/b", "$.a.b", "boolean"),
        ({}, "", "$", "object"),
        (SECRET, "", "$", "string"),
        (SECRET, "/a", "$", "string"),
        ({"a": None}, "/a/b", "$.a", "null"),
        ({"a": [[], SECRET]}, "/a/1", "$.a[1]", "string"),
        ({"odd key": {"2": 7777}}, "/odd key/2", '$["odd key"]["2"]', "number"),
    ],
)
def test_append_to_what_is_no_array(document: Any, pointer: str, path: str, found: str) -> None:
    """ "wrong_type" names the place and the type that was found, never the value."""
    error = refused(append_at, document, pointer, SECRET)
    assert (error.code, error.path) == ("wrong_type", path)
    assert f"found {found}" in str(error)
    assert path in str(error)
    assert "7777" not in str(error)


@pytest.mark.parametrize("token", ["-", "1", "01", "00", "+0", "x", "", "-1", "٠", "9" * 5000])
def test_array_steps_are_existing_indexes(token: str) -> None:
    """Append and increment never create array elements, whatever the token looks like."""
    for change in (append_at, increment_at):
        for document in ({"a": [[0]]}, {"a": [[{"b": 1}]]}):
            for below in ("", "/b"):
                error = refused(change, document, f"/a/0/{token}{below}", 1)
                assert (error.code, error.path) == ("bad_index", "$.a[0]")


def test_the_dash_is_explained() -> None:
    """`-` is refused with the hint that append needs none."""
    assert "append already adds at the end" in refused(append_at, [1], "/-", 1).hint


@pytest.mark.parametrize(
    ("document", "pointer", "n", "after", "there"),
    [
        (5, "", -2, 3, 3),
        (MISSING, "", 2, 2, 2),
        (MISSING, "/a/b", 0.5, {"a": {"b": 0.5}}, 0.5),
        ({"b": 1, "a": 1}, "/b", 1, {"b": 2, "a": 1}, 2),
        ([1, 2], "/1", 1, [1, 3], 3),
        ({"a": 1.5}, "/a", 1, {"a": 2.5}, 2.5),
        ({"a": 1}, "/a", 1.0, {"a": 2.0}, 2.0),
        ({"a": 10**400}, "/a", 1, {"a": 10**400 + 1}, 10**400 + 1),
        (0, "", 10**400, 10**400, 10**400),
        ({"a": 2**53}, "/a", 1, {"a": 2**53 + 1}, 2**53 + 1),
    ],
)
def test_increment(document: Any, pointer: str, n: Any, after: Any, there: Any) -> None:
    """Ints are exact at any size, a missing number starts as 0, and the new number comes back."""
    changed, value = increment_at(document, pointer, n)
    assert exact(changed) == exact(after)
    assert exact(value) == exact(there)


@pytest.mark.parametrize("found", [True, SECRET, None, [7777], {"k": 7777}])
def test_increment_of_what_is_no_number(found: Any) -> None:
    """ "wrong_type" for everything but a number, a bool included, without showing it."""
    error = refused(increment_at, {"a": {"b": found}}, "/a/b", 1)
    assert (error.code, error.path) == ("wrong_type", "$.a.b")
    assert f"found {type_name(found)}" in str(error)
    assert "7777" not in str(error)


@pytest.mark.parametrize("n", [True, False, SECRET, None, [1]])
def test_increment_by_what_is_no_number(n: Any) -> None:
    """The step must be a number, and a bool is none."""
    error = refused(increment_at, {"a": 1}, "/a", n)
    assert error.code == "wrong_type"
    assert f"found {type_name(n)}" in str(error)


@pytest.mark.parametrize(
    ("found", "n"),
    [
        (1, math.inf),
        (1, -math.inf),
        (1, math.nan),
        (1.7e308, 1.7e308),
        (-1.7e308, -1.7e308),
        (10**400, 0.5),
        (0.5, -(10**400)),
    ],
)
def test_increment_stays_finite(found: Any, n: Any) -> None:
    """No sum, and no step, that JSON cannot write: "not_finite"."""
    error = refused(increment_at, {"a": found}, "/a", n)
    assert error.code == "not_finite"
    step_is_wrong = isinstance(n, float) and not math.isfinite(n)
    assert error.path == ("" if step_is_wrong else "$.a")


def test_the_deepest_documents() -> None:
    """Patch, append and increment work at the depth limit."""
    patch: Any = 1
    for _ in range(MAX_DEPTH):
        patch = {"a": patch}
    pointer = "/a" * MAX_DEPTH
    document = merge_patch(MISSING, patch)
    assert increment_at(document, pointer, 1)[1] == 2
    assert append_at({}, pointer, 1)[1] == [1]


@given(document=values, parts=tokens, item=values)
def test_append_changes_one_place_only(document: Any, parts: list[str], item: Any) -> None:
    """Inputs stay as they are, the path alone is copied, and what was appended is found there."""
    pointer = pointer_to(parts)
    before = copy.deepcopy((document, item))
    old = resolve(document, parts)
    try:
        changed, array = append_at(document, pointer, item)
    except DataError:
        # Refused for a reason: the target is no array, or the path to it cannot exist.
        assert exact((document, item)) == exact(before)
        assert old is MISSING or not isinstance(old, list)
        return
    assert exact((document, item)) == exact(before)
    assert resolve(changed, parts) is array
    assert exact(array) == exact([*([] if old is MISSING else old), item])
    assert_shared_beside(document, changed, parts)


@given(document=values, parts=tokens, n=st.integers() | st.floats(-1e6, 1e6))
def test_increment_changes_one_place_only(document: Any, parts: list[str], n: Any) -> None:
    """Inputs stay as they are, the path alone is copied, and the sum is found there."""
    before = copy.deepcopy(document)
    old = resolve(document, parts)
    try:
        changed, number = increment_at(document, pointer_to(parts), n)
    except DataError:
        # Refused for a reason: the target is no number (these sums cannot overflow), or
        # the path to it cannot exist.
        assert exact(document) == exact(before)
        assert type_name(old) != "number"
        return
    assert exact(document) == exact(before)
    assert exact(resolve(changed, parts)) == exact(number)
    assert exact(number) == exact((0 if old is MISSING else old) + n)
    assert_shared_beside(document, changed, parts)


def assert_shared_beside(old: Any, new: Any, parts: list[str]) -> None:
    """Along the path the containers are new; all that hangs beside it is the same object."""
    for part in parts:
        if isinstance(old, dict):
            assert new is not old
            assert all(new[name] is old[name] for name in old if name != part)
            assert list(new)[: len(old)] == list(old)
            old = old.get(part)
        elif isinstance(old, list):
            assert new is not old
            assert all(new[i] is old[i] for i in range(len(old)) if i != int(part))
            old = old[int(part)]
        new = new[int(part)] if isinstance(new, list) else new[part]


# ---- the vocabulary ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ([], "$"),
        (["a", 2, "odd key"], '$.a[2]["odd key"]'),
        (["2"], '$["2"]'),
        ([""], '$[""]'),
        (['q"\\'], '$["q\\"\\\\"]'),
        (["line\nbreak"], '$["line\\nbreak"]'),
        (["\x1b[2J"], '$["\\u001b[2J"]'),
        (["\x7f"], '$["\\u007f"]'),
        (["é"], '$["\\u00e9"]'),
        (["\ud800"], '$["\\ud800"]'),
    ],
)
def test_json_path(parts: list[str | int], path: str) -> None:
    """Names and indexes can be told apart, and nothing in a name can act on a terminal."""
    assert json_path(parts) == path


@given(name=st.text())
def test_path_steps_are_printable(name: str) -> None:
    """A step is printable ASCII on one line and short, whatever the member name."""
    step = path_step(name)
    assert step.isascii()
    assert step.isprintable()


def test_long_names_are_cut() -> None:
    """A path shows at most 80 characters of a name."""
    assert path_step("a b" * 100) == '["' + ("a b" * 100)[:77] + '..."]'
    assert path_step("a" * 80) == "." + "a" * 80


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (False, "boolean"),
        (1, "number"),
        (1.5, "number"),
        ("", "string"),
        ([], "array"),
        ({}, "object"),
        (MISSING, "nothing"),
        ((), "not JSON"),
    ],
)
def test_type_names(value: Any, name: str) -> None:
    """Types have their JSON names; a bool is not a number."""
    assert type_name(value) == name


def test_missing_stays_itself() -> None:
    """The sentinel survives copying and pickling as the same object, and shows its name."""
    assert copy.deepcopy(MISSING) is MISSING
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING
    assert repr(MISSING) == "MISSING"
