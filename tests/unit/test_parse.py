"""Strict reading of JSON text: what is refused, where, and nothing else than that."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings

from standfast.document.parse import Problem, find_problem, minify, position
from standfast.limits import MAX_DEPTH, MAX_INTEGER_DIGITS
from support.json_strategies import depth, random_value, reference, render, seeds, texts, tokens

#: How many in the default run, and in the slow one.
MUTATED_TEXTS = [10_000, pytest.param(50_000, marks=pytest.mark.slow)]


def judge(text: str) -> Problem | None:
    """The problem, after checks of what holds for every problem of every text."""
    problem = find_problem(text)
    if problem is not None:
        lines = text.split("\n")
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.path.startswith("$")
        assert problem.path.isprintable()
        assert problem.path.isascii()
        assert len(problem.path) <= 200
    return problem


def is_json(text: str) -> bool:
    """Whether the standard library, told to be strict, reads the text."""
    try:
        reference(text)
    except ValueError:
        return False
    return True


@given(texts)
def test_every_spelling_of_json_is_accepted(text: str) -> None:
    """I11: any white space, escape form and number form that RFC 8259 allows has no problem."""
    assert find_problem(text) is None


def mutated(text: str, rng: random.Random) -> str:
    """The text with a few characters deleted, inserted, replaced or cut off."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0:
                text = text[:at] + text[at + 1 :]
            case 1:
                text = text[:at] + rng.choice(MUTANTS) + text[at:]
            case 2:
                text = text[:at] + rng.choice(MUTANTS) + text[at + 1 :]
            case 3:
                text = text[:at]
            case _:
                other = rng.randrange(len(text) + 1)
                text = text[:at] + text[other : other + 8] + text[at:]
    return text


MUTANTS = [
    *'"\\{}[]:, \t\n\r0123456789.eE+-tfnu/*#',
    *(
        "\x00",
        "\x01",
        "\x7f",
        "\xa0",
        "\ufeff",
        "\ud800",
        "\udc00",
        "\u2028",
        "１",
        "é",
        "\U0001f600",
    ),
    *("null", "true", "NaN", "-Infinity", "\\u00e9", "\\u00E", "\\x", "1e999", "00", ",,", '""'),
]


@pytest.mark.parametrize("count", MUTATED_TEXTS)
def test_mutated_texts_are_judged_as_the_reference_does(count: int) -> None:
    """I11: a text has a problem exactly when the strict reference refuses it; nothing else is
    raised, and the place is inside the text."""
    verdicts: list[bool] = []
    each = -(-count // settings.default.max_examples)

    @given(seeds)
    def compare(seed: int) -> None:
        rng = random.Random(seed)
        for index in range(each):
            if index % 10 == 0:
                text = render(random_value(rng, 6), rng)
            broken = mutated(text, rng)
            verdicts.append(is_json(broken))
            assert (judge(broken) is None) is verdicts[-1], broken

    compare()
    assert len(verdicts) >= count
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9


@given(texts)
def test_minify_removes_white_space_only(text: str) -> None:
    """I11: the tokens stay as they are written, and nothing stands between them."""
    assert minify(text) == "".join(tokens(text))


def test_minify_keeps_white_space_in_strings() -> None:
    """I11: blanks inside strings are content, after escaped quotes and backslashes too."""
    text = r' { " a " : " \" b \\" , "c" : [ "\\\" " , 1.50 , 1E5 ] } '
    assert minify(text) == r'{" a ":" \" b \\","c":["\\\" ",1.50,1E5]}'


@pytest.mark.parametrize(
    ("text", "offset", "place"),
    [
        ("", 0, (1, 1)),
        ("ab", 1, (1, 2)),
        ("a\nb", 1, (1, 2)),
        ("a\nb", 2, (2, 1)),
        ("a\r\n\r\nbc", 6, (3, 2)),
        ("é\U0001f600x", 2, (1, 3)),
    ],
)
def test_position(text: str, offset: int, place: tuple[int, int]) -> None:
    """Lines and columns count from 1, columns in characters."""
    assert position(text, offset) == place


# One line each: the text, the code, line and column, and the `$.path`.
MALFORMED: list[tuple[str, str, int, int, str]] = [
    # What crashes, power cuts and full disks leave of a file.
    ("", "empty", 1, 1, "$"),
    (" ", "empty", 1, 1, "$"),
    ("\n\t \r\n", "empty", 1, 1, "$"),
    ("\x00", "nul_filled", 1, 1, "$"),
    ("\x00" * 4096, "nul_filled", 1, 1, "$"),
    (" \n\x00\x00", "nul_filled", 2, 1, "$"),
    ("{}\x00\x00", "nul_filled", 1, 3, "$"),
    ('{"a": 1}\n\x00\x00\x00', "nul_filled", 2, 1, "$"),
    ('{"a": [1, 2\x00\x00', "nul_filled", 1, 12, "$.a[1]"),
    ('{"a": [1, tr\x00\x00', "nul_filled", 1, 13, "$.a[1]"),
    ('["abc\x00\x00', "nul_filled", 1, 6, "$[0]"),
    ('["a\x00b"]', "nul_filled", 1, 4, "$[0]"),
    ("[1,\x00\x00 2]", "nul_filled", 1, 4, "$[1]"),
    ('{"a": [1, 2', "truncated", 1, 12, "$.a[1]"),
    ('{"a": "b', "truncated", 1, 7, "$.a"),
    ('{"a": {"b', "truncated", 1, 8, "$.a"),
    ('{"a"', "truncated", 1, 5, "$.a"),
    ('["\\', "truncated", 1, 2, "$[0]"),
    ('["\\u00', "truncated", 1, 2, "$[0]"),
    ("[1.", "truncated", 1, 2, "$[0]"),
    ("[-", "truncated", 1, 2, "$[0]"),
    ("[1.5e+", "truncated", 1, 2, "$[0]"),
    ("[tru", "truncated", 1, 2, "$[0]"),
    # What people write by hand.
    ("// state\n{}", "comment", 1, 1, "$"),
    ('{\n  "a": 1 // one\n}', "comment", 2, 10, "$.a"),
    ("[1, /* two */ 2]", "comment", 1, 5, "$[1]"),
    ("# state\n{}", "comment", 1, 1, "$"),
    ("{}\n// end", "comment", 2, 1, "$"),
    ('{"a": 1,}', "trailing_comma", 1, 8, "$.a"),
    ('{\n  "a": [\n    1,\n  ]\n}', "trailing_comma", 3, 6, "$.a[0]"),
    ("{'a': 1}", "single_quotes", 1, 2, "$"),
    ("['a']", "single_quotes", 1, 2, "$[0]"),
    ("{a: 1}", "not_json", 1, 2, "$"),
    ("{1: 2}", "not_json", 1, 2, "$"),
    ('{"a" = 1}', "not_json", 1, 6, "$.a"),
    ('{"a": }', "not_json", 1, 7, "$.a"),
    ('{"a": 1 "b": 2}', "not_json", 1, 9, "$.a"),
    ("[1 2]", "not_json", 1, 4, "$[0]"),
    ("[1; 2]", "not_json", 1, 3, "$[0]"),
    ("[, 1]", "not_json", 1, 2, "$[0]"),
    ("[1,, 2]", "not_json", 1, 4, "$[1]"),
    ("{,}", "not_json", 1, 2, "$"),
    ("[1}", "not_json", 1, 3, "$[0]"),
    ('{"a": 1]', "not_json", 1, 8, "$.a"),
    ("]", "not_json", 1, 1, "$"),
    ("hello", "not_json", 1, 1, "$"),
    ("[yes]", "not_json", 1, 2, "$[0]"),
    ("<html>", "not_json", 1, 1, "$"),
    ('{"a": {"b": [0, {"c d": nope}]}}', "not_json", 1, 25, '$.a.b[1]["c d"]'),
    # Other languages' words and numbers.
    ("[NaN]", "not_finite", 1, 2, "$[0]"),
    ('{"a": Infinity}', "not_finite", 1, 7, "$.a"),
    ('{"a": [-Infinity]}', "not_finite", 1, 8, "$.a[0]"),
    ("[undefined]", "not_json", 1, 2, "$[0]"),
    ("[None]", "not_json", 1, 2, "$[0]"),
    ("[True]", "not_json", 1, 2, "$[0]"),
    ("[False]", "not_json", 1, 2, "$[0]"),
    ("[nil]", "not_json", 1, 2, "$[0]"),
    ("[truex]", "not_json", 1, 6, "$[0]"),
    ("[01]", "not_json", 1, 2, "$[0]"),
    ("[-01]", "not_json", 1, 2, "$[0]"),
    ("[+1]", "not_json", 1, 2, "$[0]"),
    ("[--1]", "not_json", 1, 2, "$[0]"),
    ("[0x1F]", "not_json", 1, 2, "$[0]"),
    ("[.5]", "not_json", 1, 2, "$[0]"),
    ("[1.]", "not_json", 1, 2, "$[0]"),
    ("[1.e5]", "not_json", 1, 2, "$[0]"),
    ("[1e]", "not_json", 1, 2, "$[0]"),
    ("[1.2.3]", "not_json", 1, 2, "$[0]"),
    ("[1_000]", "not_json", 1, 2, "$[0]"),
    ("[10n]", "not_json", 1, 2, "$[0]"),
    ("[１]", "not_json", 1, 2, "$[0]"),
    ("[1e400]", "number_range", 1, 2, "$[0]"),
    ("[-1e400]", "number_range", 1, 2, "$[0]"),
    # Several values in one text.
    ("1 2", "extra_data", 1, 3, "$"),
    ("{}\n{}", "extra_data", 2, 1, "$"),
    ('{"a": 1}}', "extra_data", 1, 9, "$"),
    # Members that would vanish.
    ('{"a": 1, "a": 2}', "duplicate_key", 1, 10, "$.a"),
    ('{"a": 1, "\\u0061": 2}', "duplicate_key", 1, 10, "$.a"),
    ('{"\U0001f600": 1, "\\ud83d\\uDE00": 2}', "duplicate_key", 1, 10, '$["\\ud83d\\ude00"]'),
    ('{"\\/": 1, "/": 2}', "duplicate_key", 1, 11, '$["/"]'),
    ('{"": 1, "": 2}', "duplicate_key", 1, 9, '$[""]'),
    ('{"x": [{}, {"k": 1, "k": 1}]}', "duplicate_key", 1, 21, "$.x[1].k"),
    # Strings.
    ('["\\x41"]', "bad_escape", 1, 3, "$[0]"),
    ('["\\\'"]', "bad_escape", 1, 3, "$[0]"),
    ('["\\U0041"]', "bad_escape", 1, 3, "$[0]"),
    ('["\\u12g4"]', "bad_escape", 1, 3, "$[0]"),
    ('["\\u12"]', "bad_escape", 1, 3, "$[0]"),
    ('["\\u+123"]', "bad_escape", 1, 3, "$[0]"),
    ('["a\nb"]', "control_character", 1, 4, "$[0]"),
    ('["a\tb"]', "control_character", 1, 4, "$[0]"),
    ('{"a\x1f": 1}', "control_character", 1, 4, "$"),
    ('["\ud800"]', "lone_surrogate", 1, 3, "$[0]"),
    # White space that JSON does not know.
    ("\ufeff{}", "byte_order_mark", 1, 1, "$"),
    ('{"a": \ufeff1}', "byte_order_mark", 1, 7, "$.a"),
    ("\xa0{}", "not_json", 1, 1, "$"),
    ("[1,\x0c2]", "not_json", 1, 4, "$[1]"),
    ("[1,\u20282]", "not_json", 1, 4, "$[1]"),
]


@pytest.mark.parametrize(("text", "code", "line", "column", "path"), MALFORMED)
def test_malformed(text: str, code: str, line: int, column: int, path: str) -> None:
    """I11: each kind of malformed text is refused by name, with line, column and `$.path`."""
    assert not is_json(text)
    problem = judge(text)
    assert problem is not None
    found = (problem.code, problem.line, problem.column, problem.path)
    assert found == (code, line, column, path)


SAMPLE = """{
  "name": "caf\\u00e9 \\"\\n\\" \U0001f600",
  "list": [1, -2.5e+10, true, null, false, {"deep": [[], {}]}],
  "last": 0.5
}"""


@pytest.mark.parametrize("length", range(1, len(SAMPLE)))
def test_truncated_anywhere(length: int) -> None:
    """A file that was cut off at any character is told as cut off, at or before its end."""
    problem = judge(SAMPLE[:length])
    assert problem is not None
    assert problem.code == "truncated"


@pytest.mark.parametrize("length", range(len(SAMPLE) + 1))
def test_nul_tail_anywhere(length: int) -> None:
    """A file whose end became NULs is told as that, at the first NUL."""
    problem = judge(SAMPLE[:length] + "\x00" * 7)
    assert problem is not None
    place = (problem.line, problem.column)
    assert (problem.code, place) == ("nul_filled", position(SAMPLE, length))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_depth_limit_is_exact(opening: str) -> None:
    """256 levels are accepted, the 257th is refused where it begins."""
    closing = "]" if opening == "[" else "}"
    inner = "[]" if opening == "[" else "{}"
    most = opening * (MAX_DEPTH - 1) + inner + closing * (MAX_DEPTH - 1)
    assert depth(most) == MAX_DEPTH
    assert find_problem(most) is None
    problem = judge(opening + most + closing)
    assert problem is not None
    assert (problem.code, problem.column) == ("too_deep", len(opening) * MAX_DEPTH + 1)
    assert find_problem(opening * 2 + "1" + closing * 2, max_depth=2) is None
    assert find_problem(opening * 2 + "1" + closing * 2, max_depth=1) is not None


def test_bottomless_text_is_refused() -> None:
    """A million brackets cost neither the stack nor the memory."""
    problem = judge("[" * 1_000_000)
    assert problem is not None
    assert problem.code == "too_deep"


@pytest.mark.parametrize("sign", ["", "-"])
def test_integer_digits_limit_is_exact(sign: str) -> None:
    """100,000 digits are accepted, one more is refused."""
    assert find_problem(sign + "9" * MAX_INTEGER_DIGITS) is None
    problem = judge(f"[{sign}{'9' * (MAX_INTEGER_DIGITS + 1)}]")
    assert problem is not None
    assert (problem.code, problem.column, problem.path) == ("integer_too_long", 2, "$[0]")


def test_paths_stay_short_and_printable() -> None:
    """The path in a message is bounded and shows no control character, whatever the names are."""
    wide = json.dumps("\x1b[31m\u202e\x7f" * 1000)
    deep = "".join('{"' + "n" * 70 + '":' for _ in range(200))
    for text in (f"{{{wide}: [nope]}}", deep + "nope"):
        problem = judge(text)
        assert problem is not None
        assert "..." in problem.path
        error = problem.error()
        assert len(str(error)) < 400
        assert str(error).isprintable()


def test_problem_as_an_error() -> None:
    """The error names file, line, column and path, has a hint, and shows nothing of the text."""
    text = '{"password": ["hunter2", hunter3]}'
    problem = find_problem(text)
    assert problem is not None
    in_file, alone = problem.error("state.json"), problem.error()
    assert str(in_file) == "state.json:1:26: expected a value - at `$.password[1]`"
    assert (in_file.where, in_file.path, in_file.code) == (
        *("state.json:1:26", "$.password[1]"),
        "not_json",
    )
    assert str(alone) == "line 1 column 26: expected a value - at `$.password[1]`"
    assert (alone.where, alone.path) == ("", "$.password[1]")
    for error in (in_file, alone):
        assert error.hint
        assert not re.search("hunter", f"{error} {error.hint} {error!r} {problem!r}")
