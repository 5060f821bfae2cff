"""What the first bot needs of the library itself: the guard, the row of all guilds, a registration
of the bot's own, messages known by name, and schedules that survive errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from standfast import ConfigError, DataError, StandfastError
from standfast.bot import BotStore, Environment, LoadedGuilds, WaitlistEntry
from support.bots import Home

DEV = Environment("development", "1")
ROW = {"1": {"event_mode": "doubleup"}, "2": {"registration": [3, 4]}}


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(StandfastError) as caught:
        call()
    return caught.value.code


# ---- the guard below every way


def test_every_way_through_a_guarded_store_stops_at_its_guild(home: Home) -> None:
    """B2: reads of others are refused, listings leave them out, no write of any kind reaches them;
    whichever collection, call or batch it is."""
    store = home.store("other")
    for name in ("persisted_views", "own"):
        store[name].put_many({"1": {"a": 1}, "12": {"a": 1}, "2": {"a": 1}})
    bot = home.bot(environment=DEV)
    for name in ("persisted_views", "own"):
        mine = bot.store[name]
        assert mine.get("1") == {"a": 1}
        assert mine.count() == 1
        if home.face == "blocking":
            assert list(mine.keys()) == ["1"]
            assert dict(mine.items()) == {"1": {"a": 1}}
            assert [one.key for one in mine.find({"a": 1})] == ["1"]
        mine.put("1", {"a": 2})
        for call in (
            lambda mine=mine: mine.get("2"),
            lambda mine=mine: mine.read("12"),
            lambda mine=mine: mine.get_many(["1", "2"]),
            lambda mine=mine: mine.put("2", {}),
            lambda mine=mine: mine.patch("2", {"a": 3}),
            lambda mine=mine: mine.append("2", "/x", 1),
            lambda mine=mine: mine.increment("2", "/a"),
            lambda mine=mine: mine.update("2", lambda value: value),
            lambda mine=mine: mine.put_many({"1": {}, "2": {}}),
            lambda mine=mine: mine.delete("2"),
            lambda mine=mine: mine.pop("2"),
            lambda mine=mine: mine.get_or_create("3", {}),
            lambda mine=mine: mine.exists("2"),
            lambda mine=mine: mine.put_if_absent("3", {}),
            lambda mine=mine: mine.set("2", "/a", 3),
            lambda mine=mine: mine.remove("2", "/a"),
            lambda mine=mine: mine.touch("2", 60),
            lambda mine=mine: mine.delete_many(["1", "2"]),
        ):
            assert code(call) == "wrong_environment"
        assert store[name].get("1") == {"a": 2}
        assert store[name].get("2") == store[name].get("12") == {"a": 1}
    if home.face == "blocking":

        def batched() -> None:
            with bot.store.batch() as batch:
                batch.put("own", "1", {"a": 9})
                batch.delete("own", "2")

        assert code(batched) == "wrong_environment"
        assert store["own"].get("1") == {"a": 2}


def test_a_store_of_another_environment_takes_no_write(home: Home) -> None:
    """The name of the store is looked at below every write through `bot.store` too."""
    home.bot(environment=Environment("production")).store["own"].put("1", {})
    other = home.bot(environment=Environment("staging"))
    assert other.store["own"].get("1") == {}
    assert code(lambda: other.store["own"].put("1", {"a": 1})) == "wrong_environment"
    assert home.store()["own"].get("1") == {}


# ---- the row of all guilds


def test_the_row_of_all_guilds_is_read_and_written_in_place(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B5: every part of a bot's state finds and leaves the guilds in it, with one warning that
    names the command; a guild with a row of its own is not looked for there."""
    from standfast.bot.guilds import Guilds

    monkeypatch.setattr(Guilds, "noticed", set())
    store = home.store("other")
    store["persisted_views"].put("default", ROW)
    store["persisted_views"].put("3", {"event_mode": "doubleup"})
    entry = {"discord_tag": "a", "member_id": 7, "ign": "A"}
    store["waitlist_data"].put("default", {"1": {"waitlist": [entry]}})
    bot = home.bot()
    assert [bot.modes.get(guild) for guild in (1, 2, 3, 4)] == [
        *("doubleup", "normal", "doubleup", "normal")
    ]
    bot.messages.set(1, "checkin", 5, 6)
    bot.modes.set(4, "doubleup")
    bot.schedules.set(2, "open", home.clock())
    (claim,) = bot.schedules.claim_due()
    assert bot.schedules.done(claim)
    assert bot.guilds.ids() == ["1", "2", "3", "4"]
    assert bot.waitlist.add(1, member_id=8, discord_tag="b", ign="B").position == 2
    assert bot.waitlist.remove(1, 7) is not None
    assert bot.waitlist.length(1) == 1
    assert store["persisted_views"].get("default") == {
        "1": {"event_mode": "doubleup", "checkin": [5, 6]},
        "2": {"registration": [3, 4]},
        "4": {"event_mode": "doubleup"},
    }
    assert store["persisted_views"].get("1") is None
    assert len(store["waitlist_data"].get("default")["1"]["waitlist"]) == 1
    assert bot.guilds.forget(1) == 2
    assert "1" not in store["persisted_views"].get("default")
    assert bot.guilds.cleanup([3], older_than_days=0) == ["2", "4"]
    assert store["persisted_views"].get("default") == {}
    warnings = [one.getMessage() for one in caplog.records if "for all guilds" in one.message]
    assert len(warnings) == 2
    assert all("--split-default" in text for text in warnings)


@pytest.mark.parametrize("stray", [{"version": 2}, {"_meta": None}, {"2": None}, {"2": []}])
def test_a_stray_member_hides_no_guild(shared: Home, stray: dict[str, Any]) -> None:
    """B5: whatever else is in the row of all guilds, these are read and written in it."""
    store = shared.store("other")
    entry = {"discord_tag": "a", "member_id": 7, "ign": "A"}
    store["waitlist_data"].put("default", {"1": {"waitlist": [entry]}, **stray})
    bot = shared.bot()
    assert tags(bot.waitlist.list(1)) == ["a"]
    bot.waitlist.add(1, member_id=8, discord_tag="b", ign="B")
    assert list(store["waitlist_data"].keys()) == ["default"]
    row = store["waitlist_data"].get("default")
    assert [one["discord_tag"] for one in row["1"]["waitlist"]] == ["a", "b"]
    assert {key: row[key] for key in stray} == stray


def test_a_guild_called_default_is_not_that_row(shared: Home) -> None:
    """A document `default` without a guild in it is a document like others."""
    store = shared.store("other")
    store["persisted_views"].put("default", {"event_mode": "doubleup", "roles": {"a": 1}})
    documents = shared.bot().documents("persisted_views")
    assert documents.get("default")["roles"] == {"a": 1}
    assert list(documents.load()) == ["default"]
    documents.put("1", {"a": 1})
    assert store["persisted_views"].get("1") == {"a": 1}


def test_what_is_split_meanwhile_is_written_to_its_own_row(embedded: Home) -> None:
    """A bot that has read the row of all guilds writes where its guild is now."""
    store, bot = embedded.store("other"), embedded.bot()
    store["persisted_views"].put("default", ROW)
    documents = bot.documents("persisted_views")
    data = documents.load()
    store["persisted_views"].put_many(ROW)
    store["persisted_views"].delete("default")
    data["1"]["x"] = 1
    documents.save(data)
    bot.messages.set(2, "checkin", 5, 6)
    assert store["persisted_views"].get("default") is None
    assert store["persisted_views"].get("1") == {"event_mode": "doubleup", "x": 1}
    assert store["persisted_views"].get("2") == {"registration": [3, 4], "checkin": [5, 6]}


# ---- all documents as one dict


def test_what_is_saved_is_compared_with_what_was_loaded(shared: Home) -> None:
    """Two dicts of two callers: what the other one has changed, added or removed is kept; what was
    removed here is deleted; a dict of another origin deletes nothing."""
    store, documents = shared.store("other"), shared.bot().documents("persisted_views")
    documents.save({"1": {"a": 1}, "2": {"a": 1}, "3": {"a": 1}, "any text": {"n": None}})
    one, two = documents.load(), documents.load()
    assert isinstance(one, LoadedGuilds)
    assert one["any text"] == {"n": None}
    one["1"]["mine"] = 1
    del one["2"]
    two["1"]["theirs"] = 2
    two["4"] = {}
    two["3"]["a"] = 2
    documents.save(two)
    del one["3"]  # which the other one has changed: an update beats a removal
    documents.save(one)
    assert dict(documents.load()) == {
        "1": {"a": 1, "mine": 1, "theirs": 2},
        "3": {"a": 2},
        "4": {},
        "any text": {"n": None},
    }
    documents.save({"4": {"x": 1}})
    assert store["persisted_views"].count() == 4
    before = store["persisted_views"].read("1").version
    documents.save(documents.load())
    assert store["persisted_views"].read("1").version == before
    loaded = documents.load()
    loaded["1"]["bad"] = {1, 2}
    loaded["4"] = {"x": 2}
    with pytest.raises(DataError):
        documents.save(loaded)
    assert store["persisted_views"].get("4") == {"x": 1}


# ---- a registration of the bot's own


class Sheet:
    """A registration elsewhere, by tag."""

    def __init__(self, places: int, *, fails: int = 0) -> None:
        self.places, self.fails = places, fails
        self.rows: list[str] = []
        self.waiting: Callable[[], Any] = list
        self.seen: list[bool] = []

    def capacity(self, guild: Any) -> int:
        return self.places

    def registered(self, guild: Any) -> list[str]:
        return self.rows

    def teams(self, guild: Any) -> dict[str, int]:
        return {}

    def register(self, guild: Any, entry: WaitlistEntry) -> None:
        if len(self.rows) == self.places - self.fails:
            raise OSError("the sheet is away")
        self.seen.append(entry.discord_tag in tags(self.waiting()))
        self.rows.append(entry.discord_tag)


def waiting_room(home: Home, count: int = 3) -> Any:
    bot = home.bot()
    for number in range(count):
        bot.waitlist.add(1, member_id=number, discord_tag=f"t{number}", ign="x")
    return bot


def tags(entries: list[WaitlistEntry]) -> list[str]:
    return [entry.discord_tag for entry in entries]


def test_an_entry_leaves_only_after_it_was_registered(shared: Home) -> None:
    """B1: while `register` runs the entry is on the list; afterwards it is off; nobody else is."""
    bot = waiting_room(shared)
    sheet = Sheet(2)
    sheet.waiting = lambda: bot.waitlist.entries(1)
    assert tags(bot.waitlist.promote_into(1, sheet)) == ["t0", "t1"]
    assert sheet.rows == ["t0", "t1"]
    assert sheet.seen == [True, True]
    assert tags(bot.waitlist.list(1)) == ["t2"]
    assert bot.waitlist.promote_into(1, sheet) == []
    sheet.places = 0
    assert bot.waitlist.promote_into(1, sheet) == []


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_registration_that_fails_loses_nobody(shared: Home, fails: int) -> None:
    """Whoever it refuses keeps their place, and so do those behind them; the error is raised when
    nobody was registered, and everybody comes up when it works again."""
    bot = waiting_room(shared)
    sheet = Sheet(3, fails=fails)
    if fails == 3:
        with pytest.raises(OSError, match="away"):
            bot.waitlist.promote_into(1, sheet)
    else:
        assert tags(bot.waitlist.promote_into(1, sheet)) == sheet.rows
    assert tags(bot.waitlist.list(1)) == ["t0", "t1", "t2"][3 - fails :]
    sheet.fails = 0
    bot.waitlist.promote_into(1, sheet)
    assert sheet.rows == ["t0", "t1", "t2"]
    assert bot.waitlist.list(1) == []


def test_several_who_promote_at_once_register_each_once(shared: Home) -> None:
    """Tasks of two processes: each entry is registered by one of them, within the capacity."""
    bot = waiting_room(shared, 6)
    others = shared.store("second")

    class Slow(Sheet):
        async def register(self, guild: Any, entry: WaitlistEntry) -> None:
            await asyncio.sleep(0)
            self.rows.append(entry.discord_tag)

    sheet = Slow(4)

    async def both() -> None:
        one = bot.as_async()
        two = BotStore(others, environment=Environment(), clock=shared.clock).as_async()
        await asyncio.gather(*(which.waitlist.promote_into(1, sheet) for which in (one, two) * 3))

    asyncio.run(both())
    assert sorted(sheet.rows) == ["t0", "t1", "t2", "t3"]
    assert tags(bot.waitlist.list(1)) == ["t4", "t5"]


def test_who_was_registered_before_a_crash_leaves_the_list(shared: Home) -> None:
    """Registered, but killed before the entry could leave: it leaves at the next promotion, and is
    not registered again."""
    bot = waiting_room(shared)
    sheet = Sheet(1)
    (claim,) = bot.waitlist.promote(1, capacity=1, registered={})
    sheet.rows.append(claim.entry.discord_tag)  # and nothing else happened
    assert bot.waitlist.promote_into(1, sheet) == []
    shared.clock.advance(120)
    assert bot.waitlist.promote_into(1, sheet) == []
    assert tags(bot.waitlist.entries(1)) == ["t1", "t2"]
    assert sheet.rows == ["t0"]


def test_a_coroutine_function_needs_a_store_that_is_awaited(embedded: Home) -> None:
    """The synchronous store says so, and nobody is registered."""
    bot = waiting_room(embedded)

    class Awaited(Sheet):
        async def capacity(self, guild: Any) -> int:
            return 1

    with pytest.raises(ConfigError):
        bot.waitlist.promote_into(1, Awaited(1))
    assert bot.waitlist.length(1) == 3


@pytest.mark.parametrize("answer", [-1, True, 1.5, "three", [True]])
def test_a_registration_that_says_nonsense_is_refused(embedded: Home, answer: Any) -> None:
    """DataError("bad_registered") or ("bad_id"), before anybody is claimed."""
    bot, sheet = waiting_room(embedded), Sheet(2)
    sheet.rows = answer
    assert code(lambda: bot.waitlist.promote_into(1, sheet)) in ("bad_registered", "bad_id")
    assert bot.waitlist.claimed(1) == []


def test_a_registration_that_returns_false_loses_nobody(shared: Home) -> None:
    """B1: what older code means by False; nobody leaves the list, and the error says it."""
    bot, sheet = waiting_room(shared), Sheet(2)
    sheet.register = lambda guild, entry: False  # type: ignore[method-assign,return-value]
    assert code(lambda: bot.waitlist.promote_into(1, sheet)) == "not_registered"
    assert tags(bot.waitlist.list(1)) == ["t0", "t1", "t2"]


# ---- messages are known by name


def test_messages_are_known_by_name_not_by_look(home: Home) -> None:
    """F7: two large numbers are a message only if `set` has written them, or by a given name."""
    snowflake = 10**18
    store = home.store("other")
    store["persisted_views"].put(
        "1", {"allowed_roles": [snowflake, snowflake + 1], "panel": snowflake, "count": 3}
    )
    home.bot().messages.set(1, "registration", 5, 6)
    bot = home.bot("another")
    assert [one.name for one in bot.messages.known()] == ["registration"]
    assert [one.name for one in bot.messages.known(["panel", "absent"])] == [
        *("panel", "registration")
    ]
    bot.messages.remove(1, "registration")
    assert bot.messages.known() == []
    assert store["persisted_views"].get("1")["allowed_roles"] == [snowflake, snowflake + 1]


def test_what_took_the_place_of_a_message_is_no_message(shared: Home) -> None:
    """F7: the name was a message once; what stands there now `set` has not written."""
    bot, documents = shared.bot(), shared.bot("another").documents("persisted_views")
    bot.messages.set(1, "panel", 5, 6)
    documents.put("1", {"panel": [7, 8]})
    assert bot.messages.known() == []
    bot.messages.set(1, "panel", 5, 6)
    bot.messages.remove(1, "panel")
    documents.put("1", {"panel": [7, 8], "more": 1})
    assert bot.messages.known() == []
    bot.messages.set(1, "panel", 5, 9)
    assert [one.message_id for one in bot.messages.known()] == [9]


def test_an_older_form_is_kept_for_an_older_bot(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """B3: alternative names as one text, entries without an id, and what nobody understands."""
    store = home.store("other")
    older = {
        "discord_tag": "no.id",
        "ign": "A",
        "alt_igns": "x,y",
        "added_at": "2026-01-02T03:04:05",
    }
    store["waitlist_data"].put("1", {"waitlist": [older, 7, {"ign": "nobody"}]})
    bot = home.bot(older_entries=True)
    with caplog.at_level(logging.WARNING, "standfast"):
        assert tags(bot.waitlist.entries(1)) == ["no.id"]
        bot.waitlist.list(1)
    assert len([one for one in caplog.records if "$.waitlist[" in one.getMessage()]) == 2
    bot.waitlist.add(1, member_id=5, discord_tag="new", ign="B", alt_igns=" p, q ")
    first, *_, last = store["waitlist_data"].get("1")["waitlist"]
    assert {name: first[name] for name in older} == older
    assert "member_id" not in first
    assert last["alt_igns"] == "p, q"
    assert "+" not in last["added_at"]
    entry = bot.waitlist.find(1, "no.id")
    assert bot.waitlist.remove(1, entry) is not None
    left = store["waitlist_data"].get("1")["waitlist"]
    assert len(left) == 3
    assert 7 in left
    assert {"ign": "nobody"} in left
