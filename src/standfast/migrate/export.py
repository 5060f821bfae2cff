"""A collection as the JSON file that it came from, or would have been."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from standfast.backends.base import Backend, Form
from standfast.document.codec import decode, encode
from standfast.errors import ConfigError
from standfast.migrate.records import record_key
from standfast.migrate.splitting import WHOLE_KEY, split_elements
from standfast.system.files import write_atomic


def export_lines(backend: Backend, collection: str, *, one_document: bool = False) -> Iterator[str]:
    """The collection's JSON, line by line (each with its line break), in the form it came in.

    Documents stand one on a line, in the order of their creation, each with its exact text.  A
    form that does not fit any more (an array whose documents have lost their key field) gives way
    to the object.  `one_document` makes an array of JSON Lines.  Everything has been read when this
    returns: what comes afterwards cannot fail for the database's sake.
    """
    form = backend.form(collection)
    documents = [(row.key, row.text) for row in backend.dump(collection, in_order=True)]
    shape = form.shape if _fits(form, documents) else "object"
    if shape == "document":
        return iter([documents[0][1] + "\n"])
    if shape == "object":
        return _bracketed("{", [f"{encode(key)}:{text}" for key, text in documents], "}")
    if shape == "lines" and form.key_field is None:
        texts = list(split_elements(documents[0][1]))
    else:
        texts = [text for _, text in documents]
    if shape == "array" or one_document:
        return _bracketed("[", texts, "]")
    return (text + "\n" for text in texts)


def save_export(lines: Iterable[str], path: Path) -> None:
    """Put exported lines in the place of a regular file, atomically; ConfigError when that fails.

    What is no regular file stays as it is: a device, a FIFO, a directory, and a symlink, which is
    neither followed nor replaced.
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise ConfigError(
            f"{path} is not a regular file, and was left as it is",
            code="exists",
            hint="name a file; without -o the export goes to standard output",
        )
    try:
        write_atomic(path, "".join(lines).encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="disk", hint="check the path"
        ) from None


def _bracketed(opening: str, parts: list[str], closing: str) -> Iterator[str]:
    if not parts:
        yield opening + closing + "\n"
        return
    yield opening + "\n"
    yield from (part + ",\n" for part in parts[:-1])
    yield parts[-1] + "\n" + closing + "\n"


def _fits(form: Form, documents: list[tuple[str, str]]) -> bool:
    """Whether the documents can be written in this form without losing a key."""
    field = form.key_field
    if form.shape == "document" or (form.shape == "lines" and field is None):
        alone = len(documents) == 1 and documents[0][0] == WHOLE_KEY
        return alone and (form.shape == "document" or documents[0][1].startswith("["))
    if form.shape == "object":
        return True
    return field is not None and all(
        record_key(decode(text), field) == (key, "") for key, text in documents
    )
