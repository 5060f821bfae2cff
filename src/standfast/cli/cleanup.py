"""`cleanup`: what is no longer needed goes, by stated rules."""

from __future__ import annotations

import click

from standfast.cli.common import (
    Decision,
    collection_names,
    common_options,
    open_guarded,
    require_yes,
)
from standfast.cli.output import Exit, busy, give, note, shown
from standfast.config.settings import Settings
from standfast.errors import ConfigError


@click.command("cleanup")
@click.option(
    "--documents",
    metavar="COLLECTION",
    cls=Decision,
    shell_complete=collection_names,
    help="Old documents of this collection too.",
)
@click.option(
    "--older-than",
    "older_than_days",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DAYS",
    cls=Decision,
    help="Which of its documents: those not changed for so long.",
)
@click.option(
    "--prefix", default="", metavar="TEXT", cls=Decision, help="Only keys that begin with it."
)
@click.option("-n", "--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@common_options("--url")
def cleanup_command(
    documents: str | None,
    older_than_days: float | None,
    prefix: str,
    dry_run: bool,
    yes: bool,
    settings: Settings,
) -> int:
    """Remove what is no longer needed.

    The originals of migrations that ended 180 days ago; after 90 days: writes that were given up,
    damaged files that were set aside, what `promote` moved aside, and conflicts that were resolved;
    the backups that `backup prune` would remove.  Documents only with --documents and --older-than,
    and after a backup of their collection.  What has expired, and what the database keeps of
    deleted documents, goes by itself.
    """
    from standfast.admin.cleanup import DocumentFilter, cleanup

    if (documents is None) != (older_than_days is None) or (prefix and documents is None):
        raise ConfigError(
            "--documents and --older-than belong together, and --prefix to them",
            code="usage",
            hint="for example: --documents sessions --older-than 365",
        )
    chosen = None
    if documents is not None and older_than_days is not None:
        chosen = DocumentFilter(documents, older_than_days, prefix)
    with open_guarded(settings) as backend:
        with busy("look"):
            found = cleanup(backend, settings.data_dir, documents=chosen, dry_run=True)
        ours = [each for each in found if each.left_to is None]
        if ours and not dry_run:
            for each in ours:
                note(f"plan: {each.rule}: {shown(each.what)}")
            require_yes(f"Remove {len(ours)} thing(s)?", yes=yes)
            with busy("clean up"):
                found = cleanup(backend, settings.data_dir, documents=chosen)
    units = {"documents": "document(s)", "conflicts": "row(s)"}
    ours = [each for each in found if each.left_to is None]
    give(
        {"removed": found, "dry_run": dry_run},
        (
            f"{each.rule}  {shown(each.what)}  {each.size:,} {units.get(each.rule, 'bytes')}"
            for each in ours
        ),
    )
    for each in found:
        if each.left_to is not None:
            note(
                f"{each.size:,} row(s) of {shown(each.what)} are left: only their owner, the role"
                f" `{shown(each.left_to)}`, may remove them.  As that role:"
                " standfast cleanup --url postgresql://..."
            )
    note(f"{len(ours)} thing(s) {'would go' if dry_run else 'removed'}")
    return Exit.DONE
