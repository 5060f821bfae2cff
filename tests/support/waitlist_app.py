"""A bot that promotes: `python -m support.waitlist_app --url URL --data-dir D --face FACE`.

Each line of stdin is a `Round` as JSON, each line of stdout a `Played`.  With `halt` it stands
still after its first claims, between claim and registration, until it is killed.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from support.bots import Home

REGISTRATIONS = "registrations"


class Round(msgspec.Struct, kw_only=True):
    """One tournament: promote until nobody can be, and register who was."""

    guild: int
    capacity: int
    mode: str
    now: datetime
    together: bool
    """Register in the batch of the confirmation; else before it."""
    halt: bool = False


class Played(msgspec.Struct, kw_only=True):
    """Who was claimed, in order, and how often the list had moved before the claims were made."""

    claimed: list[int] = []
    retries: int = 0


class Player:
    """A bot of one API, that keeps its registrations in a document of each guild."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._bot: Any = home.bot()
        self._asked = 0

    def play(self, one: Round) -> Played:
        """Promote, register and confirm, until nobody is left who could be."""
        self._home.clock.now = one.now
        played = Played()
        while claims := self._promote(one, played):
            played.claimed += [claim.entry.member_id for claim in claims]
            if one.halt:
                say(played)
                sys.stdin.read()
            for claim in claims:
                self._register(claim, together=one.together)
        return played

    def _promote(self, one: Round, played: Played) -> Any:
        self._asked = 0
        claims = self._bot.waitlist.promote(
            one.guild,
            capacity=one.capacity,
            registered=self._asks(one.guild),
            mode=one.mode,
            lease_s=60,
        )
        played.retries += max(0, self._asked - 1)
        return claims

    def _asks(self, guild: int) -> Any:
        found = self._bot.store[REGISTRATIONS]

        def ask() -> dict[str, str]:
            self._asked += 1
            return found.get(guild, {})

        async def ask_async() -> dict[str, str]:
            self._asked += 1
            registered: dict[str, str] = await found.inner.get(guild, {})
            return registered

        return ask if self._home.face == "blocking" else ask_async

    def _register(self, claim: Any, *, together: bool) -> None:
        registration = {str(claim.entry.member_id): claim.entry.team_name or ""}
        if together:
            self._bot.waitlist.confirm(
                claim,
                also=lambda batch: batch.patch(REGISTRATIONS, claim.guild_id, registration),
            )
        else:
            self._bot.store[REGISTRATIONS].patch(claim.guild_id, registration)
            self._bot.waitlist.confirm(claim)


def say(played: Played) -> None:
    """Tell the test."""
    sys.stdout.buffer.write(msgspec.json.encode(played) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Play the rounds that are asked for, until the end of the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--face", choices=["blocking", "awaited"], required=True)
    told = parser.parse_args()
    home = Home(told.url, told.data_dir, face=told.face)
    player = Player(home)
    say(Played())
    for line in sys.stdin.buffer:
        say(player.play(msgspec.json.decode(line, type=Round)))
    home.close()


if __name__ == "__main__":
    main()
