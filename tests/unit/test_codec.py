"""I11: what comes back is what was put, and what is not JSON is refused with its `$.path`."""

from __future__ import annotations

import dataclasses
import enum
import json
import random
import subprocess
import sys
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.document import codec
from standfast.document.codec import accept, canonical_or_none, canonical_texts, decode, encode
from standfast.document.jsonb import jsonb_columns, jsonb_columns_of_many
from standfast.document.parse import find_problem
from standfast.errors import CorruptData, DataError
from standfast.limits import MAX_DEPTH, MAX_INTEGER_DIGITS
from support.json_strategies import (
    nested,
    random_value,
    reference,
    render,
    same,
    seeds,
    texts,
    tokens,
    values,
)

SECRET = "hunter2"


def refusal(action: Callable[[], Any]) -> DataError:
    """The DataError of an action; it must show nothing of the document."""
    with pytest.raises(DataError) as caught:
        action()
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value!r}"
    assert caught.value.hint
    return caught.value


# ---- what comes back ----------------------------------------------------------------------------


@given(values)
def test_decode_gives_back_what_was_encoded(value: Any) -> None:
    """I11: the same types, values, order of members and sign of zero, all the way down."""
    text = encode(value)
    assert same(decode(text), value)
    assert same(reference(text), value)
    assert find_problem(text) is None


@given(values)
def test_both_encoders_write_one_text(value: Any) -> None:
    """A value has one text, whether its containers are plain or subclasses."""
    assert encode(as_subclasses(value)) == encode(value)


def as_subclasses(value: Any) -> Any:
    if isinstance(value, dict):
        return OrderedDict((name, as_subclasses(item)) for name, item in value.items())
    if isinstance(value, list):
        return [as_subclasses(item) for item in value]
    return value


@given(texts)
def test_accept_keeps_every_token(text: str) -> None:
    """I11: of a file's text only the white space goes; value and order are those of the file."""
    accepted = accept(text)
    assert accepted == "".join(tokens(text))
    assert same(decode(accepted), reference(text))
    assert accept(accepted) == accepted


@given(texts)
def test_canonical_text_is_recognised(text: str) -> None:
    """`canonical_or_none` gives back the text that `encode` writes and no other, unless the C
    parser cannot read it; what it gives back is what `accept` would."""
    accepted = accept(text)
    found = canonical_or_none(text.encode())
    assert found in (None, accepted)
    if found is not None:
        assert found == text == encode(reference(text))
    canonical = encode(reference(text))
    if canonical_or_none(canonical.encode()) is None:
        assert "\\ud" in canonical or any(len(token) > 300 for token in tokens(canonical))


@given(seeds)
def test_many_texts_at_once(seed: int) -> None:
    """What is done for a block of documents is what would be done for each."""
    rng = random.Random(seed)
    documents = [random_value(rng, 4) for _ in range(rng.randrange(5))]
    spelled = rng.random() < 0.5
    parts = [accept(render(v, rng)) if spelled else encode(v) for v in documents]
    one_by_one = [canonical_or_none(part.encode()) for part in parts]
    together = canonical_texts([msgspec.Raw(part.encode()) for part in parts])
    assert together == (None if None in one_by_one else one_by_one)
    assert jsonb_columns_of_many(parts) == [jsonb_columns(part) for part in parts]


def test_limits_hold_for_many_texts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of documents is not canonical as soon as one of them is over a limit."""
    deep, long = "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f'"{"x" * 1000}"'
    fine = [msgspec.Raw(text.encode()) for text in ("{}", deep[1:-1], long)]
    assert canonical_texts(fine) == ["{}", deep[1:-1], long]
    assert canonical_texts([*fine, msgspec.Raw(deep.encode())]) is None
    monkeypatch.setattr(codec, "MAX_DOCUMENT_BYTES", 1001)
    assert canonical_texts(fine) is None


def test_many_random_values_and_texts() -> None:
    """I11 for thousands of values and spellings that Hypothesis would be too slow to draw."""
    rng = random.Random(20240229)
    for _ in range(3000):
        value = random_value(rng)
        text = encode(value)
        assert same(decode(text), value), text
        written = render(value, rng)
        accepted = accept(written)
        assert accepted == "".join(tokens(written))
        assert same(decode(accepted), value), written


@given(st.integers(-5, 5), st.integers(0, 400))
def test_integers_at_the_edges_of_machine_words(step: int, bits: int) -> None:
    """I11: no integer becomes a float or wraps round."""
    for number in (2**bits + step, -(2**bits) + step):
        assert encode(number) == str(number)
        assert same(decode(encode([number])), [number])


class Color(enum.IntEnum):
    RED = 3


class Word(enum.StrEnum):
    HELLO = "hello"


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Loud(str):
    def __str__(self) -> str:
        return self.upper()


class CompleteMark(int):
    def __int__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "whole"


class Real(float):
    def __repr__(self) -> str:
        return "real"


class Items(list[Any]):
    pass


def moved() -> OrderedDict[str, int]:
    order = OrderedDict(a=1, b=2, c=3)
    order.move_to_end("a")
    return order


@pytest.mark.parametrize(
    ("given_value", "plain"),
    [
        (OrderedDict(b=1, a=[OrderedDict(d=2, c=3)]), {"b": 1, "a": [{"d": 2, "c": 3}]}),
        ([moved()], [{"b": 2, "c": 3, "a": 1}]),
        (defaultdict(list, a=[1], b=[]), {"a": [1], "b": []}),
        (Counter("aab"), {"a": 2, "b": 1}),
        ({"k": Color.RED}, {"k": 3}),
        ({Word.HELLO: Word.HELLO}, {"hello": "hello"}),
        ([Flags.A | Flags.B], [3]),
        ([Loud("x"), {Loud("y"): 1}], ["x", {"y": 1}]),
        ([CompleteMark(5)], [5]),
        ([Real(1.5), Real(-0.0)], [1.5, -0.0]),
        (Items([1, Items([])]), [1, []]),
        ({"e": 1e16, "o": OrderedDict(e=1e16)}, {"e": 1e16, "o": {"e": 1e16}}),
    ],
)
def test_subclasses_come_back_plain(given_value: Any, plain: Any) -> None:
    """I11: subclasses of JSON types are stored by their value, with the order that they show."""
    assert same(decode(encode(given_value)), plain)
    assert encode(given_value) == encode(plain)


# ---- refused at the door ------------------------------------------------------------------------


class Plain(enum.Enum):
    ONE = "one"


@dataclasses.dataclass
class Data:
    name: str = SECRET


class Struct(msgspec.Struct):
    name: str = SECRET


Pair = namedtuple("Pair", "left right")

NOT_JSON: list[tuple[Any, str]] = [
    ((SECRET,), "tuple"),
    ((), "tuple"),
    (Pair(1, SECRET), "Pair"),
    ({SECRET}, "set"),
    (frozenset(), "frozenset"),
    (SECRET.encode(), "bytes"),
    (bytearray(b"x"), "bytearray"),
    (memoryview(b"x"), "memoryview"),
    (datetime(2024, 2, 29, tzinfo=UTC), "datetime"),
    (date(2024, 2, 29), "date"),
    (time(1, 2), "time"),
    (timedelta(1), "timedelta"),
    (Decimal("1.5"), "Decimal"),
    (Fraction(1, 2), "Fraction"),
    (1j, "complex"),
    (uuid.UUID(int=1), "UUID"),
    (Plain.ONE, "Plain"),
    (Data(), "Data"),
    (Struct(), "Struct"),
    (msgspec.Raw(b"[1]"), "Raw"),
    (msgspec.UNSET, "UnsetType"),
    (deque([1]), "deque"),
    (UserDict(a=1), "UserDict"),
    (MappingProxyType({"a": 1}), "mappingproxy"),
    ({}.keys(), "dict_keys"),
    (range(3), "range"),
    (iter([1]), "list_iterator"),
    (PurePosixPath(SECRET), "PurePosixPath"),
    (object(), "object"),
    (int, "type"),
    (..., "ellipsis"),
]


@pytest.mark.parametrize(("value", "name"), NOT_JSON)
@pytest.mark.parametrize(
    ("frame", "path"),
    [
        (lambda value: value, "$"),
        (lambda value: {"a": [0, value]}, "$.a[1]"),
        (lambda value: [{"odd name": {"b": value}}], '$[0]["odd name"].b'),
    ],
)
def test_other_types_are_refused(
    value: Any, name: str, frame: Callable[[Any], Any], path: str
) -> None:
    """I11: what JSON would change or cannot hold is refused, with type and `$.path`."""
    error = refusal(lambda: encode(frame(value)))
    assert (error.code, error.path) == ("not_json", path)
    assert f"{name} is not a JSON type - at `{path}`" in str(error)


@pytest.mark.parametrize("name", [1, None, True, 1.5, (1,), Color.RED, b"a", Plain.ONE])
def test_member_names_must_be_strings(name: Any) -> None:
    """I11: JSON would turn such a name into a string; the path is the object's."""
    for document in ({name: 1}, {"a": 1, name: 2}):
        error = refusal(lambda document=document: encode({"x": [document]}))
        assert (error.code, error.path) == ("not_json", "$.x[0]")
        assert type(name).__name__ in str(error)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), Real("nan")])
def test_numbers_must_be_finite(number: float) -> None:
    """I11: NaN and Infinity are refused wherever they stand."""
    for document, path in ((number, "$"), ({"a": [{"b": number}]}, "$.a[0].b")):
        error = refusal(lambda document=document: encode(document))
        assert (error.code, error.path) == ("not_finite", path)


def test_paired_surrogates_are_refused() -> None:
    """I11: two surrogates that JSON would read as one character are refused, in names too."""
    error = refusal(lambda: encode({"a": "x\ud83d\ude00"}))
    assert (error.code, error.path) == ("surrogate_pair", "$.a")
    error = refusal(lambda: encode([{"\ud83d\ude00": 1}]))
    assert (error.code, error.path) == ("surrogate_pair", '$[0]["\\ud83d\\ude00"]')


@pytest.mark.parametrize("step", [None, "a"])
@pytest.mark.parametrize("leaf", [[], {}, [1], {"b": "\ud800"}, OrderedDict(), Items()])
def test_depth_limit_is_exact(step: str | None, leaf: Any) -> None:
    """256 levels are accepted and come back; the 257th is refused by its path."""
    most = nested(leaf, [step] * (MAX_DEPTH - 1))
    assert decode(encode(most)) == most
    assert accept(encode(most)) == encode(most)
    error = refusal(lambda: encode(nested(most, [step])))
    assert error.code == "too_deep"
    assert error.path.startswith("$[0][0]" if step is None else "$.a.a")
    assert len(error.path) <= 200
    assert refusal(lambda: accept(json.dumps(nested(most, [step])))).code == "too_deep"


def test_many_shallow_containers_are_not_deep() -> None:
    """The limit is on depth, not on the number of brackets, even of those inside strings."""
    wide: list[Any] = [{"a": [{}, []]} for _ in range(MAX_DEPTH)] + ["[{" * MAX_DEPTH, '"[' * 300]
    for document in (wide, nested(wide, [None] * (MAX_DEPTH - 4))):
        text = encode(document)
        assert decode(text) == document
        assert canonical_or_none(text.encode()) == text
    assert refusal(lambda: encode(nested(wide, [None] * (MAX_DEPTH - 3)))).code == "too_deep"


def test_a_value_that_holds_itself_is_refused() -> None:
    """An endless value is too deep; nothing hangs and no stack overflows."""
    endless: dict[str, Any] = {}
    endless["a"] = [endless]
    assert refusal(lambda: encode(endless)).code == "too_deep"


@pytest.mark.parametrize("character", ["a", "é", "\U0001f600", "\x00", "\ud800"])
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_size_limit_is_exact_in_bytes(
    monkeypatch: pytest.MonkeyPatch, character: str, container: type[dict[str, str]]
) -> None:
    """The limit counts the UTF-8 bytes of the text, on every way to it."""
    value = container(a=character * 10)
    text = encode(value)
    size = len(text.encode())
    monkeypatch.setattr(codec, "MAX_DOCUMENT_BYTES", size)
    assert encode(value) == text
    assert accept(f" {text} \n") == text
    monkeypatch.setattr(codec, "MAX_DOCUMENT_BYTES", size - 1)
    for attempt in (lambda: encode(value), lambda: accept(text)):
        error = refusal(attempt)
        assert (error.code, error.path) == ("too_large", "$")
        assert f"{size} bytes" in str(error)
        assert f"limit of {size - 1}" in str(error)


@pytest.mark.parametrize("sign", [1, -1])
def test_integer_digits_limit_is_exact(sign: int) -> None:
    """100,000 digits come back exactly; one more is refused, without converting the giant."""
    most = sign * (10**MAX_INTEGER_DIGITS - 1)
    text = encode([most])
    assert decode(text) == [most]
    assert accept(f"{text} ") == text
    error = refusal(lambda: accept(text.replace("]", "9]")))
    assert (error.code, error.path) == ("integer_too_long", "$[0]")
    with pytest.raises(CorruptData):
        decode(text.replace("]", "9]"))
    for number in (sign * 10**MAX_INTEGER_DIGITS, sign << 40_000_000):
        error = refusal(lambda number=number: encode({"n": [number]}))
        assert (error.code, error.path) == ("integer_too_long", "$.n[0]")


def test_the_interpreters_digit_limit_does_not_matter() -> None:
    """I11: an application may lower the limit on int(text) as far as it goes."""
    before = sys.get_int_max_str_digits()
    numbers = [10**639, 10**640, 10**641, -(10**3999), 2**2099, 2**2100, 2**2126, 2**2127]
    expected = [str(number) for number in numbers]
    try:
        sys.set_int_max_str_digits(640)
        text = encode(numbers)
        assert text == f"[{','.join(expected)}]"
        assert decode(text) == numbers
        assert decode(accept(f"[{', '.join(expected)}]")) == numbers
    finally:
        sys.set_int_max_str_digits(before)


# ---- text of strangers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *(("", "empty"), ("[1,]", "trailing_comma"), ("[NaN]", "not_finite")),
        *(('{"a":1,"a":2}', "duplicate_key"), ("1 2", "extra_data"), ("[1", "truncated")),
        *(('["\ud800"]', "lone_surrogate"), ("[1e999]", "number_range"), ("tr ue", "not_json")),
        *(("[1 2]", "not_json"), ('"a" "b"', "extra_data"), ("0 1", "extra_data")),
    ],
)
def test_accept_refuses_with_the_place(text: str, code: str) -> None:
    """What is wrong with a file's text is told with file, line, column and path."""
    error = refusal(lambda: accept(text, source="state.json"))
    assert error.code == code
    assert error.where.startswith("state.json:1:")
    assert error.path.startswith("$")


def test_accept_agrees_with_find_problem_on_broken_texts() -> None:
    """I11: the fast way lets nothing through that the careful way refuses."""
    rng = random.Random(19991231)
    accepted = 0
    for _ in range(4000):
        text = render(random_value(rng, 5), rng)
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(["", " ", ",", '"', "0", "1", "\\", "]"]) + text[at + 1 :]
        problem = find_problem(text)
        if problem is None:
            accepted += 1
            assert accept(text) == "".join(tokens(text))
        else:
            assert refusal(lambda text=text: accept(text)).code == problem.code
    assert 400 < accepted < 3600


# ---- stored text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "[1,]", "{", "nope", '{"a":1e999}', "[1e400]", "NaN", '{"a":1} x', "\x00"),
        *('{"\\ud800":1,"\\ud800":2}', "[" * (MAX_DEPTH * 100) + "]" * (MAX_DEPTH * 100)),
    ],
)
def test_unreadable_stored_text(text: str) -> None:
    """Damaged stored text is CorruptData, whatever is wrong with it."""
    with pytest.raises(CorruptData) as caught:
        decode(text)
    assert caught.value.hint


# ---- without a stack ----------------------------------------------------------------------------


@contextmanager
def short_stack(frames: int) -> Iterator[None]:
    """Leave about that many Python frames to what runs inside."""
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


DEEP: list[Any] = [
    nested({"b": [1, 1.5, "x", {}], "a": []}, ["a"] * 250),
    nested([1e16, -0.0, {"\x00": None}], [None] * 250),
    nested([10**1000, "\ud800"], [None, "ab", "c"] * 80),
]


@pytest.mark.parametrize("value", DEEP)
def test_deep_documents_at_the_bottom_of_a_deep_stack(value: Any) -> None:
    """I11 holds wherever the caller stands: a document of 250 levels needs no stack of its own."""
    text = encode(value)
    columns = jsonb_columns(text)
    spaced = text.replace(",", " ,")
    with short_stack(40):
        encoded, accepted, found = encode(value), accept(spaced), decode(text)
        split, problem = jsonb_columns(text), find_problem(text)
    assert (encoded, accepted, split, problem) == (text, text, columns, None)
    assert encode(found) == text


def test_corrupt_text_at_the_bottom_of_a_deep_stack() -> None:
    """Damaged text stays CorruptData, and only damaged text does."""
    text = encode(DEEP[0])[:-1]
    with short_stack(40), pytest.raises(CorruptData):
        decode(text)


@pytest.mark.process
def test_import_with_a_low_recursion_limit() -> None:
    """An application that lowers the recursion limit can still import and use the codec."""
    script = (
        "import sys; import msgspec, decimal, json, dataclasses, standfast.errors;"
        "sys.setrecursionlimit(120); from standfast.document.codec import encode, decode;"
        "v = [[[1]]]\nfor _ in range(200): v = [v]\n"
        "assert encode(decode(encode(v))) == '[' * 203 + '1' + ']' * 203"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- columns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "data", "keeps"),
    [
        ("{}", "{}", True),
        ('{"a":1,"b":[1.5,"é"]}', '{"a":1,"b":[1.5,"é"]}', True),
        ('{"b":1,"aa":2,"ab":3}', '{"b":1,"aa":2,"ab":3}', True),
        ('{"zz":1,"é":2}', '{"zz":1,"é":2}', True),
        ("10000000000000000000000000", "10000000000000000000000000", True),
        # The order of members.
        ('{"b":1,"a":2}', '{"b":1,"a":2}', False),
        ('{"aa":1,"b":2}', '{"aa":1,"b":2}', False),
        ('[{"x":{"b":1,"a":2}}]', '[{"x":{"b":1,"a":2}}]', False),
        # The spelling of numbers.
        ("1.0e2", "100.0", False),
        ("-0", "0", False),
        ("-0.0", "-0.0", False),
        ("1e16", "1e16", False),
        ("5e-324", "5e-324", False),
        ("1.50", "1.5", False),
        # What jsonb refuses, and what only looks like it.
        ('"a\\u0000"', '"a\ufffd"', False),
        ('{"\\u0000":1}', '{"\ufffd":1}', False),
        ('"\\ud800x"', '"\ufffdx"', False),
        ('"\\udc00\\ud83d\\ude00\\ud83d"', '"\ufffd\\ud83d\\ude00\ufffd"', False),
        ('"\\\\u0000"', '"\\\\u0000"', True),
        ('"\\\\\\u0000"', '"\\\\\ufffd"', False),
        ('"\\u0001"', '"\\u0001"', True),
        ('"\\u00e9"', '"é"', False),
    ],
)
def test_jsonb_columns(text: str, data: str, keeps: bool) -> None:
    """`data` is what jsonb can hold of the text; `raw` is the text unless jsonb gives it back."""
    assert jsonb_columns(text) == (data, None if keeps else text)


@given(seeds)
def test_jsonb_columns_of_every_spelling(seed: int) -> None:
    """The exact text is always in one of the columns, and `data` has nothing that jsonb refuses."""
    rng = random.Random(seed)
    text = accept(render(random_value(rng), rng))
    data, raw = jsonb_columns(text)
    assert text == (data if raw is None else raw)
    assert "\\u0000" not in data.replace("\\\\", "")
    data.encode()
