"""Which document texts PostgreSQL's jsonb keeps exactly, and what replaces the rest.

Source: PostgreSQL documentation, section 8.14, "JSON Types".
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast

import msgspec

from standfast.document.codec import decode, encode, exact_text
from standfast.document.parse import minify

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
# Escapes in canonical text: the first two alternatives are harmless, the third jsonb refuses.
_ESCAPE = re.compile(
    r"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u(?:0000|[dD][89a-fA-F]..)", re.DOTALL
)


class JsonbColumns(NamedTuple):
    """Two columns of a PostgreSQL row: the queryable value, and the exact text if it differs."""

    data: str
    raw: str | None

    def __repr__(self) -> str:
        # A repr ends up in logs and tracebacks: it must not show the document.
        return f"JsonbColumns(raw={'kept' if self.raw is not None else None})"


def jsonb_columns(text: str) -> JsonbColumns:
    """Split a document's text into `data` (for jsonb) and `raw` (exact text, None when needless).

    jsonb sorts members by the length of their names, normalises numbers and refuses U+0000 and
    lone surrogates; `raw` is kept whenever any of that would change what comes back.  In `data`,
    U+0000 and lone surrogates become U+FFFD, and numbers have the digits of Python's repr.
    """
    value = decode(text)
    try:
        canonical = _encode(value).decode()
    except (ValueError, RecursionError, UnicodeError, msgspec.MsgspecError):
        canonical = exact_text(value)
    data = _ESCAPE.sub(_harmless, canonical) if "\\u" in canonical else canonical
    return JsonbColumns(data, None if data == text and keeps_exactly(value) else text)


def jsonb_columns_of_many(texts: Sequence[str], *, kept: bool | None = None) -> list[JsonbColumns]:
    """`jsonb_columns` of each text, with the calls into C shared by all that are canonical.

    `kept` is False where it is known that jsonb does not keep them exactly.
    """
    joined = "[" + ",".join(texts) + "]"
    try:
        values: list[Any] = _decode(joined)
        canonical = _encode(values).decode() == joined and "\\u" not in joined
    except (ValueError, RecursionError, UnicodeError, msgspec.MsgspecError):
        values, canonical = [], False
    if not canonical:
        return [jsonb_columns(text) for text in texts]
    return [
        JsonbColumns(text, None if kept is None and keeps_exactly(value) else text)
        for text, value in zip(texts, values, strict=True)
    ]


def compact(text: str) -> str:
    """A document's text without the white space that jsonb writes; every token stays as it is."""
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):  # lone surrogates
        return minify(text)


def same_in_jsonb(one: str, other: str) -> bool:
    """Whether two texts are one jsonb value: numbers are decimals there, and have no -0."""
    return _jsonb_value(one) == _jsonb_value(other)


def _jsonb_value(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _harmless(match: re.Match[str]) -> str:
    """U+FFFD for what jsonb refuses: U+0000 and every surrogate that is not half of a pair."""
    escape = match.group()
    return "\ufffd" if len(escape) == 6 else escape


def keeps_exactly(value: Any) -> bool:
    """Whether jsonb gives a value back with the same key order and the same numbers."""
    rest: list[Any] = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            members = cast("dict[str, Any]", item)
            last = (-1, b"")
            for name in members:
                raw = name.encode()
                this = (len(raw), raw)
                if this <= last:  # jsonb sorts them so
                    return False
                last = this
            rest.extend(members.values())
        elif isinstance(item, list):
            rest.extend(cast("list[Any]", item))
        elif isinstance(item, float):
            shown = repr(item)
            if "e" in shown or shown == "-0.0":
                return False
    return True


def project(value: Any) -> str:
    """The jsonb text of a value, for queries (`find`) on the `data` column."""
    return jsonb_columns(encode(value)).data
