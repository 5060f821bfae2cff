"""`journal list | drain | discard`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from standfast.cli.common import common_options, library_warnings, open_connection, require_yes
from standfast.cli.output import Exit, give, note, shown, wants_json, warn
from standfast.config.settings import Settings
from standfast.errors import ConfigError

if TYPE_CHECKING:
    from standfast.admin.journal import Prefer
    from standfast.engine.journal import Pending

#: How long `discard` waits for a replay that is under way.
LOCK_WAIT_S = 10.0


@click.group("journal")
def journal_command() -> None:
    """The writes that wait for the database: list them, send them, or give them up."""


@journal_command.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)
@common_options("--url")
def list_command(limit: int, settings: Settings) -> int:
    """List the pending writes, oldest first, without their contents.

    The database is not asked.
    """
    from standfast.admin.data_dir import opened_journal

    with library_warnings(), opened_journal(settings.data_dir, only_look=True) as journal:
        found = [] if journal is None else journal.first(limit)
        total = 0 if journal is None else journal.totals().ops
    writes = [*map(_about, found)]
    give({"pending": total, "writes": writes}, map(_line, writes))
    note(f"{total} write(s) pending" + (f", {len(found)} shown" if len(found) < total else ""))
    return Exit.DONE


def _about(pending: Pending) -> dict[str, Any]:
    from standfast.admin.journal import about

    op = pending.op
    return {
        "id": pending.id,
        "in": "spool" if pending.is_spooled else "journal",
        **about(op),
        "age_s": round(max(0.0, time.time() - op.at_us / 1e6), 3),
        "bytes": len((op.body or "").encode()),
        "batch": op.group or None,
        "conditional": op.if_version is not None,
        "rejected": op.reject or None,
    }


def _line(write: dict[str, Any]) -> str:
    marks = ["conditional"] if write["conditional"] else []
    marks += [f"rejected: {write['rejected']}"] if write["rejected"] else []
    marks += [f"batch {write['batch']}"] if write["batch"] else []
    text = (
        f"{write['id']}  {write['acknowledged_at']}  {write['age_s']:.0f} s"
        f"  {write['lane']}/{write['seq']}  {write['kind']}  {write['collection']}"
        f"  {shown(write['key'])}  {write['bytes']} bytes"
    )
    return text + (f"  ({', '.join(marks)})" if marks else "")


@journal_command.command("drain")
@click.option("--confirm", is_flag=True, help="Replay writes older than a day too.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Stop after this time; what is left stays in the journal.",
)
@click.option(
    "--prefer",
    type=click.Choice(["mine", "theirs", "newest"]),
    default="mine",
    show_default=True,
    help="Which side wins where both changed one field, as on_conflict of the store.",
)
@common_options("--url")
def drain_command(confirm: bool, timeout_s: float, prefer: Prefer, settings: Settings) -> int:
    """Send the pending writes to the database now; works while the app is running.

    Exit code 0 when nothing is left, 1 when something is, 3 when the database does not answer, 4
    when the journal belongs to another database, 5 when another process replays all the time, or
    uses the data directory for another database.
    """
    from standfast.admin.conflicts import open_conflicts
    from standfast.admin.data_dir import look
    from standfast.admin.journal import drain

    local = look(settings.data_dir)
    if not local.ops and not local.is_in_use_elsewhere(settings.target.display):
        _show_drained({"before": 0, "left": 0, "reason": None, "open_conflicts": None})
        return Exit.DONE
    _require_postgresql(settings)
    with open_connection(settings) as backend:
        drained = drain(settings, backend, timeout_s=timeout_s, confirmed=confirm, prefer=prefer)
        counts = backend.count_conflicts(deadline=time.monotonic() + settings.deadline_s)
    result = {"before": drained.before, "left": drained.left, "reason": drained.reason or None}
    _show_drained({**result, "open_conflicts": open_conflicts(counts)})
    if not drained.left:
        return Exit.DONE
    return Exit.LOCKED if drained.busy else Exit.NO


def _show_drained(result: dict[str, Any]) -> None:
    give(result)
    if not result["before"]:
        note("nothing is pending")
        return
    left = result["left"]
    note(f"{result['before']} write(s) were pending, {left or 'none'} left")
    if left:
        note(f"why: {shown(result['reason'])}")
    if result["open_conflicts"]:
        warn(f"{result['open_conflicts']} conflict(s) are open: standfast conflicts list")


def _require_postgresql(settings: Settings) -> None:
    if settings.target.kind == "sqlite":
        raise ConfigError(
            f"writes are pending in {settings.data_dir}, but {settings.source} names SQLite",
            code="no_primary",
            hint="set DATABASE_URL to the PostgreSQL database that they are for",
        )


@journal_command.command("discard")
@click.argument("ids", metavar="[ID]...", nargs=-1, type=click.IntRange(min=1))
@click.option("--all", "everything", is_flag=True, help="Give up all of them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common_options("--url")
def discard_command(ids: tuple[int, ...], everything: bool, yes: bool, settings: Settings) -> int:
    """Give up pending writes; they are saved, contents included, to a file in the data directory.

    IDs are those of `journal list`.  A write whose reply was lost may have taken effect.
    """
    from standfast.admin.data_dir import opened_journal
    from standfast.admin.journal import discard, drain_lock, select

    if bool(ids) == everything:
        raise ConfigError("give either IDs or --all", code="usage", hint="see: journal list")
    with library_warnings(), opened_journal(settings.data_dir) as journal:
        found = [] if journal is None else select(journal, None if everything else ids)
        missing = sorted(set(ids) - set(found))
        if missing and not wants_json():
            warn(f"not pending: {', '.join(map(str, missing))}")
        if journal is None or not found:
            give({"discarded": 0, "missing": missing, "files": []})
            note("nothing was discarded")
            return Exit.NO
        require_yes(f"Give up {len(found)} acknowledged write(s)?", yes=yes)
        with drain_lock(settings.data_dir, timeout_s=LOCK_WAIT_S):
            done = discard(journal, settings.data_dir, found)
    files = [str(path) for path in done.files]
    give({"discarded": done.writes, "missing": missing, "files": files})
    note(f"discarded {done.writes} write(s)")
    for path in files:
        note(f"their contents are in {shown(path)}")
    return Exit.DONE if done.writes else Exit.NO
