"""Arrays of records and JSON Lines as documents: which field names a record, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import msgspec

from standfast.document.codec import accept, canonical_or_none, decode
from standfast.document.names import key_text
from standfast.document.parse import find_problem
from standfast.document.values import MISSING, json_path, type_name
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH
from standfast.migrate.splitting import (
    WHOLE_KEY,
    accept_part,
    error_at,
    require_json,
    split_array,
    texts_of,
)

#: The field that names the records of an array unless --key says another.
AUTO_KEY_FIELD = "id"

_RECORD_HINT = "name another field with --key, or keep the file as one document with --whole"
_elements_of = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_array(
    raw: bytes, text: str, name: str, key_field: str | None
) -> tuple[list[tuple[str, str]], str | None]:
    """The records of an array by key, and the field that names them.

    `raw` is `text` in UTF-8.  Without a `key_field` the field is `id`, or None (and there are no
    documents) when it does not name every element.
    """
    parts = _quick_array(raw)
    if parts is None:
        parts = _careful_array(text, name)
    return _keyed(parts, key_field, _Elements(text, name))


def _quick_array(raw: bytes) -> list[str] | None:
    """The elements of an array; None when anything in it needs the careful way."""
    try:
        return texts_of(_elements_of(msgspec.json.format(raw, indent=-1)))
    except (ValueError, RecursionError, DataError, msgspec.MsgspecError):
        return None


def _careful_array(text: str, name: str) -> list[str]:
    """The elements of an array, with the place of whatever is wrong."""
    require_json(text, name, max_depth=MAX_DEPTH + 1)
    return [
        accept_part(part, text, start, name, json_path([index]))
        for index, (start, part) in enumerate(split_array(text))
    ]


def read_lines(
    text: str, name: str, key_field: str | None, *, whole: bool
) -> tuple[list[tuple[str, str]], str | None]:
    """The records of JSON Lines by key, and the field that names them.

    The field is None, and there is one document, an array of all lines, when `whole` asks for that
    or no `key_field` is given and `id` does not name every line.
    """
    parts: list[str] = []
    places = _Lines(name, [])
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip(" \t\r")
        if bare:
            parts.append(_read_line(line, bare, name, number))
            places.numbers.append(number)
    if not parts:
        require_json(text, name)
        raise error_at(
            *(text, 0, name, "empty", "no line holds a value", "$"),
            hint="an empty file is not the same as no data: look for a backup beside it",
        )
    documents, field = ([], None) if whole else _keyed(parts, key_field, places)
    if field is None:
        documents = [(WHOLE_KEY, _joined_lines(parts, places))]
    return documents, field


def _read_line(line: str, bare: str, name: str, number: int) -> str:
    part = canonical_or_none(bare.encode("utf-8", "surrogatepass"))
    if part is not None:
        return part
    problem = find_problem(line)
    if problem is not None:
        raise replace(problem, line=number).error(name)
    return accept_part(bare, "\n" * (number - 1), number - 1, name, "$")


def _joined_lines(parts: list[str], places: _Lines) -> str:
    """All lines as one document, an array."""
    try:
        return accept("[" + ",".join(parts) + "]")
    except DataError as error:
        hint = "make one document of each line with --key FIELD"
        if error.code != "too_deep":
            raise places.error(0, error.code, error.message, hint=hint) from None
        deepest = (i for i, part in enumerate(parts) if find_problem(part, max_depth=MAX_DEPTH - 1))
        what = f"with the array that holds the lines, nested deeper than {MAX_DEPTH} levels"
        raise places.error(next(deepest), "too_deep", what, hint=hint) from None


class _Elements:
    """Where the records of an array are, found out only when an error needs it."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name

    def error(self, index: int, code: str, what: str, *field: str) -> DataError:
        """An error of this record."""
        offset, _ = next(islice(split_array(self._text), index, None))
        path = json_path([index, *field])
        return error_at(self._text, offset, self._name, code, what, path, hint=_RECORD_HINT)

    def name(self, index: int) -> str:
        """The record, for a message about another one."""
        return f"`$[{index}]`"


@dataclass(frozen=True, slots=True)
class _Lines:
    """Where the records of JSON Lines are: the numbers of their lines."""

    file: str
    numbers: list[int]

    def error(
        self, index: int, code: str, what: str, *field: str, hint: str = _RECORD_HINT
    ) -> DataError:
        """An error of this record."""
        before = "\n" * (self.numbers[index] - 1)
        return error_at(*(before, len(before), self.file, code, what, json_path(field)), hint=hint)

    def name(self, index: int) -> str:
        """The record, for a message about another one."""
        return f"line {self.numbers[index]}"


def _keyed(
    parts: list[str], key_field: str | None, places: _Elements | _Lines
) -> tuple[list[tuple[str, str]], str | None]:
    """Records by the field that names them; the field is None when they have no such field."""
    field = key_field or AUTO_KEY_FIELD
    documents: list[tuple[str, str]] = []
    seen: dict[str, int] = {}
    for index, part in enumerate(parts):
        record = decode(part)
        key, problem = record_key(record, field)
        if problem and key_field is None:
            return [], None
        if problem:
            inside = [field] if isinstance(record, dict) else []
            raise places.error(index, "no_key", problem, *inside)
        if key in seen:
            what = f"the same `{field}` as {places.name(seen[key])}"
            raise places.error(index, "duplicate_key", what, field)
        seen[key] = index
        documents.append((key, part))
    return documents, field if documents or key_field else None


def record_key(record: Any, field: str) -> tuple[str, str]:
    """The key that a record's field gives it, or why it has none."""
    if not isinstance(record, dict):
        return "", f"{type_name(record)} is not a record"
    value: Any = cast("dict[str, Any]", record).get(field, MISSING)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return "", f"its `{field}` is {type_name(value)}, not a string or an integer"
    try:
        return key_text(value), ""
    except (DataError, ValueError):
        return "", f"its `{field}` cannot be a key"


def unique_fields(text: str) -> list[str]:
    """The fields of an array of records that could name them: a different key in each record.

    Those whose name ends with `id` come first.
    """
    records: Any = decode(text)
    if not records or not all(isinstance(record, dict) for record in records):
        return []
    found: list[str] = []
    for field in records[0]:
        keys: set[str] = set()
        for record in records:
            key, problem = record_key(record, field)
            if problem or key in keys:
                break
            keys.add(key)
        else:
            found.append(field)
    return sorted(found, key=lambda field: not field.lower().endswith("id"))
