"""What changed in a dict since it was loaded: exactly that, and look-alikes are told apart."""

from __future__ import annotations

import copy
from collections import OrderedDict
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import DataError
from holdfast.codec import encode
from holdfast.jsondiff import difference, known, plain
from support.json_strategies import values as json_values

LOOK_ALIKES = [1, 1.0, True, 0, 0.0, -0.0, False, None, "", "1", [], {}, [1], [True], {"1": 1}, "x"]


def based(data: dict[str, Any]) -> dict[str, Any]:
    """What is remembered after a load of this."""
    return {key: known(encode(value)) for key, value in data.items()}


@given(st.dictionaries(st.text("abc", max_size=2), json_values, max_size=6))
def test_nothing_changed_is_nothing_to_write(data: dict[str, Any]) -> None:
    """Whatever was loaded and is saved as it is, is not written."""
    assert difference(copy.deepcopy(data), based(data)) == ({}, [])


@given(
    st.dictionaries(st.text("abc", max_size=2), json_values, max_size=6),
    st.dictionaries(st.text("abc", max_size=2), json_values, max_size=6),
)
def test_the_difference_makes_one_of_the_other(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Puts and deletes applied to what was loaded give what is saved, exactly, with its types."""
    puts, deletes = difference(new, based(old))
    result = {key: value for key, value in old.items() if key not in deletes} | puts
    assert {key: encode(value) for key, value in result.items()} == {
        key: encode(value) for key, value in new.items()
    }
    assert all(key not in old or encode(old[key]) != encode(value) for key, value in puts.items())


@pytest.mark.parametrize("old", LOOK_ALIKES, ids=repr)
@pytest.mark.parametrize("new", LOOK_ALIKES, ids=repr)
def test_look_alikes_are_told_apart(old: Any, new: Any) -> None:
    """I11: True is not 1, 1 is not 1.0, 0.0 is not -0.0, also inside of a document."""
    same = encode(old) == encode(new)
    puts, _ = difference({"k": {"a": [new]}}, based({"k": {"a": [old]}}))
    assert puts == ({} if same else {"k": {"a": [new]}})
    assert same or encode(puts["k"]) == encode({"a": [new]})


@pytest.mark.parametrize(
    ("value", "code", "path"),
    [
        (float("nan"), "not_finite", "$.a[0]"),
        ({1}, "not_json", "$.a[0]"),
        (b"null", "not_json", "$.a[0]"),
        (datetime(2026, 1, 1), "naive_datetime", "$.k.a[0]"),  # noqa: DTZ001
        ({1: 1, "1": 2}, "duplicate_key", '$.k.a[0]["1"]'),
        ({None: 1}, "not_json", "$.k.a[0]"),
        ({1.5: 1}, "not_json", "$.k.a[0]"),
    ],
)
@pytest.mark.parametrize("before", [None, "", [], "bnVsbA=="])
def test_what_json_cannot_hold_is_refused(value: Any, code: str, path: str, before: Any) -> None:
    """I11: with its path, also where it would encode to what was there before."""
    with pytest.raises(DataError) as caught:
        difference({"k": {"a": [value]}}, based({"k": {"a": [before]}}))
    assert (caught.value.code, caught.value.path) == (code, path)


def test_what_json_dump_would_write_is_taken() -> None:
    """Int keys are decimal strings, tuples lists, aware times their ISO text; order is kept."""
    when = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    data = {123: {"l": (1, 2), 5: when, "day": date(2026, 3, 1), "o": OrderedDict(b=1, a=2)}}
    assert difference(data, {}).puts == {
        "123": {
            "l": [1, 2],
            "5": "2026-03-01T12:30:00+00:00",
            "day": "2026-03-01",
            "o": {"b": 1, "a": 2},
        }
    }
    # Saved again unchanged it is nothing new.
    assert difference(data, based(difference(data, {}).puts)) == ({}, [])


def test_one_key_twice_is_refused() -> None:
    """The pain of int keys: 123 and "123" are one document."""
    with pytest.raises(DataError) as caught:
        difference({123: {}, "123": {}}, {})
    assert caught.value.code == "duplicate_key"


def test_another_order_is_another_text() -> None:
    """I11: the order of members is kept, so a new order is written."""
    assert difference({"k": {"b": 1, "a": 2}}, based({"k": {"a": 2, "b": 1}})).puts


def test_the_callers_dict_is_not_kept() -> None:
    """What is done to the dict after the save is noticed by the next one."""
    data: dict[str, Any] = {"k": {"l": []}}
    puts, _ = difference(data, {})
    data["k"]["l"].append(1)
    assert puts == {"k": {"l": []}}
    assert difference(data, based(puts)).puts == {"k": {"l": [1]}}


def test_depth_is_bounded() -> None:
    """A document that is nested without end is refused, not a RecursionError."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(DataError) as caught:
        plain(value)
    assert caught.value.code == "too_deep"
