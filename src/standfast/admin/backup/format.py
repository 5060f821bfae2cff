"""The file of a backup: gzip around JSON Lines, each line with its checksum, the last one with
that of all.  docs/backup.md describes it, with a reader of ten lines.

::

    {"standfast_backup":1,"id":...,"created_at":...,"source":{...},...,"crc32":"89abcdef"}
    {"collection":"players","shape":"object","key_field":null,"crc32":"..."}
    {"key":"8138","version":3,"created_us":...,"updated_us":...,"value":{...},"crc32":"..."}
    {"pending":{"lane":...,"seq":...,"kind":"put",...},"crc32":"..."}
    {"end":{"documents":1,"pending":1,"collections":{"players":1}},"sha256":"...","crc32":"..."}

Source: RFC 1952 (gzip), jsonlines.org, RFC 8259.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from operator import lt
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from standfast.backends.base import Form, Shape
from standfast.backends.copying import Stored
from standfast.errors import CorruptData
from standfast.limits import MAX_BACKUP_LINE_BYTES
from standfast.ops.types import Op
from standfast.system.failpoints import failpoint
from standfast.system.files import drafted, opened_regular

#: The format that this version writes, and the newest that it reads.
FORMAT = 1
#: A level of zlib: higher ones save a few per cent and take twice the time.
_LEVEL = 4
#: Bytes of text that are compressed, or read, at a time; and how many such blocks may wait.
_BLOCK_BYTES = 512 * 1024
_WAITING = 4
#: What our files begin with, to the bit.  RFC 1952: no name, no time, any operating system.
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_DOCUMENT, _COLLECTION, _PENDING = b'{"key":', b'{"collection":', b'{"pending":'
_VALUE, _CRC = b',"value":', b',"crc32":"'
_CRC_END = len(_CRC) + 8 + 2
_END = b'{"end":'


class Source(msgspec.Struct, frozen=True):
    """Which database a backup is of."""

    kind: str
    display: str
    identity: str | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line: what the file is.  `reason` says what it was made for."""

    standfast_backup: int
    id: str
    created_at: str
    made_by: str
    source: Source
    snapshot_us: int
    reason: str = "asked for"
    only: list[str] | None = None


class Counts(msgspec.Struct, frozen=True):
    """What the file holds, by its last line."""

    documents: int
    pending: int
    collections: dict[str, int]


class PendingWrite(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A write that waited in the journal when the backup was made.  `body` is JSON text."""

    lane: str
    seq: int
    kind: str
    collection: str
    key: str
    body: str | None = None
    pointer: str = ""
    if_version: int | None = None
    ttl_us: int | None = None
    group: int = 0
    base: str | None = None
    at_us: int = 0
    history: str = ""

    def __repr__(self) -> str:
        return f"PendingWrite({self.kind} of {self.key!r} in {self.collection!r})"


class _Collection(msgspec.Struct, frozen=True):
    collection: str
    shape: Shape = "object"
    key_field: str | None = None


class _Document(msgspec.Struct, frozen=True):
    key: str
    version: int
    created_us: int | None = None
    updated_us: int | None = None
    expires_us: int | None = None
    columns: str | None = None
    exact: bool | None = None


class _Pending(msgspec.Struct, frozen=True):
    pending: PendingWrite


class _End(msgspec.Struct, frozen=True):
    end: Counts
    sha256: str


class Opened(NamedTuple):
    """A collection's beginning, as an item of a backup."""

    name: str
    form: Form


#: Called with how much of a file was read, and how much there is.
Report = Callable[[int, int], None]
#: What a reader yields between the first line and the last: documents in pages.
Item = Opened | list[Stored] | PendingWrite

_encode = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(Head).decode
_decode_format = msgspec.json.Decoder(dict[str, Any]).decode
_decode_documents = msgspec.json.Decoder(list[_Document]).decode
_decode_collection = msgspec.json.Decoder(_Collection).decode
_decode_pending = msgspec.json.Decoder(_Pending).decode
_decode_end = msgspec.json.Decoder(_End).decode


# ---- writing


class Writer:
    """Writes one backup; see `written`."""

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._zlib = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
        self._crc = 0
        self._size = 0
        self._hash = hashlib.sha256()
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._waiting: deque[Future[None]] = deque()
        self._counts: dict[str, int] = {}
        self._name = ""
        self._pending = 0
        file.write(GZIP_HEADER)

    def head(self, head: Head) -> None:
        """The first line."""
        self._line(_encode(head)[:-1])

    def collection(self, name: str, form: Form) -> None:
        """The documents of this collection follow."""
        self._name = name
        self._counts[name] = 0
        self._line(_encode(_Collection(name, form.shape, form.key_field))[:-1])

    def document(self, row: Stored) -> None:
        """One document."""
        self._line(document_line(row))
        self._counts[self._name] += 1

    def pending(self, op: Op) -> None:
        """One write that waits in the journal."""
        kept = {name: getattr(op, name) for name in PendingWrite.__struct_fields__}
        self._line(_encode(_Pending(PendingWrite(**kept)))[:-1])
        self._pending += 1

    def end(self) -> Counts:
        """The last line, which says that the file is whole."""
        counts = Counts(sum(self._counts.values()), self._pending, self._counts)
        self._flush()
        self._wait(0)
        self._line(_encode(_End(counts, self._hash.hexdigest()))[:-1])
        self._flush()
        self._wait(0)
        trailer = self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        self._file.write(self._zlib.flush() + trailer)
        return counts

    def _line(self, body: bytes) -> None:
        self._block.append(b'%b,"crc32":"%08x"}\n' % (body, zlib.crc32(body)))
        self._block_bytes += len(body)
        if self._block_bytes >= _BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Hand what has gathered to the thread, which compresses it meanwhile."""
        block, self._block, self._block_bytes = b"".join(self._block), [], 0
        self._waiting.append(self._thread.submit(self._compress, block))
        self._wait(_WAITING)

    def _compress(self, block: bytes) -> None:
        self._hash.update(block)
        self._crc = zlib.crc32(block, self._crc)
        self._size += len(block)
        self._file.write(self._zlib.compress(block))

    def _wait(self, most: int) -> None:
        while len(self._waiting) > most:
            self._waiting.popleft().result()


def document_line(row: Stored) -> bytes:
    """A document as a line, without its checksum and closing brace.

    The text stands last and as it is: a document's text has no line breaks.
    """
    columns = None if row.others is None else _encode(row.others)
    parts = [b'{"key":%b,"version":%d' % (_encode(row.key), row.version)]
    if row.created_us is not None:
        parts.append(b',"created_us":%d' % row.created_us)
    if row.updated_us is not None:
        parts.append(b',"updated_us":%d' % row.updated_us)
    if row.expires_us is not None:
        parts.append(b',"expires_us":%d' % row.expires_us)
    if columns is not None:
        parts.append(b',"columns":%b' % columns)
    if row.exact is not None:
        parts.append(b',"exact":true' if row.exact else b',"exact":false')
    parts.append(b',"value":%b' % row.text.encode())
    return b"".join(parts)


@contextmanager
def written(path: Path, *, replace: bool = False) -> Generator[Writer]:
    """Write a backup in the place of `path`, with mode 0600: it is there whole, durably, or not at
    all.  Raises FileExistsError unless it may replace what is there."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="standfast-backup")
    try:
        with drafted(path, replace=replace) as file:
            yield Writer(file, thread)
            failpoint("backup-written")
    finally:
        thread.shutdown(cancel_futures=True)


# ---- reading


def _in_order(last: str | None, page: list[Stored]) -> bool:
    """Whether each key is above the one before: characters are in the order of their bytes."""
    keys = [row.key for row in page] if last is None else [last, *(row.key for row in page)]
    return all(map(lt, keys, keys[1:]))


class Reader:
    """Reads one backup and checks it on the way; `items` must be read to the end to know it whole.

    `counts`: what the last line says, once it was read.
    """

    def __init__(
        self, path: Path, file: BinaryIO, thread: ThreadPoolExecutor, report: Report
    ) -> None:
        self.path = path
        self._size = os.fstat(file.fileno()).st_size
        self._report = report
        self.counts: Counts | None = None
        self._file = file
        self._thread = thread
        self._hash = hashlib.sha256()
        self._by_line = True
        self._runs = self._checked_runs()
        self.head = self._read_head()

    def items(self, *, by_line: bool = True) -> Iterator[Item]:
        """Everything between the first line and the last, in order.

        Raises CorruptData("damaged_backup") at the first thing that is not as it was written;
        without `by_line` that may be at the end only, by the checksum of the whole.
        """
        self._by_line = by_line
        counts: dict[str, int] = {}
        pending = 0
        name = last = None
        for run in self._runs:
            body = run[0]
            if body.startswith(_DOCUMENT):
                page = self._documents(run)
                if name is None or not _in_order(last, page):
                    raise self._damaged("a document is not in its place")
                last = page[-1].key
                counts[name] += len(page)
                yield page
            elif body.startswith(_COLLECTION):
                found = self._parsed(_decode_collection, body + b"}")
                name, last = found.collection, None
                if name in counts:
                    raise self._damaged(f"collection `{name}` stands in it twice")
                counts[name] = 0
                yield Opened(name, Form(found.shape, found.key_field))
            elif body.startswith(_PENDING):
                pending += 1
                yield self._parsed(_decode_pending, body + b"}").pending
            else:
                self._end(body, Counts(sum(counts.values()), pending, counts))
                return
        raise self._damaged("its end is missing")

    def skim(self) -> list[Opened]:
        """Read to the end and check the whole, not line by line; the collections that are in it.

        The checksum of the whole says of every line that it is as it was written.
        """
        self._by_line = False
        found: list[Opened] = []
        for body, *_ in self._runs:
            if body.startswith(_COLLECTION):
                one = self._parsed(_decode_collection, body + b"}")
                found.append(Opened(one.collection, Form(one.shape, one.key_field)))
            elif not body.startswith((_DOCUMENT, _PENDING)):
                self._end(body, None)
                return found
        raise self._damaged("its end is missing")

    def _documents(self, bodies: list[bytes]) -> list[Stored]:
        """The documents of these lines; what stands before their values is parsed at once."""
        places = [body.find(_VALUE) for body in bodies]
        heads = b"},".join([body[:at] for body, at in zip(bodies, places, strict=True)])
        found: list[_Document] = self._parsed(_decode_documents, b"[" + heads + b"}]")
        if min(places) < 0 or len(found) != len(bodies):
            raise self._damaged("a document has no value")
        try:
            texts = [
                body[at + len(_VALUE) :].decode() for body, at in zip(bodies, places, strict=True)
            ]
        except UnicodeDecodeError:
            raise self._damaged("a document is not UTF-8") from None
        return [
            Stored(
                *(each.key, text, each.version, each.created_us, each.updated_us),
                *(each.expires_us, each.columns, each.exact),
            )
            for each, text in zip(found, texts, strict=True)
        ]

    def _end(self, body: bytes, found: Counts | None) -> None:
        end = self._parsed(_decode_end, body + b"}")
        if end.sha256 != self._hash.hexdigest():
            raise self._damaged("its checksum differs")
        if found is not None and end.end != found:
            raise self._damaged("its counts differ")
        if next(self._runs, None) is not None:
            raise self._damaged("something follows its end")
        self.counts = end.end

    def _read_head(self) -> Head:
        first = next(self._runs, None)
        if first is None:
            raise self._damaged("it is empty")
        text = first[0] + b"}"
        number = self._parsed(_decode_format, text).get("standfast_backup")
        if isinstance(number, int) and number > FORMAT:
            raise CorruptData(
                f"the backup {self.path} has format {number}, this library knows {FORMAT}",
                code="backup_newer",
                hint="update standfast to the version that made it",
            )
        if number != FORMAT:
            raise self._damaged("it is not a backup of standfast")
        return self._parsed(_decode_head, text)

    def _parsed(self, decode: Any, text: bytes) -> Any:
        try:
            return decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise self._damaged("a line is not what it should be") from None

    def _checked_runs(self) -> Iterator[list[bytes]]:
        """Every line, without its checksum, which was right: documents that follow one another
        together, as far as they are in a block, and each other line by itself.

        What is hashed when the last line comes are all lines before it.
        """
        rest = b""
        for block in self._blocks():
            text = rest + block
            cut = text.rfind(b"\n") + 1
            text, rest = text[:cut], text[cut:]
            if len(rest) > MAX_BACKUP_LINE_BYTES:
                raise self._damaged("a line is longer than the limit")
            # A line break stands nowhere but at the end of a line.
            end = 0 if text.startswith(_END) else text.rfind(b"\n" + _END) + 1 or len(text)
            hashed = self._thread.submit(self._hash.update, text[:end])
            lines = text.split(b"\n")[:-1]
            bodies = [line[:-_CRC_END] for line in lines]
            if self._by_line:
                for line, body in zip(lines, bodies, strict=True):
                    if line[-_CRC_END:] != b'%b%08x"}' % (_CRC, zlib.crc32(body)):
                        raise self._damaged("a line's checksum differs")
            if end < len(text):
                hashed.result()
            for are_documents, run in groupby(bodies, lambda body: body.startswith(_DOCUMENT)):
                if are_documents:
                    yield list(run)
                else:
                    yield from ([body] for body in run)
        if rest:
            raise self._damaged("it ends in the middle of a line")

    def _blocks(self) -> Iterator[bytes]:
        """The text, a block at a time; the next one is unpacked by the thread meanwhile."""
        if self._file.read(len(GZIP_HEADER)) != GZIP_HEADER:
            raise self._damaged("it does not begin as one")
        unpack = _Unpacking(self._file)
        waiting = self._thread.submit(unpack.block)
        while True:
            try:
                block = waiting.result()
            except zlib.error:
                raise self._damaged("it cannot be unpacked") from None
            if block is None:
                break
            self._report(self._file.tell(), self._size)
            waiting = self._thread.submit(unpack.block)
            yield block
        if not unpack.is_whole():
            raise self._damaged("it ends too early, or something follows its end")

    def _damaged(self, what: str) -> CorruptData:
        return CorruptData(
            f"the backup {self.path} is damaged: {what}",
            code="damaged_backup",
            hint="take another one: `standfast backup list` shows them; nothing was changed",
        )


class _Unpacking:
    """The gzip stream after its header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zlib = zlib.decompressobj(-15)
        self._crc = 0
        self._size = 0
        self._input = b""

    def block(self) -> bytes | None:
        """About a block of text; None at the end."""
        while not self._zlib.eof:
            if not self._input:
                self._input = self._file.read(_BLOCK_BYTES // 4)
                if not self._input:
                    return None
            block = self._zlib.decompress(self._input, _BLOCK_BYTES)
            self._input = self._zlib.unconsumed_tail
            self._crc = zlib.crc32(block, self._crc)
            self._size += len(block)
            if block:
                return block
        return None

    def is_whole(self) -> bool:
        """Whether the stream has ended, as it should, and nothing follows."""
        trailer = self._zlib.unused_data + self._file.read(9)
        wanted = self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        return self._zlib.eof and trailer == wanted


@contextmanager
def opened(path: Path, report: Report = lambda done, size: None) -> Generator[Reader]:
    """Read a backup; its first line is checked at once.  OSError when there is no such file.

    `report` is called with the bytes that were read, and those that there are.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="standfast-backup")
    try:
        with opened_regular(path) as file:
            yield Reader(path, file, thread, report)
    finally:
        thread.shutdown(cancel_futures=True)
