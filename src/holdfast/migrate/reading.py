"""From the bytes of a file to documents: encoding, shape, members, and the place of every error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from holdfast.backends.base import Form
from holdfast.codec import accept, canonical_or_none, decode
from holdfast.errors import DataError
from holdfast.jsontext import find_problem, minify, position
from holdfast.jsonvalue import json_path, type_name
from holdfast.limits import MAX_DEPTH
from holdfast.naming import key_problem, key_text

#: The key of a file that is kept as one document.
WHOLE_KEY = "default"
#: The field that names the records of an array unless --key says another.
AUTO_KEY_FIELD = "id"

_LINES = (".jsonl", ".ndjson")
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements_of = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How files are taken apart: see `holdfast migrate --help`."""

    whole: bool = False
    key_field: str | None = None
    split_default: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """A file as documents: `(key, text)` in the file's order, its form, and what to tell people."""

    documents: list[tuple[str, str]]
    form: Form
    encoding: str
    notes: tuple[str, ...] = ()


def read_contents(data: bytes, name: str, options: ReadOptions) -> Contents:
    """Take a file's bytes apart.

    An object gives one document per member; an array of records one per record; JSON Lines one
    per line; anything else, or `whole`, one document under the key `default`.  The text of each
    keeps its tokens as they were written.  DataError with `file:line:column` and `$.path` for the
    first thing that is not JSON within the limits.
    """
    text, encoding = decode_text(data, name)
    notes = () if encoding == "utf-8" else (f"decoded as {encoding}",)
    if name.lower().endswith(_LINES):
        documents, form = _read_lines(text, name, options)
        return Contents(documents, form, encoding, notes)
    first = text.lstrip(" \t\n\r")[:1]
    raw = data if encoding == "utf-8" else text.encode("utf-8", "surrogatepass")
    if options.whole or first not in ("{", "["):
        return Contents(_as_whole(text, name), Form("document"), encoding, notes)
    if first == "{":
        documents, more = _unwrap(_read_object(raw, text, name), options, name)
        return Contents(documents, Form("object"), encoding, notes + more)
    documents, form, more = _read_array(raw, text, name, options)
    return Contents(documents, form, encoding, notes + more)


def decode_text(data: bytes, name: str) -> tuple[str, str]:
    """The text and its encoding: by byte order mark or the pattern of NULs, else strict UTF-8.

    Source: RFC 8259 section 8.1; the pattern is that of RFC 4627 section 3.
    """
    encoding = "utf-8" if not data.strip(b"\x00") else json.detect_encoding(data)
    try:
        return data.decode(encoding, "strict"), encoding
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        line, column = position(before, len(before))
        where = f"{name}:{line}:{column}"
        raise DataError(
            f"{where}: byte 0x{data[error.start]:02X} is not {encoding.upper()} - at `$`",
            code="bad_encoding",
            hint="save the file as UTF-8",
            path="$",
            where=where,
        ) from None


def _as_whole(text: str, name: str) -> list[tuple[str, str]]:
    return [(WHOLE_KEY, accept(text, source=name))]


# ---- objects


def _read_object(raw: bytes, text: str, name: str) -> list[tuple[str, str]]:
    """One document per member, at the speed of C while nothing is unusual."""
    documents = _quick_object(raw)
    return _careful_object(text, name) if documents is None else documents


def _quick_object(raw: bytes) -> list[tuple[str, str]] | None:
    """The members of an object; None when anything in it needs the careful way.

    The lengths of names and values must add up to the whole: a member that stands twice would be
    missing, since a dict keeps only one.
    """
    try:
        plain = msgspec.json.format(raw, indent=-1)
        members = _members_of(plain)
        length = 1 + len(members) if members else 2
        documents: list[tuple[str, str]] = []
        for key, member in members.items():
            part = bytes(member)
            length += len(_encode(key)) + 1 + len(part)
            text = canonical_or_none(part)
            if text is None:
                text = accept(part.decode())
            if key_problem(key):
                return None
            documents.append((key, text))
    except (ValueError, RecursionError, DataError, msgspec.MsgspecError):
        return None
    return documents if length == len(plain) else None


def _careful_object(text: str, name: str) -> list[tuple[str, str]]:
    """One document per member, with the place of whatever is wrong."""
    _require_json(text, name, max_depth=MAX_DEPTH + 1)
    documents: list[tuple[str, str]] = []
    for key, start, part in _split_object(text):
        problem = key_problem(key)
        if problem:
            raise _at(text, start, name, "bad_key", problem, json_path([key]))
        try:
            documents.append((key, accept(part)))
        except DataError as error:
            raise _at(text, start, name, error.code, error.message, json_path([key])) from None
    return documents


def _require_json(text: str, name: str, *, max_depth: int = MAX_DEPTH) -> None:
    problem = find_problem(text, max_depth=max_depth)
    if problem is not None:
        raise problem.error(name)


def _at(text: str, offset: int, name: str, code: str, what: str, path: str) -> DataError:
    line, column = position(text, offset)
    where = f"{name}:{line}:{column}"
    return DataError(
        f"{where}: {what} - at `{path}`", code=code, hint="correct it there", path=path, where=where
    )


_scanner = json.JSONDecoder(parse_int=str, parse_float=str)


def _split_object(text: str) -> Iterator[tuple[str, int, str]]:
    """Key, offset and minified text of each member of an object that is known to be valid JSON."""
    pos = _skip(text, text.index("{") + 1)
    while text[pos] != "}":
        start = pos
        key, pos = cast("tuple[str, int]", _scanner.raw_decode(text, pos))
        pos = _skip(text, _skip(text, pos) + 1)
        _, end = _scanner.raw_decode(text, pos)
        yield key, start, minify(text[pos:end])
        pos = _skip(text, end)
        if text[pos] == ",":
            pos = _skip(text, pos + 1)


def _skip(text: str, pos: int) -> int:
    while text[pos] in " \t\n\r":
        pos += 1
    return pos


def _unwrap(
    documents: list[tuple[str, str]], options: ReadOptions, name: str
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Recognise the older layout, one member `default` that holds everything; split it if asked."""
    if len(documents) != 1 or documents[0][0] != WHOLE_KEY:
        return documents, ()
    inner = split_members(documents[0][1])
    if inner is None:
        return documents, ()
    if options.split_default:
        for key, _ in inner:
            if key_problem(key):
                raise _at("", 0, name, "bad_key", key_problem(key), json_path([WHOLE_KEY, key]))
        return inner, (f"the one member `{WHOLE_KEY}` was split into {len(inner)} documents",)
    return documents, (
        f"looks like the older layout with everything under `{WHOLE_KEY}`:"
        f" --split-default makes {len(inner)} documents of it",
    )


def split_members(text: str) -> list[tuple[str, str]] | None:
    """The members of a document that is an object of objects; None when it is anything else."""
    if not text.startswith("{"):
        return None
    members = [(key, part) for key, _, part in _split_object(text + " ")]
    if not members or not all(part.startswith("{") for _, part in members):
        return None
    return members


# ---- arrays and lines


def _read_array(
    raw: bytes, text: str, name: str, options: ReadOptions
) -> tuple[list[tuple[str, str]], Form, tuple[str, ...]]:
    try:
        elements = [bytes(part) for part in _elements_of(msgspec.json.format(raw, indent=-1))]
        parts = [canonical_or_none(part) or accept(part.decode()) for part in elements]
    except (ValueError, RecursionError, DataError, msgspec.MsgspecError):
        _require_json(text, name, max_depth=MAX_DEPTH + 1)
        parts = [accept(part) for part in _split_array(text)]
    places = [f"{name}: record {index + 1}" for index in range(len(parts))]
    documents, field = _keyed(parts, places, options)
    if field is None:
        note = "kept as one document: give --key FIELD to make one of each record"
        return _as_whole(text, name), Form("document"), (note,) if parts else ()
    return documents, Form("array", field), (f"records are keyed by `{field}`",)


def _split_array(text: str) -> Iterator[str]:
    pos = _skip(text, text.index("[") + 1)
    while text[pos] != "]":
        _, end = _scanner.raw_decode(text, pos)
        yield minify(text[pos:end])
        pos = _skip(text, end)
        if text[pos] == ",":
            pos = _skip(text, pos + 1)


def _read_lines(text: str, name: str, options: ReadOptions) -> tuple[list[tuple[str, str]], Form]:
    parts: list[str] = []
    places: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip(" \t\r"):
            continue
        problem = None
        part = canonical_or_none(line.strip(" \t\r").encode("utf-8", "surrogatepass"))
        if part is None:
            problem = find_problem(line)
        if problem is not None:
            raise _moved(problem.error(name), name, number, problem.column)
        parts.append(part if part is not None else minify(line))
        places.append(f"{name}:{number}")
    if not parts:
        _require_json(text, name)
        raise DataError(
            f"{name}:1:1: no line holds a value - at `$`",
            code="empty",
            hint="an empty file is not the same as no data: look for a backup beside it",
            path="$",
            where=f"{name}:1:1",
        )
    documents, field = ([], None) if options.whole else _keyed(parts, places, options)
    if field is None:
        return [(WHOLE_KEY, accept("[" + ",".join(parts) + "]", source=name))], Form("lines")
    return documents, Form("lines", field)


def _moved(error: DataError, name: str, line: int, column: int) -> DataError:
    """The same error of one line, at its place in the file."""
    _, _, rest = error.message.partition(": ")
    where = f"{name}:{line}:{column}"
    return DataError(
        f"{where}: {rest}", code=error.code, hint=error.hint, path=error.path, where=where
    )


def _keyed(
    parts: list[str], places: list[str], options: ReadOptions
) -> tuple[list[tuple[str, str]], str | None]:
    """Records by the field that names them; the field is None when they have no such field."""
    field = options.key_field or AUTO_KEY_FIELD
    documents: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    for part, place in zip(parts, places, strict=True):
        record = decode(part)
        key, problem = _record_key(record, field)
        if problem and options.key_field is None:
            return [], None
        if problem:
            raise _record_error(place, "no_key", problem, field)
        if key in seen:
            raise _record_error(place, "duplicate_key", f"the same `{field}` as {seen[key]}", field)
        seen[key] = place
        documents.append((key, part))
    return documents, field if documents else None


def _record_key(record: Any, field: str) -> tuple[str, str]:
    """A record's key, or why it has none."""
    if not isinstance(record, dict):
        return "", f"{type_name(record)} is not a record"
    value: Any = cast("dict[str, Any]", record).get(field)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return "", f"its `{field}` is {type_name(value)}, not a string or an integer"
    try:
        return key_text(value), ""
    except (DataError, ValueError):
        return "", f"its `{field}` cannot be a key"


def _record_error(place: str, code: str, what: str, field: str) -> DataError:
    return DataError(
        f"{place}: {what} - at `$.{field}`",
        code=code,
        hint="name another field with --key, or keep the file as one document with --whole",
        path=f"$.{field}",
        where=place,
    )
