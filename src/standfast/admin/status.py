"""`standfast status`: the state of a store, from its files and one connection to its database."""

from __future__ import annotations

import time

import msgspec

from standfast.admin.data_dir import Local
from standfast.admin.evidence import Backups, Disk, Evidence, Run, gather
from standfast.admin.primary import Primary
from standfast.admin.verdict import Finding, findings, headline
from standfast.backends.base import SCHEMA_VERSION
from standfast.config.settings import Settings
from standfast.engine.activity import LastError
from standfast.engine.histories import History
from standfast.errors import StandfastError
from standfast.limits import MAX_JOURNAL_BYTES, MAX_JOURNAL_OPS
from standfast.ops.types import ServerIdentity, from_microseconds

#: Held collections that the cause of a state names.
_MAX_NAMED = 5


class Identity(msgspec.Struct, frozen=True):
    """Which database it is: its history and, for PostgreSQL, its system identifier, OID, name."""

    identity: str | None
    system: str
    database: str = ""
    name: str = ""


class Versions(msgspec.Struct, frozen=True):
    """Versions of the library, of the schema it knows and the one that is there, of the server."""

    library: str
    schema_known: int
    schema: int | None = None
    server: str | None = None


class Process(msgspec.Struct, frozen=True):
    """A process that has the store open now."""

    pid: int
    host: str
    opened_at: str
    state: str


class Space(msgspec.Struct, frozen=True):
    """The disk of the data directory and the journal on it, in bytes, and the journal's limits."""

    free: int
    total: int
    journal: int
    max_journal_ops: int = MAX_JOURNAL_OPS
    max_journal_bytes: int = MAX_JOURNAL_BYTES


class Wrote(msgspec.Struct, frozen=True):
    """A data directory that wrote to this database in the last day; `here`: it is this one."""

    id: str
    last_write: str
    here: bool


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is doing, as far as that is known outside its process.

    `safe`: nothing has to be done now, and what was acknowledged is safe; `headline` says that or
    what is to be done, `findings` all of it, the most pressing first.

    `state`: `direct` (the primary answers, nothing is pending), `draining` (it answers, something
    is), `journaling` (it does not answer), or why the journal is not replayed: `other_database`,
    `went_back`, `journal_old`; `unknown` where the files cannot be looked at.  `code` is that of
    the error when the primary does not answer.
    `lag_ops` acknowledged writes wait for it, the oldest for `lag_s` seconds.  `conflicts` counts
    them by state; it and `database` are None when the primary does not answer.

    `backup` names the newest backup that was verified, `backup_verified_at` says when, `backups`
    how many there are; `next_backup` is when `serve` makes the next one, None where it makes none,
    and `failed_backups` how many of its tries have failed since the last that did not.

    What the processes report that have the store open: `since` (when it came into its state),
    `next_try`, `last_error`, `refused_writes` (since they were opened).  Times are ISO 8601, UTC.
    """

    safe: bool
    headline: str
    findings: list[Finding]
    state: str
    cause: str
    code: str | None
    kind: str
    primary: str
    since: str | None
    next_try: str | None
    last_error: LastError | None
    refused_writes: int
    lag_ops: int
    lag_bytes: int
    lag_s: float
    spooled: int
    oldest_pending: str | None
    conflicts: dict[str, int] | None
    processes: list[Process]
    left_open: int
    runs: list[Run]
    backup: str | None
    backups: int
    backup_verified_at: str | None
    next_backup: str | None
    failed_backups: int
    disk: Space | None
    directories: list[Wrote]
    history: Identity | None
    database: Identity | None
    versions: Versions
    data_dir: str
    mirrored: int | None

    @property
    def open_conflicts(self) -> int:
        """Conflicts that wait for a decision."""
        return (self.conflicts or {}).get("open", 0)


class Seen(msgspec.Struct, frozen=True):
    """A status, and the error of what could not be asked: the files, or else the database."""

    status: Status
    failure: StandfastError | None


def status_of(settings: Settings, *, library: str) -> Seen:
    """Look at the data directory, and ask the database within the deadline.

    Works while the app is running.  Raises only errors of the settings, and of an embedded
    database.
    """
    return status_from(gather(settings), library=library)


def status_from(evidence: Evidence, *, library: str) -> Seen:
    """The status that follows from what was looked at."""
    settings = evidence.settings
    found, local = evidence.primary, evidence.local
    unreachable = found if isinstance(found, StandfastError) else None
    if settings.target.kind == "sqlite" and unreachable is not None:
        raise unreachable
    primary = None if isinstance(found, StandfastError) else found
    known = local if isinstance(local, Local) else Local(data_dir=settings.data_dir)
    state, cause = _state(evidence)
    problems = findings(evidence)
    display = settings.target.display
    newest = evidence.alive[0].report if evidence.alive else None
    refused = sum(sum(one.report.refused.values()) for one in evidence.alive)
    disk = evidence.disk
    saved = Backups() if isinstance(evidence.backups, StandfastError) else evidence.backups
    status = Status(
        safe=not any(one.severity == "act" for one in problems),
        headline=headline(problems, display),
        findings=problems,
        state=state,
        cause=cause,
        code=unreachable.code if unreachable else None,
        kind=settings.target.kind,
        primary=display,
        since=_since(evidence, state),
        next_try=_iso(newest.next_try) if newest and newest.next_try else None,
        last_error=newest.last_error if newest else None,
        refused_writes=refused,
        lag_ops=known.ops,
        lag_bytes=known.bytes,
        lag_s=round(known.lag_s, 3),
        spooled=known.spooled,
        oldest_pending=from_microseconds(known.oldest_us).isoformat() if known.oldest_us else None,
        conflicts=primary.conflicts if primary else None,
        processes=[
            Process(one.pid, one.host, _iso(one.opened_at), one.state)
            for one in (seen.report for seen in evidence.alive)
        ],
        left_open=known.dead,
        runs=[] if isinstance(evidence.runs, StandfastError) else evidence.runs,
        backup=saved.verified or None,
        backups=saved.number,
        backup_verified_at=saved.verified_at,
        next_backup=_iso(saved.schedule.next_at) if saved.schedule else None,
        failed_backups=saved.schedule.failures if saved.schedule else 0,
        disk=Space(disk.free, disk.total, disk.journal) if isinstance(disk, Disk) else None,
        directories=_directories(evidence, known),
        history=_identity(known.history),
        database=_identity(primary.server_identity) if primary else None,
        versions=Versions(
            library,
            SCHEMA_VERSION,
            primary.schema if primary else None,
            primary.server.version if primary and primary.server else None,
        ),
        data_dir=str(settings.data_dir.absolute()),
        mirrored=known.mirrored,
    )
    return Seen(status, local if isinstance(local, StandfastError) else unreachable)


def _iso(seconds: float) -> str:
    return from_microseconds(int(seconds * 1e6)).isoformat()


def _since(evidence: Evidence, state: str) -> str | None:
    """Since when the processes are in this state; None where none of them is, or not yet."""
    found = [one.report.since for one in evidence.alive if one.report.state == state]
    return _iso(min(found)) if found else None


def _directories(evidence: Evidence, known: Local) -> list[Wrote]:
    if isinstance(evidence.directories, StandfastError):
        return []
    return [
        Wrote(one.id, one.last_write.isoformat(), one.id == known.directory)
        for one in evidence.directories
    ]


def _identity(one: History | ServerIdentity | None) -> Identity | None:
    return Identity(one.identity, one.system, one.database, one.name) if one else None


def _state(evidence: Evidence) -> tuple[str, str]:
    found, local, settings = evidence.primary, evidence.local, evidence.settings
    if isinstance(found, StandfastError):
        return "journaling", found.message
    if settings.target.kind == "sqlite":
        return "direct", "an embedded SQLite database, which is always at hand"
    if isinstance(local, StandfastError):
        return "unknown", local.message
    return _pending_state(settings, local, found)


def _pending_state(settings: Settings, local: Local, found: Primary) -> tuple[str, str]:
    held = local.held(found.server_identity, display=settings.target.display)
    if held == "other_database":
        return held, "the journal belongs to a database other than the one that answers"
    if held == "went_back":
        why = local.lost(found.server_identity)
        return held, f"went_back: the database went back in time ({why}); see standfast doctor"
    if not local.ops:
        return "direct", "everything is on the primary"
    if local.is_old:
        return "journal_old", "the oldest pending write is more than a day old"
    if local.alive and local.collections:
        names = ", ".join(f"`{name}`" for name in sorted(local.collections)[:_MAX_NAMED])
        more = " and others" if len(local.collections) > _MAX_NAMED else ""
        return "draining", f"the primary answers; writes to {names}{more} are held"
    if local.alive:
        return "draining", "the primary answers, and pending writes are being replayed"
    return "draining", "the primary answers; the next process that opens the store replays them"


def seconds_since(text: str | None) -> float | None:
    """How long ago a time of a status was; None for None."""
    from datetime import datetime

    return None if text is None else time.time() - datetime.fromisoformat(text).timestamp()
