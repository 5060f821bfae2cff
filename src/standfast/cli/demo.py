"""`demo`: a bot's files are moved, its database is killed while it writes, and nothing is lost."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from standfast.cli.output import Exit, print_line, stdout_styled, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from standfast.api.sync import Store
    from standfast.cli.demo_server import DemoServer
    from standfast.cli.demo_story import Bot

#: Seconds of healthy writes, of the outage, and between two looks: on a terminal, and elsewhere.
HEALTHY_S, OUTAGE_S = 4.0, 6.0
_LOOK_S, _LINE_S = 0.25, 1.0
_FILE = "persisted_views.json"


@click.command("demo")
@click.option(
    "--server",
    "url",
    metavar="URL",
    help="A PostgreSQL server of yours, in which the demo makes a database and drops it again."
    " Default: one of its own.",
)
@click.option("--seconds", type=click.IntRange(1, 600), help="How long the outage lasts.")
def demo_command(url: str | None, seconds: int | None) -> int:
    """The whole story in half a minute: move files, keep working through an outage, count.

    Sample files are moved into a PostgreSQL, a bot writes, PostgreSQL is killed before your eyes
    and comes back, and a checker compares every acknowledged write with the tables.  Everything
    happens in a temporary directory.  Exit code 1 if a write was lost or is there twice.
    """
    from standfast.cli.demo_server import demo_server
    from standfast.config.settings import parse_url

    target = parse_url(url) if url else None
    _say("A PostgreSQL for the demo is being started ..." if target is None else "Connecting ...")
    with (
        tempfile.TemporaryDirectory(prefix="standfast-demo-") as folder,
        demo_server(target) as server,
    ):
        place = Path(folder)
        _move(place, server.url)
        is_clean = _play(place / "storage", server, outage_s=seconds or OUTAGE_S)
        return Exit.DONE if is_clean and _move_back(place, server.url) else Exit.NO


def _move(place: Path, url: str) -> None:
    views = {
        str(8_138_000_000_000_000 + guild): {
            "event_mode": "doubleup" if guild % 3 else "normal",
            "registration": {"channel_id": 10_000 + guild, "message_id": 2**60 + guild},
            "waitlist": [{"ign": f"Otter#{guild}", "member_id": 2**59 + guild}],
        }
        for guild in range(40)
    }
    (place / _FILE).write_text(json.dumps(views, indent=2, ensure_ascii=False), encoding="utf-8")
    _say(f"A bot keeps its state in {_FILE}. It is moved into PostgreSQL:")
    _run(place, url, "migrate", _FILE, "--yes")


def _play(data_dir: Path, server: DemoServer, *, outage_s: float) -> bool:
    """Write, take the server away, bring it back, count; whether all is there once."""
    import standfast
    from standfast.cli.demo_story import Bot, count, wait_until_drained

    _say("Four writers sign up teams. After a few seconds PostgreSQL goes away.")
    with standfast.open(server.url, data_dir=data_dir) as store:
        with Bot(store) as bot, _screen_or_lines() as show:
            display = _Display(store, bot, show)
            display.look(HEALTHY_S, "PostgreSQL runs")
            server.stop()
            display.look(outage_s, f"PostgreSQL is {server.stopping}")
            display.look(0, "PostgreSQL comes back")
            server.start()
            display.look(HEALTHY_S / 2, "PostgreSQL is back")
        is_drained = wait_until_drained(store)
    result = count(server.url, bot.promised)
    _say("The checker reads the tables with a driver of its own:")
    print_line(f"  acknowledged  {result.acknowledged:>8,} batches of three writes")
    print_line(f"  in an outage  {bot.durable_on['journal']:>8,} of them, to the journal")
    print_line(f"  refused       {result.unknown:>8,}")
    print_line(_verdict("lost", result.lost))
    print_line(_verdict("doubled", result.doubled))
    if not is_drained:
        print_line("  the journal was not empty after 30 seconds")
    return result.is_clean and is_drained


@contextmanager
def _screen_or_lines() -> Generator[Callable[[list[str]], None] | None]:
    """The function that shows a screen, None without a terminal; log lines wait for neither."""
    log = logging.getLogger("standfast")
    log.disabled = True  # the display says it
    try:
        if sys.stdout.isatty():
            with watching() as show:
                yield show
        else:
            yield None
    finally:
        log.disabled = False


class _Display:
    """Shows the bot and its store: a live screen on a terminal, else a line a second."""

    def __init__(self, store: Store, bot: Bot, show: Callable[[list[str]], None] | None) -> None:
        self._store, self._bot, self._show = store, bot, show
        self._begin, self._history = time.monotonic(), ""

    def look(self, seconds: float, what: str) -> None:
        """Show what happens for so long, at least once."""
        end = time.monotonic() + seconds
        while True:
            if self._show is None:
                print_line(self._line(what))
            else:
                self._show(self._screen(what))
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_LINE_S if self._show is None else _LOOK_S, left))

    def _line(self, what: str) -> str:
        health, done = self._store.health(), self._bot.durable_on
        seconds = time.monotonic() - self._begin
        return (
            f"{seconds:5.1f} s  {what:<35} {health.state:<10}"
            f" acknowledged {done.total():>6,}, waiting {health.lag_ops:>6,}"
        )

    def _screen(self, what: str) -> list[str]:
        health, done = self._store.health(), self._bot.durable_on
        colour, mark = _MARKS[health.state]
        self._history = (self._history + mark)[-72:]
        seconds = time.monotonic() - self._begin
        return [
            f"{seconds:5.1f} s  {what}",
            stdout_styled(f"         the store is {health.state}", fg=colour),
            f"         acknowledged {done.total():,}: {done['primary']:,} by PostgreSQL,"
            f" {done['journal']:,} by the journal",
            f"         waiting in the journal: {health.lag_ops:,}",
            stdout_styled(f"         {self._history}", fg=colour),
        ]


_MARKS = {"direct": ("green", "#"), "journaling": ("yellow", "-"), "draining": ("cyan", "+")}


def _move_back(place: Path, url: str) -> bool:
    """Undo the migration; whether the file is as it was."""
    (run,) = (place / "storage" / "migration_backups").glob("*/")
    (moved,) = run.glob(f"**/{_FILE}")
    before = moved.read_bytes()
    _say("And the migration can be undone, whenever you like:")
    _run(place, url, "rollback", run.name)
    return (place / _FILE).read_bytes() == before


def _run(place: Path, url: str, *arguments: str) -> None:
    """Show a command and run it, as one would type it; its error ends the demo."""
    print_line(f"$ standfast {' '.join(arguments)}")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith("STANDFAST_")
    }
    done = subprocess.run(
        [sys.executable, "-m", "standfast", *arguments],
        cwd=place,
        env=kept | {"DATABASE_URL": url},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)


def _verdict(name: str, number: int) -> str:
    return stdout_styled(f"  {name:<12}  {number:>8,}", fg="red" if number else "green", bold=True)


def _say(text: str) -> None:
    print_line(f"\n# {text}")
