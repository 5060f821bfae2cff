"""Promotion: who is on the waitlist, who is registered, and so who is offered a place.

The rule of who comes next is in `selection`; here is what counts as a taken place.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from standfast.bot.entries import WaitlistEntry
from standfast.bot.ids import number_id
from standfast.bot.promotion import select
from standfast.bot.teams import team_key
from standfast.errors import ConfigError, DataError

Registered = Mapping[Any, str | None]
"""Who is registered: a member's id (an int or its decimal string), and the name of their team."""

Asking = Registered | Callable[[], Registered] | Callable[[], Awaitable[Registered]]
"""What `promote` is told of them: a mapping, or a function that is asked for one."""


class PromotionRules(NamedTuple):
    """How many places there are, and for whom."""

    capacity: int
    by_team: bool
    team_size: int
    max_teams: int


def checked_terms(
    capacity: object, *, by_team: bool, team_size: object, max_teams: object
) -> PromotionRules:
    """The terms of a promotion; DataError("bad_number") when a number cannot be what it is for.

    Without `max_teams`, as many teams as have room.
    """
    places = _number("capacity", capacity, least=0)
    size = _number("team_size", team_size, least=1)
    most = places // size if max_teams is None else _number("max_teams", max_teams, least=0)
    return PromotionRules(places, by_team, size, most)


def choose(
    entries: Sequence[WaitlistEntry],
    registered: Registered,
    *,
    terms: PromotionRules,
    now: datetime,
) -> list[int]:
    """The positions in `entries` of those who get a free place, in the order of choice.

    A place is taken by each member who is registered, and by each whose claim has not lapsed;
    whoever is both takes one.  Who is registered is not waiting, whatever the list says.
    """
    taken = {
        entry.member_id: team_key(entry.team_name) for entry in entries if entry.is_claimed(now)
    }
    taken |= _by_number(registered)
    waiting = [index for index, entry in enumerate(entries) if entry.member_id not in taken]
    chosen = select(
        [team_key(entries[index].team_name) for index in waiting],
        places=terms.capacity - len(taken),
        by_team=terms.by_team,
        team_size=terms.team_size,
        teams=Counter(team for team in taken.values() if team is not None),
        max_teams=terms.max_teams,
    )
    return [waiting[index] for index in chosen]


class Asked:
    """The answer of the application's function to who is registered, as a step of a call."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def _ask(self) -> Any:
        return self._asking() if callable(self._asking) else self._asking

    def wait(self, timeout_s: float) -> Registered:
        """Call it, in the caller's thread."""
        answer = self._ask()
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise ConfigError(
                "registered= is a coroutine function, and this store is the blocking one",
                code="usage",
                hint="give a plain function, or use AsyncBotStore",
            )
        return answer

    def __await__(self) -> Generator[Any, Any, Registered]:
        answer = self._ask()
        if inspect.isawaitable(answer):
            return (yield from cast("Awaitable[Registered]", answer).__await__())
        return answer


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
        f"registered= does not tell who is registered: {problem}",
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
