"""What happens in the demo: a bot writes, its database goes away and comes back, and is counted.

The checker does not trust the store: it reads the tables with a driver of its own and compares them
with what was acknowledged.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

import standfast

GUILDS = tuple(str(8_100_000_000_000_000 + guild) for guild in range(25))
#: The collections that the bot of the demo writes.
POINTS, SIGN_UPS, PROFILES = "demo_points", "demo_sign_ups", "demo_profiles"
_WRITERS = 4
#: Seconds between two writes of one writer: about as busy as a tournament night gets.
_PAUSE_S = 0.006
_DRAIN_LIMIT_S = 30.0


@dataclass(slots=True)
class Promised:
    """What one writer was promised: the sign-ups of each guild, and its last profile.

    `unknown` are sign-ups whose call raised an error, so that nothing was promised about them.
    """

    sign_ups: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    durable_on: Counter[str] = field(default_factory=Counter[str])
    unknown: set[str] = field(default_factory=set[str])
    games: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """The checker's result: acknowledged writes that are not there, and those that are there twice.

    `unknown` writes raised an error, so that nothing was promised about them.
    """

    acknowledged: int
    lost: int
    doubled: int
    unknown: int

    @property
    def is_clean(self) -> bool:
        """Whether everything that was promised is there, once."""
        return self.lost == 0 and self.doubled == 0


class Bot:
    """Writers on one store: each turn signs a team up, counts it and saves a profile, in one batch.

    Use it as a context manager; leaving it ends the writers and waits for them.
    """

    def __init__(self, store: standfast.Store) -> None:
        self._store, self._end = store, threading.Event()
        self.promised = [Promised() for _ in range(_WRITERS)]
        self._threads = [
            threading.Thread(target=self._write, args=(number,), name=f"demo-writer-{number}")
            for number in range(_WRITERS)
        ]

    def __enter__(self) -> Bot:
        for guild in GUILDS:
            self._store[SIGN_UPS].put(guild, [])
            self._store[POINTS].put(guild, 0)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    @property
    def durable_on(self) -> Counter[str]:
        """Acknowledged writes so far, by where they were durable then."""
        return sum((one.durable_on for one in self.promised), Counter[str]())

    def _write(self, number: int) -> None:
        chance, promised, turn = random.Random(number), self.promised[number], 0
        while not self._end.wait(_PAUSE_S):
            turn += 1
            guild, token = chance.choice(GUILDS), f"{number}-{turn}"
            try:
                with self._store.batch() as batch:
                    batch.append(SIGN_UPS, guild, "", token)
                    batch.increment(POINTS, guild, "", 1)
                    batch.put(PROFILES, number, {"name": f"Captain {number}", "games": turn})
            except standfast.StandfastError:
                promised.unknown.add(token)
            else:
                promised.sign_ups.setdefault(guild, set()).add(token)
                promised.games = turn
                promised.durable_on[batch.receipts[0].durable_on] += 1


def wait_until_drained(store: standfast.Store) -> bool:
    """Whether every acknowledged write reached the primary within half a minute."""
    end = time.monotonic() + _DRAIN_LIMIT_S
    while time.monotonic() < end:
        health = store.health()
        if health.state == "direct" and health.lag_ops == 0:
            return True
        time.sleep(0.05)
    return False


def count(url: str, promised: list[Promised]) -> Count:
    """Compare the tables with what was acknowledged."""
    lost = doubled = 0
    with psycopg.connect(url, connect_timeout=10) as connection:
        lists, points, profiles = (
            dict(_rows(connection, collection)) for collection in (SIGN_UPS, POINTS, PROFILES)
        )
    for guild in GUILDS:
        found = Counter[str](lists.get(guild, []))
        wanted = {token for one in promised for token in one.sign_ups.get(guild, ())}
        lost += len(wanted - set(found))
        doubled += found.total() - len(found)
        # Each sign-up was counted in the same batch: whatever differs is half of one.
        difference = points.get(guild, 0) - found.total()
        lost, doubled = lost + max(0, -difference), doubled + max(0, difference)
    for number, one in enumerate(promised):
        lost += profiles.get(str(number), {}).get("games", 0) < one.games
    return Count(
        acknowledged=sum(one.durable_on.total() for one in promised),
        lost=lost,
        doubled=doubled,
        unknown=sum(len(one.unknown) for one in promised),
    )


def _rows(connection: psycopg.Connection, collection: str) -> Iterator[tuple[str, Any]]:
    statement = sql.SQL("SELECT key, data FROM {}").format(sql.Identifier(collection))
    yield from connection.execute(statement)
