"""From the bytes of a file to documents: encoding, shape, members, and the place of every error."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from standfast.backends.base import Form
from standfast.document.codec import accept
from standfast.document.names import key_problem
from standfast.document.values import json_path
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH
from standfast.migrate.recognise import expanded, looks_like, one_value
from standfast.migrate.records import read_array, read_lines, unique_fields
from standfast.migrate.splitting import (
    WHOLE_KEY,
    accept_part,
    error_at,
    require_json,
    split_at,
    split_members,
    split_object,
    texts_of,
    wrapped_note,
)

#: Fields that a note names.
_MAX_NAMED_FIELDS = 5
_LINES = (".jsonl", ".ndjson")
# How Python's decoders say that the last character is incomplete.
_CUT_OFF = ("unexpected end of data", "truncated data")
_OBJECT_FOLLOWS = re.compile(rb"[ \t\n\r]*\{[ \t\n\r]*\"")
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How one file is taken apart: see `standfast migrate --help`.

    `lines`: it is JSON Lines, whatever its name.  `split` is a JSON pointer to the object whose
    members become documents; with `rest` it is what stands outside of it.  `table` is a table of
    a SQLite file.  `key` is the key of the one document that the whole file is.
    """

    whole: bool = False
    key_field: str | None = None
    split_default: bool = False
    lines: bool = False
    split: str | None = None
    rest: bool = False
    table: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """A file as documents: `(key, text)` in the file's order, its form, and notes for people."""

    documents: list[tuple[str, str]]
    form: Form
    encoding: str
    notes: tuple[str, ...] = ()
    empty_list: bool = False


def read_contents(data: bytes, name: str, options: ReadOptions) -> Contents:
    """Take a file's bytes apart.

    An object gives one document per member; an array of records one per record; JSON Lines one
    per line; anything else, or `whole`, one document under the key `default`.  The text of each
    keeps its tokens as they were written.  What is compressed with gzip is read all the same, and
    one JSON value in a file that is named like JSON Lines, too.  DataError with `file:line:column`
    and `$.path` for the first thing that is not JSON within the limits; its hint says what the
    content looks like instead.
    """
    if options.table is not None:
        from standfast.migrate.tables import read_table  # SQLite's driver: not for --help

        documents, notes = _unwrap(read_table(data, name, options.table), options, name)
        return Contents(documents, Form("object"), "sqlite", notes)
    data, name, notes = expanded(data, name)
    if options.lines and not name.lower().endswith(_LINES):
        name += _LINES[0]
    try:
        contents = _read_json(data, name, options)
    except DataError as error:
        plain = one_value(data, name) if not options.lines else None
        if plain is None:
            error.hint = looks_like(data, name) or error.hint
            raise
        contents = _read_json(plain, name + ".json", options)
        notes = (*notes, "read as one JSON value, which it is in spite of its name")
    contents = replace(contents, notes=(*notes, *contents.notes))
    if options.key is not None:
        return replace(
            contents, documents=[(options.key, contents.documents[0][1])], form=Form("object")
        )
    return contents


def _read_json(data: bytes, name: str, options: ReadOptions) -> Contents:
    if options.split is not None:
        text, encoding = decode_text(data, name)
        documents = split_at(_as_whole(text, name)[0][1], options.split, name, rest=options.rest)
        return Contents(documents, Form("document" if options.rest else "object"), encoding)
    splits = not options.whole and not name.lower().endswith(_LINES)
    if splits and _OBJECT_FOLLOWS.match(data):
        # The quick way reads UTF-8 only, and finds out by itself when the bytes are not.
        quick = _quick_object(data)
        if quick is not None:
            documents, more = _unwrap(quick, options, name)
            return Contents(documents, Form("object"), "utf-8", more + wrapped_note(documents))
    text, encoding = decode_text(data, name)
    notes = () if encoding == "utf-8" else (f"decoded as {encoding}",)
    if name.lower().endswith(_LINES):
        documents, field = read_lines(text, name, options.key_field, whole=options.whole)
        if field is None and not options.whole:
            notes += (_unkeyed_note(documents[0][1], "line"),)
        return Contents(documents, Form("lines", field), encoding, notes)
    first = text.lstrip(" \t\n\r")[:1]
    raw = data if encoding == "utf-8" else text.encode("utf-8", "surrogatepass")
    if options.whole or first not in ("{", "["):
        return Contents(_as_whole(text, name), Form("document"), encoding, notes)
    if first == "{":
        documents, more = _unwrap(_read_object(raw, text, name), options, name)
        return Contents(documents, Form("object"), encoding, notes + more + wrapped_note(documents))
    documents, field = read_array(raw, text, name, options.key_field)
    if field is not None:
        notes += (f"records are keyed by `{field}`",)
        return Contents(documents, Form("array", field), encoding, notes)
    whole = _as_whole(text, name)
    empty = whole[0][1] == "[]"
    if not empty:
        notes += (_unkeyed_note(whole[0][1], "record"),)
    return Contents(whole, Form("document"), encoding, notes, empty_list=empty)


def _unkeyed_note(text: str, each: str) -> str:
    note = f"kept as one document: give --key FIELD to make one of each {each}"
    fields = unique_fields(text)
    if not fields:
        return note
    named = ", ".join(f"`{field}`" for field in fields[:_MAX_NAMED_FIELDS])
    return f"{note}; different in each: {named}"


def decode_text(data: bytes, name: str) -> tuple[str, str]:
    """The text and its encoding: by byte order mark or the pattern of NULs, else strict UTF-8.

    Source: RFC 8259 section 8.1; the pattern is that of RFC 4627 section 3.
    """
    # No text in any encoding begins or ends with four NULs: they do not show that it is UTF-32.
    written = data.rstrip(b"\x00") if data.endswith(bytes(4)) else data
    lost = written[:4] == bytes(4) or (written is not data and len(written) < 4)
    encoding = "utf-8" if lost else json.detect_encoding(data)
    try:
        return data.decode(encoding, "strict"), encoding
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        place = (before, len(before))
        if error.reason in _CUT_OFF:
            what, code, hint = "ends inside a character", "truncated", "restore it from a copy"
        else:
            what = f"byte 0x{data[error.start]:02X} is not {encoding.upper()}"
            code, hint = "bad_encoding", "save the file as UTF-8"
        raise error_at(*place, name, code, what, "$", hint=hint) from None


def _as_whole(text: str, name: str) -> list[tuple[str, str]]:
    try:
        return [(WHOLE_KEY, accept(text, source=name))]
    except DataError as error:
        if error.where:
            raise
        raise error_at(text, 0, name, error.code, error.message, "$", hint=error.hint) from None


# ---- objects


def _read_object(raw: bytes, text: str, name: str) -> list[tuple[str, str]]:
    """One document per member, at the speed of C while nothing is unusual."""
    documents = _quick_object(raw)
    return _careful_object(text, name) if documents is None else documents


def _quick_object(raw: bytes) -> list[tuple[str, str]] | None:
    """The members of an object; None when anything in it needs the careful way.

    The members are put together again and compared with the whole: a name that stands twice would
    be missing, since a dict keeps only one.
    """
    try:
        plain = msgspec.json.format(raw, indent=-1)
        members = _members_of(plain)
        if _encode(members) != plain and _has_duplicates(plain):
            return None
        if any(map(key_problem, members)):
            return None
        return list(zip(members, texts_of(list(members.values())), strict=True))
    except (ValueError, RecursionError, DataError, msgspec.MsgspecError):
        return None


class _Duplicate(ValueError):
    """A member name stands twice in one object."""


def _has_duplicates(plain: bytes) -> bool:
    """Whether any object has a member name twice; for files that write names with escapes."""

    def members(pairs: list[tuple[str, Any]]) -> None:
        if len(dict.fromkeys(name for name, _ in pairs)) != len(pairs):
            raise _Duplicate

    try:
        json.loads(plain, object_pairs_hook=members, parse_int=str, parse_float=str)
    except _Duplicate:
        return True
    return False


def _careful_object(text: str, name: str) -> list[tuple[str, str]]:
    """One document per member, with the place of whatever is wrong."""
    require_json(text, name, max_depth=MAX_DEPTH + 1)
    documents: list[tuple[str, str]] = []
    for key, start, part in split_object(text):
        problem = key_problem(key)
        if problem:
            raise error_at(text, start, name, "bad_key", problem, json_path([key]))
        documents.append((key, accept_part(part, text, start, name, json_path([key]))))
    return documents


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
                raise error_at(
                    "", 0, name, "bad_key", key_problem(key), json_path([WHOLE_KEY, key])
                )
        return inner, (f"the one member `{WHOLE_KEY}` was split into {len(inner)} documents",)
    return documents, (
        f"looks like the older layout with everything under `{WHOLE_KEY}`:"
        f" --split-default makes {len(inner)} documents of it",
    )
