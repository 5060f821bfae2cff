"""`status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from standfast import __version__
from standfast.cli.common import common_options, library_warnings, read_settings
from standfast.cli.output import Exit, exit_code, note, print_json, print_line, shown

if TYPE_CHECKING:
    from standfast.admin.status import Status


@click.command("status")
@common_options("--url")
def status_command(url: str | None, data_dir: str | None, as_json: bool) -> int:
    """Show how the store is doing, from its files and one connection to the database.

    Works whether the app is running or not.  Exit code 0 when no write is pending and no conflict
    is open, 1 when one is, 3 when the primary does not answer.
    """
    from standfast.admin.status import status_of

    settings = read_settings(url, data_dir)
    with library_warnings():
        seen = status_of(settings, library=__version__)
    status = seen.status
    if as_json:
        print_json(status)
    else:
        for name, text in _lines(status):
            print_line(f"{name:9} {shown(text)}")
    if seen.failure is not None:
        if seen.failure.hint:
            note(f"hint: {shown(seen.failure.hint)}")
        return exit_code(seen.failure)
    quiet = status.state == "direct" and not status.lag_ops and not status.open_conflicts
    return Exit.DONE if quiet else Exit.NO


def _lines(status: Status) -> list[tuple[str, str]]:
    pending = "nothing"
    if status.lag_ops:
        pending = (
            f"{status.lag_ops} write(s), {status.lag_bytes} bytes, the oldest of"
            f" {status.oldest_pending} ({status.lag_s:.0f} s ago)"
            + (f", {status.spooled} of them in the spool" if status.spooled else "")
        )
    conflicts = "not known" if status.conflicts is None else _counts(status.conflicts) or "none"
    alive = sum(lane.state == "alive" for lane in status.lanes)
    lines = [
        ("state", f"{status.state}: {status.cause}"),
        ("primary", status.primary),
        ("pending", pending),
        ("conflicts", conflicts),
        ("lanes", f"{alive} alive, {len(status.lanes) - alive} dead"),
        ("journal", _identity(status.history) or "does not belong to a database yet"),
        ("database", _identity(status.database) or "has no schema yet"),
        ("versions", _versions(status)),
        ("files", status.data_dir + _mirrored(status.mirrored)),
    ]
    if status.database is None:
        lines = [line for line in lines if line[0] != "database"]
    if status.kind == "sqlite":
        lines = [line for line in lines if line[0] not in ("lanes", "journal")]
    return lines


def _counts(conflicts: dict[str, int]) -> str:
    return ", ".join(f"{conflicts[state]} {state}" for state in sorted(conflicts))


def _identity(who: object) -> str:
    from standfast.admin.status import Identity

    if not isinstance(who, Identity) or who.identity is None:
        return ""
    return who.identity + (f" (system {who.system})" if who.system else "")


def _versions(status: Status) -> str:
    versions = status.versions
    text = f"standfast {versions.library}"
    if versions.schema is not None:
        text += f", schema {versions.schema} of {versions.schema_known}"
    return text + (f", PostgreSQL {versions.server}" if versions.server else "")


def _mirrored(count: int | None) -> str:
    return "" if count is None else f" ({count} key(s) in the mirror)"
