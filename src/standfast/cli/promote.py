"""`promote`: everything from SQLite to PostgreSQL, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from standfast.cli.backup import plan_document, say_step, show_plan
from standfast.cli.common import (
    Decision,
    common_options,
    library_warnings,
    require_yes,
    transfer_options,
)
from standfast.cli.output import Exit, give, note, progress_bar, shown, warn
from standfast.config.settings import Settings
from standfast.migrate.steps import Steps

if TYPE_CHECKING:
    from standfast.admin.promote import Promoted


@click.command("promote")
@click.option(
    "--back", is_flag=True, cls=Decision, help="From PostgreSQL to SQLite in the data directory."
)
@transfer_options(
    on_conflict="Which side wins where both have a document: `file` is the side that gives.",
    exact="Remove documents that only the side that gets has.",
    yes="Do not ask.",
)
@common_options("--url")
def promote_command(
    back: bool, on_conflict: Any, exact: bool, dry_run: bool, yes: bool, settings: Settings
) -> int:
    """Move every document of the embedded SQLite database to PostgreSQL; --back: from there.

    Stop the app first: it is refused while the app runs.  One transaction, compared before it is
    committed; then the SQLite file is moved to `promoted/` in the data directory, where it is kept.
    Killed, give the same command again.  Exit code 1 when documents differ and --on-conflict does
    not say who wins; 5 when the app is running.
    """
    from standfast.admin.backup.transfer import Choice
    from standfast.admin.promote import promote

    def confirm(planned: Promoted) -> None:
        show_plan(planned.plan)
        lost = planned.plan.count("replace", "remove")
        more = f", and overwrite or remove {lost} of them" if lost else ""
        question = f"Move {planned.plan.writes} document(s) to {shown(planned.target)}{more}?"
        require_yes(question, yes=yes)

    with library_warnings(), progress_bar() as progress:
        result = promote(
            *(settings, Choice(on_conflict, exact=exact)),
            back=back,
            dry_run=dry_run,
            confirm=confirm,
            steps=Steps(say_step, progress),
        )
    if dry_run or not result.green:
        show_plan(result.plan)
    give(
        {
            "source": result.source,
            "target": result.target,
            "collections": plan_document(result.plan),
            "run": result.run,
            "safety": str(result.safety) if result.safety else None,
            "kept": [str(path) for path in result.kept],
        }
    )
    _say(result, dry_run=dry_run)
    return Exit.DONE if result.green else Exit.NO


def _say(result: Promoted, *, dry_run: bool) -> None:
    if not result.green:
        warn("documents differ, and nothing was changed: say who wins with --on-conflict")
        return
    if dry_run:
        note(f"{result.plan.writes} row(s) would be written or removed; nothing was changed")
        return
    done = f"{result.plan.writes} row(s) written or removed in {shown(result.target)}"
    note(f"run {result.run}: {done}, all read back" if result.run else f"{done}: all were there")
    if result.safety is not None:
        note(f"what was overwritten is in {shown(result.safety)}")
    for path in result.kept:
        note(f"kept: {shown(path)}")
    to_sqlite = result.target.startswith("sqlite")
    note("now unset DATABASE_URL" if to_sqlite else "now set DATABASE_URL for the app")
