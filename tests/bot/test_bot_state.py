"""A bot's state: messages, modes, settings and guilds, on both databases through both faces."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import standfast
from standfast import ConfigError, ConflictError, CorruptData, DataError, DeadlineExceeded
from standfast.api.drive import drive
from standfast.api.sync import Store
from standfast.bot import Environment, Message, Statistics
from standfast.bot.environment_check import Guard
from standfast.bot.fields import utc_now
from standfast.bot.guilds import Guilds
from standfast.limits import MAX_UPDATE_ATTEMPTS
from support.bots import Home
from support.faulty import Link, Open, Server, cut_off, wait_direct

SNOWFLAKE = 10**17


def code(error: type[standfast.StandfastError], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.hint
    return caught.value.code


# ---- messages


def test_messages_are_kept_by_guild_and_name(home: Home) -> None:
    """What was set is there, in the layout of the field; ids are ints or decimal strings."""
    bot = home.bot()
    assert bot.messages.get(1, "registration") is None
    receipt = bot.messages.set(1, "registration", "20", str(SNOWFLAKE))
    assert receipt.durable_on == "primary"
    bot.messages.set("1", "checkin", 20, 31)
    bot.messages.set(1, "checkin", 20, 32)
    assert bot.messages.get("1", "registration") == Message("1", "registration", 20, SNOWFLAKE)
    assert home.store()["persisted_views"].get("1") == {
        "registration": [20, SNOWFLAKE],
        "checkin": [20, 32],
    }
    assert bot.messages.remove(1, "checkin") is True
    assert bot.messages.remove(1, "checkin") is False
    assert bot.messages.remove(2, "checkin") is False
    assert home.store()["persisted_views"].get("2") is None
    assert bot.messages.get(1, "checkin") is None


def test_a_message_is_forgotten_only_if_it_is_the_one_meant(home: Home) -> None:
    """Who found one message gone does not forget another that has taken its name since."""
    bot = home.bot()
    bot.messages.set(1, "registration", 20, 30)
    home.store()["persisted_views"].patch("1", {"checkin": SNOWFLAKE})
    assert bot.messages.remove(1, "registration", message_id=31) is False
    assert bot.messages.remove(1, "checkin", message_id=31) is False
    assert bot.messages.remove(1, "absent", message_id=31) is False
    assert [message.name for message in bot.messages.list(1)] == ["checkin", "registration"]
    assert bot.messages.remove(1, "registration", message_id="30") is True
    assert bot.messages.remove(1, "checkin", message_id=SNOWFLAKE) is True
    assert bot.messages.list(1) == []


def test_the_older_form_of_a_message_is_read(home: Home) -> None:
    """A bare message id is a message without a channel; what else is there is none, and stays."""
    document = {
        "registration": SNOWFLAKE,
        "checkin": [20, SNOWFLAKE + 1],
        "event_mode": "doubleup",
        "registration_schedule": "2030-01-01T00:00:00+00:00",
        "claims": {"registration": {"id": "x", "until": "2030-01-01T00:00:00+00:00"}},
        "colour": 16711680,
        "flag": True,
        "roles": [1, 2, 3],
        "pair": [True, 5],
        "names": ["1", "2"],
        "text": "x",
        "nothing": None,
        "broken": [-1, 5],
    }
    home.store()["persisted_views"].put("1", document)
    home.store()["persisted_views"].put("2", ["not", "an", "object"])
    home.store()["persisted_views"].put("global", {"registration": [1, SNOWFLAKE]})
    bot = home.bot()
    expected = [
        Message("1", "checkin", 20, SNOWFLAKE + 1),
        Message("1", "registration", None, SNOWFLAKE),
    ]
    assert bot.messages.list() == bot.messages.list(1) == expected
    assert bot.messages.get(1, "registration") == expected[1]
    # By its name even a small number is one: a bot that asks for it knows what it has stored.
    assert bot.messages.get(1, "colour") == Message("1", "colour", None, 16711680)
    for name in ("flag", "roles", "pair", "text", "nothing", "broken", "absent"):
        assert bot.messages.get(1, name) is None
    bot.messages.set(1, "registration", 20, 7)
    assert home.store()["persisted_views"].get("1") == document | {"registration": [20, 7]}
    assert code(CorruptData, lambda: bot.messages.list(2)) == "not_an_object"
    assert code(CorruptData, lambda: bot.modes.get(2)) == "not_an_object"


def test_all_messages_of_all_guilds_are_listed(home: Home) -> None:
    """A listing goes through every page of the collection."""
    store = home.store()
    store["persisted_views"].put_many({guild: {"a": [guild, guild]} for guild in range(1, 1206)})
    listed = home.bot().messages.list()
    assert sorted(int(message.guild_id) for message in listed) == list(range(1, 1206))
    assert all(message.channel_id == int(message.guild_id) for message in listed)


@pytest.mark.parametrize(
    "name", ["event_mode", "claims", "open_schedule", "_schedule", "", "a\nb", "x" * 101, None, 3]
)
def test_names_that_mean_something_else_are_refused(embedded: Home, name: Any) -> None:
    """A message cannot take the place of the mode, of claims or of a schedule."""
    bot = embedded.bot()
    for call in (
        lambda: bot.messages.set(1, name, 2, 3),
        lambda: bot.messages.get(1, name),
        lambda: bot.messages.remove(1, name),
    ):
        assert code(DataError, call) == "bad_name"
    assert embedded.store()["persisted_views"].count() == 0


@pytest.mark.parametrize(
    "guild", [-1, True, None, 1.0, "", "01", "-1", "1 ", "one", "\u0661", b"1", "1" * 1025]
)
def test_what_is_no_guild_is_refused(embedded: Home, guild: Any) -> None:
    """A guild is a non-negative int or its decimal string, in every part."""
    bot = embedded.bot()
    for call in (
        lambda: bot.allows(guild),
        lambda: bot.messages.set(guild, "a", 1, 2),
        lambda: bot.messages.list(guild) if guild is not None else bot.messages.get(guild, "a"),
        lambda: bot.modes.get(guild),
        lambda: bot.schedules.list(guild),
        lambda: bot.settings.get(guild),
        lambda: bot.guilds.forget(guild),
        lambda: bot.guilds.cleanup([1, guild]),
    ):
        assert code(DataError, call) == ("bad_key" if guild == "1" * 1025 else "bad_guild")


@pytest.mark.parametrize("number", [-1, True, None, 1.5, "", "x", "1" * 21])
def test_what_is_no_id_is_refused(embedded: Home, number: Any) -> None:
    """Channels and messages are ints or decimal strings."""
    bot = embedded.bot()
    assert code(DataError, lambda: bot.messages.set(1, "a", number, 2)) == "bad_id"
    assert code(DataError, lambda: bot.messages.set(1, "a", 2, number)) == "bad_id"


# ---- modes


def test_a_guild_is_in_the_first_mode_until_one_is_set(home: Home) -> None:
    """The modes are those of the bot; an unknown one is refused, and the known ones are named."""
    bot = home.bot()
    assert bot.modes.names == ("normal", "doubleup")
    assert bot.modes.get(1) == "normal"
    bot.modes.set(1, "doubleup")
    bot.messages.set(1, "registration", 2, 3)
    assert bot.modes.get(1) == "doubleup"
    assert bot.modes.get(2) == "normal"
    for mode in ("solo", "", None, ["normal"]):
        with pytest.raises(DataError) as caught:
            bot.modes.set(1, mode)
        assert caught.value.code == "unknown_mode"
        assert "normal, doubleup" in caught.value.hint
    assert bot.modes.get(1) == "doubleup"
    other = home.bot(modes=["trios", "normal"], team_modes=["trios"])
    assert other.modes.get(2) == "trios"
    assert code(CorruptData, lambda: other.modes.get(1)) == "unknown_mode"
    other.modes.set(1, "trios")
    assert code(CorruptData, lambda: bot.modes.get(1)) == "unknown_mode"


@pytest.mark.parametrize(
    "options",
    [
        {"modes": []},
        {"modes": ["a", "a"]},
        {"modes": ["a", ""]},
        {"modes": [1]},
        {"modes": ["a"], "team_modes": ["b"]},
        {"modes": ["a"]},
    ],
)
def test_modes_that_make_no_sense_are_refused(embedded: Home, options: dict[str, Any]) -> None:
    """Wrong modes are a ConfigError at once, not at the first command."""
    assert code(ConfigError, lambda: embedded.bot(**options)) == "bad_modes"


# ---- settings

DEFAULTS: dict[str, Any] = {"prefix": "!", "roles": {"admin": 1, "player": 2}, "log": None}


def test_settings_are_laid_over_the_defaults(home: Home) -> None:
    """Stored is what differs; None and the default's own value put a setting back."""
    bot = home.bot(settings=DEFAULTS)
    raw = home.store()["guild_settings"]
    assert bot.settings.get(1) == DEFAULTS
    bot.settings.get(1)["roles"]["admin"] = "spoiled"
    assert bot.settings.get(1, "roles") == {"admin": 1, "player": 2}
    bot.settings.patch(1, {"prefix": "?", "roles": {"admin": 9}})
    assert raw.get("1") == bot.settings.overrides(1) == {"prefix": "?", "roles": {"admin": 9}}
    expected = {"prefix": "?", "roles": {"admin": 9, "player": 2}, "log": None}
    assert bot.settings.get("1") == expected
    bot.settings.patch(1, {"prefix": "!", "log": 5})
    assert raw.get("1") == {"roles": {"admin": 9}, "log": 5}
    bot.settings.patch(1, {"log": None})
    bot.settings.patch(1, {"roles": {"admin": None, "player": 3}})
    assert raw.get("1") == {"roles": {"player": 3}}
    bot.settings.patch(1, {"prefix": "x"})
    bot.settings.reset(1, "roles")
    assert bot.settings.get(1) == DEFAULTS | {"prefix": "x"}
    bot.settings.reset(1)
    assert raw.get("1") is None
    assert bot.settings.overrides(1) == {}
    bot.settings.reset(1)


def test_settings_that_are_not_registered_are_refused(home: Home) -> None:
    """With defaults, a typing error is told; what an older version has stored stays readable."""
    bot = home.bot(settings=DEFAULTS)
    home.store()["guild_settings"].put("1", {"former": 1, "prefix": None})
    for call in (
        lambda: bot.settings.get(1, "prefx"),
        lambda: bot.settings.patch(1, {"prefix": "?", "prefx": "?"}),
        lambda: bot.settings.reset(1, "prefx"),
    ):
        assert code(DataError, call) == "unknown_setting"
    assert bot.settings.get(1) == DEFAULTS | {"former": 1, "prefix": None}
    free = home.bot()
    assert free.settings.get(1, "anything") is None
    free.settings.patch(1, {"anything": [1]})
    assert free.settings.get(1, "anything") == [1]
    with pytest.raises(DataError):
        home.bot(settings={"when": datetime.now(UTC)})


# ---- guilds


def test_the_document_of_a_guild_as_it_is(home: Home) -> None:
    """`guilds` reads and patches the whole document; members that are not known here are kept."""
    bot = home.bot()
    assert bot.guilds.get(1) == {}
    bot.guilds.patch(1, {"custom": {"a": 1}, "event_mode": "doubleup"})
    bot.guilds.patch(1, {"custom": {"b": 2}})
    bot.messages.set(10, "registration", 1, 2)
    assert bot.guilds.get("1") == {"custom": {"a": 1, "b": 2}, "event_mode": "doubleup"}
    assert bot.modes.get(1) == "doubleup"
    home.store()["persisted_views"].put("not a guild", {})
    assert sorted(bot.guilds.ids()) == ["1", "10"]


def test_statistics_count_guilds(home: Home) -> None:
    """Guilds with a registration, with a check-in and with schedules; null counts as none."""
    bot = home.bot()
    nobody = Statistics(guilds=0, with_registration=0, with_checkin=0, with_schedules=0)
    assert bot.statistics() == nobody
    bot.messages.set(1, "registration", 1, 2)
    bot.messages.set(1, "checkin", 1, 2)
    bot.messages.set(2, "registration", 1, 2)
    bot.schedules.set(3, "open", "2030-01-01T00:00:00Z")
    home.store()["persisted_views"].put("4", {"registration": None, "open_schedule": None})
    home.store()["persisted_views"].put("5", [])
    assert bot.statistics() == Statistics(
        guilds=5, with_registration=2, with_checkin=1, with_schedules=1
    )


def fill(bot: Any, *guilds: int) -> None:
    for guild in guilds:
        bot.modes.set(guild, "doubleup")
        bot.settings.patch(guild, {"prefix": "?"})
        bot.waitlist.add(guild, member_id=1, discord_tag="tag", ign="ign")


def test_a_guild_is_forgotten_as_a_whole(home: Home) -> None:
    """`forget` deletes everything of one guild, and nothing of another."""
    bot = home.bot()
    fill(bot, 1, 2)
    assert bot.guilds.forget(1) == 3
    assert bot.guilds.forget(1) == 0
    store = home.store()
    for collection in ("persisted_views", "guild_settings", "waitlist_data"):
        assert list(store[collection].keys()) == ["2"]
    bot.modes.set(3, "normal")
    assert bot.guilds.forget(3) == 1


def test_cleanup_deletes_what_is_gone_and_old(home: Home) -> None:
    """A guild goes when the bot has left it and nothing of it was changed for so long."""
    home.clock.now = utc_now()  # the database's own clock stamps the documents
    bot = home.bot()
    fill(bot, 1, 2, 30)
    home.store()["persisted_views"].put("global", {})
    assert bot.guilds.cleanup([1]) == []
    home.clock.advance(31 * 24 * 3600)
    assert bot.guilds.cleanup([1, "30"], dry_run=True) == ["2"]
    assert bot.guilds.ids() == ["1", "2", "30"]
    assert bot.guilds.cleanup([1], older_than_days=40) == []
    assert bot.guilds.cleanup(iter([1])) == ["2", "30"]
    assert bot.guilds.cleanup([1]) == []
    store = home.store()
    assert list(store["persisted_views"].keys()) == ["1", "global"]
    assert list(store["guild_settings"].keys()) == list(store["waitlist_data"].keys()) == ["1"]


def test_the_youngest_document_of_a_guild_decides(home: Home) -> None:
    """One change in any of its documents keeps all of a guild."""
    bot = home.bot()
    fill(bot, 2)
    store = home.store()
    views, waitlists = store["persisted_views"], store["waitlist_data"]
    old, young = views.read("2"), waitlists.read("2")
    assert old is not None
    assert young is not None
    assert old.updated_at < young.updated_at
    home.clock.now = old.updated_at + (young.updated_at - old.updated_at) / 2
    assert bot.guilds.cleanup([1], older_than_days=0) == []
    home.clock.now = young.updated_at + timedelta(microseconds=1)
    assert bot.guilds.cleanup([1], older_than_days=0) == ["2"]


def test_cleanup_refuses_what_would_delete_too_much(embedded: Home) -> None:
    """Without a live guild, or with an age that is none, nothing is deleted."""
    bot = embedded.bot()
    fill(bot, 1)
    assert code(DataError, lambda: bot.guilds.cleanup([])) == "no_live_guilds"
    assert code(DataError, lambda: bot.guilds.cleanup("8138")) == "no_live_guilds", "8, 1, 3 and 8"
    for days in (-1, float("nan"), float("inf"), True):
        call = lambda days=days: bot.guilds.cleanup([2], older_than_days=days)  # noqa: E731
        assert code(DataError, call) == "bad_age"
    assert bot.guilds.ids() == ["1"]


@pytest.mark.parametrize("collection", ["persisted_views", "guild_settings", "waitlist_data"])
def test_what_changes_during_a_cleanup_stays(
    shared: Home, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guild that came back meanwhile loses nothing: not what changed, and not what did not."""
    shared.clock.now = utc_now() + timedelta(days=31)
    bot = shared.bot()
    bot.modes.set(2, "doubleup")
    if collection != "waitlist_data":  # there, a document appears that was not there before
        bot.settings.patch(2, {"prefix": "?"})
    fill(bot, 3)
    other = shared.store("other")
    batch = Guilds.batch

    def meddle(guilds: Guilds) -> Any:
        other[collection].patch("2", {"back": True})
        return batch(guilds)

    monkeypatch.setattr(Guilds, "batch", meddle)
    assert bot.guilds.cleanup([1]) == ["3"]
    assert bot.guilds.get(2)["event_mode"] == "doubleup"
    assert other[collection].get("2")["back"] is True


def test_forget_sees_what_comes_in_between(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written meanwhile is deleted too, after it was seen; endless writers are told."""
    bot = shared.bot()
    fill(bot, 1)
    other = shared.store("other")
    batch, times = Guilds.batch, [2]

    def meddle(guilds: Guilds) -> Any:
        if times[0]:
            times[0] -= 1
            other["persisted_views"].patch("1", {"n": times[0]})
        return batch(guilds)

    monkeypatch.setattr(Guilds, "batch", meddle)
    assert bot.guilds.forget(1) == 3
    assert bot.guilds.ids() == []
    fill(bot, 1)
    times[0] = 10**6
    monkeypatch.setattr("standfast.api.drive._LONGEST_PAUSE_S", 0.0)
    assert code(ConflictError, lambda: bot.guilds.forget(1)) == "contended"


# ---- decisions on one document


class Decider:
    """`Guilds.change`, driven."""

    def __init__(self, store: Store) -> None:
        handle = store.calls.handle
        self._guilds = Guilds(handle, guard=Guard(handle, Environment()), clock=utc_now)
        self._store = store

    def change(self, *args: Any, **options: Any) -> dict[str, Any]:
        return drive(self._guilds.change(*args, **options), self._store.calls)


def test_a_decision_is_taken_anew_when_the_document_has_moved(shared: Home) -> None:
    """`change` sees what others wrote meanwhile, and keeps it; None changes nothing."""
    store, other = shared.store(), shared.store("other")
    decider = Decider(store)
    seen: list[Any] = []

    def decide(members: dict[str, Any]) -> dict[str, Any]:
        seen.append(dict(members))
        if len(seen) < 3:
            other["persisted_views"].patch("1", {"theirs": len(seen)})
        return members | {"mine": True}

    assert decider.change("persisted_views", 1, decide) == {"theirs": 2, "mine": True}
    assert seen == [{}, {"theirs": 1}, {"theirs": 2}]
    document = other["persisted_views"].read("1")
    assert document is not None
    assert document.value == {"theirs": 2, "mine": True}
    assert decider.change("persisted_views", 1, lambda _: None) == document.value
    assert decider.change("persisted_views", 2, lambda _: None) == {}
    assert list(other["persisted_views"].keys()) == ["1"]
    assert other["persisted_views"].read("1") == document


def test_a_decision_gives_up_after_a_bound(embedded: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who is always faster makes it a clear error, not an endless loop."""
    monkeypatch.setattr("standfast.api.drive._LONGEST_PAUSE_S", 0.0)
    store = embedded.store()
    times = [0]

    def decide(members: dict[str, Any]) -> dict[str, Any]:
        times[0] += 1
        store["persisted_views"].put("1", {"n": times[0]})
        return {"mine": True}

    call = lambda: Decider(store).change("persisted_views", 1, decide)  # noqa: E731
    assert code(ConflictError, call) == "contended"
    assert times == [MAX_UPDATE_ATTEMPTS]
    assert store["persisted_views"].get("1") == {"n": MAX_UPDATE_ATTEMPTS}


def test_what_goes_along_with_a_decision_stands_or_falls_with_it(shared: Home) -> None:
    """`also` is in the same batch; its own condition that does not hold is its caller's error."""
    store, other = shared.store(), shared.store("other")
    decider = Decider(store)
    moved: list[int] = []

    def decide(members: dict[str, Any]) -> dict[str, Any]:
        if not moved:
            moved.append(1)
            other["waitlist_data"].put("1", {"theirs": 1})
        return members | {"mine": True}

    decider.change("waitlist_data", 1, decide, also=lambda batch: batch.put("extra", "k", 1))
    assert other["waitlist_data"].get("1") == {"theirs": 1, "mine": True}
    assert other["extra"].get("k") == 1

    attempts: list[int] = []

    def also(batch: Any) -> None:
        attempts.append(1)
        batch.put("extra", "new", 1)
        batch.put("extra", "k", 2, if_absent=True)

    call = lambda: decider.change("waitlist_data", 1, lambda _: {"lost": 1}, also=also)  # noqa: E731
    assert code(ConflictError, call) == "conflict"
    assert len(attempts) == 1
    assert other["waitlist_data"].get("1") == {"theirs": 1, "mine": True}
    assert list(other["extra"].keys()) == ["k"]


def test_a_decision_whose_reply_is_lost_is_told_as_unknown(memory: Server, open_it: Open) -> None:
    """It is not repeated by itself, since it may have been taken."""
    link = Link(memory)
    store, engine = open_it(link)
    wait_direct(engine)
    store["persisted_views"].put("1", {})
    link.script += [cut_off(link, "after")]
    with pytest.raises(DeadlineExceeded):
        Decider(store).change("persisted_views", 1, lambda members: members | {"mine": True})
    wait_direct(engine)
    assert store["persisted_views"].get("1") == {"mine": True}


# ---- the whole


@pytest.mark.process
def test_importing_it_loads_no_discord_library() -> None:
    """`standfast.bot` needs no discord.py and no rapidfuzz, `standfast` no `standfast.bot`."""
    script = (
        "import sys, standfast; print('standfast.bot' in sys.modules);"
        "import standfast.bot; print({'discord', 'rapidfuzz'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["False", "set()"]


def test_the_examples_of_the_reference_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/bot.md shows runs as it stands there, one block after the other."""
    text = (Path(__file__).parents[2] / "docs" / "bot.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text.split("## discord.py")[0], re.DOTALL)
    assert len(blocks) == 6
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    names: dict[str, Any] = {"guild_id": 1, "channel_id": 2, "message_id": 3}
    names["open_registration"] = opened.append
    for block in blocks:
        exec(block, names)
    with names["store"] as store:
        assert opened == ["1"]
        assert store["persisted_views"].get("1") == {"event_mode": "doubleup", "colour": 5763719}
        assert store["guild_settings"].get("1") == {}
        assert names["bot"].settings.get(1) == {"prefix": "!", "capacity": 16}


def test_no_content_is_shown(embedded: Home) -> None:
    """A repr names guild and name, and none of what is stored."""
    bot = embedded.bot(settings={"prefix": "secret-prefix"})
    bot.messages.set(1, "registration", 1234567, 7654321)
    bot.schedules.set(1, "open", "2029-01-01T00:00:00Z")
    claims = bot.schedules.claim_due()
    shown = repr([bot, bot.messages.list(), bot.schedules.due(), claims, bot.settings])
    assert "registration" in shown
    for content in ("1234567", "7654321", "2029", "secret"):
        assert content not in shown


def test_a_clock_without_a_timezone_is_refused(embedded: Home) -> None:
    """Claims and schedules are judged by an aware clock only."""
    bot = embedded.bot(clock=lambda: datetime(2030, 1, 1))  # noqa: DTZ001
    assert code(ConfigError, bot.schedules.due) == "usage"
