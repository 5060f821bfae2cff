"""From what was looked at to what a person has to do: *safe*, or *act now*.  Pure.

Every finding is one sentence with its cause, and the command that mends it where there is one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from standfast.admin.backup.folder import FOLDER
from standfast.admin.backup.schedule import FILE, State
from standfast.admin.conflicts import open_conflicts
from standfast.admin.data_dir import Local
from standfast.admin.evidence import Disk, Evidence
from standfast.engine.outages import NEEDS_ACTION, duration
from standfast.errors import ConfigError, CorruptData, StandfastError
from standfast.limits import BACKUP_FAILURES, MAX_JOURNAL_BYTES, MAX_JOURNAL_OPS
from standfast.migrate.rundir import runs_folder
from standfast.ops.types import from_microseconds

#: Free space below which an outage may fill the disk: this much, or this share of the disk.
MIN_FREE_BYTES = 200 * 1024 * 1024
MIN_FREE_SHARE = 0.02
#: Share of the journal's limits from which it is said.
JOURNAL_WARNS_AT = 0.5

Severity = Literal["act", "wait"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that a person must know.

    `severity`: `act` (nothing mends itself, or data is at risk) or `wait` (what was acknowledged is
    safe, and this ends by itself or has time).  `command`: what mends it, empty where waiting does.
    """

    severity: Severity
    text: str
    command: str = ""


def findings(evidence: Evidence) -> list[Finding]:
    """Everything that is not as it should be, the most pressing first."""
    every = [
        *_local(evidence),
        *_hidden(evidence),
        *_database(evidence),
        *_refused(evidence),
        *_pending(evidence),
        *_space(evidence),
        *_runs(evidence),
        *_unused(evidence),
        *_backups(evidence),
        *_conflicts(evidence),
    ]
    return sorted(every, key=lambda one: one.severity != "act")


def headline(found: list[Finding], display: str) -> str:
    """The first line: what a person wants to know at night."""
    if not found:
        return f"safe, nothing to do: everything is on {display}"
    first = found[0]
    more = len(found) - 1
    others = f" (and {more} more below)" if more else ""
    if first.severity == "act":
        todo = f" -> {first.command}" if first.command else ""
        return f"act now: {first.text}{todo}{others}"
    return f"safe: {first.text}{others}"


def too_little_free(disk: Disk) -> bool:
    """Whether an outage could fill the disk."""
    return disk.free < min(MIN_FREE_BYTES, disk.total * MIN_FREE_SHARE)


def moment(seconds: float, now: float | None = None) -> str:
    """A time for people, in UTC, with how long ago it was."""
    when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{when} ({duration((time.time() if now is None else now) - seconds)} ago)"


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _of(error: StandfastError) -> str:
    return f"{error.message}" + (f" ({error.hint})" if error.hint else "")


# ---- the local files


def _local(evidence: Evidence) -> Iterator[Finding]:
    local = evidence.local
    if isinstance(local, StandfastError):
        yield Finding("act", f"the data directory cannot be looked at: {_of(local)}")
        return
    for loss in local.losses:
        yield Finding("act", loss, "restore what it held by hand")
    if local.spooled:
        text = (
            f"{local.spooled} write(s) are in the spool, since the journal could not be written;"
            " look at the disk"
        )
        yield Finding("act", text, "standfast doctor")


def _hidden(evidence: Evidence) -> Iterator[Finding]:
    if evidence.hidden is not None:
        text = f"with these settings no app can open its store: {evidence.hidden.message}"
        yield Finding("act", text, "standfast promote")


def _pending(evidence: Evidence) -> Iterator[Finding]:
    local, primary = evidence.local, evidence.primary
    if isinstance(local, StandfastError) or not local.ops:
        return
    held = None
    answers = not isinstance(primary, StandfastError)
    if not isinstance(primary, StandfastError):
        held = local.held(primary.server_identity, display=evidence.settings.target.display)
    if held is not None:
        return  # said of the database
    if local.is_old:
        text = (
            f"{local.ops} write(s) wait for a confirmation, since the oldest is of"
            f" {_when_us(local.oldest_us)}: look at them (standfast journal list)"
        )
        yield Finding("act", text, "standfast journal drain --confirm")
    elif not local.alive:
        text = f"{local.ops} write(s) wait in the journal, and no process is running to send them"
        command = "standfast journal drain" if answers else "start the app"
        yield Finding("act" if answers else "wait", text, command)
        for name, note in sorted(local.collections.items()):
            yield Finding("act", note.sentence(name), "standfast doctor")
    elif answers:
        yield from _draining(evidence, local)


def _draining(evidence: Evidence, local: Local) -> Iterator[Finding]:
    held = [text for one in evidence.alive for text in one.report.problems]
    held += [note.sentence(name) for name, note in sorted(local.collections.items())]
    for text in dict.fromkeys(held):
        yield Finding("act", text, "standfast doctor")
    if not isinstance(evidence.blockers, StandfastError):
        for one in evidence.blockers:
            name = f" ({one.application})" if one.application else ""
            kind = f", its last statement is {one.statement}" if one.statement else ""
            text = (
                f"`{one.what}` is locked by session {one.pid}{name} of role {one.role} for"
                f" {duration(one.age_s)} ({one.state}{kind}); {local.ops} write(s) wait"
            )
            command = f"end that transaction, or: SELECT pg_terminate_backend({one.pid})"
            yield Finding("act", text, command)
            return
    if not held:
        yield Finding(
            "wait", f"the database answers, and {local.ops} write(s) are being sent to it"
        )


def _refused(evidence: Evidence) -> Iterator[Finding]:
    for seen in evidence.alive:
        for one in seen.report.refusals:
            since = datetime.fromtimestamp(one.first, UTC).strftime("%Y-%m-%d %H:%M UTC")
            text = (
                f"writes to `{one.collection}` are refused since {since} ({one.count} so far), and"
                f" are not stored: {one.message}"
            )
            yield Finding("act", text, one.hint or "standfast doctor")


def _space(evidence: Evidence) -> Iterator[Finding]:
    disk = evidence.disk
    if isinstance(disk, Disk) and too_little_free(disk):
        where = evidence.settings.data_dir.absolute()
        text = f"only {size(disk.free)} are free on the disk of {where}: an outage could fill it"
        yield Finding("act", text, "free space there, or move STANDFAST_DATA_DIR")
    local = evidence.local
    if isinstance(local, Local):
        used = max(local.ops / MAX_JOURNAL_OPS, local.bytes / MAX_JOURNAL_BYTES)
        if used >= JOURNAL_WARNS_AT:
            text = (
                f"the journal is {used:.0%} full ({local.ops} writes, {size(local.bytes)}); when it"
                " is full, writes are refused"
            )
            yield Finding("act", text, "bring the database back; or free what is held")


# ---- the database


def _database(evidence: Evidence) -> Iterator[Finding]:
    primary = evidence.primary
    if isinstance(primary, StandfastError):
        yield _away(evidence, primary)
        return
    local = evidence.local
    if isinstance(local, StandfastError) or evidence.settings.target.kind == "sqlite":
        return
    found = primary.server_identity
    held = local.held(found, display=evidence.settings.target.display)
    why = local.lost(found)
    if held == "other_database":
        text = (
            "the journal belongs to another database than the one that answers; nothing is sent to"
            " it. Correct the URL, or give the writes to this database"
        )
        yield Finding("act", text, "standfast doctor --adopt")
    elif why:
        text = f"the database went back in time ({why}); {local.ops} write(s) are held"
        if local.ops:
            yield Finding("act", f"{text}. To use it as it is now, stop the app", _ADOPT)
        else:
            yield Finding("wait", f"{text}; the next open uses it as it is now")


_ADOPT = "standfast doctor --adopt"


def _away(evidence: Evidence, error: StandfastError) -> Finding:
    needs_action = isinstance(error, ConfigError | CorruptData) or error.code in NEEDS_ACTION
    since = next_try = ""
    report = next((one.report for one in evidence.alive if one.report.state != "direct"), None)
    now = time.time()
    if report is not None:
        outages = [one for one in report.outages if one.ended is None]
        began = outages[-1].began if outages else report.since
        since = f" since {moment(began, now)}"
        if report.next_try is not None and not needs_action:
            next_try = f"; next try in {duration(report.next_try - now)}"
    pending = 0 if isinstance(evidence.local, StandfastError) else evidence.local.ops
    kept = f"; {pending} write(s) are safe in the journal and are sent when it is back"
    known = f"{since}{kept if pending else ''}{next_try}"
    if needs_action:
        return Finding("act", f"{error.message}{known}", error.hint)
    # What a person wants to know first; the server's words may be long.
    return Finding("wait", f"the database does not answer{known}: {error.message}", error.hint)


def _conflicts(evidence: Evidence) -> Iterator[Finding]:
    if not isinstance(evidence.primary, StandfastError):
        count = open_conflicts(evidence.primary.conflicts)
        if count:
            text = f"{count} conflict(s) wait for a decision, with both sides kept"
            yield Finding("wait", text, "standfast conflicts list")


# ---- what belongs to nobody


def _runs(evidence: Evidence) -> Iterator[Finding]:
    if isinstance(evidence.runs, StandfastError):
        yield Finding("act", f"a migration's record cannot be read: {_of(evidence.runs)}")
        return
    for one in evidence.runs:
        if one.busy:
            yield Finding("wait", f"a migration is under way (run {one.run}, {one.state})")
            continue
        what = "rollback" if one.state == "rolling-back" else "migration"
        text = f"a {what} was interrupted at {one.since} (run {one.run}, {one.state})"
        yield Finding("act", text, one.command)


def _backups(evidence: Evidence) -> Iterator[Finding]:
    found = evidence.backups
    problem = found.message if isinstance(found, StandfastError) else found.problem
    if problem:
        yield Finding("act", f"the newest backup is not good: {problem}", "standfast backup create")
    if not isinstance(found, StandfastError) and found.schedule is not None:
        yield from _schedule(found.schedule, time.time())


def _schedule(state: State, now: float) -> Iterator[Finding]:
    if state.is_overdue(now):
        text = (
            f"a scheduled backup was due at {moment(state.next_at, now)} and was not made; where"
            f" that schedule has ended for good, remove {FOLDER}/{FILE} in the data directory"
        )
        yield Finding("act", text, "standfast serve --backup-every HOURS")
    elif state.is_failing:
        since = moment(state.failing_since or now, now)
        text = (
            f"scheduled backups fail since {since}, {state.failures} time(s) so far: {state.error};"
            f" the next try is at {moment(state.next_at, now).partition(' (')[0]}"
        )
        pressing = state.failures >= BACKUP_FAILURES
        yield Finding("act" if pressing else "wait", text, "standfast backup create")


def _unused(evidence: Evidence) -> Iterator[Finding]:
    where = evidence.settings.data_dir.absolute()
    others = evidence.directories
    lately = [] if isinstance(others, StandfastError) else others
    if is_used(evidence):
        return
    what = "is not there" if not evidence.exists else "was never used by an app"
    text = f"the data directory {where} {what}: what an app elsewhere keeps is not seen from here"
    if lately:
        ago = duration(lately[0].last_write_s_ago)
        text += f"; {len(lately)} other(s) wrote to this database, the last of them {ago} ago"
    command = "run this with the STANDFAST_DATA_DIR and DATABASE_URL of the app"
    yield Finding("act", text, command)


def is_used(evidence: Evidence) -> bool:
    """Whether an app or a migration has used this data directory, or this embedded database."""
    if evidence.settings.target.kind == "sqlite":
        return Path(evidence.settings.target.path).exists()
    local = evidence.local
    return evidence.exists and (
        isinstance(local, StandfastError)
        or local.journal
        or bool(evidence.reports)
        or evidence.hidden is not None
        or runs_folder(evidence.settings.data_dir).exists()
    )


def _when_us(at_us: int | None) -> str:
    return from_microseconds(at_us).strftime("%Y-%m-%d %H:%M UTC") if at_us else "long ago"
