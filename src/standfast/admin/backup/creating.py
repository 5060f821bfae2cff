"""`backup create`: one file with all that the database holds at one moment, and the journal."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from standfast.admin import library_version
from standfast.admin.backup import folder as folders
from standfast.admin.backup.databases import snapshot
from standfast.admin.backup.format import FORMAT, Counts, Head, Source, Writer, written
from standfast.admin.backup.transfer import limited_to
from standfast.backends.base import Backend
from standfast.backends.copying import Snapshot
from standfast.engine import journal as journals
from standfast.errors import ConfigError
from standfast.limits import MAX_SNAPSHOT_S
from standfast.migrate.rundir import new_run_id, now_text
from standfast.migrate.steps import QUIETLY, Steps, counted, disk_errors
from standfast.ops.types import Op
from standfast.system.failpoints import failpoint

_HINT = "free space or correct the rights, then run this again; nothing was changed"


class Created(msgspec.Struct, frozen=True):
    """A backup that was made: its file, what it holds, and its size in bytes."""

    path: Path
    id: str
    counts: Counts
    size: int


def create(
    backend: Backend,
    data_dir: Path,
    *,
    output: Path | None = None,
    only: Sequence[str] = (),
    reason: str = "asked for",
    limit_s: float = MAX_SNAPSHOT_S,
    steps: Steps = QUIETLY,
) -> Created:
    """Make a backup of all collections, or of these, while others write.

    It is one snapshot: a batch is in it whole or not at all.  The writes that wait in the data
    directory's journal are in it too.  The file appears whole, durably, with mode 0600, or not at
    all; memory does not grow with it.

    Raises ConfigError("no_such_collection", "exists", "disk"), Unavailable when the database does
    not answer, and Unavailable("snapshot_too_long") after `limit_s` seconds.
    """
    with disk_errors("making a backup", hint=_HINT), ExitStack() as stack:
        path = output
        if path is None:
            place = stack.enter_context(folders.locked(data_dir))
            path = place / (new_run_id() + folders.ENDING)
        elif path.exists():
            raise ConfigError(
                f"{path} exists", code="exists", hint="give another name; nothing is overwritten"
            )
        steps.announce("backup", f"writing {path}")
        number = path.name.removesuffix(folders.ENDING)
        # The journal first: what it sends away before the snapshot is taken is in the snapshot.
        waiting = stack.enter_context(_pending(data_dir))
        with snapshot(backend, limit_s=limit_s) as source:
            failpoint("backup-snapshot")
            chosen = limited_to(source.collections(), only)
            head = Head(
                standfast_backup=FORMAT,
                id=number,
                created_at=now_text(),
                made_by=f"standfast {library_version()}",
                source=Source(backend.kind, backend.display, source.identity),
                snapshot_us=source.taken_us,
                reason=reason,
                only=list(only) or None,
            )
            with written(path) as writer:
                writer.head(head)
                for each in chosen:
                    writer.collection(each.name, each.form)
                    rows, step = source.rows(each.name), f"backup {each.name}"
                    for row in counted(rows, step, each.documents, steps.progress):
                        writer.document(row)
                    failpoint("backup-collection")
                _add_pending(writer, waiting, source, only)
                counts = writer.end()
        folders.note(path, counts=counts)
        failpoint("backup-known")
        return Created(path, number, counts, path.stat().st_size)


@contextmanager
def _pending(data_dir: Path) -> Generator[BinaryIO | None]:
    """What waits in the journal, in a file without a name: it may be a gigabyte."""
    if not (data_dir / journals.FILE).exists():
        yield None
        return
    journal = journals.Journal(data_dir)
    encode = msgspec.json.Encoder().encode
    try:
        with tempfile.TemporaryFile(dir=data_dir) as file:
            for pending in journal.everything():
                file.write(encode(pending.op) + b"\n")
            yield file
    finally:
        journal.close()


def _add_pending(
    writer: Writer, waiting: BinaryIO | None, source: Snapshot, only: Sequence[str]
) -> None:
    """What waited and is not in the snapshot."""
    for op in _ops(waiting):
        in_snapshot = op.seq <= source.watermarks.get(op.lane, 0)
        if not in_snapshot and (not only or op.collection in only):
            writer.pending(op)


def _ops(waiting: BinaryIO | None) -> Iterator[Op]:
    if waiting is None:
        return
    waiting.seek(0)
    decode = msgspec.json.Decoder(Op).decode
    for line in waiting:
        yield decode(line)
