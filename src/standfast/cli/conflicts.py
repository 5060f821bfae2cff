"""`conflicts list | show | resolve`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from standfast.cli.common import common_options, open_connection
from standfast.cli.output import Exit, give, line_of, note, print_line, shown, wants_json
from standfast.config.settings import Settings
from standfast.document.codec import accept, decode, encode
from standfast.errors import ConfigError
from standfast.ops.types import ConflictRecord, from_microseconds

if TYPE_CHECKING:
    from standfast.admin.conflicts import Decision, Side

_CONTENTS = ("base", "mine", "theirs")


@click.group("conflicts")
def conflicts_command() -> None:
    """Conflicts of replayed writes: merged, overwritten or rejected, with both sides kept."""


@conflicts_command.command("list")
@click.option("--all", "everything", is_flag=True, help="List merged and resolved ones too.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--after", type=click.IntRange(min=0), default=0, help="Only ids above this one.")
@common_options("--url")
def list_command(everything: bool, limit: int, after: int, settings: Settings) -> int:
    """List the conflicts that are open, oldest first, without contents; exit code 1 if any is."""
    from standfast.admin.conflicts import open_conflicts

    state = None if everything else "open"
    with open_connection(settings) as backend:
        found = backend.conflicts(
            state=state, after=after, limit=limit, deadline=time.monotonic() + settings.deadline_s
        )
        counts = backend.count_conflicts(deadline=time.monotonic() + settings.deadline_s)
    count = open_conflicts(counts)
    give({"open": count, "conflicts": [*map(_about, found)]}, map(_line, found))
    note(f"{count} open" + (f", {sum(counts.values())} in all" if everything else ""))
    if len(found) == limit:
        note(f"there may be more: --after {found[-1].id}")
    return Exit.NO if count else Exit.DONE


def _about(entry: ConflictRecord) -> dict[str, Any]:
    """All of a conflict but its contents."""
    return {
        "id": entry.id,
        "at": from_microseconds(entry.at_us).isoformat(),
        "collection": entry.collection,
        "key": entry.key,
        "kind": entry.kind,
        "reason": entry.reason,
        "state": entry.state,
        "resolution": entry.resolution,
    }


def _line(entry: ConflictRecord) -> str:
    about = _about(entry)
    about["key"] = line_of(entry.key)
    about["resolution"] = entry.resolution or "-"
    return "  ".join(str(value) for value in about.values())


@conflicts_command.command("show")
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@common_options("--url")
def show_command(number: int, settings: Settings) -> int:
    """Print one conflict with its contents: base, mine and theirs.

    With --json, a side without a document is left out.  `version` is that of the document now.
    """
    from standfast.admin.conflicts import find, version_now

    with open_connection(settings) as backend:
        entry = find(backend, number, deadline_s=settings.deadline_s)
        version = version_now(backend, entry, deadline_s=settings.deadline_s)
    head = _about(entry) | {"lane": entry.lane, "seq": entry.seq, "version": version}
    if entry.pointer:
        head["pointer"] = decode(entry.pointer)
    contents = [(name, getattr(entry, name)) for name in _CONTENTS]
    if wants_json():
        parts = [f'"{name}":{text}' for name, text in contents if text is not None]
        print_line(",".join([encode(head)[:-1], *parts]) + "}")
        return Exit.DONE
    for name, value in head.items():
        print_line(f"{name:10}  {'-' if value in (None, '') else shown(value)}")
    for name, text in contents:
        print_line(f"{name:10}  {'(no document)' if text is None else text}")
    return Exit.DONE


@conflicts_command.command("resolve")
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@click.option(
    "--take",
    type=click.Choice(["mine", "theirs", "base"]),
    help="Write this side; `mine` of a patch, append or increment is applied again.",
)
@click.option("--value", metavar="JSON", help="Write this document.")
@click.option("--dismiss", is_flag=True, help="Leave the document as it is.")
@click.option("--if-version", type=int, help="Only when the document has this version (0: none).")
@common_options("--url")
def resolve_command(
    number: int,
    take: Side | None,
    value: str | None,
    dismiss: bool,
    if_version: int | None,
    settings: Settings,
) -> int:
    """Decide a conflict; it is marked as resolved once the decision has taken effect.

    Exit code 1 when it is no longer open, or the document has another version than
    --if-version names.
    """
    from standfast.admin.conflicts import resolve

    decision = _decision(take, value, dismiss, if_version)
    with open_connection(settings) as backend:
        done = resolve(
            backend, number, decision, if_version=if_version, deadline_s=settings.deadline_s
        )
    changed = {"state": "resolved", "resolution": done.resolution, "version": done.version}
    give({**_about(done.entry), **changed})
    what = "left as it is" if done.version is None else f"version {done.version}"
    entry = done.entry
    note(
        f"resolved {number} ({done.resolution}): {shown(entry.key)!r} in `{entry.collection}`,"
        f" {what}"
    )
    return Exit.DONE


def _decision(
    take: Side | None, value: str | None, dismiss: bool, if_version: int | None
) -> Decision:
    from standfast.admin.conflicts import Decision

    if (take is not None) + (value is not None) + dismiss != 1:
        raise ConfigError(
            "give one of --take, --value and --dismiss", code="usage", hint="see --help"
        )
    if dismiss and if_version is not None:
        raise ConfigError(
            "--dismiss writes nothing, so --if-version does not apply",
            code="usage",
            hint="leave one of them out",
        )
    return Decision(take, None if value is None else accept(value, source="--value"))
