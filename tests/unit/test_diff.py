"""What changed in a dict since it was loaded: exactly that, and look-alikes are told apart."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast import DataError
from standfast.document.codec import decode, encode
from standfast.document.diff import Basis, Difference, difference, look
from support.json_strategies import values as json_values

PARIS = timezone(timedelta(hours=1))
NOON = datetime(2026, 3, 1, 12, tzinfo=PARIS)

LOOK_ALIKES = [1, 1.0, True, 0, 0.0, -0.0, False, None, "", "1", [], {}, [1], [True], {"1": 1}, "x"]


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    ONE = 1


class Place(NamedTuple):
    channel: int
    message: int


# Values by themselves, and what JSON they are; a change from one to another is a change exactly
# where the JSON changes.
TAKEN: list[tuple[Any, Any]] = [
    *((value, value) for value in LOOK_ALIKES),
    ((1,), [1]),
    ((True,), [True]),
    (Place(1, 2), [1, 2]),
    ([1, 2], [1, 2]),
    ({1: 1}, {"1": 1}),
    ({-5: (1,)}, {"-5": [1]}),
    ({Level.ONE: 1}, {"1": 1}),
    (Level.ONE, 1),
    (Colour.RED, "red"),
    ("red", "red"),
    (NOON, "2026-03-01T12:00:00+01:00"),
    (NOON.astimezone(UTC), "2026-03-01T11:00:00+00:00"),
    ("2026-03-01T11:00:00+00:00", "2026-03-01T11:00:00+00:00"),
    ("2026-03-01T11:00:00Z", "2026-03-01T11:00:00Z"),
    (date(2026, 3, 1), "2026-03-01"),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (defaultdict(int, a=2, b=1), {"a": 2, "b": 1}),
    (10**400, 10**400),
    ("\ud800", "\ud800"),
    ("\u0000", "\u0000"),
]

# What json.dump refuses or writes as something else, and what msgspec would make of it.
REFUSED: list[tuple[Any, str, str, Any]] = [
    (float("nan"), "not_finite", "$.k.a[0]", None),
    (float("inf"), "not_finite", "$.k.a[0]", None),
    ({1}, "not_json", "$.k.a[0]", [1]),
    (b"null", "not_json", "$.k.a[0]", "bnVsbA=="),
    (Decimal(1), "not_json", "$.k.a[0]", "1"),
    (datetime(2026, 1, 1), "naive_datetime", "$.k.a[0]", "2026-01-01T00:00:00"),  # noqa: DTZ001
    ({1: 1, "1": 2}, "duplicate_key", '$.k.a[0]["1"]', {"1": 2}),
    ({"x": {None: 1}}, "not_json", "$.k.a[0].x", {"x": {}}),
    ({True: 1}, "not_json", "$.k.a[0]", {"true": 1}),
    ({1.5: 1}, "not_json", "$.k.a[0]", {"1.5": 1}),
    ({(1, 2): 1}, "not_json", "$.k.a[0]", {}),
    ({10**5000: 1}, "not_json", "$.k.a[0]", {}),
    (object(), "not_json", "$.k.a[0]", {}),
]


def based(data: Mapping[str, Any]) -> Basis:
    """What is remembered after a load of this."""
    return Basis.of({key: decode(encode(value)) for key, value in data.items()})


def after(data: Mapping[Any, Any], basis: Basis) -> Difference:
    """The difference, remembered as after a save of it."""
    changes = difference(data, basis)
    for key, known in {**changes.puts, **changes.reshaped}.items():
        basis.remember(key, known)
    for key in changes.deletes:
        basis.forget(key)
    return changes


def written(changes: Difference) -> dict[str, Any]:
    """The documents that would be put."""
    return {key: decode(known.text) for key, known in changes.puts.items()}


def nothing(changes: Difference) -> bool:
    """Whether nothing would be written."""
    return not changes.puts and not changes.deletes


documents = st.dictionaries(st.text("abc", max_size=2), json_values, max_size=6)


@given(documents)
def test_nothing_changed_is_nothing_to_write(data: dict[str, Any]) -> None:
    """Whatever was loaded and is saved as it is, is not written; the copy has other objects."""
    assert nothing(difference(copy.deepcopy(data), based(data)))


@given(documents, documents)
def test_the_difference_makes_one_of_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Puts and deletes applied to what was loaded give what is saved, exactly, with its types."""
    basis = based(old)
    changes = after(new, basis)
    texts = {key: encode(value) for key, value in old.items() if key not in changes.deletes}
    texts |= {key: known.text for key, known in changes.puts.items()}
    assert texts == {key: encode(value) for key, value in new.items()}
    assert all(
        key not in old or encode(old[key]) != known.text for key, known in changes.puts.items()
    )
    # From then on that is what counts: nothing is left to write, and the way back is all of it.
    assert nothing(difference(new, basis))
    back = difference(old, basis)
    assert set(back.puts) | set(back.deletes) == set(changes.puts) | set(changes.deletes)


@given(json_values)
def test_what_is_remembered_is_the_exact_text(value: Any) -> None:
    """The base that a merge starts from is the JSON of the document, as the codec writes it."""
    assert based({"k": value}).texts == {"k": encode(value)}
    assert look(value).text == encode(value)


@pytest.mark.parametrize("old", range(len(TAKEN)))
def test_look_alikes_are_told_apart(old: int) -> None:
    """I11: True is not 1, 1 not 1.0, noon in Paris not 11:00 in London, a list is no other order:
    from each to each, what is written is what became other JSON, and exactly that."""
    before, _ = TAKEN[old]
    for now, meant in TAKEN:
        basis = Basis()
        after({"k": {"a": [before]}}, basis)
        text = basis.texts["k"]
        changes = after({"k": {"a": [now]}}, basis)
        assert basis.texts["k"] == encode({"a": [meant]})
        assert bool(changes.puts) == (text != encode({"a": [meant]})), (before, now)
        assert nothing(difference({"k": {"a": [now]}}, basis))


@pytest.mark.parametrize(("value", "code", "path", "disguise"), REFUSED)
def test_what_json_cannot_hold_is_refused(value: Any, code: str, path: str, disguise: Any) -> None:
    """I11: with its path, also where its bytes would be those that were there before."""
    for before in (None, "", [], disguise):
        for taken in (before, (before,)):
            basis = Basis()
            after({"k": {"a": [taken]}, "other": 1}, basis)
            with pytest.raises(DataError) as caught:
                difference({"k": {"a": [value]}, "other": 2}, basis)
            assert (caught.value.code, caught.value.path) == (code, path)
            assert path in caught.value.message


def test_a_file_that_is_one_document_has_its_own_paths() -> None:
    """The key under which it is stored is nothing that its owner knows."""
    with pytest.raises(DataError) as caught:
        difference({"default": [{"a": float("nan")}]}, Basis(), whole=True)
    assert caught.value.path == "$[0].a"


def test_no_value_is_shown() -> None:
    """Contents are private: neither errors nor reprs show any."""
    with pytest.raises(DataError) as caught:
        difference({"k": {"secret": ["hunter2", {1, 2}]}}, Basis())
    assert "hunter2" not in f"{caught.value!r} {caught.value.hint}"
    basis = based({"k": "hunter2"})
    changes = difference({"k": "hunter2", "l": "hunter2"}, basis)
    assert "hunter2" not in f"{basis!r} {changes!r} {changes.puts['l']!r}"


def test_what_json_dump_would_write_is_taken() -> None:
    """The same JSON as the standard library writes, times aside, for which there is a rule."""
    data = {123: {"l": (1, 2), 5: [None, True], "o": OrderedDict(b=1, a=2), "c": Colour.RED}}
    text = json.dumps(data[123], separators=(",", ":"))
    assert difference(data, Basis()).puts["123"].text == text


def test_one_key_twice_is_refused() -> None:
    """The pain of int keys: 123 and "123" are one document, whichever of them is known."""
    for basis in (Basis(), based({"123": {}})):
        with pytest.raises(DataError) as caught:
            difference({123: {}, "123": {}}, basis)
        assert (caught.value.code, caught.value.path) == ("duplicate_key", '$["123"]')


@pytest.mark.parametrize("key", [True, None, 1.5, b"1", "x" * 2000, "\x00", "\ud800"])
def test_a_key_that_no_database_keeps_is_refused(key: Any) -> None:
    """The rule for keys is that of every collection."""
    with pytest.raises(DataError) as caught:
        difference({key: 1}, Basis())
    assert caught.value.code == "bad_key"


def test_int_keys_stay_one_document() -> None:
    """A dict that is kept with int keys is compared with what it became."""
    data: dict[Any, Any] = {123: {"a": 1}, 5: {"b": 1}}
    basis = Basis()
    assert set(after(data, basis).puts) == {"123", "5"}
    assert nothing(difference(data, basis))
    assert nothing(difference({"123": {"a": 1}, 5: {"b": 1}}, basis))
    del data[5]
    assert difference(data, basis).deletes == ["5"]


def test_another_order_is_another_text() -> None:
    """I11: the order of members is kept, so a new order is written."""
    changes = difference({"k": {"b": 1, "a": 2}}, based({"k": {"a": 2, "b": 1}}))
    assert changes.puts["k"].text == '{"b":1,"a":2}'


def test_the_callers_dict_is_not_kept() -> None:
    """What is done to the dict after the save is noticed by the next one, at any depth and in
    shapes that JSON does not have."""
    data: dict[str, Any] = {"k": {"l": [], "t": ({"x": []},), 5: {"y": []}}}
    basis = Basis()
    after(data, basis)
    for change in (data["k"]["l"], data["k"]["t"][0]["x"], data["k"][5]["y"]):
        assert nothing(difference(data, basis))
        change.append(1)
        assert set(after(data, basis).puts) == {"k"}
    loaded = {"k": {"l": [[]]}}
    basis = Basis.of(loaded)
    loaded["k"]["l"][0].append(1)
    assert written(difference(loaded, basis)) == {"k": {"l": [[1]]}}


@pytest.mark.parametrize(("before", "then"), [(None, float("nan")), ("", b""), ([], set())])
@pytest.mark.parametrize("other", [1, "\ud800"])
def test_what_is_slipped_in_later_is_refused(before: Any, then: Any, other: Any) -> None:
    """I11: a value that msgspec writes as what was there before, put into the very dict that was
    loaded or saved, is found; also where another document cannot be compared at once."""
    data: dict[str, Any] = {"k": {"l": [before], "n": {"x": before}}, "o": other}
    for place in (lambda value: value["k"]["l"], lambda value: value["k"]["n"]):
        for step in ("load", "save", "save odd"):
            mine = copy.deepcopy(data)
            if step == "save odd":
                mine["k"]["t"] = ()
            basis = Basis.of(mine) if step == "load" else Basis()
            after(mine, basis)
            place(mine)[0 if isinstance(place(mine), list) else "x"] = then
            with pytest.raises(DataError):
                difference(mine, basis)


def test_a_new_shape_is_remembered_and_not_written() -> None:
    """A list that became a tuple is the same JSON, and from then on compared as a tuple."""
    basis = based({"k": {"t": [1, 2]}})
    changes = after({"k": {"t": (1, 2)}}, basis)
    assert (changes.puts, list(changes.reshaped)) == ({}, ["k"])
    assert difference({"k": {"t": (1, 2)}}, basis) == ({}, [], {})


def test_what_cannot_be_compared_is_looked_at() -> None:
    """A value whose comparison fails, or that compares equal to all, is judged by what it is."""

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("no")

        __hash__ = None  # type: ignore[assignment]

    class Yes(Odd):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    basis = based({"k": [1], "l": [2]})
    for odd in (Odd(), Yes()):
        with pytest.raises(DataError):
            difference({"k": [odd], "l": [2]}, basis)
    # The others are still told apart where one cannot be encoded.
    basis = based({"k": ["\ud800"], "l": [2]})
    assert written(difference({"k": ["\ud800"], "l": [3]}, basis)) == {"l": [3]}


def test_depth_is_bounded() -> None:
    """A document that is nested without end is refused, not a RecursionError."""
    value: list[Any] = []
    value.append(value)
    for endless in (value, (value,), {1: value}):
        with pytest.raises(DataError) as caught:
            difference({"k": endless}, based({"k": 1}))
        assert caught.value.code == "too_deep"
    deepest: Any = ()
    for _ in range(255):
        deepest = (deepest,)
    assert look(deepest).text == "[" * 256 + "]" * 256
    with pytest.raises(DataError):
        look((deepest,))


@given(documents)
def test_msgspec_copies_containers_and_nothing_else(data: dict[str, Any]) -> None:
    """What `Basis.of` relies on: every dict and list anew, equal, in the same order."""
    found: Any = msgspec.to_builtins(data)
    assert list(found) == list(data)
    assert [encode(one) for one in found.values()] == [encode(one) for one in data.values()]
    pending: list[tuple[Any, Any]] = [(data, found)]
    while pending:
        one, other = pending.pop()
        if isinstance(one, dict | list):
            assert one is not other
            values = one.values() if isinstance(one, dict) else one
            others = other.values() if isinstance(other, dict) else other
            pending += zip(values, others, strict=True)
