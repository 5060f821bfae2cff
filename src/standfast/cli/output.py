"""What a command gives back: data on stdout, everything else on stderr, and its exit code.

With --json stdout gets one JSON document.  Names, counts and places are shown; values and
secrets never are, except by `get` and `export`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TextIO

import click
import msgspec

from standfast.errors import ConfigError, CorruptData, DataError, StandfastError, Unavailable

if TYPE_CHECKING:
    from standfast.migrate.steps import Progress

#: A step that takes longer than this gets a progress bar on a terminal.
BAR_AFTER_S = 0.5

#: The code of the error that stdout itself cannot be written.
_OUTPUT = "output"

_state = {"json": False}
#: Whether lines of the log are JSON: `--log-format json`.
LOG_FORMAT = {"json": False}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} | {
    # What turns the direction of a line or ends it: U+202E lets one name look like another.
    code: f"\\u{code:04x}"
    for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}


class Exit(IntEnum):
    """What a command's exit code says; stable."""

    DONE = 0
    NO = 1
    USAGE = 2
    UNREACHABLE = 3
    DATA = 4
    LOCKED = 5
    BUG = 70
    INTERRUPTED = 130


def exit_code(error: StandfastError) -> Exit:
    """The exit code of an error."""
    if error.code in ("locked", "directory_in_use"):
        return Exit.LOCKED
    if isinstance(error, Unavailable):
        return Exit.UNREACHABLE
    if isinstance(error, DataError | CorruptData):
        return Exit.DATA
    if isinstance(error, ConfigError):
        return Exit.USAGE
    return Exit.NO


def use_json(on: bool) -> None:
    """Make errors come as JSON on stdout too."""
    _state["json"] = on


def wants_json() -> bool:
    """Whether the command is to print one JSON document."""
    return _state["json"]


def styled(text: str, **style: Any) -> str:
    """The text in colour; plain where NO_COLOR (no-color.org) is set."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def stdout_styled(text: str, **style: Any) -> str:
    """The same for a line of data: plain where stdout is not a terminal, too."""
    return styled(text, **style) if sys.stdout.isatty() else text


@contextmanager
def watching() -> Generator[Callable[[list[str]], None]]:
    """A function that shows lines in place of those that it showed before.

    On a terminal one live display, as wide and as high as that is; elsewhere one block after the
    other.  rich is imported only then.
    """
    if not sys.stdout.isatty():
        yield lambda lines: print_lines([*(f"{line}\n" for line in lines), "\n"])
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:

        def show(lines: list[str]) -> None:
            live.update(Text("\n").join(Text.from_ansi(line) for line in lines), refresh=True)

        yield show


def shown(text: object) -> str:
    """A key, a path or a message on one line, without anything that a terminal would act on."""
    return _plain(str(text)).translate(_CONTROL)


#: User and password of an address, wherever it stands, also as a path has made it (one slash);
#: and the password of libpq's other form.
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2})[^\s'\"`]*@")
_PASSWORD = re.compile(r"(\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s'\"`&]+)", re.I)


def masked(text: str) -> str:
    """The text without the passwords of addresses in it: an argument that is shown may be a URL in
    the wrong place."""
    return _PASSWORD.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def line_of(key: str) -> str:
    """A key as one line of a list: what a terminal or a loop over lines would act on is
    escaped, and so is the backslash, so that no two keys look alike."""
    return shown(key.replace("\\", "\\\\"))


def _plain(text: str) -> str:
    """The text with escapes for surrogates: they stand for bytes of a path that are not text."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The names that are nearly what was given, as a question; empty where none is."""
    from difflib import get_close_matches

    found = get_close_matches(given.lower(), list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(f'`{name}`' for name in found)}?" if found else ""


def print_line(text: str) -> None:
    """A line of data, on stdout."""
    _write(sys.stdout, text + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Data on stdout, each piece with its own line breaks, until the reader has gone."""
    for line in lines:
        if not _write(sys.stdout, line, flush=False):
            return


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    print_line(_plain(json.dumps(msgspec.to_builtins(document), indent=2, ensure_ascii=False)))


def give(document: Any, lines: Iterable[str] = ()) -> None:
    """What a command returns: with --json this document, else these lines of data."""
    if wants_json():
        print_json(document)
        return
    for line in lines:
        print_line(line)


def print_error(code: str, message: str, hint: str) -> None:
    """An error and what to do next, on stderr; with --json as a document on stdout."""
    if wants_json() and code != _OUTPUT:
        try:
            print_json({"error": {"code": code, "message": masked(message), "hint": masked(hint)}})
        except ConfigError:
            pass  # stdout cannot take it: stderr may
        else:
            return
    _say(styled("error: ", fg="red", bold=True) + shown(message))
    if hint:
        _say("\n" + styled("hint: ", fg="cyan") + shown(hint))


def note(text: str) -> None:
    """A line for people, on stderr; silent with --json."""
    if not wants_json():
        _say(text)


def warn(text: str) -> None:
    """A warning, on stderr, with --json too."""
    _say(styled("warning: ", fg="yellow") + text)


def print_record(record: logging.LogRecord) -> None:
    """A line of the log as one JSON object, on stderr."""
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    about = {"time": at, "level": record.levelname.lower(), "logger": record.name}
    _say(_plain(json.dumps({**about, "message": record.getMessage()}, ensure_ascii=False)))


def _say(text: str) -> None:
    _make_room()
    # Through click, which leaves the colours out when stderr is not a terminal.
    try:
        click.echo(masked(text), err=True)
    except BrokenPipeError:
        silence(sys.stderr)


def flush() -> None:
    """Write what is still buffered for stdout: the last moment at which that can fail."""
    _write(sys.stdout, "")


def _write(stream: TextIO, text: str, *, flush: bool = True) -> bool:
    """Write; False when the reader has gone, which does not stop what is under way.

    ConfigError when the output cannot be written, as on a full disk.
    """
    if _shown and stream.isatty():
        _make_room()
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except BrokenPipeError:
        silence(stream)
        return False
    except OSError as error:
        silence(stream)
        raise ConfigError(
            f"the output cannot be written: {error.strerror}",
            code=_OUTPUT,
            hint="what was written is incomplete; free space, then run this again",
        ) from None
    return True


def silence(stream: TextIO) -> None:
    """Let nothing more be written to a stream whose reader has gone, not at exit either."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def progress_bar() -> Generator[Progress]:
    """A function `(step, done, total)` that shows a bar on a terminal when a step takes long.

    There is one display, and whatever else is printed meanwhile stands above it.  rich is imported
    only then.
    """
    if wants_json() or not sys.stderr.isatty():
        yield lambda step, done, total: None
        return
    bar = _Bar()
    _shown.append(bar)
    try:
        yield bar.show
    finally:
        _shown.remove(bar)
        bar.pause()


@contextmanager
def busy(step: str) -> Generator[Progress]:
    """The same, and at once for a step of which it is not known how far it has come."""
    with progress_bar() as show:
        show(step, 0, 0)
        timer = threading.Timer(BAR_AFTER_S, show, (step, 0, 0))
        timer.daemon = True
        timer.start()
        try:
            yield show
        finally:
            timer.cancel()


class _Bar:
    """The display of the steps that take long; taken away while a line is printed."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._tasks: dict[str, Any] = {}
        self._bar: Any = None
        self._lock = threading.Lock()

    def show(self, step: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._started.setdefault(step, now) < BAR_AFTER_S - 0.01:
            return
        with self._lock:
            if self._bar is None:
                from rich.console import Console
                from rich.progress import Progress as RichProgress

                self._bar = RichProgress(console=Console(stderr=True), transient=True)
                self._bar.start()
            if step not in self._tasks:
                self._tasks[step] = self._bar.add_task(step, total=total or None)
            self._bar.update(self._tasks[step], completed=done)

    def pause(self) -> None:
        """Take it off the screen; the next step that is reported brings it back."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar, self._tasks = None, {}


#: The display that is on the screen now.
_shown: list[_Bar] = []


def _make_room() -> None:
    for bar in _shown:
        bar.pause()
