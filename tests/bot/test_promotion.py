"""Who of a waitlist is chosen: the three priorities and the limits, as properties."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.bot.promotion import select

NAMES = ["a", "b", "c", "d", "e"]


@dataclass(frozen=True)
class Case:
    waiting: list[str | None]
    places: int
    team_size: int = 2
    teams: dict[str, int] = field(default_factory=dict[str, int])
    max_teams: int = 4

    def chosen(self, *, by_team: bool = True) -> list[int]:
        return select(
            self.waiting,
            places=self.places,
            by_team=by_team,
            team_size=self.team_size,
            teams=self.teams,
            max_teams=self.max_teams,
        )


teams = st.sampled_from([None, *NAMES[:2], *NAMES])
cases = st.builds(
    Case,
    waiting=st.lists(teams, min_size=2, max_size=12) | st.lists(teams, max_size=2),
    places=st.integers(0, 3) | st.integers(-1, 12),
    team_size=st.sampled_from([2, 2, 1, 3, 4]),
    teams=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=5),
    max_teams=st.integers(0, 6),
)


class State:
    """What is known before one choice: kept by counting anew, without the code's shortcuts."""

    def __init__(self, case: Case, taken: list[int]) -> None:
        self.case = case
        self.places = case.places - len(taken)
        self.waiting = [i for i in range(len(case.waiting)) if i not in taken]
        self.members = Counter(case.teams) + Counter(
            team for i in taken if (team := case.waiting[i]) is not None
        )

    def spots(self, team: str) -> int:
        """Free spots of a team; none when it is new and no team is left."""
        existing = [name for name, count in self.members.items() if count > 0]
        if team not in existing and len(existing) >= self.case.max_teams:
            return 0
        return max(0, self.case.team_size - self.members[team])

    def pairs(self) -> list[tuple[int, int]]:
        """Every two who could take places together."""
        case = self.case
        return [
            (i, j)
            for i in self.waiting
            for j in self.waiting
            if i < j
            and self.places >= 2
            and (team := case.waiting[i]) is not None
            and team == case.waiting[j]
            and self.spots(team) >= 2
        ]

    def singles(self) -> list[int]:
        return [
            i
            for i in self.waiting
            if self.places >= 1
            and (team := self.case.waiting[i]) is not None
            and self.spots(team) >= 1
        ]

    def solos(self) -> list[int]:
        return [i for i in self.waiting if self.places >= 1 and self.case.waiting[i] is None]


def oracle(case: Case) -> list[int]:
    """The rule as it is written down, tried out by brute force."""
    taken: list[int] = []
    while True:
        state = State(case, taken)
        if pairs := state.pairs():
            taken += min(pairs)
        elif singles := state.singles():
            taken.append(min(singles))
        elif solos := state.solos():
            taken.append(min(solos))
        else:
            return taken


@given(cases)
def test_it_is_the_rule(case: Case) -> None:
    """By team: pairs before singles before solos, each the first by position, tried one by one."""
    assert case.chosen() == oracle(case)


@given(cases)
def test_normal_mode_is_first_come_first_served(case: Case) -> None:
    """Without teams, the chosen are the first of the list, whatever their teams."""
    chosen = case.chosen(by_team=False)
    assert chosen == list(range(len(case.waiting)))[: max(0, case.places)]


@given(cases, st.booleans())
def test_limits_hold(case: Case, by_team: bool) -> None:
    """Never more than the places, nobody twice, nobody who does not wait."""
    chosen = case.chosen(by_team=by_team)
    assert len(chosen) <= max(0, case.places)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(range(len(case.waiting)))


@given(cases)
def test_no_team_is_overfilled(case: Case) -> None:
    """No team that got somebody is above its size, and no new one is opened beyond the maximum."""
    added = Counter(team for i in case.chosen() if (team := case.waiting[i]) is not None)
    before = {team for team, count in case.teams.items() if count > 0}
    for team in added:
        assert case.teams.get(team, 0) + added[team] <= case.team_size
    opened = set(added) - before
    assert not opened or len(before) + len(opened) <= case.max_teams


@given(cases)
def test_nobody_eligible_waits_beside_a_free_place(case: Case) -> None:
    """When places are left at the end, nobody who waits could have one."""
    state = State(case, case.chosen())
    assert not state.pairs()
    assert not state.singles()
    assert not state.solos()


@given(cases)
def test_a_pair_goes_first(case: Case) -> None:
    """While two places are free and a pair of one team fits, the next two are such a pair."""
    chosen = case.chosen()
    index = 0
    while index < len(chosen):
        pairs = State(case, chosen[:index]).pairs()
        if pairs:
            assert (chosen[index], chosen[index + 1]) in pairs
        index += 2 if pairs else 1


@given(cases)
def test_no_solo_before_somebody_with_a_team(case: Case) -> None:
    """Nobody without a team is chosen while somebody could complete or open a team."""
    chosen = case.chosen()
    for index, who in enumerate(chosen):
        if case.waiting[who] is None:
            state = State(case, chosen[:index])
            assert not state.pairs()
            assert not state.singles()


@given(cases)
def test_of_equals_the_first_goes_first(case: Case) -> None:
    """Members of one team, and those without one, are chosen in the order in which they wait."""
    chosen = case.chosen()
    for team in [None, *NAMES]:
        of_team = [i for i in chosen if case.waiting[i] == team]
        assert of_team == [i for i, name in enumerate(case.waiting) if name == team][: len(of_team)]


@given(cases, st.booleans())
def test_the_choice_is_a_function(case: Case, by_team: bool) -> None:
    """The same question has the same answer, in whatever order the teams are counted, and nothing
    that was given is changed."""
    again = Case(
        list(case.waiting),
        case.places,
        case.team_size,
        dict(reversed(case.teams.items())),
        case.max_teams,
    )
    assert case.chosen(by_team=by_team) == again.chosen(by_team=by_team)
    assert list(case.teams) == list(reversed(again.teams))


@pytest.mark.parametrize(
    ("what", "options", "chosen"),
    [
        ("a pair before the first", {"waiting": [None, "a", "b", "a"], "places": 2}, [1, 3]),
        ("one place: no pair", {"waiting": [None, "a", "b", "a"], "places": 1}, [1]),
        (
            "completes a team that is there, with no team left",
            {"waiting": ["a", "a", "b"], "places": 2, "teams": {"b": 1}, "max_teams": 1},
            [2],
        ),
        (
            "a full team is passed over",
            {"waiting": ["a", None], "places": 2, "teams": {"a": 2}},
            [1],
        ),
        (
            "a team of nobody counts as new",
            {"waiting": ["a", "a"], "places": 2, "teams": {"a": 0, "b": 1}, "max_teams": 1},
            [],
        ),
        (
            "larger teams take pairs as long as two spots are free",
            {"waiting": ["a", "a", "a", "a", "b"], "places": 9, "team_size": 3},
            [0, 1, 2, 4],
        ),
        ("nobody waits", {"waiting": [], "places": 3}, []),
        ("more registered than there are places", {"waiting": ["a", "a"], "places": -3}, []),
    ],
)
def test_examples(what: str, options: dict[str, Any], chosen: list[int]) -> None:
    """The rule in cases that a person can check."""
    assert Case(**options).chosen() == chosen, what


@pytest.mark.parametrize("mates", [1, 2, 5000])
def test_long_lists_are_no_matter(mates: int) -> None:
    """A list at its limit is gone through once: each place of it is looked at a few times only."""
    count = 10_000
    waiting = Counting(f"t{n % (count // mates)}" for n in range(count))
    select(waiting, places=count, by_team=True, team_size=3, teams={}, max_teams=count)
    assert waiting.looks <= 10 * count


class Counting(list[str | None]):
    """A list that counts how often somebody looks at an element."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)
