"""`status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from standfast import __version__
from standfast.cli.common import common_options, library_warnings
from standfast.cli.output import (
    Exit,
    exit_code,
    give,
    note,
    shown,
    stdout_styled,
    wants_json,
    watching,
)
from standfast.config.settings import Settings

if TYPE_CHECKING:
    from standfast.admin.status import Seen, Status

#: Seconds between two looks of `--watch`.
WATCH_PAUSE_S = 2.0


@click.command("status")
@click.option("-w", "--watch", is_flag=True, help="Look again every 2 seconds, until Ctrl-C.")
@common_options("--url")
def status_command(watch: bool, settings: Settings) -> int:
    """Show how the store is doing, from its files and one connection to the database.

    The first line says *safe*, or *act now* and what to do.  Works whether the app is running or
    not.  Exit code 0 when nothing has to be done and no write is pending, 1 when something has to
    be done, a write is pending or a conflict is open, 3 when the primary does not answer.
    """
    if watch and not wants_json():
        return _watch(settings)
    seen = _look(settings)
    give(seen.status, _screen(seen.status))
    return _code(seen)


def _look(settings: Settings) -> Seen:
    from standfast.admin.status import status_of

    with library_warnings():
        return status_of(settings, library=__version__)


def _watch(settings: Settings) -> int:
    """The same screen again and again; the code of the last one, at Ctrl-C."""
    with watching() as show:
        while True:
            seen = _look(settings)
            show(_screen(seen.status))
            try:
                time.sleep(WATCH_PAUSE_S)
            except KeyboardInterrupt:
                return _code(seen)


def _code(seen: Seen) -> int:
    if seen.failure is not None:
        if seen.failure.hint:
            note(f"hint: {shown(seen.failure.hint)}")
        return exit_code(seen.failure)
    status = seen.status
    quiet = status.state == "direct" and not status.findings and not status.lag_ops
    return Exit.DONE if quiet else Exit.NO


def _screen(status: Status) -> list[str]:
    """The first line, what else is to be known, and the details."""
    colour = "red" if not status.safe else "yellow" if status.findings else "green"
    lines = [stdout_styled(shown(status.headline), fg=colour, bold=True)]
    for one in status.findings[1:]:
        todo = f" -> {one.command}" if one.command else ""
        lines.append(shown(f"  {'act now' if one.severity == 'act' else 'safe'}: {one.text}{todo}"))
    lines.append("")
    return lines + [shown(f"{name:10} {text}") for name, text in _details(status)]


def _details(status: Status) -> list[tuple[str, str]]:
    from standfast.admin.verdict import moment, size

    # The server's words are said once: the first lines have them.
    said = any(status.cause in one.text for one in status.findings)
    cause = "" if said else f": {status.cause}"
    lines = [
        ("state", status.state + cause + _ago(", since {}", status.since)),
        ("database", status.primary),
    ]
    if status.next_try:
        lines.append(("next try", _clock(status.next_try)))
    lines.append(("pending", _pending(status)))
    if status.last_error is not None:
        error = status.last_error
        words = "the same" if said and error.message == status.cause else error.message
        lines.append(("last error", f"{moment(error.at)}: {words}"))
    if status.refused_writes:
        lines.append(("refused", f"{status.refused_writes} write(s), which are not stored"))
    counts = ", ".join(
        f"{count} {state}" for state, count in sorted((status.conflicts or {}).items())
    )
    lines.append(("conflicts", "not known" if status.conflicts is None else counts or "none"))
    lines.append(("processes", _processes(status)))
    if status.runs:
        lines += [("run", f"{one.run} {one.state}, since {one.since}") for one in status.runs]
    lines.append(("backup", status.backup or "none that is verified"))
    if status.next_backup is not None:
        lines.append(("next backup", _clock(status.next_backup)))
    if status.disk is not None:
        disk = status.disk
        limits = f"{size(disk.journal)}, {status.lag_ops:,} of {disk.max_journal_ops:,} writes"
        if status.kind != "sqlite":
            lines.append(("journal", limits))
        lines.append(("disk", f"{size(disk.free)} of {size(disk.total)} free"))
    if status.kind != "sqlite":
        lines.append(("wrote here", _directories(status)))
    who = status.history or status.database
    lines.append(("history", (who and who.identity) or "none yet"))
    lines.append(("versions", _versions(status)))
    mirrored = "" if status.mirrored is None else f" ({status.mirrored} key(s) in the mirror)"
    lines.append(("files", status.data_dir + mirrored))
    return lines


def _pending(status: Status) -> str:
    if not status.lag_ops:
        return "nothing"
    from standfast.admin.verdict import size
    from standfast.engine.outages import duration

    spooled = f", {status.spooled} of them in the spool" if status.spooled else ""
    return (
        f"{status.lag_ops:,} write(s), {size(status.lag_bytes)}, the oldest of"
        f" {_clock(status.oldest_pending)} ({duration(status.lag_s)} ago){spooled}"
    )


def _processes(status: Status) -> str:
    if status.kind == "sqlite":
        return "not known of an embedded database"
    if not status.processes:
        return "none has the store open"
    named = ", ".join(f"{one.pid} on {one.host} ({one.state})" for one in status.processes[:5])
    more = f" and {len(status.processes) - 5} more" if len(status.processes) > 5 else ""
    return f"{len(status.processes)}: {named}{more}"


def _directories(status: Status) -> str:
    if status.conflicts is None:
        return "not known"
    others = [one for one in status.directories if not one.here]
    here = len(others) < len(status.directories)
    if not others:
        return "this data directory, no other in the last day" if here else "none in the last day"
    lately = f"{len(others)} other in the last day, {_ago('{}', others[0].last_write)}"
    return f"this data directory, and {lately}" if here else f"not this data directory; {lately}"


def _ago(form: str, iso: str | None) -> str:
    from standfast.admin.status import seconds_since
    from standfast.engine.outages import duration

    seconds = seconds_since(iso)
    return "" if seconds is None else form.format(f"{_clock(iso)} ({duration(seconds)} ago)")


def _clock(iso: str | None) -> str:
    return (iso or "")[:19].replace("T", " ") + " UTC"


def _versions(status: Status) -> str:
    versions = status.versions
    text = f"standfast {versions.library}"
    if versions.schema is not None:
        text += f", schema {versions.schema} of {versions.schema_known}"
    return text + (f", PostgreSQL {versions.server}" if versions.server else "")
