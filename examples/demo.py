"""Move the state files of a sample tournament bot into a database, look at them, put them back.

Run by `make demo`. Everything happens in `build/demo`, with SQLite; no database server is needed
and nothing outside that directory is touched. The commands are those that one would type; the
program stops with exit code 1 when one of them fails, or when what comes back is not what went in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

EXAMPLES = Path(__file__).resolve().parent
PLACE = EXAMPLES.parent / "build" / "demo"


def main() -> int:
    """Play the demo; the exit code."""
    before = set_up()
    say(f"The state of a sample bot, as it lies in {shown(PLACE)}:")
    list_files()

    say("What would be moved? Nothing is written yet.")
    standfast("migrate", ".", "--dry-run")

    say("Move it: plan, backup, load, read back and compare, and only then clean up.")
    standfast("migrate", ".", "--yes")

    say("The files are in the database now; the originals lie beside it, in the run's backup:")
    list_files()
    run = newest_run()

    say("Every migration is a run with an id:")
    standfast("runs")

    guild = list(json.loads(before["waitlist_data.json"]))[1]
    say("One document for each guild:")
    standfast("list", "persisted_views")
    say("The waiting list of one of them, 64-bit ids and accents intact:")
    standfast("get", "waitlist_data", guild)

    say("The way back, for other programs: the same JSON as one file.")
    standfast("export", "persisted_views", "-o", "exported.json")
    exported = json.loads((PLACE / "exported.json").read_bytes())
    compare("exported.json", exported, json.loads(before["persisted_views.json"]))
    (PLACE / "exported.json").unlink()

    say("And the way back for good: files and rows as they were before the run.")
    standfast("rollback", run)
    list_files()
    for name, content in before.items():
        compare(name, (PLACE / name).read_bytes(), content)
    say("Every file is back, byte for byte.")
    print("Next: standfast migrate PATH --dry-run, on the data directory of your own program.")
    return 0


def set_up() -> dict[str, bytes]:
    """A fresh copy of the sample files; their contents by name."""
    shutil.rmtree(PLACE, ignore_errors=True)
    shutil.copytree(EXAMPLES / "data", PLACE)
    return {path.name: path.read_bytes() for path in PLACE.iterdir()}


def standfast(*arguments: str) -> None:
    """Show a command, run it, and end the demo when it fails."""
    print(f"$ standfast {' '.join(arguments)}", flush=True)
    # The demo's own SQLite database, whatever the environment of the caller says.
    env = {
        name: value
        for name, value in os.environ.items()
        if name != "DATABASE_URL" and not name.startswith("STANDFAST_")
    }
    command = [sys.executable, "-m", "standfast", *arguments]
    done = subprocess.run(command, cwd=PLACE, env=env, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        stop(f"`standfast {' '.join(arguments)}` ended with exit code {done.returncode}")


def newest_run() -> str:
    """The id of the run that has just ended: the name of its backup."""
    backups = sorted((PLACE / "storage" / "migration_backups").glob("*/"))
    if not backups:
        stop("the migration left no backup of the originals")
    return backups[-1].name


def list_files() -> None:
    """Show every file below the demo's directory with its size."""
    for path in sorted(PLACE.rglob("*")):
        if path.is_file():
            print(f"  {path.stat().st_size:>7,} bytes  {path.relative_to(PLACE)}")


def compare(name: str, found: object, expected: object) -> None:
    """End the demo when two things differ that must be equal."""
    if found != expected:
        stop(f"{name} is not what it was before the migration")


def shown(path: Path) -> str:
    """A path as seen from the current directory, where that is shorter."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def say(text: str) -> None:
    """A line of explanation."""
    print(f"\n# {text}", flush=True)


def stop(reason: str) -> NoReturn:
    """End the demo with exit code 1."""
    sys.stdout.flush()
    print(f"\nerror: {reason}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    raise SystemExit(main())
