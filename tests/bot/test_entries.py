"""Entries of a waitlist: older forms are read, unknown members kept, and teams told apart."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast import ConfigError, CorruptData, DataError
from standfast.bot import entries as entries_module
from standfast.bot.entries import (
    DETAILS,
    MEMBER,
    REMOVED,
    UPDATED,
    Mark,
    WaitlistEntry,
    change_of,
    checked_details,
    read_entries,
    read_entry,
    with_entries,
)
from standfast.bot.promotion import suggest, team_key
from standfast.document.codec import decode, encode
from standfast.limits import MAX_ALT_IGNS, MAX_ENTRY_TEXT_CHARS

NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)

texts = st.text(max_size=8)
times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))]))
members = st.integers(0, 2**63)
unknown = st.dictionaries(
    st.sampled_from(["rank", "note", "change"]),
    st.sampled_from(["updated", "removed"]) | st.none() | st.integers() | texts,
    max_size=3,
)
made = st.builds(
    WaitlistEntry,
    discord_tag=texts,
    member_id=members,
    ign=texts,
    alt_igns=st.lists(texts, max_size=3).map(tuple),
    pronouns=st.none() | texts,
    team_name=st.none() | texts,
    added_at=st.none() | times,
    claim=st.none() | st.builds(Mark, texts, times),
    extra=unknown,
)


def in_store(value: Any) -> Any:
    """What comes back from a store."""
    return decode(encode(value))


def entry(member_id: int, **details: Any) -> WaitlistEntry:
    return WaitlistEntry(**{"discord_tag": "", "ign": "", "member_id": member_id} | details)


# ---- forms


@given(made)
def test_an_entry_comes_back(one: WaitlistEntry) -> None:
    """What is written is read again as the same entry, unknown members included."""
    assert read_entry(in_store(one.to_json())) == one


@given(
    st.fixed_dictionaries(
        {
            "discord_tag": st.none() | texts,
            "member_id": members | members.map(str),
            "ign": st.none() | texts,
            "alt_igns": st.none() | texts | st.lists(texts, max_size=3),
            "pronouns": st.none() | texts,
            "team_name": st.none() | texts,
            "added_at": st.none() | times.map(lambda time: time.replace(tzinfo=None).isoformat()),
        },
        optional={"rank": st.integers(), "claim": st.none() | texts},
    )
)
def test_older_forms_have_one_normal_form(stored: dict[str, Any]) -> None:
    """Whatever form an entry was stored in: written again, it is in the normal form, and that
    stays as it is."""
    one = read_entry(stored)
    normal = in_store(one.to_json())
    assert isinstance(normal["member_id"], int)
    assert isinstance(normal["alt_igns"], list)
    assert one.added_at is None or one.added_at.utcoffset() == timedelta()
    assert normal.get("rank") == stored.get("rank")
    assert in_store(read_entry(normal).to_json()) == normal


def test_the_forms_of_older_bots() -> None:
    """Names in one string with commas, null for none, times without a timezone, ids in quotes."""
    old = {
        "discord_tag": "kelp#1",
        "member_id": "81",
        "ign": "Kelp",
        "alt_igns": " Weed ,Alga,, ",
        "added_at": "2030-05-01T12:00:00",
        "rank": 3,
    }
    assert read_entry(old) == WaitlistEntry(
        discord_tag="kelp#1",
        member_id=81,
        ign="Kelp",
        alt_igns=("Weed", "Alga"),
        added_at=NOON,
        extra={"rank": 3},
    )
    assert read_entry(old | {"alt_igns": None}).alt_igns == ()


@pytest.mark.parametrize(
    ("stored", "place"),
    [
        ({MEMBER: {}}, "$.waitlist"),
        ({MEMBER: [7]}, "$.waitlist[0]"),
        ({MEMBER: [{"ign": "secret"}]}, "$.waitlist[0].member_id"),
        ({MEMBER: [{"member_id": 1}, {"member_id": True}]}, "$.waitlist[1].member_id"),
        ({MEMBER: [{"member_id": 1, "ign": 7}]}, "$.waitlist[0].ign"),
        ({MEMBER: [{"member_id": 1, "alt_igns": ["a", 7]}]}, "$.waitlist[0].alt_igns[1]"),
        ({MEMBER: [{"member_id": 1, "alt_igns": 7}]}, "$.waitlist[0].alt_igns"),
        ({MEMBER: [{"member_id": 1, "added_at": "secret"}]}, "$.waitlist[0].added_at"),
    ],
)
def test_what_is_no_entry_is_told_by_its_place(stored: dict[str, Any], place: str) -> None:
    """A list that cannot be read is an error that names the place, not its content."""
    with pytest.raises(CorruptData) as caught:
        read_entries(stored)
    assert caught.value.code == "bad_entry"
    assert f"at {place}, " in caught.value.message
    assert "secret" not in caught.value.message


def test_a_repr_shows_nobody() -> None:
    """What ends up in logs holds neither names nor ids."""
    shown = repr(entry(8138, ign="Kelp", discord_tag="kelp#1", team_name="Reef", pronouns="they"))
    for content in ("8138", "Kelp", "kelp", "Reef", "they"):
        assert content not in shown


# ---- the list


@given(st.lists(made, max_size=6, unique_by=lambda one: one.member_id), unknown)
def test_a_list_comes_back(listed: list[WaitlistEntry], others: dict[str, Any]) -> None:
    """The list is read as it was written, in order, and the document's other members stay."""
    document = in_store(with_entries(others, listed))
    assert read_entries(document) == listed
    assert {name: document[name] for name in others} == others


def test_no_list_is_an_empty_one() -> None:
    """A guild without a list, or with null for one, has nobody waiting."""
    assert read_entries({}) == read_entries({MEMBER: None}) == read_entries({MEMBER: []}) == []


words = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["add", UPDATED, REMOVED]), texts), max_size=10
)


@given(words)
def test_later_words_are_folded_in(said: list[tuple[int, str, str]]) -> None:
    """What was appended to a list means what it would have meant one by one: an added member gets
    the last place or keeps theirs, an update changes only who is there, and who is removed is
    gone, until added again."""
    stored: list[Any] = []
    expected: dict[int, tuple[str, datetime | None]] = {}
    for minute, (member, what, ign) in enumerate(said):
        added_at = NOON + timedelta(minutes=minute)
        one = entry(member, ign=ign, added_at=added_at)
        stored.append(one.to_json() if what == "add" else change_of(one, what))
        if what == REMOVED:
            expected.pop(member, None)
        elif what == "add" or member in expected:
            expected[member] = (ign, expected.get(member, ("", added_at))[1])
    found = read_entries(in_store({MEMBER: stored}))
    assert [one.member_id for one in found] == list(expected)
    assert {one.member_id: (one.ign, one.added_at) for one in found} == expected


@given(words)
def test_a_folded_list_means_the_same(said: list[tuple[int, str, str]]) -> None:
    """Writing a list folded changes nothing of what it says, and it is folded then."""
    stored = [
        entry(member, ign=ign).to_json()
        | ({} if what == "add" else change_of(entry(member, ign=ign), what))
        for member, what, ign in said
    ]
    found = read_entries({MEMBER: stored})
    again = with_entries({}, found)
    assert read_entries(again) == found
    assert len(again[MEMBER]) == len(found)


def test_a_later_word_keeps_the_claim() -> None:
    """Somebody with a claim who is updated or added again keeps it, and what is not known here."""
    mark = Mark("c", NOON)
    first = entry(1, ign="a", claim=mark, extra={"rank": 1, "note": 1})
    later = entry(1, ign="b", extra={"note": 2})
    for word in (later.to_json(), change_of(later, UPDATED)):
        (found,) = read_entries({MEMBER: [first.to_json(), word]})
        assert found == entry(1, ign="b", claim=mark, extra={"rank": 1, "note": 2})
    assert "claim" not in change_of(first, REMOVED)


def test_a_change_that_is_not_ours_is_an_unknown_member() -> None:
    """An entry whose member has the name of the mark, and another value, is an entry with it."""
    (found,) = read_entries({MEMBER: [{"member_id": 1, "standfast_change": ["x"]}]})
    assert found.to_json()["standfast_change"] == ["x"]


def test_another_programs_change_is_not_ours() -> None:
    """A member `change` of an app's own, whatever it says, removes nobody."""
    (found,) = read_entries({MEMBER: [{"member_id": 1, "change": "removed"}]})
    assert found.to_json()["change"] == "removed"


def test_a_claim_ends_at_its_time() -> None:
    """At `until` a claim has lapsed; it is still known whose it was."""
    one = entry(1, claim=Mark("c", NOON))
    assert one.is_claimed(NOON - timedelta(microseconds=1))
    assert not one.is_claimed(NOON)
    assert one.is_claim("c")
    assert not one.is_claim("d")
    assert not entry(1).is_claimed(NOON)
    for no_claim in (None, 7, {}, {"id": "c"}, {"id": 7, "until": "2030-05-01T12:00:00"}):
        assert read_entry({"member_id": 1, "claim": no_claim}).claim is None


# ---- what a caller gives


def test_details_are_normal() -> None:
    """Alternative names may be given as a list or as one string with commas; null is no text."""
    assert checked_details(alt_igns="a, b")["alt_igns"] == ("a", "b")
    assert checked_details(alt_igns=["a"])["alt_igns"] == ("a",)
    assert checked_details(alt_igns=None)["alt_igns"] == ()
    assert checked_details(pronouns=None, team_name=None) == {"pronouns": None, "team_name": None}
    assert set(checked_details(**dict.fromkeys(DETAILS, "x"))) == set(DETAILS)


@pytest.mark.parametrize(
    ("details", "code", "path"),
    [
        ({"ign": "x" * (MAX_ENTRY_TEXT_CHARS + 1)}, "too_long", "$.ign"),
        ({"alt_igns": ["x"] * (MAX_ALT_IGNS + 1)}, "too_long", "$.alt_igns"),
        ({"alt_igns": ["", "x" * 1000]}, "too_long", "$.alt_igns[1]"),
        ({"alt_igns": ["a", None]}, "wrong_type", "$.alt_igns[1]"),
        ({"alt_igns": 7}, "wrong_type", "$.alt_igns"),
        ({"ign": None}, "wrong_type", "$.ign"),
        ({"discord_tag": 7}, "wrong_type", "$.discord_tag"),
        ({"member_id": 7}, "unknown_field", "$.member_id"),
        ({"added_at": "now"}, "unknown_field", "$.added_at"),
    ],
)
def test_details_are_bounded(details: dict[str, Any], code: str, path: str) -> None:
    """I7: every text has a limit; what is over it is refused with its place, and not shown."""
    with pytest.raises(DataError) as caught:
        checked_details(**details)
    assert (caught.value.code, caught.value.path) == (code, path)
    assert "xx" not in caught.value.message
    assert caught.value.hint


def test_details_at_the_limit_pass() -> None:
    """The limits themselves are allowed."""
    longest = "x" * MAX_ENTRY_TEXT_CHARS
    assert checked_details(ign=longest, alt_igns=[longest] * MAX_ALT_IGNS)["ign"] == longest


# ---- teams


@given(st.text())
def test_a_normal_form_is_normal(name: str) -> None:
    """The normal form of a normal form is itself; case and blanks make no difference to it."""
    key = team_key(name)
    assert key is None or team_key(key) == key
    assert team_key(f"  {name}\t") == key
    assert team_key(name.casefold()) == key
    assert (key is None) == (not name.split())


def test_teams_that_are_the_same() -> None:
    """Upper and lower case, blanks around and the number of blanks inside do not count."""
    assert team_key(" Deep  SEA ") == team_key("deep sea") == "deep sea"
    assert team_key("Stra\u00dfe") == team_key("STRASSE")
    assert team_key(None) is team_key("  ") is None
    assert team_key("deepsea") != team_key("deep sea")


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("Deep Sae", ["Reef", "Deep  Sea"], "Deep Sea"),
        ("deep sea", ["Deep Sea", "Deep Seas"], None),
        ("Lagoon", ["Reef", "Deep Sea"], None),
        ("Reefs", ["REEF", "reef", "Reeff"], "REEF"),
        ("Tidal", ["Tidas", "Tidax"], "Tidas"),
        ("  ", ["a"], None),
        ("a", ["", None, " "], None),
        ("Reef", [], None),
    ],
)
def test_a_team_that_may_be_meant(name: str, known: list[str | None], found: str | None) -> None:
    """The most similar known team above the cut-off, as it was first written, the first of equals;
    never one that is the same already."""
    assert suggest(name, known) == found


@given(st.text(max_size=12), st.lists(st.none() | st.text(max_size=12), max_size=6))
def test_a_suggestion_is_another_known_team(name: str, known: list[str | None]) -> None:
    """What is suggested is known, and is not what was asked for."""
    found = suggest(name, known)
    if found is not None:
        assert team_key(found) in {team_key(one) for one in known}
        assert team_key(found) != team_key(name)


def test_without_rapidfuzz_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that is missing is named, whatever is asked; nothing else needs it."""
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    calls: list[Callable[[], Any]] = [lambda: suggest("a", ["b"]), lambda: suggest("", [])]
    for call in calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "missing_extra"
        assert "pip install 'standfast[bot]'" in caught.value.hint
    assert team_key("A") == "a"
    assert entries_module.read_entries({}) == []
