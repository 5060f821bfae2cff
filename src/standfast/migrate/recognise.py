"""What a file is by its content, whatever its name: compressed, JSON Lines, an archive."""

from __future__ import annotations

import json
import zlib

from standfast.document.parse import find_problem
from standfast.errors import DataError
from standfast.limits import MAX_EXPANDED_BYTES

GZIP = b"\x1f\x8b"
SQLITE = b"SQLite format 3\x00"
#: Where a SQLite file says which application it belongs to, and what ours says there.
_APPLICATION_ID_AT = slice(68, 72)
APPLICATION_ID = b"stnd"
_PACKED = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ\x00": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x80\x04\x95": "a Python pickle",
    b"\x80\x05\x95": "a Python pickle",
}
_LINES = (".jsonl", ".ndjson")


def is_database(data: bytes) -> bool:
    """Whether these are the bytes of a SQLite file, or the first of them."""
    return data.startswith(SQLITE)


def is_ours(data: bytes) -> bool:
    """Whether a SQLite file was made, or adopted, by standfast."""
    return data[_APPLICATION_ID_AT] == APPLICATION_ID


def expanded(data: bytes, name: str) -> tuple[bytes, str, tuple[str, ...]]:
    """The content and name of what is compressed with gzip; anything else as it is."""
    if not data.startswith(GZIP):
        return data, name, ()
    plain = name[:-3] if name.lower().endswith(".gz") else name
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(data, MAX_EXPANDED_BYTES)
    except zlib.error:
        raise DataError(
            f"{name}: it is compressed with gzip, and damaged",
            code="truncated",
            hint="restore it from a copy",
            where=name,
        ) from None
    if unpacker.unconsumed_tail or (len(text) == MAX_EXPANDED_BYTES and not unpacker.eof):
        raise DataError(
            f"{name}: expanded it has more than {MAX_EXPANDED_BYTES} bytes",
            code="too_large",
            hint="expand it with gunzip, and migrate the file that comes of it",
            where=name,
        )
    if not unpacker.eof:
        raise DataError(
            f"{name}: it is compressed with gzip, and cut off",
            code="truncated",
            hint="restore it from a copy",
            where=name,
        )
    rest = unpacker.unused_data
    if rest.startswith(GZIP):
        text += expanded(rest, name)[0]
    elif rest.strip(b"\0"):  # padding is not content
        raise DataError(
            f"{name}: {len(rest)} bytes that are not compressed stand behind what is",
            code="truncated",
            hint="look at what was added to it; to leave that out, expand it with gunzip",
            where=name,
        )
    return text, plain, ("expanded with gzip",)


def one_value(data: bytes, name: str) -> bytes | None:
    """The content of a file that is named like JSON Lines and holds one value on many lines."""
    if not name.lower().endswith(_LINES):
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if find_problem(text) else text.encode()


def looks_like(data: bytes, name: str) -> str:
    """What to do with a file whose content is something else than its name says; or nothing."""
    for magic, what in _PACKED.items():
        if data.startswith(magic):
            return f"it is {what}: unpack it, and migrate what is in it"
    if not name.lower().endswith(_LINES) and _is_lines(data):
        file = name.replace("\\", "/").rpartition("/")[2]
        return f"its content is JSON Lines: read it as such with --lines {file}"
    return ""


def _is_lines(data: bytes) -> bool:
    """Whether every line that is not blank holds an object, and there are several."""
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) < 2:
        return False
    try:
        return all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False
