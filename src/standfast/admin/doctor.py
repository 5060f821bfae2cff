"""`standfast doctor`: what can be wrong around a store, each check with what to do about it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from standfast.admin.conflicts import open_conflicts
from standfast.admin.data_dir import Local, look
from standfast.admin.primary import Primary, reach
from standfast.backends.base import SCHEMA_VERSION
from standfast.backends.postgres.schema import ServerFacts
from standfast.config.settings import Settings, is_public
from standfast.errors import StandfastError
from standfast.ops.types import from_microseconds
from standfast.system.disks import VOLATILE, filesystem_of, mode_of, mounts
from standfast.system.files import is_open_to_others

#: How long it is shown that the database went back in time.
NOTICE_S = 7 * 86_400.0

#: Files of the data directory that are looked at, and that are named, at the most.
_MOST_LOOKED_AT, _MOST_NAMED = 100_000, 5

Verdict = Literal["ok", "warn", "fail"]

#: A clock that is further off makes ages, outage `ttl_s` and `on_conflict="newest"` wrong.
MAX_CLOCK_DIFFERENCE_S = 60.0


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: its name, the verdict, what was found, and what to do."""

    name: str
    verdict: Verdict
    found: str
    hint: str = ""


class Report(msgspec.Struct, frozen=True):
    """All checks, and the error of a database that could not be asked."""

    checks: list[Check]
    failure: StandfastError | None

    @property
    def green(self) -> bool:
        """Whether every check is ok."""
        return all(check.verdict == "ok" for check in self.checks)


def examine(settings: Settings) -> Report:
    """Run every check; those of the database only when it answers within the deadline."""
    local = look(settings.data_dir)
    found = reach(settings, lanes=sorted(local.expected))
    if isinstance(found, StandfastError):
        checks = [Check("connection", "fail", found.message, found.hint)]
    else:
        checks = [Check("connection", "ok", f"{settings.target.display} ({settings.source})")]
        checks += _database(settings, local, found)
    checks += _directory(settings, local)
    return Report(checks, found if isinstance(found, StandfastError) else None)


# ---- the database


def _database(settings: Settings, local: Local, primary: Primary) -> Iterator[Check]:
    if primary.server is not None:
        yield Check(
            "server", "ok", f"PostgreSQL {primary.server.version}, {primary.server.encoding}"
        )
    yield _schema(primary)
    if primary.server is not None:
        yield _installed(primary)
        yield _triggers(primary)
        yield tls(settings, encrypted=primary.server.encrypted)
        yield _durability(primary.server)
        yield clock(primary.server.clock_ahead_s)
        yield _history(settings, local, primary)
    yield _conflicts(primary)


def _schema(primary: Primary) -> Check:
    found = f"version {primary.schema} of {SCHEMA_VERSION}"
    if primary.schema == SCHEMA_VERSION:
        return Check("schema", "ok", found)
    if not primary.schema:
        return Check("schema", "ok", "none yet; the first write creates it")
    hint = "run standfast schema apply, or give a DBA the output of standfast schema sql"
    return Check("schema", "warn", found, hint)


def _installed(primary: Primary) -> Check:
    if not primary.differences:
        return Check("installation", "ok", "functions, policies and triggers are as installed")
    found = primary.differences
    more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    hint = "give a DBA the output of standfast schema sql --role; see docs/security.md"
    return Check("installation", "warn", "; ".join(found[:_MOST_NAMED]) + more, hint)


def _triggers(primary: Primary) -> Check:
    """What may fail in sessions of ours although it works in others: see docs/security.md."""
    found = primary.triggers
    if not found:
        return Check("triggers", "ok", "no trigger of yours depends on a search path")
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    which = ", ".join(found[:_MOST_NAMED])
    return Check("triggers", "ok", f"names need their schema in the functions of {which}{more}")


def tls(settings: Settings, *, encrypted: bool) -> Check:
    """The check of how the connection is protected: what the URL asks for, and what there is."""
    params = settings.target.params
    mode = params.get("sslmode") or os.environ.get("PGSSLMODE", "").strip() or "prefer"
    if mode in ("verify-full", "verify-ca") and encrypted:
        return Check("tls", "ok", f"encrypted, and the server's certificate is checked ({mode})")
    if is_public(params, os.environ):
        found = "encrypted, but the server is not verified" if encrypted else "not encrypted"
        hint = "write sslmode=verify-full and sslrootcert= into the URL"
        return Check("tls", "warn", f"{found} (sslmode {mode}, a public host)", hint)
    found = "encrypted" if encrypted else "not encrypted"
    return Check("tls", "ok", f"{found} (sslmode {mode}, a private host)")


def _durability(server: ServerFacts) -> Check:
    for name, value in (("fsync", server.fsync), ("full_page_writes", server.full_page_writes)):
        if value == "off":
            found = f"{name} is off: a crash of the server's machine can lose or damage everything"
            return Check("durability", "fail", found, f"switch {name} on in postgresql.conf")
    if server.synchronous_commit == "off":
        return Check(
            "durability",
            "warn",
            "synchronous_commit is off for this role: standfast switches it on for its own writes,"
            " what others write with this role can be lost in a crash",
            "ALTER ROLE ... SET synchronous_commit = on",
        )
    return Check("durability", "ok", f"synchronous_commit is {server.synchronous_commit}")


def clock(ahead_s: float) -> Check:
    """The check of the server's clock against this machine's."""
    if abs(ahead_s) <= MAX_CLOCK_DIFFERENCE_S:
        return Check("clock", "ok", f"differs from the server's by {abs(ahead_s):.1f} s")
    which = "behind" if ahead_s > 0 else "ahead of"
    return Check(
        "clock",
        "warn",
        f"this machine's clock is {abs(ahead_s):.0f} s {which} the server's",
        "synchronise both (NTP): during an outage ages and ttl_s are measured by this machine's",
    )


def _history(settings: Settings, local: Local, primary: Primary) -> Check:
    known = local.history
    if not local.journal or known is None:
        return Check("history", "ok", "the data directory does not belong to a database yet")
    held = local.held(primary.server_identity, display=settings.target.display)
    why = local.lost(primary.server_identity)
    if held == "went_back":
        found = f"went_back: the database went back in time ({why}); {local.ops} writes are held"
        hint = "to use it as it is now: stop the app, then standfast doctor --adopt"
        return Check("history", "fail", found, hint)
    if why:
        found = f"went_back: the database went back in time ({why}), and nothing is pending"
        return Check("history", "warn", found, "the next open uses it as it is now")
    if known.is_of(primary.server_identity):
        return _went_back(local) or Check(
            "history", "ok", f"the journal belongs to this database ({known.identity})"
        )
    if held is None:
        found = "a new database, and nothing is pending: the next open switches to it"
        return Check("history", "ok", found)
    return Check(
        "history",
        "fail",
        f"other_database: the journal belongs to {known.identity} at {known.display}, and another"
        " database answers; nothing is replayed into it",
        "correct the URL; if the journal is meant for this database: standfast doctor --adopt",
    )


def _went_back(local: Local) -> Check | None:
    """What was noticed of it lately, and is decided."""
    notice = local.notice
    if notice is None or time.time() - notice.at_us / 1e6 > NOTICE_S:
        return None
    when = from_microseconds(notice.at_us).strftime("%Y-%m-%d %H:%M UTC")
    found = f"went_back: on {when} the database went back in time ({notice.why})"
    hint = "nothing has to be done"
    if notice.regained:
        hint = f"{notice.regained} confirmed writes that it lost were sent again"
    if notice.saved:
        hint = f"what it confirmed shortly before is in {', '.join(notice.saved)}: compare"
    return Check("history", "ok", f"{found}; {hint}")


def _conflicts(primary: Primary) -> Check:
    count = open_conflicts(primary.conflicts)
    if not count:
        return Check("conflicts", "ok", "none is open")
    return Check("conflicts", "warn", f"{count} open", "standfast conflicts list")


# ---- the data directory


def _directory(settings: Settings, local: Local) -> Iterator[Check]:
    yield _pending(local)
    for name, note in sorted(local.collections.items()):
        yield Check("held", "fail", note.sentence(name), note.hint)
    yield _local_files(local)
    yield _lanes(local)
    yield from _disk(settings.data_dir)


def _pending(local: Local) -> Check:
    if not local.ops:
        return Check("pending", "ok", "no write is pending")
    found = f"{local.ops} writes are pending, the oldest for {local.lag_s:.0f} s"
    if local.is_old:
        hint = "look at them (standfast journal list), then: standfast journal drain --confirm"
        return Check(
            "pending", "warn", f"journal_old: {found}; replay waits for a confirmation", hint
        )
    hint = "an open store replays them; or run: standfast journal drain"
    return Check("pending", "warn", found, hint)


def _local_files(local: Local) -> Check:
    if local.losses:
        return Check("local files", "fail", "; ".join(local.losses), "restore what it held by hand")
    if local.spooled:
        found = f"{local.spooled} pending writes are in the spool: the journal could not be written"
        return Check("local files", "warn", found, "look at the disk; an open store replays them")
    return Check("local files", "ok", "the journal is whole, and the spool is empty")


def _lanes(local: Local) -> Check:
    if not local.dead:
        return Check("lanes", "ok", f"{local.alive} alive, none left by an ended process")
    return Check(
        "lanes",
        "warn",
        f"{local.dead} left by ended processes are not closed in the database yet",
        "the next process that opens the store closes them",
    )


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


def _disk(data_dir: Path) -> Iterator[Check]:
    try:
        mode = mode_of(data_dir)
    except FileNotFoundError:
        yield Check("data directory", "ok", f"{data_dir.absolute()} is not there yet")
        return
    kind = filesystem_of(data_dir, mounts())
    if kind in VOLATILE:
        found = f"{data_dir.absolute()} is on {kind}: a restart deletes the journal and all else"
        yield Check("data directory", "fail", found, "put STANDFAST_DATA_DIR on a disk")
    else:
        yield Check("data directory", "ok", str(data_dir.absolute()))
    if mode is None:
        yield Check(
            "privacy", "ok", "not checked: this system does not say by a mode who may enter it"
        )
    elif mode & 0o007:
        found = f"every user of this machine may enter it (mode {mode:o})"
        yield Check("privacy", "warn", found, f"chmod o-rwx {data_dir.absolute()}")
    elif odd := _not_private(data_dir):
        hint = "chmod -R o-rwx what is yours; make links directories and files of their own"
        yield Check("privacy", "warn", "; ".join(odd), hint)
    else:
        yield Check("privacy", "ok", f"mode {mode:o}")
