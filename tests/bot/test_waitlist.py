"""The waitlist of a guild, on both databases and through both APIs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from standfast import ConfigError, ConflictError, CorruptData, DataError
from standfast.bot import Environment
from standfast.bot import waitlist_calls as waiting
from support.bots import Home

GUILD = 8138
TEAMS = {"mode": "doubleup", "team_size": 2}


def add(bot: Any, *member_ids: int, **details: Any) -> Any:
    """Add members whose names are their ids."""
    placed = None
    for member_id in member_ids:
        told = {"discord_tag": f"tag-{member_id}", "ign": f"ign-{member_id}"} | details
        placed = bot.waitlist.add(GUILD, member_id=member_id, **told)
    return placed


def waiting_ids(bot: Any) -> list[int]:
    return [entry.member_id for entry in bot.waitlist.list(GUILD)]


def promote(bot: Any, capacity: int, registered: Any = None, **options: Any) -> Any:
    told = {} if registered is None else registered
    return bot.waitlist.promote(GUILD, capacity=capacity, registered=told, **options)


def ids(claims: Any) -> list[int]:
    return [claim.entry.member_id for claim in claims]


# ---- who waits


def test_people_wait_in_order(home: Home) -> None:
    """Who is added is the last; positions count from 1; ids are ints or decimal strings."""
    bot = home.bot()
    assert bot.waitlist.list(GUILD) == []
    assert bot.waitlist.length(GUILD) == 0
    first = bot.waitlist.add(
        *(GUILD,),
        member_id="1",
        discord_tag="kelp",
        ign="Kelp",
        alt_igns=["Alga"],
        pronouns="they/them",
        team_name="Reef",
    )
    assert (first.position, first.is_new) == (1, True)
    assert first.entry.added_at == home.clock.now
    assert add(bot, 2).position == 2
    assert bot.waitlist.length("8138") == 2
    assert waiting_ids(bot) == [1, 2]
    assert bot.waitlist.entry(GUILD, 1) == first.entry
    assert bot.waitlist.position(GUILD, "2") == 2
    assert bot.waitlist.position(GUILD, 3) is None
    assert bot.waitlist.entry(GUILD, 3) is None
    assert bot.waitlist.list(1) == []


def test_the_layout(home: Home) -> None:
    """The document is `{"waitlist": [...]}` in the collection `waitlist_data`, as bots have it."""
    bot = home.bot()
    bot.waitlist.add(GUILD, member_id=1, discord_tag="kelp", ign="Kelp")
    assert home.store("other")["waitlist_data"].get("8138") == {
        "waitlist": [
            {
                "discord_tag": "kelp",
                "member_id": 1,
                "ign": "Kelp",
                "alt_igns": [],
                "pronouns": None,
                "team_name": None,
                "added_at": "2030-05-01T12:00:00+00:00",
            }
        ]
    }


def test_who_is_there_is_updated_in_place(home: Home) -> None:
    """Adding somebody again gives new details, also a new tag; place and time are kept."""
    bot = home.bot()
    add(bot, 1, 2, 3)
    home.clock.advance(60)
    placed = add(bot, 2, discord_tag="new-tag", ign="new", team_name="Reef")
    assert (placed.position, placed.is_new) == (2, False)
    assert (placed.entry.discord_tag, placed.entry.team_name) == ("new-tag", "Reef")
    assert placed.entry.added_at == datetime(2030, 5, 1, 12, tzinfo=UTC)
    assert waiting_ids(bot) == [1, 2, 3]
    assert bot.waitlist.entry(GUILD, 2) == placed.entry
    assert bot.waitlist.find(GUILD, "tag-2") is None


def test_remove_update_clear(home: Home) -> None:
    """Removing tells who it was, updating changes only what is named, clearing counts."""
    bot = home.bot()
    add(bot, 1, 2, 3, team_name="Reef")
    removed = bot.waitlist.remove(GUILD, "2")
    assert removed.ign == "ign-2"
    assert bot.waitlist.remove(GUILD, 2) is None
    assert bot.waitlist.update(GUILD, 2, ign="x") is None
    updated = bot.waitlist.update(GUILD, 3, ign="x", alt_igns=["y"])
    assert (updated.ign, updated.alt_igns, updated.team_name) == ("x", ("y",), "Reef")
    assert bot.waitlist.entry(GUILD, 3) == updated
    with pytest.raises(DataError) as caught:
        bot.waitlist.update(GUILD, 3, added_at=None)
    assert caught.value.code == "unknown_field"
    assert waiting_ids(bot) == [1, 3]
    assert bot.waitlist.clear(GUILD) == 2
    assert bot.waitlist.clear(GUILD) == 0
    assert waiting_ids(bot) == []


def test_tags_may_be_shared(home: Home) -> None:
    """Of two with one tag the first is found; a tag written exactly so comes before another."""
    bot = home.bot()
    add(bot, 1, discord_tag="Kelp")
    add(bot, 2, 3, discord_tag="kelp")
    assert bot.waitlist.find(GUILD, "kelp").member_id == 2
    assert bot.waitlist.find(GUILD, "KELP ").member_id == 1
    assert bot.waitlist.find(GUILD, "weed") is None
    bot.waitlist.remove(GUILD, 2)
    assert bot.waitlist.find(GUILD, "kelp").member_id == 3


def test_older_documents(home: Home) -> None:
    """Older forms are read; what is not known here is kept by every write, and the entries that
    it writes are in the normal form."""
    store = home.store("other")
    old = {
        "waitlist": [
            {"discord_tag": "a", "member_id": "1", "ign": "A", "alt_igns": "x, y", "rank": 7},
            {"discord_tag": "b", "member_id": 2, "ign": "B", "added_at": "2020-01-02T03:04:05"},
        ],
        "note": "kept",
    }
    store["waitlist_data"].put("8138", old)
    bot = home.bot()
    assert waiting_ids(bot) == [1, 2]
    assert bot.waitlist.entry(GUILD, 1).alt_igns == ("x", "y")
    assert bot.waitlist.entry(GUILD, 2).added_at == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    bot.waitlist.update(GUILD, 2, ign="C")
    written = store["waitlist_data"].get("8138")
    assert written["note"] == "kept"
    assert written["waitlist"][0]["rank"] == 7
    assert written["waitlist"][0]["member_id"] == 1
    assert written["waitlist"][0]["alt_igns"] == ["x", "y"]
    assert written["waitlist"][1]["added_at"] == "2020-01-02T03:04:05+00:00"


@pytest.mark.parametrize("document", [{}, {"waitlist": None}, {"waitlist": [], "note": 1}])
def test_documents_without_anybody(home: Home, document: dict[str, Any]) -> None:
    """A guild's first entry goes into whatever document there is."""
    home.store("other")["waitlist_data"].put("8138", document)
    bot = home.bot()
    assert bot.waitlist.remove(GUILD, 1) is None
    assert promote(bot, 5) == []
    assert add(bot, 1).position == 1
    assert waiting_ids(bot) == [1]


def test_a_list_that_cannot_be_read(home: Home) -> None:
    """Nothing is written over a list that is not understood."""
    store, bot = home.store("other"), home.bot()
    for bad in ([], {"waitlist": {}}, {"waitlist": [{"member_id": "x"}]}):
        receipt = store["waitlist_data"].put("8138", bad)
        for call in (
            lambda: add(bot, 1),
            lambda: bot.waitlist.remove(GUILD, 1),
            lambda: bot.waitlist.list(GUILD),
            lambda: promote(bot, 5),
        ):
            with pytest.raises(CorruptData):
                call()
        assert store["waitlist_data"].read("8138").version == receipt.version


def test_a_list_is_bounded(embedded: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: beyond the limit nobody new is added; who is there may still be updated, or go."""
    monkeypatch.setattr(waiting, "MAX_WAITLIST_ENTRIES", 2)
    bot = embedded.bot()
    add(bot, 1, 2)
    with pytest.raises(DataError) as caught:
        add(bot, 3)
    assert caught.value.code == "waitlist_full"
    assert add(bot, 1, ign="new").entry.ign == "new"
    bot.waitlist.remove(GUILD, 1)
    assert add(bot, 3).position == 2


@pytest.mark.parametrize("bad", [-1, True, "x", "01", 1.5, None])
def test_bad_ids(embedded: Home, bad: Any) -> None:
    """What is no id is refused, and nothing is written."""
    bot = embedded.bot()
    add(bot, 1)
    for call in (
        lambda: add(bot, bad),
        lambda: bot.waitlist.remove(GUILD, bad),
        lambda: bot.waitlist.update(GUILD, bad, ign="x"),
        lambda: bot.waitlist.position(GUILD, bad),
        lambda: bot.waitlist.entry(GUILD, bad),
        lambda: promote(bot, 1, {bad: None}),
    ):
        with pytest.raises(DataError) as caught:
            call()
        assert caught.value.code == "bad_id"
    for call in (lambda: bot.waitlist.list(bad), lambda: bot.waitlist.clear(bad)):
        with pytest.raises(DataError) as caught:
            call()
        assert caught.value.code == "bad_guild"
    assert bot.waitlist.length(GUILD) == 1


def test_the_environment_guard(embedded: Home) -> None:
    """A process of another guild sees and writes nothing here."""
    add(embedded.bot(), 1)
    other = embedded.bot(environment=Environment("development", "7"))
    for call in (
        lambda: add(other, 2),
        lambda: other.waitlist.list(GUILD),
        lambda: other.waitlist.remove(GUILD, 1),
        lambda: promote(other, 5),
        lambda: other.waitlist.claimed(GUILD),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.code == "wrong_environment"
    assert waiting_ids(embedded.bot()) == [1]


def test_a_suggestion_of_a_team(home: Home) -> None:
    """Teams of those who wait and of those who are registered are suggested."""
    bot = home.bot()
    add(bot, 1, team_name="Deep Sea")
    suggest = bot.waitlist.suggest_team
    assert suggest(GUILD, "Dep Sea") == "Deep Sea"
    assert suggest(GUILD, "deep sea") is None
    assert suggest(GUILD, "Lagon") is None
    assert suggest(GUILD, "Lagon", registered=[None, "Lagoon"]) == "Lagoon"
    assert suggest(GUILD, "Lagon", registered={5: "Lagoon", 6: None}) == "Lagoon"


# ---- who is offered a place


def test_first_come_first_served(home: Home) -> None:
    """The first of the list are claimed for the free places: they are offered one, and do not
    wait meanwhile; the others move up."""
    bot = home.bot()
    add(bot, 1, 2, 3)
    claims = promote(bot, 5, {"90": "Reef", 91: None, 92: None})
    assert ids(claims) == [1, 2]
    assert {claim.guild_id for claim in claims} == {"8138"}
    assert claims[0].until == home.clock.now.replace(minute=1)
    assert len({claim.id for claim in claims}) == 2
    assert waiting_ids(bot) == [3]
    assert bot.waitlist.length(GUILD) == 1
    assert bot.waitlist.position(GUILD, 1) is None
    assert bot.waitlist.position(GUILD, 3) == 1
    assert bot.waitlist.entry(GUILD, 1).ign == "ign-1"
    assert ids(bot.waitlist.claimed(GUILD)) == [1, 2]
    assert bot.waitlist.claimed(GUILD) == claims
    placed = add(bot, 1, ign="new")
    assert (placed.position, placed.is_new, placed.entry.ign) == (None, False, "new")
    assert ids(bot.waitlist.claimed(GUILD)) == [1, 2]


def test_places_are_taken_once(home: Home) -> None:
    """Places that are offered are not offered again, until one is given back."""
    bot, other = home.bot(), home.bot("other")
    add(bot, 1, 2, 3)
    (first,) = promote(bot, 1)
    assert promote(other, 1) == []
    assert promote(bot, 1) == []
    assert bot.waitlist.release(first) is True
    assert bot.waitlist.release(first) is False
    assert waiting_ids(bot) == [1, 2, 3]
    (again,) = promote(other, 1)
    assert again.entry.member_id == 1
    assert again.id != first.id
    with pytest.raises(ConflictError) as caught:
        bot.waitlist.confirm(first)
    assert caught.value.code == "claim_lapsed"


def test_confirm_with_the_registration(home: Home) -> None:
    """What `also` writes is written together with the confirmation, or not at all."""
    bot, store = home.bot(), home.store("other")
    add(bot, 1, 2)
    (claim,) = promote(bot, 1)
    member = str(claim.entry.member_id)
    bot.waitlist.confirm(claim, also=lambda batch: batch.patch("regs", "8138", {member: "Reef"}))
    assert store["regs"].get("8138") == {"1": "Reef"}
    assert waiting_ids(bot) == [2]
    assert bot.waitlist.entry(GUILD, 1) is None
    with pytest.raises(ConflictError) as caught:
        bot.waitlist.confirm(claim, also=lambda batch: batch.patch("regs", "8138", {"1": "again"}))
    assert caught.value.code == "claim_lapsed"
    assert caught.value.hint
    assert store["regs"].get("8138") == {"1": "Reef"}


def test_a_condition_of_the_registration(home: Home) -> None:
    """A condition in `also` that does not hold is its caller's, and the claim stays."""
    bot, store = home.bot(), home.store("other")
    store["regs"].put("8138", {})
    add(bot, 1)
    (claim,) = promote(bot, 1)
    with pytest.raises(ConflictError) as caught:
        bot.waitlist.confirm(claim, also=lambda batch: batch.put("regs", 8138, {}, if_absent=True))
    assert caught.value.code == "conflict"
    assert ids(bot.waitlist.claimed(GUILD)) == [1]
    bot.waitlist.confirm(claim)


def test_a_crash_gives_the_entry_back(home: Home) -> None:
    """A claim that nobody confirms lapses: the entry waits in its place, and is claimed anew."""
    bot, other = home.bot(), home.bot("other")
    add(bot, 1, 2)
    (lost,) = promote(bot, 1, lease_s=30)
    home.clock.advance(29.9)
    assert promote(other, 1) == []
    home.clock.advance(0.1)
    assert waiting_ids(bot) == [1, 2]
    assert bot.waitlist.claimed(GUILD) == []
    (claim,) = promote(other, 1)
    assert claim.entry.member_id == 1
    with pytest.raises(ConflictError) as caught:
        bot.waitlist.confirm(lost)
    assert caught.value.code == "claim_lapsed"
    assert bot.waitlist.release(lost) is False
    other.waitlist.confirm(claim)
    assert waiting_ids(bot) == [2]


def test_a_lapsed_claim_that_nobody_took_is_confirmed(home: Home) -> None:
    """Late is not too late, as long as nothing has happened to the list's places."""
    bot = home.bot()
    add(bot, 1, 2)
    claim, late = promote(bot, 2)
    home.clock.advance(3600)
    add(bot, 3)
    bot.waitlist.update(GUILD, 1, ign="new")
    bot.waitlist.confirm(claim)
    assert bot.waitlist.release(late) is True
    assert waiting_ids(bot) == [2, 3]


def test_a_lapsed_claim_whose_place_was_given_away_is_void(home: Home) -> None:
    """Capacity: when a lapsed claim's place goes to somebody else, the claim cannot be confirmed,
    although its own entry has not been touched."""
    bot = home.bot()
    add(bot, 1)
    (late,) = promote(bot, 2, {90: "Reef"}, **TEAMS)
    home.clock.advance(3600)
    add(bot, 2, team_name="Reef")
    (claim,) = promote(bot, 2, {90: "Reef"}, **TEAMS)
    assert claim.entry.member_id == 2
    with pytest.raises(ConflictError):
        bot.waitlist.confirm(late)
    bot.waitlist.confirm(claim)
    assert waiting_ids(bot) == [1]


def test_who_leaves_frees_the_place(home: Home) -> None:
    """Removing somebody to whom a place is offered voids the claim; the place is free."""
    bot = home.bot()
    add(bot, 1, 2)
    (claim,) = promote(bot, 1)
    assert bot.waitlist.remove(GUILD, 1).member_id == 1
    with pytest.raises(ConflictError):
        bot.waitlist.confirm(claim)
    assert ids(promote(bot, 1)) == [2]
    add(bot, 1)
    assert waiting_ids(bot) == [1]


def test_who_is_registered_does_not_wait(home: Home) -> None:
    """Somebody who was registered by hand meanwhile is not claimed, and takes one place, with a
    claim or without."""
    bot = home.bot()
    add(bot, 1, 2, 3, 4)
    assert ids(promote(bot, 2, {1: None})) == [2]
    assert ids(promote(bot, 3, {"1": None, "2": None})) == [3]
    assert promote(bot, 3, {1: None, 2: None}) == []
    assert promote(bot, 3, {1: None, 2: None, 3: None}) == []
    assert ids(promote(bot, 4, {1: None, 2: None, 3: None})) == [4]


def test_teams_come_first(home: Home) -> None:
    """In a mode with teams: a pair, then who completes a team, then who has none; team names
    compare without case and blanks, and claims count as members of their team."""
    bot = home.bot()
    add(bot, 1)
    add(bot, 2, team_name="Lagoon")
    add(bot, 3, team_name="Deep  Sea")
    add(bot, 4, team_name="deep sea")
    add(bot, 5, team_name="REEF")
    add(bot, 6, team_name="deep Sea")
    registered = {90: "reef"}
    assert ids(promote(bot, 4, registered, **TEAMS)) == [3, 4, 5]
    assert promote(bot, 4, registered, **TEAMS) == []
    assert ids(promote(bot, 5, registered, **TEAMS)) == [1]
    assert ids(promote(bot, 8, registered, max_teams=2, **TEAMS)) == []
    assert ids(promote(bot, 8, registered, **TEAMS)) == [2]
    assert promote(bot, 8, registered, **TEAMS) == []


def test_the_mode_of_the_guild(home: Home) -> None:
    """Without `mode`, that of the guild decides."""
    bot = home.bot()
    add(bot, 1)
    add(bot, 2, 3, team_name="Reef")
    bot.modes.set(GUILD, "doubleup")
    (one, two) = promote(bot, 2)
    assert ids([one, two]) == [2, 3]
    bot.waitlist.release(one)
    bot.waitlist.release(two)
    bot.modes.set(GUILD, "normal")
    assert ids(promote(bot, 2)) == [1, 2]
    with pytest.raises(DataError) as caught:
        promote(bot, 2, mode="solo")
    assert caught.value.code == "unknown_mode"


def test_numbers_that_cannot_be(embedded: Home) -> None:
    """What cannot be a capacity, a size or a lease is refused, and nobody is claimed."""
    bot = embedded.bot()
    add(bot, 1)
    for bad in (
        {"capacity": -1},
        {"capacity": 2.0},
        {"capacity": True},
        {"capacity": 2, "team_size": 0},
        {"capacity": 2, "max_teams": -1},
        {"capacity": 2, "lease_s": 0},
        {"capacity": 2, "lease_s": float("nan")},
    ):
        with pytest.raises(DataError):
            bot.waitlist.promote(GUILD, **{"registered": {}} | bad)
    assert promote(bot, 0) == []
    assert bot.waitlist.claimed(GUILD) == []


@pytest.mark.parametrize(
    "registered", [None, [1], {1: 7}, {"x": None}, {1.5: None}, lambda: None, lambda: [1]]
)
def test_who_is_registered_must_be_told(embedded: Home, registered: Any) -> None:
    """An answer that does not tell who is registered is an error, not an empty tournament."""
    bot = embedded.bot()
    add(bot, 1)
    with pytest.raises(DataError):
        bot.waitlist.promote(GUILD, capacity=5, registered=registered)
    assert bot.waitlist.claimed(GUILD) == []


def test_registered_is_asked_anew_after_each_read(home: Home) -> None:
    """Capacity: between reading the list and writing the claims, another bot promotes, registers
    and confirms.  The claims fail, and who is registered is asked again: nobody gets a place that
    is taken, whichever of the two the answer was made before."""
    bot = home.bot()
    other = Home(home.url, home.root)
    meddler = other.bot("other", clock=home.clock)
    try:
        add(bot, 1, 2)
        registered: dict[int, None] = {}
        asked = 0

        def ask() -> Mapping[int, None]:
            nonlocal asked
            asked += 1
            answer = dict(registered)
            if asked == 1:
                (claim,) = meddler.waitlist.promote(GUILD, capacity=1, registered={})
                registered[claim.entry.member_id] = None
                meddler.waitlist.confirm(claim)
            return answer

        assert promote(bot, 1, ask) == []
        assert asked == 2
        assert waiting_ids(bot) == [2]
    finally:
        other.close()


def test_errors_of_the_application_are_its_own(home: Home) -> None:
    """What the function raises reaches the caller, also when it is one of ours."""
    bot = home.bot()
    add(bot, 1)
    for error in (ZeroDivisionError(), ConflictError("mine", code="mine")):

        def ask(error: Exception = error) -> Mapping[int, None]:
            raise error

        with pytest.raises(type(error)) as caught:
            promote(bot, 5, ask)
        assert caught.value is error
    assert bot.waitlist.claimed(GUILD) == []


def test_nobody_is_asked_when_nobody_waits(home: Home) -> None:
    """An empty list is the answer: nothing is asked, and nothing is written."""
    bot = home.bot()

    def ask() -> Mapping[int, None]:
        raise AssertionError("nobody waits")

    assert promote(bot, 5, ask) == []
    assert home.store("other")["waitlist_data"].get("8138") is None


def test_a_coroutine_function_is_awaited(home: Home) -> None:
    """In the asynchronous API `registered` may be a coroutine function; the other API refuses
    one, and says which API takes it."""
    bot = home.bot()
    add(bot, 1, 2)

    async def ask() -> Mapping[int, None]:
        return {90: None}

    if home.face == "awaited":
        assert ids(promote(bot, 2, ask)) == [1]
        return
    with pytest.raises(ConfigError) as caught:
        promote(bot, 2, ask)
    assert caught.value.code == "usage"
    assert "AsyncBotStore" in caught.value.hint


def test_a_repr_shows_nobody(embedded: Home) -> None:
    """Claims and places say nothing of people in their repr."""
    bot = embedded.bot()
    placed = add(bot, 4711, ign="Kelp", team_name="Reef")
    (claim,) = promote(bot, 5)
    for shown in (repr(placed), repr(claim), repr(bot.waitlist.claimed(GUILD))):
        for content in ("4711", "Kelp", "Reef", "tag-"):
            assert content not in shown
