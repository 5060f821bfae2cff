"""Where a directory is kept and who may enter it, as far as the operating system says."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

#: File systems whose files are gone when the machine or its container starts again.
VOLATILE = frozenset({"tmpfs", "ramfs"})
#: File systems of a container itself: gone with it, unless a volume is mounted over a directory.
CONTAINER = frozenset({"overlay", "aufs", "fuse-overlayfs"})
#: File systems of other machines.
NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "fuse.sshfs",
        "9p",
        "glusterfs",
        "fuse.glusterfs",
        "ceph",
        "afs",
        "lustre",
    }
)
#: Where Linux lists what is mounted; no other system has this file.
_MOUNTS = Path("/proc/self/mounts")
#: Whether the mode of a file says who may use it.  Windows has lists of rights in its place, and
#: shows every directory as open to all.
_HAS_MODES = hasattr(os, "getuid")


def mode_of(path: Path) -> int | None:
    """The permission bits of a directory; None where they say nothing."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if _HAS_MODES else None


def free_bytes(path: Path) -> int | None:
    """What is free for this user on the disk of a directory; None where that is not known."""
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None


def is_writable(path: Path) -> bool:
    """Whether this process may make files in a directory, as far as its mode says."""
    return os.access(path, os.W_OK)


def require_access(path: Path) -> None:
    """PermissionError where this process may not read and write a file."""
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def own_user() -> int | None:
    """The number of the user as whom this process runs; None on a system without such numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def user_name(number: int) -> str:
    """The name of a user, or its number where the system has none for it."""
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ModuleNotFoundError, KeyError):
        return str(number)


def mounts() -> str:
    """What is mounted on this machine, in the form of fstab(5); "" where that is not known."""
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def filesystem_of(path: Path, mounted: str) -> str:
    """The kind of the file system that a path is on; "" when that is not known.

    `mounted` is in the form of fstab(5): of the mount points above the path, the longest counts,
    and of several at one point the last.
    """
    try:
        resolved = path.resolve()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in mounted.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(_unescaped(fields[1]))
        if (point == resolved or point in resolved.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def _unescaped(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text
