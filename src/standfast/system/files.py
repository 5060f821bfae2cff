"""Files that survive a crash: atomic replacement, fsync of file and directory, mode 0600.

Source: the rules of crash consistency that most programs break (a rename is durable only after
the fsync of its directory): Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.

On Windows a directory cannot be flushed, and a mode means nothing but read-only: a rename is as
durable as NTFS's own journal makes it, and files are as private as their folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter
from pathlib import Path

from standfast.system.failpoints import failpoint

_MODE = 0o600
#: The longest file name that common file systems take, in bytes.
_MAX_NAME_BYTES = 255
#: Flags that not every system has.  O_BINARY: without it Windows changes line breaks.
_BINARY = getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
#: What opens a directory; None where a directory cannot be opened.
_DIRECTORY: int | None = getattr(os, "O_DIRECTORY", None)
#: Whether a link can be made to a symbolic link itself.  Not on Windows; there a rename leaves a
#: target alone, which it does nowhere else.
_LINKS_LINKS = os.link in os.supports_follow_symlinks
#: FS_IOC_GETFLAGS, and FS_IMMUTABLE_FL with FS_APPEND_FL, of Linux's <linux/fs.h>.
_GET_FLAGS = 0x8008_6601 if sys.maxsize > 2**32 else 0x8004_6601
_KEPT_IN_PLACE = 0x10 | 0x20
_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)


def sha256(data: bytes) -> str:
    """The checksum of a file's content, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The checksum of a regular file, read piece by piece; OSError for anything else."""
    with opened_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_directory(path: Path) -> None:
    """Create a private directory (0700) and its parents, durably; fine when it is there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    fsync_directory(path.parent)


def remake_directory(path: Path, was: tuple[int, int, int] | None) -> None:
    """As `make_directory`, with the mode, user and group that a directory which is gone had.

    Those above it that are gone too get the same: whoever could reach into it can again, as far as
    this process may give them away.
    """
    missing = [each for each in (path, *path.parents) if not each.is_dir()]
    make_directory(path)
    if was is None:
        return
    mode, user, group = was
    for each in missing:
        if hasattr(os, "chown"):
            with contextlib.suppress(PermissionError):
                os.chown(each, user, group)
        each.chmod(mode)


def is_there(path: Path) -> bool:
    """Whether there is anything at a path; OSError where that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def fsync_directory(path: Path) -> None:
    """Make renames, creations and removals in a directory durable, where the system can."""
    if _DIRECTORY is None:
        return
    handle = os.open(path, os.O_RDONLY | _DIRECTORY)
    try:
        with _named(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(
    path: Path,
    data: bytes,
    *,
    mode: int = _MODE,
    mtime_ns: int | None = None,
    owner: tuple[int, int] | None = None,
    draft: Path | None = None,
) -> None:
    """Put `data` in the place of `path`: afterwards there is the old content or the new, durably.

    The new file has `mode`, and `mtime_ns` as its time of modification when that is given; it gets
    `owner` (user and group) as far as this process may give files away.  A kill
    leaves at most a draft beside it: one that `is_draft` recognises, or `draft` itself, which
    replaces what an earlier kill left of it.
    """
    if draft is None:
        draft = beside(path, f".{secrets.token_hex(4)}.tmp")
    else:
        draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, _MODE)
    with _named(path):
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                if owner is not None:
                    _give_away(file.fileno(), owner)
                _set_mode(file.fileno(), draft, mode)
                if mtime_ns is not None:
                    by_handle = os.utime in os.supports_fd
                    os.utime(file.fileno() if by_handle else draft, ns=(mtime_ns, mtime_ns))
                os.fsync(file.fileno())
            failpoint("draft-written")
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    failpoint("draft-renamed")
    fsync_directory(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path` for its owner alone, atomically but without a flush.

    For what may be lost in a power cut.  A kill leaves at most a draft, which the next call of the
    same file replaces.
    """
    draft = path.with_name(f".{path.name}.draft")
    handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | _BINARY, _MODE)
    with _named(path):
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(draft, path)


@contextmanager
def drafted(path: Path, *, replace: bool = False) -> Generator[BufferedWriter]:
    """A private draft to write to, which takes the place of `path` durably when the block ends.

    Afterwards there is all of it, or what was there before; a kill leaves at most a draft that
    `is_draft` recognises.  Without `replace`, FileExistsError when there is a file by then.
    """
    draft = beside(path, f".{secrets.token_hex(4)}.tmp")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, _MODE)
    with _named(path):
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(draft, path)
            elif not move_back(draft, path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    fsync_directory(path.parent)


def _set_mode(handle: int, path: Path, mode: int) -> None:
    if hasattr(os, "fchmod"):
        os.fchmod(handle, mode)
    else:
        os.chmod(path, mode)


def _give_away(handle: int, owner: tuple[int, int]) -> None:
    """Set user and group, or the one of them that this process may set."""
    if not hasattr(os, "fchown"):
        return
    user, group = owner
    for uid, gid in ((-1, group), (user, -1)):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, uid, gid)


def cannot_be_moved(path: Path) -> str:
    """Why a file could not be renamed within its folder, as far as can be seen without trying.

    Empty when nothing speaks against it.  Looked at are the folder's rights and its sticky bit, a
    read-only file system, a mount on the file itself (as in a container), and Linux's attributes
    `immutable` and `append only`.
    """
    folder = path.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} is not writable"
    state, above = path.lstat(), folder.stat()
    mine = not hasattr(os, "geteuid") or os.geteuid() in (0, state.st_uid, above.st_uid)
    if above.st_mode & stat.S_ISVTX and not mine:
        return f"it belongs to another user, and the folder {folder} is sticky"
    if os.fsencode(path) in _mount_points():
        return "it is a mount point"
    return _attribute(path)


def _mount_points() -> set[bytes]:
    """Where this process sees file systems mounted; nothing where the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return set()
    return {
        re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4])
        for line in lines
    }


def _attribute(path: Path) -> str:
    """The attribute that keeps a file in its place.  Source: ioctl_iflags(2)."""
    if sys.platform != "linux":
        return ""
    try:
        import fcntl
    except ModuleNotFoundError:
        return ""
    flags = bytearray(8)
    try:
        with opened_regular(path) as file:
            fcntl.ioctl(file, _GET_FLAGS, flags)
    except OSError:
        return ""
    found = int.from_bytes(flags[:4], sys.byteorder)
    return "it is immutable or append-only (lsattr)" if found & _KEPT_IN_PLACE else ""


def create_private(path: Path) -> None:
    """Create an empty file for its owner alone, and its directory, unless it is there.

    A database that is there, and that every user of this machine may read or write, is closed to
    them, with its log; what its group may do stays.
    """
    make_directory(path.parent)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _MODE))
    except FileExistsError:
        close_to_others(path)


def is_open_to_others(state: os.stat_result) -> bool:
    """Whether every user of this machine may do something with a file, by its mode."""
    return hasattr(os, "fchmod") and bool(state.st_mode & 0o007)


def close_to_others(path: Path) -> None:
    """Take away what everybody may do with a database file of ours, and with its log.

    By their names: to open and close a database would end the locks that this process has on it.
    """
    for ending in ("", "-wal", "-shm"):
        one = path.with_name(path.name + ending)
        with contextlib.suppress(OSError):
            state = one.stat()
            # Only where files have modes do users have numbers.
            if not is_open_to_others(state) or not stat.S_ISREG(state.st_mode):
                continue
            if state.st_uid == os.geteuid():
                one.chmod(stat.S_IMODE(state.st_mode) & ~0o007)


def append_line(path: Path, line: str) -> None:
    """Append a line to a private text file, which is created when it is not there."""
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | _BINARY | _NOFOLLOW
    with os.fdopen(os.open(path, flags, _MODE), "wb") as file:
        file.write(f"{line}\n".encode())


@contextmanager
def _named(path: Path) -> Generator[None]:
    """An error of a handle does not name its file: name it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def is_draft(path: Path) -> bool:
    """Whether a file is named like a draft that a killed `write_atomic` leaves."""
    return _DRAFT.fullmatch(path.name) is not None


def beside(path: Path, ending: str) -> Path:
    """A hidden name beside a file, `.NAME` and the ending; a long name is cut and gets a hash.

    The same for the same arguments, so that a later process finds what a killed one left.
    """
    name = os.fsencode(path.name)
    room = _MAX_NAME_BYTES - len(os.fsencode(ending)) - 1
    if len(name) > room:
        cut = name[: room - 13].decode("utf-8", "ignore")
        return path.with_name(f".{cut}.{sha256(name)[:12]}{ending}")
    return path.with_name(f".{path.name}{ending}")


def move_back(source: Path, target: Path) -> bool:
    """Rename a file unless there is one at the target already; False when there is."""
    try:
        if not _LINKS_LINKS:
            os.rename(source, target)
            return True
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links has no rename that leaves a target alone either.
        if os.path.lexists(target):
            return False
        os.rename(source, target)
    else:
        source.unlink()
    fsync_directory(target.parent)
    return True


def read_regular(path: Path) -> tuple[bytes, os.stat_result]:
    """A regular file's content and state; OSError for anything else (a pipe would hang)."""
    with opened_regular(path) as file:
        return file.read(), os.fstat(file.fileno())


@contextmanager
def opened_regular(path: Path) -> Generator[BufferedReader]:
    """A regular file, for reading; OSError for anything else."""
    # O_NONBLOCK: opening a pipe without a writer must not wait.
    handle = os.open(path, os.O_RDONLY | _BINARY | _NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "not a regular file", str(path))
        yield file
