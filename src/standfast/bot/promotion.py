"""Promotion: who of a waitlist is offered a place that is free, by the same rules for every bot.

A place is taken by whoever is registered and by whoever holds a claim (`choose`); who comes next is
a pure rule over the teams of those who wait (`select`).
"""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

from standfast.bot.entries import WaitlistEntry
from standfast.bot.fields import number_id
from standfast.errors import ConfigError, DataError

Registered = Mapping[Any, str | None]
"""Who is registered: a member's id (an int or its decimal string), and the name of their team."""

Asking = Registered | Callable[[], Registered] | Callable[[], Awaitable[Registered]]
"""What `promote` accepts: a mapping, or a function that returns one."""


class Registration(Protocol):
    """Who is registered, where the bot keeps it: a spreadsheet, a service, tables of its own.

    Each method may be a coroutine function where the waitlist is awaited.  `guild` is what the
    caller of the waitlist has given.
    """

    def capacity(self, guild: Any, /) -> int | Awaitable[int]:
        """How many may be registered."""
        ...

    def registered(self, guild: Any, /) -> Any:
        """Who is: ids or tags, or a mapping of these to teams; or only how many."""
        ...

    def teams(self, guild: Any, /) -> Any:
        """How many members each team has: a mapping of names to numbers, or a name a member."""
        ...

    def register(self, guild: Any, entry: WaitlistEntry, /) -> Any:
        """Register a member.  Raising, or returning False, means that it did not: they keep their
        place."""
        ...


class Taken(NamedTuple):
    """The places that are taken: how many, by whom (ids, and tags in small letters), and teams."""

    places: int
    members: frozenset[int | str]
    teams: Mapping[str, int]

    def has(self, entry: WaitlistEntry) -> bool:
        """Whether a member on the waitlist is registered already."""
        return entry.member_id in self.members or entry.discord_tag.casefold() in self.members


class PromotionRules(NamedTuple):
    """How many places there are, and for whom."""

    capacity: int
    by_team: bool
    team_size: int
    max_teams: int


def checked_rules(
    capacity: object, *, by_team: bool, team_size: object, max_teams: object
) -> PromotionRules:
    """The rules of a promotion; DataError("bad_number") when a number cannot be what it is for.

    Without `max_teams`, as many teams as have room.
    """
    places = _number("capacity", capacity, least=0)
    size = _number("team_size", team_size, least=1)
    most = places // size if max_teams is None else _number("max_teams", max_teams, least=0)
    return PromotionRules(places, by_team, size, most)


def choose(
    entries: Sequence[WaitlistEntry], taken: Taken, *, rules: PromotionRules, now: datetime
) -> list[int]:
    """The positions in `entries` of those who get a free place, in the order of choice.

    A place is taken by each member who is registered, and by each whose claim has not lapsed;
    whoever is both takes one.  Who is registered is not waiting, whatever the list says.
    """
    others = [entry for entry in entries if not taken.has(entry)]
    claimed = [entry for entry in others if entry.is_claimed(now)]
    teams = Counter(taken.teams)
    teams.update(team for entry in claimed if (team := team_key(entry.team_name)) is not None)
    waiting = [
        index
        for index, entry in enumerate(entries)
        if not entry.is_claimed(now) and not taken.has(entry)
    ]
    chosen = select(
        [team_key(entries[index].team_name) for index in waiting],
        places=rules.capacity - taken.places - len(claimed),
        by_team=rules.by_team,
        team_size=rules.team_size,
        teams=teams,
        max_teams=rules.max_teams,
    )
    return [waiting[index] for index in chosen]


async def answered(asked: Any, *, may_await: bool, what: str) -> Any:
    """The answer of a function of the application, which may be a coroutine where one awaits."""
    if not inspect.isawaitable(asked):
        return asked
    if may_await:
        return await asked
    if inspect.iscoroutine(asked):
        asked.close()
    raise ConfigError(
        f"{what} is a coroutine function, and this store is the synchronous one",
        code="usage",
        hint="give a plain function, or use AsyncBotStore",
    )


async def ask(asking: Asking, *, may_await: bool) -> Taken:
    """Who is registered, as the application says; a function is called in the caller's thread."""
    asked: Any = asking() if callable(asking) else asking
    teams = _by_number(await answered(asked, may_await=may_await, what="registered="))
    counts = Counter(team for team in teams.values() if team is not None)
    return Taken(len(teams), frozenset(teams), counts)


def taken_of(registered: object, teams: object) -> Taken:
    """The places that are taken, as a `Registration` says.  DataError("bad_registered")."""
    if isinstance(registered, int) and not isinstance(registered, bool):
        if registered < 0:
            raise _bad_registered("it is a negative number")
        return Taken(registered, frozenset(), _counted(teams))
    if not isinstance(registered, Iterable) or isinstance(registered, str):
        raise _bad_registered(f"it is {type(registered).__name__}, not a number or a collection")
    everybody = list(cast("Iterable[object]", registered))
    return Taken(len(everybody), frozenset(map(_who, everybody)), _counted(teams))


def _who(member: object) -> int | str:
    if isinstance(member, str) and not member.isdecimal():
        return member.strip().casefold()
    return number_id(member, "member")


def _counted(teams: object) -> Counter[str]:
    """How many members each team has, by its normal form."""
    counts: Counter[str] = Counter()
    if isinstance(teams, Mapping):
        pairs = list(cast("Mapping[Any, Any]", teams).items())
    elif isinstance(teams, Iterable) and not isinstance(teams, str):
        pairs = [(team, 1) for team in cast("Iterable[Any]", teams)]
    else:
        pairs = [] if teams is None else [(teams, 0)]
    for team, count in pairs:
        if not isinstance(team, str | None) or not isinstance(count, int):
            raise _bad_registered("the teams are not names with the number of their members")
        if (key := team_key(team)) is not None:
            counts[key] += count
    return counts


def _by_number(registered: object) -> dict[int, str | None]:
    if not isinstance(registered, Mapping):
        raise _bad_registered(f"it is {type(registered).__name__}, not a mapping")
    teams: dict[int, str | None] = {}
    for member, team in cast("Mapping[Any, Any]", registered).items():
        if team is not None and not isinstance(team, str):
            raise _bad_registered(f"the name of a team is {type(team).__name__}")
        teams[number_id(member, "member")] = team_key(team)
    return teams


def _bad_registered(problem: str) -> DataError:
    return DataError(
        f"registered= is not a mapping of members to teams: {problem}",
        code="bad_registered",
        hint="give {member_id: team_name or None}, or a function that returns that",
    )


def _number(name: str, value: object, *, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise DataError(
        f"{name} is not a whole number from {least} on",
        code="bad_number",
        hint="nothing was written",
    )


# ---- names of teams


#: How alike two names must be for a suggestion, of 100.
SUGGEST_CUTOFF = 80.0


def team_key(name: str | None) -> str | None:
    """The normal form of a team's name, by which names compare; None when there is no name.

    Upper and lower case, blanks around it and the number of blanks inside make no difference.
    """
    return None if name is None else " ".join(name.split()).casefold() or None


def suggest(name: str, known: Iterable[str | None]) -> str | None:
    """The known team whose name is most like this one, as it was first written, or None.

    None too when the team itself is known: nothing has to be suggested then.  Likeness is the
    normalised indel similarity of the normal forms, with a cut-off of 80 of 100; of equally alike
    names the first one is taken.  ConfigError("missing_extra") without the package rapidfuzz.
    """
    try:
        from rapidfuzz import fuzz, process
    except ImportError as error:
        raise ConfigError(
            "team names cannot be compared: the package rapidfuzz is not installed",
            code="missing_extra",
            hint="pip install 'standfast[bot]'",
        ) from error
    wanted = team_key(name)
    if wanted is None:
        return None
    spelled: dict[str, str] = {}
    for team in known:
        key = team_key(team)
        if team is not None and key is not None:
            spelled.setdefault(key, team)
    if not spelled or wanted in spelled:
        return None
    found = process.extractOne(
        wanted, list(spelled), scorer=fuzz.ratio, score_cutoff=SUGGEST_CUTOFF
    )
    return None if found is None else " ".join(spelled[found[0]].split())


# ---- who comes next


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
    No team gets above `team_size`.  When places are left in the end, none of the remaining entries
    could have had one.  Deterministic, in linear time.
    """
    if not by_team:
        return list(range(max(0, min(places, len(waiting)))))
    return _ByTeam(waiting, team_size, teams, max_teams).choose(places)


class _ByTeam:
    """The choice by team.

    Who was passed over stays passed over: spots and teams only become fewer, and a team that could
    not be opened is never opened by another entry.  So each of the three searches goes over the
    list once, and continues where it stopped.  Whoever is taken of a team is its first who waits,
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
