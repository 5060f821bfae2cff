"""The directory of one run: originals, the record of what is changed, the state, the log.

Everything in it is 0600 and written atomically; the state file tells how far a run has come, so
that whatever kills a process, the next one knows how to go on.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from holdfast.backends.base import Form, Image
from holdfast.errors import ConfigError, CorruptData
from holdfast.files import fsync_directory, make_directory, read_regular, sha256, write_atomic

_Record = TypeVar("_Record", bound=Any)

State = Literal[
    "started",
    "backed-up",
    "loaded",
    "verify-failed",
    "done",
    "rolling-back",
    "rolled-back",
]
#: States in which a run has to be finished before another begins.
UNFINISHED: tuple[State, ...] = ("started", "backed-up", "loaded", "verify-failed", "rolling-back")

FOLDER = "migration_backups"
_STATE_FILE = "run.json"
_CHANGES_FILE = "changes.json"
_LOG_FILE = "run.log"
_OURS = (_STATE_FILE, _CHANGES_FILE, _LOG_FILE, "SHA256SUMS")


class SourceRecord(msgspec.Struct, frozen=True):
    """One file of a run: where it was, what it was, and under which name its copy is kept."""

    path: str
    stored: str
    sha256: str
    size: int
    mode: int
    mtime_ns: int
    collection: str
    form: Form
    documents: int
    whole: bool = False
    key_field: str | None = None
    split_default: bool = False


class Updated(msgspec.Struct, frozen=True):
    """One row that a run changes: all that was stored of it, and the text that it gets."""

    before: Image
    after: str | None


class CollectionChanges(msgspec.Struct, frozen=True):
    """What a run changes in one collection; enough to verify it and to take it back.

    `kept` are the documents of the file that the run left alone although the database's differ.
    """

    inserted: list[str]
    updated: list[Updated]
    kept: list[str]
    texts: dict[str, str] = {}


class RunState(msgspec.Struct):
    """How far a run has come."""

    run: str
    state: State
    started_at: str
    target: str
    identity: str | None
    sources: list[SourceRecord]
    on_conflict: str
    keep_files: bool
    updated_at: str = ""
    counts: dict[str, int] = {}
    discard_newer: bool = False
    format: int = 1


def now_text() -> str:
    """The time for logs and states: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """A name that sorts by time and does not repeat."""
    return datetime.now(UTC).strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


class RunDir:
    """One run's directory on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> str:
        """The run's id."""
        return self.path.name

    def create(self) -> None:
        """Make the directory, durably."""
        make_directory(self.path)

    def remove(self) -> None:
        """Remove the directory of a run that never touched anything but this directory."""
        shutil.rmtree(self.path)
        fsync_directory(self.path.parent)

    def save_state(self, state: RunState) -> None:
        """Replace the state, atomically."""
        state.updated_at = now_text()
        self._save(_STATE_FILE, msgspec.json.format(msgspec.json.encode(state), indent=1))

    def load_state(self) -> RunState:
        """The state; CorruptData when it cannot be read."""
        return self._load(_STATE_FILE, RunState)

    def save_changes(self, changes: dict[str, CollectionChanges]) -> None:
        """Write what the run is going to change, before it does."""
        self._save(_CHANGES_FILE, msgspec.json.encode(changes))

    def load_changes(self) -> dict[str, CollectionChanges]:
        """What the run changes; CorruptData when it cannot be read."""
        return self._load(_CHANGES_FILE, dict[str, CollectionChanges])

    def _save(self, name: str, data: bytes) -> None:
        write_atomic(self.path / name, data)

    def _load(self, name: str, kind: type[_Record]) -> _Record:
        path = self.path / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        except (msgspec.MsgspecError, UnicodeDecodeError):
            what = "is damaged, or of a newer version"
        raise CorruptData(
            f"the run's file {path} {what}",
            code="run_file",
            hint="restore the run's directory from a copy; nothing was changed",
        )

    def save_original(self, stored: str, data: bytes, mtime_ns: int) -> None:
        """Keep a file's bytes, durably, and read them back to be sure."""
        path = self.path / stored
        write_atomic(path, data, mtime_ns=mtime_ns)
        if path.read_bytes() != data:
            raise CorruptData(
                f"the backup {path} does not read back as it was written",
                code="backup",
                hint="check the disk; nothing was changed",
            )

    def save_checksums(self, sources: Sequence[SourceRecord]) -> None:
        """Write the checksums in the form that `sha256sum -c` reads."""
        lines = [f"{source.sha256}  {source.stored}\n" for source in sources]
        self._save("SHA256SUMS", "".join(lines).encode())

    def original(self, source: SourceRecord) -> bytes:
        """The kept bytes of a file; CorruptData when they are not what was kept."""
        path = self.path / source.stored
        try:
            data, _ = read_regular(path)
        except OSError as error:
            raise CorruptData(
                f"the backup {path} cannot be read: {error.strerror}",
                code="backup",
                hint="restore the run's directory from a copy; nothing was changed",
            ) from None
        if sha256(data) != source.sha256:
            raise CorruptData(
                f"the backup {path} is not what was kept: its checksum differs",
                code="backup",
                hint="restore the run's directory from a copy; nothing was changed",
            )
        return data

    def log(self, line: str) -> None:
        """Append a line to the readable log; it holds names and counts, never values."""
        handle = os.open(self.path / _LOG_FILE, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{now_text()} {line}\n")

    def archive(self, name: str, data: bytes) -> Path:
        """Keep something that is about to be given up, under a name of its own."""
        path = self.path / f"{name}-{secrets.token_hex(3)}"
        write_atomic(path, data)
        return path


def stored_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's copy: its own, numbered where two would be the same."""
    names: list[str] = []
    for path in paths:
        name, number = path.name, 1
        while name in names or name in _OURS:
            number += 1
            name = f"{number}-{path.name}"
        names.append(name)
    return names


def runs_folder(data_dir: Path) -> Path:
    """Where the runs of a data directory are kept."""
    return data_dir / FOLDER


def all_runs(data_dir: Path) -> Iterator[RunDir]:
    """Every run, oldest first; directories without a state are none."""
    folder = runs_folder(data_dir)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / _STATE_FILE).is_file():
            yield RunDir(path)


def find_run(data_dir: Path, run: str) -> RunDir:
    """The run of this id, or the only one whose id starts so; ConfigError when there is none."""
    found = [each for each in all_runs(data_dir) if each.run.startswith(run)]
    exact = [each for each in found if each.run == run]
    if len(exact or found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise ConfigError(
            f"{what} `{run}` in {runs_folder(data_dir)}",
            code="no_such_run",
            hint="`holdfast runs` lists them; HOLDFAST_DATA_DIR says where they are kept",
        )
    return (exact or found)[0]
