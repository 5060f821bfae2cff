"""`migrate`, `plan`, `verify`, `rollback`, `runs`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from standfast.cli.common import answer, common_options, open_backend, options
from standfast.cli.migrate_report import (
    left_to_do,
    plan_document,
    result_document,
    show_plan,
    show_result,
)
from standfast.cli.output import Exit, busy, give, note, progress_bar, shown, wants_json
from standfast.config.settings import Settings
from standfast.errors import ConfigError, MigrationError
from standfast.migrate.compare import OnConflict
from standfast.migrate.plan import Options, Plan
from standfast.migrate.read_file import ReadOptions
from standfast.migrate.rundir import RunState
from standfast.migrate.runner import Result, Runner
from standfast.migrate.steps import Steps

#: The options that say which files, and how they become documents.
_what_options = options(
    click.argument("paths", nargs=-1, type=click.Path(path_type=Path)),
    click.option("--whole", is_flag=True, help="Keep each file as one document."),
    click.option("--key", "key_field", metavar="FIELD", help="Field with a record's key."),
    click.option("--collection", metavar="NAME", help="Collection, if not the file's name."),
    click.option(
        "--name",
        "names",
        metavar="FILE=COLLECTION",
        multiple=True,
        help="Collection of one of the files.",
    ),
    click.option(
        "--exclude",
        metavar="GLOB",
        multiple=True,
        help="Leave out files by name or path.",
    ),
    click.option(
        "--each",
        metavar="DIR",
        multiple=True,
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="Make one collection of a folder's files, a document of each.",
    ),
    click.option(
        "--split",
        metavar="[FILE=]POINTER",
        multiple=True,
        help="Make documents of the members of the object there, as in /users.",
    ),
    click.option("--lines", metavar="GLOB", multiple=True, help="Read such files as JSON Lines."),
    click.option("-r", "--recursive", is_flag=True, help="Descend into folders."),
    click.option(
        "--split-default",
        is_flag=True,
        help="Split the older layout, where one entry `default` holds everything.",
    ),
    click.option(
        "--replace-form",
        is_flag=True,
        help="Remove what a file brought in another form before.",
    ),
    click.option(
        "--on-conflict",
        type=click.Choice(get_args(OnConflict)),
        default="fail",
        show_default=True,
        help="Which side wins where file and database differ.",
    ),
    click.option("--keep-files", is_flag=True, help="Leave the originals where they are."),
    click.option("--skip-bad", is_flag=True, help="Leave refused files out; exit code 4."),
)


def _abandon(run: str, paths: tuple[Path, ...], settings: Settings) -> Exit:
    from standfast.migrate.rollback import abandon

    if paths:
        raise ConfigError(
            "--abandon gives up an earlier run, and takes no files",
            code="usage",
            hint="migrate the files with a second command",
        )
    result = abandon(settings.data_dir, run)
    give(result)
    for line in result.notes:
        note(shown(line))
    for path in result.kept:
        note(f"left alone, since another file stands there: {shown(path)}")
    note(
        f"run {result.run} was already given up"
        if result.already
        else f"run {result.run} given up: {result.files} file(s) restored"
    )
    return Exit.NO if result.kept else Exit.DONE


def _require_paths(paths: tuple[Path, ...]) -> None:
    if not paths:
        raise ConfigError(
            "no file or directory was given",
            code="usage",
            hint="for example: standfast migrate data",
        )


def _options(values: dict[str, Any]) -> Options:
    if values["whole"] and values["key_field"] is not None:
        raise ConfigError(
            "--whole keeps a file as one document, --key makes one of each record",
            code="usage",
            hint="give one of them",
        )
    if values["whole"] and values["split"]:
        raise ConfigError(
            "--whole keeps a file as one document, --split takes it apart",
            code="usage",
            hint="give one of them",
        )
    read = ReadOptions(values["whole"], values["key_field"], values["split_default"])
    return Options(
        read=read,
        collection=values["collection"],
        names=_by_file("--name", values["names"], "nuke-state.json=nukes"),
        split=_pointers(values["split"]),
        lines=values["lines"],
        each=values["each"],
        replace_form=values["replace_form"],
        exclude=values["exclude"],
        recursive=values["recursive"],
        on_conflict=values["on_conflict"],
        keep_files=values["keep_files"],
        skip_bad=values["skip_bad"],
    )


def _by_file(flag: str, given: tuple[str, ...], example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        file, equals, what = each.rpartition("=")
        if not (file and equals and what):
            raise ConfigError(
                f"{flag} {each}: not FILE=COLLECTION",
                code="usage",
                hint=f"for example {flag} {example}",
            )
        found[file] = what
    return found


def _pointers(given: tuple[str, ...]) -> dict[str, str]:
    """JSON pointers by file; one without a file is that of the only file."""
    found: dict[str, str] = {}
    for each in given:
        file, _, pointer = ("", "", each) if each.startswith("/") else each.partition("=")
        if not pointer.startswith("/"):
            raise ConfigError(
                f"--split {each}: not a JSON pointer such as /users",
                code="usage",
                hint="for example --split /users, or --split state.json=/users",
            )
        found[file] = pointer
    return found


@click.command("migrate")
@_what_options
@click.option("-n", "--dry-run", is_flag=True, help="Show what would happen; change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Migrate a directory without asking.")
@click.option("--abandon", metavar="RUN", help="Give up a run whose database is gone.")
@common_options("--url")
def migrate_command(
    paths: tuple[Path, ...],
    dry_run: bool,
    yes: bool,
    abandon: str | None,
    settings: Settings,
    **what: Any,
) -> int:
    """Move JSON files (or the JSON files of directories) into the database.

    Scan, plan, backup, load in one transaction, verify every value, and only then move the
    originals to the run's backup.  `standfast rollback RUN` undoes all of it.  To finish a
    killed run, give the same command again.

    `--abandon RUN` needs no database: it puts the originals of RUN back where nothing stands in
    their place, and leaves what the run has stored where it is.
    """
    if abandon is not None:
        return _abandon(abandon, paths, settings)
    if dry_run:
        return _plan(paths, _options(what), settings)
    _announce((*paths, *what["each"]))
    # A short-lived process that builds large lists: looking for cycles among them is in vain.
    gc.disable()
    chosen = _options(what)
    with open_backend(settings) as backend, progress_bar() as progress:
        runner = Runner(backend, settings.data_dir, steps=Steps(_announce_step, progress))
        result = runner.run(list(paths), chosen, confirm=lambda plan: _confirm(plan, yes))
    if wants_json():
        give(result_document(result, backend.display))
    else:
        show_result(result)
    return _exit(result.plan, result)


@click.command("plan")
@_what_options
@common_options("--url")
def plan_command(paths: tuple[Path, ...], settings: Settings, **what: Any) -> int:
    """Show what `migrate` would do to each document; change nothing.

    Exit code 4 when a file is refused, 1 when a conflict is open.
    """
    return _plan(paths, _options(what), settings)


def _plan(paths: tuple[Path, ...], chosen: Options, settings: Settings) -> int:
    _announce((*paths, *chosen.each))
    with open_backend(settings) as backend:
        plan = Runner(backend, settings.data_dir, steps=Steps(_announce_step)).plan(
            list(paths), chosen
        )
    if wants_json():
        give(plan_document(plan, backend.display))
    else:
        show_plan(plan)
    return _exit(plan, None)


def _announce(paths: tuple[Path, ...]) -> None:
    """Say what is about to happen before anything slow: a driver, a connection, a large file."""
    _require_paths(paths)
    note(f"scan: reading {shown(', '.join(map(str, paths)))}")


def _announce_step(step: str, what: str) -> None:
    if step != "scan":  # said already: see _announce
        note(f"{step}: {shown(what)}")


def _confirm(plan: Plan, yes: bool) -> None:
    """Show the plan; a directory's needs a yes, which a program gives by --yes."""
    show_plan(plan)
    if not plan.found.from_directory or yes:
        return
    agreed = None if wants_json() else answer(f"Migrate {len(plan.sources)} file(s)?")
    if agreed is None:
        raise ConfigError(
            "a directory is migrated only after a confirmation, and none was given",
            code="not_confirmed",
            hint="give --yes, or name the files themselves",
        )
    if not agreed:
        raise MigrationError(
            "not confirmed; nothing was changed",
            code="not_confirmed",
            hint="answer y, or give --yes",
        )


def _exit(plan: Plan, result: Result | None) -> Exit:
    if plan.problems:
        return Exit.DATA
    if plan.open_conflicts or (result is not None and not result.green):
        return Exit.NO
    return Exit.DONE


@click.command("verify")
@click.argument("run")
@common_options("--url")
def verify_command(run: str, settings: Settings) -> int:
    """Compare every value of RUN's files with the database; exit code 1 when one differs.

    What the application has changed since the run is reported as different too.
    """
    from standfast.migrate.locking import require_same_target
    from standfast.migrate.rundir import find_run
    from standfast.migrate.verify import verify_run

    run_dir = find_run(settings.data_dir, run)
    state = run_dir.load_state()
    if state.state not in ("loaded", "verify-failed", "done"):
        raise ConfigError(
            f"run {state.run} is {state.state}: there is nothing to verify",
            code="state",
            hint="`standfast runs` shows the state of each run",
        )
    with open_backend(settings) as backend, progress_bar() as progress:
        require_same_target(backend, state)
        changes = run_dir.load_changes()
        verdict = verify_run(backend, run_dir, state, changes, progress=progress)
    wrong = [{"collection": c, "key": k, "what": w} for c, k, w in verdict.wrong]
    give({"run": state.run, "compared": verdict.compared, "wrong": wrong})
    for line in verdict.lines():
        note(shown(line))
    note(f"run {state.run}: {verdict.compared} values compared, {len(verdict.wrong)} differ")
    return Exit.DONE if verdict.green else Exit.NO


@click.command("rollback")
@click.argument("run")
@click.option(
    "--discard-newer",
    is_flag=True,
    help="Undo rows and files that changed since, too; what is newer is archived.",
)
@common_options("--url")
def rollback_command(run: str, discard_newer: bool, settings: Settings) -> int:
    """Undo RUN: rows as they were before it, files byte for byte where they were.

    Refused, before anything is changed, when rows or files have changed since.  To finish a killed
    rollback, give the same command again.
    """
    from standfast.migrate.rollback import rollback

    with open_backend(settings) as backend, busy("roll back") as progress:
        result = rollback(
            *(backend, settings.data_dir, run),
            discard_newer=discard_newer,
            steps=Steps(_announce_step, progress),
        )
    give(result)
    for path in result.archived:
        note(f"archived what was newer: {shown(path)}")
    for line in result.notes:
        note(shown(line))
    note(
        f"run {result.run} was already rolled back"
        if result.already
        else f"run {result.run} rolled back: {result.rows} row(s), {result.files} file(s)"
    )
    return Exit.DONE


@click.command("runs")
@common_options("--url")
def runs_command(settings: Settings) -> int:
    """List the runs of the data directory, oldest first, and what is left to do for each."""
    from standfast.migrate.rundir import all_runs

    states = [run_dir.load_state() for run_dir in all_runs(settings.data_dir)]
    runs = [{**msgspec.to_builtins(each), "left_to_do": left_to_do(each)} for each in states]
    give({"runs": runs}, (line for state in states for line in _lines(state)))
    if not states:
        note(f"no runs in {shown(settings.data_dir)}")
    return Exit.DONE


def _lines(state: RunState) -> Iterator[str]:
    documents = sum(source.documents for source in state.sources)
    yield (
        f"{state.run}  {state.state:13}  {len(state.files)} file(s)"
        f"  {documents} document(s)  {shown(state.target)}"
    )
    for line in left_to_do(state):
        yield f"    {shown(line)}"
