"""Who of a waitlist comes next: a pure function, the same for every bot that asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice


def select(
    waiting: Sequence[str | None],
    *,
    places: int,
    by_team: bool,
    team_size: int,
    teams: Mapping[str, int],
    max_teams: int,
) -> list[int]:
    """Choose who gets the free places; returns positions in `waiting`, in the order of choice.

    `waiting` holds, in order, the team of each who waits in its normal form (`teams.team_key`), or
    None; `teams` counts the members that each team has already.  Without `by_team`, first come,
    first served.  With it, as long as there are places:

    1. two places are free: the first pair of one team in which two spots are free, the first by the
       position of its earlier member;
    2. else the first with a team that has a free spot;
    3. else the first without a team.

    A team that has no members yet is a new one, and needs that there are fewer than `max_teams`.
    No team gets above `team_size`.  When places are left in the end, nobody of those who still wait
    could have had one.  Deterministic, in linear time.
    """
    if not by_team:
        return list(range(max(0, min(places, len(waiting)))))
    return _ByTeam(waiting, team_size, teams, max_teams).choose(places)


class _ByTeam:
    """The choice by team.

    Who was passed over stays passed over: spots and teams only become fewer, and a team that could
    not be opened is never opened by somebody else.  So each of the three searches goes over the
    list once, and goes on where it stopped.  Whoever is taken of a team is its first who waits,
    since the same holds for all of its members.
    """

    def __init__(
        self,
        waiting: Sequence[str | None],
        team_size: int,
        teams: Mapping[str, int],
        max_teams: int,
    ) -> None:
        self._waiting = waiting
        self._taken = [False] * len(waiting)
        self._queues: dict[str, deque[int]] = {}
        for index, team in enumerate(waiting):
            if team is not None:
                self._queues.setdefault(team, deque()).append(index)
        self._size = team_size
        self._members = {team: count for team, count in teams.items() if count > 0}
        self._new_teams = max_teams - len(self._members)
        self._pairs = self._singles = self._solos = 0

    def choose(self, places: int) -> list[int]:
        """Everybody who gets a place, in the order of choice."""
        chosen: list[int] = []
        while len(chosen) < places:
            found = self._pair() if places - len(chosen) >= 2 else []
            found = found or self._single() or self._solo()
            if not found:
                break
            for index in found:
                self._take(index)
            chosen += found
        return chosen

    def _pair(self) -> list[int]:
        self._pairs = self._first(self._pairs, self._pairs_up)
        team = self._waiting[self._pairs] if self._pairs < len(self._waiting) else None
        return [] if team is None else list(islice(self._queues[team], 2))

    def _single(self) -> list[int]:
        self._singles = self._first(self._singles, self._has_spot)
        return [self._singles] if self._singles < len(self._waiting) else []

    def _solo(self) -> list[int]:
        self._solos = self._first(self._solos, lambda team: team is None)
        return [self._solos] if self._solos < len(self._waiting) else []

    def _first(self, start: int, test: Callable[[str | None], bool]) -> int:
        """The first from there on who waits still and passes; the end when there is none."""
        for index in range(start, len(self._waiting)):
            if not self._taken[index] and test(self._waiting[index]):
                return index
        return len(self._waiting)

    def _pairs_up(self, team: str | None) -> bool:
        return team is not None and len(self._queues[team]) >= 2 and self._spots(team) >= 2

    def _has_spot(self, team: str | None) -> bool:
        return team is not None and self._spots(team) >= 1

    def _spots(self, team: str) -> int:
        if team not in self._members and self._new_teams <= 0:
            return 0
        return self._size - self._members.get(team, 0)

    def _take(self, index: int) -> None:
        self._taken[index] = True
        team = self._waiting[index]
        if team is not None:
            self._queues[team].popleft()
            self._new_teams -= team not in self._members
            self._members[team] = self._members.get(team, 0) + 1
