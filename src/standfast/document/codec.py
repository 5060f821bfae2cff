"""Exact JSON in, exact JSON out: values to text and back.

The text of a document is its JSON without insignificant white space.  A value that Python encodes
gets the *canonical* text (msgspec's compact form); a text that comes from a file keeps its tokens
(`1.0e2` stays `1.0e2`).  Only values of JSON's own Python types are left to the encoder in C; an
exact one in Python looks at all others, so whatever JSON would change silently (NaN, bytes,
datetimes, tuples, int keys, sets) is refused before any I/O, with its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, cast

import msgspec

from standfast.document.parse import find_problem, minify
from standfast.document.values import json_path
from standfast.errors import CorruptData, DataError
from standfast.limits import MAX_DEPTH, MAX_DOCUMENT_BYTES, MAX_INTEGER_DIGITS

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_type: Callable[[object], type[Any]] = type
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
# Below these lengths the interpreter's limit on int(text) and str(int), which guards against
# hostile input, never applies, however an application has set it; our own limit is far above.
_SHORT_INTEGER_DIGITS = 640
_SHORT_INTEGER_BITS = 2100
#: Integers up to 64 bits need no second look.
_WORD = 1 << 64
#: Nesting takes two characters a level: what is not longer cannot be too deep.
_SHALLOW_BYTES = 2 * MAX_DEPTH
_TOKEN = re.compile(r'[{}\[\]]|"(?:[^"\\]++|\\.)*+"|[^\s{}\[\]:,"]++', re.DOTALL)


# ---- values to text -------------------------------------------------------------------------


def encode(value: Any) -> str:
    """The JSON text of a value; decoding it gives an equal value with the same key order.

    Accepted: dict with str keys, list, str, int, float, bool, None and subclasses of them, which
    come back as the plain type.  Refused with a DataError that names the `$.path`: everything else,
    NaN and Infinity, documents over the limits of depth, size and integer digits.
    """
    try:
        raw = _encode(value)
        if len(raw) > MAX_DOCUMENT_BYTES:  # before many times its size is made of it
            raise too_large(len(raw))
        exact = (len(raw) <= _SHALLOW_BYTES or not _too_deep(raw)) and _is_plain(value)
    except (TypeError, ValueError, RecursionError, OverflowError, msgspec.MsgspecError):
        exact, raw = False, b""
    if not exact:
        text = exact_text(value)
        _refuse_too_large(text)
        return text
    return raw.decode()


def _is_plain(value: Any) -> bool:
    """Whether a value is of JSON's own Python types throughout, which the C encoder keeps exactly.

    No subclasses: an OrderedDict has another order than that encoder sees.
    """
    outer = _type(value)
    items: Iterable[Any] = (value,)
    if outer is dict:
        for name in value:
            if _type(name) is not str:
                return False
        items = value.values()
    elif outer is list:
        items = value
    for item in items:
        kind = _type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not -_WORD < item < _WORD:
                return False
        elif kind is float:
            if item - item != 0.0:  # NaN and Infinity
                return False
        elif (kind is not dict and kind is not list) or not _is_plain(item):
            return False
    return True


def too_large(size_bytes: int) -> DataError:
    """The error for a document over the size limit."""
    return DataError(
        f"a document of {size_bytes} bytes of JSON is over the limit of {MAX_DOCUMENT_BYTES}",
        code="too_large",
        hint="split it into several documents",
        path="$",
    )


def _refuse_too_large(text: str) -> None:
    """Raise when a text is over the limit; short ones are not even encoded."""
    if len(text) * 4 > MAX_DOCUMENT_BYTES:
        size = len(text.encode())
        if size > MAX_DOCUMENT_BYTES:
            raise too_large(size)


def _too_deep(raw: bytes) -> bool:
    """Whether a text, which must be valid JSON, is nested deeper than the limit.

    Each round takes away the innermost brackets everywhere, at the speed of C.
    """
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def exact_text(value: Any) -> str:
    """The exact encoder in Python: for huge integers, lone surrogates, subclasses, and refusals.

    Without recursion, so that it works however deep in the stack its caller is.
    """
    out: list[str] = []
    path: list[str | int] = []
    inside: list[Iterator[tuple[str | int, Any]]] = []
    item = value
    while True:
        if isinstance(item, dict | list):
            if len(path) == MAX_DEPTH:
                what = f"nested deeper than {MAX_DEPTH} levels"
                raise _refused("too_deep", what, path, "flatten it")
            is_object = isinstance(item, dict)
            out.append("{" if is_object else "[")
            path.append("" if is_object else -1)
            inside.append(_entries(cast("dict[Any, Any] | list[Any]", item), path))
        else:
            out.append(_scalar_text(item, path))
        while inside:
            entry = next(inside[-1], None)
            if entry is not None:
                break
            inside.pop()
            out.append("]" if isinstance(path.pop(), int) else "}")
        else:
            return "".join(out)
        if out[-1] not in ("{", "["):
            out.append(",")
        path[-1], item = entry
        if isinstance(entry[0], str):
            out.append(_string_text(entry[0], path) + ":")


def _entries(
    container: dict[Any, Any] | list[Any], path: list[str | int]
) -> Iterator[tuple[str | int, Any]]:
    """The items with their names or indexes; `path` ends with the one that is being written."""
    if isinstance(container, list):
        yield from enumerate(container)
        return
    for name, item in list(container.items()):
        if not isinstance(name, str):
            raise _refused(
                "not_json",
                f"a member name is {type(name).__name__}, not str",
                path[:-1],
                "JSON would turn it into a string: use str(key) yourself",
            )
        yield str.__str__(name), item


def _scalar_text(value: Any, path: list[str | int]) -> str:
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _string_text(str.__str__(value), path)
    if isinstance(value, int):
        return _integer_text(int.__index__(value), path)
    if isinstance(value, float):
        number = float.__float__(value)
        if not math.isfinite(number):
            raise _refused("not_finite", f"{number!r} is not JSON", path, "use null")
        return _encode(number).decode()
    raise _refused(
        "not_json",
        f"{type(value).__name__} is not a JSON type",
        path,
        _TYPE_HINTS.get(type(value).__name__, "convert it to a JSON type first"),
    )


_TYPE_HINTS = {
    "tuple": "JSON would give it back as a list: use list(...)",
    "set": "use sorted(...)",
    "frozenset": "use sorted(...)",
    "bytes": "use base64 text",
    "datetime": "use .isoformat()",
    "date": "use .isoformat()",
    "Decimal": "use str(...)",
    "UUID": "use str(...)",
}


def _refused(code: str, what: str, path: list[str | int], hint: str) -> DataError:
    shown = json_path(path)
    return DataError(f"{what} - at `{shown}`", code=code, hint=hint, path=shown)


def _string_text(text: str, path: list[str | int]) -> str:
    if not _LONE_SURROGATE.search(text):
        return _encode(text).decode()
    escaped = json.dumps(text)
    if json.loads(escaped) != text:
        raise _refused(
            "surrogate_pair",
            "a string holds two surrogates in a row, which JSON reads as one character",
            path,
            "decode the text properly before it is stored",
        )
    return escaped


def _integer_text(number: int, path: list[str | int]) -> str:
    if number.bit_length() < _SHORT_INTEGER_BITS:
        return str(number)
    # log10(2), rounded down: a lower bound of the digits, since the conversion is quadratic.
    if number.bit_length() * 0.30102 <= MAX_INTEGER_DIGITS + 1:
        text = format(Decimal(number), "f")
        if len(text.lstrip("-")) <= MAX_INTEGER_DIGITS:
            return text
    raise _refused(
        "integer_too_long",
        f"an integer of more than {MAX_INTEGER_DIGITS} digits",
        path,
        "store it as a string",
    )


# ---- text to values -------------------------------------------------------------------------


def decode(text: str) -> Any:
    """The value of a stored document's text; CorruptData when it is not JSON within the limits."""
    try:
        return _decode(text)
    except (ValueError, RecursionError, UnicodeError, msgspec.MsgspecError):
        pass
    try:
        return _decode_slowly(text)
    except RecursionError:
        # Too deep, or only the caller's stack is.
        if find_problem(text) is None:
            return _decode_flat(text)
        cause = None
    except ValueError as error:
        cause = error
    raise CorruptData(
        "a stored document is not readable JSON",
        hint="restore it from a backup; nothing was changed",
    ) from cause


def _decode_slowly(text: str) -> Any:
    """The standard library's parser: lone surrogates, huge integers; refuses duplicate members."""
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_int=_integer,
        parse_float=_float,
        parse_constant=_no_constant,
    )


def _decode_flat(text: str) -> Any:
    """The value of a text that has no problem, without recursion."""
    root: list[Any] = []
    inside: list[Any] = [root]
    names: list[str | None] = [None]
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in ("}", "]"):
            inside.pop()
            names.pop()
            continue
        item: Any = {} if token == "{" else [] if token == "[" else _decode_slowly(token)
        container = inside[-1]
        if isinstance(container, list):
            cast("list[Any]", container).append(item)
        elif names[-1] is None:
            names[-1] = item
            continue
        else:
            container[names[-1]] = item
            names[-1] = None
        if token in ("{", "["):
            inside.append(item)
            names.append(None)
    return root[0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member name")
    return members


def _integer(token: str) -> int:
    if len(token.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise ValueError("an integer has too many digits")
    return int(token) if len(token) <= _SHORT_INTEGER_DIGITS else int(Decimal(token))


def _float(token: str) -> float:
    number = float(token)
    if math.isinf(number):
        raise ValueError("a number is beyond the range of a float")
    return number


def _no_constant(token: str) -> Any:
    raise ValueError(f"{token} is not JSON")


# ---- foreign text to document text -----------------------------------------------------------


def accept(text: str, *, source: str = "") -> str:
    """The document text of a JSON text from outside: checked, insignificant white space removed.

    Every token stays as it was written.  Anything that is not one JSON value within the limits is
    a DataError with line, column and `$.path`; `source` names the file in it.
    """
    if not _is_plausible(text):
        problem = find_problem(text)
        if problem is not None:
            raise problem.error(source)
    try:
        plain = msgspec.json.format(text, indent=-1)
    except (RecursionError, msgspec.MsgspecError):  # lone surrogates
        plain = minify(text)
    _refuse_too_large(plain)
    return plain


def _is_plausible(text: str) -> bool:
    """Whether the standard library's parser and our limits find nothing wrong with a text.

    `find_problem` knows where and why, but is many times slower; it looks at what this refuses.
    """
    try:
        raw = text.encode()
        _decode_slowly(text)
        return not _too_deep(raw)
    except (ValueError, RecursionError):
        return False


def canonical_or_none(raw: bytes) -> str | None:
    """The text itself when it is canonical and within the limits, else None (ask `accept`).

    One decode and one encode in C: equal bytes prove that nothing in it is unusual: no duplicate
    names, no white space, no odd numbers or escapes.
    """
    if len(raw) > MAX_DOCUMENT_BYTES:
        return None
    try:
        return raw.decode() if _encode(_decode(raw)) == raw and not _too_deep(raw) else None
    except (ValueError, RecursionError, UnicodeError, msgspec.MsgspecError):
        return None


def canonical_texts(parts: Sequence[msgspec.Raw]) -> list[str] | None:
    """The texts of many documents when all of them are canonical, else None (ask one by one).

    What `canonical_or_none` does for one, with the two calls into C shared by all.
    """
    joined = b"[" + b",".join(parts) + b"]"
    try:
        if _encode(_decode(joined)) != joined:
            return None
        texts = [str(part, "utf-8") for part in parts]
    except (ValueError, RecursionError, UnicodeError, msgspec.MsgspecError):
        return None
    if any(len(text) > _SHALLOW_BYTES and _over_limits(text) for text in texts):
        return None
    return texts


def _over_limits(text: str) -> bool:
    if len(text) * 4 <= MAX_DOCUMENT_BYTES and text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    raw = text.encode()
    return len(raw) > MAX_DOCUMENT_BYTES or _too_deep(raw)
