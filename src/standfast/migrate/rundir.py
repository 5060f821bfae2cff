"""The directory of one run: originals, the record of what is changed, the state, the log.

Everything in it is 0600 and written atomically; the state file says how far a run has come, so
that whatever kills a process, the next one knows how to continue.  State and record carry
checksums: a flipped bit is found before anything is restored from them.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from standfast.backends.base import Form, Image
from standfast.errors import ConfigError, CorruptData
from standfast.system.failpoints import failpoint
from standfast.system.files import (
    append_line,
    beside,
    fsync_directory,
    is_draft,
    make_directory,
    read_regular,
    sha256,
    sha256_of_file,
    write_atomic,
)

_Record = TypeVar("_Record", bound=Any)

State = Literal[
    "started",
    "backed-up",
    "loaded",
    "verify-failed",
    "done",
    "rolling-back",
    "rolled-back",
    "abandoned",
]
#: States in which a run has to be finished before another begins.
UNFINISHED: tuple[State, ...] = ("started", "backed-up", "loaded", "verify-failed", "rolling-back")

FOLDER = "migration_backups"
_STATE_FILE = "run.json"
_CHANGES_FILE = "changes.json"
_LOG_FILE = "run.log"
#: What would end a line, or act on a terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))}
_OURS = (_STATE_FILE, _CHANGES_FILE, _LOG_FILE, "SHA256SUMS")


class SourceRecord(msgspec.Struct, frozen=True):
    """What a run brings to one collection from one file, and under which name its copy is kept.

    `folder` is the mode, user and group of the folder that it was in.

    Several records may be of one file, and several files of one collection.  A record without a
    path is of rows that were in the database before, as those that a split takes apart.
    """

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
    lines: bool = False
    split: str | None = None
    rest: bool = False
    table: str | None = None
    key: str | None = None
    uid: int = -1
    gid: int = -1
    folder: tuple[int, int, int] | None = None

    @classmethod
    def of_rows(cls, collection: str) -> SourceRecord:
        """Rows that are split without a file."""
        return cls(*("", "", "", 0, 0, 0), collection, Form(), 0, split_default=True)


class Updated(msgspec.Struct, frozen=True):
    """One row that a run changes: all that was stored of it, and the text that it gets."""

    before: Image
    after: str | None


class CollectionChanges(msgspec.Struct, frozen=True):
    """What a run changes in one collection; enough to verify it and to take it back.

    `kept` are the documents of the file that the run left alone although the database's differ;
    `form` is the collection's form before the run.
    """

    inserted: list[str]
    updated: list[Updated]
    kept: list[str]
    texts: dict[str, str] = {}
    form: Form | None = None


class RunState(msgspec.Struct):
    """How far a run has come.

    `cleaning`: it has begun to take originals away; those in `left` it did not take, because they
    had changed.  `changes_sha256` is the checksum of the record of changes, `checksum` that of all
    the other fields here.  `server` names the database below its identity: see `server_of`.
    `data_dir` is where the data directory was when the run began.
    """

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
    cleaning: bool = False
    left: list[str] = []
    changes_sha256: str = ""
    server: str = ""
    data_dir: str = ""
    format: int = 1
    checksum: str = ""

    @property
    def taken(self) -> list[SourceRecord]:
        """The files that this run has taken from their places, or may have."""
        return [each for each in self.files if self.cleaning and each.path not in self.left]

    @property
    def files(self) -> list[SourceRecord]:
        """One record for each file: several collections may come from one."""
        return list({each.path: each for each in self.sources if each.path}.values())

    @property
    def collections(self) -> dict[str, list[SourceRecord]]:
        """The records by collection, in order."""
        found: dict[str, list[SourceRecord]] = {}
        for each in self.sources:
            found.setdefault(each.collection, []).append(each)
        return found


def now_text() -> str:
    """The time for logs and states: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id() -> str:
    """A name that sorts by time, to the microsecond: the base of a merge is the last run's.

    It does not repeat, not even among the hosts that share one database.
    """
    now = datetime.now(UTC)
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.randbelow(4096):03x}"


class RunDir:
    """One run's directory on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> str:
        """The run's id."""
        return self.path.name

    def create(self) -> None:
        """Make the directory, durably; it must not be there yet."""
        folder = self.path.parent
        if folder.is_symlink():
            # It may have been made by another user, and what is kept here are whole documents.
            raise ConfigError(
                f"{folder} is a symbolic link: backups are not written through it",
                code="data_dir",
                hint="make it a directory; to keep everything elsewhere, set STANDFAST_DATA_DIR",
            )
        make_directory(folder)
        self.path.mkdir(mode=0o700)
        fsync_directory(self.path.parent)

    def remove(self) -> None:
        """Remove the directory of a run that never touched anything but this directory.

        The state goes last: what a kill leaves is still known as such a run, or is empty.
        """
        state = self.path / _STATE_FILE
        for path in list(self.path.iterdir()):
            if path != state:
                path.unlink()
        failpoint("copies-discarded")
        state.unlink(missing_ok=True)
        failpoint("state-discarded")
        self.path.rmdir()
        fsync_directory(self.path.parent)

    def sweep(self, state: RunState) -> None:
        """Remove the drafts that killed processes left here."""
        stored = {source.stored for source in state.files}
        for path in list(self.path.iterdir()):
            if is_draft(path) and path.name not in stored:
                path.unlink()

    def save_state(self, state: RunState) -> None:
        """Replace the state, atomically."""
        state.updated_at = now_text()
        state.checksum = _checksum(state)
        self._save(_STATE_FILE, msgspec.json.format(msgspec.json.encode(state), indent=1))

    def load_state(self) -> RunState:
        """The state; CorruptData when it cannot be read or is not what was saved.

        Where the app was moved together with its data directory, its paths are those of now.
        """
        state = self._load(_STATE_FILE, RunState)
        if state.checksum != _checksum(state):
            raise _damaged(self.path / _STATE_FILE, "is damaged, or of a newer version")
        now = self.path.parent.parent.resolve()
        if state.data_dir and state.data_dir != str(now):
            moved = {
                each.path: _moved(each.path, Path(state.data_dir), now) for each in state.files
            }
            state.sources = [
                msgspec.structs.replace(each, path=moved.get(each.path, each.path))
                for each in state.sources
            ]
            state.left = [moved.get(path, path) for path in state.left]
        return state

    def save_changes(self, changes: dict[str, CollectionChanges]) -> str:
        """Write what the run is going to change, before it does; returns its checksum."""
        data = msgspec.json.encode(changes)
        self._save(_CHANGES_FILE, data)
        return sha256(data)

    def load_changes(self) -> dict[str, CollectionChanges]:
        """What the run changes; CorruptData when it cannot be read or is not what was saved."""
        wanted = self.load_state().changes_sha256
        return self._load(_CHANGES_FILE, dict[str, CollectionChanges], wanted)

    def _save(self, name: str, data: bytes) -> None:
        write_atomic(self.path / name, data)

    def _load(self, name: str, kind: type[_Record], checksum: str | None = None) -> _Record:
        path = self.path / name
        try:
            data = path.read_bytes()
            if checksum is None or checksum == sha256(data):
                return msgspec.json.decode(data, type=kind)
            what = "is damaged: its checksum differs"
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        except (msgspec.MsgspecError, UnicodeDecodeError):
            what = "is damaged, or of a newer version"
        raise _damaged(path, what)

    def save_original(self, stored: str, data: bytes, mtime_ns: int) -> None:
        """Keep a file's bytes, durably; `original` checks them before anything relies on them."""
        write_atomic(self.path / stored, data, mtime_ns=mtime_ns)

    def save_checksums(self, sources: Sequence[SourceRecord]) -> None:
        """Write the checksums in the form that `sha256sum -c` reads; odd names are escaped."""
        lines = [checksum_line(source.sha256, source.stored) for source in sources]
        self._save("SHA256SUMS", "".join(lines).encode())

    def original(self, source: SourceRecord) -> bytes:
        """The kept bytes of a file; CorruptData when they are not what was kept."""
        with self._kept(source) as path:
            data, _ = read_regular(path)
        self._require_checksum(source, sha256(data))
        return data

    def require_original(self, source: SourceRecord) -> None:
        """CorruptData when the kept bytes of a file are not what was kept."""
        with self._kept(source) as path:
            found = sha256_of_file(path)
        self._require_checksum(source, found)

    @contextmanager
    def _kept(self, source: SourceRecord) -> Generator[Path]:
        path = self.path / source.stored
        try:
            yield path
        except OSError as error:
            raise CorruptData(
                f"the backup {path} cannot be read: {error.strerror}",
                code="backup",
                hint="restore the run's directory from a copy; nothing was changed",
            ) from None

    def _require_checksum(self, source: SourceRecord, found: str) -> None:
        if found != source.sha256:
            raise CorruptData(
                f"the backup {self.path / source.stored} is not what was kept:"
                " its checksum differs",
                code="backup",
                hint="restore the run's directory from a copy; nothing was changed",
            )

    def log(self, line: str) -> None:
        """Append a line to the readable log; it holds names and counts, never values.

        One line it stays, whatever is in a name: control characters are escaped.
        """
        escaped = line.replace("\\", "\\\\").translate(_CONTROL)
        plain = escaped.encode("utf-8", "backslashreplace").decode()
        append_line(self.path / _LOG_FILE, f"{now_text()} {plain}")

    def archive(self, name: str, data: bytes) -> Path:
        """Keep something that is about to be given up, under a name that its content decides.

        The same again is kept once, so a killed process may simply repeat it.
        """
        path = beside(self.path / name, f"-{sha256(data)[:12]}")
        path = path.with_name(path.name.removeprefix("."))
        write_atomic(path, data)
        return path


def _moved(path: str, then: Path, now: Path) -> str:
    """Where a file of an app is, whose data directory was `then` and is `now`.

    It is where it was if its folder is there; else beside the data directory as before, if that
    folder is there.
    """
    recorded = Path(path)
    if recorded.parent.is_dir() or not recorded.is_relative_to(then.parent):
        return path
    here = now.parent / recorded.relative_to(then.parent)
    return str(here) if here.parent.is_dir() else path


def _checksum(state: RunState) -> str:
    return sha256(msgspec.json.encode(msgspec.structs.replace(state, checksum="")))


def _damaged(path: Path, what: str) -> CorruptData:
    return CorruptData(
        f"the run's file {path} {what}",
        code="run_file",
        hint="restore the run's directory from a copy; nothing was changed",
    )


def stored_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's copy: its own, numbered where two files would have the same."""
    names: dict[Path, str] = {}
    for path in paths:
        name, number = path.name, 1
        while path not in names and (name in names.values() or name in _OURS):
            number += 1
            name = f"{number}-{path.name}"
        names.setdefault(path, name)
    return [names[path] for path in paths]


def runs_folder(data_dir: Path) -> Path:
    """Where the runs of a data directory are kept."""
    return data_dir / FOLDER


def all_runs(data_dir: Path) -> Iterator[RunDir]:
    """Every run, oldest first; a directory without a state is not a run."""
    folder = runs_folder(data_dir)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / _STATE_FILE).is_file():
            yield RunDir(path)


def remove_stateless(data_dir: Path) -> None:
    """Remove what a kill left of runs before their first state: directories without anything."""
    folder = runs_folder(data_dir)
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and all(is_draft(file) for file in path.iterdir()):
                RunDir(path).remove()


def find_run(data_dir: Path, run: str) -> RunDir:
    """The run of this id, or the only one whose id starts so; ConfigError when there is none."""
    found = [each for each in all_runs(data_dir) if run and each.run.startswith(run)]
    exact = [each for each in found if each.run == run]
    if len(exact or found) == 1:
        return (exact or found)[0]
    folder = runs_folder(data_dir)
    if not found and run and (folder / run / _CHANGES_FILE).is_file():
        raise _damaged(folder / run / _STATE_FILE, "is missing")
    what = "no run" if not found else f"{len(found)} runs"
    raise ConfigError(
        f"{what} `{run}` in {folder}",
        code="no_such_run",
        hint="`standfast runs` lists them; STANDFAST_DATA_DIR says where they are kept",
    )


def checksum_line(sha256: str, name: str) -> str:
    """A line of SHA256SUMS; a name with a line break is one line all the same."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n"
