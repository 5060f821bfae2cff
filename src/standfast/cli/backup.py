"""`backup create | list | verify | restore | prune | drill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from standfast.cli.common import (
    Decision,
    common_options,
    only_option,
    open_guarded,
    require_yes,
    retention_options,
    transfer_options,
)
from standfast.cli.output import Exit, give, note, progress_bar, shown, wants_json, warn
from standfast.migrate.steps import Steps

if TYPE_CHECKING:
    from standfast.admin.backup.folder import Backup
    from standfast.admin.backup.restoring import RestorePlan
    from standfast.admin.backup.transfer import Plan
    from standfast.config.settings import Settings

_FILE = click.argument("file", required=False, metavar="[FILE]")


@click.group("backup")
def backup_command() -> None:
    """Backups of the whole database: make, list, check, restore, try and remove them."""


def say_step(step: str, what: str) -> None:
    """What is about to be done, for people."""
    note(f"{step}: {shown(what)}")


@backup_command.command("create")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it, if not in the folder of the backups; never over another file.",
)
@only_option
@click.option(
    "--limit",
    "limit_s",
    type=click.FloatRange(min=1),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up when the snapshot has been open for so long.",
)
@common_options("--url")
def create_command(
    output: Path | None, only: tuple[str, ...], limit_s: float, settings: Settings
) -> int:
    """Make a backup of every collection while the app is running.

    One snapshot: a batch is in it whole or not at all.  What waits in the journal of the data
    directory is in it too.  Prints the path of the file.
    """
    from standfast.admin.backup.creating import create

    with open_guarded(settings) as backend, progress_bar() as progress:
        made = create(
            *(backend, settings.data_dir),
            output=output,
            only=only,
            limit_s=limit_s,
            steps=Steps(say_step, progress),
        )
    document = {"path": str(made.path), "size": made.size, "counts": made.counts}
    give(document, [shown(made.path)])
    note(f"{made.counts.documents} document(s) of {len(made.counts.collections)} collection(s)")
    if made.counts.pending:
        note(f"{made.counts.pending} write(s) that wait in the journal are in it too")
    return Exit.DONE


@backup_command.command("list")
@common_options("--url")
def list_command(settings: Settings) -> int:
    """List the backups of the data directory, oldest first.

    The database is not asked.  Exit code 1 when there is none that can be read.
    """
    from standfast.admin.backup.folder import backups, folder

    found = backups(settings.data_dir)
    place = folder(settings.data_dir)
    give({"folder": str(place), "backups": [*map(_about, found)]}, map(_line, found))
    note(f"{len(found)} backup(s) in {shown(place)}")
    return Exit.DONE if any(not each.problem for each in found) else Exit.NO


def _about(each: Backup) -> dict[str, Any]:
    head, known = each.head, each.known
    return {
        "name": each.path.name,
        "path": str(each.path),
        "size": each.size,
        "created_at": head.created_at if head else None,
        "source": head.source if head else None,
        "reason": head.reason if head else None,
        "only": head.only if head else None,
        "counts": known.counts if known else None,
        "verified_at": known.verified_at if known else None,
        "drilled_at": known.drilled_at if known else None,
        "problem": each.problem or None,
    }


def _line(each: Backup) -> str:
    from standfast.admin.evidence import minute

    about = _about(each)
    counts = about["counts"]
    parts = [
        each.path.name,
        minute(about["created_at"]) or "?",
        f"{counts.documents} document(s)" if counts else "? documents",
        f"{each.size:,} bytes",
        f"verified {minute(about['verified_at'])}" if about["verified_at"] else "never verified",
    ]
    if about["drilled_at"]:
        parts.append(f"restored for trial {minute(about['drilled_at'])}")
    if about["only"]:
        parts.append(f"only {', '.join(about['only'])}")
    if about["reason"] not in (None, "asked for"):
        parts.append(about["reason"])
    if each.problem:
        parts.append(f"NOT GOOD: {each.problem}")
    return shown("  ".join(parts))


@backup_command.command("verify")
@_FILE
@common_options("--url")
def verify_command(file: str | None, settings: Settings) -> int:
    """Check every checksum of FILE, by default of the newest backup.

    FILE is a path, or the beginning of a name in the list.  Exit code 4 when it is damaged, or of
    a newer version.
    """
    from standfast.admin.backup.folder import find, verify

    path = find(settings.data_dir, file)
    with progress_bar() as progress:
        found = verify(path, progress=progress)
    counts = found.counts.collections.items()
    give(
        {"path": str(path), "head": found.head, "counts": found.counts},
        (f"{documents}  {shown(name)}" for name, documents in counts),
    )
    note(f"{shown(path)}: whole, {found.counts.documents} document(s), every checksum is right")
    return Exit.DONE


@backup_command.command("restore")
@_FILE
@only_option
@click.option("--key", metavar="KEY", cls=Decision, help="Only the document of this key.")
@transfer_options(
    on_conflict="Which side wins where backup and database differ.",
    exact="Remove documents that are only in the database.",
    yes="Overwrite and remove without asking.",
)
@common_options("--url")
def restore_command(
    file: str | None,
    only: tuple[str, ...],
    key: str | None,
    on_conflict: Any,
    exact: bool,
    dry_run: bool,
    yes: bool,
    settings: Settings,
) -> int:
    """Bring the documents of FILE, by default of the newest backup, into the database.

    Every checksum is looked at before anything changes.  Everything is written in one transaction,
    which is read back before it is committed; what it overwrites goes to a safety backup first.
    Killed, it has done nothing or everything: give the same command again.

    Exit code 1 when documents differ and --on-conflict does not say who wins; nothing was changed.
    """
    from standfast.admin.backup.folder import find
    from standfast.admin.backup.restoring import Restored, plan_restore, restore
    from standfast.admin.backup.transfer import Choice

    path = find(settings.data_dir, file)
    choice = Choice(on_conflict, only, key, exact)

    def confirm(planned: RestorePlan) -> None:
        show_plan(planned.plan)
        if planned.plan.overwritten:
            lost = planned.plan.count("replace", "remove")
            require_yes(f"Overwrite or remove {lost} document(s)?", yes=yes)

    with open_guarded(settings) as backend, progress_bar() as progress:
        if dry_run:
            result = Restored(plan_restore(backend, path, choice, progress=progress))
            show_plan(result.planned.plan)
        else:
            result = restore(
                *(backend, settings.data_dir, path, choice),
                confirm=confirm,
                steps=Steps(say_step, progress),
            )
        display = backend.display
    _show_restored(result, display, dry_run=dry_run)
    return Exit.DONE if result.green else Exit.NO


def _show_restored(result: Any, display: str, *, dry_run: bool) -> None:
    planned: RestorePlan = result.planned
    if wants_json():
        give(
            {
                "path": str(planned.path),
                "database": display,
                "collections": plan_document(planned.plan),
                "run": result.run,
                "safety": str(result.safety) if result.safety else None,
                "pending": planned.counts.pending,
            }
        )
        return
    if planned.has_conflicts:
        if not dry_run:
            show_plan(planned.plan)
        warn("documents differ, and nothing was changed: say who wins with --on-conflict")
    elif dry_run:
        note(f"{planned.plan.writes} row(s) would be written or removed; nothing was changed")
    elif result.run is None:
        note("everything is there already; nothing was changed")
    else:
        note(f"restored: {planned.plan.writes} row(s) written or removed, all read back")
    if result.safety is not None:
        note(
            "to take it back: standfast backup restore"
            f" {result.safety.name} --on-conflict file --exact"
        )
    if planned.counts.pending:
        warn(
            f"{planned.counts.pending} write(s) waited in the journal when the backup was made;"
            " they are in the file, and not restored"
        )


def plan_document(planned: Plan) -> list[dict[str, Any]]:
    """A plan as JSON."""
    return [
        {
            "collection": part.name,
            **{action.replace(" ", "_"): count for action, count in part.counts.items()},
            "conflicting_keys": part.conflicts,
        }
        for part in planned.parts
    ]


def show_plan(planned: Plan) -> None:
    """A plan for people: a line for each collection, and the keys that differ."""
    names = {
        "new": "new",
        "replace": "replaced",
        "remove": "removed",
        "equal": "equal",
        "keep": "differ and stay",
        "only there": "only in the database",
        "expired": "expired since",
        "conflict": "differ",
    }
    for part in planned.parts:
        counts = [f"{part.counts[a]} {what}" for a, what in names.items() if a in part.counts]
        note(f"plan: {shown(part.name)}: {', '.join(counts) or 'no documents'}")
        for key in part.conflicts:
            note(f"  differs: {shown(key)!r}")
        if part.count("conflict") > len(part.conflicts):
            note(f"  and {part.count('conflict') - len(part.conflicts)} more")


@backup_command.command("drill")
@_FILE
@common_options("--url")
def drill_command(file: str | None, settings: Settings) -> int:
    """Restore FILE, by default the newest backup, into a scratch store and compare every value.

    The scratch store is a file beside the backups, gone afterwards.  The database is not touched.
    """
    from standfast.admin.backup.folder import find
    from standfast.admin.backup.restoring import drill

    path = find(settings.data_dir, file)
    with progress_bar() as progress:
        done = drill(settings.data_dir, path, steps=Steps(say_step, progress))
    give({"path": str(path), "compared": done.compared, "expired": done.expired})
    note(f"{shown(path)}: restored, {done.compared} document(s) compared, all equal")
    if done.expired:
        note(f"{done.expired} document(s) have expired since it was made")
    return Exit.DONE


@backup_command.command("prune")
@retention_options
@click.option("-n", "--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@common_options("--url")
def prune_command(
    keep_last: int,
    keep_daily: int,
    keep_weekly: int,
    keep_monthly: int,
    dry_run: bool,
    settings: Settings,
) -> int:
    """Remove the backups that none of the rules keeps; never the last good one.

    Those that were made before something was overwritten stay for a week.  Damaged ones are left
    alone, and named.
    """
    from standfast.admin.backup.pruning import Retention, prune

    retention = Retention(keep_last, keep_daily, keep_weekly, keep_monthly)
    result = prune(settings.data_dir, retention, dry_run=dry_run)
    kept = {each.path.name: why for each, why in result.kept}
    removed = [each.path.name for each in result.removed]
    document = {
        "kept": [{"name": name, "why": why} for name, why in kept.items()],
        "removed": removed,
        "freed": result.freed,
        "dry_run": dry_run,
    }
    lines = [f"kept     {shown(name)}  {shown(why)}" for name, why in kept.items()]
    lines += [f"{'would go' if dry_run else 'removed '} {shown(name)}" for name in removed]
    give(document, lines)
    verb = "would be removed" if dry_run else "removed"
    note(f"{len(result.removed)} backup(s) {verb}, {result.freed:,} bytes")
    return Exit.DONE
