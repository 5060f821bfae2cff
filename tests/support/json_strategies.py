"""All of JSON for Hypothesis: values, texts that spell them in every allowed way, and judges.

`values` are drawn by Hypothesis and shrink well; `random_value` makes the same kinds of values
from a `random.Random`, many times faster, for tests that need thousands. `render` spells a value
as JSON with random white space, escapes and number forms, and `texts` draws such spellings.
"""

from __future__ import annotations

import json
import math
import random
import re
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from standfast.limits import MAX_DEPTH, MAX_INTEGER_DIGITS

#: Digits of the longest integers here; the interpreter's own limit on `int(text)` is 4,300.
LONG_INTEGER_DIGITS = 4000

ODD_STRINGS = [
    *("", " ", "a", "A", "b", "ab", "key", "é", "e\u0301", "ß", "中", "\U0001f600", "\U0010ffff"),
    *("\x00", "a\x00", "\x00b", "\x01", "\x1f", "\x7f", "\x80", "\x9f", "\t", "\n", "\r\n", "\b\f"),
    *('"', "\\", "\\\\", "/", "</script>", "\\u0000", "\\ud800", "\\n", "'", "`", "{", "[1]", "//"),
    *(
        "\ud800",
        "\udbff",
        "\udc00",
        "\udfff",
        "\ude00\ud83d",
        "\ud83d\ud83d",
        "x\udc00y",
        "\ud800é",
    ),
    *("\u2028", "\u2029", "\ufeff", "\ufffd", "\ufffe", "\uffff", "\u200b", "\u202e", "null"),
    *("__proto__", "$", "$.a", "a.b", "a b", "0", "-1", "1e5", "NaN", "%s", "\\x00", "a" * 300),
]
ODD_INTS = [
    *(0, 1, -1, 255, 2**31 - 1, 2**31, -(2**31), 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(-(2**63) - 1, 2**64 - 1, 2**64, 10**18, 10**19, 10**23, 10**308, 10**309, -(10**640)),
    *(10**639, 10**640, 10**1000 - 1, 10 ** (LONG_INTEGER_DIGITS - 1), 2**2099, 2**2100, 2**2101),
]
ODD_FLOATS = [
    *(0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 1.5, 1e-4, 1e-5, 1e-7, 1e15, 1e16, 1e17, 1e21, 1e22, 1e23),
    *(5e-324, -5e-324, 2.225073858507201e-308, 2.2250738585072014e-308, 1e-308, 1e308, -1e308),
    *(1.7976931348623157e308, 9007199254740993.0, 123456789012345680.0, 1 / 3, 2**63 * 1.0),
    *(1e-16383 + 1e-300, 4.35, 0.1 + 0.2, 100.0, 1e100, 12345678.9, 999999999999999.9),
]


def unpaired(text: str) -> str:
    """The text with every high surrogate that meets a low one made harmless.

    JSON reads such a pair as one character, so no value that came from JSON holds one.
    """
    return re.sub("[\ud800-\udbff](?=[\udc00-\udfff])", "-", text)


# ---- strategies ---------------------------------------------------------------------------------

_characters = st.one_of(
    st.characters(exclude_categories=()),
    st.characters(max_codepoint=127),
    st.sampled_from('"\\/\x00\x1f\x7f\ud800\udfffé中\U0001f600'),
)
strings = st.sampled_from(ODD_STRINGS) | st.text(_characters, max_size=12).map(unpaired)
ints = st.one_of(
    st.integers(),
    st.sampled_from(ODD_INTS),
    st.builds(
        lambda digits, step: 10**digits + step,
        st.integers(0, LONG_INTEGER_DIGITS - 1),
        st.integers(-1, 1),
    ),
)
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(ODD_FLOATS)
scalars = st.none() | st.booleans() | ints | floats | strings
_bushes = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)


def nested(value: Any, steps: list[str | None]) -> Any:
    """The value inside one array (None) or object (its member's name) for each step."""
    for name in reversed(steps):
        value = [value] if name is None else {name: value}
    return value


_towers = st.builds(nested, scalars, st.lists(st.none() | strings, max_size=40)) | st.builds(
    lambda value, name, depth: nested(value, [name] * depth),
    scalars,
    st.none() | strings,
    st.integers(1, MAX_DEPTH),
)
#: Any JSON value within the limits.
values = st.one_of(_bushes, _bushes, _bushes, _towers)

seeds = st.integers(0, 2**64 - 1)
#: Any JSON text within the limits, seldom in its canonical spelling.
texts = st.builds(lambda value, seed: render(value, random.Random(seed)), values, seeds)


# ---- the same without Hypothesis ----------------------------------------------------------------


def random_value(rng: random.Random, size: int = 12) -> Any:
    """A value of about `size` parts at most."""
    if size > 1 and rng.random() < 0.6:
        length = rng.randrange(5)
        items = [random_value(rng, size // max(length, 1)) for _ in range(length)]
        if rng.random() < 0.5:
            return items
        return {random_string(rng): item for item in items}
    match rng.randrange(6):
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.choice(ODD_INTS)
        case 2:
            return rng.choice([-1, 1]) * rng.getrandbits(rng.choice([4, 16, 53, 64, 70, 400]))
        case 3:
            return rng.choice(ODD_FLOATS)
        case 4:
            return rng.choice([-1, 1]) * rng.random() * 10.0 ** rng.randrange(-30, 30)
        case _:
            return random_string(rng)


def random_string(rng: random.Random) -> str:
    """An odd string, a short plain one, or a mixture."""
    match rng.randrange(3):
        case 0:
            return rng.choice(ODD_STRINGS)
        case 1:
            return "".join(rng.choices("abcdefgh_é", k=rng.randrange(6)))
        case _:
            return unpaired("".join(rng.choices(ODD_STRINGS[:-1], k=rng.randrange(4))))


# ---- spelling -----------------------------------------------------------------------------------

_SHORT_ESCAPES = dict(zip('"\\/\b\f\n\r\t', '"\\/bfnrt', strict=True))
_SPACES = ["", "", "", " ", "  ", "\n", "\t", "\r\n", "\n    "]


def render(value: Any, rng: random.Random) -> str:
    """One of the many JSON texts that mean `value`."""
    out: list[str] = []
    _render(value, rng, out)
    return rng.choice(_SPACES) + "".join(out) + rng.choice(_SPACES)


def _render(value: Any, rng: random.Random, out: list[str]) -> None:
    space = rng.choice(_SPACES)
    if isinstance(value, dict):
        for index, (name, item) in enumerate(value.items()):
            out += ["," if index else "{", space, render_string(name, rng), space, ":", space]
            _render(item, rng, out)
            out.append(space)
        out.append("}" if value else "{" + space + "}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            out += ["," if index else "[", space]
            _render(item, rng, out)
            out.append(space)
        out.append("]" if value else "[" + space + "]")
    elif isinstance(value, str):
        out.append(render_string(value, rng))
    elif isinstance(value, float):
        out.append(render_float(value, rng))
    elif isinstance(value, int) and not isinstance(value, bool):
        out.append(rng.choice(["0", "-0"]) if value == 0 else str(value))
    else:
        out.append({None: "null", True: "true", False: "false"}[value])


def render_string(text: str, rng: random.Random) -> str:
    """A JSON string of `text`; each character as it is where that is allowed, or escaped."""
    escaped = rng.choice([0.0, 0.1, 0.9])
    return '"' + "".join(_render_char(char, rng, rng.random() < escaped) for char in text) + '"'


def _render_char(char: str, rng: random.Random, escape: bool) -> str:
    if not (escape or char in '"\\' or char < " " or "\ud800" <= char <= "\udfff"):
        return char
    if char in _SHORT_ESCAPES and rng.random() < 0.5:
        return "\\" + _SHORT_ESCAPES[char]
    units = char.encode("utf-16-be", "surrogatepass")
    digits = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
    return "".join("\\u" + (part.upper() if rng.random() < 0.5 else part) for part in digits)


def render_float(number: float, rng: random.Random) -> str:
    """The same decimal number with its point, zeros and exponent somewhere else."""
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    assert isinstance(exponent, int), "a finite number has an exponent"
    text = "".join(map(str, digits)) + "0" * rng.choice([0, 0, 1, 3])
    exponent -= len(text) - len(digits)
    point = rng.randrange(1, len(text) + 1)
    whole, fraction = text[:point].lstrip("0") or "0", text[point:]
    exponent += len(fraction)
    shown = ("-" if sign else "") + whole + ("." + fraction if fraction else "")
    if exponent == 0 and rng.random() < 0.5:
        return shown if fraction else shown + ".0"
    plus = rng.choice(["", "+"]) if exponent >= 0 else "-"
    zeros = rng.choice(["", "", "0", "00"])
    return shown + rng.choice("eE") + plus + zeros + str(abs(exponent))


# ---- judges -------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Whether two values are one: types, order of members, sign of zero, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return bool(a == b)


def reference(text: str) -> Any:
    """The value of a JSON text by the standard library's parser; ValueError for all we refuse."""
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("no Unicode text")
    value = json.loads(
        text,
        object_pairs_hook=_unique,
        parse_int=_short_enough,
        parse_float=_finite,
        parse_constant=_refuse,
    )
    if depth(text) > MAX_DEPTH:
        raise ValueError("too deep")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("duplicate")
    return dict(pairs)


def _short_enough(token: str) -> int:
    if len(token.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise ValueError("too long")
    return int(token)


def _finite(token: str) -> float:
    if math.isinf(float(token)):
        raise ValueError("out of range")
    return float(token)


def _refuse(token: str) -> Any:
    raise ValueError(token)


_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def tokens(text: str) -> list[str]:
    """The tokens of a valid text, spelled as they are there."""
    return _TOKENS.findall(text)


def depth(text: str) -> int:
    """How deep a valid text is nested."""
    level = deepest = 0
    for token in tokens(text):
        level += (token in "{[") - (token in "}]")
        deepest = max(deepest, level)
    return deepest
