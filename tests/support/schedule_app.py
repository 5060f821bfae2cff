"""A bot that carries out what is due: `python -m support.schedule_app --url URL --data-dir D`.

Each line of stdin is a time: everything that is due then is claimed, and done unless the process is
to be killed in between (`--halt`).  Each line of stdout lists what was claimed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path

import msgspec

from support.bots import Home


def say(claimed: list[tuple[str, str]]) -> None:
    """Tell the test."""
    sys.stdout.buffer.write(msgspec.json.encode(claimed) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Claim and carry out, until the end of the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--face", choices=["blocking", "awaited"], required=True)
    parser.add_argument("--halt", action="store_true")
    told = parser.parse_args()
    home = Home(told.url, told.data_dir, face=told.face)
    bot = home.bot()
    say([])
    for line in sys.stdin:
        home.clock.now = datetime.fromisoformat(line.strip())
        claims = bot.schedules.claim_due(lease_s=60)
        if not told.halt:
            for claim in claims:
                assert bot.schedules.done(claim)
        say([(claim.guild_id, claim.due.name) for claim in claims])
    home.close()


if __name__ == "__main__":
    main()
