"""The environment guard: who may write to whose store, and who sees which guild."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from standfast import ConfigError, CorruptData, Unavailable
from standfast.api.sync import Store
from standfast.bot import BotStore, Environment
from standfast.engine.embedded import EmbeddedEngine
from support.bots import Home
from support.faulty import Link, Open, Server, before, wait_direct

PRODUCTION = Environment("production")
DEVELOPMENT = Environment("development")
LIMITED = Environment("development", "7")


def bot_on(store: Store, environment: Environment) -> BotStore:
    return BotStore(store, environment=environment)


def refused(call: Callable[[], Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.code == "wrong_environment"
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("environment", [DEVELOPMENT, Environment()])
def test_the_first_named_process_stamps_the_store(home: Home, environment: Environment) -> None:
    """Others, with another name or none, are refused every write, and nothing is written."""
    home.bot(environment=PRODUCTION).messages.set(1, "registration", 2, 3)
    store = home.store()
    assert store["bot_environment"].get("default") == {"name": "production"}
    other = home.bot(environment=environment)
    for _ in range(2):
        error = refused(lambda: other.messages.set(1, "registration", 8, 9))
        assert "STANDFAST_ENVIRONMENT=production" in error.hint
    refused(lambda: other.modes.set(1, "doubleup"))
    refused(lambda: other.schedules.set(1, "open", home.clock()))
    refused(lambda: other.settings.reset(1))
    refused(lambda: other.guilds.patch(1, {"registration": None}))
    refused(lambda: other.guilds.forget(1))
    refused(lambda: other.guilds.cleanup([2], older_than_days=0))
    assert other.messages.get(1, "registration").message_id == 3
    assert store["persisted_views"].get("1") == {"registration": [2, 3]}
    home.bot(environment=PRODUCTION).modes.set(1, "doubleup")


def test_a_store_that_nobody_stamped_has_no_guard(home: Home) -> None:
    """Processes without a name write, and leave no stamp; the first one with a name does."""
    unnamed = home.bot()
    unnamed.modes.set(1, "doubleup")
    assert home.store()["bot_environment"].get("default") is None
    home.bot(environment=DEVELOPMENT).modes.set(1, "normal")
    refused(lambda: home.bot(environment=PRODUCTION).modes.set(1, "normal"))
    unnamed.modes.set(2, "normal")  # what it has read once, it keeps
    refused(lambda: home.bot().modes.set(2, "normal"))


def test_the_stamp_is_read_once(embedded: Home) -> None:
    """A write costs no read of the stamp but the first."""
    bot = embedded.bot(environment=PRODUCTION)
    bot.modes.set(1, "normal")
    embedded.store()["bot_environment"].put("default", {"name": "development"})
    bot.modes.set(1, "doubleup")
    assert bot.modes.get(1) == "doubleup"


@pytest.mark.parametrize("theirs", ["production", "development"])
def test_two_processes_that_stamp_at_once_agree(memory: Server, open_it: Open, theirs: str) -> None:
    """Who comes second finds the other's stamp, and is judged by it."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    other = Store(EmbeddedEngine(memory.database))
    link.script += [before(hook=lambda: other["bot_environment"].put("default", {"name": theirs}))]
    bot = bot_on(store, PRODUCTION)
    if theirs == "production":
        bot.modes.set(1, "doubleup")
    else:
        refused(lambda: bot.modes.set(1, "doubleup"))
        refused(lambda: bot.modes.set(1, "doubleup"))
    assert other["bot_environment"].get("default") == {"name": theirs}
    assert other["bot_environment"].read("default").version == 1


def test_a_name_written_by_hand_is_understood(embedded: Home) -> None:
    """`main` in the stamp is production; a stamp without a name is CorruptData, not ignored."""
    store = embedded.store()
    store["bot_environment"].put("default", {"name": "Main"})
    embedded.bot(environment=PRODUCTION).modes.set(1, "normal")
    for stamp in ({}, "production", {"name": 3}, {"name": ""}):
        store["bot_environment"].put("default", stamp)
        with pytest.raises(CorruptData) as caught:
            embedded.bot(environment=PRODUCTION).modes.set(1, "normal")
        assert caught.value.code == "bad_environment"


def test_a_process_with_a_dev_guild_sees_that_guild_alone(home: Home) -> None:
    """Listings are filtered, reads and writes of other guilds are refused, none is dropped."""
    production = home.bot(environment=PRODUCTION)
    due = home.clock.advance(-60)
    for guild in (6, 7, 8):
        production.messages.set(guild, "registration", 1, guild)
        production.schedules.set(guild, "open", due)
        production.settings.patch(guild, {"log": guild})
    home.clock.advance(60)
    bot = home.bot(environment=LIMITED)
    assert [bot.allows(guild) for guild in (6, 7, "7", 8)] == [False, True, True, False]
    assert [message.guild_id for message in bot.messages.list()] == ["7"]
    assert [due.guild_id for due in bot.schedules.due()] == ["7"]
    assert bot.guilds.ids() == ["7"]
    assert bot.statistics().guilds == 1
    for call in (
        lambda: bot.messages.get(8, "registration"),
        lambda: bot.messages.list(8),
        lambda: bot.messages.set(8, "registration", 1, 1),
        lambda: bot.messages.remove(8, "registration"),
        lambda: bot.modes.get(8),
        lambda: bot.modes.set(8, "normal"),
        lambda: bot.schedules.list(8),
        lambda: bot.schedules.clear(8, "open"),
        lambda: bot.schedules.claim(production.schedules.due()[2]),
        lambda: bot.settings.get(8),
        lambda: bot.settings.reset(8),
        lambda: bot.guilds.get(8),
        lambda: bot.guilds.patch(8, {}),
        lambda: bot.guilds.forget(8),
    ):
        refused(call)
    bot.messages.set(7, "checkin", 1, 1)  # in a store of production: its own guild it may
    bot.schedules.done(bot.schedules.claim_due()[0])
    assert bot.guilds.forget(7) == 2
    assert production.guilds.ids() == ["6", "8"]


def test_cleanup_does_not_reach_beyond_the_dev_guild(home: Home) -> None:
    """A process with a dev guild deletes nothing of other guilds, live or not."""
    production = home.bot(environment=PRODUCTION)
    for guild in (7, 8):
        production.modes.set(guild, "normal")
    bot = home.bot(environment=LIMITED)
    assert bot.guilds.cleanup([1], older_than_days=0, dry_run=True) == ["7"]
    assert bot.guilds.cleanup([1], older_than_days=0) == ["7"]
    assert production.guilds.ids() == ["8"]


# ---- in an outage


def test_an_unknown_stamp_in_an_outage(memory: Server, open_it: Open) -> None:
    """Production and processes without a name go on; others are told to try again."""
    link = Link(memory, down=True)
    store, engine = open_it(link)
    bot_on(store, PRODUCTION).modes.set(1, "doubleup")
    bot_on(store, Environment()).modes.set(2, "doubleup")
    bot_on(store, LIMITED).modes.set(7, "doubleup")
    development = bot_on(store, DEVELOPMENT)
    with pytest.raises(Unavailable) as caught:
        development.modes.set(3, "doubleup")
    assert caught.value.code == "environment_unknown"
    assert caught.value.retryable
    link.down = False
    wait_direct(engine)
    assert sorted(store["persisted_views"].keys()) == ["1", "2", "7"]
    development.modes.set(3, "doubleup")
    assert store["bot_environment"].get("default") == {"name": "development"}


def test_a_known_stamp_holds_in_an_outage(memory: Server, open_it: Open) -> None:
    """What the mirror knows of the stamp is judged as if the primary had told it."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    bot_on(store, DEVELOPMENT).modes.set(1, "normal")
    link.down = True
    bot_on(store, DEVELOPMENT).modes.set(1, "doubleup")
    refused(lambda: bot_on(store, PRODUCTION).modes.set(1, "normal"))
    refused(lambda: bot_on(store, Environment()).modes.set(1, "normal"))


def test_absence_in_an_outage_is_not_kept(memory: Server, open_it: Open) -> None:
    """A process without a name, started in an outage, asks for the stamp once it is over."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    assert store["bot_environment"].get("default") is None
    link.down = True
    unnamed = bot_on(store, Environment())
    unnamed.modes.set(1, "normal")
    link.down = False
    wait_direct(engine)
    bot_on(store, PRODUCTION).modes.set(1, "doubleup")
    refused(lambda: unnamed.modes.set(1, "normal"))
