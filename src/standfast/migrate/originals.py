"""Putting a run's originals back where they were, byte for byte, with their owner and mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from standfast.migrate.cleanup import discard_parked, parked_place
from standfast.migrate.rundir import RunDir, RunState, SourceRecord
from standfast.migrate.steps import disk_errors
from standfast.system.failpoints import failpoint
from standfast.system.files import (
    beside,
    fsync_directory,
    read_regular,
    remake_directory,
    sha256,
    write_atomic,
)


@dataclass(slots=True)
class Restored:
    """What became of the originals: how many were written, what was archived, what to know."""

    files: int = 0
    archived: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])


class Originals:
    """The files that a run has taken from their places.

    `undone` are later runs that were taken back: what they kept of the same files is not news.
    """

    def __init__(self, run_dir: RunDir, state: RunState, undone: Sequence[RunState] = ()) -> None:
        self._run_dir = run_dir
        self._state = state
        self._undone = undone
        self.restored = Restored()

    def newer(self) -> list[tuple[SourceRecord, bytes]]:
        """The files that are there again, with another content."""
        found = [(source, _content(Path(source.path))) for source in self._state.taken]
        return [
            (source, data)
            for source, data in found
            if data is not None and self._is_newer(source, data)
        ]

    def put_back(self, source: SourceRecord, *, discard_newer: bool) -> bool:
        """Restore one file; False when another content stands in its place and is to stay."""
        path = Path(source.path)
        draft = beside(path, f".{self._state.run}.restoring")
        data = _content(path)
        if data is None or sha256(data) != source.sha256:
            newer = data is not None and self._is_newer(source, data)
            if newer and not discard_newer:
                return False
            if data is not None and newer:
                self.archive(f"newer-{source.stored}", data)
            remake_directory(path.parent, source.folder)
            write_atomic(
                path,
                self._run_dir.original(source),
                mode=source.mode,
                mtime_ns=source.mtime_ns,
                owner=None if source.uid < 0 else (source.uid, source.gid),
                draft=draft,
            )
            self._note_owner(path, source)
            self.restored.files += 1
            self._run_dir.log(f"restored: {path}")
        elif draft.exists():
            draft.unlink()
            fsync_directory(path.parent)
        kept = discard_parked(parked_place(path, self._state.run), source, self._run_dir)
        if kept is not None:
            self.restored.archived.append(str(kept))
        failpoint("original-restored")
        return True

    def archive(self, name: str, data: bytes) -> None:
        """Keep something in the run's directory that is about to be given up."""
        with disk_errors("archiving"):
            kept = str(self._run_dir.archive(name, data))
        if kept not in self.restored.archived:
            self.restored.archived.append(kept)

    def _note_owner(self, path: Path, source: SourceRecord) -> None:
        state = path.stat()
        if source.uid >= 0 and (state.st_uid, state.st_gid) != (source.uid, source.gid):
            self.restored.notes.append(
                f"{path} belonged to user {source.uid} and group {source.gid}, and now belongs to"
                f" {state.st_uid} and {state.st_gid}: this process may not give it away"
            )

    def _is_newer(self, source: SourceRecord, data: bytes) -> bool:
        """Whether a file holds what no run has kept: neither this one nor one that was undone."""
        kept = {
            each.sha256
            for state in self._undone
            for each in state.sources
            if each.path == source.path
        }
        return sha256(data) not in {source.sha256, *kept}


def _content(path: Path) -> bytes | None:
    with disk_errors(f"reading {path}"):
        return read_regular(path)[0] if path.exists() else None
