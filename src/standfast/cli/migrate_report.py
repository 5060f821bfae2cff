"""Plans and results of migrations, for people and as JSON.  Keys and places, never values."""

from __future__ import annotations

import contextlib
import keyword
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from standfast.cli.output import note, print_line, shown, styled
from standfast.document.names import derived_name
from standfast.migrate.compare import CollectionPlan
from standfast.migrate.plan import Plan, Source
from standfast.migrate.rundir import RunState
from standfast.migrate.runner import Result

#: Differing documents that are listed for one collection.
MAX_LISTED = 20

_SIGNS = {"file": "~", "merged": "&", "database": "=", "open": "!"}


def show_plan(plan: Plan) -> None:
    """What would happen, on stderr."""
    for line in plan.notes:
        note(shown(line))
    for left in plan.found.left_out:
        note(f"left out: {shown(left.path)} ({left.reason})")
    for each in plan.collections:
        _show_collection(each)
    for problem in plan.problems:
        note(styled("refused: ", fg="red") + shown(problem.error.message))
        if problem.error.hint:
            note(f"         {shown(problem.error.hint)}")


def _show_collection(plan: CollectionPlan) -> None:
    changed = sum(1 for each in plan.different if each.decision in ("file", "merged"))
    kept = len(plan.kept)
    note(
        f"{shown(Path(plan.source).name)} -> `{plan.collection}`: {len(plan.inserts)} new,"
        f" {len(plan.equal)} equal, {len(plan.different)} different"
        f" ({changed} to write, {kept} kept, {len(plan.open_conflicts)} open),"
        f" {plan.only_database} only in the database"
    )
    for line in plan.notes:
        note(f"  {shown(line)}")
    for each in plan.different[:MAX_LISTED]:
        places = shown(", ".join(each.paths))
        note(f"  {_SIGNS[each.decision]} {shown(each.key)}  {places}  ({shown(each.reason)})")
    if len(plan.different) > MAX_LISTED:
        note(f"  and {len(plan.different) - MAX_LISTED} more")


def show_result(result: Result) -> None:
    """What was done, on stderr; the run's id alone on stdout."""
    plan = result.plan
    for run in result.resumed:
        note(f"finished run {run}, which had been interrupted")
    if result.run is None:
        if plan.problems or plan.open_conflicts:
            _show_why_not(plan)
        else:
            show_plan(plan)
            note("nothing to do")
        return
    verdict = result.verdict
    if verdict is not None and not verdict.green:
        for line in verdict.lines():
            note(styled("wrong: ", fg="red") + shown(line))
        note(f"{len(verdict.wrong)} of {verdict.compared} values differ: no original was moved")
        note(f"undo it with: standfast rollback {result.run} --discard-newer")
    elif verdict is not None:
        note(f"{verdict.compared} values read back and compared, all equal")
    for path in result.changed_files:
        note(styled("changed since the scan, not moved: ", fg="yellow") + shown(path))
    for problem in plan.problems:
        note(styled("set aside: ", fg="red") + shown(problem.error.message))
    print_line(result.run)
    if result.green and plan.found.from_directory:
        note("the same data in your code:")
        for line in code_lines(plan.sources):
            note(f"    {shown(line)}")
    if result.green:
        note(f"done; undo it with: standfast rollback {result.run}")


def code_lines(sources: Sequence[Source]) -> list[str]:
    """The lines of Python that open what the files have become."""
    lines: list[str] = []
    stored: dict[str, str] = {}
    taken = dict.fromkeys(("store", "standfast", *keyword.kwlist), "")
    for source in sources:
        variable = source.collection.lower()
        while taken.setdefault(variable, source.collection) != source.collection:
            variable += "_"
        if source.group is not None:
            stored[variable] = f"store[{source.collection!r}]  # a document for each file"
        elif source.read.table is not None or source.read.split is not None:
            stored[variable] = f"store[{source.collection!r}]"
        else:
            lines.append(f"{variable} = {_json_file(source)}")
    if stored:
        lines.append("store = standfast.open()")
        lines += [f"{variable} = {what}" for variable, what in stored.items()]
    return ["import standfast", *lines]


def _json_file(source: Source) -> str:
    path = source.path
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    named = f", collection={source.collection!r}"
    if source.collection == derived_name(source.path.name):
        named = ""
    whole = ", whole=True" if source.read.whole else ""
    return f"standfast.JsonFile({path.as_posix()!r}{named}{whole})"


def left_to_do(state: RunState) -> list[str]:
    """What can or must still be done for a run, each with the command."""
    again = "standfast migrate " + " ".join(shlex.quote(each.path) for each in state.files)
    undo = f"standfast rollback {state.run}"
    give_up = f"if its database is gone: standfast migrate --abandon {state.run}"
    match state.state:
        case "started":
            return [f"it changed nothing; the next migration removes it: {again}"]
        case "backed-up":
            return [f"finish it, or find out that it changed nothing: {again}", give_up]
        case "loaded":
            return [
                f"stored; verify it and move its originals: {again}",
                f"or leave them where they are: {again} --keep-files",
                f"or undo it: {undo}",
                give_up,
            ]
        case "verify-failed":
            return [f"values differ; compare again: {again}", f"or undo it: {undo}", give_up]
        case "rolling-back":
            return [f"finish its rollback: {undo}", give_up]
        case "done":
            return [f"nothing is left to do; to undo it: {undo}"]
        case "rolled-back" | "abandoned":
            return ["nothing is left to do"]


def _show_why_not(plan: Plan) -> None:
    show_plan(plan)
    if plan.problems:
        note(f"{len(plan.problems)} file(s) refused; nothing was changed")
        # Where nothing else is to be moved, leaving them out leaves nothing.
        note("correct them" + (", or set them aside with --skip-bad" if plan.sources else ""))
    elif plan.open_conflicts:
        note(f"{plan.open_conflicts} document(s) differ; nothing was changed")
        note("decide with --on-conflict file, database or newest")


def plan_document(plan: Plan, target: str) -> dict[str, Any]:
    """The plan as JSON: stable names."""
    return {
        "target": target,
        "collections": [_collection_document(each) for each in plan.collections],
        "problems": [
            {
                "path": str(problem.path),
                "code": problem.error.code,
                "message": problem.error.message,
                "hint": problem.error.hint,
                "where": getattr(problem.error, "where", ""),
            }
            for problem in plan.problems
        ],
        "left_out": [
            {"path": str(each.path), "reason": each.reason} for each in plan.found.left_out
        ],
        "open_conflicts": plan.open_conflicts,
        "writes": plan.writes,
        "notes": plan.notes,
    }


def _collection_document(plan: CollectionPlan) -> dict[str, Any]:
    return {
        "collection": plan.collection,
        "source": plan.source,
        "form": plan.form.shape,
        "key_field": plan.form.key_field,
        "new": len(plan.inserts),
        "equal": len(plan.equal),
        "different": [
            {
                "key": each.key,
                "decision": each.decision,
                "reason": each.reason,
                "paths": list(each.paths),
            }
            for each in plan.different
        ],
        "split": plan.removed,
        "only_in_database": plan.only_database,
        "notes": plan.notes,
    }


def result_document(result: Result, target: str) -> dict[str, Any]:
    """The result as JSON: the plan's members and what was done."""
    verdict = result.verdict
    return {
        **plan_document(result.plan, target),
        "run": result.run,
        "resumed": result.resumed,
        "green": result.green and not result.plan.problems,
        "compared": verdict.compared if verdict else 0,
        "wrong": [
            {"collection": name, "key": key, "what": what}
            for name, key, what in (verdict.wrong if verdict else [])
        ],
        "moved": result.moved,
        "changed_files": result.changed_files,
    }
