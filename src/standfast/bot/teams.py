"""Names of teams: when two are the same, and which one somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable

from standfast.errors import ConfigError

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
