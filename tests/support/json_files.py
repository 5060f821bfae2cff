"""JSON files of every shape for migrations, with random spelling, and what two texts must share."""

from __future__ import annotations

import codecs
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from standfast.document.names import key_problem
from support.json_strategies import ODD_STRINGS, random_string, render, tokens

Shape = Literal["object", "array", "lines", "document"]

#: As a file may be written: Python's name, and the mark that goes before the text.
ENCODINGS: list[tuple[str, bytes]] = [
    ("utf-8", b""),
    ("utf-8", codecs.BOM_UTF8),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
    ("utf-16-le", b""),
    ("utf-16-be", b""),
    ("utf-32-le", codecs.BOM_UTF32_LE),
    ("utf-32-be", codecs.BOM_UTF32_BE),
    ("utf-32-le", b""),
    ("utf-32-be", b""),
]
_ODD_KEYS = [text for text in ODD_STRINGS if not key_problem(text)]


@dataclass(frozen=True)
class JsonFile:
    """A file's name and text, and the documents that a migration must make of it."""

    name: str
    shape: Shape
    text: str
    documents: dict[str, Any]

    @property
    def collection(self) -> str:
        """The collection that it becomes."""
        return self.name.split(".")[0]

    def bytes(self, encoding: str = "utf-8", mark: bytes = b"") -> bytes:
        """Its bytes."""
        return mark + self.text.encode(encoding)


def make_file(stem: str, shape: Shape, values: Iterable[Any], rng: random.Random) -> JsonFile:
    """A file whose documents hold these values; records get an `id`, a string or an integer."""
    if shape == "document":
        whole = list(values)
        return JsonFile(f"{stem}.json", shape, render(whole, rng), {"default": whole})
    if shape == "object":
        documents = dict(zip(_keys(rng), values, strict=False))
        return JsonFile(f"{stem}.json", shape, render(documents, rng), documents)
    records = [_record(key, value, rng) for key, value in zip(_keys(rng), values, strict=False)]
    documents = {str(record["id"]): record for record in records}
    if shape == "array":
        return JsonFile(f"{stem}.json", shape, render(records, rng), documents)
    lines = [render(record, rng).replace("\n", " ").replace("\r", " ") for record in records]
    separators = [rng.choice(["\n", "\r\n", "\n\n", "\n \t\r\n"]) for _ in lines]
    text = "".join(line + end for line, end in zip(lines, separators, strict=True))
    return JsonFile(f"{stem}.jsonl", shape, text.rstrip() + rng.choice(["", "\n"]), documents)


def _keys(rng: random.Random) -> Iterable[str]:
    """Document keys without end, each once: odd ones, numbers, words, whatever Unicode has."""
    seen: set[str] = set()
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            key = rng.choice(_ODD_KEYS)
        elif kind == 1:
            key = str(rng.getrandbits(64))
        elif kind == 2:
            key = f"{rng.choice(_ODD_KEYS)[:40]}{rng.randrange(1000)}"
        else:
            key = "".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(1, 9)))
        if key not in seen:
            seen.add(key)
            yield key


def _record(key: str, value: Any, rng: random.Random) -> dict[str, Any]:
    """A record with its key somewhere among its members."""
    record: dict[str, Any] = {"value": value}
    if rng.random() < 0.5:
        record[random_string(rng)] = rng.random()
    record["id"] = int(key) if key.isdecimal() and str(int(key)) == key else key
    if rng.random() < 0.5:
        record["after"] = None
    return record


def meaning(text: str) -> list[Any]:
    """Everything that must survive: structure, order, spelling of numbers, content of strings.

    A flat list, so that texts of any depth can be compared.
    """
    return [
        ("string", json.loads(token)) if token.startswith('"') else token for token in tokens(text)
    ]


def levels(value: Any) -> int:
    """How deep a value is nested; 0 for a scalar."""
    deepest, rest = 0, [(value, 0)]
    while rest:
        item, level = rest.pop()
        if isinstance(item, dict | list):
            inner = item.values() if isinstance(item, dict) else item
            rest.extend((each, level + 1) for each in inner)
            deepest = max(deepest, level + 1)
    return deepest
