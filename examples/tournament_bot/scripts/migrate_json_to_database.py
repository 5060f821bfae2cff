"""Move the bot's JSON files into its database: `persisted_views.json` and `waitlist_data.json`.

    python scripts/migrate_json_to_database.py --dry-run     # what would happen
    python scripts/migrate_json_to_database.py --yes         # plan, backup, load, verify, clean up
    python scripts/migrate_json_to_database.py --rollback RUN

`DATABASE_URL` names the database.  The older layout, one row `default` for all guilds, is split
into one row for each guild.  The exit codes are those of `standfast migrate`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FILES = ("persisted_views.json", "waitlist_data.json")


def main() -> int:
    """Run the migration, or take one back; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="show what would happen")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--rollback", metavar="RUN", help="take back a run (see `standfast runs`)")
    args = parser.parse_args()
    if args.rollback:
        return standfast("rollback", args.rollback)
    files = [name for name in FILES if Path(name).is_file()]
    if not files:
        print(f"nothing to move: neither of {', '.join(FILES)} is here", file=sys.stderr)
        return 2
    options = [flag for flag, on in (("--dry-run", args.dry_run), ("--yes", args.yes)) if on]
    return standfast("migrate", *files, "--split-default", *options)


def standfast(*arguments: str) -> int:
    """Show a command, and run it."""
    print(f"$ standfast {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "standfast", *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
