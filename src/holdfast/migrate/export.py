"""A collection as the JSON file that it came from, or would have been."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from holdfast.backends.base import Backend, Form
from holdfast.codec import decode, encode
from holdfast.migrate.reading import WHOLE_KEY


def export_lines(backend: Backend, collection: str) -> Iterator[str]:
    """The collection's JSON, line by line (each with its line break), in the form it came in.

    Documents stand one on a line, in the order of their creation, each with its exact text.  A
    form that does not fit any more (an array whose documents have lost their key field) gives way
    to the object.
    """
    form = backend.form(collection)
    documents = [(row.key, row.text) for row in backend.dump(collection, in_order=True)]
    shape = form.shape if _fits(form, documents) else "object"
    if shape == "document":
        yield documents[0][1] + "\n"
    elif shape == "lines":
        yield from (text + "\n" for text in _lines(form, documents))
    elif shape == "array":
        yield from _bracketed("[", [text for _, text in documents], "]")
    else:
        yield from _bracketed("{", [f"{encode(key)}:{text}" for key, text in documents], "}")


def _bracketed(opening: str, parts: list[str], closing: str) -> Iterator[str]:
    if not parts:
        yield opening + closing + "\n"
        return
    yield opening + "\n"
    yield from (part + ",\n" for part in parts[:-1])
    yield parts[-1] + "\n" + closing + "\n"


def _lines(form: Form, documents: list[tuple[str, str]]) -> list[str]:
    if form.key_field is not None:
        return [text for _, text in documents]
    return [encode(item) for item in cast("list[Any]", decode(documents[0][1]))]


def _fits(form: Form, documents: list[tuple[str, str]]) -> bool:
    """Whether the documents can be told in this form without losing a key."""
    if form.shape == "document" or (form.shape == "lines" and form.key_field is None):
        alone = len(documents) == 1 and documents[0][0] == WHOLE_KEY
        return alone and (form.shape == "document" or documents[0][1].startswith("["))
    if form.shape == "object":
        return True
    return all(_names(decode(text), form.key_field) == key for key, text in documents)


def _names(record: Any, field: str | None) -> str | None:
    if not isinstance(record, dict) or field is None:
        return None
    value: Any = cast("dict[str, Any]", record).get(field)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
