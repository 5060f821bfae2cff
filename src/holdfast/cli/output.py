"""What goes to the terminal: data to stdout, everything else to stderr, one JSON document if asked.

Names, counts and places are shown; values and secrets never are, except by `get` and `export`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

#: A step that takes longer than this gets a progress bar on a terminal.
BAR_AFTER_S = 0.5

_state = {"json": False}


def use_json(on: bool) -> None:
    """Make errors come as JSON on stdout too."""
    _state["json"] = on


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2)
    click.echo(text.decode())


def print_error(code: str, message: str, hint: str) -> None:
    """An error and what to do next, on stderr; with --json as a document on stdout."""
    if _state["json"]:
        print_json({"error": {"code": code, "message": message, "hint": hint}})
        return
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True)
    if hint:
        click.echo("\n" + click.style("hint: ", fg="cyan") + hint, err=True)


def note(text: str) -> None:
    """A line for people, on stderr; silent with --json."""
    if not _state["json"]:
        click.echo(text, err=True)


def warn(text: str) -> None:
    """A warning, on stderr, with --json too."""
    click.echo(click.style("warning: ", fg="yellow") + text, err=True)


Progress = Callable[[str, int, int], None]


@contextmanager
def progress_bar() -> Generator[Progress]:
    """A function `(step, done, total)` that shows a bar on a terminal when a step takes long.

    rich is imported only then.
    """
    if _state["json"] or not sys.stderr.isatty():
        yield lambda step, done, total: None
        return
    bar = _Bar()
    try:
        yield bar.show
    finally:
        bar.stop()


class _Bar:
    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._tasks: dict[str, Any] = {}
        self._bar: Any = None

    def show(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._started.setdefault(step, now) < BAR_AFTER_S:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if step not in self._tasks:
            self._tasks[step] = self._bar.add_task(step, total=total)
        self._bar.update(self._tasks[step], completed=done)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
