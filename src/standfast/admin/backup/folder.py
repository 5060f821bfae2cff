"""The folder of the backups: their names, what is known of each and how it is found, its lock."""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from standfast.admin.backup.format import Counts, Head, opened
from standfast.errors import ConfigError, CorruptData, Unavailable
from standfast.limits import NOTES_WAIT_S
from standfast.migrate.rundir import now_text
from standfast.migrate.steps import Progress, disk_errors, silent
from standfast.system.files import is_draft, make_directory, sha256, write_atomic
from standfast.system.locks import FileLock

logger = logging.getLogger("standfast")

FOLDER = "backups"
ENDING = ".jsonl.gz"
SCHEDULE = "schedule.json"
_KNOWN, _LOCK = "known.json", "backups.lock"
#: The lock of the two small files: held for as long as one of them is read and written, while that
#: of the folder is held for a whole backup.
_NOTES_LOCK = "notes.lock"


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a file: its size and time say whether it is still that one.

    `verified_at`: when every checksum of it was last found right; `drilled_at`: when it was last
    restored into a scratch store and every value compared; `problem`: why it is not good.
    """

    size: int
    mtime_ns: int
    counts: Counts | None = None
    verified_at: str | None = None
    drilled_at: str | None = None
    problem: str = ""


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """One backup of the folder.  `head` is None when its first line cannot be read."""

    path: Path
    size: int
    head: Head | None
    known: Known | None

    @property
    def problem(self) -> str:
        """Why it is known not to be good; empty when nothing speaks against it."""
        if self.known and self.known.problem:
            return self.known.problem
        return "" if self.head else "its first line cannot be read"

    @property
    def made_at(self) -> datetime:
        """When it was made; the beginning of time where that cannot be read."""
        if self.head is None:
            return datetime.fromtimestamp(0, UTC)
        return datetime.fromisoformat(self.head.created_at)


def folder(data_dir: Path) -> Path:
    """Where the backups of a data directory are."""
    return data_dir / FOLDER


@contextmanager
def locked(data_dir: Path) -> Generator[Path]:
    """The folder, made where it is missing; one process at a time writes or removes backups."""
    place = folder(data_dir)
    make_directory(place)
    lock = FileLock(place / _LOCK)
    if not lock.acquire():
        raise Unavailable(
            f"another process is making or removing backups in {place}",
            code="locked",
            hint="wait until it has ended, then run this again",
        )
    try:
        _remove_drafts(place, of_notes=False)
        yield place
    finally:
        lock.release()


def _remove_drafts(place: Path, *, of_notes: bool) -> None:
    """Remove what killed processes left: whoever lives has the lock of what it is a draft of."""
    for path in list(place.iterdir()):
        notes = path.name.startswith((f".{_KNOWN}.", f".{SCHEDULE}."))
        if is_draft(path) and notes == of_notes:
            path.unlink(missing_ok=True)


@contextmanager
def _noting(place: Path) -> Generator[bool]:
    """One thread at a time reads and writes the small files; False when that was not to be had."""
    lock = FileLock(place / _NOTES_LOCK)
    until = time.monotonic() + NOTES_WAIT_S
    while not lock.acquire():
        if time.monotonic() > until:
            yield False
            return
        time.sleep(0.01)
    try:
        _remove_drafts(place, of_notes=True)
        yield True
    finally:
        lock.release()


def backups(data_dir: Path) -> list[Backup]:
    """The backups of a data directory, oldest first."""
    place = folder(data_dir)
    if not place.is_dir():
        return []
    known = _load(place)
    found = [_look(path, known) for path in place.iterdir() if path.name.endswith(ENDING)]
    return sorted(found, key=lambda each: each.path.name)


def _look(path: Path, known: dict[str, Known]) -> Backup:
    state = path.stat()
    about = known.get(path.name)
    if about and (about.size, about.mtime_ns) != (state.st_size, state.st_mtime_ns):
        about = None
    head = None
    try:
        with opened(path) as reader:
            head = reader.head
    except CorruptData:
        pass
    return Backup(path=path, size=state.st_size, head=head, known=about)


def find(data_dir: Path, name: str | Path | None) -> Path:
    """The file that a command names: a path, a name or the beginning of one in the folder; the
    newest that nothing speaks against for None."""
    if name is None:
        good = [each.path for each in backups(data_dir) if not each.problem]
        if good:
            return good[-1]
        raise _no_backup(f"there is no backup in {folder(data_dir)}")
    path = Path(name)
    if path.is_file():
        return path
    place = folder(data_dir)
    text = str(name)
    found = [
        each
        for each in (sorted(place.iterdir()) if place.is_dir() else [])
        if each.name.endswith(ENDING) and each.name.startswith(text)
    ]
    if len(found) == 1:
        return found[0]
    what = "no backup" if not found else f"{len(found)} backups"
    raise _no_backup(f"{what} `{text}`, neither as a file nor in {place}")


def _no_backup(message: str) -> ConfigError:
    return ConfigError(
        message,
        code="no_such_backup",
        hint="`standfast backup list` shows them; `standfast backup create` makes one",
    )


# ---- what is known of them


class _KnownFiles(msgspec.Struct):
    files: dict[str, Known]
    checksum: str = ""


def _load(place: Path) -> dict[str, Known]:
    """What is known of the files; nothing where that cannot be read, since it can be found out
    again."""
    try:
        kept = msgspec.json.decode((place / _KNOWN).read_bytes(), type=_KnownFiles)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return kept.files if kept.checksum == _checksum(kept.files) else {}


def note(path: Path, **found: object) -> None:
    """Keep what was found out about a backup of the folder; of another file nothing is kept.

    It can be found out again: what cannot be noted, since another process hangs that holds the
    lock, is said in the log.
    """
    if path.parent.name != FOLDER or not path.name.endswith(ENDING):
        return
    with _noting(path.parent) as free:
        if not free:
            logger.warning("what was found out about %s could not be noted", path.name)
            return
        state = path.stat()
        files = _load(path.parent)
        about = files.get(path.name)
        if about is None or (about.size, about.mtime_ns) != (state.st_size, state.st_mtime_ns):
            about = Known(size=state.st_size, mtime_ns=state.st_mtime_ns)
        files[path.name] = msgspec.structs.replace(about, **found)
        there = {each: known for each, known in files.items() if (path.parent / each).exists()}
        data = msgspec.json.encode(_KnownFiles(there, _checksum(there)))
        write_atomic(path.parent / _KNOWN, msgspec.json.format(data, indent=1))


def keep_schedule(data_dir: Path, data: bytes) -> None:
    """Put this in the place of the schedule's file.  Raises OSError."""
    place = folder(data_dir)
    make_directory(place)
    with _noting(place) as free:
        if not free:
            raise OSError(errno.EAGAIN, "another process holds the lock")
        write_atomic(place / SCHEDULE, data)


def _checksum(files: dict[str, Known]) -> str:
    return sha256(msgspec.json.encode(files))


class Verified(msgspec.Struct, frozen=True):
    """A backup that was found whole: every checksum is right, and nothing is missing."""

    path: Path
    head: Head
    counts: Counts


def verify(path: Path, *, progress: Progress = silent) -> Verified:
    """Read a whole backup and check every checksum; the result is kept with the folder.

    Raises CorruptData("damaged_backup") when anything in it is not as it was written, and
    CorruptData("backup_newer") when a newer version has made it.
    """
    with disk_errors("reading a backup"):
        try:
            with opened(path, partial(progress, "verify")) as reader:
                deque(reader.items(), maxlen=0)
                assert reader.counts is not None, "set at the end"
                found = Verified(path, reader.head, reader.counts)
        except CorruptData as error:
            if error.code == "damaged_backup":
                note(path, problem=error.message)
            raise
        note(path, counts=found.counts, verified_at=now_text(), problem="")
    return found
