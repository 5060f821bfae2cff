"""What changed in a dict since it was loaded: pure, and at the speed of C where nothing did.

A document is surely unchanged when it is equal to the private copy of what was loaded *and* encodes
to the same bytes.  Each test alone has its traps (True == 1, noon in Paris == 11:00 in London; NaN
is written as null, bytes as base64, a set as a list); both together have none, and whatever fails
one of them is looked at exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from itertools import compress
from operator import ne
from typing import Any, NamedTuple, cast

import msgspec

from standfast.document.codec import decode, encode
from standfast.document.names import key_text
from standfast.document.values import json_path
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH

_encode = msgspec.json.Encoder().encode
#: What encoding and comparing raise for values that are not plain JSON: those are looked at.
_ODD = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)

Path = tuple[str | int, ...]
ROOT: Path = ()


class Known(NamedTuple):
    """What is remembered of one document.

    `text` is the JSON that it stands for.  `value` is a copy of the caller's value in the caller's
    own shape (tuples, int keys, datetimes), which no other code holds, and `raw` its encoding by
    msgspec (None: it cannot encode it, so the value is compared slowly each time).
    """

    text: str
    value: Any
    raw: bytes | None

    def __repr__(self) -> str:
        return "Known()"


class Basis:
    """The documents that a caller's dict was made from, as they were loaded or saved last."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.raws: dict[str, bytes | None] = {}

    def __repr__(self) -> str:
        return f"Basis({len(self.texts)} documents)"

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Basis:
        """The basis of documents that were decoded just now, before other code holds them."""
        basis = cls()
        # A copy that shares strings and numbers: what is compared later is the same object mostly.
        basis.values = msgspec.to_builtins(dict(data))
        raws = basis.raws = {key: _raw(value) for key, value in data.items()}
        basis.texts = {
            key: encode(data[key]) if raw is None else raw.decode() for key, raw in raws.items()
        }
        return basis

    def remember(self, key: str, known: Known) -> None:
        """From now on this is what the caller's document was made from."""
        self.texts[key], self.values[key], self.raws[key] = known

    def forget(self, key: str) -> None:
        """The caller's dict no longer has this document."""
        for remembered in (self.texts, self.values, self.raws):
            remembered.pop(key, None)


class Difference(NamedTuple):
    """The documents to put, by key, and the keys to delete.

    `reshaped` are documents that look different and are the same JSON (a list became a tuple): they
    are worth remembering in their new shape, and need no write.
    """

    puts: dict[str, Known]
    deletes: list[str]
    reshaped: dict[str, Known]

    def __repr__(self) -> str:
        return f"Difference({len(self.puts)} puts, {len(self.deletes)} deletes)"


def difference(data: Mapping[Any, Any], basis: Basis, *, whole: bool = False) -> Difference:
    """What has to be written to make the documents of `basis` those of `data`.

    `data` is read once; what is returned shares no dict or list with it.  `whole`: its one member
    is the whole file, for the paths of errors.  DataError, with the `$.path`, for what JSON cannot
    hold and for two keys that are one in JSON.
    """
    named = _named(data, basis)
    puts: dict[str, Known] = {}
    reshaped: dict[str, Known] = {}
    for name in _suspects(named, basis):
        key = key_text(name)
        found = look(named[name], ROOT if whole else (key,))
        into = reshaped if basis.texts.get(key) == found.text else puts
        into[key] = found
    return Difference(puts, [key for key in basis.texts if key not in named], reshaped)


def _named(data: Mapping[Any, Any], basis: Basis) -> dict[str, Any]:
    """The members by their keys as they are stored."""
    members = dict(data)
    if members.keys() <= basis.texts.keys():
        return members  # keys that are stored already are in order
    named: dict[str, Any] = {}
    for name, value in members.items():
        key = key_text(name)
        if key in named:
            raise _refused("duplicate_key", _TWICE, (key,))
        named[key] = value
    return named


def _suspects(named: dict[str, Any], basis: Basis) -> Iterable[str]:
    """The keys of all documents that may have changed; the others surely have not."""
    keys, values = list(named), list(named.values())
    try:
        # Without a line of Python for each document: this decides what a save costs.
        by_raw = compress(keys, map(ne, map(_encode, values), map(basis.raws.get, keys)))
        by_value = compress(keys, map(ne, values, map(basis.values.get, keys)))
        return dict.fromkeys([*by_raw, *by_value])
    except _ODD:
        return [key for key in keys if not _surely_same(named[key], key, basis)]


def _surely_same(value: Any, key: str, basis: Basis) -> bool:
    try:
        return _encode(value) == basis.raws.get(key) and bool(value == basis.values.get(key))
    except _ODD:
        return False


def look(value: Any, path: Path = ROOT) -> Known:
    """The JSON of a value as `json.dump` would write it, with stated rules for what it would not.

    Tuples are lists.  An int key is its decimal string; other keys that are not strings are
    refused, and so are an int and a string that become the same key.  A date or an aware datetime
    is its ISO 8601 text; a naive datetime is refused, as is anything else that is not JSON:
    DataError with its path.
    """
    try:
        text = encode(value)
    except DataError:
        return _look_closely(value, path)
    copy = decode(text)
    return Known(text, copy, _raw(copy))


def _look_closely(value: Any, path: Path) -> Known:
    plain, shape = _copied(value, path, 0)
    try:
        text = encode(plain)
    except DataError as error:
        what, place = error.message.rsplit(" - at ", 1)[0], json_path(path) + error.path[1:]
        raise DataError(
            f"{what} - at `{place}`", code=error.code, hint=error.hint, path=place
        ) from None
    return Known(text, shape, _raw(shape))


def _raw(value: Any) -> bytes | None:
    try:
        return _encode(value)
    except _ODD:
        return None


def _copied(value: Any, path: Path, depth: int) -> tuple[Any, Any]:
    """A value as plain JSON, and a copy of it as it is, both from reading it once.

    What the codec has to refuse or to make plain (NaN, sets, enums) is left to it.
    """
    if isinstance(value, dict | list | tuple) and depth == MAX_DEPTH:
        what = f"nested deeper than {MAX_DEPTH} levels"
        raise _refused("too_deep", what, path, hint="flatten it")
    if isinstance(value, dict):
        return _copied_members(cast("dict[Any, Any]", value), path, depth)
    if isinstance(value, list | tuple):
        pairs = [
            _copied(item, (*path, index), depth + 1)
            for index, item in enumerate(cast("list[Any]", value))
        ]
        shape = [shape for _, shape in pairs]
        return [plain for plain, _ in pairs], shape if isinstance(value, list) else tuple(shape)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            what = "a datetime without a timezone is ambiguous"
            raise _refused("naive_datetime", what, path, hint="use datetime.now(UTC)")
        return datetime.isoformat(value), value
    return (date.isoformat(value), value) if isinstance(value, date) else (value, value)


def _copied_members(members: dict[Any, Any], path: Path, depth: int) -> tuple[Any, Any]:
    plain: dict[str, Any] = {}
    shape: dict[Any, Any] = {}
    for name, item in list(members.items()):
        member = _member(name, path)
        if member in plain:
            raise _refused("duplicate_key", _TWICE, (*path, member))
        plain[member], shape[name] = _copied(item, (*path, member), depth + 1)
    return plain, shape


def _member(name: object, path: Path) -> str:
    if isinstance(name, str):
        return str.__str__(name)
    if isinstance(name, int) and not isinstance(name, bool):
        try:
            return str(int(name))
        except ValueError:  # the interpreter's limit on digits
            raise _refused("not_json", "a member name of too many digits", path) from None
    what = f"a member name is {type(name).__name__}, neither str nor int"
    raise _refused("not_json", what, path, hint="use str(key) where that is what you mean")


_TWICE = "an int key and a string key are the same key in JSON"


def _refused(code: str, what: str, path: Path, *, hint: str = "keep one of the two") -> DataError:
    shown = json_path(path)
    return DataError(f"{what} - at `{shown}`", code=code, hint=hint, path=shown)
