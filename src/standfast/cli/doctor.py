"""`doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from standfast.cli.common import common_options, library_warnings, open_connection, require_yes
from standfast.cli.output import Exit, give, note, shown, stdout_styled
from standfast.config.settings import Settings
from standfast.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from standfast.admin.adopt import Adoption
    from standfast.admin.checks import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@click.option("--adopt", is_flag=True, help="Assign the journal to this database from now on.")
@click.option("-y", "--yes", is_flag=True, help="Adopt without asking.")
@common_options("--url")
def doctor_command(adopt: bool, yes: bool, settings: Settings) -> int:
    """Look at the database, the journal and the data directory, and say what to do.

    Exit code 0 when all is well, 1 when a check warns or fails, 3 when the database does not
    answer.  Changes nothing, unless --adopt is given: then the pending writes go to the database
    that answers now, whichever they were meant for, also if it went back in time; exit code 0 when
    that is done, whatever else the checks find.
    """
    from standfast.admin.doctor import examine

    adopted = _adopt(settings, yes=yes) if adopt else None
    with library_warnings():
        report = examine(settings)
    document: dict[str, Any] = {"green": report.green, "checks": report.checks}
    document |= {"adopted": adopted} if adopt else {}
    give(document, (line for check in report.checks for line in _lines(check)))
    note(_summary(report.checks))
    if isinstance(report.failure, Unavailable):
        return Exit.UNREACHABLE
    return Exit.DONE if report.green or adopted else Exit.NO


def _lines(check: Check) -> Iterator[str]:
    verdict = stdout_styled(f"{check.verdict:4}", fg=_COLOURS[check.verdict])
    yield f"{verdict}  {check.name:14}  {shown(check.found)}"
    if check.verdict != "ok" and check.hint:
        yield f"      {'':14}  -> {shown(check.hint)}"
    if check.command and check.command not in check.hint:
        yield f"      {'':14}     {shown(check.command)}"


def _summary(checks: list[Check]) -> str:
    """What is wrong once more, by name: the last line is what stays on the screen."""
    wrong = [f"{one.name} ({one.verdict})" for one in checks if one.verdict != "ok"]
    return f"{len(checks)} checks: " + (", ".join(wrong) if wrong else "all ok")


def _adopt(settings: Settings, *, yes: bool) -> dict[str, Any] | None:
    from standfast.admin.adopt import adopt

    if settings.target.kind == "sqlite":
        raise ConfigError(
            f"{settings.source} names SQLite, which has no journal beside it",
            code="no_primary",
            hint="set DATABASE_URL to the PostgreSQL database that is to be the new home",
        )

    def agree(plan: Adoption) -> None:
        before = "no database yet"
        if plan.before is not None:
            before = f"{plan.before.identity} at {plan.before.display}"
        if plan.went_back:
            note(f"the database {shown(plan.display)} went back in time: {shown(plan.went_back)}")
            note(
                "it would be used as it is now: the mirror is emptied, and what the database"
                " confirmed shortly before is saved in a file"
            )
            note(
                f"{plan.ops - plan.after} write(s) from before that was seen, and {plan.after}"
                " from after, would be replayed to it: a change of the same document is merged or"
                " becomes a conflict, a condition on a version from before is rejected"
            )
        else:
            note(f"the journal belongs to {shown(before)}")
            note(
                f"the database that answers is {shown(plan.identity or 'without a schema')} at"
                f" {shown(plan.display)}"
            )
            note(f"{plan.ops} pending write(s) would go to it")
        require_yes("Adopt it?", yes=yes)

    with open_connection(settings) as backend:
        done = adopt(settings, backend, agree=agree)
    if done is None:
        note("nothing to adopt: there is no journal, or it already belongs to this database")
        return None
    note(
        f"adopted {done.identity}; {done.ops} write(s) are replayed when the store is opened, or"
        " by: standfast journal drain"
    )
    for name in done.saved:
        note(f"what the database confirmed and no longer has is in {shown(name)}")
    if done.rejected:
        note(f"{done.rejected} conditional write(s) become conflicts: standfast conflicts list")
    return {"identity": done.identity, "pending": done.ops, "rejected": done.rejected}
