"""Checks of the data directory: what is pending, the files, the disk, who may enter it."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from standfast.admin.checks import Check
from standfast.admin.data_dir import Local
from standfast.admin.evidence import Evidence
from standfast.admin.verdict import is_used, size, too_little_free
from standfast.config.settings import EMBEDDED_FILE, Settings, read_dotenv
from standfast.engine.outages import duration
from standfast.errors import StandfastError
from standfast.system.disks import (
    CONTAINER,
    NETWORK,
    VOLATILE,
    filesystem_of,
    mode_of,
    mounts,
    own_user,
    require_access,
    user_name,
)
from standfast.system.files import is_open_to_others

#: SQLite before this version can damage a file in WAL mode.
MIN_SQLITE = (3, 51, 3)
#: A file up to this size is checked completely, a larger one quickly.
CHECKED_BYTES = 256 * 1024 * 1024
_DOT_ENV = ".env"
#: Files of the data directory that are looked at, and that are named, at the most.
_MOST_LOOKED_AT, _MOST_NAMED = 100_000, 5


def url(settings: Settings, folder: Path) -> Check:
    """For `doctor`: the URL that was meant is the one used, and no `.env` here is overlooked."""
    names = ("STANDFAST_DATABASE_URL", "DATABASE_URL")
    if settings.source != "default":
        return Check("url", "ok", f"from {settings.source}")
    if any(map(read_dotenv(folder / _DOT_ENV).get, names)):
        found = f"{folder / _DOT_ENV} names a database, and nothing has read it: SQLite is used"
        hint = "put its variables into the environment of the app and of this command"
        return Check("url", "warn", found, hint, f"set -a; . {shlex.quote(str(folder / _DOT_ENV))}")
    return Check("url", "ok", "none is set: SQLite in the data directory is the database")


def used(evidence: Evidence) -> Check:
    """Whether any app has used this data directory."""
    where = evidence.settings.data_dir.absolute()
    if is_used(evidence):
        return Check("directory", "ok", f"{where} is in use")
    lately = evidence.directories
    others = (
        ""
        if isinstance(lately, StandfastError) or not lately
        else (f", and {len(lately)} other(s) wrote to this database in the last day")
    )
    if not others and evidence.settings.source != "default":
        return Check("directory", "ok", f"no app has used {where} yet")
    return Check(
        "directory",
        "warn" if others else "ok",
        f"no app has used {where} yet{others}",
        "run this with the STANDFAST_DATA_DIR and DATABASE_URL of the app" if others else "",
    )


def embedded(hidden: StandfastError) -> Check:
    """Documents of an embedded database keep every app with this URL from starting."""
    found = f"no app can open its store: {hidden.message}"
    return Check(EMBEDDED_FILE, "fail", found, hidden.hint, "standfast promote")


def pending(local: Local) -> Check:
    """Acknowledged writes that are not on the primary."""
    if not local.ops:
        return Check("pending", "ok", "no write is pending")
    found = f"{local.ops} writes are pending, the oldest for {duration(local.lag_s)}"
    if local.is_old:
        hint = "look at them (standfast journal list), then: standfast journal drain --confirm"
        text = f"journal_old: {found}; replay waits for a confirmation"
        return Check("pending", "warn", text, hint, "standfast journal drain --confirm")
    hint = "an open store replays them; or run: standfast journal drain"
    return Check("pending", "warn", found, hint, "standfast journal drain")


def local_files(local: Local) -> Check:
    """Whether the journal is whole."""
    if local.losses:
        return Check("local files", "fail", "; ".join(local.losses), "restore what it held by hand")
    if local.spooled:
        found = f"{local.spooled} pending writes are in the spool: the journal could not be written"
        return Check("local files", "warn", found, "look at the disk; an open store replays them")
    return Check("local files", "ok", "the journal is whole, and the spool is empty")


def processes(evidence: Evidence, local: Local) -> Check:
    """The processes that have the store open, and what ended ones have left."""
    if evidence.settings.target.kind == "sqlite":
        found = "not known: those of an embedded database write no reports"
        return Check("processes", "ok", found)
    alive = len(evidence.alive)
    if not local.dead:
        return Check("processes", "ok", f"{alive} have the store open, none left anything behind")
    return Check(
        "processes",
        "warn",
        f"{local.dead} ended without closing the store; their writes are kept",
        "the next process that opens the store finishes what they left",
        "standfast journal drain",
    )


def runs(evidence: Evidence) -> Iterator[Check]:
    """Migrations that were interrupted."""
    if isinstance(evidence.runs, StandfastError):
        raise evidence.runs
    for one in evidence.runs:
        if one.busy:
            yield Check("migrations", "ok", f"run {one.run} is under way ({one.state})")
            continue
        found = f"run {one.run} was interrupted ({one.state}, since {one.since})"
        yield Check("migrations", "warn", found, "finish it", one.command)
    if not evidence.runs:
        yield Check("migrations", "ok", "none is unfinished")


def backups(evidence: Evidence) -> Check:
    """Whether there is a backup that was verified, and whether the newest is good."""
    found = evidence.backups
    if isinstance(found, StandfastError):
        raise found
    if found.problem:
        text = f"the newest backup is not good: {found.problem}"
        return Check("backup", "fail", text, "make another one", "standfast backup create")
    known = found.schedule
    if known is not None and (known.is_overdue(time.time()) or known.is_failing):
        text = f"scheduled backups fail: {known.error}" if known.is_failing else "one was missed"
        return Check("backup", "fail", text, "make one now", "standfast backup create")
    return Check("backup", "ok", found.verified or "none that is verified: standfast backup create")


def disk(data_dir: Path) -> Check:
    """What kind of file system the data directory is on."""
    where = data_dir.absolute()
    if not data_dir.exists():
        if data_dir.is_symlink():
            found = f"{where} is a link to {os.readlink(data_dir)}, which is not there"
            return Check("data directory", "fail", found, "mount that disk, or correct the link")
        return Check("data directory", "ok", f"{where} is not there yet")
    if not data_dir.is_dir():
        hint = "name a directory with STANDFAST_DATA_DIR or --data-dir"
        return Check("data directory", "fail", f"{where} is a file", hint)
    kind = filesystem_of(data_dir, mounts())
    move = "put STANDFAST_DATA_DIR on a disk of its own that outlives a restart"
    if kind in VOLATILE:
        found = f"{where} is on {kind}: a restart deletes the journal and all else"
        return Check("data directory", "fail", found, "put STANDFAST_DATA_DIR on a disk")
    if kind in NETWORK:
        found = f"{where} is on a network file system ({kind}): SQLite's locks are not safe there"
        return Check("data directory", "fail", found, move)
    if kind in CONTAINER:
        found = f"{where} is inside a container ({kind}): a new container begins without it"
        return Check("data directory", "warn", found, f"{move}: mount a volume there")
    return Check("data directory", "ok", str(where))


def owner(data_dir: Path) -> Check:
    """Whether the files belong to the user who runs this."""
    me = own_user()
    if not data_dir.is_dir() or me is None:
        return Check("owner", "ok", "not checked")
    user = os.stat(data_dir).st_uid
    if me not in (0, user):
        found = f"it belongs to {user_name(user)}, and this runs as {user_name(me)}"
        hint = "run this as the user of the app; if this is that user, give it the directory"
        command = f"chown -R {user_name(me)} {shlex.quote(str(data_dir.absolute()))}"
        return Check("owner", "fail", found, hint, command)
    foreign = [path.name for path in sorted(data_dir.iterdir()) if path.lstat().st_uid != user]
    if not foreign:
        return Check("owner", "ok", "all files belong to one user")
    found = f"{', '.join(foreign[:3])} belong(s) to another user than the directory"
    command = f"chown -R {user_name(user)} {shlex.quote(str(data_dir.absolute()))}"
    return Check("owner", "warn", found, "the app may not be able to use them", command)


def privacy(data_dir: Path) -> Check:
    """Who may enter the data directory."""
    mode = mode_of(data_dir) if data_dir.is_dir() else 0o700
    if mode is None:
        found = "not checked: this system does not say by a mode who may enter it"
        return Check("privacy", "ok", found)
    if mode & 0o007:
        found = f"every user of this machine may enter it (mode {mode:o})"
        command = f"chmod o-rwx {shlex.quote(str(data_dir.absolute()))}"
        return Check("privacy", "warn", found, f"take that right away: {command}", command)
    if odd := _not_private(data_dir):
        hint = "chmod -R o-rwx what is yours; make links directories and files of their own"
        return Check("privacy", "warn", "; ".join(odd), hint)
    return Check("privacy", "ok", f"mode {mode:o}")


def _not_private(data_dir: Path) -> list[str]:
    """Files below the directory that others may open, and symbolic links, which lead elsewhere."""
    found: list[str] = []
    for count, path in enumerate(data_dir.rglob("*")):
        if len(found) == _MOST_NAMED or count == _MOST_LOOKED_AT:
            break
        name = str(path.relative_to(data_dir))
        with contextlib.suppress(OSError):
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                found.append(f"`{name}` is a symbolic link")
            elif is_open_to_others(state):
                mode = stat.S_IMODE(state.st_mode)
                found.append(f"every user of this machine may open `{name}` (mode {mode:o})")
    return found


def space(evidence: Evidence) -> Check:
    """Whether an outage has room."""
    if isinstance(evidence.disk, StandfastError):
        raise evidence.disk
    found = f"{size(evidence.disk.free)} of {size(evidence.disk.total)} free"
    if too_little_free(evidence.disk):
        hint = "free space there, or move STANDFAST_DATA_DIR to a larger disk"
        return Check("space", "fail", f"{found}: an outage could fill the disk", hint)
    return Check("space", "ok", found)


def sqlite_version(found: str = apsw.sqlite_lib_version()) -> Check:
    """Whether the SQLite in use has the fix for files in WAL mode."""
    if tuple(int(part) for part in found.split(".")) >= MIN_SQLITE:
        return Check("sqlite", "ok", f"version {found}")
    least = ".".join(map(str, MIN_SQLITE))
    text = f"version {found} can damage a file in WAL mode (fixed in {least})"
    return Check("sqlite", "fail", text, "update apsw", "pip install --upgrade apsw")


def integrity(path: Path, what: str, *, disposable: bool) -> Check:
    """Whether SQLite finds a file whole; it is only read."""
    name = path.name
    if not path.exists():
        return Check(name, "ok", "is not there")
    require_access(path)
    if not path.stat().st_size and not disposable:
        hint = "if documents were in it, stop the app and bring them back"
        return Check(name, "fail", f"{what} is empty (0 bytes)", hint, "standfast backup list")
    quick = path.stat().st_size > CHECKED_BYTES
    try:
        conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            conn.set_busy_timeout(1000)
            answer = str(conn.execute(f"PRAGMA {'quick' if quick else 'integrity'}_check(1)").get)
        finally:
            conn.close(True)
    except apsw.Error as error:
        answer = str(error)
    if answer == "ok":
        return Check(name, "ok", f"{what}: whole")
    if disposable:
        hint = "stop the app and delete it: it is filled again"
        command = f"rm {shlex.quote(str(path.absolute()))}*"
        return Check(name, "warn", f"{what} is damaged ({answer})", hint, command)
    hint = "stop the app, copy the data directory, then restore the file from a backup"
    return Check(name, "fail", f"{what} is damaged ({answer})", hint)
