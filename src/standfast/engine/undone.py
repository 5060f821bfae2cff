"""What a database confirmed and then lost is saved in a file of the data directory (I10).

The mirror keeps the writes of the last minutes.  When it is emptied, because its database went back
in time, they would be gone: nobody but a person can say whether the restore was meant to undo them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from standfast.document.codec import encode
from standfast.engine.histories import History
from standfast.engine.time_travel import Retained
from standfast.system.files import write_atomic

#: Bytes of one such file.
MAX_FILE_BYTES = 64 * 1024 * 1024


def save_undone(
    data_dir: Path, undone: Iterable[Retained], *, history: History | None
) -> tuple[str, ...]:
    """Write them as JSON lines, with exact texts, readable by their owner alone; the files' names.

    The first line says of which database.  No file where there is nothing.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    head = {
        "database": history.display if history else None,
        "identity": history.identity if history else None,
    }
    names: list[str] = []
    for number, page in enumerate(_pages(map(_line, undone)), 1):
        name = f"undone-{stamp}" + (f"-{number}" if number > 1 else "") + ".jsonl"
        text = "\n".join([encode(head), *page, ""])
        write_atomic(data_dir / name, text.encode("utf-8", "surrogatepass"))
        names.append(name)
    return tuple(names)


def _pages(lines: Iterable[str]) -> Iterator[list[str]]:
    page: list[str] = []
    size = 0
    for line in lines:
        if page and size + len(line) > MAX_FILE_BYTES:
            yield page
            page, size = [], 0
        page.append(line)
        size += len(line)
    if page:
        yield page


def _line(one: Retained) -> str:
    op, version, _ = one
    head: dict[str, Any] = {
        "lane": op.lane,
        "seq": op.seq,
        "kind": op.kind,
        "collection": op.collection,
        "key": op.key,
        "version": version,
    }
    if op.pointer:
        head["pointer"] = op.pointer
    return encode(head)[:-1] + (f',"body":{op.body}' if op.body is not None else "") + "}"
