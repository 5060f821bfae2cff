"""What changed in a dict since it was loaded: pure, and at the speed of C where nothing did.

A document is surely unchanged when it is equal to the private copy of what was loaded *and* encodes
to the same bytes.  Each test alone has its traps (True == 1; NaN is written as null, a set as a
list); both together have none, and whatever fails one of them is looked at exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NamedTuple, cast

import msgspec

from holdfast.codec import decode, encode
from holdfast.errors import DataError
from holdfast.jsonvalue import json_path
from holdfast.limits import MAX_DEPTH
from holdfast.naming import key_text

_encode = msgspec.json.Encoder().encode
_Path = tuple[str | int, ...]


class Known(NamedTuple):
    """A document as it was loaded or saved: a copy that nobody else has, and its bytes.

    `raw` is None where msgspec cannot encode it (integers beyond 64 bits, lone surrogates).
    """

    value: Any
    raw: bytes | None

    def __repr__(self) -> str:
        return "Known()"


class Difference(NamedTuple):
    """The documents to put, by key, and the keys to delete."""

    puts: dict[str, Any]
    deletes: list[str]

    def __repr__(self) -> str:
        return f"Difference({len(self.puts)} puts, {len(self.deletes)} deletes)"


def known(text: str) -> Known:
    """What is remembered of a stored document."""
    return remembered(decode(text))


def remembered(value: Any) -> Known:
    """What is remembered of a value that nobody else has."""
    try:
        return Known(value, _encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return Known(value, None)


def difference(data: Mapping[Any, Any], base: Mapping[str, Known]) -> Difference:
    """What has to be written to make the documents of `base` those of `data`.

    The values to put are plain JSON (`plain`), and nobody else has them.  DataError, with the
    `$.path`, for what JSON cannot hold and for two keys that are one in JSON.
    """
    puts: dict[str, Any] = {}
    seen: set[str] = set()
    for name, value in data.items():
        key = key_text(name)
        if key in seen:
            raise _refused("duplicate_key", "an int key and a string are one in JSON", (key,))
        seen.add(key)
        before = base.get(key)
        if before is not None and _surely_same(value, before):
            continue
        # Through its text: so it is checked, and shares nothing with the caller's dict.
        text = encode(plain(value, (key,)))
        if before is None or text != encode(before.value):
            puts[key] = decode(text)
    return Difference(puts, [key for key in base if key not in seen])


def _surely_same(value: Any, before: Known) -> bool:
    try:
        return bool(value == before.value) and _encode(value) == before.raw
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False


def plain(value: Any, path: _Path = ()) -> Any:
    """A value as `json.dump` would write it, and a stated rule for what it would not.

    Tuples are lists.  An int key is its decimal string; other keys that are no strings, and an
    int and a string that are one key then, are refused.  An aware datetime is its ISO 8601 text, a
    date too; a naive datetime is refused.  Everything else is left to the codec, which refuses what
    is not JSON.
    """
    if len(path) > MAX_DEPTH and isinstance(value, dict | list | tuple):
        raise _refused("too_deep", f"nested deeper than {MAX_DEPTH} levels", path[:8])
    if isinstance(value, dict):
        members: dict[str, Any] = {}
        for name, item in cast("dict[Any, Any]", value).items():
            member = _member(name, path)
            if member in members:
                what = "an int key and a string are one in JSON"
                raise _refused("duplicate_key", what, (*path, member))
            members[member] = plain(item, (*path, member))
        return members
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [plain(item, (*path, index)) for index, item in enumerate(items)]
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            what = "a datetime without a timezone says no time"
            raise _refused("naive_datetime", what, path, "datetime.now(UTC)")
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return value


def _member(name: object, path: _Path) -> str:
    if isinstance(name, str):
        return str.__str__(name)
    if isinstance(name, int) and not isinstance(name, bool):
        return str(int(name))
    what = f"a member name is {type(name).__name__}, neither str nor int"
    raise _refused("not_json", what, path)


def _refused(
    code: str, what: str, path: _Path, hint: str = "nothing was written; correct it there"
) -> DataError:
    shown = json_path(path)
    return DataError(f"{what} - at `{shown}`", code=code, hint=hint, path=shown)
