"""JSON text taken apart into the exact texts of its parts, and errors that know their place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from standfast.document.codec import accept, canonical_texts, encode
from standfast.document.names import key_problem
from standfast.document.parse import find_problem, minify, position
from standfast.document.patch import parse_pointer
from standfast.document.values import json_path
from standfast.errors import DataError
from standfast.limits import MAX_DEPTH

#: The key of a file that is kept as one document.
WHOLE_KEY = "default"

#: Documents that are checked with one call.
_BLOCK = 100

_scanner = json.JSONDecoder(parse_int=str, parse_float=str)


def error_at(
    text: str,
    offset: int,
    name: str,
    code: str,
    what: str,
    path: str,
    *,
    hint: str = "correct it there",
) -> DataError:
    """An error with the place that an offset has in the text of a file."""
    line, column = position(text, offset)
    where = f"{name}:{line}:{column}"
    return DataError(f"{where}: {what} - at `{path}`", code=code, hint=hint, path=path, where=where)


def require_json(text: str, name: str, *, max_depth: int = MAX_DEPTH) -> None:
    """Raise with the place of whatever keeps a text from being one JSON value within the limits."""
    problem = find_problem(text, max_depth=max_depth)
    if problem is not None:
        raise problem.error(name)


def accept_part(part: str, text: str, offset: int, name: str, path: str) -> str:
    """A document's text out of a whole that is known to be JSON; the error knows its place."""
    try:
        return accept(part)
    except DataError as error:
        what, code = error.message, error.code
        raise error_at(text, offset, name, code, what, path, hint=error.hint) from None


def texts_of(parts: list[msgspec.Raw]) -> list[str]:
    """The document texts of many JSON texts; DataError for the first that is refused."""
    texts: list[str] = []
    for start in range(0, len(parts), _BLOCK):
        block = parts[start : start + _BLOCK]
        quick = canonical_texts(block)
        texts.extend(quick if quick is not None else [accept(str(part, "utf-8")) for part in block])
    return texts


def split_object(text: str) -> Iterator[tuple[str, int, str]]:
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


def split_array(text: str) -> Iterator[tuple[int, str]]:
    """Offset and minified text of each element of an array that is known to be valid JSON."""
    pos = _skip(text, text.index("[") + 1)
    while text[pos] != "]":
        start = pos
        _, end = _scanner.raw_decode(text, pos)
        yield start, minify(text[start:end])
        pos = _skip(text, end)
        if text[pos] == ",":
            pos = _skip(text, pos + 1)


def split_elements(text: str) -> Iterator[str]:
    """The exact texts of the elements of a document that is an array."""
    return (part for _, part in split_array(text))


def split_members(text: str) -> list[tuple[str, str]] | None:
    """The members of a document that is an object of objects; None when it is anything else."""
    if not text.startswith("{"):
        return None
    members = [(key, part) for key, _, part in split_object(text + " ")]
    if not members or not all(part.startswith("{") for _, part in members):
        return None
    return members


#: A member is proposed for --split when it has so many members, and so much of the file's text.
_WRAPPED_MEMBERS = 10
_WRAPPED_SHARE = 0.8


def wrapped_note(documents: list[tuple[str, str]]) -> tuple[str, ...]:
    """A proposal, when one member of an object holds nearly everything (TinyDB, lowdb, wrapped)."""
    total = sum(len(text) for _, text in documents)
    for key, text in documents:
        if len(text) < _WRAPPED_SHARE * total or (key == WHOLE_KEY and len(documents) == 1):
            continue
        inner = split_members(text)
        if inner and (len(inner) >= _WRAPPED_MEMBERS or (len(documents) == 1 and len(inner) > 1)):
            pointer = "/" + key.replace("~", "~0").replace("/", "~1")
            return (
                f"the member `{key}` holds most of it: --split {pointer} makes {len(inner)}"
                " documents of it",
            )
    return ()


def split_at(text: str, pointer: str, name: str, *, rest: bool) -> list[tuple[str, str]]:
    """The members of the object at a JSON pointer as documents; with `rest` all that is outside.

    The rest is one document without that member, under the key `default`; nothing when there is
    nothing else.
    """
    names = parse_pointer(pointer)
    found = _without(text, names) if rest else _member(text, names)
    if not names or found is None or not (rest or found.startswith("{")):
        raise error_at(
            *("", 0, name, "bad_pointer", f"there is no object at {pointer}", "$"),
            hint="give --split the JSON pointer of an object, such as /users",
        )
    if rest:
        return [] if found == "{}" else [(WHOLE_KEY, accept(found))]
    documents: list[tuple[str, str]] = []
    for key, _, part in split_object(found + " "):
        if problem := key_problem(key):
            raise error_at("", 0, name, "bad_key", problem, json_path([*names, key]))
        documents.append((key, accept(part)))
    return documents


def _member(text: str, names: Sequence[str]) -> str | None:
    """The exact text at a path of members."""
    for name in names:
        if not text.startswith("{"):
            return None
        found = (part for key, _, part in split_object(text + " ") if key == name)
        text = next(found, "")
    return text or None


def _without(text: str, names: Sequence[str]) -> str | None:
    """The exact text of an object without the member at a path."""
    if not text.startswith("{"):
        return None
    left: list[str] = []
    for key, _, part in split_object(text + " "):
        if key == names[0]:
            inner = _without(part, names[1:]) if len(names) > 1 else None
            if inner is None or inner == "{}":
                continue
            part = inner
        left.append(f"{encode(key)}:{part}")
    return "{" + ",".join(left) + "}"
