"""Move the bot's data into its database, each guild into a row of its own.

    python scripts/migrate_json_to_database.py --dry-run     # what would happen
    python scripts/migrate_json_to_database.py --yes         # plan, backup, load, verify, clean up
    python scripts/migrate_json_to_database.py --rollback RUN

`DATABASE_URL` names the database; without it, it is SQLite in `./storage`.  Moved are the files
`persisted_views.json` and `waitlist_data.json`, the tables of an older `storage/fallback.db` where
the database is PostgreSQL, and the row `default` in which an older bot keeps all guilds.  Stop the
bot first.  The exit codes are those of `standfast migrate`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TABLES = ("persisted_views", "waitlist_data")
OLD_FILE = Path("storage/fallback.db")
#: Here a table's documents become a file, which the migration moves to its backups.
MADE = Path("storage/older")


def main() -> int:
    """Run the migration, or take one back; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="show what would happen")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--rollback", metavar="RUN", help="take back a run (see `standfast runs`)")
    args = parser.parse_args()
    if args.rollback:
        return standfast("rollback", args.rollback)
    options = [flag for flag, on in (("--dry-run", args.dry_run), ("--yes", args.yes)) if on]
    files = [f"{table}.json" for table in TABLES if Path(f"{table}.json").is_file()]
    if files and (code := standfast("migrate", *files, "--split-default", *options)):
        return code
    moved = bool(files)
    for table in TABLES:
        for name, text in (("fallback", old_table(table)), ("all_guilds", single_row(table))):
            if text is None:
                continue
            MADE.mkdir(parents=True, exist_ok=True)
            path = MADE / f"{name}_{table}.json"
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
            place = ("--collection", table, "--split-default")
            code = standfast("migrate", str(path), *place, *options)
            if args.dry_run:
                path.unlink()
            if code:
                return code
            moved = True
    if not moved:
        print(
            f"nothing to move: no {' or '.join(f'{table}.json' for table in TABLES)} here, no row"
            f" of all guilds in the database, nothing in {OLD_FILE}",
            file=sys.stderr,
        )
        return 2
    return 0


def old_table(table: str) -> str | None:
    """The documents of a table of the older SQLite file, which stays as it is; None without any."""
    if not os.environ.get("DATABASE_URL", "").startswith("postgres") or not OLD_FILE.is_file():
        return None
    return documents("export", table, "--to", f"sqlite:///{OLD_FILE}")


def single_row(table: str) -> str | None:
    """The row of all guilds, if there is one."""
    return documents("get", table, "default")


def documents(*command: str) -> str | None:
    """What a command prints, if that is an object of objects; None otherwise."""
    done = subprocess.run(
        [sys.executable, "-m", "standfast", *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    value = json.loads(done.stdout)
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        return done.stdout
    return None


def standfast(*arguments: str) -> int:
    """Show a command, and run it."""
    print(f"$ standfast {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "standfast", *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
