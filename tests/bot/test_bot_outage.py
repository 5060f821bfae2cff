"""A bot's state while PostgreSQL is away: it goes on, and all of it arrives, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from standfast import StandfastError, Unavailable
from standfast.bot import BotStore, Environment, Message, Statistics
from support.bots import Home
from support.cluster import Cluster
from support.faulty import Link, Open, Server, eventually, wait_direct
from support.outage import Outage

NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALONE = {"sole_writer": True}


@pytest.fixture(params=["blocking", "awaited"])
def home(request: pytest.FixtureRequest, pg_prepared: str, tmp_path: Path) -> Iterator[Home]:
    """PostgreSQL through both APIs."""
    found = Home(pg_prepared, tmp_path, face=request.param)
    yield found
    found.close()


@pytest.fixture
def outage(home: Home) -> Outage:
    return Outage(home.url, home.root)


def code(error: type[StandfastError], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


def back(bot: Any) -> None:
    """Everything is on PostgreSQL, which decides again."""
    bot.store.flush(timeout_s=20.0)
    eventually(lambda: bot.store.health().healthy)


# ---- what goes on


def test_plain_writes_go_on_and_arrive_once(home: Home, outage: Outage) -> None:
    """Sets, removals and patches are acknowledged by the journal, read back, and arrive once."""
    bot = home.bot(settings={"prefix": "!", "log": 0})
    bot.messages.set(1, "registration", 2, 3)
    bot.messages.set(1, "checkin", 2, 4)
    bot.schedules.set(1, "close", NOON)
    bot.settings.patch(1, {"log": 5})
    version = home.store("look")["persisted_views"].read("1").version
    with outage.away():
        receipt = bot.messages.set(1, "registration", 20, 30)
        assert (receipt.durable_on, receipt.version) == ("journal", None)
        assert bot.messages.set(7, "registration", 21, 31).durable_on == "journal"
        assert bot.modes.set(1, "doubleup").durable_on == "journal"
        assert bot.schedules.set(1, "open", NOON + MINUTE).durable_on == "journal"
        assert bot.settings.patch(1, {"prefix": "?"}).durable_on == "journal"
        assert bot.settings.reset(1, "log").durable_on == "journal"
        assert bot.guilds.patch(1, {"custom": [1]}).durable_on == "journal"
        assert bot.messages.remove(1, "checkin") is True
        assert bot.messages.remove(1, "checkin") is False
        assert bot.schedules.clear(1, "close") is True
        assert bot.messages.get(1, "registration") == Message("1", "registration", 20, 30)
        assert bot.messages.list(1) == [Message("1", "registration", 20, 30)]
        assert bot.modes.get(1) == "doubleup"
        assert bot.schedules.list(1) == {"open": NOON + MINUTE}
        assert bot.settings.get(1) == {"prefix": "?", "log": 0}
    back(bot)
    store = home.store("look")
    document = store["persisted_views"].read("1")
    assert document.value == {
        "registration": [20, 30],
        "event_mode": "doubleup",
        "open_schedule": (NOON + MINUTE).isoformat(),
        "custom": [1],
    }
    assert document.version == version + 6  # each write once
    assert store["persisted_views"].get("7") == {"registration": [21, 31]}
    assert store["persisted_views"].read("7").version == 1
    assert store["guild_settings"].get("1") == {"prefix": "?"}


def test_what_others_did_meanwhile_is_kept(home: Home, outage: Outage) -> None:
    """Members that another process has set stay: a set changes one member and no other."""
    bot, other = home.bot(), home.bot("other")
    bot.messages.set(1, "registration", 2, 3)
    other.messages.list(1)
    with outage.away():
        bot.messages.set(1, "registration", 20, 30)
        bot.schedules.set(1, "open", NOON)
        other.messages.set(1, "checkin", 2, 4)
        other.modes.set(1, "doubleup")
        other.schedules.set(1, "close", NOON)
    back(bot)
    back(other)
    assert other.guilds.get(1) == {
        "registration": [20, 30],
        "checkin": [2, 4],
        "event_mode": "doubleup",
        "open_schedule": NOON.isoformat(),
        "close_schedule": NOON.isoformat(),
    }
    assert rejected(home) == 0


def rejected(home: Home) -> int:
    """How many writes could not be applied when they arrived."""
    conflicts = home.store("look").health().conflicts
    assert conflicts is not None
    return conflicts.get("open", 0)


def test_a_server_that_is_killed_and_a_bot_that_starts_without_it(tmp_path: Path) -> None:
    """A bot that is started during the outage re-registers what it knew, and writes on."""
    with Cluster() as cluster:
        home = Home(cluster.url(), tmp_path)
        bot = home.bot()
        for guild in (1, 2):
            bot.messages.set(guild, "registration", guild, guild)
        bot.schedules.set(2, "open", NOON)
        bot.messages.list()  # from here on the mirror has it whole
        cluster.kill()
        bot.messages.set(3, "registration", 3, 3)
        home.close()

        home = Home(cluster.url(), tmp_path)
        bot = home.bot()
        expected = [Message(str(guild), "registration", guild, guild) for guild in (1, 2, 3)]
        assert bot.messages.list() == expected
        assert [due.guild_id for due in bot.schedules.due(NOON)] == ["2"]
        assert bot.guilds.ids() == ["1", "2", "3"]
        assert bot.statistics() == Statistics(
            guilds=3, with_registration=3, with_checkin=0, with_schedules=1
        )
        bot.messages.remove(1, "registration")
        assert code(Unavailable, lambda: bot.schedules.claim_due(NOON)) == "needs_primary"
        cluster.start()
        back(bot)
        store = home.store("look")
        assert dict(store["persisted_views"].items()) == {
            "1": {},
            "2": {"registration": [2, 2], "open_schedule": NOON.isoformat()},
            "3": {"registration": [3, 3]},
        }
        (claim,) = bot.schedules.claim_due(NOON)
        assert bot.schedules.done(claim)
        home.close()


# ---- what has to be decided


def test_claims_wait_for_the_primary(home: Home, outage: Outage) -> None:
    """Whatever one process must decide is refused meanwhile, and nothing of it is journaled."""
    bot = home.bot()
    bot.schedules.set(1, "open", NOON)
    bot.schedules.set(1, "close", NOON)
    bot.guilds.cleanup([5], dry_run=True)  # reads all of it whole
    claim = bot.schedules.claim(bot.schedules.due()[0])
    with outage.away():
        bot.modes.set(5, "normal")
        (due,) = bot.schedules.due()
        for call in (
            lambda: bot.schedules.claim(due),
            bot.schedules.claim_due,
            lambda: bot.schedules.done(claim),
            lambda: bot.schedules.release(claim),
            lambda: bot.guilds.cleanup([5], older_than_days=0),
            lambda: bot.guilds.forget(1),
        ):
            assert code(Unavailable, call) == "needs_primary"
        assert bot.store.health().lag_ops == 1
    back(bot)
    assert bot.schedules.done(claim) is True
    (claim,) = bot.schedules.claim_due()
    assert claim.due == due
    assert bot.schedules.done(claim) is True


def test_a_sole_writer_claims_in_an_outage(home: Home, outage: Outage) -> None:
    """The one bot of a data directory carries out what is due, once, and PostgreSQL agrees."""
    bot = home.bot(store_options=ALONE)
    for guild in (1, 2, 3):
        bot.schedules.set(guild, "open", NOON - guild * MINUTE)
    bot.schedules.set(1, "close", NOON)
    bot.messages.list()  # from here on the mirror has it whole
    with outage.away():
        bot.schedules.set(4, "open", NOON)  # a guild that PostgreSQL has never heard of
        claims = bot.schedules.claim_due()
        expected = [("3", "open"), ("2", "open"), ("1", "open"), ("1", "close"), ("4", "open")]
        assert [(claim.guild_id, claim.due.name) for claim in claims] == expected
        assert bot.schedules.claim_due() == []
        assert bot.schedules.done(claims[0]) is True
        assert bot.schedules.done(claims[2]) is True
        assert bot.schedules.release(claims[1]) is True
        assert bot.schedules.done(claims[4]) is True
        assert [due.guild_id for due in bot.schedules.due()] == ["2"]
    back(bot)
    store = home.store("look")
    views = store["persisted_views"]
    assert views.get("3") == views.get("4") == {}
    assert views.get("2") == {"open_schedule": (NOON - 2 * MINUTE).isoformat()}
    assert views.get("1").keys() == {"close_schedule", "claims"}
    assert rejected(home) == 0
    assert bot.schedules.done(claims[3]) is True
    assert views.get("1") == {}


def test_a_sole_writer_forgets_a_guild_in_an_outage(home: Home, outage: Outage) -> None:
    """`forget` and `cleanup` are judged by what is known here."""
    bot = home.bot(store_options=ALONE)
    for guild in (1, 2, 3):
        bot.modes.set(guild, "doubleup")
        bot.settings.patch(guild, {"prefix": "?"})
        bot.waitlist.add(guild, member_id=1, discord_tag="tag", ign="ign")
    look = home.bot("storage", store_options=ALONE)
    look.guilds.cleanup([1], older_than_days=0, dry_run=True)  # reads all of it whole
    home.clock.now = datetime.now(UTC) + timedelta(days=31)
    with outage.away():
        bot.modes.get(1)
        assert bot.guilds.forget(2) == 3
        assert bot.guilds.forget(2) == 0
        assert bot.guilds.cleanup([1]) == ["3"]
        assert bot.guilds.ids() == ["1"]
    back(bot)
    store = home.store("look")
    for collection in ("persisted_views", "guild_settings", "waitlist_data"):
        assert list(store[collection].keys()) == ["1"]


# ---- what is not known


def test_what_is_not_known_is_told_and_not_missing(memory: Server, open_it: Open) -> None:
    """I4: a guild that the mirror does not hold is Unavailable; it can be written all the same."""
    link = Link(memory, down=True)
    store, engine = open_it(link)
    bot = BotStore(store, environment=Environment())
    for call in (
        lambda: bot.messages.get(1, "registration"),
        bot.messages.list,
        lambda: bot.modes.get(1),
        lambda: bot.schedules.list(1),
        bot.schedules.due,
        lambda: bot.settings.get(1),
        bot.guilds.ids,
        bot.statistics,
    ):
        assert code(Unavailable, call) == "not_mirrored"
    bot.modes.set(1, "doubleup")
    assert bot.messages.remove(1, "registration", message_id=2) is False
    assert bot.messages.remove(1, "registration") is True  # as far as anybody can tell
    assert bot.schedules.clear(1, "open") is True
    link.down = False
    wait_direct(engine)
    assert store["persisted_views"].get("1") == {"event_mode": "doubleup"}


def test_reading_only_is_told(memory: Server, open_it: Open) -> None:
    """A store that was opened to fail closed refuses removals, too, and swallows nothing."""
    link = Link(memory)
    store, engine = open_it(link, fallback="off")
    wait_direct(engine)
    bot = BotStore(store, environment=Environment())
    bot.messages.set(1, "registration", 2, 3)
    link.down = True
    for call in (
        lambda: bot.messages.remove(1, "registration"),
        lambda: bot.schedules.clear(1, "open"),
        lambda: bot.modes.set(1, "normal"),
    ):
        assert code(Unavailable, call) != "not_mirrored"
    link.down = False
    wait_direct(engine)
    assert bot.messages.get(1, "registration") is not None


@pytest.mark.parametrize("single_row", [False, True], ids=["rows", "one-row"])
def test_documents_are_saved_and_arrive_once(
    pg_database: str, tmp_path: Path, single_row: bool
) -> None:
    """A dict that was loaded before is changed and saved while PostgreSQL is away, in either
    layout; promotion into a registration of the bot's own is refused until PostgreSQL is back."""
    home = Home(pg_database, tmp_path)
    look, bot = home.store("look"), home.bot()
    guilds = {"1": {"a": 1}, "2": {"a": 1}}
    look["persisted_views"].put_many({"default": guilds} if single_row else guilds)
    bot.waitlist.add(1, member_id=5, discord_tag="t", ign="x")
    documents = bot.documents("persisted_views")
    data = documents.load()
    with Outage(home.url, home.root).away():
        data["1"]["mine"] = 1
        data["3"] = {"new": True}
        documents.save(data)
        assert documents.get("1") == {"a": 1, "mine": 1}
        assert code(Unavailable, lambda: bot.waitlist.promote_into(1, Registration()))
        assert bot.waitlist.length(1) == 1
    back(bot)
    assert dict(documents.load()) == {
        "1": {"a": 1, "mine": 1},
        "2": {"a": 1},
        "3": {"new": True},
    }
    assert bot.store.health().conflicts == {}
    assert len(bot.waitlist.promote_into(1, Registration())) == 1
    home.close()


class Registration:
    """A registration with one place, which nobody has."""

    def capacity(self, guild: Any) -> int:
        return 1

    def registered(self, guild: Any) -> int:
        return 0

    def teams(self, guild: Any) -> list[str]:
        return []

    def register(self, guild: Any, entry: Any) -> None:
        pass
