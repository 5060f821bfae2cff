"""The rules for names: keys of documents and names of collections."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from standfast.errors import ConfigError, DataError
from standfast.limits import MAX_COLLECTION_CHARS, MAX_KEY_BYTES

_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED = ("standfast", "_standfast", "pg_", "sqlite_")


def key_text(key: object) -> str:
    """The key as it is stored: a string as it is, an int as its decimal string (42 is "42").

    Refused with a DataError: any other type (bool included), more than 1,024 bytes of UTF-8,
    U+0000 and lone surrogates, which a text column cannot store.  "" is a valid key.
    """
    if type(key) is str:
        if key.isascii() and len(key) <= MAX_KEY_BYTES and "\x00" not in key:
            return key
        text = key
    elif isinstance(key, str):
        text = str.__str__(key)
    elif isinstance(key, int) and not isinstance(key, bool):
        # Before it is written out, which the interpreter refuses for a number of 4,300 digits.
        if key.bit_length() > 4 * MAX_KEY_BYTES:
            raise DataError(
                f"an int key of more than {MAX_KEY_BYTES} digits is over the limit",
                code="bad_key",
                hint="choose a shorter key",
            )
        text = str(int(key))
    else:
        raise DataError(
            f"a key must be a string or an int, not {type(key).__name__}",
            code="bad_key",
            hint="use str(key) where that is what you mean",
        )
    problem = key_problem(text)
    if problem:
        raise DataError(problem, code="bad_key", hint="choose a shorter or plainer key")
    return text


def key_problem(text: str) -> str:
    """Why `text` cannot be a key, in one sentence; empty when it can."""
    if len(text) * 4 > MAX_KEY_BYTES or not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            return "a key contains a lone surrogate, which is not Unicode text"
        if size > MAX_KEY_BYTES:
            return f"a key of {size} bytes is over the limit of {MAX_KEY_BYTES}"
    if "\x00" in text:
        return "a key contains U+0000, which a text column cannot store"
    return ""


def derived_name(file_name: str) -> str:
    """The collection that a file becomes: readable, and the same for the same name.

    Its JSON ending is cut; what a name cannot hold becomes `_` (`nuke-state.json` is `nuke_state`,
    `2026-03-30.json` is `c_2026_03_30`).  Letters of other alphabets are written in Latin ones, and
    a checksum of the name follows, so that two such names are never one.
    """
    stem = ENDING.sub("", file_name) or file_name
    plain = "".join(map(_latin, unicodedata.normalize("NFC", stem)))
    name = re.sub(r"[^A-Za-z0-9_]+", "_", plain, flags=re.ASCII).strip("_") or "file"
    if not (name[0].isalpha() or stem.startswith("_")) or name.lower().startswith(_RESERVED):
        name = f"c_{name}"
    elif stem.startswith("_") and _COLLECTION.fullmatch(stem):
        name = stem
    if stem.isascii() and any(map(str.isalnum, stem)) and len(name) <= MAX_COLLECTION_CHARS:
        return name if not name.lower().startswith(_RESERVED) else f"c{name}"
    return marked_name(name, stem)


def marked_name(name: str, text: str) -> str:
    """A collection's name with a checksum of what it stands for, which tells it from others."""
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{name[: MAX_COLLECTION_CHARS - 7].rstrip('_')}_{mark}"


def _latin(letter: str) -> str:
    """A letter in Latin letters, as far as Unicode names it by its sound."""
    if letter.isascii():
        return letter
    base = unicodedata.normalize("NFKD", letter)[0]
    if base.isascii():
        return base
    if letter.lower() in _SOUNDS:
        return _SOUNDS[letter.lower()]
    words = unicodedata.name(letter, "").lower().split()
    if words and words[0] in ("hiragana", "katakana", "hangul", "arabic", "hebrew", "devanagari"):
        return words[-1].replace("-", "")
    return f"_{ord(letter):x}" if letter.isalnum() else "_"


#: The JSON ending of a file's name.
ENDING = re.compile(r"\.(json|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
#: Cyrillic and Greek letters, whose names in Unicode are not their sounds.
_SOUNDS = dict(
    zip(
        "абвгдеёзийклмнопрстуфыэαβγδεζηικλμνξοπρσςτυφω",
        "abvgdeeziyklmnoprstufyeabgdeziiklmnxoprsstyfo",
        strict=True,
    )
) | {
    "ж": "zh",
    "\u0445": "kh",
    "ц": "ts",
    "ч": "ch",
    "ш": "sh",
    "щ": "shch",
    "ъ": "",
    "ь": "",
    "ю": "yu",
    "я": "ya",
    "θ": "th",
    "χ": "ch",
    "ψ": "ps",
}


def collection_name(name: object) -> str:
    """The name, when it can name a collection (and so a table); else a ConfigError.

    A letter or underscore, then letters, digits and underscores, ASCII, at most 50 characters;
    names that start with `standfast`, `_standfast`, `pg_` or `sqlite_` are reserved.
    """
    if not isinstance(name, str):
        raise ConfigError(
            f"a collection's name must be a string, not {type(name).__name__}",
            code="bad_collection",
            hint="give the name as text",
        )
    hint = "use a letter or underscore, then letters, digits and underscores"
    if not _COLLECTION.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a collection", code="bad_collection", hint=hint)
    if len(name) > MAX_COLLECTION_CHARS:
        raise ConfigError(
            f"a collection's name of {len(name)} characters is over the limit of "
            f"{MAX_COLLECTION_CHARS}",
            code="bad_collection",
            hint="choose a shorter name",
        )
    if name.lower().startswith(_RESERVED):
        raise ConfigError(
            f"{name!r} cannot name a collection: this prefix is reserved",
            code="bad_collection",
            hint="choose another name",
        )
    return name


def prefix_end(prefix: str) -> str | None:
    """The text at which, in bytewise order, the keys with this prefix have ended; None: nowhere."""
    for index in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[index]) + 1
        if point <= _LAST_CODE_POINT:
            following = point if not 0xD800 <= point <= 0xDFFF else 0xE000
            return prefix[:index] + chr(following)
    return None


_LAST_CODE_POINT = 0x10FFFF
